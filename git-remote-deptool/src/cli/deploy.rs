//! `git deptool deploy`: show the plan, ask, and have `git push` carry it out.

use std::{
    fmt::Write as _,
    fs, io,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use deptool_agent::shared::{name::ClusterName, text::printable};
use gix::bstr::ByteSlice;
use serde::Serialize;

use super::{
    CliError,
    aim::{self, Aim, AimArgs, Selection},
    diff::{self, Format},
    exit::ExitStatus,
    hear::{self, Heard, Whom},
    output::Output,
    plan,
    prompt::Terminal,
    view,
    wiring::Draft,
};
use crate::{
    config::url::Address,
    fleet::remote::Remote,
    model::batch::Ancestry,
    plan::ClusterPlan,
    push::host_report::{HostOutcome, HostReport},
    state::HostLock,
    ui::render::{cluster::Detail, plural},
};

/// Show what would change, ask, and deploy
///
/// The deployment is a 'git push'. It carries out the plan that was shown, or nothing. A host that fails is rolled back.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    aim: AimArgs,
    #[command(flatten)]
    how: How,
}

/// How a deployment is carried out.
#[derive(Debug, clap::Args)]
pub(super) struct How {
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
    /// Fetch what the hosts run first
    #[arg(long)]
    fetch: bool,
    /// If one host fails, roll back all of them
    #[arg(long)]
    atomic: bool,
    /// Deploy in waves: '1,25%,100%' is one host, then a quarter of them, then all
    #[arg(long, value_name = "until,...")]
    waves: Option<String>,
    /// Undo the deployment on hosts that can't be reached again within this time
    #[arg(long, value_name = "time", num_args = 0..=1, require_equals = true, default_missing_value = "30s")]
    confirm: Option<String>,
    /// Wait up to this time for another deployment to end
    #[arg(long, value_name = "time")]
    lock_wait: Option<String>,
    /// Skip hosts that can't be reached
    #[arg(long)]
    skip_unreachable: bool,
    /// Print the outcome for each host as JSON; needs --yes
    #[arg(long, requires = "yes")]
    json: bool,
}

impl How {
    fn whom(&self) -> Whom {
        if self.fetch { Whom::All } else { Whom::InDoubt }
    }
}

/// One commit for some hosts.
#[derive(Debug)]
pub(super) struct Deployment {
    pub aim: Aim,
    pub ancestry: Ancestry,
}

/// `--json`
#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    cluster: &'a ClusterName,
    seconds: f64,
    hosts: &'a [HostReport],
}

pub(super) fn run(remote: &Remote, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let aim = Aim::of(remote, &args.aim)?;
    carry_out(remote, output, vec![Deployment { aim, ancestry: Ancestry::Required }], &args.how)
}

/// Show, ask, push, and tell what became of it.
pub(super) fn carry_out(
    remote: &Remote,
    output: &Output,
    deployments: Vec<Deployment>,
    how: &How,
) -> Result<ExitStatus, CliError> {
    let mut plans = Vec::new();
    for Deployment { aim, ancestry } in &deployments {
        if hear::hear(remote, &aim.hosts, how.whom())? == Heard::Some && !how.skip_unreachable {
            output.complain("error: nothing was deployed")?;
            return Ok(ExitStatus::Unreachable);
        }
        plans.push(aim.plan(&remote.repo, *ancestry)?);
    }
    let refused: Vec<_> = plans.iter().flat_map(|plan| plan.refused()).map(|(_, refusal)| refusal).collect();
    if !refused.is_empty() {
        for plan in &plans {
            plan::show_problems(plan, output)?;
        }
        output.complain("error: nothing was deployed")?;
        return Ok(view::status_of(&refused));
    }
    let count: usize = plans.iter().map(|plan| plan.affected().count()).sum();
    let cluster = deployments.first().map(|deployment| deployment.aim.cluster.clone());
    let (Some(cluster), 1..) = (cluster, count) else {
        return nothing_to_do(output, &deployments, how);
    };
    if !how.json {
        for plan in &plans {
            output.text(&plan::text(remote, output, plan, Detail::Readable))?;
        }
        output.note("\nRolls back automatically if a host fails.")?;
    }
    let hosts = plural(count, "host");
    if !how.yes && !is_agreed(remote, output, &plans, &format!("Apply to {hosts} in cluster '{cluster}'? [y/N/d] "))? {
        return Ok(ExitStatus::Declined);
    }
    let began = Instant::now();
    for Deployment { aim, ancestry } in &deployments {
        if *ancestry == Ancestry::Required {
            publish(remote, aim)?;
        }
    }
    let mut reports = Vec::new();
    let mut status = ExitStatus::Done;
    for (deployment, plan) in deployments.iter().zip(&plans) {
        if status != ExitStatus::Done {
            for (host, _) in plan.affected() {
                output.complain(format_args!("{}: not attempted", host.host))?;
            }
        } else if plan.affected().next().is_some() {
            let pushed = push(remote, deployment, plan, how)?;
            status = pushed.status;
            reports.extend(pushed.reports);
            for why in pushed.rejections {
                output.complain(format_args!("error: {why}"))?;
            }
        }
    }
    if how.json {
        let seconds = began.elapsed().as_secs_f64();
        output.json(&Document { version: view::VERSION, cluster: &cluster, seconds, hosts: &reports })?;
    } else {
        output.text(&result_text(&reports, began.elapsed()))?;
    }
    Ok(status)
}

