//! Receives the messages of one connection.

use std::{
    io::Read,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use deptool_agent::shared::frame::{FrameBuffer, FrameError};
use rustix::event::PollFlags;

use super::mailbox::{Arrival, Inbox};
use crate::agent::transport::pump::{Next, Pump, Task};

/// Stop reading while this many messages wait to be processed, so that a host can't fill our memory.
pub(super) const UNREAD: usize = 16;

/// How many messages wait to be processed. The session and the pump share it.
#[derive(Debug)]
pub(super) struct Unread {
    count: Arc<AtomicUsize>,
    pump: Pump,
}

impl Unread {
    pub fn new(pump: &Pump) -> Unread {
        Unread { count: Arc::default(), pump: pump.clone() }
    }

    /// A message was taken.
    pub fn taken(&self) {
        if self.count.fetch_sub(1, Ordering::Relaxed) >= UNREAD {
            self.pump.wake();
        }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        // The session is over: this is noticed with the next message.
        self.count.store(0, Ordering::Relaxed);
        self.pump.wake();
    }
}

/// Reads messages and delivers them to a mailbox.
pub(super) struct Reader<R> {
    stream: R,
    buffer: FrameBuffer,
    /// The number of the connection.
    number: usize,
    unread: Weak<AtomicUsize>,
    to: Arc<Inbox>,
}

impl<R: Read + AsFd + Send> Reader<R> {
    /// `first` was received already.
    pub fn new(stream: R, first: &[u8], number: usize, unread: &Unread, to: Arc<Inbox>) -> Self {
        let mut buffer = FrameBuffer::default();
        buffer.push(first);
        Reader { stream, buffer, number, unread: Arc::downgrade(&unread.count), to }
    }

    /// Deliver what was received, as far as there is room. Returns whether there is room for more.
    fn deliver(&mut self, unread: &AtomicUsize) -> Result<bool, FrameError> {
        while unread.load(Ordering::Relaxed) < UNREAD {
            let Some(message) = self.buffer.take()? else { return Ok(true) };
            unread.fetch_add(1, Ordering::Relaxed);
            self.to.deliver(Arrival::Message(self.number, Box::new(message)));
        }
        Ok(false)
    }

    /// Read once, and deliver. Returns whether the stream goes on.
    fn advance(&mut self, unread: &AtomicUsize, is_ready: bool) -> Result<bool, FrameError> {
        if !self.deliver(unread)? || !is_ready {
            return Ok(true);
        }
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) if self.buffer.is_between_frames() => return Ok(false),
            Ok(0) => return Err(FrameError::CutOff),
            Ok(n) => self.buffer.push(&chunk[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        self.deliver(unread)?;
        Ok(true)
    }
}

impl<R: Read + AsFd + Send> Task for Reader<R> {
    fn waits_for(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let has_room = self.unread.upgrade().is_none_or(|unread| unread.load(Ordering::Relaxed) < UNREAD);
        has_room.then(|| (self.stream.as_fd(), PollFlags::IN))
    }

    fn is_pressed(&self) -> bool {
        false
    }

    fn step(&mut self, is_ready: bool) -> Next {
        // Without a session, the stream is closed when the host sends something. Until then, the program may be at work.
        let Some(unread) = self.unread.upgrade() else { return if is_ready { Next::Over } else { Next::GoesOn } };
        match self.advance(&unread, is_ready) {
            Ok(true) => return Next::GoesOn,
            Ok(false) => self.to.deliver(Arrival::End(self.number, None)),
            Err(error) => self.to.deliver(Arrival::End(self.number, Some(error))),
        }
        Next::Over
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, thread, time::Duration};

    use deptool_agent::shared::{frame::encode, wire::Response};

    use super::*;
    use crate::agent::session::Mailbox;

    #[test]
    fn no_more_is_read_than_is_looked_at() {
        let (stream, mut flood) = std::io::pipe().unwrap();
        let count = Arc::<AtomicUsize>::default();
        let written = count.clone();
        let flooding = thread::spawn(move || {
            let frame = encode(&Response::Note("x".repeat(100_000))).unwrap();
            while flood.write_all(&frame).is_ok() {
                written.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mailbox = Mailbox::new(|| {});
        let pump = Pump::default();
        let unread = Unread::new(&pump);
        pump.add(Reader::new(stream, &[], 1, &unread, mailbox.0.clone())).unwrap();
        for taken in 1..100 {
            assert!(matches!(mailbox.arrivals().recv().unwrap(), Arrival::Message(..)));
            // One is in the pipe, and one is being received.
            assert!(count.load(Ordering::Relaxed) <= taken + UNREAD + 2);
            unread.taken();
        }
        drop(unread);
        flooding.join().unwrap();
    }

    #[test]
    fn what_came_with_the_first_line_is_delivered_though_nothing_follows() {
        let pump = Pump::default();
        for _ in 0..3 {
            let (mailbox, unread) = (Mailbox::new(|| {}), Unread::new(&pump));
            let (silent, _open) = std::io::pipe().unwrap();
            let first = encode(&Response::Heartbeat).unwrap();
            pump.add(Reader::new(silent, &first, 1, &unread, mailbox.0.clone())).unwrap();
            let arrival = mailbox.arrivals().recv_timeout(Duration::from_secs(20));
            assert!(matches!(arrival, Ok(Arrival::Message(..))));
            // The thread has nothing to do before the next one comes.
            thread::sleep(Duration::from_millis(20));
        }
    }
}
