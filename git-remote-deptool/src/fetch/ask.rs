//! Asks one host, or many at the same time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use deptool_agent::shared::{
    id::CommitId,
    name::ClusterName,
    outcome::{Attempt, Deployed, Holder},
    wire::Hello,
};

use super::from_host::FromHost;
use super::projection::{self, CommitSource, Elsewhere, ResolveError, Wanted};
use crate::{
    agent::{
        open_files::{self, Use},
        session::Session,
        transport::{self, Stage},
    },
    config::HostRemote,
    fleet::{
        parallel,
        remote::{Remote, RemoteError},
    },
    model::error::chain,
    repo::OpenError,
    state::{HostLock, Tracked},
    ui::progress::{Progress, State},
};

/// The time limit for each other remote to look for a commit.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many hosts are asked at the same time. Only hosts that are down take seconds.
const AT_ONCE: usize = 64;

/// A commit that a host runs, and how it got into this repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub deployed: Deployed,
    pub found: CommitSource,
}

impl Running {
    /// The commit itself, or the projection that represents it.
    pub fn local(&self) -> CommitId {
        match &self.found {
            CommitSource::Projection(projection) => projection.tip.projected,
            CommitSource::Here | CommitSource::FromRemote(_) | CommitSource::FromHost => self.deployed.commit,
        }
    }
}

/// The answer of a host. The commit is in the repository, but no ref names it yet.
#[derive(Debug)]
pub(super) struct Answer {
    /// The known state before the answer.
    pub before: BTreeMap<ClusterName, Tracked>,
    pub running: Option<Running>,
    pub last_attempt: Option<Attempt>,
    pub busy: Option<Holder>,
}

/// The other remotes, for the duration of one command.
pub(super) fn elsewhere(remote: &Remote) -> Elsewhere {
    Elsewhere::new(PATIENCE, remote.connector.interrupted.clone())
}

/// Connect to a host that is only asked.
pub(super) fn open(
    remote: &Remote,
    host: &HostRemote,
    stage: &mut dyn FnMut(Stage),
) -> Result<(Session, Hello), RemoteError> {
    let place = remote.place(host)?;
    if let transport::Endpoint::Local(path) = &place
        && !path.exists()
    {
        // A push creates a local root; a fetch does not.
        return Err(RemoteError::NoRoot(path.clone()));
    }
    let opened = Session::to_ask(&remote.connector, &place, stage);
    opened.map_err(|source| RemoteError::Session { host: host.host.clone(), source })
}

/// Ask one host what it runs, and get that commit. The caller holds the host's lock in this repository.
pub(super) fn ask(
    remote: &Remote,
    host: &HostRemote,
    elsewhere: &Elsewhere,
    note: &dyn Fn(State),
) -> Result<Answer, RemoteError> {
    let before = remote.tracking().clusters(host)?;
    let (mut session, hello) = open(remote, host, &mut |stage| match stage {
        Stage::Connecting => note(State::Connecting),
        Stage::Asking => note(State::Prompting),
        Stage::Installing { .. } => note(State::Installing),
    })?;
    note(State::Asking);
    remote.record_hello(host, &hello)?;
    let running = match hello.deployed {
        Some(deployed) => {
            check_host(remote, host, &deployed)?;
            let found = bring_home(remote, host, &deployed, elsewhere, &mut session)?;
            Some(Running { deployed, found })
        }
        None => None,
    };
    session.close();
    Ok(Answer { before, running, last_attempt: hello.last_attempt, busy: hello.busy })
}

/// The host has to be deployed from its directory, or from one that the cluster's branch has renamed to that since.
fn check_host(remote: &Remote, host: &HostRemote, deployed: &Deployed) -> Result<(), RemoteError> {
    if deployed.host == host.host {
        return Ok(());
    }
    if let Some(tip) = remote.tracking().branch(&deployed.cluster)? {
        let hosts = remote.repo.hosts(tip)?;
        // A commit that is not here comes from the host, which has to have the directory that it names.
        let is_true =
            !remote.repo.has_commit(deployed.commit) || remote.repo.hosts(deployed.commit)?.contains(&deployed.host);
        if is_true && hosts.contains(&host.host) && !hosts.contains(&deployed.host) {
            return Ok(());
        }
    }
    Err(RemoteError::OtherDirectory { theirs: deployed.host.clone(), ours: host.host.clone() })
}

