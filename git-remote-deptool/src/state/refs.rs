//! Reads and writes refs. A written ref is durable when the function returns.

mod read;

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use deptool_agent::shared::id::CommitId;
use gix::{
    ObjectId,
    refs::{
        FullName, Target,
        transaction::{LogChange, PreviousValue, RefEdit, RefLog},
    },
};

use super::TrackingError;
use crate::repo::{
    Repo,
    identity::{committer, local_time},
};

/// How many threads sync at the same time.
const SYNCING: usize = 16;

/// The path of a ref that was written but not synced.
#[derive(Debug)]
struct Written(PathBuf);

/// How long to retry a change of a ref while another Git process locks it.
const BESIDE_GIT: Duration = Duration::from_secs(1);
/// Refs that only we write.
const OURS: &str = "refs/deptool/";
/// A lock of a ref that is older than this was left by a process that died.
const STALE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Refs {
    gix: gix::Repository,
}

impl Refs {
    pub fn new(repo: &Repo) -> Self {
        let mut gix = repo.gix().clone();
        // Like `git update-ref --create-reflog`: `git log -g web1/prod` works in a bare repository, too.
        gix.refs.write_reflog = gix::refs::store::WriteReflog::Normal;
        Refs { gix }
    }

    pub fn set(&self, name: &str, id: ObjectId, message: &str) -> Result<(), TrackingError> {
        self.set_all(&[name.to_owned()], id, message)
    }

    /// Set refs. Without a message they get no reflogs. Several threads sync at the same time, which is much faster than one
    /// after another.
    pub fn set_all(&self, names: &[String], id: ObjectId, message: &str) -> Result<(), TrackingError> {
        let mut written = Vec::with_capacity(names.len());
        for name in names {
            written.extend(self.write(name, id, message)?.map(|written| (name, written)));
        }
        let each = written.len().div_ceil(SYNCING).max(1);
        let synced: Vec<_> = thread::scope(|scope| {
            let sync = |part: &[(&String, Written)]| part.iter().map(|(_, one)| one.sync()).collect::<Vec<_>>();
            let mut parts = written.chunks(each);
            let mine = parts.next();
            let others: Vec<_> =
                parts.map(|part| (part, thread::Builder::new().spawn_scoped(scope, move || sync(part)))).collect();
            let mut synced = mine.map(sync).unwrap_or_default();
            for (part, other) in others {
                synced.extend(other.ok().and_then(|other| other.join().ok()).unwrap_or_else(|| sync(part)));
            }
            synced
        });
        written.iter().zip(synced).try_for_each(|((name, _), synced)| self.check(name, id, synced))
    }

    /// Set a ref, and return the location to sync. `None` if the ref already has this value.
    fn write(&self, name: &str, id: ObjectId, message: &str) -> Result<Option<Written>, TrackingError> {
        self.clear_damaged(name);
        if self.get(name)?.is_some_and(|known| known.0 == id) {
            return Ok(None);
        }
        let log = LogChange {
            mode: RefLog::AndReference,
            force_create_reflog: !message.is_empty(),
            message: one_line(message),
        };
        let edit = RefEdit::update_with_log(full(name)?, Target::Object(id), PreviousValue::Any, log);
        self.edit(name, edit)?;
        Ok(Some(Written(self.gix.common_dir().join(name))))
    }

    /// Delete the file of an unreadable ref, because Git and gix refuse to overwrite it. Git writes refs by renaming,
    /// so the file is not one that is being written.
    fn clear_damaged(&self, name: &str) {
        if self.is_damaged(name) {
            // If this fails, writing the ref fails later and reports the reason.
            let _ = fs::remove_file(self.gix.common_dir().join(name));
        }
    }

    /// Check the result of syncing a ref.
    fn check(&self, name: &str, id: ObjectId, synced: io::Result<()>) -> Result<(), TrackingError> {
        match synced {
            // The ref was packed meanwhile. Git syncs packed refs.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.get(name)? == Some(CommitId(id)) => Ok(()),
            synced => synced.map_err(|source| TrackingError::Sync { name: name.to_owned(), source }),
        }
    }

