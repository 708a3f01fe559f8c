//! The stdin of a program, to which requests are written, also in the background.

use std::{
    collections::VecDeque,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd},
    process::ChildStdin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::pump::{Next, Pump, Task};
use crate::model::interrupt::Interrupt;

/// How many bytes are written between two checks whether to continue.
const CHUNK: usize = 64 * 1024;
/// The size of a pipe for a lot of data, in bytes.
#[cfg(target_os = "linux")]
const WIDE: usize = 256 * 1024;
/// How long a write may wait for the other side.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same after an interrupt.
const SHORT_PATIENCE: Duration = Duration::from_secs(2);
/// How often a waiting write checks whether to continue.
const LOOK: Duration = Duration::from_millis(100);

/// How long a last message may take to be read.
const PATIENCE_WITH_LAST: Duration = Duration::from_millis(200);

/// What happens when a pipe is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtDrop {
    Closes,
    /// Waits for a moment until everything was read, because the other end stops reading soon after.
    IsReadFirst,
}

/// The program's stdin. Dropping it closes the pipe.
///
/// What is sent ahead and does not fit into the pipe is written by the pump. So it can't block us while the other side waits
/// for us to read. The next write waits until all of it was written.
#[derive(Debug)]
pub struct Outgoing {
    outbox: Arc<Outbox>,
    pump: Pump,
    interrupt: Interrupt,
    at_drop: AtDrop,
    pub(super) patience: Duration,
}

/// A pipe, and what is still to be written to it.
#[derive(Debug)]
struct Outbox {
    pipe: ChildStdin,
    state: Mutex<Unwritten>,
}

#[derive(Debug)]
struct Unwritten {
    parts: VecDeque<Arc<[u8]>>,
    /// How much of the first part was written.
    offset: usize,
    /// The number of bytes written.
    total: usize,
    /// When something was written last, or the first part came.
    since: Instant,
    /// Nothing more can be written.
    failed: Option<io::ErrorKind>,
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, Unwritten> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Write as much as possible without blocking. Returns whether all of it was written.
    fn advance(&self, patience: Duration) -> io::Result<bool> {
        let mut state = self.state();
        loop {
            if let Some(kind) = state.failed {
                return Err(match kind {
                    io::ErrorKind::TimedOut => io::Error::new(kind, "the host no longer reads"),
                    kind => kind.into(),
                });
            }
            let Some(part) = state.parts.front() else { return Ok(true) };
            let rest = &part[state.offset..];
            let size = rest.len();
            match (&self.pipe).write(&rest[..size.min(CHUNK)]) {
                Ok(count) => {
                    (state.total, state.offset, state.since) =
                        (state.total + count, state.offset + count, Instant::now());
                    if count == size {
                        state.parts.pop_front();
                        state.offset = 0;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && state.since.elapsed() < patience => {
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => state.fail(io::ErrorKind::TimedOut),
                Err(error) => state.fail(error.kind()),
            }
        }
    }
}

impl Unwritten {
    fn fail(&mut self, kind: io::ErrorKind) {
        self.failed = Some(kind);
        self.parts.clear();
    }

    fn push(&mut self, part: Arc<[u8]>) {
        if self.parts.is_empty() {
            self.since = Instant::now();
        }
        if !part.is_empty() && self.failed.is_none() {
            self.parts.push_back(part);
        }
    }
}

/// Writes what did not fit into the pipe.
struct Writing(Arc<Outbox>);

impl Task for Writing {
    fn waits_for(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        Some((self.0.pipe.as_fd(), PollFlags::OUT))
    }

    fn is_pressed(&self) -> bool {
        true
    }

    fn step(&mut self, _is_ready: bool) -> Next {
        match self.0.advance(PATIENCE) {
            Ok(false) => Next::GoesOn,
            // The next write reports an error.
            Ok(true) | Err(_) => Next::Over,
        }
    }
}

impl Outgoing {
    pub(super) fn new(pipe: ChildStdin, at_drop: AtDrop, pump: Pump, interrupt: Interrupt) -> Outgoing {
        let state = Unwritten { parts: VecDeque::new(), offset: 0, total: 0, since: Instant::now(), failed: None };
        let outbox = Arc::new(Outbox { pipe, state: Mutex::new(state) });
        Outgoing { outbox, pump, interrupt, at_drop, patience: PATIENCE }
    }

    /// Prepare for a lot of data: have the pipe hold more than the usual 64 KiB, so that its two ends take turns less often.
    pub fn widen(&self) {
        // Without it, all works as well.
        #[cfg(target_os = "linux")]
        let _ = rustix::pipe::fcntl_setpipe_size(&self.outbox.pipe, WIDE);
    }

    /// Write `parts` in order, in the background. The next write reports an error of a write.
    pub fn send_ahead(&mut self, parts: Vec<Arc<[u8]>>) -> io::Result<()> {
        parts.into_iter().for_each(|part| self.outbox.state().push(part));
        match self.outbox.advance(self.patience) {
            Ok(false) => self.pump.add(Writing(self.outbox.clone())),
            Ok(true) | Err(_) => Ok(()),
        }
    }

    /// Stop writing in the background. Returns whether some of it was not written, and never will be.
    pub fn abandon(&mut self) -> bool {
        let mut state = self.outbox.state();
        if !state.parts.is_empty() {
            state.fail(io::ErrorKind::BrokenPipe);
        }
        state.failed.is_some()
    }

    /// The number of bytes written so far.
    pub fn written(&self) -> usize {
        self.outbox.state().total
    }

    /// Whether something is still being written in the background. Another write would wait for that.
    pub fn is_busy(&self) -> bool {
        !self.outbox.state().parts.is_empty()
    }

    /// Whether it is certain that no process has read or will read any of the written bytes: all read ends are closed.
    /// This does not rely on ssh's messages, which depend on its language and implementation.
    pub fn is_unread(&self) -> bool {
        let pipe = &self.outbox.pipe;
        let patience = Timespec { tv_sec: 2, tv_nsec: 0 };
        let mut closed = [PollFd::new(pipe, PollFlags::empty())];
        if !matches!(poll(&mut closed, Some(&patience)), Ok(1..)) {
            return false;
        }
        // Nothing more can be written, also not in the background.
        let _ = self.outbox.advance(self.patience);
        let unread = rustix::io::ioctl_fionread(pipe).ok();
        unread == Some(self.written() as u64)
    }
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outbox.state().push(bytes.into());
        let look = Timespec::try_from(LOOK).map_err(io::Error::other)?;
        loop {
            let patience = if self.interrupt.is_set() { self.patience.min(SHORT_PATIENCE) } else { self.patience };
            if self.outbox.advance(patience)? {
                return Ok(bytes.len());
            }
            match poll(&mut [PollFd::new(&self.outbox.pipe, PollFlags::OUT)], Some(&look)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        // Nobody needs the rest. The pump has the pipe while it writes to it.
        if self.abandon() {
            self.pump.wake();
        } else if self.at_drop == AtDrop::IsReadFirst {
            let (pipe, until) = (&self.outbox.pipe, Instant::now() + PATIENCE_WITH_LAST);
            let moment = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            while matches!(rustix::io::ioctl_fionread(pipe), Ok(1..))
                && matches!(poll(&mut [PollFd::new(pipe, PollFlags::empty())], Some(&moment)), Ok(0))
                && Instant::now() < until
            {}
        }
    }
}
