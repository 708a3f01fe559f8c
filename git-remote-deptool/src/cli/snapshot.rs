//! `git deptool snapshot`: commits a rendered directory to the cluster's branch.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use deptool_agent::shared::{name::HostName, text::printable};

use super::{
    CliError, cluster_of,
    exit::ExitStatus,
    output::{Output, Style, painted},
    view,
};
use crate::{
    fleet::context::Context,
    snapshot::{self, Change, Committed, Request, Run, Snapshot, Source},
};

/// Show at most this many hosts, and count the rest.
const HOSTS: usize = 20;

/// Commit a rendered directory to the cluster's branch
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The directory to commit, with one directory per host; by default the current one
    #[arg(value_name = "directory", default_value = ".", hide_default_value = true)]
    directory: PathBuf,
    /// The commit message; by default it names the source
    #[arg(short, long, value_name = "text", allow_hyphen_values = true)]
    message: Option<OsString>,
    /// Write nothing; only show what would be committed
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// `--json`
#[derive(serde::Serialize)]
struct Report<'a> {
    version: u32,
    cluster: &'a str,
    result: &'static str,
    commit: Option<String>,
    tree: String,
    parents: Vec<String>,
    source: Option<String>,
    files: usize,
    hosts: BTreeMap<&'a str, Change>,
}

pub(super) fn run(context: &Context, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let cluster = cluster_of(context)?;
    let variables: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let here = std::env::current_dir()?;
    let source = || Source::around(&[&args.directory, &here], &variables, cluster, &context.repo);
    let request = Request {
        directory: &args.directory,
        cluster,
        message: args.message.as_ref().map(|message| message.as_encoded_bytes()),
        run: if args.dry_run { Run::Dry } else { Run::Real },
        interrupt: &context.connector.interrupted,
    };
    let snapshot = snapshot::take(&context.repo, &context.settings, &request, &source)?;
    for warning in &snapshot.warnings {
        output.warn(warning);
    }
    match args.json {
        true => output.json(&report(cluster.as_str(), &snapshot))?,
        false => show(context, output, cluster.as_str(), &snapshot)?,
    }
    Ok(ExitStatus::Done)
}

fn report<'a>(cluster: &'a str, snapshot: &'a Snapshot) -> Report<'a> {
    let (result, commit) = match snapshot.result {
        Committed::Unchanged => ("unchanged", snapshot.parents.first().copied()),
        Committed::Would => ("dry-run", None),
        Committed::Commit(id) => ("committed", Some(id)),
    };
    Report {
        version: view::VERSION,
        cluster,
        result,
        commit: commit.map(|id| id.to_string()),
        tree: snapshot.tree.to_string(),
        parents: snapshot.parents.iter().map(ToString::to_string).collect(),
        source: snapshot.source.as_ref().map(ToString::to_string),
        files: snapshot.files,
        hosts: snapshot.hosts.iter().map(|(host, change)| (host.as_str(), *change)).collect(),
    }
}

/// Print the commit and the hosts, marked like files in a plan.
fn show(context: &Context, output: &Output, cluster: &str, snapshot: &Snapshot) -> Result<(), CliError> {
    let colour = output.has_colour(context.repo.gix().config_snapshot().plumbing());
    let files = if snapshot.files == 1 { "1 file".to_owned() } else { format!("{} files", snapshot.files) };
    let source = snapshot.source.as_ref().map(|source| {
        let dirty = if source.is_dirty { ", with changes that are not committed" } else { "" };
        format!(" from {} ({}{dirty})", source.commit.short(), printable(source.subject.as_bytes()))
    });
    let source = source.unwrap_or_default();
    match snapshot.result {
        Committed::Unchanged => return Ok(output.note(format_args!("nothing has changed: {files} as on '{cluster}'"))?),
        Committed::Would => output.note(format_args!("would commit {files}{source} to '{cluster}'"))?,
        Committed::Commit(id) => output.note(format_args!("'{cluster}' is at {}: {files}{source}", id.short()))?,
    }
    for (host, change) in snapshot.hosts.iter().take(HOSTS) {
        output.note(format_args!("    {}", line(host, *change, colour)))?;
    }
    if let Some(more @ 1..) = snapshot.hosts.len().checked_sub(HOSTS) {
        output.note(format_args!("    … and {more} more hosts"))?;
    }
    if snapshot.hosts.is_empty() {
        output.note("    no file changes, but the commit descends from what the hosts run")?;
    }
    Ok(())
}

fn line(host: &HostName, change: Change, colour: bool) -> String {
    match change {
        Change::Added => painted(&format!("+ {host}"), Style::Added, colour),
        Change::Changed => painted(&format!("~ {host}"), Style::Changed, colour),
        Change::Removed => painted(&format!("- {host}"), Style::Removed, colour),
    }
}
