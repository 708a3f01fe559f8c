//! Asking hosts what they run, and bringing it home.
//!
//! All hosts of a group are asked at once ([`ask`]); what they said is noted here, in one place, as it comes. If one
//! could not be asked the whole fetch fails, after all others were noted: the tracking refs are right as far as hosts
//! were asked, those of the others stay as they were, and nobody can take the fetch for complete. Git is told nothing
//! then, so it neither prunes a ref nor writes an old value as news.

mod ask;
mod from_host;
mod listed;
pub mod projection;
pub mod query;

use std::collections::BTreeMap;

use ask::{Answer, ask_all, why};
pub use ask::{Running, place_to_ask};
use deptool_agent::shared::{
    name::{ClusterName, HostName},
    outcome::{Attempt, AttemptResult, Goal},
    text::printable,
};
use gix::bstr::BString;
use gix_protocol::handshake::Ref;

use crate::{
    config::{HostRemote, Target},
    fetch::projection::CommitSource,
    fleet::remote::{Remote, RemoteError},
    model::options::Options,
    state::{self, HostFacts, HostLock, Tracked},
    ui::{
        progress::{FirstContact, Host, Manner, Progress},
        render::ago,
    },
};

/// How many names of hosts an error has.
const NAMES: usize = 10;

/// What was heard of hosts, to be noted when Git is done with its own refs.
#[derive(Debug, Default)]
pub struct Postponed(Vec<(HostRemote, Answer)>);

/// What all hosts of the remote run, as refs for Git. All objects are here when this returns.
pub fn advertised(remote: &Remote, options: &Options) -> Result<(Vec<Ref>, Postponed), RemoteError> {
    let hosts = hosts_of(remote)?;
    if hosts.is_empty() && remote.tracking().is_unused()? {
        let text = "'@all' stands for the hosts that a repository knows, and a new one knows none; \
                    clone one of them by name, as in 'git clone deptool::web1'";
        return Err(RemoteError::Text(text.into()));
    }
    let is_group = !matches!(remote.target, Target::Host(_));
    // `git clone` aborts if the refs that it is about to make are there.
    let is_clone = remote.tracking().is_unused()?;
    let manner = if is_group { remote.manner(options) } else { Manner::Hidden };
    let progress = Progress::new(shown(remote, &hosts), manner);
    let mut running: Vec<Option<Running>> = hosts.iter().map(|_| None).collect();
    let (mut failed, mut postponed) = (Vec::new(), Postponed::default());
    ask_all(remote, &hosts, &progress, &mut |at, answer| {
        let host = &hosts[at];
        let noted = answer.and_then(|(answer, _lock)| {
            running[at] = answer.running.clone();
            if is_clone {
                postponed.0.push((host.clone(), answer));
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
    let refs =
        hosts.iter().zip(&running).filter_map(|(host, running)| Some(refs_of(host, running.as_ref()?, is_group)));
    let mut refs: Vec<Ref> = refs.flatten().collect();
    if is_group {
        refs.extend(listed::branches(remote, &running, is_clone));
    }
    refs.extend(listed::tags(remote)?);
    Ok((refs, postponed))
}

/// Whom to ask. Of `@all` that is every host that has a remote, or was last heard to run something, or is in what is
/// about to be deployed.
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

/// The hosts as progress shows them.
fn shown(remote: &Remote, hosts: &[HostRemote]) -> Vec<Host> {
    let first_contact = |host: &HostRemote| match HostFacts::load(&remote.repo, &host.tracking) {
        Some(_) => FirstContact::No,
        None => FirstContact::Possible,
    };
    hosts.iter().map(|host| Host { name: host.host.clone(), first_contact: first_contact(host) }).collect()
}

/// Say which hosts could not be asked, and why; an error if there are any.
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
    let mut names: Vec<String> = failed.iter().take(NAMES).map(|(host, _)| host.to_string()).collect();
    if failed.len() > NAMES {
        names.push(format!("{} more", failed.len() - NAMES));
    }
    Err(RemoteError::Text(format!("could not ask {}; the other hosts' refs are up to date", names.join(", "))))
}

/// The refs that Git is shown of one host.
fn refs_of(host: &HostRemote, running: &Running, is_group: bool) -> Vec<Ref> {
    let (cluster, object) = (&running.deployed.cluster, running.local().0);
    if is_group {
        let full_ref_name = BString::from(format!("refs/heads/{}/{cluster}", host.tracking));
        return vec![Ref::Direct { full_ref_name, object }];
    }
    let name = BString::from(format!("refs/heads/{cluster}"));
    vec![
        Ref::Symbolic { full_ref_name: "HEAD".into(), target: name.clone(), tag: None, object },
        Ref::Direct { full_ref_name: name, object },
    ]
}

/// Note an answer, and say what is news.
fn note(remote: &Remote, host: &HostRemote, answer: &Answer, verbosity: u32) -> Result<(), RemoteError> {
    settle(remote, host, answer, verbosity)?;
    if verbosity > 0 {
        say_news(remote, host, &answer.before, answer.running.as_ref());
    }
    Ok(())
}

/// Say what was not known before. Git does not: it finds its tracking ref in place.
fn say_news(remote: &Remote, host: &HostRemote, before: &BTreeMap<ClusterName, Tracked>, running: Option<&Running>) {
    let Some(Running { deployed, found: _ }) = running else {
        if !before.is_empty() {
            remote.say(&format!("{}: nothing is deployed there any more", host.host));
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

/// Note what was heard in the course of a clone, which has made its own refs by now.
pub fn note_postponed(remote: &Remote, postponed: Postponed, verbosity: u32) -> Result<(), RemoteError> {
    for (host, answer) in postponed.0 {
        let _lock = HostLock::acquire(&remote.repo, &host.tracking)?;
        settle(remote, &host, &answer, verbosity)?;
    }
    Ok(())
}

/// Ask one host what it runs, bring that home, and move the tracking ref to the truth.
///
/// The caller holds the host's lock on this side.
pub fn refresh(remote: &Remote, host: &HostRemote, verbosity: u32) -> Result<Option<Running>, RemoteError> {
    let answer = ask::ask(remote, host, &ask::elsewhere(), &|_| {})?;
    settle(remote, host, &answer, verbosity)?;
    Ok(answer.running)
}

/// What the host said is what is known of it. While it is at work its deployments stay in doubt.
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
            &format!("deptool: heard (deployed by {by})"),
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

/// Say how a deployment of ours has ended that was not kept, and of which that was not known here.
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

/// Note which projections there are by now, and say where a commit came from.
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
