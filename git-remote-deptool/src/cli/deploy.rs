//! `git deptool deploy`: shows the plan, asks, and runs `git push`.

mod outcome;
mod push;

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use deptool_agent::shared::{
    name::{ClusterName, HostName},
    text::printable,
    wire::Repair,
};
use gix::bstr::ByteSlice;
use serde::Serialize;

use super::{
    CliError,
    aim::{Aim, AimArgs, Hosts},
    caveats,
    deploy_options::{DeployOptions, PlainOption},
    diff::{self, Format},
    exit::ExitStatus,
    git,
    output::Output,
    plan,
    prompt::Terminal,
    refresh::{self, Refreshed, Whom},
    view,
};
use crate::{
    fleet::remote::Remote,
    model::{batch::Ancestry, options::Atomicity, push_option::PlainText},
    plan::{ClusterPlan, Impact, Refusal},
    push::host_report::{HostOutcome, HostReport},
    ui::render::{
        cluster::{Detail, names},
        plural,
    },
};

/// Show what would change, ask, and deploy
///
/// The deployment is a 'git push'. It carries out the plan that was shown, or nothing. A host that fails is rolled back.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    aim: AimArgs,
    /// Also deploy a commit that does not descend from the one that runs, to go back
    #[arg(short, long)]
    force: bool,
    /// Deploy only what 'git deptool plan' showed with this digest
    #[arg(long, value_name = "digest")]
    digest: Option<String>,
    #[command(flatten)]
    plain: PlainOption,
    #[command(flatten)]
    how: DeployOptions,
}

/// One commit, to be deployed to some hosts.
#[derive(Debug)]
pub(super) struct Deployment {
    pub aim: Aim,
    pub ancestry: Ancestry,
    /// Whether to deploy to hosts that already run the commit, too.
    pub repair: Repair,
    pub plain: PlainText,
    /// What the plan has to be, see [`ClusterPlan::content_digest`].
    pub digest: Option<String>,
    /// Text above the plan.
    pub intro: String,
}

/// `--json`
#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    cluster: &'a ClusterName,
    seconds: f64,
    hosts: &'a [HostReport],
    /// Notes, for example that a host is no longer in the tree.
    notes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

pub(super) fn run(remote: &Remote, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let aim = Aim::of(remote, &args.aim, Hosts::OfTree)?;
    let ancestry = if args.force { Ancestry::Waived } else { Ancestry::Required };
    let notes = caveats::of_tree(remote, &aim)?;
    let plain = args.plain.or_configured(remote);
    let one = Deployment { aim, ancestry, repair: Repair::Changed, plain, digest: args.digest, intro: String::new() };
    carry_out(remote, output, &[one], &args.how, &notes)
}

/// Show the plan, ask, push, and report the outcome.
pub(super) fn carry_out(
    remote: &Remote,
    output: &Output,
    deployments: &[Deployment],
    how: &DeployOptions,
    notes: &[String],
) -> Result<ExitStatus, CliError> {
    let cluster = match deployments {
        [] => return Err(CliError::Text("there are no hosts to deploy to".into())),
        [first, ..] => first.aim.cluster.clone(),
    };
    let mut told = Told { output, how, cluster, notes: notes.to_vec(), began: Instant::now() };
    for note in &told.notes {
        output.remark(note)?;
    }
    let whom = if how.fetch { Whom::All } else { Whom::InDoubt };
    let mut plans = Vec::new();
    for Deployment { aim, ancestry, repair, plain, .. } in deployments {
        if refresh::refresh(remote, &aim.hosts, whom)? == Refreshed::NotAll && !how.skip_unreachable {
            return told.nothing_was_deployed(&[], ExitStatus::Unreachable);
        }
        plans.push(aim.plan(&remote.repo, *ancestry, *repair, *plain)?);
    }
    let refused: Vec<_> = plans.iter().flat_map(|plan| plan.refused()).map(|(_, refusal)| refusal).collect();
    if !refused.is_empty() {
        for plan in &plans {
            plan::show_problems(plan, output)?;
        }
        let reports: Vec<HostReport> = plans.iter().flat_map(not_attempted).collect();
        return told.nothing_was_deployed(&reports, view::status_of(&refused));
    }
    let count: usize = plans.iter().map(|plan| plan.affected().count()).sum();
    if count == 0 {
        let unseen = deployments.iter().flat_map(|one| caveats::of_work_tree(remote, &one.aim));
        return told.nothing_to_do(unseen.collect());
    }
    let is_another =
        |(one, plan): (&Deployment, &ClusterPlan)| one.digest.as_ref().is_some_and(|d| *d != plan.content_digest());
    if deployments.iter().zip(&plans).any(is_another) {
        let reports: Vec<HostReport> = plans.iter().flat_map(not_attempted).collect();
        output.complain("error: the plan is not the one of this digest: the commit or the hosts have changed since")?;
        return told.nothing_was_deployed(&reports, ExitStatus::Stale);
    }
    if let Some(why) = not_atomic(remote, deployments, &plans, how) {
        let reports: Vec<HostReport> = plans.iter().flat_map(not_attempted).collect();
        output.complain(format_args!("error: {why}"))?;
        return told.nothing_was_deployed(&reports, ExitStatus::Failed);
    }
    let is_silent = how.json || (how.yes && output.is_quiet());
    if !is_silent {
        show_plans(remote, output, deployments, &plans, how)?;
    }
    let question = format!("Apply to {} in cluster '{}'? [y/N/d] ", plural(count, "host"), told.cluster);
    if !how.yes && !is_agreed(remote, output, &plans, &question)? {
        return Ok(ExitStatus::Declined);
    }
    told.began = Instant::now();
    for Deployment { aim, ancestry, .. } in deployments {
        if *ancestry == Ancestry::Required {
            publish(remote, aim)?;
        }
    }
    let (status, reports) = push_all(remote, output, deployments, &plans, how)?;
    told.outcome(&reports)?;
    Ok(status)
}

