//! Everything that can go wrong with the store.

use std::{io, path::PathBuf};

use gix_hash::ObjectId;
use gix_object::Kind;

use crate::shared::{id::CommitId, name::ClusterName, store::pack::PackError};

/// Why the store could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A system call on one of the store's own files failed.
    #[error("could not {what} '{}'", path.display())]
    Io {
        /// What was tried: `write`, `rename` …
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A received pack was refused; nothing of it was kept.
    #[error("refused the pack")]
    Pack(#[source] PackError),
    /// An object that has to be there is not.
    #[error("the store has no object {0}")]
    Missing(ObjectId),
    /// An id names another kind of object than it was used for.
    #[error("object {id} is a {actual}, not a {wanted}")]
    Kind {
        /// The object.
        id: ObjectId,
        /// What it was used as.
        wanted: Kind,
        /// What it is.
        actual: Kind,
    },
    /// An object is there but can't be decoded.
    #[error("object {id} in the store is corrupt")]
    Corrupt {
        /// The object.
        id: ObjectId,
        /// What the decoder said.
        #[source]
        source: gix_error::Error,
    },
    /// A pack or its index is not what its name says.
    #[error("the store's pack '{}' is corrupt", path.display())]
    BadPack {
        /// The index of the pack.
        path: PathBuf,
        /// What the decoder said.
        #[source]
        source: gix_error::Error,
    },
    /// A ref holds something else than an object id or the name of a ref.
    #[error("ref '{name}' of the store is corrupt")]
    BadRef {
        /// The full name of the ref.
        name: String,
    },
    /// The compare-and-swap failed: something else is deployed than was expected.
    #[error("another commit is deployed than was expected")]
    Stale {
        /// What is deployed.
        actual: Option<(ClusterName, CommitId)>,
    },
    /// Directories are nested deeper than anybody means them to be.
    #[error("tree {0} is nested too deeply")]
    TooDeep(ObjectId),
    /// More objects than a pack can have.
    #[error("too many objects for one pack")]
    TooMany,
    /// The store's shallow file holds something else than object ids.
    #[error("the store's list of shallow commits is corrupt")]
    BadShallow,
}

/// The result of a store's operation.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Puts what was tried, and on which file, in front of an I/O error.
pub(super) trait At<T> {
    /// Make a [`StoreError::Io`] of an error.
    fn at(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| StoreError::Io { what, path: path.into(), source })
    }
}
