//! Asking hosts what they run, and bringing it home.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read},
    time::{Duration, Instant},
};

use deptool_agent::{
    id::{BlobId, CommitId},
    name::ClusterName,
    text::printable,
    wire::{Deployed, Hello, Holder, Request, Response},
};
use gix::bstr::BString;
use gix_protocol::handshake::Ref;

use crate::{
    cluster::{HostRemote, Target},
    helper::Options,
    projection::{self, Found, HostObjects},
    remote::{Remote, RemoteError},
    render::ago,
    session::{Mailbox, Session, SessionError},
    tracking::{HostLock, Projection, Tracked},
    transport,
};

/// How long each other remote may take to look for a commit.
const PATIENCE: Duration = Duration::from_secs(10);
/// A host that sends less than so many bytes within this time is given up.
const SPAN: Duration = Duration::from_secs(60);
const SPAN_BYTES: usize = 4096;
/// As much as this may come in blobs too large for a pack, in bytes: beyond it only the disk's end would stop a host.
const LARGE: u64 = 32 << 30;

/// What a host runs, and what stands for it here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    pub deployed: Deployed,
    /// The commit itself, or a projection of it.
    pub local: CommitId,
}

/// What all hosts of the remote run, as refs for Git. All objects are here when this returns.
pub fn advertised(remote: &Remote, options: &Options) -> Result<(Vec<Ref>, Postponed), RemoteError> {
    let hosts = match &remote.target {
        Target::Host(host) => vec![host.clone()],
        Target::Group(_, hosts) => hosts.clone(),
        Target::All => remote.settings.known_hosts()?,
    };
    let is_group = !matches!(remote.target, Target::Host(_));
    // `git clone` aborts if the refs that it is about to make are there.
    let is_clone = remote.tracking().is_unused()?;
    let (mut refs, mut postponed) = (Vec::new(), Postponed::default());
    for host in hosts {
        let _lock = remote.lock(&host)?;
        let answer = ask(remote, &host, options.verbosity)?;
        let heard = answer.heard.clone();
        if is_clone {
            postponed.0.push((host.clone(), answer));
        } else {
            let before = remote.tracking().clusters(&host)?;
            settle(remote, &host, &answer)?;
            if options.verbosity > 0 {
                say_news(remote, &host, &before, heard.as_ref());
            }
        }
        let Some(heard) = heard else { continue };
        let (cluster, object) = (&heard.deployed.cluster, heard.local.0);
        if is_group {
            let name = BString::from(format!("refs/heads/{}/{cluster}", host.tracking));
            refs.push(Ref::Direct { full_ref_name: name, object });
        } else {
            let name = BString::from(format!("refs/heads/{cluster}"));
            let (full_ref_name, target) = ("HEAD".into(), name.clone());
            refs.push(Ref::Symbolic { full_ref_name, target, tag: None, object });
            refs.push(Ref::Direct { full_ref_name: name, object });
        }
    }
    Ok((refs, postponed))
}

/// Say what was not known before. Git does not: it finds its tracking ref in place.
fn say_news(remote: &Remote, host: &HostRemote, before: &BTreeMap<ClusterName, Tracked>, heard: Option<&Heard>) {
    let Some(Heard { deployed, local: _ }) = heard else {
        if !before.is_empty() {
            remote.say(&format!("{}: nothing is deployed there any more", host.host));
        }
        return;
    };
    if before.get(&deployed.cluster).is_some_and(|known| known.real == deployed.commit) {
        return;
    }
    let (cluster, short, by) = (&deployed.cluster, deployed.commit.short(), printable(deployed.by.as_bytes()));
    let since = ago(deptool_agent::host::deploy::now() - deployed.when);
    remote.say(&format!("{}: {cluster} is at {short}, deployed by {by} {since} ago", host.host));
}

/// Note what was heard in the course of a clone, which has made its own refs by now.
pub fn note_postponed(remote: &Remote, postponed: Postponed) -> Result<(), RemoteError> {
    for (host, answer) in postponed.0 {
        let _lock = HostLock::acquire(&remote.repo, &host.tracking)?;
        settle(remote, &host, &answer)?;
    }
    Ok(())
}

/// Ask one host what it runs, bring that home, and move the tracking ref to the truth.
///
/// The caller holds the host's lock on this side.
pub fn hear(remote: &Remote, host: &HostRemote, verbosity: u32) -> Result<Option<Heard>, RemoteError> {
    let answer = ask(remote, host, verbosity)?;
    settle(remote, host, &answer)?;
    Ok(answer.heard)
}

