//! One connection to one agent: messages out, messages in, and whether the other end is still alive.
//!
//! A thread reads; whoever owns the [`Session`] writes, and takes what was read with a deadline. So neither side can
//! block the other, and a host that falls silent is noticed.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use deptool_agent::shared::{
    frame::{CHUNK, FrameError, FrameReader, encode},
    id::BlobId,
    wire::{Bytes, Drift, Hello, Request, Response},
};

use super::{
    payload::Payload,
    sanitize::safe,
    transport::{
        Ahead, ConnectError, Connector, Endpoint, Link, Stage, Started,
        process::{Connection, Outgoing, describe},
    },
};

/// An agent that says nothing for this long is gone. It sends heartbeats more often.
const SILENCE: Duration = Duration::from_secs(30);
/// An agent on this machine is waited for, once it has answered: whoever looks at the directory sees it at rest.
const TIDYING: Duration = Duration::from_secs(10);
/// How often we say that we are alive.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A host that is alive and makes no step for this long is given up. Checks and settling take minutes at most.
const STALLED: Duration = Duration::from_secs(15 * 60);
/// So many heartbeats, notes and words on progress a host may send at once, and so many more each second.
const CHATTER: u64 = 2000;
const CHATTER_PER_SECOND: u64 = 20;
/// With so many messages that nobody has looked at yet, no more are read: a host can't fill our memory.
const UNREAD: usize = 16;

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
    /// The agent is there, and does not get on.
    #[error("the host {0}")]
    Idle(&'static str),
    /// Something on this side: a file that can't be read, say.
    #[error("{0}")]
    Here(String),
}

impl SessionError {
    /// Whether this says that the host can't be reached, and not that it won't do something.
    pub fn is_unreachable(&self) -> bool {
        match self {
            SessionError::Lost(_) => true,
            SessionError::Connect(error) => matches!(error, ConnectError::Unreachable(_) | ConnectError::Read { .. }),
            SessionError::Agent(_) | SessionError::OutOfOrder | SessionError::Idle(_) | SessionError::Here(_) => false,
        }
    }
}

/// What a session waits for. What came over a connection says over which one, the first or a later one.
enum Arrival {
    Message(usize, Box<Response>),
    /// The stream has ended, well or badly.
    End(usize, Option<FrameError>),
    /// Something that our own side wants.
    Order(Order),
}

/// What whoever leads all sessions tells one of them.
#[derive(Debug)]
pub enum Order {
    Send(Request),
    /// The answer to [`Response::NeedFull`]: a pack that assumes nothing, and the blobs that go with it.
    Full(Payload),
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

/// Where a session's messages and orders arrive. When a session is lost another one can take its place, so that no order
/// gets lost with it. One session at a time takes from it.
#[derive(Clone)]
pub struct Mailbox(Arc<Inbox>);

struct Inbox {
    sender: Sender<Arrival>,
    arrivals: Mutex<Receiver<Arrival>>,
    /// How many connections have delivered here.
    connections: AtomicUsize,
}

impl Mailbox {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Mailbox {
        let (sender, arrivals) = channel();
        let arrivals = Mutex::new(arrivals);
        Mailbox(Arc::new(Inbox { sender, arrivals, connections: AtomicUsize::new(0) }))
    }

    /// For giving orders to the session that gets this mailbox.
    pub fn orders(&self) -> Orders {
        Orders(self.0.sender.clone())
    }

    /// The next order if one comes within `wait`, while there is no session.
    pub fn order_within(&self, wait: Duration) -> Option<Order> {
        let deadline = Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.arrivals().recv_timeout(left) {
                Ok(Arrival::Order(order)) => return Some(order),
                // What a session that has ended left behind.
                Ok(Arrival::Message(..) | Arrival::End(..)) => {}
                Err(_) => return None,
            }
        }
    }

