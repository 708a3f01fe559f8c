//! Walks commits and trees, to find what is here and what is missing.

use std::collections::{HashMap, VecDeque};

use gix_hash::{Kind as HashKind, ObjectId};
use gix_object::{Kind, TreeRefIter};

use crate::shared::{
    id::{BlobId, CommitId, TreeId},
    name::HostName,
    store::{
        IdSet, Store,
        error::{Result, StoreError},
    },
};

/// How deep directories may be nested. Without a limit a hostile tree could overflow the stack.
const DEPTH: usize = 128;

/// The object that an entry of a tree names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Child {
    Tree(ObjectId),
    Blob(ObjectId),
    /// A submodule: a commit of another repository, which is never here.
    Foreign,
}

impl Store {
    /// The host's directory in a commit, or `None` if the commit has no such directory.
    pub fn host_tree(&self, commit: &CommitId, host: &HostName) -> Result<Option<TreeId>> {
        let root = self.commit(commit)?.tree;
        Ok(match self.children(&root.0)?.get(host.as_str().as_bytes()) {
            Some(Child::Tree(id)) => Some(TreeId(*id)),
            Some(Child::Blob(_) | Child::Foreign) | None => None,
        })
    }

    /// The objects that are missing for a checkout of the host's directory in `target`: the commit, its root tree, and every
    /// tree and blob below `<host>/`.
    ///
    /// Trees that are the same in `base`, a commit that is complete, are skipped. Blobs that are too large for the store are
    /// not missing if `elsewhere` says that their content is available.
    pub fn missing(
        &self,
        target: &CommitId,
        host: &HostName,
        base: Option<&CommitId>,
        elsewhere: &dyn Fn(&BlobId) -> bool,
    ) -> Result<Vec<ObjectId>> {
        if !self.has(&target.0) {
            return Ok(vec![target.0]);
        }
        let root = self.commit(target)?.tree;
        if !self.has(&root.0) {
            return Ok(vec![root.0]);
        }
        let old = match base {
            Some(base) if self.has(&base.0) => self.host_tree(base, host)?,
            Some(_) | None => None,
        };
        let mut missing = Vec::new();
        if let Some(new) = self.host_tree(target, host)? {
            let mut search = Search { store: self, elsewhere, seen: IdSet::new(), missing: &mut missing };
            search.tree(new.0, old.map(|tree| tree.0), 0)?;
        }
        Ok(missing)
    }

    /// The entries of a tree by name.
    pub(super) fn children(&self, tree: &ObjectId) -> Result<HashMap<Vec<u8>, Child>> {
        let data = self.packs.expect(tree, Kind::Tree)?;
        let mut children = HashMap::new();
        for entry in TreeRefIter::from_bytes(&data, HashKind::Sha1) {
            let entry = entry.map_err(|source| StoreError::Corrupt { id: *tree, source })?;
            let child = match entry.mode.kind() {
                gix_object::tree::EntryKind::Tree => Child::Tree(entry.oid.to_owned()),
                gix_object::tree::EntryKind::Commit => Child::Foreign,
                gix_object::tree::EntryKind::Blob
                | gix_object::tree::EntryKind::BlobExecutable
                | gix_object::tree::EntryKind::Link => Child::Blob(entry.oid.to_owned()),
            };
            children.insert(entry.filename.to_vec(), child);
        }
        Ok(children)
    }

    /// Add `tree` and everything below it to `found` and `seen`, except what is already in `seen` or not here.
    pub(super) fn collect_tree(&self, tree: ObjectId, seen: &mut IdSet, found: &mut Vec<ObjectId>) -> Result<()> {
        let mut todo = vec![tree];
        while let Some(tree) = todo.pop() {
            if !self.has(&tree) || !seen.insert(tree) {
                continue;
            }
            found.push(tree);
            for child in self.children(&tree)?.into_values() {
                match child {
                    Child::Tree(id) => todo.push(id),
                    Child::Blob(id) if self.has(&id) && seen.insert(id) => found.push(id),
                    Child::Blob(_) | Child::Foreign => {}
                }
            }
        }
        Ok(())
    }

    /// The commits that `starts` reach without going through `stop`, nearest first and at most `limit` of them. Commits that
    /// are not here are left out.
    pub(super) fn reachable(
        &self,
        starts: impl IntoIterator<Item = ObjectId>,
        stop: &IdSet,
        limit: usize,
    ) -> Result<Vec<ObjectId>> {
        let mut seen = stop.clone();
        let mut queue: VecDeque<ObjectId> = starts.into_iter().collect();
        let mut found = Vec::new();
        while let Some(id) = queue.pop_front() {
            if found.len() == limit {
                break;
            }
            if self.has(&id) && seen.insert(id) {
                found.push(id);
                queue.extend(self.commit(&CommitId(id))?.parents.iter().map(|parent| parent.0));
            }
        }
        Ok(found)
    }
}

/// The state of a search for missing objects.
struct Search<'a> {
    store: &'a Store,
    elsewhere: &'a dyn Fn(&BlobId) -> bool,
    seen: IdSet,
    missing: &'a mut Vec<ObjectId>,
}

impl Search<'_> {
    fn tree(&mut self, new: ObjectId, old: Option<ObjectId>, depth: usize) -> Result<()> {
        if old == Some(new) || !self.seen.insert(new) {
            return Ok(());
        }
        if !self.store.has(&new) {
            self.missing.push(new);
            return Ok(());
        }
        if depth == DEPTH {
            return Err(StoreError::TooDeep(new));
        }
        let old = match old {
            Some(old) if self.store.has(&old) => self.store.children(&old)?,
            Some(_) | None => HashMap::new(),
        };
        for (name, child) in self.store.children(&new)? {
            let before = old.get(&name).copied();
            match child {
                _ if before == Some(child) => {}
                Child::Tree(id) => {
                    let before = if let Some(Child::Tree(before)) = before { Some(before) } else { None };
                    self.tree(id, before, depth + 1)?;
                }
                Child::Blob(id) => self.blob(id),
                Child::Foreign => {}
            }
        }
        Ok(())
    }

    fn blob(&mut self, id: ObjectId) {
        if !self.store.has(&id) && self.seen.insert(id) && !(self.elsewhere)(&BlobId(id)) {
            self.missing.push(id);
        }
    }
}
