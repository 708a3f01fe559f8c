//! Runs `git` on this terminal, for commands that `git` carries out.

use std::{
    io::{self, Read},
    process::{self, Command, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::model::interrupt::Interrupt;

/// How often to check for an interrupt while git runs.
const INTERRUPT_CHECK: Duration = Duration::from_millis(100);

/// Like [`Command::output`], but an interrupt also interrupts `git`, and with it the helper.
pub(super) fn run(command: &mut Command, interrupt: &Interrupt) -> io::Result<process::Output> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let (pid, pipe) = (Pid::from_child(&child), child.stdout.take());
    let (sender, printed) = channel();
    thread::spawn(move || {
        let mut stdout = Vec::new();
        // If this fails, the exit status still shows whether the output is complete.
        let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut stdout));
        let _ = sender.send(stdout);
    });
    let mut is_told = false;
    loop {
        match printed.recv_timeout(INTERRUPT_CHECK) {
            Ok(stdout) => return Ok(process::Output { status: child.wait()?, stdout, stderr: Vec::new() }),
            Err(RecvTimeoutError::Disconnected) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(RecvTimeoutError::Timeout) if interrupt.is_set() && !is_told => {
                is_told = true;
                // The process was not reaped yet, so its id is not reused.
                let _ = kill_process(pid, Signal::TERM);
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}
