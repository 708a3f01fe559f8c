//! Following processes with ptrace.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{IoSliceMut, Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use libc::user_regs_struct;
use nix::errno::Errno;
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::filter::{self, About};
use super::{Call, Deed, Watched};

/// A program that takes longer is stuck.
const LIMIT: Duration = Duration::from_secs(90);
/// At most this much of a write is read.
const BEGINNING: usize = 4096;

pub fn unable() -> Option<&'static str> {
    let run = run(Command::new("true"), Watched::Everybody, &mut |_| Deed::Go);
    run.is_err().then_some("this computer does not let one process trace another")
}

#[allow(unsafe_code)]
pub fn run(mut command: Command, watched: Watched, lead: &mut dyn FnMut(&Call) -> Deed) -> Result<()> {
    let mut program = filter::program();
    let prepare = move || {
        ptrace::traceme()?;
        filter::install(&mut program)
    };
    // SAFETY: system calls only, nothing is allocated.
    unsafe { command.pre_exec(prepare) };
    let child = command.spawn().context("cannot start what is to be traced")?;
    // Close our copies of its pipes.
    drop(command);
    let child = Pid::from_raw(child.id() as i32);
    let watchdog = Watchdog::start();
    watchdog.add(child);
    // The process has stopped at its exec.
    waitpid(child, Some(WaitPidFlag::__WALL))?;
    let options = Options::PTRACE_O_TRACESECCOMP
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(child, options).context("cannot trace")?;
    let mut following =
        Following { watched, lead, watchdog, is_watched: BTreeMap::new(), held: BTreeSet::new(), due: BTreeSet::new() };
    following.note_program(child);
    ptrace::cont(child, None)?;
    following.follow()
}

struct Following<'a> {
    watched: Watched,
    lead: &'a mut dyn FnMut(&Call) -> Deed,
    watchdog: Watchdog,
    /// Every traced process and thread.
    is_watched: BTreeMap<Pid, bool>,
    /// New processes that stopped before the event of their parent arrived, and those that have not stopped yet.
    held: BTreeSet<Pid>,
    due: BTreeSet<Pid>,
}

impl Following<'_> {
    fn follow(mut self) -> Result<()> {
        // Wait only for children of this thread: other threads of this program have children, too.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            let status = match waitpid(None, Some(flags)) {
                Err(Errno::ECHILD) => break,
                Err(Errno::EINTR) => continue,
                result => result?,
            };
            match self.handle(status) {
                // The process was killed in the meantime.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.watchdog.has_bitten() {
            bail!("what was traced was not done after {} s", LIMIT.as_secs());
        }
        Ok(())
    }

    fn handle(&mut self, status: WaitStatus) -> nix::Result<()> {
        match status {
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                self.is_watched.remove(&pid);
                self.watchdog.remove(pid);
                self.held.remove(&pid);
                self.kill_orphans();
                Ok(())
            }
            WaitStatus::PtraceEvent(pid, _, event) => self.event(pid, event),
            // This is the end of a call after which all processes are to be killed.
            WaitStatus::PtraceSyscall(_) => self.kill_all(),
            WaitStatus::Stopped(pid, Signal::SIGSTOP) if !self.is_watched.contains_key(&pid) => {
                self.watchdog.add(pid);
                self.held.insert(pid);
                self.kill_orphans();
                Ok(())
            }
            WaitStatus::Stopped(pid, Signal::SIGSTOP) if self.due.remove(&pid) => ptrace::cont(pid, None),
            WaitStatus::Stopped(pid, signal) => ptrace::cont(pid, signal),
            WaitStatus::Continued(_) | WaitStatus::StillAlive => Ok(()),
        }
    }

    fn event(&mut self, pid: Pid, event: i32) -> nix::Result<()> {
        const SECCOMP: i32 = Event::PTRACE_EVENT_SECCOMP as i32;
        const EXEC: i32 = Event::PTRACE_EVENT_EXEC as i32;
        const NEW: [i32; 3] =
            [Event::PTRACE_EVENT_FORK as i32, Event::PTRACE_EVENT_VFORK as i32, Event::PTRACE_EVENT_CLONE as i32];
        match event {
            SECCOMP => self.call(pid),
            EXEC => {
                self.note_program(pid);
                ptrace::cont(pid, None)
            }
            _ if NEW.contains(&event) => {
                let new = Pid::from_raw(ptrace::getevent(pid)? as i32);
                let is_watched = self.is_watched.get(&pid).copied().unwrap_or(false);
                self.is_watched.insert(new, is_watched);
                self.watchdog.add(new);
                if self.held.remove(&new) {
                    ptrace::cont(new, None)?;
                } else {
                    self.due.insert(new);
                }
                ptrace::cont(pid, None)
            }
            _ => ptrace::cont(pid, None),
        }
    }

    /// Another program runs in this process now.
    fn note_program(&mut self, pid: Pid) {
        let before = self.is_watched.get(&pid).copied().unwrap_or(false);
        let is_watched = match self.watched {
            Watched::Everybody => true,
            Watched::From { from, but } => {
                let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
                let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
                name.starts_with(from) || (before && !name.starts_with(but))
            }
        };
        self.is_watched.insert(pid, is_watched);
    }

    fn call(&mut self, pid: Pid) -> nix::Result<()> {
        let mut registers = ptrace::getregs(pid)?;
        let change = filter::change(registers.orig_rax);
        let (Some((name, about)), Some(true)) = (change, self.is_watched.get(&pid)) else {
            return ptrace::cont(pid, None);
        };
        match (self.lead)(&look(pid, &registers, name, about)) {
            Deed::Go => ptrace::cont(pid, None),
            Deed::Fail(error) => {
                // No call has this number, so none is made. The result is the value in the register.
                registers.orig_rax = u64::MAX;
                registers.rax = (-i64::from(error as i32)) as u64;
                ptrace::setregs(pid, registers)?;
                ptrace::cont(pid, None)
            }
            Deed::KillBefore => self.kill_all(),
            Deed::KillAfter => ptrace::syscall(pid, None),
        }
    }

    fn kill_all(&mut self) -> nix::Result<()> {
        for (pid, is_watched) in &self.is_watched {
            if *is_watched {
                let _ = kill(*pid, Signal::SIGKILL);
            }
        }
        Ok(())
    }

    /// Kills new processes whose parents were killed before their event arrived: nothing would ever resume them.
    fn kill_orphans(&mut self) {
        let is_orphan = |pid: &Pid| parent(*pid).is_none_or(|parent| !self.is_watched.contains_key(&parent));
        for pid in self.held.iter().filter(|pid| is_orphan(pid)) {
            let _ = kill(*pid, Signal::SIGKILL);
        }
    }
}

