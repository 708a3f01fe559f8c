//! The exchange of messages for one deployment to one host, which may take more than one connection.

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
    session::{Event, LocalError, Mailbox, Order, Session, SessionError},
    transport::{Ahead, ConnectError, Connector, Early, Stage, Started},
};
use crate::state::{RequestPath, Timing};

/// How many attempts to ask a host after the connection was lost. With `--atomic`, other hosts wait for the answer.
const TRIES: u32 = 2;
/// The time limit to ask again a host that was silent.
const PATIENCE_WITH_SILENT: Duration = Duration::from_secs(10);
/// How long a host that got no confirmation may take to roll back and to be reachable again. The operator waits for the
/// confirmation's time limit and this, and longer only while the host still sends heartbeats.
const TIME_TO_GO_BACK: Duration = Duration::from_secs(10);
/// How often to check whether everything before a large file was sent.
const LOOK: Duration = Duration::from_millis(20);
/// The pause between two attempts to connect.
const PAUSE: Duration = Duration::from_secs(1);

/// The state of the exchange.
pub(super) struct Conversation<'a> {
    delivery: &'a Delivery,
    connector: &'a Connector,
    mailbox: &'a Mailbox,
    tell: &'a dyn Fn(DeliveryEvent),
    pub permission: Permission,
    expected: Expected,
    /// Set if no new connection could be made although the host waited for one: when to stop trying.
    give_up_at: Option<Instant>,
    /// The current connection is not the first one.
    is_attached: bool,
    /// Until the request is answered: how long the hello took, and when it was received.
    unanswered: Option<(Duration, Instant)>,
}

