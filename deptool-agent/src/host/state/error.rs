//! What can go wrong on a host, told apart by whose business it is.

use std::{io, path::Path};

use crate::{
    shared::{desired::WantedError, frame::FrameError, store::StoreError, text::printable, tree::TreeError},
    system::SystemError,
};

/// Why the agent could not do something.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A system call failed.
    #[error("cannot {what} '{path}': {}", reason(source))]
    Io { what: &'static str, path: String, source: io::Error },
    /// A file of our own is not what we wrote.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// A path outside of our directory can't be used.
    #[error("{0}")]
    External(String),
    /// A tree can't be read, or asks for something that can't be.
    #[error("{}{source}", whose.prefix())]
    Tree { whose: Whose, source: TreeProblem },
    /// The service manager or a program of the host failed.
    #[error(transparent)]
    Machine(#[from] SystemError),
    /// The helper sent something that does not belong there.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error("{}", with_causes(.0))]
    Store(#[from] StoreError),
    /// An earlier deployment was interrupted, and that can't be mended from here.
    #[error("{0}")]
    Interrupted(String),
    /// The host does not take the deployment: a sentence for the operator, and details of several lines, such as what a
    /// check printed. The details may be empty.
    #[error("{why}")]
    Refused { why: String, details: String },
}

/// One of our own files was changed, cut short, or replaced by something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{path}' {what}{}", advice.map(|advice| format!(": {advice}")).unwrap_or_default())]
pub struct Damage {
    /// The file, as it can be shown.
    pub path: String,
    /// To follow the path in a sentence: "is a symlink".
    pub what: String,
    /// What to do about it, if we can't.
    pub advice: Option<&'static str>,
}

/// Which tree is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Deployed,
    New,
}

/// What is wrong with a tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeProblem {
    #[error(transparent)]
    Unreadable(#[from] TreeError),
    #[error(transparent)]
    Desired(#[from] WantedError),
}

/// What the helper did wrong.
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
    /// A refusal that one sentence explains.
    pub fn refused(why: impl Into<String>) -> HostError {
        HostError::Refused { why: why.into(), details: String::new() }
    }

    /// A problem of the tree that is deployed or to be deployed.
    pub fn tree(whose: Whose, problem: impl Into<TreeProblem>) -> HostError {
        HostError::Tree { whose, source: problem.into() }
    }

    /// Whether a file or directory that was looked for is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, HostError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl Damage {
    pub fn of(path: &Path, what: impl Into<String>) -> Damage {
        Damage { path: printable(path.as_os_str().as_encoded_bytes()), what: what.into(), advice: None }
    }

    /// A file whose content can't be understood.
    pub fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Damage {
        Damage::of(path, printable(format!("can't be understood: {error}").as_bytes()))
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

/// An error's reason without the number that Rust appends.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

fn with_causes(error: &StoreError) -> String {
    use std::error::Error as _;
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// Says what was being done to which path when an I/O error happened.
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