    fn arrivals(&self) -> MutexGuard<'_, Receiver<Arrival>> {
        self.0.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection on which the agent has said hello.
pub struct Session {
    connection: Connection,
    outgoing: Option<Outgoing>,
    mailbox: Mailbox,
    /// Which of the mailbox's connections this is.
    number: usize,
    /// For each of its messages in the mailbox there is one here.
    unread: Receiver<()>,
    /// Those that came while a message was waited for.
    orders: VecDeque<Order>,
    watchdog: Watchdog,
    spoke: Instant,
    is_local: bool,
    answered_in: Duration,
}

impl Session {
    /// Connect to `target`. Returns what the host says of itself, too.
    pub fn to(
        connector: &Connector,
        target: &Endpoint,
        mailbox: Mailbox,
        stage: &mut dyn FnMut(Stage),
    ) -> Result<(Session, Hello), SessionError> {
        let started = connector.start(target, None, stage)?;
        Session::open(connector, started, &Ahead::No, mailbox, stage)
    }

    /// Go on with a connection that was started; a request in `ahead` is sent without waiting for an answer.
    pub fn open(
        connector: &Connector,
        started: Started,
        ahead: &Ahead,
        mailbox: Mailbox,
        stage: &mut dyn FnMut(Stage),
    ) -> Result<(Session, Hello), SessionError> {
        let (is_local, since) = (started.is_local(), started.since());
        let Link { connection, outgoing, incoming } = connector.connect(started, ahead, stage)?;
        let answered_in = since.elapsed();
        let number = mailbox.0.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let sender = mailbox.0.sender.clone();
        let (room, unread) = sync_channel(UNREAD);
        let reader = thread::Builder::new().name("reader".into()).stack_size(256 * 1024);
        reader
            .spawn(move || read(FrameReader::new(incoming), number, &room, &sender))
            .map_err(|error| SessionError::Here(error.to_string()))?;
        let now = Instant::now();
        let (watchdog, orders) = (Watchdog::begin(now), VecDeque::new());
        let outgoing = Some(outgoing);
        let mut session = Session {
            connection,
            outgoing,
            mailbox,
            number,
            unread,
            orders,
            watchdog,
            spoke: now,
            is_local,
            answered_in,
        };
        match session.receive()? {
            Response::Hello(hello) => Ok((session, *hello)),
            _ => Err(SessionError::OutOfOrder),
        }
    }

    /// How long it took from the start of the program until the agent had said its first line.
    pub fn answered_in(&self) -> Duration {
        self.answered_in
    }

    /// Send a request. An agent that has ended already says why in what can still be received.
    pub fn send(&mut self, request: &Request) -> Result<(), SessionError> {
        if *request != Request::Heartbeat {
            self.watchdog.asked(Instant::now());
        }
        let frame = encode(request).map_err(|error| SessionError::Here(error.to_string()))?;
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
            let count = content.read(&mut chunk).map_err(|error| SessionError::Here(error.to_string()))?;
            if count == 0 {
                return Ok(());
            }
            self.send(&Request::Data(Bytes(chunk[..count].to_vec())))?;
        }
    }

    /// What on the host at the other end is not as it was deployed.
    pub fn verify(&mut self) -> Result<Vec<Drift>, SessionError> {
        self.send(&Request::Verify)?;
        match self.receive()? {
            Response::Drift(found) => Ok(found),
            _ => Err(SessionError::OutOfOrder),
        }
    }

    /// The next message. Orders that come first are kept for [`Session::event`].
    pub fn receive(&mut self) -> Result<Response, SessionError> {
        loop {
            match self.receive_within(HEARTBEAT)? {
                Some(Event::Response(response)) => return Ok(response),
                Some(Event::Order(order)) => self.orders.push_back(order),
                None => {}
            }
        }
    }

