//! Exports commits to an operator who lacks them: another operator deployed them, or a repository was lost.

use std::io::Write;

use gix_hash::ObjectId;
use gix_object::Kind;

use crate::shared::{
    id::{CommitId, TreeId},
    name::HostName,
    store::{
        IdSet, Store,
        error::{At, Result, StoreError},
        pack::{PackWriter, Summary, Written},
    },
};

/// The most commits that one pack exports.
const COMMITS: usize = 10_000;

impl Store {
    /// Write a pack with `want` and its history, without the part of it that `have` reaches. The pack has the
    /// commits, their root trees, and the host's directory in each. Objects that are not here are left out.
    pub fn export_pack(
        &self,
        want: &CommitId,
        have: &[CommitId],
        host: &HostName,
        out: &mut dyn Write,
    ) -> Result<Summary> {
        if !self.has(&want.0) {
            return Err(StoreError::Missing(want.0));
        }
        let had: IdSet = self.reachable(have.iter().map(|id| id.0), &IdSet::new(), COMMITS)?.into_iter().collect();
        let commits = self.reachable([want.0], &had, COMMITS)?;
        let mut seen = IdSet::new();
        let mut objects = Vec::new();
        for commit in have.iter().filter(|id| self.has(&id.0)) {
            self.collect_commit(&commit.0, host, &mut seen, &mut Vec::new())?;
        }
        for commit in &commits {
            objects.push(*commit);
            self.collect_commit(commit, host, &mut seen, &mut objects)?;
        }
        let mut writer = self.begin_pack(out, objects.len())?;
        for id in &objects {
            self.copy_object(id, &mut writer)?;
        }
        let (_, summary) = writer.finish().at("write", &self.dir)?;
        Ok(summary)
    }

    /// Add the root tree of a commit to `found`, and whatever is here of the host's directory. Trees in `seen` are
    /// skipped.
    fn collect_commit(
        &self,
        commit: &ObjectId,
        host: &HostName,
        seen: &mut IdSet,
        found: &mut Vec<ObjectId>,
    ) -> Result<()> {
        let root = self.commit(&CommitId(*commit))?.tree.0;
        if !self.has(&root) || !seen.insert(root) {
            return Ok(());
        }
        found.push(root);
        let entries = self.tree(&TreeId(root))?.entries;
        match entries.iter().find(|entry| entry.filename == host.as_str()) {
            Some(entry) if entry.mode.is_tree() => self.collect_tree(entry.oid, seen, found),
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn begin_pack<W: Write>(&self, out: W, objects: usize) -> Result<PackWriter<W>> {
        let objects = u32::try_from(objects).map_err(|_| StoreError::TooMany)?;
        PackWriter::new(out, objects).at("write", &self.dir)
    }

    /// Copy an object of the store into a pack, compressed as it is.
    pub(super) fn copy_object<W: Write>(&self, id: &ObjectId, writer: &mut PackWriter<W>) -> Result<Written> {
        if let Some((kind, size, zlib)) = self.packs.raw(id) {
            return writer.compressed(kind, size, zlib).at("write", &self.dir);
        }
        let mut buffer = Vec::new();
        let (kind, data): (Kind, &[u8]) = match self.packs.read(id, &mut buffer) {
            Ok(Some(object)) => (object.kind, object.data),
            Ok(None) => return Err(StoreError::Missing(*id)),
            Err(source) => return Err(StoreError::Corrupt { id: *id, source }),
        };
        writer.stored(kind, data).at("write", &self.dir)
    }
}
