//! The operator's request to stop.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Set when the process receives SIGINT, SIGTERM or SIGHUP, and never cleared. Code that blocks checks it often.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Install the signal handlers. From here on these signals no longer end the process, because hosts have to be told
    /// first.
    pub fn of_process() -> io::Result<Interrupt> {
        let interrupt = Interrupt::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, interrupt.0.clone())?;
        }
        Ok(interrupt)
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Set it, like a signal does.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
