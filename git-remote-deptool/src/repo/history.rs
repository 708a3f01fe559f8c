//! Reading the operator's objects: commits, trees, and what of a history is new.
//!
//! Replace refs and grafts are ignored: what a host is given is what was committed.

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

/// How deep directories may be nested, as on the host.
pub(crate) const DEPTH: usize = 128;

/// Why an object of the operator's repository could not be used.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It is not there.
    #[error("object {0} is not in this repository")]
    Missing(ObjectId),
    /// It is something else.
    #[error("object {id} is a {actual}, not a {wanted}")]
    Kind {
        /// The object.
        id: ObjectId,
        /// What it was used as.
        wanted: Kind,
        /// What it is.
        actual: Kind,
    },
    /// It is there and can't be read.
    #[error("could not read object {id}")]
    Read {
        /// The object.
        id: ObjectId,
        /// What the object database said.
        #[source]
        source: gix_error::Error,
    },
    /// Directories are nested deeper than a host accepts.
    #[error("tree {0} is nested too deeply")]
    TooDeep(ObjectId),
}

/// The result of reading objects.
pub type Result<T> = std::result::Result<T, HistoryError>;

/// What a commit says, as far as we need to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its root tree.
    pub tree: TreeId,
    /// Its parents, also where a shallow repository does not have them.
    pub parents: Vec<CommitId>,
    /// When it was committed, in seconds since 1970.
    pub seconds: i64,
}

/// An entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Which tree, blob or, for a submodule, foreign commit.
    pub id: ObjectId,
}

/// The objects of the operator's repository, without replacements; perhaps with those of a quarantine behind them.
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

    /// Read from `repo`, and what is not there from `quarantine`.
    pub(crate) fn with_quarantine(repo: &gix::Repository, quarantine: Rc<Store>) -> Self {
        Objects { quarantine: Some(quarantine), ..Objects::of(repo) }
    }

    /// Whether an object is here.
    pub fn has(&self, id: &oid) -> bool {
        self.is_ours(id) || self.quarantine.as_ref().is_some_and(|store| store.has(id))
    }

    /// Whether an object is in the repository itself.
    pub(crate) fn is_ours(&self, id: &oid) -> bool {
        self.odb.exists(id)
    }

    /// The kind and the size in bytes of an object, without reading all of it.
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

    /// Read an object of any kind into `buffer`.
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

    /// Read an object that has to be a `wanted`.
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

    /// The entries of a tree, in its order.
    pub fn entries(&self, id: &oid) -> Result<Vec<Entry>> {
        parse_tree(id, &self.expect(id, Kind::Tree)?)
    }

    /// The tree of the host's directory in a commit, if the commit has one.
    pub fn host_tree(&self, commit: &CommitId, host: &HostName) -> Result<Option<TreeId>> {
        let entries = self.entries(&self.commit(commit)?.tree.0)?;
        let found = entries.into_iter().find(|entry| entry.name == host.as_str().as_bytes());
        Ok(found.filter(|entry| entry.kind == EntryKind::Tree).map(|entry| TreeId(entry.id)))
    }

    /// The commits that `new` reaches and none of `old` does, newest first, at most `limit`: the newest of them.
    ///
    /// Commits that are not here (a shallow repository) end the walk. Where commit dates lie, some that `old` reaches
    /// too may be among them.
    pub fn between(&self, old: &[CommitId], new: &CommitId, limit: usize) -> Result<Vec<CommitId>> {
        let mut walk = Walk { objects: self, queue: BinaryHeap::new(), side: HashMap::new(), open: 0 };
        walk.reach(*new, Side::New)?;
        for old in old {
            walk.reach(*old, Side::Old)?;
        }
        let mut found = Vec::new();
        let mut oldest = i64::MAX;
        // Once only the old side is left, it still has to come past what was found to tell whether it reaches that.
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

/// From which of two commits another one can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    New,
    Old,
}

/// A walk from two commits at once, newest commits first.
struct Walk<'a> {
    objects: &'a Objects,
    queue: BinaryHeap<(i64, CommitId, Vec<ObjectId>)>,
    side: HashMap<CommitId, Side>,
    /// How many queued commits are of the new side: none left, nothing more to find.
    open: usize,
}

impl Walk<'_> {
    /// Note that `id` was reached from `side`, and queue it if that is news.
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

    /// Whether something is queued that was committed at `seconds` or later.
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

/// A commit that the walk has come to.
struct Step {
    id: CommitId,
    seconds: i64,
    parents: Vec<ObjectId>,
    side: Side,
}

/// Every tree and blob at or below `tree`, added to `seen`. What is in it already is not looked into.
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

/// A `git` on `git_dir` that never prompts and fetches nothing.
pub(crate) fn git(git_dir: &Path) -> Command {
    let mut command = Environment::new(".".into(), std::env::vars_os()).git(git_dir);
    command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_NO_LAZY_FETCH", "1");
    command
}
