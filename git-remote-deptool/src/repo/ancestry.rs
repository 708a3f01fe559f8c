//! Whether one commit is part of another's history.

use deptool_agent::shared::id::CommitId;

use super::{ReadError, Repo};

/// Why it can't be said.
#[derive(Debug, thiserror::Error)]
pub enum AncestryError {
    /// The old commit is not here.
    #[error("commit {} is not in this repository", .0.short())]
    Missing(CommitId),
    /// The history ends before the answer.
    #[error("the history of commit {} is cut off here; run git fetch --unshallow first", .0.short())]
    Shallow(CommitId),
    /// The history is broken.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Repo {
    /// Whether `old` is `new`, or an ancestor of it.
    ///
    /// A *no* is certain: where a shallow repository does not have the history that could make it a *yes*, that is an
    /// error.
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

    /// Whether commits are missing from the history of `new` because the repository is shallow.
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
