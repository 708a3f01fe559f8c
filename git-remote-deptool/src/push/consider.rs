//! What a push means for each host, decided before anything is sent. Connects only to hosts that are in doubt.

use deptool_agent::{name::HostName, text::printable, tree::entries, wire::Target as Goal};
use gix::objs::tree::EntryKind;

use super::{Affected, Request};
use crate::{
    cluster::HostRemote,
    cluster_plan::{Change, Fate, Intent, Planner, Refusal, Scope},
    fetch,
    helper::{
        Outcome,
        list::Hearsay,
        options::{PushOptionName, Run},
    },
    remote::{Remote, RemoteError},
    tracking::{HostLock, Known},
};

/// What came of it. Hosts whose directories stay the same are in neither.
#[derive(Default)]
pub(super) struct Considered {
    pub affected: Vec<Affected>,
    pub refused: Vec<(HostName, Outcome)>,
}

/// What the push means for `hosts`.
pub(super) fn consider(
    remote: &Remote,
    request: &Request<'_>,
    hosts: Vec<HostRemote>,
) -> Result<Considered, RemoteError> {
    let mut locked: Vec<(HostRemote, HostLock)> = Vec::with_capacity(hosts.len());
    for host in hosts {
        let lock = remote.lock(&host)?;
        locked.push((host, lock));
    }
    let mut considered = Considered::default();
    let mut known = remote.tracking().known(&of(&locked))?;
    if request.options.run == Run::Real {
        let asked = ask(remote, request, &locked, &known)?;
        if !asked.is_empty() {
            known = remote.tracking().known(&of(&locked))?;
        }
        for at in asked {
            if !known[at].unsettled.is_empty() {
                let host = &locked[at].0.host;
                let text = format!("an earlier deployment to '{host}' is still under way");
                considered.refused.push((host.clone(), Outcome::Rejected(text)));
            }
        }
    }
    let intent = Intent {
        cluster: request.cluster.clone(),
        goal: request.goal,
        ancestry: request.ancestry,
        lease: request.lease,
        scope: if request.is_single { Scope::OneHost } else { Scope::Group },
    };
    let pairs: Vec<(&HostRemote, &Known)> = locked.iter().map(|(host, _)| host).zip(&known).collect();
    let fates = Planner::new(&remote.repo, intent)?.fates(&pairs);
    let is_refused = |host: &HostRemote, refused: &[(HostName, _)]| refused.iter().any(|(name, _)| *name == host.host);
    for ((host, lock), fate) in locked.into_iter().zip(fates) {
        match fate {
            _ if is_refused(&host, &considered.refused) => {}
            Fate::Affected(change) => considered.affected.push(affected(remote, host, *change, lock)),
            Fate::Unaffected => {}
            Fate::Refused(refusal) => {
                let outcome = outcome(remote, request, &host, refusal);
                considered.refused.push((host.host, outcome));
            }
        }
    }
    Ok(considered)
}

fn of(locked: &[(HostRemote, HostLock)]) -> Vec<&HostRemote> {
    locked.iter().map(|(host, _)| host).collect()
}

/// Ask the hosts that are in doubt, or all if the push asks first. Returns which were asked.
fn ask(
    remote: &Remote,
    request: &Request<'_>,
    locked: &[(HostRemote, HostLock)],
    known: &[Known],
) -> Result<Vec<usize>, RemoteError> {
    let mut asked = Vec::new();
    for (at, ((host, _), known)) in locked.iter().zip(known).enumerate() {
        if !known.unsettled.is_empty() || asks_first(remote, request) {
            fetch::hear(remote, host, request.options.verbosity)?;
            asked.push(at);
        }
    }
    Ok(asked)
}

/// Whether hosts are asked what they run before anything is decided: `push.pushOption = check`, or `-o check`.
fn asks_first(remote: &Remote, request: &Request<'_>) -> bool {
    remote.settings.hearsay == Hearsay::Doubted || request.options.push_option(PushOptionName::Check).is_some()
}

fn affected(remote: &Remote, host: HostRemote, change: Change, lock: HostLock) -> Affected {
    for ignored in change.ignored.iter() {
        remote.say(&format!("note: '{}/{ignored}' is beside the apps: it is not deployed", host.host));
    }
    let Change { tracked, expected, update, plan, ignored: _ } = change;
    Affected { remote: host, tracked, expected, plan, update, _lock: lock }
}

/// What Git is told of a host that the push can't go to.
fn outcome(remote: &Remote, request: &Request<'_>, host: &HostRemote, refusal: Refusal) -> Outcome {
    match refusal {
        Refusal::Stale => Outcome::StaleInfo,
        Refusal::NonFastForward { missing } => {
            if let Some(missing) = missing {
                remote.say(&format!(
                    "{}: runs {}, which is not in this repository; get it from whoever deployed it, then merge it",
                    host.host,
                    missing.short()
                ));
            }
            Outcome::NonFastForward
        }
        // Of a group, the host is named anyway.
        Refusal::Unfit(why) if request.is_single => Outcome::Rejected(format!("{}: {why}", host.host)),
        Refusal::Unfit(why) | Refusal::Other(why) => Outcome::Rejected(why),
    }
}

/// Say what at the top of the tree is no host's directory.
pub(super) fn note_ignored(remote: &Remote, request: &Request<'_>) -> Result<(), RemoteError> {
    let Goal::Commit(commit) = request.goal else { return Ok(()) };
    if request.options.verbosity == 0 {
        return Ok(());
    }
    let root = remote.repo.tree_of(commit)?;
    let top = entries(&remote.repo.gix().objects, root.0).map_err(|error| RemoteError::Text(error.to_string()))?;
    for (name, kind, _) in top {
        if kind != EntryKind::Tree {
            remote.say(&format!("note: '{}' at the top of the tree is no host: it is ignored", printable(&name)));
        }
    }
    Ok(())
}
