//! Runs the `git push` that carries out the plan that was agreed to.

use std::{
    fs, io,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use deptool_agent::shared::{text::printable, wire::Repair};
use gix::bstr::ByteSlice as _;

use super::{
    super::{
        CliError,
        aim::{self, Aim, Selection},
        deploy_options::{self, DeployOptions},
        exit::ExitStatus,
        git,
        output::Output,
        refresh,
    },
    Deployment,
};
use crate::{
    fleet::remote::Remote,
    model::{batch::Ancestry, interrupt::Interrupt, push_option::PlainText},
    plan::ClusterPlan,
    push::host_report::{HostOutcome, HostReport},
    state::HostLock,
};

/// The result of a push.
pub(super) struct Pushed {
    pub status: ExitStatus,
    pub reports: Vec<HostReport>,
    /// Why the push failed, if this is not due to any host.
    pub rejections: Vec<String>,
}

/// Carry out exactly the plan that was agreed to.
pub(super) fn push(
    remote: &Remote,
    deployment: &Deployment,
    plan: &ClusterPlan,
    how: &DeployOptions,
    output: &Output,
) -> Result<Pushed, CliError> {
    let Deployment { aim, ancestry, repair, plain, digest: _, intro: _ } = deployment;
    let report = ReportFile::new(remote)?;
    let mut git = Command::new("git");
    if *repair == Repair::All {
        // With this option Git does not consider the refs up to date.
        git.args(["-c", "push.pushOption=repair"]);
    }
    let destination = destination(remote, aim, &mut git)?;
    git.args(["push", "--porcelain"]);
    if how.atomic {
        git.arg("--atomic");
    }
    if output.is_quiet() {
        git.arg("--quiet");
    }
    // Where there are options on the command line, Git ignores those of the configuration.
    for option in deploy_options::configured(remote).iter().filter(|option| *option != b"repair") {
        git.arg("-o").arg(option.to_os_str_lossy());
    }
    for option in [format!("plan={}", plan.digest())].into_iter().chain(how.push_options()) {
        git.arg("-o").arg(option);
    }
    if *repair == Repair::All {
        git.args(["-o", "repair"]);
    }
    if *plain == PlainText::Allowed {
        git.args(["-o", "allow-plain"]);
    }
    let forced = if *ancestry == Ancestry::Waived { "+" } else { "" };
    git.arg(destination).arg(format!("{forced}{}:refs/heads/{}", aim.commit, aim.cluster));
    git.env("GIT_DEPTOOL_REPORT", &report.0).env("GIT_DEPTOOL_SHOW", "progress,no-failures");
    let ended = git::run(git.stdin(Stdio::null()).stderr(Stdio::inherit()), &remote.connector.interrupted)?;
    if ended.status.signal().is_some() || remote.connector.interrupted.is_set() {
        // Ctrl-C ends Git at once, but the helper tells the hosts first. It holds these locks until they have answered.
        for (host, _) in plan.affected() {
            drop(HostLock::acquire(&remote.repo, &host.tracking, &Interrupt::default())?);
        }
    }
    let reports = report.read()?;
    let reported = reports.iter().map(|report| status_of(report.outcome)).fold(ExitStatus::Done, ExitStatus::worse);
    if reported != ExitStatus::Done || ended.status.success() {
        return Ok(Pushed { status: reported, reports, rejections: Vec::new() });
    }
    let rejections = rejections(&String::from_utf8_lossy(&ended.stdout));
    let is_stale = rejections.iter().any(|why| why.contains("(stale info)"));
    let status = if is_stale { ExitStatus::Stale } else { ExitStatus::Failed };
    Ok(Pushed { status, reports, rejections })
}

/// The reasons of rejected refs in the output of `git push --porcelain`: `[remote rejected] (why)`.
fn rejections(table: &str) -> Vec<String> {
    let rejected = table.lines().filter_map(|line| line.strip_prefix("!\t"));
    rejected.filter_map(|line| Some(printable(line.split_once('\t')?.1.as_bytes()))).collect()
}

/// The remote to push to. Configures `git` for it if necessary.
fn destination(remote: &Remote, aim: &Aim, git: &mut Command) -> Result<String, CliError> {
    match (aim.selection, aim.hosts.as_slice()) {
        (Selection::Some, [only]) => Ok(aim::remote_of(remote, only)),
        (Selection::Some, hosts) => Ok(refresh::address(git, hosts.iter())),
        (Selection::All, _) => Ok(aim::remote_of_all(remote).unwrap_or_else(|| "deptool::@all".to_owned())),
    }
}

/// The file in which the helper reports the outcome of each host. It is deleted on drop.
struct ReportFile(PathBuf);

impl ReportFile {
    fn new(remote: &Remote) -> io::Result<Self> {
        let directory = remote.repo.common_dir().join("deptool");
        fs::create_dir_all(&directory)?;
        let path = fs::canonicalize(directory)?.join(format!("report.{}", std::process::id()));
        fs::write(&path, "")?;
        Ok(ReportFile(path))
    }

    fn read(&self) -> io::Result<Vec<HostReport>> {
        let text = fs::read(&self.0)?;
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).map_err(io::Error::from)).collect()
    }
}

impl Drop for ReportFile {
    fn drop(&mut self) {
        // A leftover does no harm.
        let _ = fs::remove_file(&self.0);
    }
}

/// The exit status for a host's outcome.
fn status_of(outcome: HostOutcome) -> ExitStatus {
    match outcome {
        HostOutcome::Done | HostOutcome::Unaffected => ExitStatus::Done,
        HostOutcome::RolledBack | HostOutcome::Reverted => ExitStatus::RolledBack,
        HostOutcome::Stale | HostOutcome::NonFastForward => ExitStatus::Stale,
        HostOutcome::Busy => ExitStatus::Busy,
        HostOutcome::Unreachable | HostOutcome::Skipped => ExitStatus::Unreachable,
        HostOutcome::Refused | HostOutcome::Cancelled | HostOutcome::NotAttempted => ExitStatus::Failed,
        HostOutcome::Unknown | HostOutcome::NotNoted => ExitStatus::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_has_rejected_is_told() {
        let table =
            "To deptool::@all\n!\tprod:refs/heads/prod\t[remote rejected] (bad waves)\n=\ta:b\t[up to date]\nDone\n";
        assert_eq!(rejections(table), ["[remote rejected] (bad waves)"]);
    }
}
