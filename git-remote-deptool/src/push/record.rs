//! Records the outcome of each host: tracking refs, marks, facts. This does not connect.

use deptool_agent::shared::{
    name::HostName,
    outcome::{Deployed, Goal, Outcome, Rollback},
    text::printable,
    time::now,
};

use super::{
    Affected, Request,
    host_report::{HostOutcome, HostReport, not_reached},
    in_the_way,
};
use crate::{
    config::HostRemote,
    fleet::{
        HostResult,
        delivery::DeliveryEnd,
        remote::{Remote, RemoteError},
    },
    model::error::chain,
    state::{Failed, HostFacts, TrackingError},
    ui::render::ago,
};

/// Record the outcome on every host. Afterwards marks and tracking refs are right. Returns a report on each host.
pub(super) fn record(
    remote: &Remote,
    request: &Request<'_>,
    affected: &[Affected],
    results: Vec<HostResult>,
) -> Vec<HostReport> {
    let mut reports = Vec::with_capacity(affected.len());
    let is_done = |result: &HostResult| matches!(result, HostResult::Ended(DeliveryEnd::Outcome(Outcome::Done { .. })));
    let done = affected.iter().zip(&results).filter(|(_, result)| is_done(result)).map(|(one, _)| &one.remote);
    let done: Vec<&HostRemote> = done.collect();
    if done.len() > 1 {
        // A failure shows again for the host whose ref was not moved.
        let _ = move_tracking_refs(remote, request, &done);
    }
    for (one, result) in affected.iter().zip(results) {
        let mut report = request.report(&one.remote.host, one.tracked);
        if let Err(error) = note(remote, request, one, result, &mut report) {
            remote.say(&format!("{}: {}", one.remote.host, chain(&error)));
            // The mark is still set, so the next command asks the host first.
            if report.outcome == HostOutcome::Done {
                (report.outcome, report.why) = (HostOutcome::NotNoted, chain(&error));
            }
        }
        reports.push(report);
    }
    reports
}

/// Remove the mark: the host gave a definite answer, or can't have begun.
fn settle(remote: &Remote, request: &Request<'_>, one: &Affected) -> Result<(), TrackingError> {
    remote.tracking().settle(&one.remote.host, &request.cluster)
}

/// Record the outcome on one host, in the repository and in `report`.
fn note(
    remote: &Remote,
    request: &Request<'_>,
    one: &Affected,
    result: HostResult,
    report: &mut HostReport,
) -> Result<(), RemoteError> {
    let host = &one.remote.host;
    let (end, rolled_back) = match result {
        HostResult::NotAttempted => return Ok(settle(remote, request, one)?),
        HostResult::Skipped(error) => {
            (report.outcome, report.why) = (HostOutcome::Skipped, not_reached(remote, &one.remote, &error).1);
            return Ok(settle(remote, request, one)?);
        }
        HostResult::Ended(end) => (end, HostOutcome::RolledBack),
        HostResult::Reverted(end) => (end, HostOutcome::Reverted),
    };
    let outcome = match end {
        DeliveryEnd::Outcome(outcome) => outcome,
        DeliveryEnd::NotReached(error) => {
            (report.outcome, report.why) = not_reached(remote, &one.remote, &error);
            return Ok(settle(remote, request, one)?);
        }
        DeliveryEnd::Unknown(error) => {
            let why = chain(&error);
            remote.say(&format!("{host}: {why}"));
            (report.outcome, report.why) = (HostOutcome::Unknown, why);
            return Ok(());
        }
    };
    note_answer(remote, request, one, (outcome, rolled_back), report)?;
    Ok(settle(remote, request, one)?)
}

