//! Walks commits and trees, as far as they are here.

use std::collections::VecDeque;

use gix_hash::ObjectId;
use gix_object::tree::EntryKind;

use crate::shared::{
    id::{CommitId, TreeId},
    store::{IdSet, Store, error::Result},
};

impl Store {
    /// Add `tree` and everything below it to `found` and `seen`, except what is already in `seen` or not here.
    pub(super) fn collect_tree(&self, tree: ObjectId, seen: &mut IdSet, found: &mut Vec<ObjectId>) -> Result<()> {
        let mut todo = vec![tree];
        while let Some(tree) = todo.pop() {
            if !self.has(&tree) || !seen.insert(tree) {
                continue;
            }
            found.push(tree);
            for entry in self.tree(&TreeId(tree))?.entries {
                match entry.mode.kind() {
                    EntryKind::Tree => todo.push(entry.oid),
                    EntryKind::Blob | EntryKind::BlobExecutable | EntryKind::Link => {
                        if self.has(&entry.oid) && seen.insert(entry.oid) {
                            found.push(entry.oid);
                        }
                    }
                    // A submodule: a commit of another repository, which is never here.
                    EntryKind::Commit => {}
                }
            }
        }
        Ok(())
    }

    /// The commits that `starts` reach without going through `stop`, nearest first and at most `limit` of them.
    /// Commits that are not here are left out.
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
