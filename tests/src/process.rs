//! Programs with a deadline: their command line, exit status and output.

use std::ffi::{OsStr, OsString};
use std::fs::Permissions;
use std::io::{PipeReader, Read, Write, pipe};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
pub use rustix::process::{Pid, Signal};
use rustix::process::{kill_process, kill_process_group};

/// How long a program may take unless [`Cmd::timeout`] says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

/// How much a pipe of Linux holds unless it was changed (pipe(7)).
const PIPE_CAPACITY: usize = 65536;

/// A program to run: like `std::process::Command`, with a deadline and an input.
#[must_use]
pub struct Cmd {
    command: Command,
    input: Vec<u8>,
    timeout: Duration,
}

/// A running program. It is killed, with its process group, when dropped.
#[must_use]
#[derive(Debug)]
pub struct Going {
    line: String,
    child: Child,
    output: Receiver<Said>,
    start: Instant,
    deadline: Instant,
    out: Vec<u8>,
    err: Vec<u8>,
    /// Both outputs are closed.
    ended: bool,
    /// It was waited for, so its process id and its group may be in use by others.
    reaped: bool,
}

/// A program that has exited.
#[derive(Debug, Clone)]
pub struct Run {
    /// The command line, for messages.
    pub command: String,
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub took: Duration,
}

impl Cmd {
    pub fn new(program: impl AsRef<OsStr>) -> Cmd {
        Cmd { command: Command::new(program), input: Vec::new(), timeout: DEFAULT_TIMEOUT }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Cmd {
        self.command.arg(arg);
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Cmd {
        self.command.args(args);
        self
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Cmd {
        self.command.env(name, value);
        self
    }

    pub fn envs<'a>(mut self, variables: impl IntoIterator<Item = &'a (String, String)>) -> Cmd {
        self.command.envs(variables.into_iter().map(|(name, value)| (name, value)));
        self
    }

    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Cmd {
        self.command.env_remove(name);
        self
    }

    /// Clears the environment. Only what [`Cmd::env`] sets afterwards remains.
    pub fn env_clear(mut self) -> Cmd {
        self.command.env_clear();
        self
    }

    pub fn dir(mut self, dir: impl AsRef<Path>) -> Cmd {
        self.command.current_dir(dir);
        self
    }

    /// The program's standard input.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Cmd {
        self.input = bytes.into();
        self
    }

    pub fn timeout(mut self, timeout: Duration) -> Cmd {
        self.timeout = timeout;
        self
    }

    /// The command itself, for callers that need its pipes.
    pub fn into_inner(self) -> Command {
        self.command
    }

    /// Starts it.
    pub fn start(mut self) -> Result<Going> {
        let line = command_line(&self.command);
        // It gets a process group of its own, so that its descendants can be killed with it at the deadline.
        self.command.process_group(0);
        self.command.stdin(input(self.input)?).stdout(Stdio::piped()).stderr(Stdio::piped());
        let start = Instant::now();
        let mut child = self.command.spawn().with_context(|| format!("cannot start '{line}'"))?;
        // The program alone reads its input, so whoever writes it notices when the program exits.
        drop(self.command);
        let output = listen(&mut child);
        let deadline = start + self.timeout;
        Ok(Going {
            line,
            child,
            output,
            start,
            deadline,
            out: Vec::new(),
            err: Vec::new(),
            ended: false,
            reaped: false,
        })
    }

    /// Runs it and keeps its output. An `Err` means that it could not be started or took too long; an exit status other
    /// than 0 is not an error here.
    pub fn run(self) -> Result<Run> {
        self.start()?.wait()
    }

    /// Like [`Cmd::run`], but an exit status other than 0 is an error that shows the output.
    pub fn check(self) -> Result<Run> {
        let run = self.run()?;
        if !run.status.success() {
            bail!("{run}");
        }
        Ok(run)
    }

    /// Runs it on this terminal without a deadline, for builds and for interactive use.
    pub fn inherit(mut self) -> Result<()> {
        let line = command_line(&self.command);
        let status = self.command.status().with_context(|| format!("cannot start '{line}'"))?;
        if !status.success() {
            bail!("'{line}' failed: {status}");
        }
        Ok(())
    }
}

impl Going {
    /// Waits until it exits. At the deadline, its process group is killed.
    pub fn wait(mut self) -> Result<Run> {
        while self.hear() {}
        let status = if self.ended { wait_until(&mut self.child, self.deadline)? } else { None };
        let Some(status) = status else {
            let (o, e) = (String::from_utf8_lossy(&self.out), String::from_utf8_lossy(&self.err));
            bail!("'{}' was not done after {} s\n{o}{e}", self.line, (self.deadline - self.start).as_secs());
        };
        self.reaped = true;
        let (stdout, stderr) = (std::mem::take(&mut self.out), std::mem::take(&mut self.err));
        Ok(Run { command: self.line.clone(), status, stdout, stderr, took: self.start.elapsed() })
    }

    /// Waits until its stderr contains this text. It is an error if it exits before.
    pub fn wait_until_it_says(&mut self, text: &str) -> Result<()> {
        while !String::from_utf8_lossy(&self.err).contains(text) {
            if !self.hear() {
                bail!("'{}' did not say '{text}' but\n{}", self.line, String::from_utf8_lossy(&self.err));
            }
        }
        Ok(())
    }

