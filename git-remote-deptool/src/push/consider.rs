//! What a push means for one host, decided before anything is sent. Connects only to a host that is in doubt.

use deptool_agent::{
    id::{CommitId, TreeId},
    name::HostName,
    plan::HostPlan,
    text::printable,
    tree::{HostTree, entries},
    wanted::Wanted,
    wire::{Expected, Target as Goal},
};
use gix::objs::tree::EntryKind;

use super::{Affected, Request};
use crate::{
    cluster::HostRemote,
    fetch,
    helper::{
        Outcome,
        batch::Ancestry,
        list::Hearsay,
        options::{PushOptionName, Run},
        report::Update,
    },
    lease,
    remote::{Remote, RemoteError},
    tracking::{HostLock, Tracked},
};

/// What came of it.
pub(super) enum Considered {
    Affected(Box<Affected>),
    /// The host's directory is the same.
    Unaffected,
    Refused(Outcome),
}

fn refuse(text: String) -> Result<Considered, RemoteError> {
    Ok(Considered::Refused(Outcome::Rejected(text)))
}

/// What the push means for `host`.
pub(super) fn consider(remote: &Remote, request: &Request<'_>, host: &HostRemote) -> Result<Considered, RemoteError> {
    let lock = remote.lock(host)?;
    let is_in_doubt = !remote.tracking().unsettled(&host.host)?.is_empty();
    if request.options.run == Run::Real && (is_in_doubt || asks_first(remote, request)) {
        fetch::hear(remote, host, request.options.verbosity)?;
        if !remote.tracking().unsettled(&host.host)?.is_empty() {
            return refuse(format!("an earlier deployment to '{}' is still under way", host.host));
        }
    }
    let tracking = remote.tracking();
    let clusters = tracking.clusters(host)?;
    if let Some(other) = clusters.keys().find(|known| **known != request.cluster) {
        return refuse(format!("'{}' belongs to cluster '{other}', not '{}'", host.host, request.cluster));
    }
    let tracked = clusters.get(&request.cluster).copied();
    let expected = lease::expected(tracked.map(|tracked| tracked.real), named_lease(request, tracked));
    if expected != lease::expected(tracked.map(|tracked| tracked.real), None) {
        return Ok(Considered::Refused(Outcome::StaleInfo));
    }
    let commit = match request.goal {
        Goal::Commit(commit) => commit,
        Goal::Nothing if tracked.is_none() => return refuse(format!("nothing is known to run on '{}'", host.host)),
        Goal::Nothing => return affected(remote, host, tracked, expected, None, Update::FastForward, lock),
    };
    if let Some(projection) = tracking.projections_in(commit)?.into_iter().find(|p| p.host != host.host) {
        let other = &projection.host;
        return refuse(format!("the commit was made from a projection of '{other}', which has nothing else in it"));
    }
    let Some(new) = remote.repo.host_tree(commit, &host.host)? else {
        return if request.is_single { refuse(no_directory(&host.host, request)) } else { Ok(Considered::Unaffected) };
    };
    let old = tracked.map(|tracked| remote.repo.host_tree(tracked.commit, &host.host)).transpose()?.flatten();
    let is_forced = request.is_single && request.ancestry == Ancestry::Waived;
    if tracked.is_some() && old == Some(new) && !is_forced {
        return Ok(Considered::Unaffected);
    }
    let update = match tracked {
        None => Update::FastForward,
        Some(tracked) if is_forward(remote, tracked, commit)? => Update::FastForward,
        Some(_) if request.ancestry == Ancestry::Waived || request.lease.is_some() => Update::Forced,
        Some(tracked) => {
            explain_rewind(remote, host, tracked);
            return Ok(Considered::Refused(Outcome::NonFastForward));
        }
    };
    affected(remote, host, tracked, expected, Some(new), update, lock)
}

/// Whether the host is asked what it runs before anything is decided: `push.pushOption = check`, or `-o check`.
fn asks_first(remote: &Remote, request: &Request<'_>) -> bool {
    remote.settings.hearsay == Hearsay::Doubted || request.options.push_option(PushOptionName::Check).is_some()
}

/// `--force-with-lease`: Git names the tracking ref's commit, which may be a projection of the real one.
fn named_lease(request: &Request<'_>, tracked: Option<Tracked>) -> Option<Expected> {
    match (request.lease, tracked) {
        (Some(Expected::At(id)), Some(tracked)) if id == tracked.commit => Some(Expected::At(tracked.real)),
        (lease, _) => lease,
    }
}

fn no_directory(host: &HostName, request: &Request<'_>) -> String {
    let cluster = &request.cluster;
    format!("the tree has no directory '{host}'; to remove everything from the host, push ':{cluster}'")
}

/// Whether `new` descends from what runs: from the commit itself, or from its projection here.
fn is_forward(remote: &Remote, tracked: Tracked, new: CommitId) -> Result<bool, RemoteError> {
    if remote.repo.is_ancestor(tracked.commit, new)? {
        return Ok(true);
    }
    Ok(tracked.real != tracked.commit
        && remote.repo.has_commit(tracked.real)
        && remote.repo.is_ancestor(tracked.real, new)?)
}

fn explain_rewind(remote: &Remote, host: &HostRemote, tracked: Tracked) {
    if tracked.real != tracked.commit && !remote.repo.has_commit(tracked.real) {
        remote.say(&format!(
            "{}: runs {}, which is not in this repository; get it from whoever deployed it, then merge it",
            host.host,
            tracked.real.short()
        ));
    }
}

fn affected(
    remote: &Remote,
    host: &HostRemote,
    tracked: Option<Tracked>,
    expected: Expected,
    new: Option<TreeId>,
    update: Update,
    lock: HostLock,
) -> Result<Considered, RemoteError> {
    let old = tracked.map(|tracked| remote.repo.host_tree(tracked.commit, &host.host)).transpose()?.flatten();
    let (old, new) = (load(remote, &host.host, old)?, load(remote, &host.host, new)?);
    for ignored in &new.ignored {
        remote.say(&format!("note: '{}/{ignored}' is beside the apps: it is not deployed", host.host));
    }
    let (had, wants) = (wanted(&host.host, &old)?, wanted(&host.host, &new)?);
    let plan = HostPlan::of_wanted(&old, &new, &had, &wants);
    let remote = host.clone();
    Ok(Considered::Affected(Box::new(Affected { remote, tracked, expected, plan, update, _lock: lock })))
}

fn load(remote: &Remote, host: &HostName, tree: Option<TreeId>) -> Result<HostTree, RemoteError> {
    let Some(tree) = tree else { return Ok(HostTree::default()) };
    HostTree::load(&remote.repo.gix().objects, tree).map_err(|error| RemoteError::Text(format!("{host}: {error}")))
}

fn wanted(host: &HostName, tree: &HostTree) -> Result<Wanted, RemoteError> {
    Wanted::of(tree).map_err(|error| RemoteError::Text(format!("{host}: {error}")))
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
