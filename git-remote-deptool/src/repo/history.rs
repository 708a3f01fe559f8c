//! Reads commits and trees of the operator's repository, and finds the new part of a history.
//!
//! Replace refs and grafts are ignored: hosts get exactly what was committed.

use std::{
    collections::{BinaryHeap, HashMap, HashSet},
    path::Path,
    process::Command,
    rc::Rc,
};

use deptool_agent::shared::{
    id::{CommitId, TreeId},
    name::HostName,
    store::Store,
};
use gix_hash::{ObjectId, oid};
use gix_object::{CommitRef, Exists as _, Find as _, FindHeader as _, Kind, TreeRefIter, tree::EntryKind};

use super::Environment;

/// The deepest nesting of directories, as on the host.
pub(crate) const DEPTH: usize = 128;

/// Why an object could not be used.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It is missing.
    #[error("object {0} is not in this repository")]
    Missing(ObjectId),
    /// It has another type.
    #[error("object {id} is a {actual}, not a {wanted}")]
    Kind {
        /// The object.
        id: ObjectId,
        /// The required type.
        wanted: Kind,
        /// The actual type.
        actual: Kind,
    },
    /// It can't be read.
    #[error("could not read object {id}")]
    Read {
        /// The object.
        id: ObjectId,
        /// The error of the object database.
        #[source]
        source: gix_error::Error,
    },
    /// The nesting is deeper than a host accepts.
    #[error("tree {0} is nested too deeply")]
    TooDeep(ObjectId),
}

/// The result of reading objects.
pub type Result<T> = std::result::Result<T, HistoryError>;

/// The relevant parts of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its root tree.
    pub tree: TreeId,
    /// Its parents, even those that a shallow repository lacks.
    pub parents: Vec<CommitId>,
    /// When it was committed, in seconds since 1970.
    pub seconds: i64,
}

/// An entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Vec<u8>,
    /// Its type.
    pub kind: EntryKind,
    /// The id of the tree or blob, or of a submodule's commit.
    pub id: ObjectId,
}

/// The objects of the operator's repository, without replacements, and optionally those of a quarantine.
pub struct Objects {
    odb: gix::OdbHandle,
    quarantine: Option<Rc<Store>>,
}

impl Objects {
    /// Read from `repo`.
    pub fn of(repo: &gix::Repository) -> Self {
        let mut odb = repo.objects.clone();
        odb.ignore_replacements = true;
        Objects { odb, quarantine: None }
    }

    /// Read from `repo`, and objects that it lacks from `quarantine`.
    pub(crate) fn with_quarantine(repo: &gix::Repository, quarantine: Rc<Store>) -> Self {
        Objects { quarantine: Some(quarantine), ..Objects::of(repo) }
    }

    /// Whether an object exists.
    pub fn has(&self, id: &oid) -> bool {
        self.is_ours(id) || self.quarantine.as_ref().is_some_and(|store| store.has(id))
    }

    /// Whether an object is in the repository, as opposed to the quarantine.
    pub(crate) fn is_ours(&self, id: &oid) -> bool {
        self.odb.exists(id)
    }

    /// The type and the size in bytes of an object, without reading all of it.
    pub fn header(&self, id: &oid) -> Result<(Kind, u64)> {
        match self.odb.try_header(id) {
            Ok(Some(header)) => Ok((header.kind, header.size)),
            Ok(None) => {
                let mut buffer = Vec::new();
                let kind = self.read(id, &mut buffer)?;
                Ok((kind, buffer.len() as u64))
            }
            Err(source) => Err(HistoryError::Read { id: id.to_owned(), source }),
        }
    }

    /// Read an object of any type into `buffer`.
    pub fn read(&self, id: &oid, buffer: &mut Vec<u8>) -> Result<Kind> {
        let failed = |source| HistoryError::Read { id: id.to_owned(), source };
        if let Some(data) = self.odb.try_find(id, buffer).map_err(failed)? {
            return Ok(data.kind);
        }
        if let Some(store) = &self.quarantine
            && let Some(data) = store.try_find(id, buffer).map_err(failed)?
        {
            return Ok(data.kind);
        }
        Err(HistoryError::Missing(id.to_owned()))
    }

    /// Read an object that must be of type `wanted`.
    pub fn expect(&self, id: &oid, wanted: Kind) -> Result<Vec<u8>> {
        let mut buffer = Vec::new();
        match self.read(id, &mut buffer)? {
            kind if kind == wanted => Ok(buffer),
            actual => Err(HistoryError::Kind { id: id.to_owned(), wanted, actual }),
        }
    }

    /// Read a commit.
    pub fn commit(&self, id: &CommitId) -> Result<Commit> {
        let data = self.expect(&id.0, Kind::Commit)?;
        parse_commit(&id.0, &data)
    }

    /// The entries of a tree, in their order.
    pub fn entries(&self, id: &oid) -> Result<Vec<Entry>> {
        parse_tree(id, &self.expect(id, Kind::Tree)?)
    }

    /// The tree of the host's directory in a commit, if the commit has one.
    pub fn host_tree(&self, commit: &CommitId, host: &HostName) -> Result<Option<TreeId>> {
        let entries = self.entries(&self.commit(commit)?.tree.0)?;
        let found = entries.into_iter().find(|entry| entry.name == host.as_str().as_bytes());
        Ok(found.filter(|entry| entry.kind == EntryKind::Tree).map(|entry| TreeId(entry.id)))
    }

