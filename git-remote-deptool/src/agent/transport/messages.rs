//! Shows what a host or ssh prints on stderr, without control characters, and remembers it for error messages.

mod filter;

use std::{
    fmt,
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use filter::Filter;
use rustix::{
    event::PollFlags,
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{OptionalActions, tcgetattr, tcsetattr},
};

use super::pump::{Next, Pump, Task};

/// How many bytes are remembered.
const REMEMBERED: usize = 4096;
/// How many bytes are shown at most. ssh never prints that much; a flood does.
const SHOWN: usize = 256 * 1024;

/// Where the text is shown. All sessions share it; each write is one piece of text.
pub type Sink = Arc<Mutex<dyn Write + Send>>;

/// Where stderr is shown, and what kind of file ssh gets as its stderr.
#[derive(Clone)]
pub struct Display {
    pub sink: Sink,
    /// [`Kind::Terminal`] if `sink` is a terminal.
    pub kind: Kind,
}

impl fmt::Debug for Display {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

/// The kind of file that the other program gets as its stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A pipe.
    Pipe,
    /// A terminal of its own. OpenSSH prints "Confirm user presence for key …" only if stderr is a terminal. The user's
    /// own terminal would let a host send arbitrary bytes to it.
    Terminal,
}

/// Stderr of a program, as it is shown and remembered.
#[derive(Debug)]
pub struct Messages {
    remembered: Arc<Mutex<String>>,
    shown: Arc<Mutex<Shown>>,
    /// Disconnected after everything was read.
    ended: Mutex<Receiver<()>>,
}

/// When text is shown. The last line before a program exits is often the reason, which the error message repeats. So
/// each line is held back for a moment, and dropped if an error reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Showing {
    /// After that moment. Text that is not a whole line may be a question, and is shown at once.
    Soon,
    /// When the connection is made; afterwards as [`Showing::Soon`]. If it can't be made, the error says why.
    Connected,
}

/// How long a line is held back.
const HELD: Duration = Duration::from_millis(300);

/// Shows text up to a limit.
struct Shown {
    sink: Sink,
    /// How many more bytes may be shown.
    left: usize,
    showing: Showing,
    /// The text that is held back.
    held: String,
    /// Since when it is held back.
    since: Instant,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.left.fmt(f)
    }
}

impl Messages {
    /// The connection was made: show the text that was held back.
    pub fn release(&self) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.showing == Showing::Connected {
            shown.showing = Showing::Soon;
            shown.show_held();
        }
    }

    /// Drop the held-back lines that an error reports.
    pub fn is_told(&self, is_told: impl Fn(&str) -> bool) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let held = std::mem::take(&mut shown.held);
        shown.held = held.split_inclusive('\n').filter(|line| !is_told(line.trim())).collect();
    }

    /// Everything that was printed, or the end of it. Waits up to `patience` for the rest: an ssh connection in the
    /// background may keep stderr open long after the session.
    pub fn stderr(&self, patience: Duration) -> String {
        // Return what there is, even if the rest did not come in time.
        let _ = self.ended.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(patience);
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.showing == Showing::Soon {
            shown.show_held();
        }
    }
}

/// Both ends of a stderr: one for the program that will be started, one for [`follow`].
pub fn channel_of(kind: Kind) -> io::Result<(OwnedFd, File)> {
    // If no terminal is available, a pipe works as well, except for that one message.
    if let (Kind::Terminal, Ok((theirs, ours))) = (kind, terminal()) {
        return Ok((theirs, ours));
    }
    let (ours, theirs) = io::pipe()?;
    Ok((theirs.into(), OwnedFd::from(ours).into()))
}

/// A new raw terminal that is not the controlling terminal of any process: (the program's end, our end).
fn terminal() -> io::Result<(OwnedFd, File)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let theirs =
        rustix::fs::open(ptsname(&ours, Vec::new())?, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    let mut modes = tcgetattr(&theirs)?;
    modes.make_raw();
    tcsetattr(&theirs, OptionalActions::Now, &modes)?;
    Ok((theirs, ours.into()))
}

/// Show on `sink` what is read from `source`, until its end.
pub fn follow(source: File, sink: Sink, showing: Showing, pump: &Pump) -> Messages {
    let remembered = Arc::new(Mutex::new(String::new()));
    let (held, since) = (String::new(), Instant::now());
    let shown = Arc::new(Mutex::new(Shown { sink, left: SHOWN, showing, held, since }));
    let (running, ended) = channel();
    let (memory, shown_there) = (remembered.clone(), shown.clone());
    // Without a thread, nothing is shown.
    let _ = pump.add(Following { source, filter: Filter::default(), memory, shown: shown_there, _running: running });
    Messages { remembered, shown, ended: Mutex::new(ended) }
}

/// Reads a stderr.
struct Following {
    source: File,
    filter: Filter,
    memory: Arc<Mutex<String>>,
    shown: Arc<Mutex<Shown>>,
    /// Dropped after everything was read.
    _running: Sender<()>,
}

impl Following {
    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, text: &str) {
        remember(text, &self.memory);
        self.shown().take(text);
    }

    fn end(&mut self) -> Next {
        let rest = self.filter.finish();
        self.take(&rest);
        Next::Over
    }
}

impl Task for Following {
    fn waits_for(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        Some((self.source.as_fd(), PollFlags::IN))
    }

    fn is_pressed(&self) -> bool {
        self.shown().is_waiting()
    }