/// What was heard of hosts, to be noted when Git is done with its own refs.
#[derive(Debug, Default)]
pub struct Postponed(Vec<(HostRemote, Answer)>);

/// What a host has said of itself. Its commit is here.
#[derive(Debug)]
struct Answer {
    heard: Option<Heard>,
    busy: Option<Holder>,
}

/// A connection for asking only.
pub fn connect(remote: &Remote, host: &HostRemote) -> Result<(Session, Hello), RemoteError> {
    let place = remote.place(host)?;
    if let transport::Target::Local(path) = &place
        && !path.exists()
    {
        // A push makes it; who only asks gets no new directory.
        let path = printable(path.as_os_str().as_encoded_bytes());
        return Err(RemoteError::Text(format!("'{path}' does not exist")));
    }
    let opened = Session::open(&remote.connector, &place, None, Mailbox::new(), &mut |_| {});
    opened.map_err(|source| RemoteError::Session { host: host.host.clone(), source })
}

fn ask(remote: &Remote, host: &HostRemote, verbosity: u32) -> Result<Answer, RemoteError> {
    let (mut session, hello) = connect(remote, host)?;
    remote.heed(host, &hello)?;
    let heard = match &hello.deployed {
        Some(deployed) => {
            check_host(host, deployed)?;
            let local = bring_home(remote, host, deployed, &mut session, verbosity)?;
            Some(Heard { deployed: deployed.clone(), local })
        }
        None => None,
    };
    session.close();
    Ok(Answer { heard, busy: hello.busy })
}

fn check_host(host: &HostRemote, deployed: &Deployed) -> Result<(), RemoteError> {
    if deployed.host == host.host {
        return Ok(());
    }
    let (its, ours) = (&deployed.host, &host.host);
    Err(RemoteError::Text(format!(
        "the host is deployed from directory '{its}', not '{ours}'; set remote.<name>.deptoolHost to '{its}'"
    )))
}

/// The commit `deployed`, made available here in whatever way is possible.
fn bring_home(
    remote: &Remote,
    host: &HostRemote,
    deployed: &Deployed,
    session: &mut Session,
    verbosity: u32,
) -> Result<CommitId, RemoteError> {
    let pace = Pace::begin(Instant::now());
    let mut source = FromHost { session, is_sending: false, pace, large: LARGE };
    let found = projection::resolve(remote.repo.gix(), &host.host, deployed.commit, PATIENCE, &mut source)
        .map_err(|error| RemoteError::Text(crate::helper::serve::chain(&error)))?;
    let (tracking, short) = (remote.tracking(), deployed.commit.short());
    match found {
        Found::Projection(projection) => {
            for pair in projection.made {
                tracking.add_projection(&Projection { real: pair.real, host: pair.host, commit: pair.projected })?;
            }
            if verbosity > 0 {
                remote.say(&format!(
                    "{}: {short} by {} is not in this repository; '{}' shows the host's part of it",
                    host.host,
                    printable(deployed.by.as_bytes()),
                    host.tracking,
                ));
            }
            return Ok(projection.tip.projected);
        }
        Found::FromRemote(name) if verbosity > 0 => {
            remote.say(&format!("{}: {short} was fetched from '{}'", host.host, printable(name.as_bytes())));
        }
        Found::Here | Found::FromHost | Found::FromRemote(_) => {}
    }
    tracking.remove_projection(deployed.commit, &host.host)?;
    Ok(deployed.commit)
}

/// What the host said is what is known of it. While it is at work its deployments stay in doubt.
fn settle(remote: &Remote, host: &HostRemote, answer: &Answer) -> Result<(), RemoteError> {
    let tracking = remote.tracking();
    let heard = answer.heard.as_ref();
    for cluster in tracking.clusters(host)?.into_keys() {
        if heard.is_none_or(|heard| heard.deployed.cluster != cluster) {
            tracking.remove(host, &cluster)?;
        }
    }
    if let Some(heard) = heard {
        let by = printable(heard.deployed.by.as_bytes());
        tracking.set(host, &heard.deployed.cluster, heard.local, &format!("deptool: heard (deployed by {by})"))?;
    }
    match &answer.busy {
        Some(holder) => {
            let since = ago(deptool_agent::host::deploy::now() - holder.since);
            let by = printable(holder.by.as_bytes());
            remote.say(&format!("{}: {by} has been {} for {since}", host.host, holder.phase.word()));
        }
        None => {
            for cluster in tracking.unsettled(&host.host)?.into_keys() {
                tracking.settle(&host.host, &cluster)?;
            }
        }
    }
    Ok(())
}

