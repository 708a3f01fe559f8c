//! `git deptool rename-host`: what this repository knows of a host gets another name.
//!
//! ```text
//! the host answers ▸ refs and facts under the new name ▸ the configuration: from here on the new name counts
//!                  ▸ refs and facts under the old name go ▸ cluster.json and the directory in the work tree
//! ```
//!
//! The host's own record says which directory of the deployed commit it runs, so it changes with the next deployment, which
//! brings a commit that has the new one. After an interruption the same command completes what is missing.

use clap_complete::ArgValueCandidates;
use deptool_agent::shared::{
    name::{ClusterName, HostName},
    wire::Hello,
};
use gix::bstr::ByteSlice as _;
use serde::Serialize;

use super::{
    CliError, candidates, cluster_json,
    exit::ExitStatus,
    output::Output,
    view,
    wiring::{Draft, NewHost},
};
use crate::{
    config::{HostRemote, TrackingName, Via, url::Address},
    fetch::query::query,
    fleet::remote::{Remote, RemoteError},
    repo::{Others, Renamed, Setting, git::Git},
    state::{HostFacts, HostLock, pairs::Pair},
};

/// Rename a host: its remote, what is known of it, cluster.json, and its directory in the work tree
///
/// The host must answer. It takes the new name with the next deployment, and nothing changes there before.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The host's directory until now
    #[arg(value_name = "old", add = ArgValueCandidates::new(candidates::hosts))]
    old: String,
    /// The new name of the directory
    #[arg(value_name = "new")]
    new: String,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

/// `--json`
#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    host: &'a HostName,
    done: &'a [String],
}

/// The names before and after.
struct Names {
    old: HostName,
    new: HostName,
    /// Under which the host is tracked. They are equal if its remote has a name of its own.
    from: TrackingName,
    to: TrackingName,
}

pub(super) fn run(remote: &Remote, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let (old, new) = (HostName::parse(args.old.as_bytes())?, HostName::parse(args.new.as_bytes())?);
    if old == new || new.as_str() == "all" {
        return Err(CliError::Usage(format!("'{new}' can't be the new name of '{old}'")));
    }
    let remotes = remote.settings.known_hosts()?;
    let with = |name: &HostName| remotes.iter().find(|known| known.host == *name);
    let (before, after) = (with(&old), with(&new));
    if before.is_some() && after.is_some() {
        return Err(CliError::Text(format!("'{new}' is another host: it has a remote of its own")));
    }
    // The configuration has changed already if an earlier run was interrupted.
    let host = match (after, before) {
        (Some(host), _) | (None, Some(host)) => host.clone(),
        (None, None) => remote.settings.host(&old)?,
    };
    if after.is_none() && !remote.tracking().unsettled(&old)?.is_empty() {
        return Err(CliError::Text(format!(
            "the outcome of a deployment to '{old}' is not known; run git fetch first"
        )));
    }
    ask(remote, &host, &old, &new)?;

    let from = before.map_or_else(|| TrackingName::from(&old), |known| known.tracking.clone());
    let to = match after {
        Some(known) => known.tracking.clone(),
        None if from == TrackingName::from(&old) => TrackingName::from(&new),
        None => from.clone(),
    };
    let names = Names { old, new, from, to };
    let mut done = Vec::new();
    let _locks = lock(remote, &names)?;
    if after.is_none() {
        check(remote, &names)?;
        copy(remote, &names)?;
        configure(remote, &names, &host, &mut done)?;
    }
    forget(remote, &names)?;
    if cluster_json::rename(&remote.repo, &names.old, &names.new)? {
        done.push("changed cluster.json".to_owned());
    }
    if move_directory(remote, &names)? {
        done.push(format!("moved '{}' to '{}' in the work tree", names.old, names.new));
    }
    show(output, &names, &done, args.json)?;
    Ok(ExitStatus::Done)
}

/// Ask the host whether it is the one that has the old name, or had it.
fn ask(remote: &Remote, host: &HostRemote, old: &HostName, new: &HostName) -> Result<(), CliError> {
    let answers = query(remote, std::slice::from_ref(host), |_, _| Ok(()));
    let Some(answer) = answers.into_iter().next() else { return Ok(()) };
    let (Hello { deployed, busy, .. }, ()) = answer?;
    if let Some(holder) = busy {
        let by = deptool_agent::shared::text::printable(holder.by.as_bytes());
        return Err(CliError::Hosts(format!("'{old}' is locked by a deployment of {by}; try again"), ExitStatus::Busy));
    }
    match deployed {
        Some(deployed) if deployed.host != *old && deployed.host != *new => {
            Err(RemoteError::OtherDirectory { theirs: deployed.host, ours: old.clone() }.into())
        }
        Some(_) | None => Ok(()),
    }
}

fn lock(remote: &Remote, names: &Names) -> Result<Vec<HostLock>, CliError> {
    // In the order of the names, like a push to several hosts.
    let tracking = std::collections::BTreeSet::from([&names.from, &names.to]);
    let lock = |name| Ok(HostLock::acquire(&remote.repo, name, &remote.connector.interrupted)?);
    tracking.into_iter().map(lock).collect()
}

/// The new name must be free: what is known of another remote under it would be overwritten.
fn check(remote: &Remote, Names { from, to, .. }: &Names) -> Result<(), CliError> {
    let remotes = Draft::new(remote.repo.gix().config_snapshot().plumbing()).remotes();
    if from != to && remotes.iter().any(|one| one.name == to.as_str()) {
        return Err(CliError::Text(format!("there is a remote '{to}' already, which belongs to something else")));
    }
    cluster_of(remote).map(drop)
}

