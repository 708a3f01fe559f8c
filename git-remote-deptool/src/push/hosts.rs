//! Which hosts a push is for.

use std::collections::{BTreeMap, BTreeSet};

use deptool_agent::shared::{id::CommitId, name::HostName, outcome::Goal, text::printable};
use gix::bstr::BStr;

use super::Request;
use crate::{
    agent::open_files::{self, Use},
    config::{HostRemote, Settings, Target, TrackingName},
    fleet::remote::{Remote, RemoteError},
    repo::Repo,
    state::HostLock,
};

/// A host, and the right to talk to it; none in a dry run, which talks to no host.
pub(super) type Locked = (HostRemote, Option<HostLock>);

/// The hosts that the push is for, in order: all of the remote's, or that which was named as in
/// `prod:refs/heads/web1/prod`.
pub(super) fn of(remote: &Remote, request: &Request<'_>, only: Option<&BStr>) -> Result<Vec<HostRemote>, RemoteError> {
    let mut hosts = match (&remote.target, request.goal) {
        (Target::Host(host), _) => return Ok(vec![host.clone()]),
        (Target::Group(..) | Target::All, Goal::Nothing) => {
            let text = "everything is removed only from hosts by name: 'git push <host> :<cluster>'";
            return Err(RemoteError::Text(text.into()));
        }
        (Target::Group(_, hosts), Goal::Commit(_)) => hosts.clone(),
        (Target::All, Goal::Commit(commit)) => of_tree(&remote.repo, &remote.settings, commit)?,
    };
    if let Some(name) = only {
        hosts.retain(|host| host.tracking.as_str() == name || host.host.as_str() == name);
        if hosts.is_empty() {
            return Err(RemoteError::Text(format!("'{}' is none of the hosts that are pushed to", printable(name))));
        }
    }
    Ok(hosts)
}

/// The hosts that `@all` means: the directories of the tree.
pub fn of_tree(repo: &Repo, settings: &Settings, commit: CommitId) -> Result<Vec<HostRemote>, RemoteError> {
    repo.hosts(commit)?.iter().map(|host| Ok(settings.host(host)?)).collect()
}

/// Each with the right to talk to it. They are locked always in the same order, so that two pushes do not wait for each
/// other.
pub(super) fn lock(remote: &Remote, hosts: Vec<HostRemote>) -> Result<Vec<Locked>, RemoteError> {
    open_files::make_room(hosts.len(), Use::Lock)?;
    let sorted: BTreeMap<&TrackingName, &HostRemote> = hosts.iter().map(|host| (&host.tracking, host)).collect();
    let mut locks = BTreeMap::new();
    for (name, host) in sorted {
        locks.insert(name.clone(), remote.lock(host)?);
    }
    let lock = |host: HostRemote| locks.remove(&host.tracking).map(|lock| (host, Some(lock)));
    Ok(hosts.into_iter().filter_map(lock).collect())
}

/// Name the hosts that the cluster runs on and the tree does not have any more: they are left alone.
pub(super) fn note_absent(remote: &Remote, request: &Request<'_>, hosts: &[HostRemote]) -> Result<(), RemoteError> {
    let Goal::Commit(commit) = request.goal else { return Ok(()) };
    if request.is_single || request.options.verbosity == 0 {
        return Ok(());
    }
    let candidates = match remote.target {
        Target::Host(_) => return Ok(()),
        Target::Group(..) => {
            let known = remote.tracking().known(&hosts.iter().collect::<Vec<_>>())?;
            hosts.iter().cloned().zip(known).collect()
        }
        Target::All => remote.known_hosts()?,
    };
    let in_tree: BTreeSet<HostName> = remote.repo.hosts(commit)?.into_iter().collect();
    for (host, known) in candidates.into_iter().filter(|(host, _)| !in_tree.contains(&host.host)) {
        if known.clusters.contains_key(&request.cluster) {
            let (name, cluster) = (&host.host, &request.cluster);
            remote.say(&format!(
                "note: '{name}' runs {cluster}, but is not in the tree: it is left alone; \
                 to empty it, push ':{cluster}' there"
            ));
        }
    }
    Ok(())
}
