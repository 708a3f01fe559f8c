//! A push, from Git's batch of refs to the report.
//!
//! ```text
//! resolve  the branch, the commit and the hosts; asks hosts in doubt
//! plan     for each host: lease, ancestry, what changes
//! run      deploys to all affected hosts
//! record   updates tracking refs, marks and facts
//! report   tells Git, the operator, and programs
//! ```
//!
//! A ref is *ok* only after every affected host has confirmed that the deployment is durable.

pub mod host_report;
mod in_the_way;
mod plan;
mod progress;
mod record;
mod report;
mod resolve;
mod run;

use std::sync::Arc;

use deptool_agent::shared::{
    name::{ClusterName, HostName},
    outcome::Goal,
    plan::HostPlan,
    text::printable,
    wire::Lease,
};
use gix::bstr::{BStr, ByteSlice};
use host_report::{HostOutcome, HostReport};
pub use resolve::of_tree as hosts_of_tree;

use crate::{
    config::HostRemote,
    fetch,
    fleet::remote::{Remote, RemoteError},
    model::{
        batch::{Ancestry, Deletions, Destination, PushBatch, PushCommand, Tags},
        error::chain,
        options::{Options, Run},
        outcome::{RefOutcome, RefReport, RefUpdate},
        safeguards::Safeguards,
    },
    plan::digest,
    state::{HostLock, Tracked},
    ui::render,
};

/// The parts of the request that all hosts have in common.
pub(crate) struct Request<'a> {
    pub cluster: ClusterName,
    pub goal: Goal,
    pub ancestry: Ancestry,
    /// `--force-with-lease`.
    pub lease: Option<Lease>,
    pub options: &'a Options,
    /// Whether the push is to one host, as opposed to a group.
    pub is_single: bool,
}

impl Request<'_> {
    /// A report on a host that was not attempted.
    fn report(&self, host: &HostName, tracked: Option<Tracked>) -> HostReport {
        let to = self.goal.commit();
        HostReport {
            host: host.clone(),
            cluster: self.cluster.clone(),
            from: tracked.map(|tracked| tracked.real),
            to,
            outcome: HostOutcome::NotAttempted,
            why: String::new(),
            details: String::new(),
            rollback_errors: Vec::new(),
            drift: Vec::new(),
            actual: None,
        }
    }
}

/// An affected host.
pub(crate) struct Affected {
    pub remote: HostRemote,
    /// What the host's directory is called in the deployed commit, if it was renamed since.
    pub renamed_from: Option<HostName>,
    pub tracked: Option<Tracked>,
    pub expected: Lease,
    pub plan: Arc<HostPlan>,
    pub safeguards: Arc<Safeguards>,
    pub update: RefUpdate,
    /// Held from before the mark is set until the host's answer was recorded. `None` in a dry run.
    pub _lock: Option<HostLock>,
}

/// Carry out `batch`, and set the outcome of each ref in `report`. Returns the hosts that were deployed to.
pub fn push(
    remote: &Remote,
    batch: &PushBatch,
    options: &Options,
    report: &mut RefReport,
) -> Result<Vec<HostName>, RemoteError> {
    let (tags, deletions) = (batch.tags_are(remote.settings.follow_tags), batch.deletions_are());
    let branches = batch.branches().filter(|(command, _)| !command.is_delete()).count();
    let mut deployed = Vec::new();
    for command in batch.commands() {
        let outcome = match command.destination() {
            Destination::Tag(_) if tags == Tags::Followed => RefOutcome::Unaffected,
            Destination::Tag(_) => reject("a tag can't be deployed; push a branch"),
            Destination::Other => reject("only branches can be deployed"),
            Destination::Guard => RefOutcome::Unaffected,
            Destination::Branch(name) if command.is_delete() && deletions != Deletions::Typed => {
                reject(&not_typed(name, deletions))
            }
            Destination::Branch(_) if branches > 1 => {
                reject("a host belongs to one cluster: push one branch at a time")
            }
            Destination::Branch(name) => match push_branch(remote, command, name, options) {
                Ok((outcome, hosts)) => {
                    deployed.extend(hosts);
                    outcome
                }
                Err(error) => reject(&chain(&error)),
            },
        };
        set(report, command.dst.as_bstr(), outcome);
    }
    Ok(deployed)
}

