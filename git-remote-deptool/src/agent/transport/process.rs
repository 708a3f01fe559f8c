//! A program behind two pipes, which different threads can read and write: a child, or one on a host to which ssh already shares a
//! connection.

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::PollFlags,
    process::{Pid, Signal, kill_process},
};

use super::asking;
use super::messages::{self, Kind, Messages, Showing, Sink};
use super::outgoing::{AtDrop, Outgoing};
use super::pump::{Next, Pump, Pumps, Task};
use super::ssh::mux::MuxSession;
use crate::model::interrupt::Interrupt;

/// The program: ssh, an agent on this machine, or a command on a host.
///
/// Dropping it does not kill a child. A child exits when its stdin is closed, and is then reaped in the background. A command on a
/// host loses its stdout.
#[derive(Debug)]
pub struct Connection {
    program: Arc<Mutex<Program>>,
    messages: Messages,
    pump: Pump,
}

#[derive(Debug)]
enum Program {
    Child(Child),
    Session(MuxSession),
}

/// Ends a [`Connection`] from another thread.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<Mutex<Program>>);

/// What every connection needs.
pub struct Surroundings<'a> {
    /// What kind of file the program gets as its stderr.
    pub kind: Kind,
    /// Where its stderr is shown.
    pub shown: (Sink, Showing),
    pub pumps: &'a Pumps,
    /// After it, writes give up sooner.
    pub interrupt: &'a Interrupt,
}

/// Start `command` with pipes for stdin and stdout.
pub fn start(mut command: Command, around: Surroundings<'_>) -> io::Result<(Connection, Outgoing, Incoming)> {
    let (stderr, ours) = messages::channel_of(around.kind)?;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::from(stderr)).spawn()?;
    // The command holds the program's end of stderr. While it is open, stderr does not end.
    drop(command);
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        unreachable!("both were asked for")
    };
    attach(Program::Child(child), (stdin, stdout, ours), around)
}

/// Run `command` on the host to which the process behind `socket` has a connection.
pub fn share(
    socket: &Path,
    command: &str,
    variable: Option<(&str, &str)>,
    around: Surroundings<'_>,
) -> io::Result<(Connection, Outgoing, Incoming)> {
    let (stderr, ours) = messages::channel_of(around.kind)?;
    let ((stdin_there, stdin), (stdout, stdout_there)) = (io::pipe()?, io::pipe()?);
    let pipes = [stdin_there.as_fd(), stdout_there.as_fd(), stderr.as_fd()];
    let session = MuxSession::begin(socket, command, variable, pipes)?;
    let (stdin, stdout) = (ChildStdin::from(OwnedFd::from(stdin)), ChildStdout::from(OwnedFd::from(stdout)));
    attach(Program::Session(session), (stdin, stdout, ours), around)
}

fn attach(
    program: Program,
    (stdin, stdout, stderr): (ChildStdin, ChildStdout, File),
    around: Surroundings<'_>,
) -> io::Result<(Connection, Outgoing, Incoming)> {
    rustix::io::ioctl_fionbio(&stdin, true)?;
    let at_drop = match &program {
        Program::Child(_) => AtDrop::Closes,
        Program::Session(_) => AtDrop::IsReadFirst,
    };
    let (sink, showing) = around.shown;
    let messages = messages::follow(stderr, sink, showing, &around.pumps.stderr);
    let pump = around.pumps.data.clone();
    let outgoing = Outgoing::new(stdin, at_drop, pump.clone(), around.interrupt.clone());
    let connection = Connection { program: Arc::new(Mutex::new(program)), messages, pump };
    Ok((connection, outgoing, Incoming { put_back: Vec::new(), taken: 0, stdout }))
}

impl Program {
    /// Its status, or `None` if it still runs.
    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        match self {
            Program::Child(child) => child.try_wait(),
            Program::Session(session) => Ok(session.try_wait()),
        }
    }

    fn is_running_child(&mut self) -> bool {
        match self {
            Program::Child(child) => matches!(child.try_wait(), Ok(None)),
            Program::Session(_) => false,
        }
    }
}

impl Connection {
    /// Wait until the program exits, but at most for `patience`. `None` if it still runs. It exits when [`Outgoing`] was dropped
    /// and the other side is done.
    pub fn wait_for(&self, patience: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + patience;
        loop {
            let status = lock(&self.program).try_wait()?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether there was no session, and nothing reached the host.
    pub fn is_refused(&self) -> bool {
        match &mut *lock(&self.program) {
            Program::Child(_) => false,
            Program::Session(session) => session.is_refused(),
        }
    }

    /// Show the stderr that was held back. See [`Showing::Connected`].
    pub fn show_stderr(&self) {
        self.messages.release();
    }

    /// Drop the lines of stderr that an error reports.
    pub fn is_told(&self, is_told: impl Fn(&str) -> bool) {
        self.messages.is_told(is_told);
    }

    /// Whether ssh may be waiting for the operator: it or a descendant has the terminal open or is an askpass program,
    /// or it asked for a key to be touched. True if that can't be found out.
    pub fn may_be_asking(&self) -> bool {
        let touch = self.stderr().lines().last().is_some_and(|line| line.contains("user presence"));
        touch || matches!(&*lock(&self.program), Program::Child(child) if asking::is_asking(child.id()))
    }

    /// A handle to end the program from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.program.clone())
    }

    /// The stderr so far, at most 4 KiB, safe to show.
    pub fn stderr(&self) -> String {
        self.messages.stderr(Duration::ZERO)
    }

    /// Like [`stderr`](Self::stderr), after the program has exited.
    pub fn stderr_at_end(&self) -> String {
        self.messages.stderr(Duration::from_millis(500))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if lock(&self.program).is_running_child() {
            // A failure to reap it has no consequence.
            let _ = self.pump.add(Reaping(self.program.clone()));
        }
    }
}

/// Waits for a program whose end is of no interest.
struct Reaping(Arc<Mutex<Program>>);

impl Task for Reaping {
    fn waits_for(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        None
    }

