//! The errors of the store.

use std::{io, path::PathBuf};

use gix_hash::ObjectId;
use gix_object::Kind;

use crate::shared::{id::CommitId, name::ClusterName, store::pack::PackError};

/// Why an operation on the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A system call on one of the store's files failed.
    #[error("could not {what} '{}'", path.display())]
    Io {
        /// The operation, as a verb: `write`, `rename` …
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A received pack was refused. Nothing of the pack was kept.
    #[error("refused the pack")]
    Pack(#[source] PackError),
    /// An object that is needed is not here.
    #[error("the store has no object {0}")]
    Missing(ObjectId),
    /// An id names an object of another kind than expected.
    #[error("object {id} is a {actual}, not a {wanted}")]
    Kind { id: ObjectId, wanted: Kind, actual: Kind },
    /// An object is here but can't be decoded.
    #[error("object {id} in the store is corrupt")]
    Corrupt {
        id: ObjectId,
        #[source]
        source: gix_error::Error,
    },
    /// A pack or its index can't be opened.
    #[error("the store's pack '{}' is corrupt", path.display())]
    BadPack {
        /// The index of the pack.
        path: PathBuf,
        #[source]
        source: gix_error::Error,
    },
    /// A ref has neither an object id nor the name of another ref.
    #[error("ref '{name}' of the store is corrupt")]
    BadRef {
        /// The full name of the ref.
        name: String,
    },
    /// The compare-and-swap failed: something else is deployed than the caller expected.
    #[error("the deployed commit is not the expected one")]
    Stale {
        /// The commit that is deployed.
        actual: Option<(ClusterName, CommitId)>,
    },
    /// There are more objects than a pack can have.
    #[error("too many objects for one pack")]
    TooMany,
    /// The store's `shallow` file has a line that is not an object id.
    #[error("the store's list of shallow commits is corrupt")]
    BadShallow,
}

pub type Result<T> = std::result::Result<T, StoreError>;

/// Adds the operation and the path to an I/O error.
pub(super) trait At<T> {
    /// Turn an error into a [`StoreError::Io`].
    fn at(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| StoreError::Io { what, path: path.into(), source })
    }
}
