//! A terminal for a test: it runs a program, types, and reads the screen.
//!
//! ```no_run
//! use deptool_tests::{sandbox::Sandbox, terminal::Terminal};
//! let sandbox = Sandbox::new();
//! let repo = sandbox.repo("operator");
//! let mut terminal = Terminal::start(repo.command(&["deptool", "deploy"])).unwrap();
//! terminal.wait_for("Apply to 1 host").unwrap();
//! terminal.type_in("y\n").unwrap();
//! terminal.end().unwrap().ok().prints("Deployed to 1 host");
//! ```
//!
//! Ctrl-C is [`Terminal::press_ctrl_c`]: the terminal sends SIGINT to the whole foreground group, as a real one does.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    process::{Pid, Signal, kill_process, kill_process_group},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::process::{Cmd, Run};

/// Rows and columns.
const SIZE: (u16, u16) = (24, 80);
/// The time limit for a program, and for waiting for a text.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program with a terminal as its controlling terminal, stdin, stdout and stderr. It is killed when dropped.
#[derive(Debug)]
pub struct Terminal {
    line: String,
    child: Child,
    master: File,
    output: Receiver<Vec<u8>>,
    seen: Vec<u8>,
    start: Instant,
    reaped: bool,
}

impl Terminal {
    /// Starts `cmd` on a terminal of 24 rows and 80 columns, with `TERM=xterm` unless the command sets another.
    pub fn start(cmd: Cmd) -> Result<Terminal> {
        Terminal::start_sized(cmd, SIZE.0, SIZE.1)
    }

    /// The same, on a terminal of another size.
    pub fn start_sized(cmd: Cmd, rows: u16, columns: u16) -> Result<Terminal> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?.into_string()?;
        let slave = File::options().read(true).write(true).open(&name).with_context(|| name.clone())?;
        tcsetwinsize(&slave, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
        let (mut command, line) = on_terminal(cmd.into_inner(), &slave)?;
        let start = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start '{line}'"))?;
        // As long as we hold copies of the slave, we would not notice when the program closes it.
        drop((command, slave));
        let output = listen(master.try_clone()?);
        Ok(Terminal { line, child, master: master.into(), output, seen: Vec::new(), start, reaped: false })
    }

    /// Waits until the program has written this text, including control sequences. It is an error if it exits before.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.text().contains(text) {
            if !self.hear(deadline) {
                bail!("'{}' did not show '{text}' but\n{}", self.line, self.text());
            }
        }
        Ok(())
    }

    /// Types keys; `\n` is Enter.
    pub fn type_in(&mut self, keys: &str) -> Result<()> {
        Ok(self.master.write_all(keys.as_bytes())?)
    }

    /// Sends the terminal's SIGINT to the program and its descendants.
    pub fn press_ctrl_c(&mut self) -> Result<()> {
        self.type_in("\x03")
    }

    /// Sends a signal to the program alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Everything that was written so far, unprocessed.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// The current screen, without trailing white space.
    pub fn screen(&self) -> String {
        screen_of(&self.seen)
    }

    /// Waits until the program exits. `stdout` is everything that was written, with `\n` for the terminal's `\r\n`.
    pub fn end(mut self) -> Result<Run> {
        let deadline = self.start + PATIENCE;
        while self.hear(deadline) {}
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                bail!("'{}' was not done after {} s\n{}", self.line, PATIENCE.as_secs(), self.text());
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        self.reaped = true;
        let stdout = self.text().replace("\r\n", "\n").into_bytes();
        Ok(Run { command: self.line.clone(), status, stdout, stderr: Vec::new(), took: self.start.elapsed() })
    }

    /// Reads the next output. Returns false when the terminal was closed or the time is over.
    fn hear(&mut self, deadline: Instant) -> bool {
        match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(bytes) => self.seen.extend(bytes),
            Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => return false,
        }
        true
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// The content of a screen of the usual size after these bytes were written to it.
pub fn screen_of(bytes: &[u8]) -> String {
    let mut parser = vt100::Parser::new(SIZE.0, SIZE.1, 0);
    parser.process(bytes);
    let rows = parser.screen().rows(0, SIZE.1);
    rows.map(|row| row.trim_end().to_owned()).collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

/// The same command, started by `setsid --ctty`, which makes the terminal the controlling one.
fn on_terminal(command: Command, slave: &File) -> Result<(Command, String)> {
    let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    let line = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let mut with = Command::new("setsid");
    with.arg("--ctty").args(words).env_clear().env("TERM", "xterm");
    for (name, value) in command.get_envs() {
        with.env(name, value.unwrap_or_default());
    }
    if let Some(directory) = command.get_current_dir() {
        with.current_dir(directory);
    }
    let end = || -> Result<Stdio> { Ok(OwnedFd::from(slave.try_clone()?).into()) };
    with.stdin(end()?).stdout(end()?).stderr(end()?);
    Ok((with, line))
}

/// A thread that reads the output until no process has the terminal open.
fn listen(master: OwnedFd) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let (mut master, mut buffer) = (File::from(master), [0; 16384]);
        while let Ok(n @ 1..) = master.read(&mut buffer) {
            if sender.send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Terminal {
        Terminal::start(Cmd::new("sh").args(["-c", script]).env("PATH", "/usr/bin:/bin")).unwrap()
    }

    #[test]
    fn what_is_typed_is_read_and_what_is_written_is_seen() {
        let mut terminal = sh("printf 'name? ' >/dev/tty; read name </dev/tty; echo \"hello $name\"; exit 3");
        terminal.wait_for("name? ").unwrap();
        terminal.type_in("web1\n").unwrap();
        terminal.end().unwrap().code(3).prints("hello web1\n");
    }

    #[test]
    fn ctrl_c_goes_to_all_of_the_foreground() {
        // The shell waits for its child before it runs its trap: both have to get the signal.
        let mut terminal = sh("trap 'echo parent; exit 9' INT; sh -c 'echo ready; exec sleep 1000'");
        terminal.wait_for("ready").unwrap();
        terminal.press_ctrl_c().unwrap();
        terminal.end().unwrap().code(9).prints("parent");
    }

    #[test]
    fn the_screen_is_what_is_left_of_what_was_drawn() {
        assert_eq!(screen_of(b"one\r\ntwo\r\n\x1b[2A\r\x1b[Jthree\r\n"), "three");
    }
}