/// Why one failure would not undo all others: each commit is a push of its own.
fn not_atomic(
    remote: &Remote,
    deployments: &[Deployment],
    plans: &[ClusterPlan],
    how: &DeployOptions,
) -> Option<String> {
    let is_atomic = |one: &Deployment| how.atomicity(remote, &one.aim.defaults) == Atomicity::AllOrNothing;
    let goes = |(one, plan): (&Deployment, &ClusterPlan)| {
        let hosts: Vec<&HostName> = plan.affected().map(|(host, _)| &host.host).collect();
        (!hosts.is_empty()).then(|| format!("{} to {}", names(&hosts, Detail::Readable), one.aim.commit.short()))
    };
    let goals: Vec<String> = deployments.iter().zip(plans).filter_map(goes).collect();
    (goals.len() > 1 && deployments.iter().any(is_atomic)).then(|| {
        format!(
            "all hosts or none (--atomic, or 'atomic' in cluster.json) is possible with one commit only, and these go to \
             different ones: {}; name the hosts of one commit, or add --no-atomic",
            goals.join("; ")
        )
    })
}

fn show_plans(
    remote: &Remote,
    output: &Output,
    deployments: &[Deployment],
    plans: &[ClusterPlan],
    how: &DeployOptions,
) -> Result<(), CliError> {
    for (Deployment { intro, aim, .. }, plan) in deployments.iter().zip(plans) {
        output.text(intro)?;
        output.text(&plan::text(remote, output, plan, Detail::Readable))?;
        output.text(&plan::course(remote, aim, plan, &how.course)?)?;
    }
    Ok(output.text("\nA host that fails is rolled back automatically.\n")?)
}

/// Push one after another, until one fails.
fn push_all(
    remote: &Remote,
    output: &Output,
    deployments: &[Deployment],
    plans: &[ClusterPlan],
    how: &DeployOptions,
) -> Result<(ExitStatus, Vec<HostReport>), CliError> {
    let mut reports = Vec::new();
    let mut status = ExitStatus::Done;
    for (deployment, plan) in deployments.iter().zip(plans) {
        if plan.affected().next().is_none() {
            continue;
        }
        if status != ExitStatus::Done {
            reports.extend(not_attempted(plan));
            continue;
        }
        let pushed = push::push(remote, deployment, plan, how, output)?;
        status = pushed.status;
        reports.extend(pushed.reports);
        for why in pushed.rejections {
            output.complain(format_args!("error: {why}"))?;
        }
    }
    Ok((status, reports))
}

/// Print that there is nothing to do, and why not everything may be as it should.
pub(super) fn nothing_to_do(
    output: &Output,
    how: &DeployOptions,
    cluster: ClusterName,
    notes: Vec<String>,
) -> Result<(), CliError> {
    Told { output, how, cluster, notes: Vec::new(), began: Instant::now() }.nothing_to_do(notes).map(drop)
}

