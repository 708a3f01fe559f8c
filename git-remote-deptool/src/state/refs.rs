//! Refs that are on the disk when they are said to be.

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
use crate::repo::{Repo, identity::committer};

/// So many threads wait for the disk at once.
const SYNCING: usize = 16;

/// Where a ref was written that is not durable yet.
#[derive(Debug)]
struct Written {
    path: PathBuf,
    /// The deepest of its directories that was there before.
    existing: PathBuf,
}
/// How long a change of a ref is tried again that another Git is in the way of.
const BESIDE_GIT: Duration = Duration::from_secs(1);
/// Refs that nobody else writes.
const OURS: &str = "refs/deptool/";
/// Nobody who lives holds the lock of a ref for so long.
const STALE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Refs {
    gix: gix::Repository,
}

impl Refs {
    pub fn new(repo: &Repo) -> Self {
        let mut gix = repo.gix().clone();
        // As `git update-ref --create-reflog` does: `git log -g web1/prod` works in a bare repository, too.
        gix.refs.write_reflog = gix::refs::store::WriteReflog::Normal;
        Refs { gix }
    }

    pub fn set(&self, name: &str, id: ObjectId, message: &str) -> Result<(), TrackingError> {
        match self.write(name, id, message)? {
            Some(written) => self.check(name, id, written.sync()),
            None => Ok(()),
        }
    }

    /// Set many refs, without reflogs. The disk is waited for by several threads at once, so that it takes the time of
    /// a few refs and not of all.
    pub fn set_all(&self, names: &[String], id: ObjectId) -> Result<(), TrackingError> {
        let mut written = Vec::with_capacity(names.len());
        for name in names {
            written.extend(self.write(name, id, "")?.map(|written| (name, written)));
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

    /// Set a ref, and say where it was written; `None` if it was so already.
    fn write(&self, name: &str, id: ObjectId, message: &str) -> Result<Option<Written>, TrackingError> {
        self.clear_damaged(name);
        if self.get(name)?.is_some_and(|known| known.0 == id) {
            return Ok(None);
        }
        let path = self.gix.common_dir().join(name);
        let existing = deepest_existing(&path);
        let log = LogChange {
            mode: RefLog::AndReference,
            force_create_reflog: !message.is_empty(),
            message: one_line(message),
        };
        let edit = RefEdit::update_with_log(full(name)?, Target::Object(id), PreviousValue::Any, log);
        self.edit(name, edit)?;
        Ok(Some(Written { path, existing }))
    }

    /// Remove the file of a ref that can't be read: Git and gix refuse to write over it. Git writes a ref at once, so
    /// nobody is about to.
    fn clear_damaged(&self, name: &str) {
        if self.is_damaged(name) {
            // What can't be removed is told by whoever wants to write.
            let _ = fs::remove_file(self.gix.common_dir().join(name));
        }
    }

    /// What became of writing a ref to the disk.
    fn check(&self, name: &str, id: ObjectId, synced: io::Result<()>) -> Result<(), TrackingError> {
        match synced {
            // Packed in the meantime, which Git does durably.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.get(name)? == Some(CommitId(id)) => Ok(()),
            synced => synced.map_err(|source| TrackingError::Sync { name: name.to_owned(), source }),
        }
    }

    /// Make sure that the empty tree is here: Git knows it anyway, but misses it when it checks what refs name.
    ///
    /// Returns its id.
    pub fn need_empty_tree(&self, name: &str) -> Result<ObjectId, TrackingError> {
        let written = self.gix.write_object(gix::objs::Tree::empty());
        written.map(|id| id.detach()).map_err(|source| TrackingError::Write { name: name.to_owned(), source })
    }

    /// Remove the locks that processes which were killed have left of refs below `prefix`.
    pub fn clear_locks(&self, prefix: &str) {
        let patience = patience(prefix);
        for file in fs::read_dir(self.gix.common_dir().join(prefix)).into_iter().flatten().flatten() {
            if file.path().extension().is_some_and(|end| end == "lock") {
                clear_stale_lock(&file.path(), patience);
            }
        }
    }

    /// The deletion may be lost with the power: what comes back is asked about once more.
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
                // `git pack-refs` takes the lock of all packed refs, and removes directories that it has emptied.
                Err(_) if begun.elapsed() < BESIDE_GIT => thread::sleep(BESIDE_GIT / 50),
                done => return done,
            }
        }
    }

    fn try_edit(&self, name: &str, edit: RefEdit) -> Result<(), TrackingError> {
        let failed = |source| TrackingError::Write { name: name.to_owned(), source };
        clear_stale_lock(&self.gix.common_dir().join(format!("{name}.lock")), patience(name));
        let now = gix::date::Time::now_local_or_utc().to_string();
        // Git makes up a name where none is configured; a reflog is no reason to fail.
        let (who, email) = committer(&self.gix).unwrap_or_else(|| ("unknown".into(), "unknown".into()));
        let who = gix::actor::SignatureRef { name: who.as_str().into(), email: email.as_str().into(), time: &now };
        self.gix.edit_references_as([edit], Some(who)).map(drop).map_err(|source| match self.lock_of(name) {
            Some(lock) => TrackingError::Locked { name: name.to_owned(), lock },
            None => failed(source),
        })
    }

    /// The lock that keeps a ref from being changed, if there is one: its own, or that of all packed ones.
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

/// Remove the lock of a ref that a process has left which was killed. Whoever talks to the host now is alone in that
/// ([`super::HostLock`]); but Git itself may hold the lock of a tracking ref, for some milliseconds.
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
    // What can't be removed is told by whoever wants the lock.
    let _ = fs::remove_file(lock);
}

/// How long a lock may be somebody's who lives.
fn patience(name: &str) -> Duration {
    if name.starts_with(OURS) { Duration::ZERO } else { STALE }
}

/// A reflog's entry is one line.
fn one_line(message: &str) -> gix::bstr::BString {
    message.split(['\n', '\r']).collect::<Vec<_>>().join(" ").into()
}

fn deepest_existing(path: &Path) -> PathBuf {
    path.ancestors().skip(1).find(|dir| dir.is_dir()).unwrap_or(path).to_owned()
}

impl Written {
    /// Write out the file, its directory, and the directories up to the one that was there before.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()?;
        for dir in self.path.ancestors().skip(1) {
            File::open(dir)?.sync_all()?;
            if dir == self.existing {
                break;
            }
        }
        Ok(())
    }
}
