//! The other end of the connection, as the agent sees it: messages in, messages out, and whether it is still there.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
};

use crate::{
    frame::{FrameBuffer, FrameError, encode},
    wire::{Request, Response},
};

/// A peer that says nothing for this long is gone.
pub const SILENCE: Duration = Duration::from_secs(30);
/// We say something at least this often.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What came in.
#[derive(Debug)]
pub enum Incoming {
    Request(Request),
    /// Nothing, for as long as we were ready to wait.
    Silence,
    /// The peer closed the connection between two messages.
    End,
    /// It was cut off, or sends nonsense.
    Broken(FrameError),
}

/// The helper at the other end.
pub struct Peer {
    input: OwnedFd,
    output: OwnedFd,
    buffer: FrameBuffer,
    last_sent: Instant,
    lost: bool,
}

impl Peer {
    pub fn new(input: OwnedFd, output: OwnedFd) -> io::Result<Peer> {
        // A peer that does not read must not stop us in the middle of a deployment.
        fcntl_setfl(&output, fcntl_getfl(&output)? | OFlags::NONBLOCK)?;
        Ok(Peer { input, output, buffer: FrameBuffer::default(), last_sent: Instant::now(), lost: false })
    }

    /// Whether the connection is known to be gone.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Send `response`. If that is not possible the peer is lost, which the caller may or may not mind.
    pub fn send(&mut self, response: &Response) {
        match encode(response) {
            Ok(frame) => self.send_bytes(&frame),
            Err(_) => self.lost = true,
        }
    }

    /// Send bytes that are no frame: the agent's first line.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        if !self.lost && self.write_all(bytes).is_err() {
            self.lost = true;
        }
        self.last_sent = Instant::now();
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

    /// Let the peer know that we are alive, if it has not heard from us for a while.
    pub fn tick(&mut self) {
        if self.last_sent.elapsed() >= HEARTBEAT {
            self.send(&Response::Heartbeat);
        }
    }

    /// The next request other than a heartbeat; gives up after [`SILENCE`].
    pub fn receive(&mut self) -> Incoming {
        loop {
            match self.receive_within(SILENCE) {
                // Heartbeats that come as often as ours are due would keep us silent.
                Incoming::Request(Request::Heartbeat) => self.tick(),
                incoming => return incoming,
            }
        }
    }

    /// The next request if it is there within `wait`. We stay alive meanwhile.
    pub fn receive_within(&mut self, wait: Duration) -> Incoming {
        let deadline = Instant::now() + wait;
        loop {
            match self.buffer.take() {
                Ok(Some(request)) => return Incoming::Request(request),
                Ok(None) => {}
                Err(error) => return Incoming::Broken(error),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match is_ready(self.input.as_fd(), PollFlags::IN, left.min(HEARTBEAT)) {
                Ok(true) => {}
                Ok(false) if left > HEARTBEAT => {
                    self.tick();
                    continue;
                }
                Ok(false) => return Incoming::Silence,
                Err(error) => return Incoming::Broken(FrameError::Io(error.into())),
            }
            if let Some(end) = self.fill() {
                return end;
            }
        }
    }

    /// Read what is there; says so if that was the end.
    fn fill(&mut self) -> Option<Incoming> {
        let mut chunk = [0; 64 * 1024];
        match rustix::io::read(&self.input, &mut chunk) {
            Ok(0) if self.buffer.is_between_frames() => Some(Incoming::End),
            Ok(0) => Some(Incoming::Broken(FrameError::CutOff)),
            Ok(n) => {
                self.buffer.push(&chunk[..n]);
                None
            }
            Err(Errno::INTR | Errno::AGAIN) => None,
            Err(error) => Some(Incoming::Broken(FrameError::Io(error.into()))),
        }
    }

    /// Take the peer's first line, which ends in a line feed within `most` bytes. Leaves what follows it.
    pub fn receive_line(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        while line.len() < most {
            let mut byte = [0];
            if !is_ready(self.input.as_fd(), PollFlags::IN, SILENCE)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match rustix::io::read(&self.input, &mut byte) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) if byte == *b"\n" => return Ok(line),
                Ok(_) => line.push(byte[0]),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Whether `fd` can be read from or written to without waiting, at most `limit` from now. A hang-up counts as ready.
fn is_ready(fd: BorrowedFd<'_>, what: PollFlags, limit: Duration) -> Result<bool, Errno> {
    let timeout = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
    match poll(&mut [PollFd::from_borrowed_fd(fd, what)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error),
    }
}
