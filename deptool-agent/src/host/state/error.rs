//! The errors of the agent, by their origin.

use std::{io, path::Path};

use rustix::io::Errno;

use crate::{
    shared::{
        desired::DesiredError, frame::FrameError, outcome::Drift, store::StoreError, text::printable, tree::TreeError,
    },
    system::SystemError,
};

/// Why an operation on the host failed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A system call failed.
    #[error("cannot {what} '{path}': {}", reason(source))]
    Io { what: &'static str, path: String, source: io::Error },
    /// One of the agent's own files is damaged.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// An external path can't be used.
    #[error("{0}")]
    External(String),
    /// A tree can't be read, or asks for something impossible.
    #[error("{}{source}", whose.prefix())]
    Tree { whose: Whose, source: TreeProblem },
    /// The service manager or a program of the host failed.
    #[error(transparent)]
    Machine(#[from] SystemError),
    /// The helper broke the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error("{}", with_causes(.0))]
    Store(#[from] StoreError),
    /// An earlier deployment was interrupted, and this agent can't recover from that.
    #[error("{0}")]
    Interrupted(String),
    /// The deployment is refused: a sentence for the operator, and details of several lines, such as the output of a check.
    /// The details may be empty.
    #[error("{why}")]
    Refused { why: String, details: String },
    /// The same, because of files that no deployment put there, among other reasons.
    #[error("{why}")]
    InTheWay { why: String, files: Vec<Drift> },
}

/// One of the agent's own files was changed, truncated, or replaced by something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{path}' {what}{}", advice.map(|advice| format!(": {advice}")).unwrap_or_default())]
pub struct Damage {
    /// The path, safe to show.
    pub path: String,
    /// The rest of a sentence that begins with the path: "is a symlink".
    pub what: String,
    /// What the operator can do about it, if the agent can't repair it.
    pub advice: Option<&'static str>,
}

/// One of the two trees of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Deployed,
    New,
}

/// Why a tree can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TreeProblem {
    #[error(transparent)]
    Unreadable(#[from] TreeError),
    #[error(transparent)]
    Desired(#[from] DesiredError),
}

/// How the helper broke the protocol.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    #[error("a message came out of order")]
    OutOfOrder,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the pack was cut off by another message")]
    PackCutOff,
    #[error("the pack has no end")]
    PackWithoutEnd,
    #[error("blob {0} was damaged on the way")]
    DamagedBlob(String),
}

impl HostError {
    /// A refusal without details.
    pub fn refused(why: impl Into<String>) -> HostError {
        HostError::Refused { why: why.into(), details: String::new() }
    }

    /// A problem with one of the trees.
    pub fn tree(whose: Whose, problem: impl Into<TreeProblem>) -> HostError {
        HostError::Tree { whose, source: problem.into() }
    }

    /// Whether the error is that a file or directory does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, HostError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether not even root may do it, because somebody has made a file immutable.
    pub fn is_not_permitted(&self) -> bool {
        matches!(self, HostError::Io { source, .. } if source.raw_os_error() == Some(Errno::PERM.raw_os_error()))
    }
}

impl Damage {
    pub fn of(path: &Path, what: impl Into<String>) -> Damage {
        Damage { path: printable(path.as_os_str().as_encoded_bytes()), what: what.into(), advice: None }
    }

    /// A file that can't be parsed.
    pub fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Damage {
        Damage::of(path, printable(format!("can't be parsed: {error}").as_bytes()))
    }

    pub fn with_advice(self, advice: &'static str) -> Damage {
        Damage { advice: Some(advice), ..self }
    }
}

impl Whose {
    fn prefix(self) -> &'static str {
        match self {
            Whose::Deployed => "what is deployed: ",
            Whose::New => "",
        }
    }
}

/// The text of an error, without the "(os error 2)" that Rust appends.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

fn with_causes(error: &StoreError) -> String {
    use std::error::Error as _;
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.downcast_ref().map_or_else(|| cause.to_string(), reason);
        text.push_str(&format!(": {cause_text}"));
        source = cause.source();
    }
    text
}

/// Adds the operation and the path to an I/O error.
pub trait Context<T> {
    fn during(self, what: &'static str, path: &Path) -> Result<T, HostError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn during(self, what: &'static str, path: &Path) -> Result<T, HostError> {
        self.map_err(|source| HostError::Io {
            what,
            path: printable(path.as_os_str().as_encoded_bytes()),
            source: source.into(),
        })
    }
}
