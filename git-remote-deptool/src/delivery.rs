//! One deployment to one host, from its connection to its end. Runs in a thread of its own.

use std::{
    io::Read,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use deptool_agent::{
    frame::encode,
    id::BlobId,
    outcome::{AttemptResult, Failure, Outcome, Phase},
    wire::{Deploy, Expected, Go, Hello, Holder, Request, Response, Verdict},
};

use crate::{
    parcel::Parcel,
    session::{Event, Mailbox, Order, Session, SessionError},
    transport::{ConnectError, Connector, Stage, Target},
};

/// How long we wait for a host to finish by itself after the connection was lost.
const PATIENCE: Duration = Duration::from_secs(100);

/// As much of a host's notes is shown, in bytes.
const NOTES: usize = 64 * 1024;

/// Between two tries of a host that is busy: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Opens a blob that is too large for a pack.
pub type OpenBlob = dyn Fn(BlobId) -> std::io::Result<Box<dyn Read>> + Send + Sync;

/// All that one host is to be told.
pub struct Delivery {
    pub target: Target,
    pub request: Deploy,
    pub parcel: Parcel,
    pub open_blob: Arc<OpenBlob>,
    /// An agent of ours was there before: the request is sent without waiting for it.
    pub is_known: bool,
    /// How long to wait for the end of somebody else's deployment.
    pub lock_wait: Duration,
}

/// What happens on the way, for whoever leads.
#[derive(Debug)]
pub enum Report {
    Stage(Stage),
    Hello(Box<Hello>),
    Phase(Phase),
    Note(String),
    NeedFull,
    Prepared,
    Healthy,
    /// Somebody else is at work there, and is waited for.
    Busy(Holder),
    /// The connection was lost after the host was told to go on; it is being asked on another one.
    Lost,
    Ended(End),
}

/// How it ended, as far as can be told from here.
#[derive(Debug)]
pub enum End {
    /// The host has said so.
    Outcome(Outcome),
    /// The host was never told to go on: nothing was changed.
    NotReached(SessionError),
    /// The host was told to go on, and could not be asked how it ended.
    Unknown(SessionError),
}

/// Whether the host may have begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permission {
    NotGiven,
    Given,
}

impl Delivery {
    /// Carry it out. Never panics, never gives up without an [`End`].
    pub fn run(self, connector: &Connector, mailbox: Mailbox, tell: &dyn Fn(Report)) {
        let deadline = Instant::now() + self.lock_wait;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.try_once(connector, &mailbox, tell) {
                End::Outcome(Outcome::Busy(holder)) if Instant::now() < deadline => tell(Report::Busy(holder)),
                end => return tell(Report::Ended(end)),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // The only order for a host that is not connected to is to forget it.
            if mailbox.order_within(pause.min(left)).is_some() {
                return tell(Report::Ended(End::Outcome(Outcome::Cancelled)));
            }
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    fn try_once(&self, connector: &Connector, mailbox: &Mailbox, tell: &dyn Fn(Report)) -> End {
        let mut permission = Permission::NotGiven;
        match self.converse(connector, mailbox.clone(), &mut permission, tell) {
            Ok(outcome) => End::Outcome(outcome),
            Err(SessionError::Agent(why)) if permission == Permission::NotGiven => End::Outcome(Outcome::refused(why)),
            Err(error) if permission == Permission::NotGiven || never_arrived(&error) => End::NotReached(error),
            Err(error) => {
                tell(Report::Lost);
                self.ask(connector, error, tell)
            }
        }
    }

    fn converse(
        &self,
        connector: &Connector,
        mailbox: Mailbox,
        permission: &mut Permission,
        tell: &dyn Fn(Report),
    ) -> Result<Outcome, SessionError> {
        let request = encode(&Request::Deploy(Box::new(self.request.clone())));
        let request: Arc<[u8]> = request.map_err(|error| SessionError::Here(error.to_string()))?.into();
        let at_once = self.request.go == Go::AtOnce;
        if self.is_known && at_once {
            *permission = Permission::Given;
        }
        let ahead = self.is_known.then(|| vec![request.clone(), self.parcel.messages.clone()]);
        let stage = &mut |stage| tell(Report::Stage(stage));
        let (mut session, hello) = Session::open(connector, &self.target, ahead, mailbox, stage)?;
        tell(Report::Hello(Box::new(hello)));
        if at_once {
            *permission = Permission::Given;
        }
        if !self.is_known {
            session.send_frames(&request)?;
            session.send_frames(&self.parcel.messages)?;
        }
        self.send_large(&mut session, &self.parcel.large)?;
        let mut due = Due::of(&self.request);
        loop {
            match session.event()? {
                Event::Order(order) => self.obey(&mut session, order, permission)?,
                Event::Response(Response::Kept) => session.send(&Request::Release)?,
                Event::Response(response) => {
                    if let Some(outcome) = due.heard(response, *permission, tell)? {
                        session.close();
                        return Ok(outcome);
                    }
                }
            }
        }
    }

    fn send_large(&self, session: &mut Session, large: &[(BlobId, u64)]) -> Result<(), SessionError> {
        if large.is_empty() {
            return Ok(());
        }
        for (id, size) in large {
            let mut content = (self.open_blob)(*id).map_err(|error| SessionError::Here(error.to_string()))?;
            session.send_blob(*id, *size, &mut content)?;
        }
        session.send(&Request::ObjectsEnd)
    }

    fn obey(&self, session: &mut Session, order: Order, permission: &mut Permission) -> Result<(), SessionError> {
        match order {
            Order::Send(request) => {
                if request == Request::Activate {
                    *permission = Permission::Given;
                }
                session.send(&request)
            }
            Order::Full(parcel) => {
                session.send_frames(&parcel.messages)?;
                self.send_large(session, &parcel.large)
            }
        }
    }

    /// The connection was lost after the host may have begun: connect once more, and ask how it ended.
    fn ask(&self, connector: &Connector, lost: SessionError, tell: &dyn Fn(Report)) -> End {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let opened = Session::open(connector, &self.target, None, Mailbox::new(), &mut |_| {});
            let Ok((session, hello)) = opened else { return End::Unknown(lost) };
            session.close();
            let outcome = judge(&self.request, &hello);
            tell(Report::Hello(Box::new(hello)));
            match outcome {
                Some(outcome) => return End::Outcome(outcome),
                None if Instant::now() >= deadline => return End::Unknown(lost),
                None => thread::sleep(Duration::from_millis(500)),
            }
        }
    }
}

/// What the host has still to say, each thing once: whoever leads the fleet takes it at its word.
struct Due {
    need_full: bool,
    prepared: bool,
    healthy: bool,
    /// How much of its notes is still shown, in bytes.
    notes: usize,
}

impl Due {
    fn of(request: &Deploy) -> Due {
        let prepared = request.go == Go::WhenTold;
        Due { need_full: true, prepared, healthy: request.verdict == Verdict::Helper, notes: NOTES }
    }