    /// Sends a signal to the program alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Sends a signal to the program and its descendants, as the terminal does at Ctrl-C.
    pub fn signal_group(&self, signal: Signal) -> Result<()> {
        Ok(kill_process_group(Pid::from_child(&self.child), signal)?)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Reads its next output. Returns false when both outputs are closed or the time is over.
    fn hear(&mut self) -> bool {
        match self.output.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
            Ok(Said::Out(bytes)) => self.out.extend(bytes),
            Ok(Said::Err(bytes)) => self.err.extend(bytes),
            Err(RecvTimeoutError::Disconnected) => self.ended = true,
            Err(RecvTimeoutError::Timeout) => return false,
        }
        !self.ended
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        // Once it was waited for, another process may have its id.
        if !self.reaped {
            let _ = self.signal_group(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl Run {
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The standard output without white space around it.
    pub fn line(&self) -> String {
        self.stdout().trim().to_owned()
    }

    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Asserts status 0.
    #[track_caller]
    pub fn ok(self) -> Run {
        assert!(self.status.success(), "should have succeeded: {self}");
        self
    }

    /// Asserts a status other than 0, and that it neither panicked nor was killed by a signal.
    #[track_caller]
    pub fn fails(self) -> Run {
        assert!(!self.status.success(), "should have failed: {self}");
        assert!(self.status.code().is_some(), "was ended by a signal: {self}");
        assert!(!self.stderr().contains("panicked at"), "panicked: {self}");
        self
    }

    /// Asserts the exit status.
    #[track_caller]
    pub fn code(self, code: i32) -> Run {
        assert_eq!(self.status.code(), Some(code), "{self}");
        self
    }

    /// Asserts that stderr contains this text.
    #[track_caller]
    pub fn says(self, text: &str) -> Run {
        assert!(self.stderr().contains(text), "stderr lacks '{text}': {self}");
        self
    }

    /// Asserts that stderr does not contain this text.
    #[track_caller]
    pub fn does_not_say(self, text: &str) -> Run {
        assert!(!self.stderr().contains(text), "stderr has '{text}': {self}");
        self
    }

    /// Asserts that stdout contains this text.
    #[track_caller]
    pub fn prints(self, text: &str) -> Run {
        assert!(self.stdout().contains(text), "stdout lacks '{text}': {self}");
        self
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "'{}' ended with {}", self.command, self.status)?;
        writeln!(f, "--- stdout\n{}", self.stdout().trim_end())?;
        write!(f, "--- stderr\n{}\n---", self.stderr().trim_end())
    }
}

/// Waits until `ready` returns something. If that takes too long, the error names `what`.
pub fn poll<T>(what: &str, timeout: Duration, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(answer) = ready() {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("{what}: not after {} s", timeout.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@+,~^%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into_owned() } else { format!("'{word}'") }
}

#[derive(Debug)]
enum Said {
    Out(Vec<u8>),
    Err(Vec<u8>),
}

/// Threads that read both outputs and write the input. The channel closes when both outputs are closed.
/// A pipe that holds `bytes` and ends after them. If they fit into the pipe, the program finds its end at once.
fn input(bytes: Vec<u8>) -> Result<PipeReader> {
    let (reader, mut writer) = pipe().context("cannot make a pipe")?;
    if bytes.len() <= PIPE_CAPACITY {
        writer.write_all(&bytes).context("cannot fill a pipe")?;
    } else {
        // It is not an error if the program does not read all of its input.
        std::thread::spawn(move || drop(writer.write_all(&bytes)));
    }
    Ok(reader)
}

fn listen(child: &mut Child) -> Receiver<Said> {
    let (sender, receiver) = channel();
    if let Some(out) = child.stdout.take() {
        forward(out, sender.clone(), Said::Out);
    }
    if let Some(err) = child.stderr.take() {
        forward(err, sender, Said::Err);
    }
    receiver
}

fn forward(mut from: impl Read + Send + 'static, to: Sender<Said>, wrap: fn(Vec<u8>) -> Said) {
    std::thread::spawn(move || {
        let mut buffer = [0; 16384];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if to.send(wrap(buffer[..n].to_vec())).is_err() {
                return;
            }
        }
    });
}

fn wait_until(child: &mut Child, deadline: Instant) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Writes a file that everybody can execute.
pub fn write_program(file: &Path, content: impl AsRef<[u8]>) -> std::io::Result<()> {
    std::fs::write(file, content)?;
    std::fs::set_permissions(file, Permissions::from_mode(0o755))
}

/// The first file of that name on PATH.
pub fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/sbin:/usr/bin:/sbin:/bin"));
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Cmd {
        Cmd::new("sh").args(["-c", script])
    }

    #[test]
    fn what_was_said_and_how_it_ended_is_kept() {
        let run = sh("cat; echo problem >&2; exit 3").input("content").run().unwrap().code(3);
        assert_eq!((run.stdout().as_str(), run.stderr().as_str()), ("content", "problem\n"));
    }

    #[test]
    fn a_program_that_takes_too_long_is_ended_with_all_that_it_started() {
        let error = sh("echo begun; sleep 1000 & sleep 1000").timeout(Duration::from_millis(300)).run().unwrap_err();
        assert!(error.to_string().contains("was not done") && error.to_string().contains("begun"), "{error}");
    }

    #[test]
    fn an_output_that_is_held_open_after_the_end_counts_as_not_done() {
        sh("sleep 1000 &").timeout(Duration::from_millis(300)).run().unwrap_err();
    }

    #[test]
    fn a_running_program_can_be_listened_to_and_signalled() {
        let mut going = sh("echo ready >&2; exec sleep 1000").start().unwrap();
        going.wait_until_it_says("ready").unwrap();
        going.signal(Signal::TERM).unwrap();
        assert_eq!(going.wait().unwrap().status.code(), None);
    }
}
