//! One connection to one agent: messages out, messages in, and whether the other end is still alive.
//!
//! A thread reads; whoever owns the [`Session`] writes, and takes what was read with a deadline. So neither side can
//! block the other, and a host that falls silent is noticed.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use deptool_agent::{
    frame::{CHUNK, FrameError, FrameReader, encode},
    id::BlobId,
    text::printable,
    wire::{Bytes, Hello, Request, Response},
};

use crate::transport::{
    Ahead, ConnectError, Connector, Link, Stage, Target,
    process::{Connection, Outgoing, describe},
};

/// An agent that says nothing for this long is gone. It sends heartbeats more often.
const SILENCE: Duration = Duration::from_secs(30);
/// How often we say that we are alive.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Why a session ended before its time. Every message is one line that is safe to show.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection is gone; what the host does now is not known from here.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// The agent says that it can't go on.
    #[error("{0}")]
    Agent(String),
    /// The agent says what does not belong there.
    #[error("the host sent a message that makes no sense here")]
    OutOfOrder,
}

/// What a session waits for.
enum Arrival {
    Message(Box<Response>),
    /// The stream has ended, well or badly.
    End(Option<FrameError>),
    /// Something that our own side wants.
    Order(Order),
}

/// What whoever leads all sessions tells one of them.
#[derive(Debug)]
pub enum Order {
    Send(Request),
    /// The answer to [`Response::NeedFull`]: a pack that assumes nothing, and the blobs that go with it.
    Full {
        pack: Vec<u8>,
        large: Vec<(BlobId, u64)>,
    },
}

/// What comes in.
#[derive(Debug)]
pub enum Event {
    Response(Response),
    Order(Order),
}

/// Gives orders to a session, from another thread, also before it is connected.
#[derive(Clone)]
pub struct Orders(Sender<Arrival>);

impl Orders {
    /// Give an order. A session that has ended does not mind.
    pub fn give(&self, order: Order) {
        let _ = self.0.send(Arrival::Order(order));
    }
}

/// Where a session's messages and orders arrive.
pub struct Mailbox {
    sender: Sender<Arrival>,
    arrivals: Receiver<Arrival>,
}

impl Mailbox {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Mailbox {
        let (sender, arrivals) = channel();
        Mailbox { sender, arrivals }
    }

    /// For giving orders to the session that gets this mailbox.
    pub fn orders(&self) -> Orders {
        Orders(self.sender.clone())
    }
}

/// A connection on which the agent has said hello.
pub struct Session {
    connection: Connection,
    outgoing: Option<Outgoing>,
    arrivals: Receiver<Arrival>,
    heard: Instant,
    spoke: Instant,
}

impl Session {
    /// Connect to `target`; requests in `ahead` are sent without waiting for an answer. Returns what the host says of
    /// itself, too.
    pub fn open(
        connector: &Connector,
        target: &Target,
        ahead: Option<Arc<[u8]>>,
        mailbox: Mailbox,
        stage: &mut dyn FnMut(Stage),
    ) -> Result<(Session, Hello), SessionError> {
        let ahead = ahead.map_or(Ahead::No, Ahead::Yes);
        let Link { connection, outgoing, incoming } = connector.connect(target, &ahead, stage)?;
        let Mailbox { sender, arrivals } = mailbox;
        let reader = thread::Builder::new().name("reader".into()).stack_size(256 * 1024);
        reader
            .spawn(move || read(FrameReader::new(incoming), &sender))
            .map_err(|e| SessionError::Lost(e.to_string()))?;
        let now = Instant::now();
        let mut session = Session { connection, outgoing: Some(outgoing), arrivals, heard: now, spoke: now };
        match session.receive()? {
            Response::Hello(hello) => Ok((session, *hello)),
            _ => Err(SessionError::OutOfOrder),
        }
    }

    /// Send a request. An agent that has ended already says why in what can still be received.
    pub fn send(&mut self, request: &Request) -> Result<(), SessionError> {
        let frame = encode(request).map_err(|error| SessionError::Lost(error.to_string()))?;
        self.send_frames(&frame)
    }

