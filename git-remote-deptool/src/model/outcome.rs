//! The outcome for each ref of a push.
//!
//! Git assumes that a ref without a report needed no push, and takes some texts for success. So a [`RefReport`]
//! contains all destinations from the start, each begins as *not attempted*, and no text from a host can pass for a
//! keyword.

use deptool_agent::shared::{id::CommitId, text::printable};
use gix::bstr::{BStr, BString};

use super::batch::PushBatch;

/// The outcome for one ref.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefOutcome {
    /// Nothing was attempted or changed.
    NotAttempted,
    /// The change is durable on the host.
    Done {
        /// The previous commit, as far as it was known.
        old: Option<CommitId>,
        /// The new commit, or `None` after a removal. Git moves its tracking ref to it. Without this, Git would use the
        /// id of the tag object if a tag was pushed.
        new: Option<CommitId>,
        /// Whether this was a fast-forward.
        update: RefUpdate,
    },
    /// The change does not affect the host, so it was not contacted, and its tracking ref stays.
    Unaffected,
    /// The lease did not hold: another operator has deployed.
    StaleInfo,
    /// The new commit does not descend from the old one.
    NonFastForward,
    /// Any other reason, as text. It is made one line without control characters.
    Rejected(String),
}

/// How a ref moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefUpdate {
    /// A fast-forward, a creation or a deletion.
    FastForward,
    /// Back or aside.
    Forced,
}

/// An outcome for each destination of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "Git waits for the report's lines"]
pub struct RefReport {
    pub(crate) entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) dst: BString,
    pub(crate) is_delete: bool,
    pub(crate) outcome: RefOutcome,
}

/// An outcome was set for a ref that is not part of the push.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{}' is not part of this push", printable(.0))]
pub struct UnknownRef(BString);

impl RefReport {
    /// A report on `batch` in which nothing was attempted.
    pub fn new(batch: &PushBatch) -> Self {
        let entries = batch
            .commands()
            .iter()
            .map(|c| Entry { dst: c.dst.clone(), is_delete: c.is_delete(), outcome: RefOutcome::NotAttempted })
            .collect();
        RefReport { entries }
    }

    /// Set the outcome of `dst`. The last call counts.
    pub fn set(&mut self, dst: &BStr, outcome: RefOutcome) -> Result<(), UnknownRef> {
        match self.entries.iter_mut().find(|entry| entry.dst == dst) {
            Some(entry) => {
                entry.outcome = outcome;
                Ok(())
            }
            None => Err(UnknownRef(dst.into())),
        }
    }

    /// Set `outcome` for all refs that are still *not attempted*.
    pub fn set_rest(&mut self, outcome: &RefOutcome) {
        for entry in self.entries.iter_mut().filter(|entry| entry.outcome == RefOutcome::NotAttempted) {
            entry.outcome = outcome.clone();
        }
    }

    /// All destinations and their outcomes, in Git's order.
    pub fn outcomes(&self) -> impl Iterator<Item = (&BStr, &RefOutcome)> {
        self.entries.iter().map(|entry| (BStr::new(&entry.dst), &entry.outcome))
    }
}
