//! The exchange of messages for one deployment to one host, which may take more than one connection.
//!
//! ```text
//! Begin ▸ Follow ▸ over             the usual way
//!   ▲       ├▸ Confirm ▸ Follow     the host asks for a confirmation over a new connection
//!   │       ├▸ Resume ▸ Follow      the connection was lost: ask on another one
//!   └─ Busy ┘                       another deployment holds the host's lock
//! ```

mod reconnect;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use deptool_agent::shared::{
    frame::encode,
    id::{BlobId, DeploymentId},
    outcome::Outcome,
    wire::{Activation, Request, Response},
};

use reconnect::Lost;

use super::{Delivery, DeliveryEnd, DeliveryEvent, Permission, messages::Expected};
use crate::agent::{
    session::{ATTENTION, Event, LocalError, Mailbox, Order, Session, SessionError},
    transport::{ConnectError, Connector, Early, Present, Stage, Started},
};
use crate::{
    fleet::schedule::{Manner, Next},
    state::{RequestPath, Timing},
};

/// The time limit to ask again a host that was silent.
const PATIENCE_WITH_SILENT: Duration = Duration::from_secs(10);
/// How often to check whether everything before a large file was sent.
const LOOK: Duration = Duration::from_millis(20);
/// The pauses between two attempts while the host is busy: the first one, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A delivery in progress.
pub struct Conversation<'a> {
    delivery: Delivery,
    connector: &'a Connector,
    mailbox: Mailbox,
    tell: Box<dyn Fn(DeliveryEvent) + Send + 'a>,
    state: State,
    permission: Permission,
    expected: Expected,
    /// Set if no new connection could be made although the host waited for one: when to stop trying.
    give_up_at: Option<Instant>,
    /// The current connection is not the first one.
    is_attached: bool,
    /// How long the hello took, until the host has told that the request has come.
    unanswered: Option<Duration>,
    /// While another deployment holds the host's lock: when to give up, and the pause before the next attempt.
    busy_until: Instant,
    pause: Duration,
}

/// What to do next.
enum State {
    /// Connect unless that has begun, and send everything.
    Begin(Option<Box<Started>>),
    /// Follow the deployment to its end. After a lost connection, also what was lost.
    Follow(Box<Session>, Option<Lost>),
    /// Connect again to confirm. If that fails, the host rolls back when the time is over, and reports it on the old
    /// connection.
    Confirm {
        old: Box<Session>,
        lost: Option<Lost>,
        deadline: Instant,
        at: Instant,
    },
    /// Ask a host that may have begun.
    Resume(Lost, Instant),
    /// Wait, then begin again.
    Busy(Instant),
    Over,
}

impl<'a> Conversation<'a> {
    pub fn new(
        mut delivery: Delivery,
        connector: &'a Connector,
        mailbox: Mailbox,
        tell: Box<dyn Fn(DeliveryEvent) + Send + 'a>,
    ) -> Self {
        Conversation {
            state: State::Begin(delivery.started.take().map(Box::new)),
            permission: Permission::NotGiven,
            expected: Expected::of(&delivery.request),
            give_up_at: None,
            is_attached: false,
            unanswered: None,
            busy_until: Instant::now() + delivery.lock_wait,
            pause: FIRST_PAUSE,
            delivery,
            connector,
            mailbox,
            tell,
        }
    }

