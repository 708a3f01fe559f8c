//! One conversation with a host, over one connection after the other.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use deptool_agent::shared::{
    frame::encode,
    id::BlobId,
    outcome::{Attempt, AttemptResult, Outcome, Rollback},
    wire::{Go, Request, Response},
};

use super::{Delivery, End, Permission, Report, due::Due};
use crate::agent::{
    session::{Event, Mailbox, Order, Session, SessionError},
    transport::{Ahead, Connector, Early, Stage, Started},
};
use crate::model::timing::{Flight, Timing};

/// How often we ask a host after the connection was lost. With `--atomic` others wait for the answer.
const TRIES: u32 = 2;
/// Between two tries to connect.
const PAUSE: Duration = Duration::from_secs(1);

/// One conversation.
pub(super) struct Talk<'a> {
    delivery: &'a Delivery,
    connector: &'a Connector,
    mailbox: &'a Mailbox,
    tell: &'a dyn Fn(Report),
    pub permission: Permission,
    due: Due,
    /// We talk over another connection than the first.
    is_attached: bool,
    /// The request was not answered yet: how long the hello took, and when it came.
    unanswered: Option<(Duration, Instant)>,
}

/// What a deployment that is asked for on another connection is doing.
enum Found {
    Running(Box<Session>),
    Over(Outcome),
    /// It never got as far as activation, and will not.
    NeverBegun,
}

impl<'a> Talk<'a> {
    pub fn new(
        delivery: &'a Delivery,
        connector: &'a Connector,
        mailbox: &'a Mailbox,
        tell: &'a dyn Fn(Report),
    ) -> Self {
        let due = Due::of(&delivery.request);
        let permission = Permission::NotGiven;
        Talk { delivery, connector, mailbox, tell, permission, due, is_attached: false, unanswered: None }
    }

    /// Connect if nobody has, send everything, and follow it to its end.
    pub fn begin(&mut self, started: Option<Started>) -> Result<Outcome, SessionError> {
        let delivery = self.delivery;
        let request = encode(&Request::Deploy(Box::new(delivery.request.clone())));
        let request: Arc<[u8]> = request.map_err(|error| SessionError::Here(error.to_string()))?.into();
        let at_once = delivery.request.go == Go::AtOnce;
        let ahead = match delivery.is_known {
            true => Ahead::Yes(Early::new(vec![request.clone(), delivery.parcel.messages.clone()])),
            false => Ahead::No,
        };
        let tell = self.tell;
        let stage = &mut |stage| tell(Report::Stage(stage));
        let started = match started {
            Some(started) => {
                stage(Stage::Connecting);
                started
            }
            None => {
                let early = match (&ahead, delivery.flight) {
                    (Ahead::Yes(early), Flight::Variable) => Some(early),
                    (Ahead::Yes(_), Flight::Pipe) | (Ahead::No, _) => None,
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
        (self.tell)(Report::Hello(Box::new(hello)));
        self.unanswered = Some((session.answered_in(), Instant::now()));
        if at_once {
            self.permission = Permission::Given;
        }
        if !delivery.is_known {
            session.send_frames(&request)?;
            session.send_frames(&delivery.parcel.messages)?;
        }
        self.send_large(&mut session, &delivery.parcel.large)?;
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
                (self.tell)(Report::Answered(Timing { flight, hello, after_hello: came.elapsed() }));
            }
            match event {
                Event::Order(order) => self.obey(&mut session, order)?,
                // It asks again whoever attaches; that this is possible is the answer.
                Event::Response(Response::AwaitsConfirmation { .. }) if self.is_attached => {
                    session.send(&Request::Confirm)?;
                }
                Event::Response(Response::AwaitsConfirmation { seconds }) => {
                    session = self.confirm(session, seconds);
                }
                Event::Response(response) => {
                    if let Some(outcome) = self.due.heard(response, self.permission, self.tell)? {
                        session.close();
                        return Ok(outcome);
                    }
                }
            }
        }
    }

    fn obey(&mut self, session: &mut Session, order: Order) -> Result<(), SessionError> {
        match order {
            Order::Send(request) => {
                if request == Request::Activate {
                    self.permission = Permission::Given;
                }
                session.send(&request)
            }
            Order::Full(parcel) => {
                session.send_frames(&parcel.messages)?;
                self.send_large(session, &parcel.large)
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
                Ok(Found::Running(session)) => return *session,
                // The old connection tells.
                Ok(Found::Over(_) | Found::NeverBegun) => return old,
                Err(error) if Instant::now() >= deadline || self.is_interrupted() => {
                    (self.tell)(Report::Note(format!("it can't be reached anew: {error}")));
                    return old;
                }
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    fn is_interrupted(&self) -> bool {
        self.connector.interrupted.load(Ordering::Relaxed)
    }

    /// The connection was lost after the host may have begun: ask on another one, and go on there if it is at work.
    pub fn ask(&mut self, lost: SessionError) -> End {
        for attempt in 1..=TRIES {
            match self.attach() {
                Ok(Found::Over(outcome)) => return End::Outcome(outcome),
                Ok(Found::NeverBegun) => return End::NotReached(lost),
                Ok(Found::Running(session)) => {
                    if let Ok(outcome) = self.follow(*session) {
                        return End::Outcome(outcome);
                    }
                }
                Err(_) => {}
            }
            if attempt < TRIES {
                thread::sleep(PAUSE);
            }
        }
        End::Unknown(lost)
    }

    /// Ask for our deployment on a connection of its own, by its id.
    fn attach(&mut self) -> Result<Found, SessionError> {
        let target = self.delivery.target.afresh();
        let (mut session, hello) = Session::to(self.connector, &target, self.mailbox.clone(), &mut |_| {})?;
        (self.tell)(Report::Hello(Box::new(hello)));
        session.send(&Request::Attach(self.delivery.request.id))?;
        match session.receive()? {
            Response::Attached => {
                self.due.attached(&self.delivery.request);
                self.is_attached = true;
                Ok(Found::Running(Box::new(session)))
            }
            Response::NotRunning(None) => Ok(Found::NeverBegun),
            Response::NotRunning(Some(attempt)) if attempt.id == self.delivery.request.id => {
                Ok(Found::Over(outcome_of(*attempt)))
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