/// Objects that come over a session.
struct FromHost<'a> {
    session: &'a mut Session,
    /// A pack was asked for, and the message that ends it was not taken yet.
    is_sending: bool,
    pace: Pace,
    /// How much may still come in blobs too large for a pack, in bytes.
    large: u64,
}

/// Whether data come fast enough to come to an end some day.
struct Pace {
    since: Instant,
    bytes: usize,
}

impl Pace {
    fn begin(now: Instant) -> Pace {
        Pace { since: now, bytes: 0 }
    }

    fn took(&mut self, bytes: usize, now: Instant) -> Result<(), &'static str> {
        self.bytes += bytes;
        if now.duration_since(self.since) < SPAN {
            return Ok(());
        }
        if self.bytes < SPAN_BYTES {
            return Err("sends too slowly");
        }
        *self = Pace::begin(now);
        Ok(())
    }
}

impl FromHost<'_> {
    /// Whoever has read a pack stops at its last byte: take the message that ends it.
    fn end_pack(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.is_sending)
            && !matches!(self.session.receive().map_err(io::Error::other)?, Response::End)
        {
            return Err(io::Error::other(SessionError::OutOfOrder));
        }
        Ok(())
    }

    /// The next data message, or the one that ends them.
    fn data(&mut self) -> io::Result<Response> {
        let response = self.session.receive().map_err(io::Error::other)?;
        if let Response::Data(bytes) = &response {
            if bytes.0.is_empty() {
                return Err(io::Error::other(SessionError::OutOfOrder));
            }
            self.pace.took(bytes.0.len(), Instant::now()).map_err(|why| io::Error::other(SessionError::Idle(why)))?;
        }
        Ok(response)
    }
}

impl HostObjects for FromHost<'_> {
    fn pack(&mut self, want: CommitId, have: &[CommitId]) -> io::Result<Box<dyn BufRead + '_>> {
        self.end_pack()?;
        self.session.send(&Request::Export { want, have: have.to_vec() }).map_err(io::Error::other)?;
        self.is_sending = true;
        Ok(Box::new(BufReader::new(DataStream { source: self, left: None, pending: Vec::new(), at: 0 })))
    }

    fn large_blob(&mut self, blob: BlobId) -> io::Result<Option<(u64, Box<dyn Read + '_>)>> {
        self.end_pack()?;
        self.session.send(&Request::ExportBlob(blob)).map_err(io::Error::other)?;
        match self.session.receive().map_err(io::Error::other)? {
            Response::Blob { size: None } => Ok(None),
            Response::Blob { size: Some(size) } => {
                let left = self.large.checked_sub(size);
                self.large = left.ok_or_else(|| io::Error::other(SessionError::Idle("has too much to send")))?;
                let stream = DataStream { source: self, left: Some(size), pending: Vec::new(), at: 0 };
                Ok(Some((size, Box::new(stream))))
            }
            _ => Err(io::Error::other(SessionError::OutOfOrder)),
        }
    }
}

/// The bytes of data messages: as many as were announced, or up to the message that ends them.
struct DataStream<'a, 'b> {
    source: &'a mut FromHost<'b>,
    left: Option<u64>,
    pending: Vec<u8>,
    at: usize,
}

impl Read for DataStream<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.pending.len() {
            if self.left == Some(0) {
                return Ok(0);
            }
            match self.source.data()? {
                Response::Data(bytes) => {
                    if let Some(left) = &mut self.left {
                        let too_much = || io::Error::other(SessionError::OutOfOrder);
                        *left = left.checked_sub(bytes.0.len() as u64).ok_or_else(too_much)?;
                    }
                    (self.pending, self.at) = (bytes.0, 0);
                }
                Response::End if self.left.is_none() => {
                    self.left = Some(0);
                    self.source.is_sending = false;
                }
                _ => return Err(io::Error::other(SessionError::OutOfOrder)),
            }
        }
        let count = into.len().min(self.pending.len() - self.at);
        into[..count].copy_from_slice(&self.pending[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_that_drip_are_given_up_and_slow_ones_are_not() {
        let begin = Instant::now();
        let come_to = |bytes: usize| {
            let mut pace = Pace::begin(begin);
            (1..300).try_for_each(|second| pace.took(bytes, begin + Duration::from_secs(second)))
        };
        assert_eq!(come_to(1), Err("sends too slowly"));
        assert_eq!(come_to(0), Err("sends too slowly"));
        assert_eq!(come_to(100), Ok(()));
    }
}