/// Record what the host says of its deployment, in `report` before anything can fail. A rollback is reported as
/// `rolled_back`.
fn note_answer(
    remote: &Remote,
    request: &Request<'_>,
    one: &Affected,
    (outcome, rolled_back): (Outcome, HostOutcome),
    report: &mut HostReport,
) -> Result<(), RemoteError> {
    let host = &one.remote.host;
    match outcome {
        Outcome::Done { also_restarted, also_stopped, drift } => {
            report.outcome = HostOutcome::Done;
            report.drift = drift.iter().map(ToString::to_string).collect();
            for unit in also_restarted {
                remote.say(&format!("{host}: also restarted {unit}"));
            }
            for unit in also_stopped {
                remote.say(&format!("{host}: also stopped {unit}"));
            }
            move_tracking_refs(remote, request, &[&one.remote])?;
            remote.tracking().mark_whole(host)?;
            remember(remote, request, one, Remembered::Done { drift: report.drift.len() });
        }
        Outcome::Stale { actual } => {
            (report.outcome, report.why) = (HostOutcome::Stale, stale(actual.as_ref()));
            report.actual = actual;
        }
        Outcome::Busy(holder) => {
            let since = ago(now() - holder.since);
            report.outcome = HostOutcome::Busy;
            report.why = format!("locked by {} since {since} ({})", holder.by, holder.phase.word());
        }
        Outcome::Refused { why, mut details, in_the_way } => {
            if let Goal::Commit(commit) = request.goal {
                details += &in_the_way::diff(&remote.repo, host, commit, &in_the_way);
            }
            say_details(remote, host, &details);
            (report.outcome, report.why, report.details) = (HostOutcome::Refused, why, details);
        }
        Outcome::Cancelled => report.outcome = HostOutcome::Cancelled,
        Outcome::RolledBack(Rollback { why, details, rollback_errors }) => {
            say_details(remote, host, &details);
            for error in &rollback_errors {
                remote.say(&format!("{host}: while rolling back: {error}"));
            }
            remember(remote, request, one, Remembered::Failed(format!("rolled back: {why}")));
            let is_broken = !rollback_errors.is_empty();
            (report.outcome, report.why) = (rolled_back, why);
            (report.details, report.rollback_errors) = (details, rollback_errors);
            if is_broken && one.tracked.is_some() {
                remote.tracking().mark_broken(host, &request.cluster)?;
            }
        }
    }
    Ok(())
}

/// Let the tracking refs say what these hosts run now.
fn move_tracking_refs(remote: &Remote, request: &Request<'_>, hosts: &[&HostRemote]) -> Result<(), TrackingError> {
    let tracking = remote.tracking();
    match request.goal {
        Goal::Commit(commit) => {
            tracking.set_all(hosts, &request.cluster, commit, &format!("deptool: deployed {}", commit.short()))
        }
        Goal::Nothing => hosts.iter().try_for_each(|host| tracking.remove(host, &request.cluster)),
    }
}

/// The facts that an outcome changes.
enum Remembered {
    Done { drift: usize },
    Failed(String),
}

/// Record facts that `git deptool status` shows: who deployed, and whether the last attempt failed. An error does not
/// make the deployment fail.
fn remember(remote: &Remote, request: &Request<'_>, one: &Affected, what: Remembered) {
    let tracking = &one.remote.tracking;
    let Some(mut facts) = HostFacts::load(&remote.repo, tracking) else { return };
    let (by, when) = (printable(remote.repo.operator().as_bytes()), now());
    let to = request.goal.commit();
    match what {
        Remembered::Failed(why) => facts.failed = Some(Failed { when, by, to, why }),
        Remembered::Done { drift } => {
            let (host, cluster) = (one.remote.host.clone(), request.cluster.clone());
            facts.deployed = to.map(|commit| Deployed { host, cluster, commit, by, when });
            (facts.failed, facts.drift) = (None, drift);
        }
    }
    if let Err(error) = facts.store(&remote.repo, tracking) {
        remote.say(&format!("{}: {error}", one.remote.host));
    }
}

/// Who has deployed instead.
fn stale(actual: Option<&Deployed>) -> String {
    match actual {
        Some(Deployed { commit, by, when, .. }) => {
            format!("{by} deployed {} {} ago; nothing was changed", commit.short(), ago(now() - when))
        }
        None => "nothing is deployed any more; nothing was changed".into(),
    }
}

fn say_details(remote: &Remote, host: &HostName, details: &str) {
    for line in details.lines() {
        remote.say(&format!("{host}:   {line}"));
    }
}