/// Prints the outcome as text or as JSON.
struct Told<'a> {
    output: &'a Output,
    how: &'a DeployOptions,
    cluster: ClusterName,
    notes: Vec<String>,
    began: Instant,
}

impl Told<'_> {
    fn json(&self, reports: &[HostReport], error: Option<&str>) -> Result<(), CliError> {
        let (cluster, notes, seconds) = (&self.cluster, &self.notes, self.began.elapsed().as_secs_f64());
        Ok(self.output.json(&Document { version: view::VERSION, cluster, seconds, hosts: reports, notes, error })?)
    }

    fn nothing_was_deployed(&self, reports: &[HostReport], status: ExitStatus) -> Result<ExitStatus, CliError> {
        let error = "nothing was deployed";
        self.output.complain(format_args!("error: {error}"))?;
        if self.how.json {
            self.json(reports, Some(error))?;
        }
        Ok(status)
    }

    /// Print that there is nothing to do, and "everything is up to date" only if there are no notes.
    fn nothing_to_do(mut self, unseen: Vec<String>) -> Result<ExitStatus, CliError> {
        for note in &unseen {
            self.output.remark(note)?;
        }
        self.notes.extend(unseen);
        match (self.how.json, self.notes.is_empty()) {
            (true, _) => self.json(&[], None)?,
            (false, true) => self.output.note("Everything is up to date.")?,
            (false, false) => self.output.note("Nothing to deploy.")?,
        }
        Ok(ExitStatus::Done)
    }

    fn outcome(&self, reports: &[HostReport]) -> Result<(), CliError> {
        if self.how.json {
            return self.json(reports, None);
        }
        if !self.output.is_quiet() {
            return Ok(self.output.text(&outcome::text(reports, self.began.elapsed()))?);
        }
        for report in
            reports.iter().filter(|report| !matches!(report.outcome, HostOutcome::Done | HostOutcome::Unaffected))
        {
            self.output.complain(format_args!("{}: {}", report.host, report.text()))?;
        }
        Ok(())
    }
}

/// A report for each host of the plan, none of which was attempted.
fn not_attempted(plan: &ClusterPlan) -> Vec<HostReport> {
    let to = plan.goal.commit();
    let report = |forecast: &crate::plan::HostForecast| {
        let (outcome, why) = match &forecast.impact {
            Impact::Unaffected => return None,
            Impact::Affected(_) => (HostOutcome::NotAttempted, String::new()),
            Impact::Refused(refusal) => (outcome_of(refusal), refusal.words()),
        };
        Some(HostReport {
            host: forecast.remote.host.clone(),
            cluster: plan.cluster.clone(),
            from: forecast.known.clusters.get(&plan.cluster).map(|tracked| tracked.real),
            to,
            outcome,
            why,
            details: String::new(),
            rollback_errors: Vec::new(),
            drift: Vec::new(),
            actual: None,
        })
    };
    plan.hosts.iter().filter_map(report).collect()
}

fn outcome_of(refusal: &Refusal) -> HostOutcome {
    match refusal {
        Refusal::Stale => HostOutcome::Stale,
        Refusal::NonFastForward { .. } => HostOutcome::NonFastForward,
        Refusal::Unfit(_) | Refusal::Other(_) => HostOutcome::Refused,
    }
}

/// Ask the operator at the terminal. `d` shows the changes and asks again.
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

/// If `deptool.publish` is set, push the commit there before any host is changed.
fn publish(remote: &Remote, aim: &Aim) -> Result<(), CliError> {
    let config = remote.repo.gix().config_snapshot();
    let Some(shared) = config.string("deptool.publish").filter(|name| !name.is_empty()) else { return Ok(()) };
    let refspec = format!("{}:refs/heads/{}", aim.commit, aim.cluster);
    let mut git = Command::new("git");
    git.args(["push", "--quiet"]).arg(shared.to_os_str_lossy()).arg(refspec);
    let interrupt = &remote.connector.interrupted;
    let ended = git::run(git.stdin(Stdio::null()), interrupt)?;
    match ended.status.success() {
        _ if interrupt.is_set() => Err(CliError::Text("interrupted; nothing was deployed".into())),
        true => Ok(()),
        false => {
            let shared = printable(&shared);
            Err(CliError::Text(format!("could not push '{}' to '{shared}'; nothing was deployed", aim.cluster)))
        }
    }
}