/// Get the commit of `deployed` into this repository, in any possible way.
fn bring_home(
    remote: &Remote,
    host: &HostRemote,
    deployed: &Deployed,
    elsewhere: &Elsewhere,
    session: &mut Session,
) -> Result<CommitSource, RemoteError> {
    let known = remote.tracking().get(host, &deployed.cluster)?;
    // A commit that a ref names is complete. In any other case all refs have to be examined.
    if known.is_some_and(|known| known.commit == deployed.commit && remote.repo.has_commit(known.commit)) {
        return Ok(CommitSource::Here);
    }
    let (repo, failed) = (remote.repo.gix(), |error: ResolveError| RemoteError::Commit(error.into()));
    let pairs = remote.tracking().projections()?;
    let wanted = Wanted { commit: deployed.commit, host: &host.host, directory: &deployed.host, pairs: &pairs };
    let (found, is_alive) = session.meanwhile(|| projection::find(repo, &wanted, elsewhere));
    if let Some(found) = found.map_err(failed)? {
        return Ok(found);
    }
    is_alive.map_err(|source| RemoteError::Session { host: host.host.clone(), source })?;
    let interrupt = &remote.connector.interrupted;
    projection::get(repo, &wanted, &mut FromHost::new(session), interrupt).map_err(failed)
}

/// The answer of a host, with its lock unless the caller holds that.
type Answered = Result<(Answer, Option<HostLock>), RemoteError>;

/// Who acquires the hosts' locks in this repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Locking {
    EachItsOwn,
    ByCaller,
}

/// Ask all of `hosts`, many at a time. Each answer is passed on as it arrives, with the host's index and lock. A host
/// that is slow, down, or locked by another process does not delay the others.
pub(super) fn ask_all(
    remote: &Remote,
    hosts: &[HostRemote],
    locking: Locking,
    progress: &Progress,
    take: &mut dyn FnMut(usize, Answered),
) {
    let elsewhere = elsewhere(remote);
    each(remote, hosts.len(), take, |remote, at| {
        let lock = match locking {
            Locking::EachItsOwn => Some(remote.lock(&hosts[at])?),
            Locking::ByCaller => None,
        };
        let answer = ask(remote, &hosts[at], &elsewhere, &|state| {
            progress.note(at, state);
        });
        progress.note(at, answer.as_ref().map_or_else(|error| State::Failed(why(error)), |_| State::Done));
        Ok((answer?, lock))
    });
}

/// Call `ask` for each number below `hosts`, many at a time, and pass each answer on as it arrives.
pub(super) fn each<T: Send>(
    remote: &Remote,
    hosts: usize,
    take: &mut dyn FnMut(usize, Result<T, RemoteError>),
    ask: impl Fn(&Remote, usize) -> Result<T, RemoteError> + Sync,
) {
    if hosts <= 1 {
        (0..hosts).for_each(|at| take(at, ask(remote, at)));
        return;
    }
    let wanted = hosts.min(AT_ONCE);
    let at_once = open_files::make_room(wanted, Use::Session).map_or_else(|few| few.fitting.max(1), |()| wanted);
    let open = remote.opener();
    let own = || open().map_err(Arc::new);
    let work = |own: &mut Result<Remote, Arc<OpenError>>, at| ask(own.as_ref().map_err(Arc::clone)?, at);
    parallel::each(hosts, at_once, own, work, take);
}

/// Why a host could not be asked, without the host's name.
pub(super) fn why(error: &RemoteError) -> String {
    match error {
        RemoteError::Session { source, .. } => chain(source),
        error => chain(error),
    }
}