fn cluster_of(remote: &Remote) -> Result<&ClusterName, CliError> {
    let cluster = remote.settings.cluster.as_ref();
    cluster.ok_or_else(|| CliError::Text("there is no cluster here yet; run 'git deptool init'".into()))
}

/// Copy what is known under the old name.
fn copy(remote: &Remote, names: &Names) -> Result<(), CliError> {
    if names.from != names.to {
        remote.tracking().copy(&names.from, &names.to)?;
    }
    for pair in remote.tracking().projections()?.into_iter().filter(|pair| pair.host == names.old) {
        remote.tracking().add_projection(&Pair { host: names.new.clone(), ..pair })?;
    }
    if let Some(facts) = HostFacts::load(&remote.repo, &names.from) {
        let facts = HostFacts { host: names.new.clone(), ..facts };
        facts.store(&remote.repo, &names.to).map_err(RemoteError::from)?;
    }
    Ok(())
}

/// Forget what is known under the old name.
fn forget(remote: &Remote, names: &Names) -> Result<(), CliError> {
    if names.from != names.to {
        remote.tracking().forget(&names.from)?;
        HostFacts::forget(&remote.repo, &names.from).map_err(RemoteError::from)?;
    }
    for pair in remote.tracking().projections()?.into_iter().filter(|pair| pair.host == names.old) {
        remote.tracking().remove_projection(pair.real, &pair.host)?;
    }
    Ok(remote.tracking().mark_whole(&names.old)?)
}

/// Give the host's remote the new name, or add one if the host was reached by its old name alone.
fn configure(remote: &Remote, names: &Names, host: &HostRemote, done: &mut Vec<String>) -> Result<(), CliError> {
    let snapshot = remote.repo.gix().config_snapshot();
    let config = snapshot.plumbing();
    let (from, to) = (names.from.as_str(), names.to.as_str());
    let has_remote = remote.settings.has_remote(&names.from);
    let mut settings = Vec::new();
    let mut set = |key: String, value: String| settings.push(Setting { key, value, others: Others::Replaced });
    if has_remote {
        set(format!("remote.{to}.deptoolHost"), names.new.to_string());
        let fetch = |name: &str| format!("+refs/heads/*:refs/remotes/{name}/*");
        if config
            .string(&*format!("remote.{from}.fetch"))
            .is_some_and(|value| value.as_bytes() == fetch(from).as_bytes())
        {
            set(format!("remote.{to}.fetch"), fetch(to));
        }
        for key in pointing_to(config, from) {
            set(key, to.to_owned());
        }
    } else if remote.settings.shared.address(&names.old).is_none()
        && let Via::Ssh(address) = &host.via
    {
        let mut draft = Draft::new(config);
        let new = NewHost { host: names.new.clone(), address: Address::Ssh(address.clone()) };
        draft.host(cluster_of(remote)?, &new);
        for setting in draft.into_settings() {
            set(setting.key, setting.value);
        }
    }
    let is_added = !has_remote && !settings.is_empty();
    for group in remote.settings.group_names() {
        let (key, others) = (format!("deptool.group.{group}"), Others::Word(names.old.to_string()));
        settings.push(Setting { key, value: names.new.to_string(), others });
    }
    let renamed = (has_remote && from != to).then_some(Renamed { section: "remote", from, to });
    remote.repo.configure_renamed(renamed, &settings)?;
    match has_remote {
        true if from != to => done.push(format!("renamed remote '{from}' to '{to}'")),
        true => done.push(format!("set remote.{to}.deptoolHost to '{}'", names.new)),
        false if is_added => done.push(format!("added remote '{to}' for deptool::{}", names.old)),
        false => {}
    }
    Ok(())
}

/// The settings that name the remote `name`: where plain `git push` and `git fetch` go.
fn pointing_to(config: &gix::config::File, name: &str) -> Vec<String> {
    let branches = config.sections_by_name("branch").into_iter().flatten();
    let mut keys: Vec<String> = branches
        .filter_map(|section| section.header().subsection_name()?.to_str().ok().map(ToOwned::to_owned))
        .flat_map(|branch| ["remote", "pushRemote"].map(|key| format!("branch.{branch}.{key}")))
        .collect();
    keys.push("remote.pushDefault".into());
    keys.sort();
    keys.dedup();
    keys.retain(|key| config.string(key.as_str()).is_some_and(|value| value.as_bytes() == name.as_bytes()));
    keys
}

/// `git mv` of the host's directory, if it is there. What is staged is for the operator to commit.
fn move_directory(remote: &Remote, names: &Names) -> Result<bool, CliError> {
    let Some(top) = remote.repo.gix().workdir().map(ToOwned::to_owned) else { return Ok(false) };
    let (old, new) = (names.old.as_str(), names.new.as_str());
    if !top.join(old).is_dir() || top.join(new).symlink_metadata().is_ok() {
        return Ok(false);
    }
    let git = Git::new(remote.repo.git(), "mv", remote.connector.interrupted.clone());
    let moved = git
        .args(["--", old, new])
        .with(|command| {
            command.current_dir(&top);
        })
        .run(b"");
    moved.map(|_| true).map_err(|error| CliError::Text(error.to_string()))
}

fn show(output: &Output, names: &Names, done: &[String], json: bool) -> Result<(), CliError> {
    if json {
        return Ok(output.json(&Report { version: view::VERSION, host: &names.new, done })?);
    }
    for line in done {
        output.note(line)?;
    }
    if done.is_empty() {
        output.note("everything here has the new name already")?;
    }
    output.note(format_args!(
        "\nCommit that, and 'git deptool deploy {new}': the host takes the new name with the next deployment.",
        new = names.new
    ))?;
    Ok(())
}