/// Why a deletion does not remove everything from a host: the operator has not explicitly asked for it.
fn not_typed(branch: &BStr, deletions: Deletions) -> String {
    let branch = printable(branch);
    match deletions {
        Deletions::Pruned => {
            format!("pruning and mirroring remove nothing from a host; 'git push <host> :{branch}' does")
        }
        Deletions::Accompanied | Deletions::Typed => {
            format!("to remove everything from a host, push ':{branch}' there and nothing else")
        }
    }
}

fn reject(text: &str) -> RefOutcome {
    RefOutcome::Rejected(text.into())
}

fn set(report: &mut RefReport, dst: &BStr, outcome: RefOutcome) {
    // Every destination is from the batch that the report was made for.
    let known = report.set(dst, outcome);
    debug_assert!(known.is_ok(), "{known:?}");
}

/// Push one branch to all of its hosts. This function owns the order of a push.
fn push_branch(
    remote: &Remote,
    command: &PushCommand,
    name: &BStr,
    options: &Options,
) -> Result<(RefOutcome, Vec<HostName>), RemoteError> {
    let remote = &resolve::shared(remote, command)?;
    let options = &remote.settings.shared.defaults.fill(options);
    let (request, only) = resolve::request(remote, command, name, options)?;
    let hosts = resolve::hosts(remote, &request, only)?;
    resolve::note_ignored(remote, &request)?;
    resolve::note_absent(remote, &request, &hosts)?;
    let mut hosts = resolve::lock(remote, &request, hosts)?;
    let mut reports = resolve::ask(remote, &request, &mut hosts)?;
    let (affected, others) = plan::plan(remote, &request, hosts)?;
    reports.extend(others);
    let mut outcome = None;
    if reports.iter().any(|report| !matches!(report.outcome, HostOutcome::Unaffected | HostOutcome::Skipped)) {
        // If the push can't go to one host, it goes to none.
        reports.extend(affected.iter().map(|one| request.report(&one.remote.host, one.tracked)));
    } else if is_other_plan(&request, &affected) {
        let why = "the hosts' known state has changed since the plan was made; nothing was changed";
        let stale = |one: &Affected| HostReport {
            outcome: HostOutcome::Stale,
            why: why.into(),
            ..request.report(&one.remote.host, one.tracked)
        };
        reports.extend(affected.iter().map(stale));
        remote.say(why);
        outcome = Some(RefOutcome::StaleInfo);
    } else {
        show_plans(remote, options, &affected);
        if options.run == Run::Real && !affected.is_empty() {
            let results = run::run(remote, &request, &affected)?;
            let recorded = record::record(remote, &request, &affected, results);
            learn_what_runs(remote, options, &affected, &recorded);
            reports.extend(recorded);
        }
    }
    let deployed =
        reports.iter().filter(|report| report.outcome == HostOutcome::Done).map(|report| report.host.clone()).collect();
    let told = report::report(remote, &request, &affected, &reports);
    Ok((outcome.unwrap_or(told), deployed))
}

/// Ask the hosts on which another operator has deployed what they run, so that the next plan is right.
fn learn_what_runs(remote: &Remote, options: &Options, affected: &[Affected], reports: &[HostReport]) {
    for (one, report) in affected.iter().zip(reports).filter(|(_, report)| report.outcome == HostOutcome::Stale) {
        let host = &report.host;
        remote.say(&format!("{host}: {}", report.why));
        // The push has failed anyway. The next fetch tries again.
        if let Err(error) = fetch::refresh(remote, &one.remote, options.verbosity) {
            remote.say(&format!("{host}: {}", chain(&error)));
        }
    }
}

/// Whether the plan differs from the one that was agreed to (`-o plan`).
fn is_other_plan(request: &Request<'_>, affected: &[Affected]) -> bool {
    let Some(agreed) = &request.options.push_options.plan else { return false };
    let affected = affected.iter().map(|one| (&one.remote.host, one.expected, &*one.plan));
    *agreed != digest(&request.cluster, request.goal, affected)
}

fn show_plans(remote: &Remote, options: &Options, affected: &[Affected]) {
    if options.run == Run::Real && options.verbosity < 2 {
        return;
    }
    let mut text = String::new();
    for one in affected {
        text += &render::plan(&one.remote.host, &one.plan, &one.safeguards);
        text.extend(render::notes(&one.plan).iter().map(|note| format!("    ({note})\n")));
    }
    if !text.is_empty() {
        remote.say(&text);
    }
}