    /// Set the ref `to`, and give it the reflog of `from`.
    pub fn copy(&self, from: &str, to: &str, id: ObjectId) -> Result<(), TrackingError> {
        self.set(to, id, "deptool: renamed")?;
        let log = |name: &str| self.gix.common_dir().join("logs").join(name);
        match fs::copy(log(from), log(to)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(TrackingError::Sync { name: to.to_owned(), source: error })
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Write the empty tree. Git knows its content without that, but `git fsck` misses it as the target of a ref.
    ///
    /// Returns its id.
    pub fn need_empty_tree(&self, name: &str) -> Result<ObjectId, TrackingError> {
        let written = self.gix.write_object(gix::objs::Tree::empty());
        written.map(|id| id.detach()).map_err(|source| TrackingError::Write { name: name.to_owned(), source })
    }

    /// Delete the locks of refs below `prefix` that killed processes have left.
    pub fn clear_locks(&self, prefix: &str) {
        let patience = patience(prefix);
        for file in fs::read_dir(self.gix.common_dir().join(prefix)).into_iter().flatten().flatten() {
            if file.path().extension().is_some_and(|end| end == "lock") {
                clear_stale_lock(&file.path(), patience);
            }
        }
    }

    /// The deletion is not synced. If the ref comes back after a power failure, the host is asked once more.
    pub fn delete(&self, name: &str) -> Result<(), TrackingError> {
        self.clear_damaged(name);
        if self.get(name)?.is_none() {
            return Ok(());
        }
        self.edit(name, RefEdit::delete(full(name)?, PreviousValue::Any))
    }

    fn edit(&self, name: &str, edit: RefEdit) -> Result<(), TrackingError> {
        let begun = Instant::now();
        loop {
            match self.try_edit(name, edit.clone()) {
                // `git pack-refs` locks all packed refs, and deletes empty directories.
                Err(_) if begun.elapsed() < BESIDE_GIT => thread::sleep(BESIDE_GIT / 50),
                done => return done,
            }
        }
    }

    fn try_edit(&self, name: &str, edit: RefEdit) -> Result<(), TrackingError> {
        let failed = |source| TrackingError::Write { name: name.to_owned(), source };
        clear_stale_lock(&self.gix.common_dir().join(format!("{name}.lock")), patience(name));
        let now = local_time(gix::date::Time::now_utc().seconds).to_string();
        // A missing identity is no reason to fail; Git uses a made-up name in the reflog, too.
        let (who, email) = committer(&self.gix).unwrap_or_else(|| ("unknown".into(), "unknown".into()));
        let who = gix::actor::SignatureRef { name: who.as_str().into(), email: email.as_str().into(), time: &now };
        self.gix.edit_references_as([edit], Some(who)).map(drop).map_err(|source| match self.lock_of(name) {
            Some(lock) => TrackingError::Locked { name: name.to_owned(), lock },
            None => failed(source),
        })
    }

    /// The lock file that prevents a change of the ref, if there is one: that of the ref or that of all packed refs.
    fn lock_of(&self, name: &str) -> Option<PathBuf> {
        let locks = [format!("{name}.lock"), "packed-refs.lock".to_owned()];
        locks.iter().map(|lock| self.gix.common_dir().join(lock)).find(|lock| lock.exists())
    }
}

fn full(name: &str) -> Result<FullName, TrackingError> {
    FullName::try_from(name).map_err(|error| TrackingError::Read {
        name: deptool_agent::shared::text::printable(name.as_bytes()),
        source: gix::Error::from_error(error),
    })
}

/// Delete the lock of a ref that was left by a killed process. Only one process at a time is connected to the host
/// ([`super::HostLock`]), but Git itself may lock a tracking ref for some milliseconds.
fn clear_stale_lock(lock: &Path, patience: Duration) {
    let held = || fs::symlink_metadata(lock).map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec())).ok();
    let Some(first) = held() else { return };
    let end = Instant::now() + patience;
    while Instant::now() < end {
        thread::sleep(STALE / 40);
        if held() != Some(first) {
            return;
        }
    }
    // If this fails, locking the ref fails later and reports the reason.
    let _ = fs::remove_file(lock);
}

/// How old a lock must be before it counts as left behind.
fn patience(name: &str) -> Duration {
    if name.starts_with(OURS) { Duration::ZERO } else { STALE }
}

/// An entry of a reflog is one line.
fn one_line(message: &str) -> gix::bstr::BString {
    message.split(['\n', '\r']).collect::<Vec<_>>().join(" ").into()
}

impl Written {
    /// One flush, as in Git: with a file that was just renamed, file systems also write its name, and the directories that were
    /// made for it (tried with ext4 and XFS: see `tests/e2e/flushes.rs`).
    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}
