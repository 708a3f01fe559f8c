//! Running `git` for the operator's repository: in a process group of its own, so that Ctrl-C reaches us alone (unless it
//! may ask something), and stopped with all that it has started when it takes too long or the operator interrupts us.

use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use deptool_agent::shared::text::printable_lines;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::model::interrupt::Interrupt;

/// How often a running git looks whether we were interrupted.
const INTERRUPT_CHECK: Duration = Duration::from_millis(50);

/// How much of its stderr is kept, in bytes.
const MOST_STDERR: usize = 4096;

/// A `git` command.
pub struct Git {
    /// The subcommand, for messages.
    name: &'static str,
    command: Command,
    interrupt: Interrupt,
    patience: Option<Duration>,
    uses_terminal: bool,
}

/// Why a `git` command failed.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error("could not run 'git {command}'")]
    Start { command: &'static str, source: io::Error },
    #[error("'git {command}' failed: {stderr}")]
    Failed { command: &'static str, stderr: String },
    #[error("'git {command}' took too long")]
    TooSlow { command: &'static str },
    #[error("interrupted")]
    Interrupted,
}

impl Git {
    /// `git <name>`. `command` contains everything before the subcommand.
    pub fn new(mut command: Command, name: &'static str, interrupt: Interrupt) -> Git {
        command.arg(name);
        Git { name, command, interrupt, patience: None, uses_terminal: false }
    }

    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Git {
        self.command.args(args);
        self
    }

    /// Change any other property of the command.
    pub fn with(mut self, add: impl FnOnce(&mut Command)) -> Git {
        add(&mut self.command);
        self
    }

    /// Kill it after this time.
    pub fn within(mut self, patience: Duration) -> Git {
        self.patience = Some(patience);
        self
    }

    /// Let it ask on the terminal, for which it must stay in our process group. Ctrl-C reaches it too.
    pub fn uses_terminal(mut self, uses_terminal: bool) -> Git {
        self.uses_terminal = uses_terminal;
        self
    }

    /// Run it, and return its stdout.
    pub fn run(self, input: &[u8]) -> Result<Vec<u8>, GitError> {
        // A git that does not read its input says why.
        self.run_fed(|stdin| stdin.write_all(input)).map(|(stdout, _)| stdout)
    }

    /// Like [`run`](Self::run), with input that `feed` writes meanwhile. Returns the result of `feed`, too.
    pub fn run_fed<T>(mut self, feed: impl FnOnce(&mut dyn Write) -> T) -> Result<(Vec<u8>, T), GitError> {
        let name = self.name;
        if !self.uses_terminal {
            self.command.process_group(0);
        }
        let failed = |source| GitError::Start { command: name, source };
        let no_pipe = || failed(io::Error::other("no pipe"));
        let (stdin, stdout, stderr) = (Stdio::piped(), Stdio::piped(), Stdio::piped());
        let mut child = self.command.stdin(stdin).stdout(stdout).stderr(stderr).spawn().map_err(failed)?;
        let mut stdin = child.stdin.take().ok_or_else(no_pipe)?;
        let stdout = in_background(child.stdout.take(), read).map_err(failed)?;
        let stderr = in_background(child.stderr.take(), read_end).map_err(failed)?;
        let (ended, fed) = thread::scope(|scope| {
            let ended = scope.spawn(|| self.wait(stderr, &child));
            let fed = feed(&mut stdin);
            drop(stdin);
            (ended.join(), fed)
        });
        let stderr = ended.map_err(|_| failed(io::ErrorKind::Other.into()));
        let status = child.wait().map_err(failed);
        let stderr = stderr??;
        match status?.success() {
            true => Ok((stdout.recv().map_err(|_| no_pipe())?, fed)),
            false => Err(GitError::Failed { command: name, stderr: printable_lines(stderr.trim_ascii()) }),
        }
    }

    /// Wait until its stderr ends, and return that, or stop it.
    fn wait(&self, stderr: Receiver<Vec<u8>>, child: &Child) -> Result<Vec<u8>, GitError> {
        let began = Instant::now();
        loop {
            match stderr.recv_timeout(INTERRUPT_CHECK) {
                Ok(text) => return Ok(text),
                Err(RecvTimeoutError::Disconnected) => return Ok(Vec::new()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let why = match self.patience {
                _ if self.interrupt.is_set() => GitError::Interrupted,
                Some(patience) if began.elapsed() >= patience => GitError::TooSlow { command: self.name },
                Some(_) | None => continue,
            };
            // It was not waited for yet: the id is its own.
            let id = Pid::from_child(child);
            let _ = match self.uses_terminal {
                true => kill_process(id, Signal::KILL),
                false => kill_process_group(id, Signal::KILL),
            };
            return Err(why);
        }
    }
}

/// Read a pipe in a thread of its own. It is not waited for if git is stopped: what git has started may outlive it, and
/// hold the pipe open.
fn in_background<P: Read + Send + 'static>(pipe: Option<P>, read: fn(P) -> Vec<u8>) -> io::Result<Receiver<Vec<u8>>> {
    let (sender, receiver) = channel();
    let pipe = pipe.ok_or_else(|| io::Error::other("no pipe"))?;
    thread::Builder::new().spawn(move || sender.send(read(pipe)))?;
    Ok(receiver)
}

fn read(mut pipe: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    // As much as there is: the exit status tells whether that is all.
    let _ = pipe.read_to_end(&mut bytes);
    bytes
}

/// The last part of what is in a pipe. The reason of a failure comes last, and `git index-pack` prints a line for each
/// unusual object before it.
fn read_end(mut pipe: impl Read) -> Vec<u8> {
    let (mut bytes, mut chunk) = (Vec::new(), [0; MOST_STDERR]);
    while let Ok(count @ 1..) = pipe.read(&mut chunk) {
        bytes.extend_from_slice(&chunk[..count]);
        bytes.drain(..bytes.len().saturating_sub(MOST_STDERR));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (Git, Interrupt) {
        let interrupt = Interrupt::default();
        let mut command = Command::new("sh");
        command.arg("-c");
        // The subcommand is what the shell runs.
        let script: &'static str = Box::leak(script.to_owned().into_boxed_str());
        (Git::new(command, script, interrupt.clone()), interrupt)
    }

    #[test]
    fn what_it_prints_is_returned_whatever_it_reads() {
        assert_eq!(shell("cat").0.run(&vec![b'x'; 1 << 20]).unwrap().len(), 1 << 20);
        assert_eq!(shell("echo yes").0.run(&vec![b'x'; 1 << 20]).unwrap(), b"yes\n");
        let error = shell("echo no >&2; exit 3").0.run(b"").unwrap_err();
        assert!(matches!(&error, GitError::Failed { stderr, .. } if stderr == "no"), "{error}");
        // It prints much before it reads on, and the reason comes last.
        let error = shell("yes | head -c 200000 >&2; cat; echo no >&2; exit 3").0.run(&[b'x'; 1 << 20]).unwrap_err();
        assert!(matches!(&error, GitError::Failed { stderr, .. } if stderr.ends_with("y\nno") && stderr.len() < 5000));
    }

    #[test]
    fn it_ends_with_all_its_children_when_it_is_interrupted_or_too_slow() {
        let (git, interrupt) = shell("sleep 1000 & sleep 1000");
        thread::scope(|scope| {
            let running = scope.spawn(|| git.run(&[b'x'; 1 << 20]));
            interrupt.set();
            assert!(matches!(running.join().unwrap(), Err(GitError::Interrupted)));
        });
        let (git, _) = shell("sleep 1000 & sleep 1000");
        let slow = git.within(Duration::from_millis(100)).run(b"").unwrap_err();
        assert!(matches!(slow, GitError::TooSlow { .. }), "{slow}");
    }
}
