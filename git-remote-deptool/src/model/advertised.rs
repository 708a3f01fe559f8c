//! The refs that Git is told about for a fetch.

use deptool_agent::shared::id::CommitId;
use gix::bstr::BString;

/// A ref that Git may fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advertised {
    Ref {
        /// The full name.
        name: BString,
        id: CommitId,
    },
    /// `HEAD`, which points to this ref.
    Head(BString),
}

impl Advertised {
    /// A ref with its full name.
    pub fn at(name: impl Into<BString>, id: CommitId) -> Self {
        Advertised::Ref { name: name.into(), id }
    }
}
