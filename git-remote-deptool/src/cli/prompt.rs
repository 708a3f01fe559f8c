//! Asks the operator at the terminal.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr},
};

use crate::model::interrupt::Interrupt;

/// How often to check for Ctrl-C, in nanoseconds.
const INTERRUPT_CHECK: i64 = 100_000_000;

/// The process's controlling terminal, wherever stdin and stdout are redirected.
pub(super) struct Terminal(File);

impl Terminal {
    /// `None` if there is no terminal.
    pub fn open() -> Option<Self> {
        File::options().read(true).write(true).open("/dev/tty").ok().map(Terminal)
    }

    /// Like [`Self::ask`], but the answer is not shown.
    pub fn ask_hidden(&mut self, question: &str, interrupted: &Interrupt) -> io::Result<Option<String>> {
        let before = tcgetattr(&self.0)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&self.0, OptionalActions::Flush, &hidden)?;
        let answer = self.ask(question, interrupted);
        tcsetattr(&self.0, OptionalActions::Now, &before)?;
        self.0.write_all(b"\n")?;
        answer
    }

    /// Ask, and return the answer without the line feed. `None` after Ctrl-C and at the end of input.
    pub fn ask(&mut self, question: &str, interrupted: &Interrupt) -> io::Result<Option<String>> {
        self.0.write_all(question.as_bytes())?;
        let mut line = Vec::new();
        loop {
            if interrupted.is_set() {
                self.0.write_all(b"\n")?;
                return Ok(None);
            }
            let mut ready = [PollFd::new(&self.0, PollFlags::IN)];
            let wait = Timespec { tv_sec: 0, tv_nsec: INTERRUPT_CHECK };
            match poll(&mut ready, Some(&wait)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            let mut byte = [0];
            match rustix::io::read(self.0.as_fd(), &mut byte) {
                Ok(0) => return Ok(None),
                Ok(_) if byte == *b"\n" => return Ok(Some(String::from_utf8_lossy(&line).into_owned())),
                Ok(_) => line.push(byte[0]),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