    /// The next message or order.
    pub fn event(&mut self) -> Result<Event, SessionError> {
        if let Some(order) = self.orders.pop_front() {
            return Ok(Event::Order(order));
        }
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
            // While a request sent ahead is on its way that is sign of life enough.
            let is_busy = self.outgoing.as_ref().is_some_and(Outgoing::is_busy);
            if self.spoke.elapsed() >= HEARTBEAT && !is_busy {
                self.send(&Request::Heartbeat)?;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let arrival = self.mailbox.arrivals().recv_timeout(left.min(HEARTBEAT));
            match arrival {
                Ok(Arrival::Order(order)) => return Ok(Some(Event::Order(order))),
                // From a connection before this one.
                Ok(Arrival::Message(number, _) | Arrival::End(number, _)) if number != self.number => {}
                Ok(Arrival::Message(_, message)) => {
                    let _ = self.unread.try_recv();
                    self.watchdog.on_message(&message, Instant::now()).map_err(|why| self.give_up(why))?;
                    match safe(*message) {
                        Response::Heartbeat => {}
                        Response::Error(why) => return Err(SessionError::Agent(why)),
                        response => return Ok(Some(Event::Response(response))),
                    }
                }
                Ok(Arrival::End(_, error)) => return Err(self.ended(error)),
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended(None)),
                Err(RecvTimeoutError::Timeout) if self.watchdog.is_silent(Instant::now()) => {
                    self.connection.stopper().stop();
                    return Err(SessionError::Lost("the host is silent".into()));
                }
                Err(RecvTimeoutError::Timeout) if left <= HEARTBEAT => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// End the connection to a host that does not get on.
    fn give_up(&self, why: &'static str) -> SessionError {
        self.connection.stopper().stop();
        SessionError::Idle(why)
    }

    /// What to say of a stream that ended: what ssh said is of more use than how the pipe ended.
    fn ended(&mut self, error: Option<FrameError>) -> SessionError {
        self.outgoing = None;
        let status = self.connection.wait_for(Duration::from_secs(1)).ok().flatten();
        let stderr = self.connection.stderr_at_end();
        let last = stderr.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned);
        let text = match (last, error, status) {
            (Some(line), _, _) => line,
            (None, Some(error), _) => error.to_string(),
            (None, None, Some(status)) => format!("the agent ended with {}", describe(status)),
            (None, None, None) => "the agent closed it".into(),
        };
        SessionError::Lost(text)
    }

    /// End the session from this side. The agent may still be at work, but for one on this machine.
    pub fn close(mut self) {
        self.outgoing = None;
        if self.is_local {
            // One that takes longer ends by itself.
            let _ = self.connection.wait_for(TIDYING);
        }
    }
}

/// What can be expected of a host: that it is there, gets on with what it was asked, and does not chatter.
struct Watchdog {
    begun: Instant,
    /// When it last said anything.
    heard: Instant,
    /// Since when it owes us an answer or the next step; `None` while it is our turn.
    owes_since: Option<Instant>,
    /// How many messages it has sent that get nobody any further.
    chatter: u64,
}

impl Watchdog {
    fn begin(now: Instant) -> Watchdog {
        Watchdog { begun: now, heard: now, owes_since: Some(now), chatter: 0 }
    }

    fn asked(&mut self, now: Instant) {
        self.owes_since = Some(now);
    }

    /// Note a message; or why no more is to be heard.
    fn on_message(&mut self, message: &Response, now: Instant) -> Result<(), &'static str> {
        self.heard = now;
        match message {
            Response::Heartbeat | Response::Note(_) | Response::Progress(_) => {
                self.chatter += 1;
                let allowed = CHATTER + CHATTER_PER_SECOND * now.duration_since(self.begun).as_secs();
                if self.chatter > allowed {
                    return Err("talks too much");
                }
                match self.owes_since {
                    Some(since) if now.duration_since(since) >= STALLED => Err("is there, but does not get on"),
                    Some(_) | None => Ok(()),
                }
            }
            // It waits for us, and we perhaps for other hosts.
            Response::Prepared | Response::AwaitsConfirmation { .. } | Response::Healthy | Response::Kept => {
                self.owes_since = None;
                Ok(())
            }
            _ => {
                self.owes_since = self.owes_since.map(|_| now);
                Ok(())
            }
        }
    }