    /// The commits that `new` reaches and none of `old` does, newest first. If there are more than `limit`, the newest
    /// ones.
    ///
    /// The walk ends at commits that a shallow repository lacks. If commit dates are wrong, the result may include
    /// commits that `old` reaches, too.
    pub fn between(&self, old: &[CommitId], new: &CommitId, limit: usize) -> Result<Vec<CommitId>> {
        let mut walk = Walk { objects: self, queue: BinaryHeap::new(), side: HashMap::new(), open: 0 };
        walk.reach(*new, Side::New)?;
        for old in old {
            walk.reach(*old, Side::Old)?;
        }
        let mut found = Vec::new();
        let mut oldest = i64::MAX;
        // When only commits of the old side are left, the walk still has to pass those that were found, to see whether
        // the old side reaches them.
        while found.len() < limit && (walk.open > 0 || walk.next_is_from(oldest)) {
            let Some(step) = walk.step() else { break };
            if step.side == Side::New {
                found.push(step.id);
                oldest = oldest.min(step.seconds);
            }
            for parent in step.parents {
                walk.reach(CommitId(parent), step.side)?;
            }
        }
        found.retain(|id| walk.side.get(id) == Some(&Side::New));
        Ok(found)
    }
}

/// Parse the bytes of commit `id`.
pub(crate) fn parse_commit(id: &oid, data: &[u8]) -> Result<Commit> {
    let parse = || -> gix_error::Result<Commit> {
        let commit = CommitRef::from_bytes(data, id.kind())?;
        Ok(Commit {
            tree: TreeId(commit.tree()),
            parents: commit.parents().map(CommitId).collect(),
            seconds: commit.time()?.seconds,
        })
    };
    parse().map_err(|source| HistoryError::Read { id: id.to_owned(), source })
}

/// Parse the bytes of tree `id`.
pub(crate) fn parse_tree(id: &oid, data: &[u8]) -> Result<Vec<Entry>> {
    TreeRefIter::from_bytes(data, id.kind())
        .map(|entry| match entry {
            Ok(entry) => Ok(Entry { name: entry.filename.to_vec(), kind: entry.mode.kind(), id: entry.oid.to_owned() }),
            Err(source) => Err(HistoryError::Read { id: id.to_owned(), source }),
        })
        .collect()
}

/// From which side of a walk a commit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    New,
    Old,
}

/// A walk from two sets of commits at the same time, newest commits first.
struct Walk<'a> {
    objects: &'a Objects,
    queue: BinaryHeap<(i64, CommitId, Vec<ObjectId>)>,
    side: HashMap<CommitId, Side>,
    /// The number of queued commits of the new side. At zero, there is nothing more to find.
    open: usize,
}

impl Walk<'_> {
    /// Record that `id` was reached from `side`, and queue it unless that was known.
    fn reach(&mut self, id: CommitId, side: Side) -> Result<()> {
        let before = self.side.get(&id).copied();
        if before == Some(side) || before == Some(Side::Old) || !self.objects.has(&id.0) {
            return Ok(());
        }
        let queued = before == Some(Side::New) && self.queue.iter().any(|entry| entry.1 == id);
        if queued {
            self.open -= 1;
        } else {
            let commit = self.objects.commit(&id)?;
            let parents = commit.parents.into_iter().map(|parent| parent.0).collect();
            self.queue.push((commit.seconds, id, parents));
            self.open += usize::from(side == Side::New);
        }
        self.side.insert(id, side);
        Ok(())
    }

    /// Whether a queued commit has the date `seconds` or a later one.
    fn next_is_from(&self, seconds: i64) -> bool {
        seconds < i64::MAX && self.queue.peek().is_some_and(|next| next.0 >= seconds)
    }

    fn step(&mut self) -> Option<Step> {
        let (seconds, id, parents) = self.queue.pop()?;
        let side = *self.side.get(&id)?;
        if side == Side::New {
            self.open -= 1;
        }
        Some(Step { id, seconds, parents, side })
    }
}

/// A commit that the walk has reached.
struct Step {
    id: CommitId,
    seconds: i64,
    parents: Vec<ObjectId>,
    side: Side,
}

/// Add every tree and blob at or below `tree` to `seen`. Trees that it already contains are not read again.
pub(crate) fn collect(objects: &Objects, tree: ObjectId, seen: &mut HashSet<ObjectId>) -> Result<()> {
    let mut todo = vec![tree];
    while let Some(tree) = todo.pop() {
        if !seen.insert(tree) {
            continue;
        }
        for entry in objects.entries(&tree)? {
            match entry.kind {
                EntryKind::Tree => todo.push(entry.id),
                EntryKind::Blob | EntryKind::BlobExecutable | EntryKind::Link => {
                    seen.insert(entry.id);
                }
                EntryKind::Commit => {}
            }
        }
    }
    Ok(())
}

/// A `git` for `git_dir` that never prompts and never fetches.
pub(crate) fn git(git_dir: &Path) -> Command {
    let mut command = Environment::new(".".into(), std::env::vars_os()).git(git_dir);
    command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_NO_LAZY_FETCH", "1");
    command
}
