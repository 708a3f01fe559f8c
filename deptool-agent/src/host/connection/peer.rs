//! The agent's end of the connection to the helper.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::{Errno, retry_on_intr},
};

use crate::{
    host::{
        connection::{
            heartbeat::{HEARTBEAT, HELD, Heartbeat},
            takeover::TakeoverSocket,
        },
        state::error::HostError,
    },
    shared::{
        frame::{FrameBuffer, FrameError, encode},
        wire::{Request, Response},
    },
};

/// A helper that sends nothing for this long counts as gone.
pub const SILENCE: Duration = Duration::from_secs(30);

/// After this time, the helper is told what the host waits for, and so often at most.
const LONG: Duration = Duration::from_secs(1);

/// Send at most this many notes. The helper gives up a host that sends very many.
const NOTES: usize = 200;

/// The result of waiting for a request.
#[derive(Debug)]
pub enum Incoming {
    Request(Request),
    /// No request came in time.
    Silence,
    /// The helper closed the connection between two messages.
    End,
    /// The connection was cut off in the middle of a message, or a message can't be decoded.
    Failed(FrameError),
}

/// The helper at the other end.
pub struct Peer {
    /// The current connection. `None` after it was dropped, until another connection takes over.
    link: Option<Link>,
    last_sent: Instant,
    takeover: Option<TakeoverSocket>,
    /// How often another connection has taken over.
    takeovers: usize,
    /// The question that the helper has not answered yet. A connection that takes over is asked again.
    question: Option<Response>,
    /// What the helper was last told to wait for, and when the last phase or wait was sent.
    awaited: String,
    heard_of_progress: Instant,
    /// The number of notes, with those that were not sent.
    notes: usize,
    heartbeat: Heartbeat,
}

/// One connection.
struct Link {
    input: OwnedFd,
    output: Arc<OwnedFd>,
    buffer: FrameBuffer,
    /// The bytes that already arrived in the environment, and that `input` will repeat at its beginning. See
    /// [`crate::shared::env_request`].
    prefix: Vec<u8>,
    lost: bool,
}

impl Peer {
    /// Talk to the helper at the other end of `input` and `output`. `prefix` is the beginning of its stream if that arrived
    /// in the environment, or empty. `heartbeat` is used while the agent waits for the disk.
    pub fn new(input: OwnedFd, output: OwnedFd, prefix: Vec<u8>, heartbeat: &Heartbeat) -> io::Result<Peer> {
        let mut link = Link::new(input, output)?;
        link.buffer.push(&prefix);
        link.prefix = prefix;
        heartbeat.follow(&link.output);
        let (link, heartbeat) = (Some(link), heartbeat.clone());
        Ok(Peer {
            link,
            last_sent: Instant::now(),
            takeover: None,
            takeovers: 0,
            question: None,
            awaited: String::new(),
            heard_of_progress: Instant::now(),
            notes: 0,
            heartbeat,
        })
    }

    /// Let other connections take over through `socket` from now on.
    pub fn accept_takeovers(&mut self, socket: TakeoverSocket) {
        self.takeover = Some(socket);
    }

    /// Let no more connections take over.
    pub fn stop_takeovers(&mut self) -> Result<(), HostError> {
        self.take_over();
        self.takeover.take().map_or(Ok(()), TakeoverSocket::close)
    }

    /// How often another connection has taken over.
    pub fn takeovers(&self) -> usize {
        self.takeovers
    }

