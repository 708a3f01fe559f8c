//! One conversation with a host, over one connection after the other.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use deptool_agent::shared::{
    frame::encode,
    id::BlobId,
    outcome::{Attempt, AttemptResult, Outcome, Rollback},
    wire::{Activation, Request, Response},
};

use super::{Delivery, DeliveryEnd, DeliveryEvent, Permission, messages::Expected};
use crate::agent::{
    session::{Event, Mailbox, Order, Session, SessionError},
    transport::{Ahead, Connector, Early, Stage, Started},
};
use crate::state::{RequestPath, Timing};

/// How often we ask a host after the connection was lost. With `--atomic` others wait for the answer.
const TRIES: u32 = 2;
/// Between two tries to connect.
const PAUSE: Duration = Duration::from_secs(1);

/// One conversation.
pub(super) struct Conversation<'a> {
    delivery: &'a Delivery,
    connector: &'a Connector,
    mailbox: &'a Mailbox,
    tell: &'a dyn Fn(DeliveryEvent),
    pub permission: Permission,
    expected: Expected,
    /// We conversation over another connection than the first.
    is_attached: bool,
    /// The request was not answered yet: how long the hello took, and when it came.
    unanswered: Option<(Duration, Instant)>,
}

/// What a deployment that is asked for on another connection is doing.
enum Status {
    Running(Box<Session>),
    Over(Outcome),
    /// It never got as far as activation, and will not.
    NeverBegun,
}

impl<'a> Conversation<'a> {
    pub fn new(
        delivery: &'a Delivery,
        connector: &'a Connector,
        mailbox: &'a Mailbox,
        tell: &'a dyn Fn(DeliveryEvent),
    ) -> Self {
        let expected = Expected::of(&delivery.request);
        let permission = Permission::NotGiven;
        Conversation { delivery, connector, mailbox, tell, permission, expected, is_attached: false, unanswered: None }
    }

    /// Connect if nobody has, send everything, and follow it to its end.
    pub fn begin(&mut self, started: Option<Started>) -> Result<Outcome, SessionError> {
        let delivery = self.delivery;
        let request = encode(&Request::Deploy(Box::new(delivery.request.clone())));
        let request: Arc<[u8]> = request.map_err(|error| SessionError::Here(error.to_string()))?.into();
        let at_once = delivery.request.activation == Activation::AtOnce;
        let ahead = match delivery.is_known {
            true => Ahead::Yes(Early::new(vec![request.clone(), delivery.payload.messages.clone()])),
            false => Ahead::No,
        };
        let tell = self.tell;
        let stage = &mut |stage| tell(DeliveryEvent::Stage(stage));
        let started = match started {
            Some(started) => {
                stage(Stage::Connecting);
                started
            }
            None => {
                let early = match (&ahead, delivery.flight) {
                    (Ahead::Yes(early), RequestPath::Environment) => Some(early),
                    (Ahead::Yes(_), RequestPath::Stdin) | (Ahead::No, _) => None,
                };
                self.connector.start(&delivery.target, early, stage)?
            }
        };
        let opened = Session::open(self.connector, started, &ahead, self.mailbox.clone(), stage);
        if let Ahead::Yes(early) = &ahead
            && at_once
            && early.is_taken()
        {
            self.permission = Permission::Given;
        }
        let (mut session, hello) = match opened {
            // Instead of its hello: an agent that can't say that reads no request.
            Err(SessionError::Agent(why)) => return Ok(Outcome::refused(why)),
            opened => opened?,
        };
        (self.tell)(DeliveryEvent::Hello(Box::new(hello)));
        self.unanswered = Some((session.answered_in(), Instant::now()));
        if at_once {
            self.permission = Permission::Given;
        }
        if !delivery.is_known {
            session.send_frames(&request)?;
            session.send_frames(&delivery.payload.messages)?;
        }
        self.send_large(&mut session, &delivery.payload.large)?;
        self.follow(session)
    }

