//! After the hosts have answered: tracking refs say what they said, and Git is told.

use deptool_agent::{
    host::deploy::now,
    name::HostName,
    outcome::{Failure, Outcome as HostOutcome},
    wire::{Deployed, Target as Goal},
};

use super::{Affected, Request, done, goal_text};
use crate::{
    delivery::End,
    fetch,
    helper::Outcome,
    remote::{Remote, RemoteError},
    render::ago,
    session::SessionError,
    tracking::TrackingError,
    transport::ConnectError,
};

/// Note every host's end, and make one outcome of all. Returns the hosts that were deployed to.
pub(super) fn conclude(
    remote: &Remote,
    request: &Request<'_>,
    affected: Vec<Affected>,
    ends: Vec<Option<End>>,
) -> Result<(Outcome, Vec<HostName>), RemoteError> {
    let (mut deployed, mut failed, mut called_off) = (Vec::new(), Vec::new(), Vec::new());
    let outcome = done(request, &affected);
    for (one, end) in affected.iter().zip(ends) {
        let host = one.remote.host.clone();
        let Some(end) = end else {
            settle(remote, request, one)?;
            called_off.push(host);
            continue;
        };
        match note(remote, request, one, end)? {
            None => deployed.push(host),
            Some(outcome) => failed.push((host, outcome)),
        }
    }
    if failed.is_empty() && called_off.is_empty() {
        return Ok((outcome, deployed));
    }
    if failed.is_empty() {
        return Ok((Outcome::Rejected("interrupted; nothing was changed".into()), deployed));
    }
    for host in called_off {
        remote.say(&format!("{host}: not attempted"));
    }
    match failed.pop() {
        Some((_, outcome)) if request.is_single => Ok((outcome, deployed)),
        Some(last) => {
            failed.push(last);
            Ok((of_group(remote, &failed), deployed))
        }
        None => Ok((outcome, deployed)),
    }
}

/// One outcome for a ref that stands for many hosts.
pub(super) fn of_group(remote: &Remote, failed: &[(HostName, Outcome)]) -> Outcome {
    for (host, outcome) in failed {
        let text = match outcome {
            Outcome::StaleInfo => "stale info",
            Outcome::NonFastForward => "non-fast-forward",
            Outcome::Rejected(text) => text,
            Outcome::NotAttempted | Outcome::Unaffected | Outcome::Done { .. } => continue,
        };
        remote.say(&format!("{host}: {text}"));
    }
    let names: Vec<&str> = failed.iter().map(|(host, _)| host.as_str()).collect();
    Outcome::Rejected(format!("not applied: {} failed", names.join(", ")))
}

/// A definite answer was heard, or the host never was told to go on.
fn settle(remote: &Remote, request: &Request<'_>, one: &Affected) -> Result<(), TrackingError> {
    remote.tracking().settle(&one.remote.host, &request.cluster)
}

/// Note how it ended on one host. `None` if the deployment is done.
fn note(remote: &Remote, request: &Request<'_>, one: &Affected, end: End) -> Result<Option<Outcome>, RemoteError> {
    let outcome = match end {
        End::Outcome(outcome) => outcome,
        End::NotReached(error) => {
            settle(remote, request, one)?;
            return Ok(Some(Outcome::Rejected(not_reached(&error))));
        }
        End::Unknown(error) => {
            remote.say(&format!("{}: {error}", one.remote.host));
            return Ok(Some(Outcome::Rejected("outcome unknown; run git fetch".into())));
        }
    };
    let rejected = match outcome {
        HostOutcome::Done { also_restarted } => {
            for unit in also_restarted {
                remote.say(&format!("{}: also restarted {unit}", one.remote.host));
            }
            move_tracking_ref(remote, request, one)?;
            settle(remote, request, one)?;
            return Ok(None);
        }
        HostOutcome::Stale { actual } => {
            settle(remote, request, one)?;
            return Ok(Some(stale(remote, request, one, actual)));
        }
        HostOutcome::Busy(holder) => {
            format!("locked by {} since {} ({})", holder.by, ago(now() - holder.since), holder.phase.word())
        }
        HostOutcome::Refused { why, details } => {
            say_details(remote, &one.remote.host, &details);
            why
        }
        HostOutcome::Cancelled => "interrupted; nothing was changed".into(),
        HostOutcome::RolledBack(failure) => rolled_back(remote, &one.remote.host, failure),
    };
    settle(remote, request, one)?;
    Ok(Some(Outcome::Rejected(rejected)))
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

/// Somebody else deployed: say who, and learn what runs there now, so that the next plan is right.
fn stale(remote: &Remote, request: &Request<'_>, one: &Affected, actual: Option<Deployed>) -> Outcome {
    let host = &one.remote.host;
    match actual {
        Some(Deployed { commit, by, when, .. }) => {
            let since = ago(now() - when);
            remote.say(&format!("{host}: {by} deployed {} {since} ago; nothing was changed", commit.short()));
        }
        None => remote.say(&format!("{host}: nothing is deployed there any more; nothing was changed")),
    }
    // The push has failed either way: what can't be brought home now is brought home by the next fetch.
    if let Err(error) = fetch::hear(remote, &one.remote, request.options.verbosity) {
        remote.say(&format!("{host}: {}", crate::helper::serve::chain(&error)));
    }
    Outcome::StaleInfo
}

fn say_details(remote: &Remote, host: &HostName, details: &str) {
    for line in details.lines() {
        remote.say(&format!("{host}:   {line}"));
    }
}

fn rolled_back(remote: &Remote, host: &HostName, failure: Failure) -> String {
    let Failure { why, details, rollback_errors } = failure;
    say_details(remote, host, &details);
    for error in &rollback_errors {
        remote.say(&format!("{host}: while rolling back: {error}"));
    }
    if rollback_errors.is_empty() {
        format!("rolled back: {why}")
    } else {
        format!("rolled back, not completely: {why}")
    }
}

fn not_reached(error: &SessionError) -> String {
    match error {
        SessionError::Connect(ConnectError::Interrupted) => "interrupted; nothing was changed".into(),
        SessionError::Connect(error) => crate::helper::serve::chain(error),
        SessionError::Lost(why) => format!("unreachable: {why}"),
        SessionError::Agent(_) | SessionError::OutOfOrder | SessionError::Idle(_) => error.to_string(),
    }
}
