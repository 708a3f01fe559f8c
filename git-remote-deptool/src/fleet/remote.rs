//! One remote: its hosts, how they are reached, and what is known of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use deptool_agent::shared::{
    build::BUILD_ID,
    frame::FrameError,
    id::CommitId,
    name::{ClusterName, HostName, NameError},
    outcome::Deployed,
    text::printable,
    tree::TreeError,
    wire::Hello,
};

use crate::{
    agent::{
        open_files::{self, TooMany, Use},
        session::SessionError,
        transport::{
            self, Connector,
            messages::Sink,
            ssh::{Questions, Sharing, SshEndpoint},
        },
    },
    config::{ClusterError, HostRemote, Settings, Target, Via, url::GroupName},
    model::options::{Options, Progress},
    repo::{
        AncestryError, ClusterFileError, OpenError, ReadError, Repo, RevisionError,
        pack::{SelectError, WriteError},
    },
    state::{FactsError, Failed, HostFacts, HostLock, Known, LockError, ProjectionError, Tracking, TrackingError},
    ui::progress::{Manner, Screen},
};

/// A repository, and one of its remotes.
#[derive(Clone)]
pub struct Remote {
    pub repo: Repo,
    reach: Reach,
}

/// The parts of a remote that all threads share: everything but the repository.
#[derive(Clone)]
pub struct Reach {
    pub settings: Settings,
    pub target: Target,
    /// The name in Git's configuration, or the url if there is no such remote. Empty for a command that names neither.
    pub name: String,
    pub connector: Arc<Connector>,
    /// Where messages for the terminal are written.
    pub sink: Sink,
    /// Show nothing more, because the operator has interrupted the command.
    pub is_muted: Arc<AtomicBool>,
    /// The terminal, if it supports lines drawn in place.
    pub screen: Option<Arc<Mutex<Screen>>>,
    /// Which program shows the outcome of a push.
    pub results: Results,
    /// The file to which the outcome of each host is appended as JSON. See [`crate::push::host_report`].
    pub report: Option<PathBuf>,
}

impl Deref for Remote {
    type Target = Reach;

    fn deref(&self) -> &Reach {
        &self.reach
    }
}

/// Which program shows the outcome of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Results {
    /// This one.
    Shown,
    /// The program that reads the report.
    LeftToReader,
    /// The program that reads the report. Failures are not reported to Git either, because Git would show them.
    OnlyReported,
}

/// Whether a host is still the same machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    AsKnown,
    /// The host was reinstalled, so the recorded state is that of another machine.
    SetUpAnew,
}

/// Why a request from Git failed.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    ClusterFile(#[from] ClusterFileError),
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
    #[error(transparent)]
    TooMany(#[from] TooMany),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A thread could not open the repository.
    #[error(transparent)]
    Open(#[from] Arc<OpenError>),
    #[error("can't get random numbers")]
    Random(#[source] std::io::Error),
    #[error("'{}' does not exist", printable(.0.as_os_str().as_encoded_bytes()))]
    NoRoot(PathBuf),
    #[error(
        "the host is deployed from directory '{theirs}', not '{ours}'; set remote.<name>.deptoolHost to '{theirs}'"
    )]
    OtherDirectory { theirs: HostName, ours: HostName },
    /// The commit that a host runs could not be found or made here.
    #[error(transparent)]
    Commit(Box<dyn std::error::Error + Send + Sync>),
    #[error(
        "'@all' stands for the hosts that a repository knows, and a new one knows none; clone one of them by name, as \
         in 'git clone deptool::web1'"
    )]
    NoHostsKnown,
    #[error("could not ask {}; the other hosts' refs are up to date", list(.0))]
    NotAsked(Vec<HostName>),
    #[error("to remove everything, name the host: 'git push <host> :<cluster>'")]
    RemovalOfGroup,
    #[error(
        "group '{group}' has a host '{host}', which is not in the tree and was never deployed to from here; correct the \
         group, or add the host's directory"
    )]
    NoSuchMember { group: GroupName, host: HostName },
    #[error("'{0}' is named twice")]
    NamedTwice(HostName),
    #[error("'{0}' is not a host of this push")]
    NotPushedTo(String),
}