    /// Go on as far as possible. In the end, this tells [`DeliveryEvent::Ended`] once. It never panics.
    pub fn step(&mut self) -> Next {
        loop {
            let (state, waits) = match std::mem::replace(&mut self.state, State::Over) {
                State::Begin(started) => match self.begin(started) {
                    Ok(state) => (state, None),
                    Err(error) => (self.failed(error, None), None),
                },
                State::Follow(mut session, lost) => match self.follow(&mut session) {
                    Ok(Followed::Nothing) => (State::Follow(session, lost), Some(Instant::now() + ATTENTION)),
                    Ok(Followed::Something) => (State::Follow(session, lost), None),
                    Ok(Followed::Asked(deadline)) => {
                        (State::Confirm { old: session, lost, deadline, at: Instant::now() }, None)
                    }
                    Ok(Followed::Outcome(outcome)) => {
                        session.close();
                        (self.ended(outcome), None)
                    }
                    Err(error) => (self.failed(error, lost), None),
                },
                State::Confirm { old, lost, deadline, at } if Instant::now() < at => {
                    (State::Confirm { old, lost, deadline, at }, Some(at))
                }
                State::Confirm { old, lost, deadline, at: _ } => (self.confirm(old, lost, deadline), None),
                State::Resume(lost, at) if Instant::now() < at => (State::Resume(lost, at), Some(at)),
                State::Resume(lost, _) => (self.resume(lost), None),
                State::Busy(at) if Instant::now() < at && !self.mailbox.is_cancelled() => (State::Busy(at), Some(at)),
                State::Busy(_) => (self.begin_again(), None),
                State::Over => return Next::Over,
            };
            let manner = if matches!(state, State::Follow(..)) { Manner::Quick } else { Manner::Blocking };
            let is_over = matches!(state, State::Over);
            self.state = state;
            match (waits, manner) {
                (Some(until), manner) => return Next::Waits(manner, until),
                (None, Manner::Blocking) if !is_over => return Next::Blocks,
                (None, _) => {}
            }
        }
    }

    fn end(&self, end: DeliveryEnd) -> State {
        (self.tell)(DeliveryEvent::Ended(end));
        State::Over
    }

    /// The host has answered.
    fn ended(&mut self, outcome: Outcome) -> State {
        match (outcome, self.permission) {
            (Outcome::Done { .. } | Outcome::RolledBack(_), Permission::NotGiven) => {
                self.end(DeliveryEnd::NotReached(SessionError::OutOfOrder))
            }
            (Outcome::Busy(holder), _) if Instant::now() < self.busy_until => {
                (self.tell)(DeliveryEvent::Busy(holder));
                let at = self.busy_until.min(Instant::now() + self.pause);
                self.pause = (2 * self.pause).min(LONGEST_PAUSE);
                State::Busy(at)
            }
            // Nobody has told it to cancel: the connection was cut after the request.
            (Outcome::Cancelled, _) if !self.is_cancelled() => {
                let why = "the host received the request, and nothing after it".to_owned();
                self.end(DeliveryEnd::NotReached(SessionError::Lost(why)))
            }
            (outcome, _) => self.end(DeliveryEnd::Outcome(outcome)),
        }
    }

    /// The connection, or the attempt to make one, has failed.
    fn failed(&mut self, error: SessionError, lost: Option<Lost>) -> State {
        match (error, lost, self.permission) {
            (_, Some(lost), _) => self.lost_again(lost),
            (SessionError::Agent(why), None, Permission::NotGiven) => self.ended(Outcome::refused(why)),
            (error, None, Permission::NotGiven) => self.not_reached(error),
            // After an interrupt this does not wait. A host that was silent or unreachable gets less time. If the outcome
            // remains unknown, the next contact asks for it.
            (error, None, Permission::Given) => {
                (self.tell)(DeliveryEvent::Lost);
                let is_silent = matches!(error, SessionError::Connect(ConnectError::Silent { .. }));
                let silent = || is_silent.then(|| Instant::now() + PATIENCE_WITH_SILENT);
                let deadline = self.give_up_at.or_else(silent);
                State::Resume(Lost { error, tries: 0, deadline }, Instant::now())
            }
        }
    }

    /// The host has not begun, and never will.
    fn not_reached(&mut self, error: SessionError) -> State {
        // The agent's file may be damaged. It is replaced only on a connection on which nothing is sent ahead.
        let may_be_damaged = match &error {
            // bash waits for a FIFO that it is to execute.
            SessionError::Connect(ConnectError::Silent { .. }) => self.delivery.agent == Some(Present::Expected),
            SessionError::Connect(why) => why.is_wordless(),
            _ => false,
        };
        // If the host was asked, it was told that this request will not come any more.
        match DeploymentId::random() {
            Ok(id) if may_be_damaged && self.delivery.agent.is_some() => {
                self.delivery.agent = None;
                self.delivery.request.id = id;
                self.begin_again()
            }
            _ => self.end(DeliveryEnd::NotReached(error)),
        }
    }

