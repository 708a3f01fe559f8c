//! The outcome for each ref of a push.
//!
//! Git takes a ref that is not reported for one that needed no push, and some texts for success. So a [`RefReport`] knows
//! all destinations from the start, each begins as *not attempted*, and no text from a host can spell a keyword.

use deptool_agent::shared::{id::CommitId, text::printable};
use gix::bstr::{BStr, BString};

use super::batch::PushBatch;

/// The outcome for one ref.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefOutcome {
    /// Nothing was tried, and nothing has changed.
    NotAttempted,
    /// It is done, and durable on the host.
    Done {
        /// What was there before, as far as it is known.
        old: Option<CommitId>,
        /// What is there now; nothing after a removal. Git moves its tracking ref to it, which would be the tag
        /// object, where a tag was pushed, if this did not say otherwise.
        new: Option<CommitId>,
        /// Whether what was there before is part of the new history.
        update: RefUpdate,
    },
    /// The change does not concern this host: it was not asked, and its tracking ref stays.
    Unaffected,
    /// The lease did not hold: someone else deployed.
    StaleInfo,
    /// The new commit does not descend from the old one.
    NonFastForward,
    /// Anything else, for people to read. Any text will do, it is made one harmless line.
    Rejected(String),
}

/// How a ref moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefUpdate {
    /// Forward, or from or to nothing.
    FastForward,
    /// Back or aside.
    Forced,
}

/// One outcome for each destination of a batch.
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

/// An outcome for a ref that Git did not ask for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{}' is not part of this push", printable(.0))]
pub struct UnknownRef(BString);

impl RefReport {
    /// A report on `batch` in which nothing was attempted yet.
    pub fn new(batch: &PushBatch) -> Self {
        let entries = batch
            .commands()
            .iter()
            .map(|c| Entry { dst: c.dst.clone(), is_delete: c.is_delete(), outcome: RefOutcome::NotAttempted })
            .collect();
        RefReport { entries }
    }

    /// Set the outcome of `dst`. The last one counts.
    pub fn set(&mut self, dst: &BStr, outcome: RefOutcome) -> Result<(), UnknownRef> {
        match self.entries.iter_mut().find(|entry| entry.dst == dst) {
            Some(entry) => {
                entry.outcome = outcome;
                Ok(())
            }
            None => Err(UnknownRef(dst.into())),
        }
    }

    /// Set `outcome` for all refs that have none yet.
    pub fn set_rest(&mut self, outcome: &RefOutcome) {
        for entry in self.entries.iter_mut().filter(|entry| entry.outcome == RefOutcome::NotAttempted) {
            entry.outcome = outcome.clone();
        }
    }

    /// The outcome of `dst`, if it is part of the push.
    pub fn outcome(&self, dst: &BStr) -> Option<&RefOutcome> {
        self.entries.iter().find(|entry| entry.dst == dst).map(|entry| &entry.outcome)
    }

    /// All destinations and their outcomes, in Git's order.
    pub fn outcomes(&self) -> impl Iterator<Item = (&BStr, &RefOutcome)> {
        self.entries.iter().map(|entry| (BStr::new(&entry.dst), &entry.outcome))
    }
}
