//! Projections: local commits that stand for commits of which only one host's part could be had.

use deptool_agent::{id::CommitId, name::HostName};

use super::{Tracking, TrackingError};
use crate::git::AncestryError;

/// A local commit in place of a real one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// The commit that the host runs.
    pub real: CommitId,
    /// The host whose directory the projection has. Two hosts of one commit have different projections.
    pub host: HostName,
    /// The local commit.
    pub commit: CommitId,
}

impl Tracking<'_> {
    /// All projections that are in use.
    pub fn projections(&self) -> Result<Vec<Projection>, TrackingError> {
        let parse = |(name, commit): (String, CommitId)| {
            let (real, host) = name.split_once('/')?;
            Some(Projection { real: real.parse().ok()?, host: HostName::parse(host.as_bytes()).ok()?, commit })
        };
        Ok(self.refs.below("refs/deptool/projection/")?.into_iter().filter_map(parse).collect())
    }

    /// The projection of `real` for `host`, if there is one.
    pub fn projection(&self, real: CommitId, host: &HostName) -> Result<Option<CommitId>, TrackingError> {
        self.refs.get(&projection_ref(real, host))
    }

    /// Note that a local commit stands for a real one.
    pub fn add_projection(&self, projection: &Projection) -> Result<(), TrackingError> {
        let name = projection_ref(projection.real, &projection.host);
        if !self.repo.has_commit(projection.commit) {
            return Err(TrackingError::Missing { name, id: projection.commit });
        }
        self.refs.set(&name, projection.commit.0, "")
    }

    /// Note that the real commit is here now.
    pub fn remove_projection(&self, real: CommitId, host: &HostName) -> Result<(), TrackingError> {
        self.refs.delete(&projection_ref(real, host))
    }

    /// The projections that are `commit`, or ancestors of it. What descends from a projection is fit for that
    /// projection's host only.
    pub fn projections_in(&self, commit: CommitId) -> Result<Vec<Projection>, ProjectionError> {
        let mut found = Vec::new();
        for projection in self.projections()? {
            if self.repo.is_ancestor(projection.commit, commit)? {
                found.push(projection);
            }
        }
        Ok(found)
    }
}

/// Why it can't be said whether a commit descends from a projection.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    /// Refs.
    #[error(transparent)]
    Tracking(#[from] TrackingError),
    /// History.
    #[error(transparent)]
    Ancestry(#[from] AncestryError),
}

fn projection_ref(real: CommitId, host: &HostName) -> String {
    format!("refs/deptool/projection/{real}/{host}")
}
