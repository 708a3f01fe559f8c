//! After the hosts have answered: tracking refs say what they said, and Git is told.

use deptool_agent::shared::{
    name::HostName,
    outcome::{Deployed, Goal, Outcome as HostOutcome, Rollback},
    text::printable,
    time::now,
};

use super::{
    Affected, Request,
    account::{self, Fate, HostReport},
    deploy, done, goal_text,
};
use crate::{
    agent::{session::SessionError, transport::ConnectError},
    fetch,
    fleet::{
        Conclusion,
        delivery::End,
        remote::{Remote, RemoteError, Results},
    },
    model::{error::chain, options::Run, outcome::Outcome},
    state::{Failed, HostFacts, TrackingError},
    ui::{progress::MANY, render::ago},
};

/// Note every host's end: the marks and tracking refs are right after this. Returns what became of each.
pub(super) fn conclude(
    remote: &Remote,
    request: &Request<'_>,
    affected: &[Affected],
    conclusions: Vec<Conclusion>,
) -> Vec<HostReport> {
    let mut reports = Vec::with_capacity(affected.len());
    for (one, conclusion) in affected.iter().zip(conclusions) {
        let mut report = request.report(&one.remote.host, one.tracked);
        if let Err(error) = note(remote, request, one, conclusion, &mut report) {
            remote.say(&format!("{}: {}", one.remote.host, chain(&error)));
            // The mark is still there, so the host is asked before anything else.
            if report.outcome == Fate::Done {
                (report.outcome, report.why) = (Fate::NotNoted, chain(&error));
            }
        }
        reports.push(report);
    }
    reports
}

/// What Git is told of a push in which this became of the hosts; says the rest on the terminal.
pub(super) fn tell(remote: &Remote, request: &Request<'_>, affected: &[Affected], reports: &[HostReport]) -> Outcome {
    if let Some(path) = &remote.report
        && request.options.run == Run::Real
        && let Err(error) = account::append(path, reports)
    {
        remote.say(&format!("warning: could not write '{}': {error}", path.display()));
    }
    let concerned = || reports.iter().filter(|report| report.outcome != Fate::Unaffected);
    if !request.is_single && remote.results == Results::Shown {
        let done = || concerned().filter(|report| report.outcome == Fate::Done);
        // Programs and logs get all lines; nobody reads hundreds of them on a terminal.
        let is_counted = done().count() > MANY && remote.manner(request.options).is_live();
        let says_done = request.options.verbosity > 0 && !is_counted;
        for report in concerned().filter(|report| says_done || report.outcome != Fate::Done) {
            remote.say(&format!("{}: {}", report.host, report.text()));
        }
        if is_counted {
            remote.say(&format!("{} of {} hosts: done", done().count(), concerned().count()));
        }
    }
    if concerned().all(|report| report.outcome == Fate::Done) {
        return if affected.is_empty() { Outcome::Unaffected } else { done(request, affected) };
    }
    if concerned().all(|report| report.outcome == Fate::NotAttempted) {
        return Outcome::Rejected("interrupted; nothing was changed".into());
    }
    match reports {
        [one] if request.is_single => match one.outcome {
            Fate::Stale => Outcome::StaleInfo,
            Fate::NonFastForward => Outcome::NonFastForward,
            _ => Outcome::Rejected(one.text()),
        },
        _ => Outcome::Rejected(account::summary(reports)),
    }
}

/// A definite answer was heard, or the host never was told to go on.
fn settle(remote: &Remote, request: &Request<'_>, one: &Affected) -> Result<(), TrackingError> {
    remote.tracking().settle(&one.remote.host, &request.cluster)
}

