//! Translates events of a delivery for the progress display.

use deptool_agent::shared::{
    outcome::{Outcome, Phase},
    text::printable,
};

use crate::{
    agent::transport::Stage,
    fleet::delivery::{DeliveryEnd, DeliveryEvent},
    model::error::chain,
    ui::progress::State,
};

/// The new state of a host after an event, if the event changes it.
pub fn state_of(report: &DeliveryEvent) -> Option<State> {
    Some(match report {
        DeliveryEvent::Stage(Stage::Connecting) => State::Connecting,
        DeliveryEvent::Stage(Stage::Asking) => State::Prompting,
        DeliveryEvent::Stage(Stage::Installing { .. }) => State::Installing,
        DeliveryEvent::Hello(_) => State::At(Phase::Preparing),
        DeliveryEvent::Phase(phase) => State::At(*phase),
        DeliveryEvent::WaitsFor(what) => State::WaitsFor(what.clone()),
        DeliveryEvent::Prepared => State::At(Phase::Prepared),
        DeliveryEvent::Healthy => State::At(Phase::AwaitingVerdict),
        DeliveryEvent::Kept => State::At(Phase::AwaitingRelease),
        DeliveryEvent::Ended(end) => state_of_end(end),
        DeliveryEvent::Busy(_) => State::Waiting,
        DeliveryEvent::MayBegin
        | DeliveryEvent::Came(_)
        | DeliveryEvent::Socket(_)
        | DeliveryEvent::NeedFull
        | DeliveryEvent::Note(_)
        | DeliveryEvent::Lost => return None,
    })
}

fn state_of_end(end: &DeliveryEnd) -> State {
    let outcome = match end {
        DeliveryEnd::Outcome(outcome) => outcome,
        DeliveryEnd::NotReached(error) => return State::Failed(chain(error)),
        DeliveryEnd::Unknown(error) => return State::Failed(format!("outcome unknown: {}", chain(error))),
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
