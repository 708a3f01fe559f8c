//! Finds out whether one commit is an ancestor of another.

use deptool_agent::shared::id::CommitId;

use super::{ReadError, Repo};

/// Why that can't be determined.
#[derive(Debug, thiserror::Error)]
pub enum AncestryError {
    /// The old commit is not in the repository.
    #[error("commit {} is not in this repository", .0.short())]
    Missing(CommitId),
    /// The repository is shallow, and the history ends too early.
    #[error("the history of commit {} is cut off here; run git fetch --unshallow first", .0.short())]
    Shallow(CommitId),
    /// An object can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Repo {
    /// Whether `old` is `new` or an ancestor of it.
    ///
    /// `false` is certain: if a shallow repository lacks the part of the history that could make it true, the result is
    /// an error.
    pub fn is_ancestor(&self, old: CommitId, new: CommitId) -> Result<bool, AncestryError> {
        for id in [old, new] {
            if !self.has_commit(id) {
                return Err(AncestryError::Missing(id));
            }
        }
        let bases = self.gix.merge_bases_many(old.0, &[new.0]);
        let bases = bases.map_err(|error| ReadError::new(format!("the history of commit {new}"), error))?;
        if bases.iter().any(|base| *base == old.0) {
            return Ok(true);
        }
        match self.is_cut_off(new)? {
            true => Err(AncestryError::Shallow(new)),
            false => Ok(false),
        }
    }

    /// Whether the history of `new` is incomplete because the repository is shallow.
    fn is_cut_off(&self, new: CommitId) -> Result<bool, ReadError> {
        let failed = |error| ReadError::new(format!("the history of commit {new}"), error);
        let Some(boundary) = self.gix.shallow_commits().map_err(failed)? else { return Ok(false) };
        for commit in self.gix.rev_walk([new.0]).all().map_err(failed)? {
            if boundary.contains(&commit.map_err(failed)?.id) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
