//! Which branch, which commit, which hosts. Those of which it is not known what they run are asked.

use std::collections::BTreeSet;

use deptool_agent::shared::{
    id::CommitId,
    name::{ClusterName, HostName},
    outcome::Goal,
    text::printable,
};
use gix::bstr::{BStr, ByteSlice};

use super::{
    Request,
    host_report::{HostOutcome, HostReport, not_reached},
};
use crate::{
    config::{HostRemote, Settings, Target},
    fetch,
    fleet::remote::{Remote, RemoteError, Results},
    model::{
        batch::{PushCommand, Source},
        error::chain,
        offer::HostCheck,
        options::{Options, Run},
        push_option::Unreachable,
    },
    repo::Repo,
    state::{HostLock, Known},
};

/// A host, and the right to talk to it; none in a dry run, which talks to no host.
pub(super) type Locked = (HostRemote, Option<HostLock>);

/// What is asked for, and the one host that it is asked for by name as in `prod:refs/heads/web1/prod`.
pub(super) fn request<'a>(
    remote: &Remote,
    command: &PushCommand,
    name: &'a BStr,
    options: &'a Options,
) -> Result<(Request<'a>, Option<&'a BStr>), RemoteError> {
    let (only, cluster) = match (&remote.target, name.rsplit_once_str("/")) {
        (Target::Group(..) | Target::All, Some((host, cluster))) => (Some(host.as_bstr()), cluster.as_bstr()),
        (Target::Host(_), _) | (Target::Group(..) | Target::All, None) => (None, name),
    };
    let cluster = ClusterName::parse(cluster)?;
    let goal = match &command.src {
        Source::Delete => Goal::Nothing,
        Source::Revision(text) => Goal::Commit(remote.repo.resolve(text.as_bstr())?),
    };
    let request = Request {
        cluster,
        goal,
        ancestry: command.ancestry,
        lease: options.leases.get(&command.dst).copied(),
        options,
        is_single: only.is_some() || matches!(remote.target, Target::Host(_)),
    };
    Ok((request, only))
}

/// The hosts that the push is for, in order: all of the remote's, or that which was named as in
/// `prod:refs/heads/web1/prod`.
pub(super) fn hosts(
    remote: &Remote,
    request: &Request<'_>,
    only: Option<&BStr>,
) -> Result<Vec<HostRemote>, RemoteError> {
    let mut hosts = match (&remote.target, request.goal) {
        (Target::Host(host), _) => return Ok(vec![host.clone()]),
        (Target::Group(..) | Target::All, Goal::Nothing) => {
            return Err(RemoteError::RemovalOfGroup);
        }
        (Target::Group(_, hosts), Goal::Commit(_)) => hosts.clone(),
        (Target::All, Goal::Commit(commit)) => of_tree(&remote.repo, &remote.settings, commit)?,
    };
    if let Some(name) = only {
        hosts.retain(|host| host.tracking.as_str() == name || host.host.as_str() == name);
        if hosts.is_empty() {
            return Err(RemoteError::NotPushedTo(printable(name)));
        }
    }
    Ok(hosts)
}

/// The hosts that `@all` means: the directories of the tree.
pub fn of_tree(repo: &Repo, settings: &Settings, commit: CommitId) -> Result<Vec<HostRemote>, RemoteError> {
    repo.hosts(commit)?.iter().map(|host| Ok(settings.host(host)?)).collect()
}

/// Each with the right to talk to it.
pub(super) fn lock(remote: &Remote, request: &Request<'_>, hosts: Vec<HostRemote>) -> Result<Vec<Locked>, RemoteError> {
    if request.options.run == Run::Dry {
        return Ok(hosts.into_iter().map(|host| (host, None)).collect());
    }
    let locks = remote.lock_all(&hosts)?;
    Ok(hosts.into_iter().zip(locks).map(|(host, lock)| (host, Some(lock))).collect())
}

