//! Git's `shallow` file: the commits at which the history in the store ends.

use std::{collections::BTreeSet, io, path::PathBuf};

use gix_hash::ObjectId;

use crate::shared::{
    id::CommitId,
    store::{
        Store,
        error::{At, Result, StoreError},
        layout::{read_file, remove_if_exists, replace},
        receive::History,
    },
};

impl Store {
    pub(super) fn shallow_path(&self) -> PathBuf {
        self.dir.join("shallow")
    }

    /// The commits in the `shallow` file.
    pub fn shallow(&self) -> Result<BTreeSet<ObjectId>> {
        let path = self.shallow_path();
        let text = match read_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            result => result.at("read", path)?,
        };
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let mut commits = BTreeSet::new();
        for line in lines {
            commits.insert(ObjectId::from_hex(line).map_err(|_| StoreError::BadShallow)?);
        }
        Ok(commits)
    }

    /// Add the new ends of history *before* the pack with them gets its name. A reader, or a crash in between, may
    /// then see a shallow commit that is not here yet, which Git ignores. In the other order history would be broken
    /// for a moment.
    pub(super) fn widen_shallow(&self, new: &History) -> Result<()> {
        let coming: super::IdSet = new.commits.iter().map(|(id, _)| *id).collect();
        let before = self.shallow()?;
        let mut after = before.clone();
        for (id, parents) in &new.commits {
            if parents.iter().any(|parent| !coming.contains(parent) && !self.has(parent)) {
                after.insert(*id);
            }
        }
        self.write_shallow(&before, &after)
    }

    /// Make the file exact. Only the commits that it names and the `new` ones are looked at.
    pub(super) fn update_shallow(&self, new: impl Iterator<Item = ObjectId>) -> Result<()> {
        let before = self.shallow()?;
        let mut after = BTreeSet::new();
        for id in before.iter().copied().chain(new) {
            if self.has(&id) && self.commit(&CommitId(id))?.parents.iter().any(|parent| !self.has(&parent.0)) {
                after.insert(id);
            }
        }
        self.write_shallow(&before, &after)
    }

    fn write_shallow(&self, before: &BTreeSet<ObjectId>, after: &BTreeSet<ObjectId>) -> Result<()> {
        if before == after {
            return Ok(());
        }
        if after.is_empty() {
            return remove_if_exists(&self.shallow_path());
        }
        let text: String = after.iter().map(|id| format!("{id}\n")).collect();
        replace(&self.shallow_path(), text.as_bytes())
    }
}