    /// Pass on what the host says; its outcome if that was it.
    fn heard(
        &mut self,
        response: Response,
        permission: Permission,
        tell: &dyn Fn(Report),
    ) -> Result<Option<Outcome>, SessionError> {
        let once = |due: &mut bool| if std::mem::take(due) { Ok(()) } else { Err(SessionError::OutOfOrder) };
        match response {
            Response::Ended(outcome) => return Ok(Some(*outcome)),
            Response::Progress(phase) => tell(Report::Phase(phase)),
            Response::Note(note) => self.note(note, tell),
            Response::NeedFull => {
                once(&mut self.need_full)?;
                tell(Report::NeedFull);
            }
            Response::Prepared => {
                once(&mut self.prepared)?;
                self.need_full = false;
                tell(Report::Prepared);
            }
            Response::Healthy if permission == Permission::Given => {
                once(&mut self.healthy)?;
                tell(Report::Healthy);
            }
            Response::Healthy
            | Response::Hello(_)
            | Response::Data(_)
            | Response::End
            | Response::Blob { .. }
            | Response::Attempts(_)
            | Response::Drift(_)
            | Response::Pong
            | Response::Attached
            | Response::NotRunning(_)
            | Response::AwaitsConfirmation { .. }
            | Response::Kept
            | Response::Error(_)
            | Response::Heartbeat => return Err(SessionError::OutOfOrder),
        }
        Ok(None)
    }

    fn note(&mut self, note: String, tell: &dyn Fn(Report)) {
        match self.notes.checked_sub(note.len()) {
            Some(left) => {
                self.notes = left;
                tell(Report::Note(note));
            }
            None if self.notes > 0 => {
                self.notes = 0;
                tell(Report::Note("it has said more than is shown".into()));
            }
            None => {}
        }
    }
}

/// Whether a request that was sent ahead can't have reached the host: ssh says so before it has a connection.
fn never_arrived(error: &SessionError) -> bool {
    let SessionError::Connect(error) = error else { return false };
    match error {
        ConnectError::Unreachable(why) => {
            const BEFORE_CONNECTED: [&str; 9] = [
                "connect to host ",
                "Could not resolve hostname",
                "banner exchange",
                "Unable to negotiate with ",
                "stdio forwarding failed",
                "Permission denied (",
                "Host key verification failed",
                "kex_exchange_identification",
                "Too many authentication failures",
            ];
            BEFORE_CONNECTED.iter().any(|text| why.contains(text))
        }
        // It was there, spoke first, and what it said ended the connection.
        ConnectError::Read { .. } | ConnectError::NoAnswer { .. } | ConnectError::Interrupted => false,
        ConnectError::OtherHost { .. }
        | ConnectError::Noise { .. }
        | ConnectError::Nonsense { .. }
        | ConnectError::Install { .. }
        | ConnectError::OtherBuild { .. }
        | ConnectError::Agent(_)
        | ConnectError::NoSsh
        | ConnectError::PortNotSupported
        | ConnectError::BadLogin(_)
        | ConnectError::LocalRoot { .. }
        | ConnectError::Start { .. } => true,
    }
}

/// How `request` ended, by what the host says of itself now; `None` while it is at work.
fn judge(request: &Deploy, hello: &Hello) -> Option<Outcome> {
    if hello.busy.is_some() {
        return None;
    }
    let ours = hello.last_attempt.as_ref().filter(|attempt| attempt.id == request.id);
    Some(match ours.map(|attempt| &attempt.result) {
        Some(AttemptResult::Done) => Outcome::Done { also_restarted: Vec::new() },
        Some(AttemptResult::RolledBack { why, errors }) => rolled_back(why.clone(), errors.clone()),
        Some(AttemptResult::Interrupted) => rolled_back("the agent was interrupted".into(), Vec::new()),
        // It never got as far as activation; whatever was tried last there is somebody else's.
        None if deployed(hello) == request.expected => Outcome::Cancelled,
        None => Outcome::Stale { actual: hello.deployed.clone() },
    })
}

fn deployed(hello: &Hello) -> Expected {
    hello.deployed.as_ref().map_or(Expected::Absent, |deployed| Expected::At(deployed.commit))
}

fn rolled_back(why: String, rollback_errors: Vec<String>) -> Outcome {
    Outcome::RolledBack(Failure { why, details: String::new(), rollback_errors })
}
