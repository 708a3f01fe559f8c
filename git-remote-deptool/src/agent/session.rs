//! One connection to an agent: it sends and receives messages, and detects a dead connection.
//!
//! The [pump](crate::agent::transport::pump) reads. The owner of the [`Session`] writes, and takes received messages with a
//! deadline. So neither side can block the other, and silence of the host is noticed.

use std::{
    io::{self, Write},
    process::ExitStatus,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{RecvTimeoutError, TryRecvError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use deptool_agent::shared::{
    frame::{CHUNK, FrameError, encode},
    id::BlobId,
    wire::{Hello, Request, Response},
};

use super::{
    sanitize::safe,
    transport::{
        ConnectError, Connector, Early, Endpoint, Link, Present, Stage, Started,
        outgoing::Outgoing,
        process::{Connection, describe},
        ssh::control::ControlSocket,
    },
};

use crate::model::interrupt::Interrupt;

mod data;
mod mailbox;
mod questions;
mod reader;
mod watchdog;

use data::DataFrames;
use mailbox::Arrival;
pub use mailbox::{Event, Mailbox, Order, Orders};
use reader::{Reader, Unread};
use watchdog::Watchdog;

/// The agent is given up after this much silence. It sends heartbeats more often.
const SILENCE: Duration = Duration::from_secs(30);
/// How long to wait until an agent on this machine has exited after its answer, so that its directory is at rest when
/// we return.
const TIDYING: Duration = Duration::from_secs(10);
/// How often to send a heartbeat.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often a session needs attention, even if nothing arrives.
pub const ATTENTION: Duration = Duration::from_secs(1);
/// How many messages of data are sent at once. Between two of these, a session checks for an interrupt.
const BATCH: usize = 4;
/// How often a session checks for an interrupt.
const INTERRUPT_CHECK: Duration = Duration::from_millis(100);
/// The limit for silence if the answer is no longer needed: two missed heartbeats.
const SHORT_SILENCE: Duration = Duration::from_secs(2 * HEARTBEAT.as_secs() + 2);
/// The limit for silence if no new connection to the host could be made either: one missed heartbeat.
const LIKELY_SILENCE: Duration = Duration::from_secs(HEARTBEAT.as_secs() + 2);

/// Why a session ended early. Every message is one line that is safe to show.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection was lost. The state of the host is unknown.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// The host can be reached, but its agent has exited.
    #[error("the agent ended unexpectedly ({how}){stderr}")]
    AgentEnded { how: String, stderr: String },
    #[error("interrupted")]
    Interrupted,
    /// The agent reported an error and gave up.
    #[error("{0}")]
    Agent(String),
    /// The agent sent a message that is not valid in this state.
    #[error("the host sent an unexpected message")]
    OutOfOrder,
    /// The agent is alive, but makes no progress or sends too many messages.
    #[error("the host {0}")]
    Idle(&'static str),
    /// An error on this machine, such as an unreadable file.
    #[error(transparent)]
    Here(#[from] LocalError),
}

/// Errors on this machine.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error("no thread for it")]
    Thread(#[source] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A blob that is too large for the pack could not be read.
    #[error("can't read what is to be sent")]
    Blob(#[source] io::Error),
    /// The thread that leads the push failed.
    #[error(transparent)]
    Supervisor(Box<dyn std::error::Error + Send + Sync>),
}

impl SessionError {
    /// Whether the host can't be reached, as opposed to refusing something.
    pub fn is_unreachable(&self) -> bool {
        match self {
            SessionError::Lost(_) => true,
            SessionError::Connect(error) => matches!(
                error,
                ConnectError::Unreachable(_)
                    | ConnectError::Cut
                    | ConnectError::NeedsAnswer(_)
                    | ConnectError::Silent { .. }
                    | ConnectError::Read { .. }
            ),
            SessionError::AgentEnded { .. }
            | SessionError::Interrupted
            | SessionError::Agent(_)
            | SessionError::OutOfOrder
            | SessionError::Idle(_)
            | SessionError::Here(_) => false,
        }
    }
}

/// A connection to an agent of the same build, after its first line.
pub struct Session {
    /// Dropped before the connection, so that a last message is read.
    outgoing: Option<Outgoing>,
    connection: Connection,
    mailbox: Mailbox,
    /// The number of this connection in the mailbox.
    number: usize,
    /// Bounds the number of messages of this session in the mailbox.
    unread: Unread,
    watchdog: Watchdog,
    spoke: Instant,
    is_local: bool,
    answered_in: Duration,
    socket: Option<ControlSocket>,
    interrupt: Interrupt,
    at_interrupt: AtInterrupt,
    /// The limit for silence of the host.
    silence: Duration,
}

/// What an interrupt does to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtInterrupt {
    /// The session continues, but with a shorter limit for silence. The fleet decides about the deployment.
    Hurries,
    /// The session ends, because it only reads.
    Ends,
}

impl Session {
    /// Connect to `target` to read from the host; an interrupt ends the session. Returns the host's hello, too.
    pub fn to_ask(
        connector: &Connector,
        target: &Endpoint,
        stage: &mut dyn FnMut(Stage),
    ) -> Result<(Session, Hello), SessionError> {
        let started = connector.start(target, Present::Started, None, stage)?;
        let session = Session::open(connector, started, None, Mailbox::new(|| {}), stage)?;
        let mut session = Session { at_interrupt: AtInterrupt::Ends, ..session };
        let hello = session.hello()?;
        Ok((session, hello))
    }

    /// Wait until an agent answers on a connection that was started. The request in `early` is sent without waiting. The
    /// first message must be the [`hello`](Self::hello).
    pub fn open(
        connector: &Connector,
        started: Started,
        early: Option<&Early>,
        mailbox: Mailbox,
        stage: &mut dyn FnMut(Stage),
    ) -> Result<Session, SessionError> {
        let (is_local, since) = (started.is_local(), started.since());
        let Link { connection, outgoing, incoming, socket } = connector.connect(started, early, stage)?;
        let answered_in = since.elapsed();
        let number = mailbox.0.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let unread = Unread::new(&connector.pumps.data);
        let (stdout, first) = incoming.into_parts();
        let reader = Reader::new(stdout, &first, number, &unread, mailbox.0.clone());
        connector.pumps.data.add(reader).map_err(LocalError::Thread)?;
        let now = Instant::now();
        let (watchdog, outgoing) = (Watchdog::begin(now), Some(outgoing));
        Ok(Session {
            connection,
            outgoing,
            mailbox,
            number,
            unread,
            watchdog,
            spoke: now,
            is_local,
            answered_in,
            socket,
            interrupt: connector.interrupted.clone(),
            at_interrupt: AtInterrupt::Hurries,
            silence: SILENCE,
        })
    }

    /// Receive the host's hello, which is the first message.
    pub fn hello(&mut self) -> Result<Hello, SessionError> {
        match self.receive()? {
            Response::Hello(hello) => Ok(*hello),
            _ => Err(SessionError::OutOfOrder),
        }
    }

    /// Shorten the limit for silence, because the host is probably unreachable.
    pub fn expect_silence(&mut self) {
        self.silence = LIKELY_SILENCE;
    }

    /// Send encoded requests in the background, while messages are received. See [`abandon`](Self::abandon).
    pub fn send_meanwhile(&mut self, parts: Vec<Arc<[u8]>>) -> Result<(), SessionError> {
        self.spoke = Instant::now();
        let Some(outgoing) = &mut self.outgoing else { return Ok(()) };
        outgoing.send_ahead(parts).map_err(|error| SessionError::Lost(error.to_string()))
    }

    /// Whether something is still being sent in the background.
    pub fn is_sending(&self) -> bool {
        self.outgoing.as_ref().is_some_and(Outgoing::is_busy)
    }

    /// Stop sending in the background. Returns whether the host will never receive all of it.
    pub fn abandon(&mut self) -> bool {
        self.outgoing.as_mut().is_some_and(Outgoing::abandon)
    }

    /// The time from the start of the program to the agent's first line.
    pub fn answered_in(&self) -> Duration {
        self.answered_in
    }

    /// What ssh has said about the socket of shared connections, if it had to be asked.
    pub fn take_socket(&mut self) -> Option<ControlSocket> {
        self.socket.take()
    }

    /// Send a request. If the agent has exited, its last messages say why; they can still be received.
    pub fn send(&mut self, request: &Request) -> Result<(), SessionError> {
        if *request != Request::Heartbeat {
            self.watchdog.asked(Instant::now());
        }
        let frame = encode(request).map_err(LocalError::from)?;
        self.send_frames(&frame)
    }

    fn send_frames(&mut self, frames: &[u8]) -> Result<(), SessionError> {
        self.spoke = Instant::now();
        let Some(outgoing) = &mut self.outgoing else { return Ok(()) };
        match outgoing.write_all(frames).and_then(|()| outgoing.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.outgoing = None;
                Ok(())
            }
            Err(_) if self.interrupt.is_set() => Err(SessionError::Interrupted),
            result => result.map_err(|error| SessionError::Lost(error.to_string())),
        }
    }

    /// Send a blob that is too large for the pack. If this is interrupted, the connection can't be used any more.
    pub fn send_blob(&mut self, id: BlobId, size: u64, content: &mut dyn io::Read) -> Result<(), SessionError> {
        self.send(&Request::Blob { id, size })?;
        if let Some(outgoing) = &self.outgoing {
            outgoing.widen();
        }
        let new = |data, count| DataFrames::new(data, count).map_err(LocalError::from);
        let (mut left, mut frames) = (size, new(CHUNK, BATCH)?);
        while left > 0 {
            if self.interrupt.is_set() {
                return Err(SessionError::Interrupted);
            }
            if left < frames.size() as u64 {
                frames = new(CHUNK.min(left as usize), 1)?;
            }
            frames.read(content).map_err(LocalError::Blob)?;
            self.watchdog.asked(Instant::now());
            self.send_frames(&frames.bytes)?;
            left -= frames.size() as u64;
        }
        // At its end, the source reports its own errors.
        match content.read(&mut [0]).map_err(LocalError::Blob)? {
            0 => Ok(()),
            _ => Err(LocalError::Blob(io::Error::other("it is longer than it should be")).into()),
        }
    }

    /// The next message. Orders that arrive before it are put aside for [`Session::event`].
    pub fn receive(&mut self) -> Result<Response, SessionError> {
        loop {
            match self.receive_within(HEARTBEAT)? {
                Some(Event::Response(response)) => return Ok(response),
                Some(Event::Order(order)) => self.mailbox.put_aside(order),
                None => {}
            }
        }
    }

    /// Do `work`, and keep the session alive meanwhile although nothing is asked. Returns whether it still is, too.
    pub fn meanwhile<T>(&mut self, work: impl FnOnce() -> T) -> (T, Result<(), SessionError>) {
        thread::scope(|scope| {
            // This ends the thread also if `work` panics.
            let (over, is_over) = channel::<()>();
            let kept = scope.spawn(move || {
                while is_over.try_recv() == Err(TryRecvError::Empty) {
                    if self.receive_within(INTERRUPT_CHECK)?.is_some() {
                        return Err(SessionError::OutOfOrder);
                    }
                }
                Ok(())
            });
            let done = work();
            drop(over);
            (done, kept.join().unwrap_or(Err(SessionError::OutOfOrder)))
        })
    }

    /// The next message or order, if there is one. This must be called at least every [`ATTENTION`], because it sends
    /// heartbeats and notices silence.
    pub fn event(&mut self) -> Result<Option<Event>, SessionError> {
        match self.mailbox.take_aside() {
            Some(order) => Ok(Some(Event::Order(order))),
            None => self.receive_within(Duration::ZERO),
        }
    }

    /// The next order, or message that is not a heartbeat, within `wait`. Sends heartbeats meanwhile.
    fn receive_within(&mut self, wait: Duration) -> Result<Option<Event>, SessionError> {
        let deadline = Instant::now() + wait;
        loop {
            // A request that is being sent ahead is a sufficient sign of life.
            if self.spoke.elapsed() >= HEARTBEAT && !self.is_sending() {
                self.send(&Request::Heartbeat)?;
            }
            let silence = match (self.interrupt.is_set(), self.at_interrupt) {
                (true, AtInterrupt::Ends) => return Err(SessionError::Interrupted),
                (true, AtInterrupt::Hurries) => self.silence.min(SHORT_SILENCE),
                (false, _) => self.silence,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let arrival = self.mailbox.arrivals().recv_timeout(left.min(INTERRUPT_CHECK));
            match arrival {
                Ok(Arrival::Order(order)) => return Ok(Some(Event::Order(order))),
                // A message of an earlier connection.
                Ok(Arrival::Message(number, _) | Arrival::End(number, _)) if number != self.number => {}
                Ok(Arrival::Message(_, message)) => {
                    self.unread.taken();
                    self.watchdog.on_message(&message, Instant::now()).map_err(|why| self.give_up(why))?;
                    match safe(*message) {
                        Response::Heartbeat => {}
                        Response::Error(why) => return Err(SessionError::Agent(why)),
                        response => return Ok(Some(Event::Response(response))),
                    }
                }
                Ok(Arrival::End(_, error)) => return Err(self.ended(error)),
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended(None)),
                Err(RecvTimeoutError::Timeout) if self.watchdog.is_silent(silence, Instant::now()) => {
                    self.connection.stopper().stop();
                    return Err(SessionError::Lost("the host is silent".into()));
                }
                Err(RecvTimeoutError::Timeout) if left <= INTERRUPT_CHECK => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// End the connection to a host that makes no progress.
    fn give_up(&self, why: &'static str) -> SessionError {
        self.connection.stopper().stop();
        SessionError::Idle(why)
    }

    /// The error for a stream that ended. Status 255 is ssh's own: the connection failed, not the agent. What was
    /// printed on stderr says more than how the pipe ended.
    fn ended(&mut self, error: Option<FrameError>) -> SessionError {
        self.outgoing = None;
        let status = self.connection.wait_for(Duration::from_secs(1)).ok().flatten();
        let stderr = self.connection.stderr_at_end();
        // Rust's hint about backtraces is not the reason.
        let last = |line: &&str| !line.is_empty() && !line.starts_with("note: ");
        let last = stderr.lines().map(str::trim).rfind(last).map(str::to_owned);
        self.connection.is_told(|line| last.as_deref() == Some(line));
        let of_agent = match status {
            Some(status) if status.code() == Some(255) => {
                last.is_none().then(|| "ssh gives no reason: it may have been killed".to_owned())
            }
            Some(status) if self.is_local => Some(how_it_ended(status)),
            Some(status) if status.code().is_some() && error.is_none() => Some(how_it_ended(status)),
            Some(_) | None => None,
        };
        match of_agent {
            Some(how) => {
                let stderr = last.map(|line| format!(": {line}")).unwrap_or_default();
                SessionError::AgentEnded { how, stderr }
            }
            None => {
                let how = || error.map(|error| error.to_string()).or_else(|| status.map(describe));
                SessionError::Lost(last.or_else(how).unwrap_or_else(|| "the agent closed it".into()))
            }
        }
    }

    /// End the session. The agent may still be at work, unless it runs on this machine.
    pub fn close(mut self) {
        self.outgoing = None;
        if self.is_local {
            // An agent that takes longer exits by itself.
            let end = Instant::now() + TIDYING;
            while !self.interrupt.is_set() && Instant::now() < end {
                let Ok(None) = self.connection.wait_for(INTERRUPT_CHECK) else { break };
            }
        }
    }
}

/// A shell that started the agent reports a signal as a status of 128 and more.
fn how_it_ended(status: ExitStatus) -> String {
    match status.code() {
        Some(code @ 129..=192) => format!("killed by signal {}", code - 128),
        Some(_) => describe(status),
        None => format!("killed by {}", describe(status)),
    }
}