    fn step(&mut self, is_ready: bool) -> Next {
        self.shown().tick();
        if !is_ready {
            return Next::GoesOn;
        }
        let mut buffer = [0; 4096];
        match self.source.read(&mut buffer) {
            Ok(0) => self.end(),
            Ok(n) => {
                let text = self.filter.push(&buffer[..n]);
                self.take(&text);
                Next::GoesOn
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Next::GoesOn,
            // A terminal that no process has open reports EIO.
            Err(_) => self.end(),
        }
    }
}

fn remember(text: &str, memory: &Mutex<String>) {
    let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
    memory.push_str(text);
    let surplus = memory.len().saturating_sub(REMEMBERED);
    let cut = (surplus..=memory.len()).find(|at| memory.is_char_boundary(*at)).unwrap_or_default();
    memory.drain(..cut);
}

impl Shown {
    fn take(&mut self, text: &str) {
        if self.held.is_empty() {
            self.since = Instant::now();
        }
        if self.held.len() < SHOWN {
            self.held.push_str(text);
        }
        if self.showing == Showing::Soon && !self.held.ends_with('\n') {
            self.show_held();
        }
        self.tick();
    }

    /// Whether text is being held back.
    fn is_waiting(&self) -> bool {
        self.showing == Showing::Soon && !self.held.is_empty()
    }

    fn tick(&mut self) {
        if self.is_waiting() && self.since.elapsed() >= HELD {
            self.show_held();
        }
    }

    fn show_held(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.show(&held);
    }

    /// Show `text`, within the limit.
    fn show(&mut self, text: &str) {
        if text.is_empty() || self.left == 0 {
            return;
        }
        let text = match self.left.checked_sub(text.len()).filter(|rest| *rest > 0) {
            Some(rest) => {
                self.left = rest;
                text
            }
            None => {
                self.left = 0;
                "\n(more output is not shown)\n"
            }
        };
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        // If the terminal is gone, there is nowhere to report that.
        let _ = sink.write_all(text.as_bytes()).and_then(|()| sink.flush());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::TryRecvError;

    use super::*;

    #[test]
    fn the_end_of_a_long_text_is_remembered() {
        let memory = Mutex::new(String::new());
        for _ in 0..1000 {
            remember("zürich\n", &memory);
        }
        let memory = memory.into_inner().unwrap();
        assert!(memory.len() <= REMEMBERED && memory.ends_with("zürich\n"));
    }

    #[test]
    fn endless_text_floods_no_terminal() {
        let sink = Arc::new(Mutex::new(Vec::new()));
        let (held, since) = (String::new(), Instant::now());
        let mut shown = Shown { sink: sink.clone(), left: SHOWN, showing: Showing::Soon, held, since };
        for _ in 0..SHOWN {
            shown.take("zürich");
        }
        let shown = String::from_utf8(sink.lock().unwrap().clone()).unwrap();
        assert!(shown.len() <= SHOWN + 40 && shown.ends_with("\n(more output is not shown)\n"));
    }

    #[test]
    fn what_is_held_is_shown_when_there_is_a_connection() {
        let sink = Arc::new(Mutex::new(Vec::new()));
        let (mut ours, theirs) = {
            let (ours, theirs) = io::pipe().unwrap();
            (theirs, ours)
        };
        let messages = follow(File::from(OwnedFd::from(theirs)), sink.clone(), Showing::Connected, &Pump::default());
        ours.write_all(b"a banner\n").unwrap();
        while messages.stderr(Duration::from_millis(1)).is_empty() {}
        assert_eq!(*sink.lock().unwrap(), b"");
        messages.release();
        assert_eq!(*sink.lock().unwrap(), b"a banner\n");
        ours.write_all(b"more\n").unwrap();
        drop(ours);
        assert_eq!(messages.stderr(Duration::from_secs(10)), "a banner\nmore\n");
        drop(messages);
        assert_eq!(*sink.lock().unwrap(), b"a banner\nmore\n");
    }

    #[test]
    fn a_line_that_an_error_tells_is_not_shown_and_a_question_at_once() {
        let sink = Arc::new(Mutex::new(Vec::new()));
        let shown = || String::from_utf8(sink.lock().unwrap().clone()).unwrap();
        let (theirs, mut ours) = io::pipe().unwrap();
        let messages = follow(File::from(OwnedFd::from(theirs)), sink.clone(), Showing::Soon, &Pump::default());
        ours.write_all(b"first\nPassword: ").unwrap();
        while shown() != "first\nPassword: " {}
        ours.write_all(b"\nslow\n").unwrap();
        while !shown().ends_with("slow\n") {}
        ours.write_all(b"a warning\nno route to host\n").unwrap();
        drop(ours);
        assert!(messages.stderr(Duration::from_secs(10)).ends_with("no route to host\n"));
        messages.is_told(|line| line == "no route to host");
        drop(messages);
        assert_eq!(shown(), "first\nPassword: \nslow\na warning\n");
    }

    #[test]
    fn a_program_sees_a_terminal_where_ours_is_one_and_its_end_is_noticed() {
        for (kind, expected) in [(Kind::Terminal, "yes\n"), (Kind::Pipe, "no\n")] {
            let (theirs, ours) = channel_of(kind).unwrap();
            let mut child = std::process::Command::new("sh")
                .args(["-c", "if [ -t 2 ]; then echo yes >&2; else echo no >&2; fi"])
                .stderr(theirs)
                .spawn()
                .unwrap();
            let messages = follow(ours, Arc::new(Mutex::new(io::sink())), Showing::Soon, &Pump::default());
            assert!(child.wait().unwrap().success());
            assert_eq!(messages.stderr(Duration::from_secs(10)), expected);
            assert_eq!(messages.ended.lock().unwrap().try_recv(), Err(TryRecvError::Disconnected));
        }
    }
}
