//! What Git talks to: one remote of one repository.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use deptool_agent::{build::BUILD_ID, name::HostName, text::printable, wire::Hello};
use gix_protocol::handshake::Ref;

use crate::{
    cluster::{ClusterError, HostRemote, Settings, Target, Via},
    fetch,
    git::{AncestryError, ReadError, Repo, RevisionError},
    helper::{
        Backend, Options, PushBatch, Report, Want,
        list::{Offer, offers},
    },
    pack::{SelectError, WriteError},
    push,
    session::SessionError,
    tracking::{FactsError, HostFacts, HostLock, LockError, ProjectionError, Tracking, TrackingError},
    transport::{self, Connector, messages::Sink, ssh::SshTarget},
    url::SshHost,
};

/// One remote of one repository, and how its hosts are reached.
pub struct Remote {
    pub repo: Repo,
    pub settings: Settings,
    pub target: Target,
    pub connector: Arc<Connector>,
    /// For what is to be read on the terminal.
    pub sink: Sink,
    /// What was done, for the line below Git's table.
    pub summary: Option<Summary>,
    /// What was heard of hosts and could not be noted yet.
    pub postponed: Vec<(HostRemote, fetch::Answer)>,
}

/// What a push has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// `deployed to` or `removed from`.
    pub what: &'static str,
    pub hosts: Vec<HostName>,
    pub took: Duration,
}

/// Why a request of Git's can't be served.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Tracking(#[from] TrackingError),
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    #[error(transparent)]
    Facts(#[from] FactsError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Revision(#[from] RevisionError),
    #[error(transparent)]
    Ancestry(#[from] AncestryError),
    #[error(transparent)]
    Select(#[from] SelectError),
    #[error(transparent)]
    Pack(#[from] WriteError),
    #[error("'{host}'")]
    Session { host: HostName, source: SessionError },
    /// A sentence that says it all.
    #[error("{0}")]
    Text(String),
}

impl Remote {
    /// Show a line, or several.
    pub fn say(&self, text: &str) {
        let mut sink = self.sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A terminal that is gone is no reason to stop a deployment.
        let _ = writeln!(sink, "{}", text.trim_end());
        let _ = sink.flush();
    }

    pub fn tracking(&self) -> Tracking<'_> {
        Tracking::new(&self.repo)
    }

    /// The right to talk to `host` from this repository; whoever has to wait for it is told why.
    pub fn lock(&self, host: &HostRemote) -> Result<HostLock, LockError> {
        match HostLock::try_acquire(&self.repo, &host.tracking) {
            Err(held @ LockError::Held(_)) => {
                self.say(&format!("{}: waiting: {held}", host.host));
                HostLock::acquire(&self.repo, &host.tracking)
            }
            result => result,
        }
    }

    /// How the connector reaches `host`.
    pub fn place(&self, host: &HostRemote) -> Result<transport::Target, RemoteError> {
        match &host.via {
            Via::Local(path) => Ok(transport::Target::Local(path.clone())),
            Via::Ssh(address) => {
                let user = address.user.as_ref().map(|user| user.as_str().to_owned());
                let SshHost::Name(name) = &address.host else {
                    let text = format!("'{}': connect to IPv6 addresses by a name in ~/.ssh/config", host.host);
                    return Err(RemoteError::Text(text));
                };
                let name = name.clone();
                Ok(transport::Target::Ssh(SshTarget { user, host: name, port: address.port, name: host.host.clone() }))
            }
        }
    }

    /// Remember what `hello` told, and say what the operator should know of it.
    pub fn heed(&self, host: &HostRemote, hello: &Hello) -> Result<(), RemoteError> {
        if let Some(recovered) = &hello.recovered {
            self.say(&format!("{}: {}", host.host, printable(recovered.as_bytes())));
        }
        let known = HostFacts::load(&self.repo, &host.tracking);
        let instance = (!hello.instance.is_empty()).then(|| printable(hello.instance.as_bytes()));
        if let Some(before) = known.as_ref().and_then(|facts| facts.instance.as_ref())
            && instance.as_ref() != Some(before)
        {
            self.say(&format!("{}: the host was set up anew since we last talked to it", host.host));
        }
        let facts = HostFacts { host: host.host.clone(), instance, agent: Some(BUILD_ID.into()) };
        if known.as_ref() != Some(&facts) {
            facts.store(&self.repo, &host.tracking)?;
        }
        Ok(())
    }
}

impl Backend for Remote {
    type Error = RemoteError;

    fn offers(&mut self, _options: &Options) -> Result<Vec<Offer>, RemoteError> {
        Ok(offers(&self.tracking().knowledge(&self.target, &self.settings)?))
    }

    fn advertised(&mut self, options: &Options) -> Result<Vec<Ref>, RemoteError> {
        fetch::advertised(self, options)
    }

    fn push(&mut self, batch: &PushBatch, options: &Options, report: &mut Report) -> Result<(), RemoteError> {
        let began = Instant::now();
        let deployed = push::push(self, batch, options, report)?;
        if !deployed.is_empty() {
            let removes = batch.branches().any(|(command, _)| command.is_delete());
            let what = if removes { "removed from" } else { "deployed to" };
            self.summary = Some(Summary { what, hosts: deployed, took: began.elapsed() });
        }
        Ok(())
    }

    /// `advertised` has brought everything home already.
    fn fetch(&mut self, _wants: &[Want], _options: &Options) -> Result<(), RemoteError> {
        Ok(())
    }

    fn finish(&mut self, options: &Options) -> Result<(), RemoteError> {
        fetch::note_postponed(self)?;
        if let Some(Summary { what, hosts, took }) = self.summary.take().filter(|_| options.verbosity > 0) {
            let hosts = if hosts.len() == 1 { "1 host".into() } else { format!("{} hosts", hosts.len()) };
            self.say(&format!("{what} {hosts} in {:.2} s", took.as_secs_f64()));
        }
        Ok(())
    }
}