/// The first few names, and the number of the rest.
fn list(hosts: &[HostName]) -> String {
    const NAMES: usize = 10;
    let names: Vec<&str> = hosts.iter().take(NAMES).map(HostName::as_str).collect();
    match hosts.len().saturating_sub(NAMES) {
        0 => names.join(", "),
        more => format!("{}, {more} more", names.join(", ")),
    }
}

impl Remote {
    /// A remote of `repo`.
    pub fn new(repo: Repo, reach: Reach) -> Self {
        Remote { repo, reach }
    }

    /// The same, with what its operators share in a commit: what is pushed says where its hosts are.
    pub fn at(&self, commit: CommitId) -> Result<Remote, RemoteError> {
        let settings = self.settings.with(self.repo.cluster_file(commit)?);
        let target = match &self.target {
            Target::Group(group, _) => Target::Group(group.clone(), settings.hosts_of_group(group)?),
            Target::Host(host) => Target::Host(settings.again(host, &self.settings)?),
            Target::All => Target::All,
        };
        Ok(Remote::new(self.repo.clone(), Reach { settings, target, ..self.reach.clone() }))
    }

    /// Show nothing more.
    pub fn mute(&self) {
        self.is_muted.store(true, Ordering::Relaxed);
    }

    /// Show one or more lines.
    pub fn say(&self, text: &str) {
        if self.is_muted.load(Ordering::Relaxed) {
            return;
        }
        let mut sink = self.sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A closed terminal is no reason to stop a deployment.
        let _ = sink.write_all(format!("{}\n", text.trim_end()).as_bytes());
        let _ = sink.flush();
    }

    /// All hosts that have a remote or ran something at the last contact, in order, with their known state.
    pub fn known_hosts(&self) -> Result<Vec<(HostRemote, Known)>, RemoteError> {
        let with_remotes = self.settings.known_hosts()?;
        let mut hosts: BTreeMap<HostName, HostRemote> =
            with_remotes.iter().map(|host| (host.host.clone(), host.clone())).collect();
        for (name, facts) in HostFacts::all(&self.repo) {
            // Facts are outdated if the host has another remote by now, or if its name belongs to something else.
            if let Some(host) = self.settings.host(&facts.host).ok().filter(|host| host.tracking == name) {
                hosts.entry(facts.host).or_insert(host);
            }
        }
        let known = self.tracking().known(&hosts.values().collect::<Vec<_>>())?;
        let mut known: Vec<_> = hosts.into_values().zip(known).collect();
        known
            .retain(|(host, known)| !known.clusters.is_empty() || with_remotes.iter().any(|one| one.host == host.host));
        Ok(known)
    }

    /// Whether this repository has a remote for the host, or has connected to it before.
    pub fn is_known(&self, host: &HostName) -> Result<bool, RemoteError> {
        let has_facts = HostFacts::all(&self.repo).iter().any(|(_, facts)| facts.host == *host);
        Ok(has_facts || self.known_hosts()?.iter().any(|(known, _)| known.host == *host))
    }

    /// A member of a group is in the tree or known, or else it is a mistake.
    pub fn check_members(
        &self,
        group: &GroupName,
        members: &[HostRemote],
        commit: CommitId,
    ) -> Result<(), RemoteError> {
        let there = self.repo.hosts(commit)?;
        for host in members.iter().map(|member| &member.host).filter(|host| !there.contains(host)) {
            if !self.is_known(host)? {
                return Err(RemoteError::NoSuchMember { group: group.clone(), host: host.clone() });
            }
        }
        Ok(())
    }

    /// Hosts that run the cluster, as far as is known, although the tree of `commit` has no directory for them: among all
    /// hosts, or among some.
    pub fn vanished(
        &self,
        cluster: &ClusterName,
        commit: CommitId,
        among: Option<&[HostRemote]>,
    ) -> Result<Vec<(HostName, CommitId)>, RemoteError> {
        let hosts = match among {
            Some(hosts) => {
                let known = self.tracking().known(&hosts.iter().collect::<Vec<_>>())?;
                hosts.iter().cloned().zip(known).collect()
            }
            None => self.known_hosts()?,
        };
        let there: BTreeSet<HostName> = self.repo.hosts(commit)?.into_iter().collect();
        let absent = hosts.into_iter().filter(|(host, _)| !there.contains(&host.host));
        Ok(absent.filter_map(|(host, known)| Some((host.host, known.clusters.get(cluster)?.real))).collect())
    }

