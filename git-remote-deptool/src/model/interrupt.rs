//! The operator's request to stop.

use std::{
    ffi::c_int,
    io,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Set when the process receives SIGINT, SIGTERM or SIGHUP, and never cleared. Code that blocks checks it often.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Install the signal handlers. From here on these signals no longer end the process, because hosts have to be told
    /// first. A signal that is ignored stays so: nohup(1) asked for that, or a shell script that started us with `&`.
    pub fn of_process() -> io::Result<Interrupt> {
        let interrupt = Interrupt::default();
        for signal in [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !is_ignored(*signal)) {
            signal_hook::flag::register(signal, interrupt.0.clone())?;
        }
        Ok(interrupt)
    }

    /// Set it when nobody can read `output` any more: a `git` that is killed tells its helper nothing.
    pub fn set_when_unread(&self, output: impl AsFd + Send + 'static) {
        let interrupt = self.clone();
        let watch = move || {
            let mut closed = [PollFd::new(&output, PollFlags::empty())];
            // Another error than an interrupted call means that this can't be known: then nothing is done.
            while poll(&mut closed, None) == Err(Errno::INTR) {}
            if closed[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
                interrupt.set();
            }
        };
        // Without a thread, the helper notices when it next writes.
        let _ = thread::Builder::new().name("git".into()).stack_size(64 * 1024).spawn(watch);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Set it, like a signal does.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[allow(unsafe_code)]
fn is_ignored(signal: c_int) -> bool {
    // SAFETY: `sigaction` is plain data for which zeros are valid, and this only reads what is set for the signal.
    let (read, now) = unsafe {
        let mut now = std::mem::zeroed::<libc::sigaction>();
        (libc::sigaction(signal, std::ptr::null(), &mut now), now)
    };
    read == 0 && now.sa_sigaction == libc::SIG_IGN
}