    /// Send requests that are encoded already.
    pub fn send_frames(&mut self, frames: &[u8]) -> Result<(), SessionError> {
        self.spoke = Instant::now();
        let Some(outgoing) = &mut self.outgoing else { return Ok(()) };
        match outgoing.write_all(frames).and_then(|()| outgoing.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.outgoing = None;
                Ok(())
            }
            result => result.map_err(|error| SessionError::Lost(error.to_string())),
        }
    }

    /// Send a blob that is too large for the pack.
    pub fn send_blob(&mut self, id: BlobId, size: u64, content: &mut dyn io::Read) -> Result<(), SessionError> {
        self.send(&Request::Blob { id, size })?;
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = content.read(&mut chunk).map_err(|error| SessionError::Lost(error.to_string()))?;
            if count == 0 {
                return Ok(());
            }
            self.send(&Request::Data(Bytes(chunk[..count].to_vec())))?;
        }
    }

    /// The next message, for a session that gets no orders.
    pub fn receive(&mut self) -> Result<Response, SessionError> {
        loop {
            if let Some(Event::Response(response)) = self.receive_within(HEARTBEAT)? {
                return Ok(response);
            }
        }
    }

    /// The next message or order.
    pub fn event(&mut self) -> Result<Event, SessionError> {
        loop {
            if let Some(event) = self.receive_within(HEARTBEAT)? {
                return Ok(event);
            }
        }
    }

    /// The next message that is not a heartbeat, or order, if one comes within `wait`; keeps both ends alive meanwhile.
    fn receive_within(&mut self, wait: Duration) -> Result<Option<Event>, SessionError> {
        let deadline = Instant::now() + wait;
        loop {
            if self.spoke.elapsed() >= HEARTBEAT {
                self.send(&Request::Heartbeat)?;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.arrivals.recv_timeout(left.min(HEARTBEAT)) {
                Ok(Arrival::Order(order)) => return Ok(Some(Event::Order(order))),
                Ok(Arrival::Message(message)) => {
                    self.heard = Instant::now();
                    match *message {
                        Response::Heartbeat => {}
                        Response::Error(why) => return Err(SessionError::Agent(printable(why.as_bytes()))),
                        response => return Ok(Some(Event::Response(response))),
                    }
                }
                Ok(Arrival::End(error)) => return Err(self.ended(error)),
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended(None)),
                Err(RecvTimeoutError::Timeout) if self.heard.elapsed() >= SILENCE => {
                    self.connection.stopper().stop();
                    return Err(SessionError::Lost("the host is silent".into()));
                }
                Err(RecvTimeoutError::Timeout) if left <= HEARTBEAT => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// What to say of a stream that ended: what ssh said is of more use than how the pipe ended.
    fn ended(&mut self, error: Option<FrameError>) -> SessionError {
        self.outgoing = None;
        let status = self.connection.wait_for(Duration::from_secs(1)).ok().flatten();
        let said = self.connection.said_at_last();
        let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned);
        let text = match (last, error, status) {
            (Some(line), _, _) => line,
            (None, Some(error), _) => error.to_string(),
            (None, None, Some(status)) => format!("the agent ended with {}", describe(status)),
            (None, None, None) => "the agent closed it".into(),
        };
        SessionError::Lost(text)
    }

    /// End the session from this side. The agent may still be at work.
    pub fn close(mut self) {
        self.outgoing = None;
    }
}

fn read(mut reader: FrameReader<crate::transport::process::Incoming>, to: &Sender<Arrival>) {
    loop {
        let arrival = match reader.receive() {
            Ok(Some(message)) => Arrival::Message(Box::new(message)),
            Ok(None) => Arrival::End(None),
            Err(error) => Arrival::End(Some(error)),
        };
        let is_end = matches!(arrival, Arrival::End(_));
        // Nobody listens any more when the session was closed.
        if to.send(arrival).is_err() || is_end {
            return;
        }
    }
}
