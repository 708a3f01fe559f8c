//! A lock for each host: only one process of this repository is connected to a host at a time.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::facts;
use crate::{config::TrackingName, model::interrupt::Interrupt, repo::Repo};

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// How long to wait for another process.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// The lock of one host in this repository. The kernel releases it when the process ends.
#[derive(Debug)]
#[must_use]
pub struct HostLock {
    _file: File,
}

/// Why a lock could not be acquired.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("another git process of this repository is talking to '{0}'")]
    Held(TrackingName),
    #[error("interrupted")]
    Interrupted,
    /// The lock file can't be opened.
    #[error("could not lock '{}'", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl HostLock {
    /// Acquire the lock, or fail if another process holds it.
    pub fn try_acquire(repo: &Repo, tracking: &TrackingName) -> Result<Self, LockError> {
        lock(repo, tracking)
    }

    /// Acquire the lock, and wait for another process that holds it. The time limits for hosts also limit how long a
    /// process holds it. If one holds it longer than [`PATIENCE`], it has been stopped.
    pub fn acquire(repo: &Repo, tracking: &TrackingName, interrupt: &Interrupt) -> Result<Self, LockError> {
        let began = Instant::now();
        loop {
            match Self::try_acquire(repo, tracking) {
                Err(LockError::Held(_)) if interrupt.is_set() => return Err(LockError::Interrupted),
                Err(LockError::Held(_)) if began.elapsed() < PATIENCE => thread::sleep(PAUSE),
                result => return result,
            }
        }
    }
}

fn lock(repo: &Repo, tracking: &TrackingName) -> Result<HostLock, LockError> {
    let path = facts::lock_path(repo, tracking);
    let file = match open(&path) {
        Ok(file) => file,
        Err(source) => return Err(LockError::Io { path, source }),
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            facts::clear(repo, tracking);
            Ok(HostLock { _file: file })
        }
        Err(Errno::WOULDBLOCK) => Err(LockError::Held(tracking.clone())),
        Err(errno) => Err(LockError::Io { path, source: errno.into() }),
    }
}

/// The file is never deleted: otherwise two processes could lock different files of the same name.
fn open(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    File::options().write(true).create(true).truncate(false).open(path)
}
