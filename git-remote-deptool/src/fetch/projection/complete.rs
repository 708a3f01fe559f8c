//! Whether all that a commit reaches is here.

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

/// Answers for one state of the repository's refs.
pub(super) struct Completeness {
    objects: Rc<Objects>,
    /// The commits that refs name: what they reach is complete, as Git sees to.
    tips: Vec<CommitId>,
    /// Commits of a shallow repository whose parents need not be here.
    shallow: HashSet<ObjectId>,
    /// The operator works with a partial clone: what is missing, Git gets when it is needed.
    partial: bool,
}

impl Completeness {
    pub fn of(repo: &gix::Repository, objects: Rc<Objects>) -> std::result::Result<Self, ResolveError> {
        let mut tips = HashSet::new();
        let references = repo.references().map_err(ResolveError::Refs)?;
        for reference in references.all().map_err(ResolveError::Refs)? {
            // A ref that can't be read, or names nothing, helps us in nothing.
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

    /// Whether `id` is here with all that it reaches.
    pub fn holds(&self, id: CommitId) -> Result<bool> {
        Ok(self.tips.contains(&id) || self.needed(id)?.is_some())
    }

    /// The commits that `id` reaches and no ref does, newest first.
    pub fn unreferenced(&self, id: CommitId) -> Result<Vec<CommitId>> {
        self.objects.between(&self.tips, &id, usize::MAX)
    }

    /// What `id` reaches that is in the quarantine only; `None` if something is nowhere.
    pub fn needed(&self, id: CommitId) -> Result<Option<Vec<ObjectId>>> {
        if !self.objects.has(&id.0) {
            return Ok(None);
        }
        if self.partial && self.objects.is_ours(&id.0) {
            return Ok(Some(Vec::new()));
        }
        let commits = self.unreferenced(id)?;
        let mut check = Check { objects: &self.objects, seen: HashSet::new(), needed: Vec::new() };
        // Oldest first, so that a commit's parent has been looked at, and what is equal there need not be again.
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

    /// Whether all of a tree is here; what is equal in `before` is taken to be.
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