fn nothing_to_do(output: &Output, deployments: &[Deployment], how: &How) -> Result<ExitStatus, CliError> {
    match deployments.first() {
        Some(Deployment { aim, .. }) if how.json => {
            let document = Document { version: view::VERSION, cluster: &aim.cluster, seconds: 0.0, hosts: &[] };
            output.json(&document)?;
        }
        _ => output.note("Everything is up to date.")?,
    }
    Ok(ExitStatus::Done)
}

/// Ask the person at the terminal. `d` shows the changes and asks again.
fn is_agreed(remote: &Remote, output: &Output, plans: &[ClusterPlan], question: &str) -> Result<bool, CliError> {
    output.flush()?;
    let Some(mut terminal) = Terminal::open() else {
        output.complain("error: there is no terminal to ask at; use --yes to deploy without being asked")?;
        return Ok(false);
    };
    loop {
        let answer = terminal.ask(question, &remote.connector.interrupted)?;
        match answer.as_deref().map(str::trim) {
            Some("y" | "Y" | "yes") => return Ok(true),
            Some("d" | "D") => {
                for plan in plans {
                    diff::show(remote, output, "", plan, Format::Patch)?;
                }
            }
            Some(_) | None => {
                output.complain("Nothing was deployed.")?;
                return Ok(false);
            }
        }
    }
}

/// With `deptool.publish`, have the commit where other operators find it before any host runs it.
fn publish(remote: &Remote, aim: &Aim) -> Result<(), CliError> {
    let config = remote.repo.gix().config_snapshot();
    let Some(shared) = config.string("deptool.publish").filter(|name| !name.is_empty()) else { return Ok(()) };
    let refspec = format!("{}:refs/heads/{}", aim.commit, aim.cluster);
    let mut git = Command::new("git");
    git.args(["push", "--quiet"]).arg(shared.to_os_str_lossy()).arg(refspec);
    let status = git.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    match status.success() {
        true => Ok(()),
        false => {
            let shared = printable(&shared);
            Err(CliError::Text(format!("could not push '{}' to '{shared}'; nothing was deployed", aim.cluster)))
        }
    }
}

/// What a push has come to.
struct Pushed {
    status: ExitStatus,
    reports: Vec<HostReport>,
    /// Why it failed, where no host has anything to do with it.
    rejections: Vec<String>,
}

/// Carry out what was agreed to, and nothing else.
fn push(remote: &Remote, deployment: &Deployment, plan: &ClusterPlan, how: &How) -> Result<Pushed, CliError> {
    let Deployment { aim, ancestry } = deployment;
    let report = ReportFile::new(remote)?;
    let mut git = Command::new("git");
    let destination = destination(remote, aim, &mut git)?;
    git.args(["push", "--porcelain"]);
    if how.atomic {
        git.arg("--atomic");
    }
    for option in push_options(plan, how) {
        git.arg("-o").arg(option);
    }
    let forced = if *ancestry == Ancestry::Waived { "+" } else { "" };
    git.arg(destination).arg(format!("{forced}{}:refs/heads/{}", aim.commit, aim.cluster));
    git.env("GIT_DEPTOOL_REPORT", &report.0).env("GIT_DEPTOOL_SHOW", "progress");
    let output = git.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if output.status.signal().is_some() || remote.connector.interrupted.is_set() {
        // Git dies of Ctrl-C at once; the helper tells the hosts first, and holds these until it has heard of them.
        for (host, _) in plan.affected() {
            drop(HostLock::acquire(&remote.repo, &host.tracking)?);
        }
    }
    let reports = report.read()?;
    let reported = reports.iter().map(|report| status_of(report.outcome)).fold(ExitStatus::Done, worse);
    if reported != ExitStatus::Done || output.status.success() {
        return Ok(Pushed { status: reported, reports, rejections: Vec::new() });
    }
    let rejections = rejections(&String::from_utf8_lossy(&output.stdout));
    let is_stale = rejections.iter().any(|why| why.contains("(stale info)"));
    let status = if is_stale { ExitStatus::Stale } else { ExitStatus::Failed };
    Ok(Pushed { status, reports, rejections })
}

