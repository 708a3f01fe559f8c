//! How far each host is, as the progress display shows it.

use deptool_agent::shared::{
    outcome::{Outcome, Phase},
    text::printable,
};

use crate::{
    agent::transport::Stage,
    fleet::delivery::{End, Report},
    model::error::chain,
    ui::progress::State,
};

/// What a report says of how far a host is, if that is news.
pub fn state_of(report: &Report) -> Option<State> {
    Some(match report {
        Report::Stage(Stage::Connecting) => State::Connecting,
        Report::Stage(Stage::Installing { .. }) => State::Installing,
        Report::Hello(_) => State::At(Phase::Preparing),
        Report::Phase(phase) => State::At(*phase),
        Report::Prepared => State::At(Phase::Prepared),
        Report::Healthy => State::At(Phase::AwaitingVerdict),
        Report::Kept => State::At(Phase::AwaitingRelease),
        Report::Ended(end) => state_of_end(end),
        Report::Busy(_) => State::Waiting,
        Report::Answered(_) | Report::NeedFull | Report::Note(_) | Report::Lost => return None,
    })
}

fn state_of_end(end: &End) -> State {
    let outcome = match end {
        End::Outcome(outcome) => outcome,
        End::NotReached(error) => return State::Failed(chain(error)),
        End::Unknown(error) => return State::Failed(format!("outcome unknown: {}", chain(error))),
    };
    match outcome {
        Outcome::Done { .. } => State::Done,
        Outcome::Cancelled => State::NotAttempted,
        Outcome::Stale { .. } => State::Failed("stale info".into()),
        Outcome::Busy(holder) => State::Failed(format!("locked by {}", printable(holder.by.as_bytes()))),
        Outcome::Refused { why, .. } => State::Failed(why.clone()),
        Outcome::RolledBack(failure) => State::Failed(format!("rolled back: {}", failure.why)),
    }
}
