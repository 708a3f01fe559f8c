//! Projections: local commits that represent commits of which only one host's part is available.

use deptool_agent::shared::{id::CommitId, name::HostName};

use super::{
    Tracking, TrackingError,
    pairs::{self, Pair},
};
use crate::repo::AncestryError;

impl Tracking<'_> {
    /// All projections.
    pub fn projections(&self) -> Result<Vec<Pair>, TrackingError> {
        let refs = self.refs.below(pairs::REFS)?;
        Ok(refs.into_iter().filter_map(|(name, commit)| Pair::parse(&name, commit)).collect())
    }

    /// The projection of `real` for `host`, if there is one.
    pub fn projection(&self, real: CommitId, host: &HostName) -> Result<Option<CommitId>, TrackingError> {
        self.refs.get(&pairs::ref_name(real, host))
    }

    /// Record that a local commit represents a real one.
    pub fn add_projection(&self, pair: &Pair) -> Result<(), TrackingError> {
        let name = pair.ref_name();
        if !self.repo.has_commit(pair.projected) {
            return Err(TrackingError::Missing { name, id: pair.projected });
        }
        self.refs.set(&name, pair.projected.0, "")
    }

    /// Record that the real commit is in the repository now.
    pub fn remove_projection(&self, real: CommitId, host: &HostName) -> Result<(), TrackingError> {
        self.refs.delete(&pairs::ref_name(real, host))
    }

    /// The projections among `commit` and its ancestors. A commit that descends from a projection can only be deployed
    /// to that projection's host.
    pub fn projections_in(&self, commit: CommitId) -> Result<Vec<Pair>, ProjectionError> {
        let mut found = Vec::new();
        for pair in self.projections()? {
            if self.repo.is_ancestor(pair.projected, commit)? {
                found.push(pair);
            }
        }
        Ok(found)
    }
}

/// Why it can't be determined whether a commit descends from a projection.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    /// Reading refs failed.
    #[error(transparent)]
    Tracking(#[from] TrackingError),
    /// Reading the history failed.
    #[error(transparent)]
    Ancestry(#[from] AncestryError),
}
