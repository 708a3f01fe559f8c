//! The changed lines of a plan, as `git diff` shows them: with the user's pager, colours and diff drivers.

use std::{
    collections::BTreeMap,
    io,
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
};

use deptool_agent::shared::{id::CommitId, name::HostName, outcome::Goal, plan::Change};

use super::{CliError, output::Output, pager::Pager};
use crate::{
    fleet::remote::Remote,
    plan::{ClusterPlan, HostChange},
    secrets::plain_text,
};

/// What to show of the changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Patch,
    Stat,
    Both,
}

impl Format {
    fn argument(self) -> &'static str {
        match self {
            Format::Patch => "--patch",
            Format::Stat => "--stat",
            Format::Both => "--patch-with-stat",
        }
    }
}

/// Show `text` and the changes of all hosts that `plan` affects; in a pager on a terminal.
pub(super) fn show(
    remote: &Remote,
    output: &Output,
    text: &str,
    plan: &ClusterPlan,
    format: Format,
) -> Result<(), CliError> {
    output.flush()?;
    let pager = Pager::start(remote)?;
    let shown = print(remote, output, text, plan, format, pager.as_ref());
    let ended = pager.map_or(Ok(()), Pager::wait);
    match shown {
        // The reader stopped early.
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ended,
        shown => shown.and(ended),
    }
}

/// Encrypted files: what Git would show of them is noise. The plan says that they change, and [`secrets`] does.
const NO_SECRETS: &str = ":(top,exclude,glob)*/*/secrets/**";

/// A line for each secret of a host that changes.
fn secrets(host: &HostName, change: &HostChange) -> String {
    let mut text = String::new();
    for app in &change.plan.apps {
        for (path, change) in app.files.iter().filter(|(path, _)| plain_text::is_secret(path.as_bytes())) {
            let what = match change {
                Change::Add => "added",
                Change::Update => "changed",
                Change::Remove => "removed",
            };
            text += &format!("secret {what}: {host}/{}/{path}\n", app.app);
        }
    }
    text
}

/// The changed lines of one host's directory, without colours.
pub(super) fn of_host(
    remote: &Remote,
    change: &HostChange,
    new: CommitId,
    host: &HostName,
) -> Result<Vec<u8>, CliError> {
    let mut git = diff(remote, Format::Patch, change.tracked.map(|tracked| tracked.commit), new);
    let run = git.arg("--color=never").args(["--", host.as_str(), NO_SECRETS]).stdin(Stdio::null()).output()?;
    match run.status.success() {
        true => Ok(run.stdout),
        false => Err(CliError::Text(format!("git diff failed: {}", run.status))),
    }
}

/// `git diff` between two commits, without the paths.
fn diff(remote: &Remote, format: Format, old: Option<CommitId>, new: CommitId) -> Command {
    let old = old.map_or(gix::ObjectId::empty_tree(gix::hash::Kind::Sha1), |old| old.0);
    let mut git = remote.repo.git();
    // Attributes are searched for here, and paths are relative to it.
    git.current_dir(remote.repo.top()).args(["--no-pager", "-c", "advice.graftFileDeprecated=false"]);
    git.arg("diff").arg(format.argument()).arg(old.to_string()).arg(new.to_string());
    git
}

fn print(
    remote: &Remote,
    output: &Output,
    text: &str,
    plan: &ClusterPlan,
    format: Format,
    pager: Option<&Pager>,
) -> Result<(), CliError> {
    match pager {
        Some(pager) => pager.write(output.shown(text).as_bytes())?,
        None => {
            output.text(text)?;
            output.flush()?;
        }
    }
    let Goal::Commit(new) = plan.goal else { return Ok(()) };
    let mut by_old: BTreeMap<Option<CommitId>, Vec<&HostName>> = BTreeMap::new();
    for (host, change) in plan.affected() {
        by_old.entry(change.tracked.map(|tracked| tracked.commit)).or_default().push(&host.host);
    }
    for (old, hosts) in by_old {
        let mut git = diff(remote, format, old, new);
        match (output.has_colour(remote.repo.gix().config_snapshot().plumbing()), pager) {
            (false, _) => drop(git.arg("--color=never")),
            (true, Some(_)) => drop(git.env("GIT_PAGER_IN_USE", "1")),
            (true, None) => drop(git.arg("--color=always")),
        }
        git.arg("--").args(hosts.iter().map(|host| host.as_str())).arg(NO_SECRETS);
        if let Some(pager) = pager {
            git.stdout(pager.input()?);
        }
        let status = git.stdin(Stdio::null()).status()?;
        match status.signal() {
            Some(signal) if signal == rustix::process::Signal::PIPE.as_raw() => return Ok(()),
            _ if status.success() => {}
            _ => return Err(CliError::Text(format!("git diff failed: {status}"))),
        }
    }
    let changed: String = plan.affected().map(|(host, change)| secrets(&host.host, change)).collect();
    match pager {
        Some(pager) => pager.write(output.shown(&changed).as_bytes())?,
        None => output.text(&changed)?,
    }
    Ok(())
}
