//! A fetch: ask hosts what they run, and get those commits.
//!
//! All hosts of a group are asked at the same time (`ask`). Their answers are recorded here, one after another. If a
//! host could not be asked, the fetch fails after all other answers were recorded: the tracking refs of these hosts are
//! current, those of the failed hosts are unchanged, and nobody takes the fetch for complete. Git gets no list then, so
//! it neither prunes a ref nor writes an old value.

mod ask;
mod from_host;
mod listed;
pub mod projection;
pub mod query;

use std::collections::BTreeMap;

pub use ask::Running;
use ask::{Answer, Locking, ask_all, why};
use deptool_agent::shared::{
    id::CommitId,
    name::{ClusterName, HostName},
    outcome::{Attempt, AttemptResult, Goal},
    text::printable,
};

use crate::{
    config::{HostRemote, Target},
    fetch::projection::CommitSource,
    fleet::remote::{Remote, RemoteError},
    model::{advertised::Advertised, options::Options},
    state::{self, HostFacts, HostLock, Tracked},
    ui::{
        progress::{FirstContact, Host, Manner, Progress},
        render::ago,
    },
};

/// Work that remains until Git has written its own refs.
#[derive(Debug, Default)]
pub struct Postponed {
    /// Answers that were not recorded yet.
    answers: Vec<(HostRemote, Answer)>,
    /// Held until Git has written the refs that were listed to it. Otherwise another process could deploy in the
    /// meantime, and Git would move the tracking ref back.
    _locks: Vec<HostLock>,
}

/// The commits that all hosts of the remote run, as refs for Git. When this returns, all objects are in the repository.
pub fn advertised(remote: &Remote, options: &Options) -> Result<(Vec<Advertised>, Postponed), RemoteError> {
    let hosts = hosts_of(remote)?;
    if hosts.is_empty() && remote.tracking().is_unused()? {
        return Err(RemoteError::NoHostsKnown);
    }
    let is_group = !matches!(remote.target, Target::Host(_));
    // `git clone` fails if the refs that it is about to create exist.
    let is_clone = remote.tracking().is_unused()?;
    let manner = if is_group { remote.manner(options) } else { Manner::Hidden };
    let progress = Progress::new(shown(remote, &hosts), manner);
    let mut running: Vec<Option<Running>> = hosts.iter().map(|_| None).collect();
    let (mut failed, mut postponed) = (Vec::new(), Postponed::default());
    ask_all(remote, &hosts, Locking::EachItsOwn, &progress, &mut |at, answer| {
        let host = &hosts[at];
        let noted = answer.and_then(|(answer, _lock)| {
            running[at] = answer.running.clone();
            if is_clone {
                postponed.answers.push((host.clone(), answer));
                return Ok(());
            }
            note(remote, host, &answer, options.verbosity)
        });
        if let Err(error) = noted {
            failed.push((host.host.clone(), error));
        }
    });
    progress.finish();
    not_asked(remote, failed, is_group)?;
    if is_clone {
        let refs = hosts.iter().zip(&running).filter_map(|(host, running)| {
            let running = running.as_ref()?;
            Some(refs_of(host, &running.deployed.cluster, running.local(), is_group))
        });
        let mut refs: Vec<Advertised> = refs.flatten().collect();
        refs.extend(other_refs(remote, &running, is_group, is_clone)?);
        return Ok((refs, postponed));
    }
    // While the other hosts were asked, another process may have deployed to the first ones. List their current state.
    postponed._locks = remote.lock_all(&hosts)?;
    let known = remote.tracking().known(&hosts.iter().collect::<Vec<_>>())?;
    let refs = hosts.iter().zip(&known).flat_map(|(host, known)| {
        known.clusters.iter().flat_map(|(cluster, tracked)| refs_of(host, cluster, tracked.commit, is_group))
    });
    let mut refs: Vec<Advertised> = refs.collect();
    refs.extend(other_refs(remote, &running, is_group, is_clone)?);
    Ok((refs, postponed))
}

/// The refs that are listed in addition to those of the hosts.
fn other_refs(
    remote: &Remote,
    running: &[Option<Running>],
    is_group: bool,
    is_clone: bool,
) -> Result<Vec<Advertised>, RemoteError> {
    let mut refs = listed::tags(remote)?;
    if is_group {
        refs.extend(listed::branches(remote, running, is_clone));
    }
    Ok(refs)
}

