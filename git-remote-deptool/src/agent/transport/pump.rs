//! A thread that reads and writes the pipes of all connections, so that their number does not determine that of threads.

use std::{
    io::{self, Read, Write},
    os::fd::BorrowedFd,
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How often to look after what waits for time to pass.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
const NO_TIME: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// The thread needs little stack.
const STACK: usize = 256 * 1024;

/// A task for the thread.
pub trait Task: Send {
    /// The file and the events that it waits for now. Without one, [`step`](Self::step) is called after [`LOOK`].
    fn waits_for(&self) -> Option<(BorrowedFd<'_>, PollFlags)>;

    /// Whether [`step`](Self::step) has to be called from time to time, whatever happens to the file.
    fn is_pressed(&self) -> bool;

    /// Do what is possible without blocking. `is_ready` says that the file is ready.
    fn step(&mut self, is_ready: bool) -> Next;
}

/// What becomes of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    GoesOn,
    Over,
}

/// Hands tasks to the thread, which is started with the first one. After the last handle is gone, it carries out what it
/// has been given.
#[derive(Clone, Default)]
pub struct Pump(Arc<OnceLock<Result<Handle, io::ErrorKind>>>);

struct Handle {
    new: Sender<Box<dyn Task>>,
    waker: io::PipeWriter,
}

/// The threads for all connections of a [`Connector`](super::Connector). What hosts print may have to wait for the terminal, so
/// it has one of its own.
#[derive(Debug, Clone, Default)]
pub struct Pumps {
    pub data: Pump,
    pub stderr: Pump,
}

impl std::fmt::Debug for Pump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pump")
    }
}

impl Pump {
    /// Carry out `task` until it is over. Fails if there can't be a thread.
    pub fn add(&self, task: impl Task + 'static) -> io::Result<()> {
        match self.0.get_or_init(|| start().map_err(|error| error.kind())) {
            Ok(handle) => {
                // The thread lives as long as this handle.
                let _ = handle.new.send(Box::new(task));
                handle.wake();
                Ok(())
            }
            Err(kind) => Err((*kind).into()),
        }
    }

    /// Look after all tasks: one of them may wait for something else now.
    pub fn wake(&self) {
        if let Some(Ok(handle)) = self.0.get() {
            handle.wake();
        }
    }
}

impl Handle {
    fn wake(&self) {
        // If the pipe is full, the thread will wake up anyway.
        let _ = (&self.waker).write(b".");
    }
}

fn start() -> io::Result<Handle> {
    let (woken, waker) = io::pipe()?;
    rustix::io::ioctl_fionbio(&waker, true)?;
    rustix::io::ioctl_fionbio(&woken, true)?;
    let (new, added) = channel();
    thread::Builder::new().name("pump".into()).stack_size(STACK).spawn(move || run(woken, &added))?;
    Ok(Handle { new, waker })
}

fn run(woken: io::PipeReader, added: &Receiver<Box<dyn Task>>) {
    let (mut woken, mut tasks) = (Some(woken), Vec::new());
    loop {
        let known = tasks.len();
        tasks.extend(added.try_iter());
        if woken.is_none() && tasks.is_empty() {
            return;
        }
        // A new task may have something to do before its file is ready.
        let limit = if tasks.len() > known {
            Some(&NO_TIME)
        } else {
            tasks.iter().any(|task| task.is_pressed()).then_some(&LOOK)
        };
        let mut ready = wait(woken.as_ref(), &tasks, limit).into_iter();
        tasks.retain_mut(|task| task.step(ready.next().unwrap_or(false)) == Next::GoesOn);
        // What the bytes say is not of interest, and there may be none.
        if woken.as_mut().is_some_and(|woken| matches!(woken.read(&mut [0; 256]), Ok(0))) {
            woken = None;
        }
    }
}

/// Wait until a task can do something, but no longer than `limit`. Returns which files are ready.
fn wait(woken: Option<&io::PipeReader>, tasks: &[Box<dyn Task>], limit: Option<&Timespec>) -> Vec<bool> {
    let waited: Vec<_> = tasks.iter().map(|task| task.waits_for()).collect();
    let mut files: Vec<PollFd<'_>> =
        waited.iter().flatten().map(|(file, events)| PollFd::from_borrowed_fd(*file, *events)).collect();
    files.extend(woken.map(|woken| PollFd::new(woken, PollFlags::IN)));
    // An error is an interrupted call: then nothing is ready.
    let count = poll(&mut files, limit).unwrap_or(0);
    let mut results = files.iter().map(|file| count > 0 && !file.revents().is_empty());
    waited.iter().map(|waited| waited.is_some() && results.next().unwrap_or(false)).collect()
}