    fn is_pressed(&self) -> bool {
        true
    }

    fn step(&mut self, _is_ready: bool) -> Next {
        if lock(&self.0).is_running_child() { Next::GoesOn } else { Next::Over }
    }
}

impl Stopper {
    /// End it if it still runs: with SIGTERM, so that ssh restores the terminal.
    pub fn stop(&self) {
        match &mut *lock(&self.0) {
            Program::Child(child) => {
                if matches!(child.try_wait(), Ok(None)) {
                    // It may have exited just now, which is as good.
                    let _ = kill_process(Pid::from_child(child), Signal::TERM);
                }
            }
            Program::Session(session) => session.stop(),
        }
    }
}

fn lock(program: &Mutex<Program>) -> MutexGuard<'_, Program> {
    program.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a program ended, for an error message.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no status".into(),
    }
}

/// The program's stdout.
#[derive(Debug)]
pub struct Incoming {
    put_back: Vec<u8>,
    taken: usize,
    pub(super) stdout: ChildStdout,
}

impl Incoming {
    /// Put `bytes` back, to be read before anything else.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        debug_assert!(self.taken == self.put_back.len(), "one opening is read at a time");
        self.put_back = bytes.to_vec();
        self.taken = 0;
    }

    /// The pipe, and what was put back.
    pub fn into_parts(mut self) -> (ChildStdout, Vec<u8>) {
        (self.stdout, self.put_back.split_off(self.taken))
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut left = &self.put_back[self.taken..];
        if left.is_empty() {
            return self.stdout.read(buffer);
        }
        let n = left.read(buffer)?;
        self.taken += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn shell(script: &str) -> (Connection, Outgoing, Incoming) {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let shown: (Sink, _) = (Arc::new(Mutex::new(io::sink())), Showing::Soon);
        let (pumps, interrupt) = (&Pumps::default(), &Interrupt::default());
        start(command, Surroundings { kind: Kind::Pipe, shown, pumps, interrupt }).unwrap()
    }

    fn wait(connection: &Connection) -> ExitStatus {
        connection.wait_for(Duration::from_secs(60)).unwrap().unwrap()
    }

    #[test]
    fn a_large_request_that_is_sent_ahead_blocks_neither_side() {
        let (connection, mut outgoing, mut incoming) = shell("dd if=/dev/zero bs=1024 count=1024 2>/dev/null; cat");
        outgoing.send_ahead(vec![Arc::from(vec![b'x'; 1 << 20]), Arc::from(*b"end")]).unwrap();
        let mut answer = vec![1; 1 << 20];
        incoming.read_exact(&mut answer).unwrap();
        assert!(answer.iter().all(|b| *b == 0));
        let reader = thread::spawn(move || {
            let mut rest = Vec::new();
            incoming.read_to_end(&mut rest).map(|_| rest)
        });
        outgoing.write_all(b", and more").unwrap();
        drop(outgoing);
        let rest = reader.join().unwrap().unwrap();
        assert!(rest.ends_with(b"xend, and more") && rest.len() == (1 << 20) + 13);
        assert!(wait(&connection).success());
    }

    #[test]
    fn a_program_that_reads_nothing_is_not_waited_for_without_end() {
        let (connection, mut outgoing, _incoming) = shell("exec sleep 600");
        outgoing.patience = Duration::from_millis(20);
        let error = outgoing.write_all(&vec![0; 1 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        connection.stopper().stop();

        let (connection, mut outgoing, _incoming) = shell("exec sleep 600");
        outgoing.send_ahead(vec![Arc::from(vec![0; 1 << 20])]).unwrap();
        assert!(outgoing.is_busy());
        connection.stopper().stop();
        outgoing.write_all(b"more").unwrap_err();
        assert!(!outgoing.is_busy());
        outgoing.write_all(b"more").unwrap_err();
        assert!(!outgoing.is_busy(), "nothing waits for a pipe that is broken");
    }

    #[test]
    fn a_program_that_does_not_end_can_be_stopped_from_another_thread() {
        let (connection, _outgoing, _incoming) = shell("exec sleep 600");
        let stopper = connection.stopper();
        let waiting = thread::spawn(move || wait(&connection));
        stopper.stop();
        assert_eq!(waiting.join().unwrap().signal(), Some(15));
        stopper.stop();
    }

    #[test]
    fn what_a_program_has_not_read_is_known_after_its_end() {
        let unread = |script: &str, size: usize| {
            let (connection, mut outgoing, _incoming) = shell(script);
            // It may have ended before it was written to.
            let _ = outgoing.write_all(b"hello\n");
            let _ = outgoing.send_ahead(vec![Arc::from(vec![b'x'; size])]);
            wait(&connection);
            outgoing.is_unread()
        };
        assert!(unread("exit 255", 10));
        assert!(unread("exit 255", 1 << 20), "more than a pipe holds");
        assert!(!unread("read line", 10));
        assert!(!unread("head -c 100 >/dev/null", 1 << 20));
    }

    #[test]
    fn dropping_a_connection_kills_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let done = dir.path().join("done");
        let (connection, outgoing, mut incoming) = shell(&format!("cat; mkdir {}; echo done", done.display()));
        drop(connection);
        drop(outgoing);
        let mut text = String::new();
        incoming.read_to_string(&mut text).unwrap();
        assert_eq!(text, "done\n");
        assert!(done.exists());
    }
}
