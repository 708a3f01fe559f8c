//! `git deptool init`: writes the configuration that makes a branch a cluster.

use std::{fs, io};

use clap_complete::ArgValueCandidates;
use deptool_agent::shared::name::ClusterName;
use gix::bstr::ByteSlice;

use super::{
    CliError, candidates, cluster_json,
    exit::ExitStatus,
    output::Output,
    view,
    wiring::{Destination, Draft},
};
use crate::{
    config::url::Address,
    fleet::context::Context,
    repo::{Repo, Setting},
};

/// The default name of the cluster's remote.
const REMOTE: &str = "cluster";
/// The default branch.
const CLUSTER: &str = "prod";
/// The setting that shares ssh connections; see `agent/transport/ssh.rs`.
pub(super) const SHARE: &str = "deptool.shareConnections";
/// The setting with which Git shows encrypted files, and the attributes that select it.
const TEXTCONV: &str = "diff.age.textconv";
const ATTRIBUTES: &[u8] = b"*.age -text -merge diff=age\n";

/// Set up a branch as a cluster: a remote for all its hosts, and push defaults
///
/// Existing settings are not changed. Everything is written to the repository's configuration; git-config(1) can undo it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cluster's branch; by default deptool.cluster, else the current branch
    #[arg(value_name = "cluster", add = ArgValueCandidates::new(candidates::clusters))]
    cluster: Option<String>,
    /// Share the ssh connections to hosts, with deptool.shareConnections
    #[arg(long)]
    share_connections: bool,
    /// Also write a first cluster.json, with the hosts and groups that are configured here
    #[arg(long)]
    cluster_json: bool,
    /// Let 'git diff' show what encrypted files tell without a key, with diff.age.textconv and .gitattributes
    #[arg(long)]
    secrets: bool,
    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

/// `--json`
#[derive(serde::Serialize)]
struct Report<'a> {
    version: u32,
    cluster: &'a str,
    remote: &'a str,
    written: &'a [Setting],
}

pub(super) fn run(context: &Context, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let cluster = choose(context, args.cluster.as_deref())?;
    let config = context.repo.gix().config_snapshot();
    let mut draft = Draft::new(config.plumbing());
    let remote = group_remote(&draft)?;
    draft.cluster(&cluster, &remote);
    if args.share_connections {
        draft.set(SHARE, "true");
    }
    if args.secrets {
        draft.set(TEXTCONV, "git deptool secret textconv");
    }
    let plain = draft.plain(&cluster);
    let is_shared = [SHARE, "core.sshCommand"].iter().any(|key| draft.get(key).is_some());
    let written = draft.into_settings();
    if args.cluster_json {
        cluster_json::create(context)?;
    }
    let has_attributes = args.secrets && add_attributes(context)?;
    context.repo.configure(&written)?;
    if args.json {
        output.json(&Report {
            version: view::VERSION,
            cluster: cluster.as_str(),
            remote: &remote,
            written: &written,
        })?;
        return Ok(ExitStatus::Done);
    }
    show(output, &written)?;
    if args.cluster_json {
        output.note("wrote cluster.json: commit it to share it with other operators")?;
    }
    if has_attributes {
        output.note("changed .gitattributes: commit it to share it with other operators")?;
    }
    if written.is_empty() {
        output.note(format_args!("cluster '{cluster}' is set up already"))?;
        return Ok(ExitStatus::Done);
    }
    output.note(format_args!("\n'git push {remote}' deploys to every host that the change affects."))?;
    if let Some(Destination::Others(other)) = plain {
        let other = deptool_agent::shared::text::printable(other.as_bytes());
        output.note(format_args!("A plain 'git push' on '{cluster}' goes to '{other}', as before."))?;
    }
    if !is_shared {
        output.note(
            "Pushes are faster over shared connections: see ControlMaster in ssh_config(5), or run\n\
             'git deptool init --share-connections' for this repository alone.",
        )?;
    }
    Ok(ExitStatus::Done)
}

/// Let Git treat encrypted files as what they are: no text, and not to be merged. Returns whether that changes anything.
fn add_attributes(context: &Context) -> Result<bool, CliError> {
    let Some(top) = context.repo.gix().workdir() else { return Ok(false) };
    let path = top.join(".gitattributes");
    let before = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        before => before?,
    };
    if before.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"*.age ")) {
        return Ok(false);
    }
    let mut after = before;
    if !after.is_empty() && !after.ends_with(b"\n") {
        after.push(b'\n');
    }
    after.extend_from_slice(ATTRIBUTES);
    fs::write(path, after)?;
    Ok(true)
}

/// Print the settings that were written, one `key = value` per line.
pub(super) fn show(output: &Output, written: &[Setting]) -> Result<(), CliError> {
    for Setting { key, value, .. } in written {
        let (key, value) = (key.as_bytes(), value.as_bytes());
        let text = |bytes| deptool_agent::shared::text::printable(bytes);
        output.note(format_args!("{} = {}", text(key), text(value)))?;
    }
    Ok(())
}

/// The cluster: the argument, else the configured one, else the current branch.
fn choose(context: &Context, typed: Option<&str>) -> Result<ClusterName, CliError> {
    let configured = context.settings.cluster.clone();
    match (typed, configured) {
        (None, Some(configured)) => Ok(configured),
        (None, None) => Ok(current_branch(&context.repo).unwrap_or(ClusterName::parse(CLUSTER.as_bytes())?)),
        (Some(typed), configured) => {
            let cluster = ClusterName::parse(typed.as_bytes())?;
            match configured {
                Some(other) if other != cluster => Err(CliError::Text(format!(
                    "the cluster of this repository is '{other}'; 'git config deptool.cluster {cluster}' changes that"
                ))),
                Some(_) | None => Ok(cluster),
            }
        }
    }
}

/// The branch that is checked out, if its name is valid for a cluster. It may be unborn.
fn current_branch(repo: &Repo) -> Option<ClusterName> {
    let head = repo.gix().head_name().ok()??;
    ClusterName::parse(head.shorten().as_bytes()).ok()
}

/// The name of the remote for all hosts.
pub(super) fn group_remote(draft: &Draft<'_>) -> Result<String, CliError> {
    let remotes = draft.remotes();
    if let Some(known) = remotes.iter().find(|remote| remote.address == Some(Address::All)) {
        return Ok(known.name.clone());
    }
    match remotes.iter().any(|remote| remote.name == REMOTE) {
        true => Err(CliError::Text(format!(
            "remote '{REMOTE}' belongs to something else; add one with another name for the cluster: \
             git remote add <name> deptool::@all"
        ))),
        false => Ok(REMOTE.into()),
    }
}
