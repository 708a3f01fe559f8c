//! Asking hosts: one, or many at a time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use deptool_agent::shared::{
    id::CommitId,
    name::ClusterName,
    outcome::{Attempt, Deployed, Holder},
    wire::Hello,
};

use super::from_host::FromHost;
use super::projection::{self, CommitSource, Elsewhere};
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

/// How long each other remote may take to look for a commit.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many hosts are asked at a time. Those that are down, and only those, take seconds.
const AT_ONCE: usize = 64;

/// What a host runs, and how that came to be here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub deployed: Deployed,
    pub found: CommitSource,
}

impl Running {
    /// The commit itself, or the projection that stands for it here.
    pub fn local(&self) -> CommitId {
        match &self.found {
            CommitSource::Projection(projection) => projection.tip.projected,
            CommitSource::Here | CommitSource::FromRemote(_) | CommitSource::FromHost => self.deployed.commit,
        }
    }
}

/// What a host runs, from its hello. The commit is here; no ref names it yet.
#[derive(Debug)]
pub(super) struct Answer {
    /// What was known of it before.
    pub before: BTreeMap<ClusterName, Tracked>,
    pub running: Option<Running>,
    pub last_attempt: Option<Attempt>,
    pub busy: Option<Holder>,
}

/// The other remotes, as they are asked in the course of one command.
pub(super) fn elsewhere(remote: &Remote) -> Elsewhere {
    Elsewhere::new(PATIENCE, remote.connector.interrupted.clone())
}

/// Where `host` is, for asking only.
pub fn place_to_ask(remote: &Remote, host: &HostRemote) -> Result<transport::Endpoint, RemoteError> {
    let place = remote.place(host)?;
    if let transport::Endpoint::Local(path) = &place
        && !path.exists()
    {
        // A push creates it; a fetch does not.
        return Err(RemoteError::NoRoot(path.clone()));
    }
    Ok(place)
}

fn open(remote: &Remote, host: &HostRemote, stage: &mut dyn FnMut(Stage)) -> Result<(Session, Hello), RemoteError> {
    let place = place_to_ask(remote, host)?;
    let opened = Session::to_ask(&remote.connector, &place, stage);
    opened.map_err(|source| RemoteError::Session { host: host.host.clone(), source })
}

/// Ask one host what it runs, and bring that home. The caller holds the host's lock on this side.
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
            check_host(host, &deployed)?;
            let found = bring_home(remote, host, &deployed, elsewhere, &mut session)?;
            Some(Running { deployed, found })
        }
        None => None,
    };
    session.close();
    Ok(Answer { before, running, last_attempt: hello.last_attempt, busy: hello.busy })
}

fn check_host(host: &HostRemote, deployed: &Deployed) -> Result<(), RemoteError> {
    if deployed.host == host.host {
        return Ok(());
    }
    Err(RemoteError::OtherDirectory { theirs: deployed.host.clone(), ours: host.host.clone() })
}

/// The commit `deployed`, made available here in whatever way is possible.
fn bring_home(
    remote: &Remote,
    host: &HostRemote,
    deployed: &Deployed,
    elsewhere: &Elsewhere,
    session: &mut Session,
) -> Result<CommitSource, RemoteError> {
    let known = remote.tracking().get(host, &deployed.cluster)?;
    // What a ref names is here with all that it reaches. To find that out otherwise takes a look at all refs.
    if known.is_some_and(|known| known.commit == deployed.commit && remote.repo.has_commit(known.commit)) {
        return Ok(CommitSource::Here);
    }
    let mut source = FromHost::new(session);
    projection::resolve(remote.repo.gix(), &host.host, deployed.commit, elsewhere, &mut source)
        .map_err(|error| RemoteError::Commit(error.into()))
}

/// What a host answered, and its lock unless the caller has that.
type Answered = Result<(Answer, Option<HostLock>), RemoteError>;

/// Who takes the locks of the hosts in this repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Locking {
    EachItsOwn,
    ByCaller,
}

/// Ask all of `hosts`, many at a time, and hand on each answer as it comes, with the host's index and its lock. A host
/// that is slow, down, or talked to by another process holds up none of the others.
pub(super) fn ask_all(
    remote: &Remote,
    hosts: &[HostRemote],
    locking: Locking,
    progress: &Progress,
    take: &mut dyn FnMut(usize, Answered),
) {
    let elsewhere = elsewhere(remote);
    let ask_one = |remote: &Remote, at: usize| {
        let lock = match locking {
            Locking::EachItsOwn => Some(remote.lock(&hosts[at])?),
            Locking::ByCaller => None,
        };
        let answer = ask(remote, &hosts[at], &elsewhere, &|state| {
            progress.note(at, state);
        });
        progress.note(at, answer.as_ref().map_or_else(|error| State::Failed(why(error)), |_| State::Done));
        Ok((answer?, lock))
    };
    if hosts.len() <= 1 {
        (0..hosts.len()).for_each(|at| take(at, ask_one(remote, at)));
        return;
    }
    let wanted = hosts.len().min(AT_ONCE);
    let at_once = open_files::make_room(wanted, Use::Session).map_or_else(|few| few.fitting.max(1), |()| wanted);
    let open = remote.opener();
    let own = || open().map_err(Arc::new);
    let work = |own: &mut Result<Remote, Arc<OpenError>>, at| ask_one(own.as_ref().map_err(Arc::clone)?, at);
    parallel::each(hosts.len(), at_once, own, work, take);
}

/// Why a host could not be asked, without its name.
pub(super) fn why(error: &RemoteError) -> String {
    match error {
        RemoteError::Session { source, .. } => chain(source),
        error => chain(error),
    }
}
