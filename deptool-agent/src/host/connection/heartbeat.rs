//! Sends heartbeats during calls that block, such as syncing a slow disk. Holds messages back that are not urgent.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::shared::{beside::Beside, frame::encode, wire::Response};

/// The agent sends something at least this often.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// How long messages are held back. Where the agent waits for units, it looks every half a second, so they may take that long.
pub const HELD: Duration = Duration::from_millis(50);

/// Sends heartbeats to the current connection. It does not keep the connection open.
#[derive(Debug, Clone, Default)]
pub struct Heartbeat(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    output: Weak<OwnedFd>,
    /// Encoded messages that are held back, and since when.
    held: Vec<u8>,
    since: Option<Instant>,
}

impl Heartbeat {
    /// Send heartbeats to `output` from now on. What was held back for another connection is dropped.
    pub fn follow(&self, output: &Arc<OwnedFd>) {
        *self.state() = State { output: Arc::downgrade(output), ..State::default() };
    }

    /// Hold a message back. A message wakes several programs on its way, which take the processor that the deployment needs. So
    /// those that are not urgent wait for the next one that is.
    pub fn hold(&self, message: &[u8]) {
        let mut state = self.state();
        state.held.extend_from_slice(message);
        state.since.get_or_insert_with(Instant::now);
    }

    /// Take the messages that are held back, to send them now.
    pub fn take_held(&self) -> Vec<u8> {
        let mut state = self.state();
        state.since = None;
        std::mem::take(&mut state.held)
    }

    /// Whether messages have been held back for so long.
    pub fn has_held_for(&self, time: Duration) -> bool {
        self.state().since.is_some_and(|since| since.elapsed() >= time)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Run `work`, which blocks, while a thread sends a heartbeat every `period`, and what is held back. `work` must not write
    /// to the connection: a heartbeat could end up in the middle of a message.
    pub fn during<T>(&self, period: Duration, work: impl FnOnce() -> T) -> T {
        let output = self.state().output.upgrade();
        let (Some(output), Ok(frame)) = (output, encode(&Response::Heartbeat)) else { return work() };
        let is_done = Arc::new(AtomicBool::new(false));
        let (its, this) = (is_done.clone(), self.clone());
        let beat = move || {
            let mut pause = period.min(HELD);
            loop {
                // It may wake up for no reason: a heartbeat too many does no harm.
                thread::park_timeout(pause);
                if its.load(Ordering::Acquire) {
                    return;
                }
                let held = this.take_held();
                let message = if held.is_empty() && pause == period { &frame } else { &held };
                // Frames this short are written whole or not at all. If the buffer is full, the helper has something to
                // read anyway.
                let _ = rustix::io::write(&*output, message);
                pause = period;
            }
        };
        // If no thread can be started, the work is done without heartbeats.
        let beating = Beside::begin(beat);
        let result = work();
        is_done.store(true, Ordering::Release);
        if let Some(beating) = beating {
            beating.wake();
            beating.end();
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::shared::frame::FrameReader;

    #[test]
    fn a_waiting_helper_gets_heartbeats_until_the_work_is_done() {
        let (input, output) = std::io::pipe().unwrap();
        let output = Arc::new(OwnedFd::from(output));
        let heartbeat = Heartbeat::default();
        heartbeat.follow(&output);
        let mut messages = FrameReader::new(File::from(OwnedFd::from(input)));
        let received = heartbeat.during(Duration::from_millis(1), || messages.receive().unwrap());
        assert_eq!(received, Some(Response::Heartbeat));
        heartbeat.hold(&encode(&Response::Pong).unwrap());
        let next =
            || std::iter::from_fn(|| messages.receive().unwrap()).find(|message| *message != Response::Heartbeat);
        assert_eq!(
            heartbeat.during(Duration::from_secs(9), next),
            Some(Response::Pong),
            "it is not held back for long"
        );
        // A connection that was dropped is not kept open.
        drop(output);
        assert_eq!(heartbeat.during(Duration::from_secs(9), || 7), 7);
        while let Some(message) = messages.receive::<Response>().unwrap() {
            assert_eq!(message, Response::Heartbeat);
        }
    }
}