/// The process that made a new process or thread.
fn parent(pid: Pid) -> Option<Pid> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok().map(Pid::from_raw)
    };
    field("Tgid:").filter(|group| *group != pid).or_else(|| field("PPid:"))
}

fn look(pid: Pid, registers: &user_regs_struct, name: &'static str, about: About) -> Call {
    let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10];
    let of_file =
        |at: usize| std::fs::read_link(format!("/proc/{pid}/fd/{}", arguments[at] as i32)).unwrap_or_default();
    let (path, data) = match about {
        // Before the path there is the directory that it is relative to.
        About::Path(at) if name.contains("at") && at > 0 => {
            (of_file(at - 1).join(text(pid, arguments[at])), Vec::new())
        }
        About::Path(at) => (text(pid, arguments[at]), Vec::new()),
        About::File(at) => (of_file(at), Vec::new()),
        About::Write => (of_file(0), memory(pid, arguments[1], BEGINNING.min(arguments[2] as usize))),
    };
    Call { name, path, data }
}

/// A string in the memory of a process, up to the first page that can't be read.
fn text(pid: Pid, at: u64) -> PathBuf {
    let mut bytes = memory(pid, at, libc::PATH_MAX as usize);
    bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    OsString::from_vec(bytes).into()
}

fn memory(pid: Pid, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let read = std::fs::File::open(Path::new("/proc").join(pid.to_string()).join("mem")).and_then(|mut memory| {
        memory.seek(SeekFrom::Start(at))?;
        memory.read_vectored(&mut [IoSliceMut::new(&mut bytes)])
    });
    bytes.truncate(read.unwrap_or(0));
    bytes
}

/// Kills all traced processes when the time is over.
struct Watchdog {
    state: Arc<Mutex<(BTreeSet<Pid>, bool)>>,
    _calm: Sender<()>,
}

impl Watchdog {
    fn start() -> Watchdog {
        let state: Arc<Mutex<(BTreeSet<Pid>, bool)>> = Arc::default();
        let (calm, dropped) = channel::<()>();
        let its = state.clone();
        std::thread::spawn(move || {
            if dropped.recv_timeout(LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let mut state = its.lock().unwrap_or_else(PoisonError::into_inner);
                state.1 = true;
                for pid in &state.0 {
                    let _ = kill(*pid, Signal::SIGKILL);
                }
            }
        });
        Watchdog { state, _calm: calm }
    }

    fn with<T>(&self, what: impl FnOnce(&mut (BTreeSet<Pid>, bool)) -> T) -> T {
        what(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, pid: Pid) {
        self.with(|state| state.0.insert(pid));
    }

    fn remove(&self, pid: Pid) {
        self.with(|state| state.0.remove(&pid));
    }

    fn has_bitten(&self) -> bool {
        self.with(|state| state.1)
    }
}
