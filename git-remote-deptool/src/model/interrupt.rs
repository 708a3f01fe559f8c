//! Whether the operator wants us to stop.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Set once the process was sent SIGINT, SIGTERM or SIGHUP, and never cleared. Whatever blocks takes one, and looks at it
/// often.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From here on the process outlives these signals. Git dies of Ctrl-C at once; we tell the hosts first.
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

    /// As a signal does.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
