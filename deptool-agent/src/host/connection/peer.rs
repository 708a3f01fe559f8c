//! The helper, as the agent sees it: messages in, messages out, and whether it is still there.

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
            heartbeat::{HEARTBEAT, Heartbeat},
            takeover::TakeoverSocket,
        },
        state::error::HostError,
    },
    shared::{
        frame::{FrameBuffer, FrameError, encode},
        wire::{Request, Response},
    },
};

/// A helper that sends nothing for this long is gone.
pub const SILENCE: Duration = Duration::from_secs(30);

/// What came in.
#[derive(Debug)]
pub enum Incoming {
    Request(Request),
    /// Nothing came in time.
    Silence,
    /// The helper closed the connection between two messages.
    End,
    /// The connection was cut in the middle of a message, or what came is no message.
    Broken(FrameError),
}

/// The helper at the other end.
pub struct Peer {
    /// `None` after it was dropped, until another connection takes over.
    link: Option<Link>,
    last_sent: Instant,
    takeover: Option<TakeoverSocket>,
    /// How often the link was taken over by another one.
    takeovers: usize,
    /// The question that we wait to have answered. It is asked again when another connection takes over.
    question: Option<Response>,
    /// Sends heartbeats while the agent waits for the disk.
    heartbeat: Heartbeat,
}

/// One connection.
struct Link {
    input: OwnedFd,
    output: Arc<OwnedFd>,
    buffer: FrameBuffer,
    /// What `input` will bring once more before anything else: see [`crate::shared::env_request`].
    known: Vec<u8>,
    lost: bool,
}

impl Peer {
    /// The helper at the other end of `input` and `output`. `early` is the beginning of its stream, where that travelled in the
    /// environment; `heartbeat` sends heartbeats while the agent waits for the disk.
    pub fn new(input: OwnedFd, output: OwnedFd, early: Vec<u8>, heartbeat: &Heartbeat) -> io::Result<Peer> {
        let mut link = Link::new(input, output)?;
        link.buffer.push(&early);
        link.known = early;
        heartbeat.follow(&link.output);
        let (link, heartbeat) = (Some(link), heartbeat.clone());
        Ok(Peer { link, last_sent: Instant::now(), takeover: None, takeovers: 0, question: None, heartbeat })
    }

    /// From now on another connection can take over through `socket`.
    pub fn accept_takeovers(&mut self, socket: TakeoverSocket) {
        self.takeover = Some(socket);
    }

    /// No connection takes over any more.
    pub fn stop_takeovers(&mut self) -> Result<(), HostError> {
        self.take_over();
        self.takeover.take().map_or(Ok(()), TakeoverSocket::close)
    }

    /// How often another connection has taken over.
    pub fn takeovers(&self) -> usize {
        self.takeovers
    }

