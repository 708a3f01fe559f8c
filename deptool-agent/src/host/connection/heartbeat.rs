//! Signs of life while the agent can do nothing else: a slow disk may take longer to sync than a peer waits for us.
//!
//! A child gives them. A thread would do it, too, but what Rust needs for threads makes the agent larger by 45 kB.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use rustix::{
    event::{Timespec, poll},
    process::{Pid, Signal, WaitOptions, getpid, getppid, kill_process, waitpid},
};

use crate::shared::{frame::encode, wire::Response};

/// We say something at least this often.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// Whoever is to hear that we are alive: the connection that was followed last, as long as it lasts.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<Mutex<Weak<OwnedFd>>>);

/// A child that gives signs of life until this is dropped.
struct Beating(Pid);

impl Pulse {
    /// From here on `output` is told.
    pub fn follow(&self, output: &Arc<OwnedFd>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(output);
    }

    /// Do `work`, which can't be interrupted, and give a sign of life every `period` meanwhile. It writes nothing to the
    /// peer itself, so nothing gets between the bytes of a message.
    pub fn during<T>(&self, period: Duration, work: impl FnOnce() -> T) -> T {
        // Without a child it is done in silence.
        let _beating = self.begin(period);
        work()
    }

    #[allow(unsafe_code)]
    fn begin(&self, period: Duration) -> Option<Beating> {
        let output = self.0.lock().unwrap_or_else(PoisonError::into_inner).upgrade()?;
        let frame = encode(&Response::Heartbeat).ok()?;
        let pause = Timespec { tv_sec: period.as_secs() as i64, tv_nsec: i64::from(period.subsec_nanos()) };
        let parent = getpid();
        // SAFETY: until its end the child makes system calls only: it allocates nothing and takes no lock.
        match unsafe { libc::fork() } {
            0 => {
                end_with_parent(parent);
                loop {
                    // There is nothing to wait for but the time.
                    let _ = poll(&mut [], Some(&pause));
                    // Pipes and sockets take something so short as a whole or not at all. If there is no room for it,
                    // there is enough to be read.
                    let _ = rustix::io::write(&*output, &frame);
                }
            }
            child => Pid::from_raw(child).filter(|_| child > 0).map(Beating),
        }
    }
}

/// See to it that this process does not outlive `parent`, whose lock it holds, too.
#[allow(unsafe_code)]
fn end_with_parent(parent: Pid) {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    if getppid() != Some(parent) {
        // SAFETY: nothing of the parent's is to be run.
        unsafe { libc::_exit(0) }
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        // Nobody ignores it, and whoever looks on can tell it from a kill.
        let _ = kill_process(self.0, Signal::USR1);
        while let Err(rustix::io::Errno::INTR) = waitpid(Some(self.0), WaitOptions::empty()) {}
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::shared::frame::FrameReader;

    #[test]
    fn who_waits_is_told_that_we_are_alive_and_after_that_nothing_more() {
        let (input, output) = std::io::pipe().unwrap();
        let output = Arc::new(OwnedFd::from(output));
        let pulse = Pulse::default();
        pulse.follow(&output);
        let mut messages = FrameReader::new(File::from(OwnedFd::from(input)));
        let heard = pulse.during(Duration::from_millis(1), || messages.receive().unwrap());
        assert_eq!(heard, Some(Response::Heartbeat));
        // A connection that is given up is kept open neither by it nor by a child.
        drop(output);
        assert_eq!(pulse.during(Duration::from_secs(9), || 7), 7);
        while let Some(message) = messages.receive::<Response>().unwrap() {
            assert_eq!(message, Response::Heartbeat);
        }
    }
}