    /// Returns a function that opens the same remote again. A repository handle can't be sent to another thread, so
    /// each thread opens its own.
    pub fn opener(&self) -> impl Fn() -> Result<Remote, OpenError> + Send + Sync + use<> {
        let (environment, reach) = (self.repo.environment().clone(), self.reach.clone());
        move || Ok(Remote::new(Repo::open(environment.clone())?, reach.clone()))
    }

    /// How to show progress.
    pub fn manner(&self, options: &Options) -> Manner {
        match (&self.screen, options.progress) {
            (Some(screen), Progress::Shown) if options.verbosity > 0 => Manner::Live(screen.clone()),
            (None | Some(_), Progress::Shown | Progress::Hidden) => Manner::Hidden,
        }
    }

    pub fn tracking(&self) -> Tracking<'_> {
        Tracking::new(&self.repo)
    }

    /// Acquire the host's lock in this repository. Prints a message if it has to wait.
    pub fn lock(&self, host: &HostRemote) -> Result<HostLock, LockError> {
        match HostLock::try_acquire(&self.repo, &host.tracking) {
            Err(held @ LockError::Held(_)) => {
                self.say(&format!("{}: waiting: {held}", host.host));
                HostLock::acquire(&self.repo, &host.tracking, &self.connector.interrupted)
            }
            result => result,
        }
    }

    /// Acquire the locks of `hosts`. They are acquired in the order of the names, to avoid deadlocks, and returned in
    /// the order of `hosts`.
    pub fn lock_all(&self, hosts: &[HostRemote]) -> Result<Vec<HostLock>, RemoteError> {
        open_files::make_room(hosts.len(), Use::Lock)?;
        let sorted: BTreeMap<_, _> = hosts.iter().map(|host| (&host.tracking, host)).collect();
        let locked = sorted.into_iter().map(|(name, host)| Ok((name, self.lock(host)?)));
        let mut locks = locked.collect::<Result<BTreeMap<_, _>, LockError>>()?;
        // With fewer locks than hosts, a caller that pairs them would leave out a host.
        let lock_of =
            |host: &HostRemote| locks.remove(&host.tracking).ok_or_else(|| RemoteError::NamedTwice(host.host.clone()));
        hosts.iter().map(lock_of).collect()
    }

    /// Why a host can't be reached, and what else may be wrong if it is only a directory that is taken for one.
    pub fn why_unreachable(&self, host: &HostRemote, why: String) -> String {
        match why.contains("Could not resolve hostname") && self.settings.is_reached_by_name(host) {
            true => format!(
                "{why}; if '{0}' is no host, add it to 'ignore' in cluster.json; if it is, its address goes to 'hosts' \
                 there, or to 'git deptool add-host {0}'",
                host.host
            ),
            false => why,
        }
    }

    /// The endpoint for `host`.
    pub fn place(&self, host: &HostRemote) -> Result<transport::Endpoint, RemoteError> {
        match &host.via {
            Via::Local(path) => Ok(transport::Endpoint::Local(path.clone())),
            Via::Ssh(address) => {
                let user = address.user.as_ref().map(|user| user.as_str().to_owned());
                let host_argument = address.host.to_string();
                let sharing = if self.settings.share_connections { Sharing::Asked } else { Sharing::AsConfigured };
                let port = address.port;
                let questions = match self.target {
                    Target::Host(_) => Questions::Allowed,
                    Target::Group(..) | Target::All => Questions::Deferred,
                };
                Ok(transport::Endpoint::Ssh(SshEndpoint {
                    user,
                    host: host_argument,
                    port,
                    name: host.host.clone(),
                    sharing,
                    socket: HostFacts::load(&self.repo, &host.tracking).and_then(|facts| facts.socket),
                    questions,
                }))
            }
        }
    }

    /// Show the errors that a host reports in its hello.
    pub fn show_hello(&self, host: &HostRemote, hello: &Hello) {
        for what in &hello.notes {
            self.say(&format!("{}: {}", host.host, printable(what.as_bytes())));
        }
        for what in &hello.failures {
            self.say(&format!("{}: not in order: {}", host.host, printable(what.as_bytes())));
        }
    }

    /// Show the errors in `hello`, and record its contents. The caller holds the host's lock in this repository.
    ///
    /// If a tracking ref names a commit that the host no longer runs, it is deleted: nothing else would do that
    /// offline.
    pub fn record_hello(&self, host: &HostRemote, hello: &Hello) -> Result<Machine, RemoteError> {
        self.show_hello(host, hello);
        let known = HostFacts::load(&self.repo, &host.tracking);
        let instance = (!hello.instance.is_empty()).then(|| printable(hello.instance.as_bytes()));
        let before = known.as_ref().map(|facts| (facts.instance.as_ref(), facts.deployed.is_some()));
        let machine = match before {
            Some((Some(before), _)) if instance.as_ref() != Some(before) => Machine::SetUpAnew,
            // A local root gets its id with its first deployment, after the hello.
            Some((None, true)) if instance.is_none() => Machine::SetUpAnew,
            Some(_) | None => Machine::AsKnown,
        };
        if machine == Machine::SetUpAnew {
            self.say(&format!("{}: the host was reinstalled since the last connection", host.host));
        }
        if hello.busy.is_none() {
            match &hello.deployed {
                Some(deployed) if !hello.failures.is_empty() => {
                    self.tracking().mark_broken(&host.host, &deployed.cluster)?;
                }
                Some(_) | None => self.tracking().mark_whole(&host.host)?,
            }
            if machine == Machine::SetUpAnew || hello.deployed.is_none() {
                self.forget_all_but(host, hello.deployed.as_ref())?;
            }
        }
        let facts = HostFacts {
            host: host.host.clone(),
            instance,
            agent: Some(BUILD_ID.into()),
            deployed: hello.deployed.clone(),
            failed: hello.last_attempt.as_ref().and_then(Failed::of),
            drift: match (&known, machine, &hello.deployed) {
                (Some(facts), Machine::AsKnown, Some(_)) => facts.drift,
                (None | Some(_), _, _) => 0,
            },
            is_roots_login: hello.is_roots_login,
            late: known.as_ref().map_or(0, |facts| facts.late),
            socket: known.as_ref().and_then(|facts| facts.socket.clone()),
        };
        if known.as_ref() != Some(&facts) {
            facts.store(&self.repo, &host.tracking)?;
        }
        Ok(machine)
    }

    /// Record how much drift a host has, unless another process of this repository holds the host's lock.
    pub fn remember_drift(&self, host: &HostRemote, drift: usize) -> Result<(), RemoteError> {
        let _lock = match HostLock::try_acquire(&self.repo, &host.tracking) {
            Err(LockError::Held(_)) => return Ok(()),
            lock => lock?,
        };
        match HostFacts::load(&self.repo, &host.tracking) {
            Some(facts) if facts.drift != drift => Ok(HostFacts { drift, ..facts }.store(&self.repo, &host.tracking)?),
            Some(_) | None => Ok(()),
        }
    }

    /// A line for each host with known drift.
    pub fn known_drift<'a>(&self, hosts: impl Iterator<Item = &'a HostRemote>) -> Vec<String> {
        let facts = hosts.filter_map(|host| HostFacts::load(&self.repo, &host.tracking));
        facts.filter_map(|facts| Some(format!("{}: {}", facts.host, facts.drift_in_words()?))).collect()
    }

    /// Delete the tracking refs of a host that name another commit than the host reported.
    fn forget_all_but(&self, host: &HostRemote, deployed: Option<&Deployed>) -> Result<(), RemoteError> {
        let tracking = self.tracking();
        for (cluster, tracked) in tracking.clusters(host)? {
            if deployed.is_none_or(|deployed| deployed.cluster != cluster || deployed.commit != tracked.real) {
                tracking.remove(host, &cluster)?;
            }
        }
        Ok(())
    }
}
