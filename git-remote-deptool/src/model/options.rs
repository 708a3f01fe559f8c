//! What Git asks for beside refs.

use std::collections::BTreeMap;

use deptool_agent::shared::wire::Lease;
use gix::bstr::BString;

use super::push_option::{PushOptionError, PushOptions, Unreachable};

/// All options of one dialogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// 0 with `-q`, 1 normally, 2 and more with `-v`.
    pub verbosity: u32,
    /// Whether progress may be shown.
    pub progress: Progress,
    /// Whether this push may change anything.
    pub run: Run,
    /// Whether one failure undoes the others.
    pub atomicity: Atomicity,
    /// `--force-with-lease`: what is expected at a destination.
    pub leases: BTreeMap<BString, Lease>,
    /// All `-o`.
    pub push_options: PushOptions,
    /// Whether this is a clone.
    pub cloning: bool,
    /// Why nothing may be pushed: an option whose value is wrong.
    pub refusal: Option<OptionError>,
}

/// Whether progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// On a terminal, or with `--progress`.
    Shown,
    /// Otherwise.
    Hidden,
}

/// Whether a push is real.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// It is.
    Real,
    /// `--dry-run`.
    Dry,
}

/// What the failure of one host means for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Atomicity {
    /// Nothing.
    PerHost,
    /// `--atomic`: they go back to what they had.
    AllOrNothing,
}

/// Why every ref of a push fails: the value of an option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// `-o`.
    #[error(transparent)]
    PushOption(#[from] PushOptionError),
    /// All or nothing, and yet not all.
    #[error("a push can't be --atomic and leave out unreachable hosts")]
    AtomicWithoutSome,
    /// Git's quoting, broken.
    #[error("malformed value of option '{0}'")]
    Malformed(String),
    /// `--signed`.
    #[error("signed pushes are not supported")]
    Signed,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            verbosity: 1,
            progress: Progress::Hidden,
            run: Run::Real,
            atomicity: Atomicity::PerHost,
            leases: BTreeMap::new(),
            push_options: PushOptions::default(),
            cloning: false,
            refusal: None,
        }
    }
}

impl Options {
    /// Why nothing may be pushed, if so.
    pub fn refusal(&self) -> Option<OptionError> {
        let leaves_out = self.push_options.unreachable == Unreachable::IsSkipped;
        match &self.refusal {
            None if leaves_out && self.atomicity == Atomicity::AllOrNothing => Some(OptionError::AtomicWithoutSome),
            refusal => refusal.clone(),
        }
    }
}