/// The state of a deployment that was asked for on another connection.
enum Status {
    Running(Box<Session>),
    Over(Outcome),
    /// It did not reach activation, and never will.
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
        Conversation {
            delivery,
            connector,
            mailbox,
            tell,
            permission,
            expected,
            give_up_at: None,
            is_attached: false,
            unanswered: None,
        }
    }

    /// Connect unless that has begun, send everything, and follow the deployment to its end.
    pub fn begin(&mut self, started: Option<Started>) -> Result<Outcome, SessionError> {
        let delivery = self.delivery;
        let request = encode(&Request::Deploy(Box::new(delivery.request.clone())));
        let request: Arc<[u8]> = request.map_err(LocalError::from)?.into();
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
            && self.begins_by_itself()
            && early.is_taken()
        {
            self.permit();
        }
        let mut session = opened?;
        let hello = match session.hello() {
            // The agent sent an error in place of its hello, so it does not read a request.
            Err(SessionError::Agent(why)) => return Ok(Outcome::refused(why)),
            hello => hello?,
        };
        (self.tell)(DeliveryEvent::Hello(Box::new(hello)));
        self.unanswered = Some((session.answered_in(), Instant::now()));
        if self.begins_by_itself() {
            self.permit();
        }
        if !delivery.is_known {
            session.send_meanwhile(vec![request, delivery.payload.messages.clone()])?;
        }
        if let Some(cancelled) = self.send_large(&mut session, &delivery.payload.large)? {
            return Ok(cancelled);
        }
        self.follow(session)
    }

    /// Whether the host activates without an order as soon as it has received everything.
    fn begins_by_itself(&self) -> bool {
        self.delivery.request.activation == Activation::AtOnce && self.delivery.payload.large.is_empty()
    }

    /// From here on the host may begin.
    fn permit(&mut self) {
        self.permission = Permission::Given;
        (self.tell)(DeliveryEvent::MayBegin);
    }

    /// Pass on messages and orders until the deployment has ended.
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
                Event::Order(order) => {
                    if let Some(cancelled) = self.carry_out(&mut session, order)? {
                        return Ok(cancelled);
                    }
                }
                // The host sends this on every connection that attaches. To have made the connection is the
                // confirmation.
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

    /// Carry out an order. Returns the outcome if the order ends the deployment.
    fn carry_out(&mut self, session: &mut Session, order: Order) -> Result<Option<Outcome>, SessionError> {
        match order {
            // The host can't begin without the rest, which it will never receive.
            Order::Send(Request::Cancel) if session.abandon() => Ok(Some(Outcome::Cancelled)),
            Order::Send(request) => {
                if request == Request::Activate {
                    self.permit();
                }
                session.send(&request)?;
                Ok(None)
            }
            Order::Full(payload) => {
                session.send_meanwhile(vec![payload.messages])?;
                self.send_large(session, &payload.large)
            }
        }
    }

    /// Send the large blobs, and the message that everything was sent; the host can't begin before that. Returns that
    /// the deployment was cancelled if there was an interrupt before that.
    fn send_large(&mut self, session: &mut Session, large: &[(BlobId, u64)]) -> Result<Option<Outcome>, SessionError> {
        if large.is_empty() {
            return Ok(None);
        }
        while session.is_sending() {
            if self.is_interrupted() && session.abandon() {
                return Ok(Some(Outcome::Cancelled));
            }
            thread::sleep(LOOK);
        }
        for (id, size) in large {
            let mut content = (self.delivery.open_blob)(*id).map_err(LocalError::Blob)?;
            match session.send_blob(*id, *size, &mut content) {
                Err(SessionError::Interrupted) => return Ok(Some(Outcome::Cancelled)),
                sent => sent?,
            }
        }
        if self.delivery.request.activation == Activation::AtOnce {
            self.permit();
        }
        session.send(&Request::ObjectsEnd)?;
        Ok(None)
    }

    /// Connect to the host again, and continue on that connection. If that fails, the host rolls back when the time is
    /// over, and reports it on the old connection.
    fn confirm(&mut self, mut old: Session, seconds: u16) -> Session {
        let deadline = Instant::now() + Duration::from_secs(seconds.into());
        loop {
            match self.attach(Some(deadline)) {
                Ok(Status::Running(session)) => return *session,
                // The outcome is reported on the old connection.
                Ok(Status::Over(_) | Status::NeverBegun) => return old,
                Err(error) if Instant::now() >= deadline || self.is_interrupted() => {
                    (self.tell)(DeliveryEvent::Note(format!("no new connection could be made: {error}")));
                    old.expect_silence();
                    self.give_up_at = Some(deadline + TIME_TO_GO_BACK);
                    return old;
                }
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    fn is_interrupted(&self) -> bool {
        self.connector.interrupted.is_set()
    }

    /// After a lost connection to a host that may have begun, ask on another one, and follow the deployment there if it
    /// is in progress.
    ///
    /// After an interrupt this does not wait. A host that was silent or unreachable gets less time. If the outcome
    /// remains unknown, the next contact asks for it.
    pub fn resume(&mut self, lost: SessionError) -> DeliveryEnd {
        let is_silent = matches!(lost, SessionError::Connect(ConnectError::Silent { .. }));
        let deadline = self.give_up_at.or_else(|| is_silent.then(|| Instant::now() + PATIENCE_WITH_SILENT));
        let mut tries = 0;
        let may_try_again = |tries| match deadline {
            Some(deadline) => Instant::now() + PAUSE < deadline,
            None => tries < TRIES,
        };
        while !self.is_interrupted() {
            match self.attach(deadline) {
                Ok(Status::Over(outcome)) => return DeliveryEnd::Outcome(outcome),
                Ok(Status::NeverBegun) => return DeliveryEnd::NotReached(lost),
                Ok(Status::Running(session)) => {
                    if let Ok(outcome) = self.follow(*session) {
                        return DeliveryEnd::Outcome(outcome);
                    }
                }
                Err(_) => {}
            }
            tries += 1;
            if !may_try_again(tries) {
                break;
            }
            thread::sleep(PAUSE);
        }
        DeliveryEnd::Unknown(lost)
    }

    /// Ask for our deployment, by its id, on a new connection.
    fn attach(&mut self, deadline: Option<Instant>) -> Result<Status, SessionError> {
        let stage = &mut |_| {};
        let started = self.connector.start(&self.delivery.target.afresh(), None, stage)?.until(deadline);
        let mut session = Session::open(self.connector, started, &Ahead::No, self.mailbox.clone(), stage)?;
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