    /// A new attempt, as if there had been none, unless the deployment was cancelled: the host would wait for an order
    /// that never comes.
    fn begin_again(&mut self) -> State {
        if self.mailbox.is_cancelled() {
            return self.end(DeliveryEnd::Outcome(Outcome::Cancelled));
        }
        self.permission = Permission::NotGiven;
        self.expected = Expected::of(&self.delivery.request);
        (self.give_up_at, self.is_attached, self.unanswered) = (None, false, None);
        State::Begin(None)
    }

    fn begin(&mut self, started: Option<Box<Started>>) -> Result<State, SessionError> {
        let delivery = &self.delivery;
        let request = encode(&Request::Deploy(Box::new(delivery.request.clone())));
        let request: Arc<[u8]> = request.map_err(LocalError::from)?.into();
        let ahead = delivery.agent.map(|_| Early::new(vec![request.clone(), delivery.payload.messages.clone()]));
        let tell = &self.tell;
        let stage = &mut |stage| tell(DeliveryEvent::Stage(stage));
        let started = match started {
            Some(started) => {
                stage(Stage::Connecting);
                *started
            }
            None => {
                let early = match delivery.flight {
                    RequestPath::Environment => ahead.as_ref(),
                    RequestPath::Stdin => None,
                };
                self.connector.start(&delivery.target, delivery.agent.unwrap_or(Present::Started), early, stage)?
            }
        };
        let opened = Session::open(self.connector, started, ahead.as_ref(), self.mailbox.clone(), stage);
        if let Some(early) = &ahead
            && self.begins_by_itself()
            && early.is_taken()
        {
            self.permit();
        }
        let mut session = opened?;
        let hello = match session.hello() {
            // The agent sent an error in place of its hello, so it does not read a request.
            Err(SessionError::Agent(why)) => return Ok(self.ended(Outcome::refused(why))),
            hello => hello?,
        };
        (self.tell)(DeliveryEvent::Hello(Box::new(hello)));
        if let Some(socket) = session.take_socket() {
            (self.tell)(DeliveryEvent::Socket(socket));
        }
        self.unanswered = Some(session.answered_in());
        if self.begins_by_itself() {
            self.permit();
        }
        if self.delivery.agent.is_none() {
            session.send_meanwhile(vec![request, self.delivery.payload.messages.clone()])?;
        }
        let large = self.delivery.payload.large.clone();
        Ok(match self.send_large(&mut session, &large)? {
            Some(cancelled) => self.ended(cancelled),
            None => State::Follow(Box::new(session), None),
        })
    }

    fn is_cancelled(&self) -> bool {
        self.mailbox.is_cancelled() || self.is_interrupted()
    }

    fn is_interrupted(&self) -> bool {
        self.connector.interrupted.is_set()
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

    /// Pass on the next message or order, if there is one.
    fn follow(&mut self, session: &mut Session) -> Result<Followed, SessionError> {
        let Some(event) = session.event()? else { return Ok(Followed::Nothing) };
        let outcome = match event {
            Event::Response(Response::Came { after }) => {
                let hello = self.unanswered.take().ok_or(SessionError::OutOfOrder)?;
                let (flight, after_hello) = (self.delivery.flight, Duration::from_millis(after.into()));
                (self.tell)(DeliveryEvent::Came(Timing { flight, hello, after_hello }));
                None
            }
            Event::Order(order) => self.carry_out(session, order)?,
            // The host sends this on every connection that attaches. To have made the connection is the confirmation.
            Event::Response(Response::AwaitsConfirmation { .. }) if self.is_attached => {
                session.send(&Request::Confirm)?;
                None
            }
            Event::Response(Response::AwaitsConfirmation { seconds }) => {
                return Ok(Followed::Asked(Instant::now() + Duration::from_secs(seconds.into())));
            }
            Event::Response(response) => self.expected.accept(response, self.permission, &self.tell)?,
        };
        Ok(outcome.map_or(Followed::Something, Followed::Outcome))
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
}

/// The result of looking for a message or an order.
enum Followed {
    Nothing,
    Something,
    /// The host asks for a confirmation over a new connection, until then.
    Asked(Instant),
    Outcome(Outcome),
}
