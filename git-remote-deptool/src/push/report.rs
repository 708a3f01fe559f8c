//! Reports the outcome of a push to Git, to the operator, and to programs.

use super::{
    Affected, Request,
    host_report::{self, HostOutcome, HostReport},
};
use crate::{
    fleet::remote::{Remote, Results},
    model::{
        options::Run,
        outcome::{RefOutcome, RefUpdate},
    },
    ui::progress::MANY,
};

/// The outcome for Git. Everything else is printed.
pub(super) fn report(
    remote: &Remote,
    request: &Request<'_>,
    affected: &[Affected],
    reports: &[HostReport],
) -> RefOutcome {
    let mut is_written = false;
    if let Some(path) = remote.report.as_ref().filter(|_| request.options.run == Run::Real) {
        match host_report::append(path, reports) {
            Ok(()) => is_written = true,
            Err(error) => remote.say(&format!("warning: could not write '{}': {error}", path.display())),
        }
    }
    let concerned = || reports.iter().filter(|report| report.outcome != HostOutcome::Unaffected);
    if !request.is_single && remote.results == Results::Shown {
        let done = || concerned().filter(|report| report.outcome == HostOutcome::Done);
        // Programs and logs get a line for each host. On a terminal, many hosts are counted.
        let is_counted = done().count() > MANY && remote.manner(request.options).is_live();
        let says_done = request.options.verbosity > 0 && !is_counted;
        for report in concerned().filter(|report| says_done || report.outcome != HostOutcome::Done) {
            remote.say(&format!("{}: {}", report.host, report.text()));
        }
        if is_counted {
            remote.say(&format!("{} of {} hosts: done", done().count(), concerned().count()));
        }
    }
    if concerned().all(|report| report.outcome == HostOutcome::Done) {
        return if affected.is_empty() { RefOutcome::Unaffected } else { done(request, affected) };
    }
    if remote.results == Results::OnlyReported && is_written {
        // The program that reads the report shows failures. Git must not show them, too.
        return RefOutcome::Unaffected;
    }
    if concerned().all(|report| report.outcome == HostOutcome::NotAttempted) {
        return RefOutcome::Rejected("interrupted; nothing was changed".into());
    }
    match reports {
        [one] if request.is_single => match one.outcome {
            HostOutcome::Stale => RefOutcome::StaleInfo,
            HostOutcome::NonFastForward => RefOutcome::NonFastForward,
            HostOutcome::Done
            | HostOutcome::NotNoted
            | HostOutcome::Unaffected
            | HostOutcome::RolledBack
            | HostOutcome::Reverted
            | HostOutcome::Busy
            | HostOutcome::Unreachable
            | HostOutcome::Refused
            | HostOutcome::Cancelled
            | HostOutcome::Unknown
            | HostOutcome::NotAttempted
            | HostOutcome::Skipped => RefOutcome::Rejected(one.text()),
        },
        _ => RefOutcome::Rejected(host_report::summary(reports)),
    }
}

/// The outcome for Git after a success, or after a dry run without errors.
fn done(request: &Request<'_>, affected: &[Affected]) -> RefOutcome {
    let new = request.goal.commit();
    match affected {
        [one] if request.is_single => {
            RefOutcome::Done { old: one.tracked.map(|tracked| tracked.commit), new, update: one.update }
        }
        // The hosts may have had different commits. Git shows one of them, or "new branch" if no host had a commit.
        _ => {
            let old = affected.iter().find_map(|one| one.tracked.map(|tracked| tracked.commit));
            let is_forced = affected.iter().any(|one| one.update == RefUpdate::Forced);
            let update = if is_forced { RefUpdate::Forced } else { RefUpdate::FastForward };
            RefOutcome::Done { old, new, update }
        }
    }
}
