//! One process at a time talks to a host from this repository.

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

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);
/// How long another process is waited for.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// The right to talk to one host from this repository. Ends with the process that has it, however that ends.
#[derive(Debug)]
#[must_use]
pub struct HostLock {
    _file: File,
}

/// Why a lock can't be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Some other process has it.
    #[error("another git process of this repository is talking to '{0}'")]
    Held(TrackingName),
    #[error("interrupted")]
    Interrupted,
    /// The file.
    #[error("could not lock '{}'", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl HostLock {
    /// Take the lock, or say that someone else has it.
    pub fn try_acquire(repo: &Repo, tracking: &TrackingName) -> Result<Self, LockError> {
        lock(repo, tracking)
    }

    /// Take the lock, after whoever has it. No process has it for longer than the hosts' own limits allow; one that has it
    /// for [`PATIENCE`] was stopped.
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

/// The file stays: to remove a lock file is to have two of them.
fn open(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    File::options().write(true).create(true).truncate(false).open(path)
}