/// The hosts to ask. For `@all`, these are all hosts that have a remote, that ran something at the last contact, or
/// that are in a local branch of a cluster.
fn hosts_of(remote: &Remote) -> Result<Vec<HostRemote>, RemoteError> {
    match &remote.target {
        Target::Host(host) => return Ok(vec![host.clone()]),
        Target::Group(_, hosts) => return Ok(hosts.clone()),
        Target::All => {}
    }
    let (tracking, settings) = (remote.tracking(), &remote.settings);
    let mut hosts: BTreeMap<HostName, HostRemote> = BTreeMap::new();
    let mut clusters: Vec<ClusterName> = settings.cluster.clone().into_iter().collect();
    for (host, known) in remote.known_hosts()? {
        hosts.insert(host.host.clone(), host);
        clusters.extend(known.clusters.into_keys());
    }
    clusters.sort();
    clusters.dedup();
    for cluster in clusters {
        let Some(commit) = tracking.branch(&cluster)? else { continue };
        for host in remote.repo.hosts(commit)? {
            if !hosts.contains_key(&host) {
                hosts.insert(host.clone(), settings.host(&host)?);
            }
        }
    }
    Ok(hosts.into_values().collect())
}

/// The hosts, for the progress display.
fn shown(remote: &Remote, hosts: &[HostRemote]) -> Vec<Host> {
    let first_contact = |host: &HostRemote| match (&remote.target, HostFacts::load(&remote.repo, &host.tracking)) {
        (Target::Host(_), None) => FirstContact::Possible,
        // Group hosts that need an answer are asked later.
        (Target::Host(_), Some(_)) | (Target::Group(..) | Target::All, _) => FirstContact::No,
    };
    hosts.iter().map(|host| Host { name: host.host.clone(), first_contact: first_contact(host) }).collect()
}

/// Print which hosts could not be asked, and why. Fails if there are any.
fn not_asked(remote: &Remote, mut failed: Vec<(HostName, RemoteError)>, is_group: bool) -> Result<(), RemoteError> {
    if !is_group && let Some((_, error)) = failed.pop() {
        return Err(error);
    }
    if failed.is_empty() {
        return Ok(());
    }
    failed.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (host, error) in &failed {
        remote.say(&format!("{host}: {}", why(error)));
    }
    Err(RemoteError::NotAsked(failed.into_iter().map(|(host, _)| host).collect()))
}

/// The refs to list for one host.
fn refs_of(host: &HostRemote, cluster: &ClusterName, commit: CommitId, is_group: bool) -> Vec<Advertised> {
    if is_group {
        return vec![Advertised::at(format!("refs/heads/{}/{cluster}", host.tracking), commit)];
    }
    let name = format!("refs/heads/{cluster}");
    vec![Advertised::Head(name.clone().into()), Advertised::at(name, commit)]
}

/// Record an answer, and print what is new.
fn note(remote: &Remote, host: &HostRemote, answer: &Answer, verbosity: u32) -> Result<(), RemoteError> {
    settle(remote, host, answer, verbosity)?;
    if verbosity > 0 {
        say_news(remote, host, &answer.before, answer.running.as_ref());
    }
    Ok(())
}

/// Print what is new. Git does not do that, because its tracking ref is already up to date.
fn say_news(remote: &Remote, host: &HostRemote, before: &BTreeMap<ClusterName, Tracked>, running: Option<&Running>) {
    let Some(Running { deployed, found: _ }) = running else {
        if !before.is_empty() {
            remote.say(&format!("{}: nothing is deployed any more", host.host));
        }
        return;
    };
    if before.get(&deployed.cluster).is_some_and(|known| known.real == deployed.commit) {
        return;
    }
    let (cluster, short, by) = (&deployed.cluster, deployed.commit.short(), printable(deployed.by.as_bytes()));
    let since = ago(deptool_agent::shared::time::now() - deployed.when);
    remote.say(&format!("{}: {cluster} is at {short}, deployed by {by} {since} ago", host.host));
}

/// Record the answers of a clone, after Git has created its refs.
pub fn note_postponed(remote: &Remote, postponed: Postponed, verbosity: u32) -> Result<(), RemoteError> {
    for (host, answer) in postponed.answers {
        let _lock = remote.lock(&host)?;
        settle(remote, &host, &answer, verbosity)?;
    }
    Ok(())
}