/// What `git push --porcelain` says of refs that were rejected: `[remote rejected] (why)`.
fn rejections(table: &str) -> Vec<String> {
    let rejected = table.lines().filter_map(|line| line.strip_prefix("!\t"));
    rejected.filter_map(|line| Some(printable(line.split_once('\t')?.1.as_bytes()))).collect()
}

/// The remote to push to. Tells `git` whatever it has to know of it.
fn destination(remote: &Remote, aim: &Aim, git: &mut Command) -> Result<String, CliError> {
    match (&aim.selection, aim.hosts.as_slice()) {
        (Selection::Some(_), [only]) => Ok(aim::remote_of(remote, only)),
        (Selection::Some(_), hosts) => Ok(hear::address(git, hosts.iter())),
        (Selection::All, _) => {
            let config = remote.repo.gix().config_snapshot();
            let remotes = Draft::new(config.plumbing()).remotes();
            let all = remotes.into_iter().find(|remote| remote.address == Some(Address::All));
            Ok(all.map_or_else(|| "deptool::@all".to_owned(), |remote| remote.name))
        }
    }
}

fn push_options(plan: &ClusterPlan, how: &How) -> Vec<String> {
    let How { yes: _, fetch: _, atomic: _, waves, confirm, lock_wait, skip_unreachable, json: _ } = how;
    let mut options = vec![format!("plan={}", plan.digest())];
    options.extend(waves.as_ref().map(|waves| format!("waves={waves}")));
    options.extend(confirm.as_ref().map(|time| format!("confirm={time}")));
    options.extend(lock_wait.as_ref().map(|time| format!("lock-wait={time}")));
    options.extend(skip_unreachable.then(|| "skip-unreachable".to_owned()));
    options
}

/// What the helper says of each host. The file goes when this does.
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
        // What is left is in nobody's way.
        let _ = fs::remove_file(&self.0);
    }
}

/// How the whole ends if that became of one host.
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

/// The one of two that a script has to know of.
fn worse(a: ExitStatus, b: ExitStatus) -> ExitStatus {
    const FROM_WORST: [ExitStatus; 7] = [
        ExitStatus::Unknown,
        ExitStatus::RolledBack,
        ExitStatus::Stale,
        ExitStatus::Busy,
        ExitStatus::Unreachable,
        ExitStatus::Failed,
        ExitStatus::Done,
    ];
    FROM_WORST.into_iter().find(|status| *status == a || *status == b).unwrap_or(a)
}

/// What became of the hosts:
///
/// ```text
///
///   web1: done
///   web2: rolled back: nginx.service failed
///
/// Deployed to 1 of 2 hosts in 0.41 s.
/// ```
fn result_text(reports: &[HostReport], took: Duration) -> String {
    let mut out = String::new();
    let concerned: Vec<_> = reports.iter().filter(|report| report.outcome != HostOutcome::Unaffected).collect();
    if concerned.is_empty() {
        return out;
    }
    out.push('\n');
    for report in &concerned {
        // A String takes everything.
        let _ = writeln!(out, "  {}: {}", report.host, report.text());
    }
    let done = concerned.iter().filter(|report| report.outcome == HostOutcome::Done).count();
    let seconds = took.as_secs_f64();
    let _ = match done {
        0 => writeln!(out, "\nNothing was deployed."),
        _ if done == concerned.len() => writeln!(out, "\nDeployed to {} in {seconds:.2} s.", plural(done, "host")),
        _ => writeln!(out, "\nDeployed to {done} of {} in {seconds:.2} s.", plural(concerned.len(), "host")),
    };
    out
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

    #[test]
    fn the_exit_status_is_that_of_the_host_that_matters_most() {
        use ExitStatus::*;
        assert_eq!(
            [worse(Done, Done), worse(Done, Failed), worse(Unreachable, RolledBack)],
            [Done, Failed, RolledBack]
        );
        assert_eq!([worse(Unknown, RolledBack), worse(Stale, Busy)], [Unknown, Stale]);
    }
}
