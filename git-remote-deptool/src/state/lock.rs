//! One process at a time talks to a host from this repository.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::facts;
use crate::{config::TrackingName, repo::Repo};

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
        lock(repo, tracking, FlockOperation::NonBlockingLockExclusive)
    }

    /// Take the lock, after whoever has it.
    pub fn acquire(repo: &Repo, tracking: &TrackingName) -> Result<Self, LockError> {
        lock(repo, tracking, FlockOperation::LockExclusive)
    }
}

fn lock(repo: &Repo, tracking: &TrackingName, how: FlockOperation) -> Result<HostLock, LockError> {
    let path = facts::lock_path(repo, tracking);
    let file = match open(&path) {
        Ok(file) => file,
        Err(source) => return Err(LockError::Io { path, source }),
    };
    match flock(&file, how) {
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