    fn is_silent(&self, now: Instant) -> bool {
        now.duration_since(self.heard) >= SILENCE
    }
}

fn read(mut reader: FrameReader<impl io::Read>, number: usize, room: &SyncSender<()>, to: &Sender<Arrival>) {
    loop {
        let arrival = match reader.receive() {
            Ok(Some(message)) => Arrival::Message(number, Box::new(message)),
            Ok(None) => Arrival::End(number, None),
            Err(error) => Arrival::End(number, Some(error)),
        };
        let is_end = matches!(arrival, Arrival::End(..));
        // Nobody listens any more when the session was closed.
        if room.send(()).is_err() || to.send(arrival).is_err() || is_end {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_alive_and_does_not_get_on_is_given_up() {
        let begin = Instant::now();
        let mut watchdog = Watchdog::begin(begin);
        let mut now = begin;
        let mut beat_until = |watchdog: &mut Watchdog, end: Duration| -> Result<(), &'static str> {
            while now.duration_since(begin) < end {
                now += HEARTBEAT;
                watchdog.on_message(&Response::Heartbeat, now)?;
            }
            Ok(())
        };
        assert_eq!(beat_until(&mut watchdog, STALLED - HEARTBEAT), Ok(()));
        // It has got on, and waits for us, however long.
        watchdog.on_message(&Response::Prepared, begin + STALLED - HEARTBEAT).unwrap();
        assert_eq!(beat_until(&mut watchdog, STALLED * 5), Ok(()));
        watchdog.asked(begin + STALLED * 5);
        assert_eq!(beat_until(&mut watchdog, STALLED * 6 - HEARTBEAT), Ok(()));
        assert_eq!(beat_until(&mut watchdog, STALLED * 6), Err("is there, but does not get on"));
    }

    #[test]
    fn a_host_that_says_the_same_over_and_over_is_given_up() {
        let now = Instant::now();
        for message in [Response::Heartbeat, Response::Note("x".into())] {
            let mut watchdog = Watchdog::begin(now);
            let many = std::iter::repeat_with(|| watchdog.on_message(&message, now)).take(10_000);
            assert_eq!(many.filter_map(Result::err).next(), Some("talks too much"));
        }
    }

    #[test]
    fn no_more_is_read_than_is_looked_at() {
        struct Flood(Arc<std::sync::atomic::AtomicUsize>);
        impl io::Read for Flood {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let frame = encode(&Response::Heartbeat).unwrap();
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                into[..frame.len()].copy_from_slice(&frame);
                Ok(frame.len())
            }
        }
        let count = Arc::<std::sync::atomic::AtomicUsize>::default();
        let (sender, arrivals) = channel();
        let (room, unread) = sync_channel(UNREAD);
        let flood = FrameReader::new(Flood(count.clone()));
        let reader = thread::spawn(move || read(flood, 1, &room, &sender));
        for taken in 1..100 {
            assert!(matches!(arrivals.recv().unwrap(), Arrival::Message(..)));
            unread.recv().unwrap();
            assert!(count.load(std::sync::atomic::Ordering::Relaxed) <= taken + UNREAD + 1);
        }
        drop(unread);
        reader.join().unwrap();
    }

    #[test]
    fn silence_is_noticed() {
        let begin = Instant::now();
        let mut watchdog = Watchdog::begin(begin);
        watchdog.on_message(&Response::Heartbeat, begin + HEARTBEAT).unwrap();
        assert!(!watchdog.is_silent(begin + SILENCE));
        assert!(watchdog.is_silent(begin + HEARTBEAT + SILENCE));
    }
}