    /// Whether the connection is known to be lost.
    pub fn is_lost(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.lost)
    }

    /// Close the connection. Another connection may take over.
    pub fn drop_link(&mut self) {
        self.link = None;
    }

    /// Send `response`, or hold it back for a moment if it only tells of progress. If sending fails, the connection counts as
    /// lost: see [`Peer::is_lost`].
    pub fn send(&mut self, response: &Response) {
        if let Response::Progress(_) = response {
            self.awaited.clear();
            self.heard_of_progress = Instant::now();
        }
        if let Response::Note(_) = response {
            self.notes += 1;
            if self.notes > NOTES {
                return;
            }
        }
        if let (Response::Ended(_), more @ 1..) = (response, self.notes.saturating_sub(NOTES)) {
            self.notes = 0;
            self.send(&Response::Note(format!("there were {more} more notes")));
        }
        match (encode(response), &mut self.link) {
            (Ok(frame), Some(_)) if matches!(response, Response::Progress(_) | Response::Came { .. }) => {
                self.heartbeat.hold(&frame);
            }
            (Ok(frame), _) => self.send_bytes(&frame),
            (Err(_), Some(link)) => link.lost = true,
            (Err(_), None) => {}
        }
    }

    /// Send raw bytes, after what is held back. The agent's first line is not a frame.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let all = [&self.heartbeat.take_held(), bytes].concat();
        if let Some(link) = &mut self.link {
            link.send(&all);
        }
        self.last_sent = Instant::now();
    }

    /// Send `question`, now and to every connection that takes over, until [`Peer::stop_asking`].
    pub fn ask(&mut self, question: Response) {
        self.send(&question);
        self.question = Some(question);
    }

    /// Stop asking: the question was answered, or no longer matters.
    pub fn stop_asking(&mut self) {
        self.question = None;
    }

    /// Send a heartbeat or what is held back, if it is time for it, and let a waiting connection take over.
    pub fn tick(&mut self) {
        self.take_over();
        if self.heartbeat.has_held_for(HELD) {
            self.send_bytes(&[]);
        }
        if self.last_sent.elapsed() >= HEARTBEAT {
            self.send(&Response::Heartbeat);
        }
    }

    /// Like [`Peer::tick`], and tell the helper what the host waits for if that takes long. Empty if unknown.
    pub fn wait_for(&mut self, awaited: &str) {
        self.tick();
        if !awaited.is_empty() && self.awaited != awaited && self.heard_of_progress.elapsed() >= LONG {
            self.send(&Response::WaitsFor(awaited.to_owned()));
            (self.awaited, self.heard_of_progress) = (awaited.to_owned(), Instant::now());
        }
    }

    /// Whether the helper is still there and has not cancelled.
    pub fn still_waits(&mut self) -> bool {
        self.tick();
        loop {
            match self.receive_within(Duration::ZERO) {
                Incoming::Request(Request::Heartbeat) => {}
                Incoming::Silence => return !self.is_lost(),
                Incoming::Request(_) | Incoming::End | Incoming::Failed(_) => return false,
            }
        }
    }

    fn take_over(&mut self) {
        let Some(stream) = self.takeover.as_ref().and_then(TakeoverSocket::accept) else { return };
        let Ok(link) = stream.try_clone().and_then(|input| Link::new(input.into(), stream.into())) else { return };
        self.heartbeat.follow(&link.output);
        self.link = Some(link);
        self.takeovers += 1;
        self.awaited.clear();
        self.send(&Response::Attached);
        if let Some(question) = self.question.clone() {
            self.send(&question);
        }
    }

    /// Wait for the next request other than a heartbeat. Gives up after [`SILENCE`].
    pub fn receive(&mut self) -> Incoming {
        loop {
            match self.receive_within(SILENCE) {
                Incoming::Request(Request::Heartbeat) => {}
                incoming => return incoming,
            }
        }
    }

    /// Wait up to `wait` for the next request, and send heartbeats meanwhile. If another connection takes over, its requests
    /// are returned.
    pub fn receive_within(&mut self, wait: Duration) -> Incoming {
        let deadline = Instant::now() + wait;
        loop {
            self.tick();
            if let Some(link) = &mut self.link {
                match link.buffer.take() {
                    Ok(Some(request)) => return Incoming::Request(request),
                    Ok(None) => {}
                    Err(error) => return Incoming::Failed(error),
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !left.is_zero() && self.heartbeat.has_held_for(Duration::ZERO) {
                self.send_bytes(&[]);
            }
            match self.wait(left.min(HEARTBEAT)) {
                Ok(Ready::Nothing) if left > HEARTBEAT => {}
                Ok(Ready::Nothing) => return Incoming::Silence,
                Ok(Ready::Takeover) => {}
                Ok(Ready::Link) => {
                    if let Some(end) = self.link.as_mut().and_then(Link::fill) {
                        return end;
                    }
                }
                Err(error) => return Incoming::Failed(FrameError::Io(error.into())),
            }
        }
    }

    /// Wait up to `limit` until the connection can be read or another connection wants to take over.
    fn wait(&self, limit: Duration) -> Result<Ready, Errno> {
        let link = self.link.as_ref().map(|link| PollFd::new(&link.input, PollFlags::IN));
        let socket = self.takeover.as_ref().map(|socket| PollFd::new(socket.listener(), PollFlags::IN));
        let has_socket = socket.is_some();
        let mut both: Vec<_> = socket.into_iter().chain(link).collect();
        match poll(&mut both, Some(&timespec(limit))) {
            Ok(0) | Err(Errno::INTR) => Ok(Ready::Nothing),
            Ok(_) if has_socket && !both[0].revents().is_empty() => Ok(Ready::Takeover),
            Ok(_) => Ok(Ready::Link),
            Err(error) => Err(error),
        }
    }

    /// Read the helper's first line. It is an error if there is no line feed within `limit` bytes.
    pub fn receive_line(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        let Some(link) = &mut self.link else { return Err(io::ErrorKind::NotConnected.into()) };
        loop {
            match link.buffer.take_line() {
                Some(line) if line.len() < limit => return Ok(line),
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                None => {}
            }
            if link.buffer.waiting() >= limit {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if !is_ready(link.input.as_fd(), PollFlags::IN, SILENCE)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match link.fill() {
                None => {}
                Some(Incoming::Failed(FrameError::Io(error))) => return Err(error),
                Some(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Relay between the helper and the agent at the other end of `other`, until one of them closes the connection.
    pub fn relay(&mut self, other: UnixStream) -> io::Result<Relayed> {
        let other = Link::new(other.try_clone()?.into(), other.into())?;
        match &mut self.link {
            Some(link) => Ok(link.relay(other)?),
            None => Ok(Relayed::Nothing),
        }
    }
}

/// Whether the other agent sent anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relayed {
    /// It closed the takeover socket without accepting the connection.
    Nothing,
    Something,
}

/// What a wait has ended with.
enum Ready {
    Nothing,
    Link,
    Takeover,
}

impl Link {
    fn new(input: OwnedFd, output: OwnedFd) -> io::Result<Link> {
        // A helper that does not read must not block the agent in the middle of a deployment.
        fcntl_setfl(&output, fcntl_getfl(&output)? | OFlags::NONBLOCK)?;
        Ok(Link { input, output: Arc::new(output), buffer: FrameBuffer::default(), prefix: Vec::new(), lost: false })
    }

    fn send(&mut self, bytes: &[u8]) {
        self.lost = self.lost || self.write_all(bytes).is_err();
    }

    fn write_all(&self, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.output, bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if !is_ready(self.output.as_fd(), PollFlags::OUT, SILENCE)? {
                        return Err(Errno::TIMEDOUT);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Read into the buffer. Returns something if the connection has ended or failed.
    fn fill(&mut self) -> Option<Incoming> {
        let Link { input, buffer, prefix, .. } = self;
        let mut again = vec![0; prefix.len()];
        let read = match prefix.is_empty() {
            true => buffer.fill(|room| rustix::io::read(input, room)),
            false => rustix::io::read(input, &mut again),
        };
        match read {
            Ok(0) if buffer.is_between_frames() => Some(Incoming::End),
            Ok(0) => Some(Incoming::Failed(FrameError::CutOff)),
            Ok(_) if prefix.is_empty() => None,
            Ok(count) if prefix.starts_with(&again[..count]) => {
                prefix.drain(..count);
                None
            }
            Ok(_) => {
                let why = "stdin and the environment bring different requests";
                Some(Incoming::Failed(FrameError::Malformed(why.into())))
            }
            Err(Errno::INTR | Errno::AGAIN) => None,
            Err(error) => Some(Incoming::Failed(FrameError::Io(error.into()))),
        }
    }

    /// Relay in both directions until either end is gone.
    fn relay(&mut self, mut other: Link) -> Result<Relayed, Errno> {
        other.send(&self.buffer.take_rest());
        let mut relayed = Relayed::Nothing;
        loop {
            let mut both = [PollFd::new(&other.input, PollFlags::IN), PollFd::new(&self.input, PollFlags::IN)];
            match poll(&mut both, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
            let [from_other, from_us] = both.map(|fd| !fd.revents().is_empty());
            if from_other {
                match pass_on(&other.input, self)? {
                    0 => return Ok(relayed),
                    _ => relayed = Relayed::Something,
                }
            }
            if from_us && pass_on(&self.input, &mut other)? == 0 {
                return Ok(relayed);
            }
        }
    }
}

/// Relay what can be read now. Returns the number of bytes, or 0 if either end is gone.
fn pass_on(from: &OwnedFd, to: &mut Link) -> Result<usize, Errno> {
    let mut chunk = [0; 64 * 1024];
    let count = retry_on_intr(|| rustix::io::read(from, &mut chunk))?;
    to.send(&chunk[..count]);
    Ok(if to.lost { 0 } else { count })
}

/// Wait up to `limit` until `fd` is ready for `what`. A hang-up counts as ready.
fn is_ready(fd: BorrowedFd<'_>, what: PollFlags, limit: Duration) -> Result<bool, Errno> {
    match poll(&mut [PollFd::from_borrowed_fd(fd, what)], Some(&timespec(limit))) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error),
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, thread};

    use super::*;
    use crate::shared::{frame::FrameReader, outcome::Phase};

    const PROGRESS: Response = Response::Progress(Phase::Preparing);

    /// An agent's end, what it sends to, and what it reads from.
    fn connected() -> (Peer, File, io::PipeWriter) {
        let ((from_helper, to_agent), (from_agent, to_helper)) = (io::pipe().unwrap(), io::pipe().unwrap());
        let peer = Peer::new(from_helper.into(), to_helper.into(), Vec::new(), &Heartbeat::default()).unwrap();
        rustix::io::ioctl_fionbio(&from_agent, true).unwrap();
        (peer, File::from(OwnedFd::from(from_agent)), to_agent)
    }

    fn has_come(sent: &mut File) -> bool {
        sent.read(&mut [0; 100]).is_ok()
    }

    #[test]
    fn progress_comes_in_order_with_the_next_message_before_a_wait_and_never_late() {
        let (mut peer, mut sent, _to_agent) = connected();
        peer.send(&PROGRESS);
        peer.tick();
        assert!(!has_come(&mut sent), "it wakes nobody by itself");
        peer.send(&Response::Pong);
        let mut messages = FrameReader::new(sent.try_clone().unwrap());
        assert_eq!(messages.receive().unwrap(), Some(PROGRESS));
        assert_eq!(messages.receive().unwrap(), Some(Response::Pong));

        peer.send(&PROGRESS);
        assert!(matches!(peer.receive_within(Duration::from_millis(1)), Incoming::Silence));
        assert!(has_come(&mut sent), "whoever waits has told of it before");

        peer.send(&PROGRESS);
        thread::sleep(Duration::from_millis(60));
        peer.tick();
        assert!(has_come(&mut sent));
    }
}
