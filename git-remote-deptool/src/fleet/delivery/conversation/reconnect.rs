//! Connects again to a host that may have begun: to confirm a deployment, or because a connection was lost.

use std::time::{Duration, Instant};

use deptool_agent::shared::{
    outcome::{Attempt, AttemptResult, Outcome, Rollback},
    wire::{Request, Response},
};

use super::{Conversation, State};
use crate::{
    agent::{
        session::{Session, SessionError},
        transport::Present,
    },
    fleet::delivery::{DeliveryEnd, DeliveryEvent},
};

/// How many attempts to ask a host after the connection was lost. With `--atomic`, other hosts wait for the answer.
const TRIES: u32 = 2;
/// How long a host that got no confirmation may take to roll back and to be reachable again. The operator waits for the
/// confirmation's time limit and this, and longer only while the host still sends heartbeats.
const TIME_TO_GO_BACK: Duration = Duration::from_secs(10);
/// The pause between two attempts to connect.
const PAUSE: Duration = Duration::from_secs(1);

/// A connection that was lost after the host may have begun.
pub(super) struct Lost {
    pub error: SessionError,
    /// How often the host was asked on another connection.
    pub tries: u32,
    /// When to give up. Without it, the number of attempts is limited.
    pub deadline: Option<Instant>,
}

/// The state of a deployment that was asked for on another connection.
enum Status {
    Running(Box<Session>),
    Over(Outcome),
    /// It did not reach activation, and never will.
    NeverBegun,
}

impl Conversation<'_> {
    pub(super) fn confirm(&mut self, mut old: Box<Session>, lost: Option<Lost>, deadline: Instant) -> State {
        match self.attach(Some(deadline)) {
            Ok(Status::Running(session)) => State::Follow(session, lost),
            // The outcome is reported on the old connection.
            Ok(Status::Over(_) | Status::NeverBegun) => State::Follow(old, lost),
            Err(error) if Instant::now() >= deadline || self.is_interrupted() => {
                (self.tell)(DeliveryEvent::Note(format!("no new connection could be made: {error}")));
                old.expect_silence();
                self.give_up_at = Some(deadline + TIME_TO_GO_BACK);
                State::Follow(old, lost)
            }
            Err(_) => State::Confirm { old, lost, deadline, at: Instant::now() + PAUSE },
        }
    }

    /// Ask on another connection, and follow the deployment there if it is in progress.
    pub(super) fn resume(&mut self, lost: Lost) -> State {
        if self.is_interrupted() {
            return self.end(DeliveryEnd::Unknown(lost.error));
        }
        match self.attach(lost.deadline) {
            Ok(Status::Over(outcome)) => self.end(DeliveryEnd::Outcome(outcome)),
            Ok(Status::NeverBegun) => self.not_reached(lost.error),
            Ok(Status::Running(session)) => State::Follow(session, Some(lost)),
            Err(_) => self.lost_again(lost),
        }
    }

    pub(super) fn lost_again(&self, lost: Lost) -> State {
        let lost = Lost { tries: lost.tries + 1, ..lost };
        let may_try_again = match lost.deadline {
            Some(deadline) => Instant::now() + PAUSE < deadline,
            None => lost.tries < TRIES,
        };
        match may_try_again {
            true => State::Resume(lost, Instant::now() + PAUSE),
            false => self.end(DeliveryEnd::Unknown(lost.error)),
        }
    }

    /// Ask for our deployment, by its id, on a new connection.
    fn attach(&mut self, deadline: Option<Instant>) -> Result<Status, SessionError> {
        let stage = &mut |_| {};
        let target = self.delivery.target.afresh();
        let started = self.connector.start(&target, Present::Started, None, stage)?.until(deadline);
        let mut session = Session::open(self.connector, started, None, self.mailbox.clone(), stage)?;
        (self.tell)(DeliveryEvent::Hello(Box::new(session.hello()?)));
        session.send(&Request::Attach(self.delivery.request.id))?;
        match session.receive()? {
            Response::Attached => {
                self.expected.attached(&self.delivery.request);
                self.is_attached = true;
                Ok(Status::Running(Box::new(session)))
            }
            Response::NotRunning(None) => Ok(Status::NeverBegun),
            Response::NotRunning(Some(attempt)) if attempt.id == self.delivery.request.id => {
                Ok(Status::Over(outcome_of(*attempt)))
            }
            _ => Err(SessionError::OutOfOrder),
        }
    }
}

/// The outcome of our deployment according to the host's log.
fn outcome_of(attempt: Attempt) -> Outcome {
    match attempt.result {
        AttemptResult::Done => {
            Outcome::Done { also_restarted: Vec::new(), also_stopped: Vec::new(), drift: Vec::new() }
        }
        AttemptResult::RolledBack { why, errors } => rolled_back(why, errors),
        AttemptResult::Interrupted => rolled_back("the agent was interrupted".into(), Vec::new()),
    }
}

fn rolled_back(why: String, rollback_errors: Vec<String>) -> Outcome {
    Outcome::RolledBack(Rollback { why, details: String::new(), rollback_errors })
}