/// Ask one host what it runs, fetch that, and update the tracking ref.
///
/// The caller holds the host's lock in this repository.
pub fn refresh(remote: &Remote, host: &HostRemote, verbosity: u32) -> Result<Option<Running>, RemoteError> {
    let answer = ask::ask(remote, host, &ask::elsewhere(remote), &|_| {})?;
    settle(remote, host, &answer, verbosity)?;
    Ok(answer.running)
}

/// Refresh many hosts at the same time. Returns for each the error, if it could not be asked.
pub fn refresh_all(remote: &Remote, hosts: &[HostRemote], options: &Options) -> Vec<Result<(), RemoteError>> {
    let manner = if hosts.len() > 1 { remote.manner(options) } else { Manner::Hidden };
    let progress = Progress::new(shown(remote, hosts), manner);
    let mut results: Vec<Result<(), RemoteError>> = hosts.iter().map(|_| Ok(())).collect();
    ask_all(remote, hosts, Locking::ByCaller, &progress, &mut |at, answer| {
        results[at] = answer.and_then(|(answer, _)| settle(remote, &hosts[at], &answer, options.verbosity));
    });
    progress.finish();
    results
}

/// Record a host's answer. While a deployment is in progress on the host, it stays in doubt.
fn settle(remote: &Remote, host: &HostRemote, answer: &Answer, verbosity: u32) -> Result<(), RemoteError> {
    let tracking = remote.tracking();
    let running = answer.running.as_ref();
    for cluster in tracking.clusters(host)?.into_keys() {
        if running.is_none_or(|running| running.deployed.cluster != cluster) {
            tracking.remove(host, &cluster)?;
        }
    }
    if let Some(running) = running {
        note_found(remote, host, running, verbosity)?;
        let by = printable(running.deployed.by.as_bytes());
        tracking.set(
            host,
            &running.deployed.cluster,
            running.local(),
            &format!("deptool: fetched (deployed by {by})"),
        )?;
    }
    match &answer.busy {
        Some(holder) => {
            let since = ago(deptool_agent::shared::time::now() - holder.since);
            let by = printable(holder.by.as_bytes());
            remote.say(&format!("{}: {by} has been {} for {since}", host.host, holder.phase.word()));
        }
        None => {
            for (cluster, doubted) in tracking.unsettled(&host.host)? {
                if let Some(attempt) = &answer.last_attempt {
                    say_end(remote, host, attempt, doubted);
                }
                tracking.settle(&host.host, &cluster)?;
            }
            tracking.clear_locks(host);
        }
    }
    Ok(())
}

/// Print how a deployment by this repository failed, if that was unknown until now.
fn say_end(remote: &Remote, host: &HostRemote, attempt: &Attempt, doubted: state::Attempt) {
    let what = match attempt.to {
        Goal::Commit(id) if doubted == state::Attempt::Deploy(id) => format!("the deployment of {}", id.short()),
        Goal::Nothing if doubted == state::Attempt::Remove => "the removal".to_owned(),
        Goal::Commit(_) | Goal::Nothing => return,
    };
    let how = match &attempt.result {
        AttemptResult::Done => return,
        AttemptResult::RolledBack { why, errors: _ } => format!("rolled back: {}", printable(why.as_bytes())),
        AttemptResult::Interrupted => "interrupted, and undone".into(),
    };
    remote.say(&format!("{}: {what} was {how}", host.host));
}

/// Record new projections, and print where a commit came from.
fn note_found(remote: &Remote, host: &HostRemote, running: &Running, verbosity: u32) -> Result<(), RemoteError> {
    let (tracking, deployed, short) = (remote.tracking(), &running.deployed, running.deployed.commit.short());
    match &running.found {
        CommitSource::Projection(projection) => {
            for pair in &projection.made {
                tracking.add_projection(pair)?;
            }
            if verbosity > 0 {
                remote.say(&format!(
                    "{}: {short} by {} is not in this repository; '{}' shows the host's part of it",
                    host.host,
                    printable(deployed.by.as_bytes()),
                    host.tracking,
                ));
            }
            return Ok(());
        }
        CommitSource::FromRemote(name) if verbosity > 0 => {
            remote.say(&format!("{}: {short} was fetched from '{}'", host.host, printable(name.as_bytes())));
        }
        CommitSource::Here | CommitSource::FromHost | CommitSource::FromRemote(_) => {}
    }
    tracking.remove_projection(deployed.commit, &host.host)?;
    Ok(())
}
