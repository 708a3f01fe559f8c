//! The options that Git sends in addition to refs.

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
    /// Whether the push is a dry run.
    pub run: Run,
    /// Whether a failure of one host undoes the others.
    pub atomicity: Atomicity,
    /// `--force-with-lease`: the expected value of each destination.
    pub leases: BTreeMap<BString, Lease>,
    /// The options given with `-o`.
    pub push_options: PushOptions,
    /// Whether Git is cloning.
    pub cloning: bool,
    /// Why nothing may be pushed: an option with an invalid value.
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

/// Whether a push is a dry run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// It is not.
    Real,
    /// `--dry-run`.
    Dry,
}

/// What a failure of one host means for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Atomicity {
    /// Nothing.
    PerHost,
    /// `--atomic`: they are rolled back.
    AllOrNothing,
}

/// Why an option makes every ref of a push fail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// An invalid `-o`.
    #[error(transparent)]
    PushOption(#[from] PushOptionError),
    /// `--atomic` together with skipping hosts.
    #[error("--atomic and skip-unreachable can't be combined")]
    AtomicWithoutSome,
    /// Malformed C-style quoting.
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
    /// Why nothing may be pushed, if there is a reason.
    pub fn refusal(&self) -> Option<OptionError> {
        let leaves_out = self.push_options.unreachable == Unreachable::IsSkipped;
        match &self.refusal {
            None if leaves_out && self.atomicity == Atomicity::AllOrNothing => Some(OptionError::AtomicWithoutSome),
            refusal => refusal.clone(),
        }
    }
}