    /// Whether the connection is known to be gone.
    pub fn is_lost(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.lost)
    }

    /// Give the connection up. Another one may take over.
    pub fn drop_link(&mut self) {
        self.link = None;
    }

    /// Send `response`. If that fails the connection is lost, which not every caller minds.
    pub fn send(&mut self, response: &Response) {
        match (encode(response), &mut self.link) {
            (Ok(frame), _) => self.send_bytes(&frame),
            (Err(_), Some(link)) => link.lost = true,
            (Err(_), None) => {}
        }
    }

    /// Send bytes that are no frame: the agent's first line.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        if let Some(link) = &mut self.link {
            link.send(bytes);
        }
        self.last_sent = Instant::now();
    }

    /// Send `question`, now and to every connection that takes over, until [`Peer::answered`].
    pub fn ask(&mut self, question: Response) {
        self.send(&question);
        self.question = Some(question);
    }

    /// The question was answered, or is moot.
    pub fn answered(&mut self) {
        self.question = None;
    }

    /// Send a heartbeat if one is due, and let a connection that waits take over.
    pub fn tick(&mut self) {
        self.take_over();
        if self.last_sent.elapsed() >= HEARTBEAT {
            self.send(&Response::Heartbeat);
        }
    }

    /// Whether the helper is still there and has not cancelled.
    pub fn still_waits(&mut self) -> bool {
        self.tick();
        loop {
            match self.receive_within(Duration::ZERO) {
                Incoming::Request(Request::Heartbeat) => {}
                Incoming::Silence => return !self.is_lost(),
                Incoming::Request(_) | Incoming::End | Incoming::Broken(_) => return false,
            }
        }
    }

    fn take_over(&mut self) {
        let Some(stream) = self.takeover.as_ref().and_then(TakeoverSocket::accept) else { return };
        let Ok(link) = stream.try_clone().and_then(|input| Link::new(input.into(), stream.into())) else { return };
        self.heartbeat.follow(&link.output);
        self.link = Some(link);
        self.takeovers += 1;
        self.send(&Response::Attached);
        if let Some(question) = self.question.clone() {
            self.send(&question);
        }
    }

    /// The next request other than a heartbeat; gives up after [`SILENCE`].
    pub fn receive(&mut self) -> Incoming {
        loop {
            match self.receive_within(SILENCE) {
                Incoming::Request(Request::Heartbeat) => {}
                incoming => return incoming,
            }
        }
    }

    /// The next request, if one comes within `wait`, from whichever connection is the current one by then. Sends heartbeats
    /// meanwhile.
    pub fn receive_within(&mut self, wait: Duration) -> Incoming {
        let deadline = Instant::now() + wait;
        loop {
            self.tick();
            if let Some(link) = &mut self.link {
                match link.buffer.take() {
                    Ok(Some(request)) => return Incoming::Request(request),
                    Ok(None) => {}
                    Err(error) => return Incoming::Broken(error),
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.wait(left.min(HEARTBEAT)) {
                Ok(Ready::Nothing) if left > HEARTBEAT => {}
                Ok(Ready::Nothing) => return Incoming::Silence,
                Ok(Ready::Takeover) => {}
                Ok(Ready::Link) => {
                    if let Some(end) = self.link.as_mut().and_then(Link::fill) {
                        return end;
                    }
                }
                Err(error) => return Incoming::Broken(FrameError::Io(error.into())),
            }
        }
    }

    /// Wait until the connection can be read from or another one wants to take over, at most `limit`.
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

    /// Take the peer's first line, which ends in a line feed within `most` bytes. Leaves what follows it.
    pub fn receive_line(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let Some(link) = &mut self.link else { return Err(io::ErrorKind::NotConnected.into()) };
        loop {
            match link.buffer.take_line() {
                Some(line) if line.len() < most => return Ok(line),
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                None => {}
            }
            if link.buffer.waiting() >= most {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if !is_ready(link.input.as_fd(), PollFlags::IN, SILENCE)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match link.fill() {
                None => {}
                Some(Incoming::Broken(FrameError::Io(error))) => return Err(error),
                Some(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Pass everything on between the peer and the agent that is at work, until one of them ends.
    pub fn relay(&mut self, other: UnixStream) -> io::Result<Relayed> {
        let other = Link::new(other.try_clone()?.into(), other.into())?;
        match &mut self.link {
            Some(link) => Ok(link.relay(other)?),
            None => Ok(Relayed::Nothing),
        }
    }
}

/// What the agent at work has said to a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relayed {
    /// It ended without letting us in.
    Nothing,
    Something,
}

/// What can be read from.
enum Ready {
    Nothing,
    Link,
    Takeover,
}

impl Link {
    fn new(input: OwnedFd, output: OwnedFd) -> io::Result<Link> {
        // A peer that does not read must not stop us in the middle of a deployment.
        fcntl_setfl(&output, fcntl_getfl(&output)? | OFlags::NONBLOCK)?;
        Ok(Link { input, output: Arc::new(output), buffer: FrameBuffer::default(), known: Vec::new(), lost: false })
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

    /// Read what is there; says so if that was the end.
    fn fill(&mut self) -> Option<Incoming> {
        let mut chunk = [0; 64 * 1024];
        match rustix::io::read(&self.input, &mut chunk) {
            Ok(0) if self.buffer.is_between_frames() => Some(Incoming::End),
            Ok(0) => Some(Incoming::Broken(FrameError::CutOff)),
            Ok(n) => {
                let (again, new) = chunk[..n].split_at(n.min(self.known.len()));
                if !self.known.starts_with(again) {
                    return Some(Incoming::Broken(FrameError::Malformed("it is not what was said before".into())));
                }
                self.known.drain(..again.len());
                self.buffer.push(new);
                None
            }
            Err(Errno::INTR | Errno::AGAIN) => None,
            Err(error) => Some(Incoming::Broken(FrameError::Io(error.into()))),
        }
    }

    /// Pass on what comes, in both directions, until either end is gone.
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

/// Pass on what can be read. Returns how many bytes that were; at the end of either it is 0.
fn pass_on(from: &OwnedFd, to: &mut Link) -> Result<usize, Errno> {
    let mut chunk = [0; 64 * 1024];
    let count = retry_on_intr(|| rustix::io::read(from, &mut chunk))?;
    to.send(&chunk[..count]);
    Ok(if to.lost { 0 } else { count })
}

/// Whether `fd` can be read from or written to without waiting, at most `limit` from now. A hang-up counts as ready.
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
