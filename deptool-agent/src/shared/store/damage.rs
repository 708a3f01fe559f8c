//! Repairs a store that has lost objects, through a disk error or because somebody deleted files.

use std::path::{Path, PathBuf};

use gix_hash::{Kind as HashKind, ObjectId};

use crate::shared::store::{
    IdSet, Store,
    error::{At, Result, StoreError},
    layout::{is_sound, read_file, remove_if_exists, remove_pack, replace, visit_files},
};

impl Store {
    /// Note that an object that should be here is missing or can't be read, so [`Store::drop_damaged`] has to be
    /// called.
    pub fn suspect_damage(&mut self) {
        self.is_suspect = true;
    }

    /// Whether [`Store::drop_damaged`] has to be called.
    pub fn is_suspect(&self) -> bool {
        self.is_suspect
    }

    /// Remove damaged packs, and end history where commits were lost. The objects that are deployed must already be in
    /// other packs. This reads every pack.
    pub fn drop_damaged(&mut self) -> Result<()> {
        let indices: Vec<PathBuf> = self.packs.indices().map(Path::to_owned).collect();
        for index in indices {
            if !is_sound(&index)? {
                self.packs.forget(&index);
                remove_pack(&index)?;
            }
        }
        self.is_suspect = false;
        self.remove_lost_commits()?;
        self.rewrite_shallow()
    }

    /// Remove lost commits from reflogs, and refs in `refs/deptool` that name a lost commit. Git would report them as
    /// errors.
    fn remove_lost_commits(&self) -> Result<()> {
        visit_files(&self.dir.join("logs"), &mut |path| {
            let log = read_file(path).at("read", path)?;
            let mended: Vec<u8> =
                log.split_inclusive(|byte| *byte == b'\n').flat_map(|line| self.without_lost_ids(line)).collect();
            if mended == log { Ok(()) } else { replace(path, &mended) }
        })?;
        visit_files(&self.dir.join("refs/deptool"), &mut |path| {
            let content = read_file(path).at("read", path)?;
            let is_here = ObjectId::from_hex(content.trim_ascii_end()).is_ok_and(|id| self.has(&id));
            if is_here { Ok(()) } else { remove_if_exists(path) }
        })
    }

    /// A line of a reflog, `<old> <new> …`, without lost ids. Returns nothing if the new id is lost.
    fn without_lost_ids(&self, line: &[u8]) -> Vec<u8> {
        let id = |from: usize| ObjectId::from_hex(line.get(from..from + 40)?).ok();
        let is_known = |id: ObjectId| id.is_null() || self.has(&id);
        match (id(0), id(41)) {
            (Some(old), Some(new)) if is_known(new) => match is_known(old) {
                true => line.to_vec(),
                false => [ObjectId::null(HashKind::Sha1).to_string().as_bytes(), &line[40..]].concat(),
            },
            _ => Vec::new(),
        }
    }

    /// Write the `shallow` file anew if it can't be parsed.
    pub(super) fn repair_shallow(&self) -> Result<()> {
        match self.shallow() {
            Err(StoreError::BadShallow) => {
                remove_if_exists(&self.shallow_path())?;
                self.rewrite_shallow()
            }
            result => result.map(drop),
        }
    }

    fn rewrite_shallow(&self) -> Result<()> {
        let commits = self.reachable(self.ids_in_refs()?, &IdSet::new(), usize::MAX)?;
        self.update_shallow(commits.into_iter())
    }
}
