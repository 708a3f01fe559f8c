//! Sends heartbeats during calls that block, such as syncing a slow disk.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::shared::{beside::Beside, frame::encode, wire::Response};

/// The agent sends something at least this often.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// Sends heartbeats to the current connection. It does not keep the connection open.
#[derive(Debug, Clone, Default)]
pub struct Heartbeat(Arc<Mutex<Weak<OwnedFd>>>);

impl Heartbeat {
    /// Send heartbeats to `output` from now on.
    pub fn follow(&self, output: &Arc<OwnedFd>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(output);
    }

    /// Run `work`, which blocks, while a thread sends a heartbeat every `period`. `work` must not write to the connection:
    /// a heartbeat could end up in the middle of a message.
    pub fn during<T>(&self, period: Duration, work: impl FnOnce() -> T) -> T {
        let output = self.0.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let (Some(output), Ok(frame)) = (output, encode(&Response::Heartbeat)) else { return work() };
        let is_done = Arc::new(AtomicBool::new(false));
        let its = is_done.clone();
        let beat = move || {
            loop {
                // It may wake up for no reason: a heartbeat too many does no harm.
                thread::park_timeout(period);
                if its.load(Ordering::Acquire) {
                    return;
                }
                // A frame this short is written whole or not at all. If the buffer is full, the helper has something to
                // read anyway.
                let _ = rustix::io::write(&*output, &frame);
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
        // A connection that was dropped is not kept open.
        drop(output);
        assert_eq!(heartbeat.during(Duration::from_secs(9), || 7), 7);
        while let Some(message) = messages.receive::<Response>().unwrap() {
            assert_eq!(message, Response::Heartbeat);
        }
    }
}
