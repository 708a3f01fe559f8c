//! Whether everything that a commit reaches is in the repository.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
};

use deptool_agent::shared::id::CommitId;
use gix_hash::ObjectId;
use gix_object::{Kind, tree::EntryKind};

use super::ResolveError;
use crate::repo::{
    history::{DEPTH, Entry, HistoryError, Objects, Result},
    promisors,
};

/// Finds out for one state of the repository's refs.
pub(super) struct Completeness {
    objects: Rc<Objects>,
    /// The commits that refs name. Git keeps complete whatever they reach.
    tips: Vec<CommitId>,
    /// Commits at the boundary of a shallow repository, whose parents may be missing.
    shallow: HashSet<ObjectId>,
    /// Whether this is a partial clone, where Git fetches missing objects when they are needed.
    partial: bool,
}

impl Completeness {
    pub fn of(repo: &gix::Repository, objects: Rc<Objects>) -> std::result::Result<Self, ResolveError> {
        let mut tips = HashSet::new();
        let references = repo.references().map_err(ResolveError::Refs)?;
        for reference in references.all().map_err(ResolveError::Refs)? {
            // A ref that is unreadable or dangling is skipped.
            tips.extend(reference.ok().and_then(|reference| Some(reference.try_id()?.detach())));
        }
        tips.extend(repo.head_id().ok().map(|id| id.detach()));
        let is_commit = |id: &ObjectId| matches!(objects.header(id), Ok((Kind::Commit, _))) && objects.is_ours(id);
        let tips = tips.into_iter().filter(is_commit).map(CommitId).collect();
        let shallow = match repo.shallow_commits().map_err(ResolveError::Refs)? {
            Some(commits) => commits.iter().copied().collect(),
            None => HashSet::new(),
        };
        let partial = !promisors(repo).is_empty();
        Ok(Completeness { objects, tips, shallow, partial })
    }

    /// The commits that refs name.
    pub fn tips(&self) -> &[CommitId] {
        &self.tips
    }

    /// Whether everything that `id` reaches is in the repository.
    pub fn holds(&self, id: CommitId) -> Result<bool> {
        Ok(self.tips.contains(&id) || self.needed(id)?.is_some())
    }

    /// The commits that `id` reaches and no ref does, newest first.
    pub fn unreferenced(&self, id: CommitId) -> Result<Vec<CommitId>> {
        self.objects.between(&self.tips, &id, usize::MAX)
    }

    /// The objects that `id` reaches and that are only in the quarantine. `None` if an object is missing.
    pub fn needed(&self, id: CommitId) -> Result<Option<Vec<ObjectId>>> {
        if !self.objects.has(&id.0) {
            return Ok(None);
        }
        if self.partial && self.objects.is_ours(&id.0) {
            return Ok(Some(Vec::new()));
        }
        let commits = self.unreferenced(id)?;
        let mut check = Check { objects: &self.objects, seen: HashSet::new(), needed: Vec::new() };
        // Oldest first, so that objects that a commit shares with its parent are checked only once.
        for id in commits.iter().rev() {
            let commit = self.objects.commit(id)?;
            let cut = self.shallow.contains(&id.0) && self.objects.is_ours(&id.0);
            if !cut && !commit.parents.iter().all(|parent| self.objects.has(&parent.0)) {
                return Ok(None);
            }
            check.note(id.0);
            let parent = commit.parents.first().filter(|parent| self.objects.has(&parent.0));
            let before = parent.map(|parent| self.objects.commit(parent)).transpose()?;
            if !check.tree(commit.tree.0, before.map(|commit| commit.tree.0), 0)? {
                return Ok(None);
            }
        }
        Ok(Some(check.needed))
    }
}

struct Check<'a> {
    objects: &'a Objects,
    seen: HashSet<ObjectId>,
    needed: Vec<ObjectId>,
}

impl Check<'_> {
    fn note(&mut self, id: ObjectId) {
        if !self.objects.is_ours(&id) {
            self.needed.push(id);
        }
    }

    /// Whether everything in a tree is there, assuming that `before` is complete.
    fn tree(&mut self, id: ObjectId, before: Option<ObjectId>, depth: usize) -> Result<bool> {
        if Some(id) == before || self.seen.contains(&id) {
            return Ok(true);
        }
        if depth > DEPTH {
            return Err(HistoryError::TooDeep(id));
        }
        if !self.objects.has(&id) {
            return Ok(false);
        }
        self.seen.insert(id);
        self.note(id);
        let before: HashMap<Vec<u8>, Entry> = match before.filter(|before| self.objects.has(before)) {
            Some(before) => {
                let entries = self.objects.entries(&before)?;
                entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect()
            }
            None => HashMap::new(),
        };
        for entry in self.objects.entries(&id)? {
            let old = before.get(&entry.name);
            let whole = match entry.kind {
                _ if old == Some(&entry) => true,
                EntryKind::Tree => {
                    let old = old.filter(|old| old.kind == EntryKind::Tree).map(|old| old.id);
                    self.tree(entry.id, old, depth + 1)?
                }
                EntryKind::Blob | EntryKind::BlobExecutable | EntryKind::Link => self.blob(entry.id),
                EntryKind::Commit => true,
            };
            if !whole {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn blob(&mut self, id: ObjectId) -> bool {
        if !self.objects.has(&id) {
            return false;
        }
        if self.seen.insert(id) {
            self.note(id);
        }
        true
    }
}
