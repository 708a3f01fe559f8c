//! What a push means for each host, decided before anything is sent. Connects only to hosts that are in doubt.

use deptool_agent::shared::{outcome::Goal, text::printable, tree::entries};
use gix::objs::tree::EntryKind;

use super::{
    Affected, Request,
    account::{Fate, HostReport},
    conclude::not_reached,
    hosts::{self, Locked},
};
use crate::{
    config::HostRemote,
    fetch,
    fleet::remote::{Remote, RemoteError},
    model::{error::chain, offer::Hearsay, options::Run, push_option::Unreachable},
    plan::{Change, Fate as Planned, Intent, Planner, Refusal, Scope},
    state::{HostLock, Known},
};

/// Why a host is not deployed to.
type Reason = (Fate, String);

/// What came of it.
#[derive(Default)]
pub(super) struct Considered {
    pub affected: Vec<Affected>,
    /// Of all others.
    pub reports: Vec<HostReport>,
}

impl Considered {
    fn add(&mut self, request: &Request<'_>, host: &HostRemote, (outcome, why): Reason) {
        self.reports.push(HostReport { outcome, why, ..request.report(&host.host, None) });
    }

    /// Whether there is a host because of which nothing is tried anywhere.
    pub fn is_refused(&self) -> bool {
        self.reports.iter().any(|report| !matches!(report.outcome, Fate::Unaffected | Fate::Skipped))
    }
}

/// What the push means for `hosts`.
pub(super) fn consider(
    remote: &Remote,
    request: &Request<'_>,
    hosts: Vec<HostRemote>,
) -> Result<Considered, RemoteError> {
    let mut locked = match request.options.run {
        Run::Real => hosts::lock(remote, hosts)?,
        Run::Dry => hosts.into_iter().map(|host| (host, None)).collect(),
    };
    let mut considered = Considered::default();
    let mut known = remote.tracking().known(&of(&locked))?;
    if request.options.run == Run::Real {
        let asked = ask(remote, request, &locked, &known)?;
        if !asked.is_empty() {
            known = remote.tracking().known(&of(&locked))?;
        }
        for (at, failed) in asked.into_iter().rev() {
            let failed = failed.or_else(|| {
                let text = || format!("an earlier deployment to '{}' is still under way", locked[at].0.host);
                (!known[at].unsettled.is_empty()).then(|| (Fate::Refused, text()))
            });
            if let Some(why) = failed {
                let (host, _lock) = locked.remove(at);
                known.remove(at);
                considered.add(request, &host, why);
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
    for ((host, lock), fate) in locked.into_iter().zip(fates) {
        match fate {
            Planned::Affected(change) => considered.affected.push(affected(remote, host, *change, lock)),
            Planned::Unaffected => considered.add(request, &host, (Fate::Unaffected, String::new())),
            Planned::Refused(refusal) => {
                let why = refused(remote, request, &host, refusal);
                considered.add(request, &host, why);
            }
        }
    }
    Ok(considered)
}

fn of(locked: &[Locked]) -> Vec<&HostRemote> {
    locked.iter().map(|(host, _)| host).collect()
}

/// Ask the hosts that are in doubt, or all if the push asks first. Returns which were asked, and why one could not be.
fn ask(
    remote: &Remote,
    request: &Request<'_>,
    locked: &[Locked],
    known: &[Known],
) -> Result<Vec<(usize, Option<Reason>)>, RemoteError> {
    let mut asked = Vec::new();
    for (at, ((host, _), known)) in locked.iter().zip(known).enumerate() {
        if known.unsettled.is_empty() && !asks_first(remote, request) {
            continue;
        }
        let failed = match fetch::hear(remote, host, request.options.verbosity) {
            Ok(_) => None,
            Err(RemoteError::Session { source, .. }) => Some(match not_reached(&source) {
                (Fate::Unreachable, why) if request.options.push_options.unreachable == Unreachable::IsSkipped => {
                    (Fate::Skipped, why)
                }
                other => other,
            }),
            // What is wrong with one of many says which one.
            Err(error) if !request.is_single => Some((Fate::Refused, chain(&error))),
            Err(error) => return Err(error),
        };
        asked.push((at, failed));
    }
    Ok(asked)
}

/// Whether hosts are asked what they run before anything is decided: `push.pushOption = check`, or `-o check`.
fn asks_first(remote: &Remote, request: &Request<'_>) -> bool {
    remote.settings.hearsay == Hearsay::Doubted || request.options.push_options.hearsay == Hearsay::Doubted
}

fn affected(remote: &Remote, host: HostRemote, change: Change, lock: Option<HostLock>) -> Affected {
    for ignored in change.ignored.iter() {
        remote.say(&format!("note: '{}/{ignored}' is beside the apps: it is not deployed", host.host));
    }
    let Change { tracked, expected, update, plan, ignored: _ } = change;
    Affected { remote: host, tracked, expected, plan, update, _lock: lock }
}

/// Why the push can't go to a host.
fn refused(remote: &Remote, request: &Request<'_>, host: &HostRemote, refusal: Refusal) -> Reason {
    match refusal {
        Refusal::Stale => (Fate::Stale, String::new()),
        Refusal::NonFastForward { missing } => {
            if let Some(missing) = missing {
                remote.say(&format!(
                    "{}: runs {}, which is not in this repository; get it from whoever deployed it, then merge it",
                    host.host,
                    missing.short()
                ));
            }
            (Fate::NonFastForward, String::new())
        }
        // Of a group, the host is named anyway.
        Refusal::Unfit(why) if request.is_single => (Fate::Refused, format!("{}: {why}", host.host)),
        Refusal::Unfit(why) | Refusal::Other(why) => (Fate::Refused, why),
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
