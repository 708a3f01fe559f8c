//! Determines the branch, the commit and the hosts of a push, and asks hosts in doubt what they run.

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

/// A host with its lock in this repository, or without one in a dry run, which connects to no host.
pub(super) type Locked = (HostRemote, Option<HostLock>);

/// The remote, as the commit that is pushed says where its hosts are. Its `cluster.json` is checked here, before anything
/// else. A removal goes by that of the branch.
pub(super) fn shared(remote: &Remote, command: &PushCommand) -> Result<Remote, RemoteError> {
    match &command.src {
        Source::Delete => Ok(remote.clone()),
        Source::Revision(text) => remote.at(remote.repo.resolve(text.as_bstr())?),
    }
}

/// The request, and the one host if it was named as in `prod:refs/heads/web1/prod`.
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

/// The hosts of the push, in order: all hosts of the remote, or the named one.
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
        (Target::Group(group, hosts), Goal::Commit(commit)) => {
            remote.check_members(group, hosts, commit)?;
            hosts.clone()
        }
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

/// The hosts of `@all`: the directories of the tree.
pub fn of_tree(repo: &Repo, settings: &Settings, commit: CommitId) -> Result<Vec<HostRemote>, RemoteError> {
    repo.hosts(commit)?.iter().map(|host| Ok(settings.host(host)?)).collect()
}

/// Lock each of the hosts.
pub(super) fn lock(remote: &Remote, request: &Request<'_>, hosts: Vec<HostRemote>) -> Result<Vec<Locked>, RemoteError> {
    if request.options.run == Run::Dry {
        return Ok(hosts.into_iter().map(|host| (host, None)).collect());
    }
    let locks = remote.lock_all(&hosts)?;
    Ok(hosts.into_iter().zip(locks).map(|(host, lock)| (host, Some(lock))).collect())
}

/// Ask the hosts that are in doubt, or all of them if requested. Hosts that could not be asked are removed from
/// `hosts`; their reports are returned.
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
    // Restore the original order, which determines the waves.
    hosts.sort_by_key(|(host, _)| order.iter().position(|name| *name == host.host));
    Ok(reports)
}

/// Why a host can't be deployed to, after it was asked.
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
        Err(RemoteError::Session { source, .. }) => Ok(Some(match not_reached(remote, host, &source) {
            (HostOutcome::Unreachable, why) if request.options.push_options.unreachable == Unreachable::IsSkipped => {
                (HostOutcome::Skipped, why)
            }
            other => other,
        })),
        // In a group, the message names the host.
        Err(error) if !request.is_single => Ok(Some((HostOutcome::Refused, chain(&error)))),
        Err(error) => Err(error),
    }
}

/// Whether to ask all hosts first: `push.pushOption = check`, or `-o check`.
fn asks_first(remote: &Remote, request: &Request<'_>) -> bool {
    [remote.settings.host_check, request.options.push_options.host_check].contains(&HostCheck::Always)
}

/// Print which hosts run the cluster but are not in the tree. They are not changed.
pub(super) fn note_absent(remote: &Remote, request: &Request<'_>, hosts: &[HostRemote]) -> Result<(), RemoteError> {
    let Goal::Commit(commit) = request.goal else { return Ok(()) };
    if request.is_single || request.options.verbosity == 0 || remote.results != Results::Shown {
        return Ok(());
    }
    let among = match remote.target {
        Target::Host(_) => return Ok(()),
        Target::Group(..) => Some(hosts),
        Target::All => None,
    };
    let cluster = &request.cluster;
    for (name, _) in remote.vanished(cluster, commit, among)? {
        remote.say(&format!(
            "note: '{name}' runs {cluster}, but is not in the tree: it is left alone; \
             to empty it, push ':{cluster}' there; if it was renamed: 'git deptool rename-host {name} <new>'"
        ));
    }
    Ok(())
}

/// Print which directories at the top of the tree are ignored because their names are not valid for hosts. Files are
/// ignored silently.
pub(super) fn note_ignored(remote: &Remote, request: &Request<'_>) -> Result<(), RemoteError> {
    let Goal::Commit(commit) = request.goal else { return Ok(()) };
    if request.options.verbosity == 0 || remote.results != Results::Shown {
        return Ok(());
    }
    for name in remote.repo.unusable_directories(commit)? {
        remote.say(&format!("note: directory '{name}' is ignored: its name is not valid for a host"));
    }
    Ok(())
}