    /// Pass on what the host says and what it is to be told, until it has ended.
    fn follow(&mut self, mut session: Session) -> Result<Outcome, SessionError> {
        loop {
            let event = session.event()?;
            if let Event::Response(_) = event
                && let Some((hello, came)) = self.unanswered.take()
            {
                let flight = self.delivery.flight;
                (self.tell)(DeliveryEvent::Answered(Timing { flight, hello, after_hello: came.elapsed() }));
            }
            match event {
                Event::Order(order) => self.carry_out(&mut session, order)?,
                // It asks again whoever attaches; that this is possible is the answer.
                Event::Response(Response::AwaitsConfirmation { .. }) if self.is_attached => {
                    session.send(&Request::Confirm)?;
                }
                Event::Response(Response::AwaitsConfirmation { seconds }) => {
                    session = self.confirm(session, seconds);
                }
                Event::Response(response) => {
                    if let Some(outcome) = self.expected.accept(response, self.permission, self.tell)? {
                        session.close();
                        return Ok(outcome);
                    }
                }
            }
        }
    }

    fn carry_out(&mut self, session: &mut Session, order: Order) -> Result<(), SessionError> {
        match order {
            Order::Send(request) => {
                if request == Request::Activate {
                    self.permission = Permission::Given;
                }
                session.send(&request)
            }
            Order::Full(payload) => {
                session.send_frames(&payload.messages)?;
                self.send_large(session, &payload.large)
            }
        }
    }

    fn send_large(&self, session: &mut Session, large: &[(BlobId, u64)]) -> Result<(), SessionError> {
        if large.is_empty() {
            return Ok(());
        }
        for (id, size) in large {
            let mut content = (self.delivery.open_blob)(*id).map_err(|error| SessionError::Here(error.to_string()))?;
            session.send_blob(*id, *size, &mut content)?;
        }
        session.send(&Request::ObjectsEnd)
    }

    /// Reach the host anew, and go on over that connection. If it can't be, it goes back when its
    /// time is over, and says so on the old one.
    fn confirm(&mut self, old: Session, seconds: u16) -> Session {
        let deadline = Instant::now() + Duration::from_secs(seconds.into());
        loop {
            match self.attach() {
                Ok(Status::Running(session)) => return *session,
                // The old connection tells.
                Ok(Status::Over(_) | Status::NeverBegun) => return old,
                Err(error) if Instant::now() >= deadline || self.is_interrupted() => {
                    (self.tell)(DeliveryEvent::Note(format!("it can't be reached anew: {error}")));
                    return old;
                }
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    fn is_interrupted(&self) -> bool {
        self.connector.interrupted.is_set()
    }

    /// The connection was lost after the host may have begun: ask on another one, and go on there if it is at work.
    pub fn resume(&mut self, lost: SessionError) -> DeliveryEnd {
        for attempt in 1..=TRIES {
            match self.attach() {
                Ok(Status::Over(outcome)) => return DeliveryEnd::Outcome(outcome),
                Ok(Status::NeverBegun) => return DeliveryEnd::NotReached(lost),
                Ok(Status::Running(session)) => {
                    if let Ok(outcome) = self.follow(*session) {
                        return DeliveryEnd::Outcome(outcome);
                    }
                }
                Err(_) => {}
            }
            if attempt < TRIES {
                thread::sleep(PAUSE);
            }
        }
        DeliveryEnd::Unknown(lost)
    }

    /// Ask for our deployment on a connection of its own, by its id.
    fn attach(&mut self) -> Result<Status, SessionError> {
        let target = self.delivery.target.afresh();
        let (mut session, hello) = Session::to(self.connector, &target, self.mailbox.clone(), &mut |_| {})?;
        (self.tell)(DeliveryEvent::Hello(Box::new(hello)));
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

/// How our deployment has ended, by what the host remembers of it.
fn outcome_of(attempt: Attempt) -> Outcome {
    match attempt.result {
        AttemptResult::Done => Outcome::Done { also_restarted: Vec::new() },
        AttemptResult::RolledBack { why, errors } => rolled_back(why, errors),
        AttemptResult::Interrupted => rolled_back("the agent was interrupted".into(), Vec::new()),
    }
}

fn rolled_back(why: String, rollback_errors: Vec<String>) -> Outcome {
    Outcome::RolledBack(Rollback { why, details: String::new(), rollback_errors })
}