/// Note how it ended on one host, here and in `report`.
fn note(
    remote: &Remote,
    request: &Request<'_>,
    one: &Affected,
    conclusion: Conclusion,
    report: &mut HostReport,
) -> Result<(), RemoteError> {
    let host = &one.remote.host;
    let (end, rolled_back) = match conclusion {
        Conclusion::NotAttempted => return Ok(settle(remote, request, one)?),
        Conclusion::Skipped(error) => {
            (report.outcome, report.why) = (Fate::Skipped, not_reached(&error).1);
            return Ok(settle(remote, request, one)?);
        }
        Conclusion::Ended(end) => (end, Fate::RolledBack),
        Conclusion::Reverted(end) => (end, Fate::Reverted),
    };
    let outcome = match end {
        End::Outcome(outcome) => outcome,
        End::NotReached(error) => {
            (report.outcome, report.why) = not_reached(&error);
            return Ok(settle(remote, request, one)?);
        }
        End::Unknown(error) => {
            remote.say(&format!("{host}: {error}"));
            (report.outcome, report.why) = (Fate::Unknown, error.to_string());
            return Ok(());
        }
    };
    (report.outcome, report.why) = match outcome {
        HostOutcome::Done { also_restarted } => {
            for unit in also_restarted {
                remote.say(&format!("{host}: also restarted {unit}"));
            }
            report.outcome = Fate::Done;
            move_tracking_ref(remote, request, one)?;
            remote.tracking().mark_whole(host)?;
            remember(remote, request, one, None);
            (Fate::Done, String::new())
        }
        HostOutcome::Stale { actual } => {
            settle(remote, request, one)?;
            report.actual = actual;
            (Fate::Stale, stale(remote, request, one, report.actual.as_ref()))
        }
        HostOutcome::Busy(holder) => {
            let since = ago(now() - holder.since);
            (Fate::Busy, format!("locked by {} since {since} ({})", holder.by, holder.phase.word()))
        }
        HostOutcome::Refused { why, details } => {
            say_details(remote, host, &details);
            report.details = details;
            (Fate::Refused, why)
        }
        HostOutcome::Cancelled => (Fate::Cancelled, String::new()),
        HostOutcome::RolledBack(Rollback { why, details, rollback_errors }) => {
            say_details(remote, host, &details);
            for error in &rollback_errors {
                remote.say(&format!("{host}: while rolling back: {error}"));
            }
            if !rollback_errors.is_empty() && one.tracked.is_some() {
                remote.tracking().mark_broken(host, &request.cluster)?;
            }
            (report.details, report.rollback_errors) = (details, rollback_errors);
            remember(remote, request, one, Some(format!("rolled back: {why}")));
            (rolled_back, why)
        }
    };
    Ok(settle(remote, request, one)?)
}

fn move_tracking_ref(remote: &Remote, request: &Request<'_>, one: &Affected) -> Result<(), TrackingError> {
    let tracking = remote.tracking();
    match request.goal {
        Goal::Commit(commit) => tracking.set(
            &one.remote,
            &request.cluster,
            commit,
            &format!("deptool: deployed {}", goal_text(request.goal)),
        ),
        Goal::Nothing => tracking.remove(&one.remote, &request.cluster),
    }
}

/// What `git deptool status` shows beside the tracking ref: who it was, and whether the last attempt failed. To fail here is
/// no reason to call a deployment failed.
fn remember(remote: &Remote, request: &Request<'_>, one: &Affected, failed: Option<String>) {
    let tracking = &one.remote.tracking;
    let Some(mut facts) = HostFacts::load(&remote.repo, tracking) else { return };
    let (by, when) = (printable(deploy::operator(&remote.repo).as_bytes()), now());
    let to = match request.goal {
        Goal::Commit(commit) => Some(commit),
        Goal::Nothing => None,
    };
    facts.failed = failed.map(|why| Failed { when, by: by.clone(), to, why });
    if facts.failed.is_none() {
        let (host, cluster) = (one.remote.host.clone(), request.cluster.clone());
        facts.deployed = to.map(|commit| Deployed { host, cluster, commit, by, when });
    }
    if let Err(error) = facts.store(&remote.repo, tracking) {
        remote.say(&format!("{}: {error}", one.remote.host));
    }
}

/// Somebody else deployed: say who, and learn what runs there now, so that the next plan is right.
fn stale(remote: &Remote, request: &Request<'_>, one: &Affected, actual: Option<&Deployed>) -> String {
    let host = &one.remote.host;
    let why = match actual {
        Some(Deployed { commit, by, when, .. }) => {
            format!("{by} deployed {} {} ago; nothing was changed", commit.short(), ago(now() - when))
        }
        None => "nothing is deployed there any more; nothing was changed".into(),
    };
    remote.say(&format!("{host}: {why}"));
    // The push has failed either way: what can't be brought home now is brought home by the next fetch.
    if let Err(error) = fetch::hear(remote, &one.remote, request.options.verbosity) {
        remote.say(&format!("{host}: {}", chain(&error)));
    }
    why
}

fn say_details(remote: &Remote, host: &HostName, details: &str) {
    for line in details.lines() {
        remote.say(&format!("{host}:   {line}"));
    }
}

/// What an error means that came before the host was told to go on.
pub(super) fn not_reached(error: &SessionError) -> (Fate, String) {
    match error {
        SessionError::Connect(ConnectError::Interrupted) => (Fate::Cancelled, String::new()),
        SessionError::Connect(ConnectError::Unreachable(why)) | SessionError::Lost(why) => {
            (Fate::Unreachable, why.clone())
        }
        error if error.is_unreachable() => (Fate::Unreachable, chain(error)),
        error => (Fate::Refused, chain(error)),
    }
}