/// Ask the hosts that are in doubt, or all if the push asks first. Those that could not be asked are taken from `hosts`;
/// returns what becomes of them.
pub(super) fn ask(
    remote: &Remote,
    request: &Request<'_>,
    hosts: &mut Vec<Locked>,
) -> Result<Vec<HostReport>, RemoteError> {
    let mut reports = Vec::new();
    if request.options.run == Run::Dry {
        return Ok(reports);
    }
    let named: Vec<_> = hosts.iter().map(|(host, _)| host).collect();
    let known = remote.tracking().known(&named)?;
    let asks_all = asks_first(remote, request);
    let order: Vec<HostName> = hosts.iter().map(|(host, _)| host.host.clone()).collect();
    let is_asked = |known: &Known| asks_all || !known.unsettled.is_empty();
    let (asked, others): (Vec<_>, Vec<_>) =
        std::mem::take(hosts).into_iter().zip(&known).partition(|(_, known)| is_asked(known));
    let asked: Vec<Locked> = asked.into_iter().map(|(host, _)| host).collect();
    let named: Vec<HostRemote> = asked.iter().map(|(host, _)| host.clone()).collect();
    let answers = fetch::refresh_all(remote, &named, request.options);
    hosts.extend(others.into_iter().map(|(host, _)| host));
    for ((host, lock), answer) in asked.into_iter().zip(answers) {
        match not_deployable(remote, request, &host, answer)? {
            Some((outcome, why)) => reports.push(HostReport { outcome, why, ..request.report(&host.host, None) }),
            None => hosts.push((host, lock)),
        }
    }
    // In the order that they had: it is that of waves.
    hosts.sort_by_key(|(host, _)| order.iter().position(|name| *name == host.host));
    Ok(reports)
}

/// Why a host that was asked can't be deployed to, if so.
fn not_deployable(
    remote: &Remote,
    request: &Request<'_>,
    host: &HostRemote,
    answer: Result<(), RemoteError>,
) -> Result<Option<(HostOutcome, String)>, RemoteError> {
    match answer {
        Ok(()) if remote.tracking().unsettled(&host.host)?.is_empty() => Ok(None),
        Ok(()) => {
            let why = format!("an earlier deployment to '{}' is still under way", host.host);
            Ok(Some((HostOutcome::Refused, why)))
        }
        Err(RemoteError::Session { source, .. }) => Ok(Some(match not_reached(&source) {
            (HostOutcome::Unreachable, why) if request.options.push_options.unreachable == Unreachable::IsSkipped => {
                (HostOutcome::Skipped, why)
            }
            other => other,
        })),
        // Of a group the message names the host.
        Err(error) if !request.is_single => Ok(Some((HostOutcome::Refused, chain(&error)))),
        Err(error) => Err(error),
    }
}

/// Whether hosts are asked what they run before anything is decided: `push.pushOption = check`, or `-o check`.
fn asks_first(remote: &Remote, request: &Request<'_>) -> bool {
    [remote.settings.host_check, request.options.push_options.host_check].contains(&HostCheck::Always)
}

/// Name the hosts that run the cluster and are not in the tree any more: they are left alone.
pub(super) fn note_absent(remote: &Remote, request: &Request<'_>, hosts: &[HostRemote]) -> Result<(), RemoteError> {
    let Goal::Commit(commit) = request.goal else { return Ok(()) };
    if request.is_single || request.options.verbosity == 0 || remote.results != Results::Shown {
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

/// Name the directories at the top of the tree can't be a host's. Files there are ignored.
pub(super) fn note_ignored(remote: &Remote, request: &Request<'_>) -> Result<(), RemoteError> {
    let Goal::Commit(commit) = request.goal else { return Ok(()) };
    if request.options.verbosity == 0 || remote.results != Results::Shown {
        return Ok(());
    }
    for name in remote.repo.unusable_directories(commit)? {
        remote.say(&format!("note: directory '{name}' can't be a host's: it is ignored"));
    }
    Ok(())
}
