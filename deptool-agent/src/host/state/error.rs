//! Errors that say what was done to which path.

use std::{io, path::Path};

use crate::shared::text::printable;

/// Something that the machine did not let us do, or that is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("cannot {what} '{path}': {}", reason(source))]
    Io { what: &'static str, path: String, source: io::Error },
    /// The tree or the host is not fit for each other; a sentence for the operator.
    #[error("{0}")]
    Unfit(String),
    /// As above, with more to say: several lines, such as what a check has said.
    #[error("{why}")]
    Refused { why: String, details: String },
}

/// An error's reason without the number that Rust appends.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
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

/// A file of ours has something in it that we did not write: `advice` is what to do about it. What exactly it is may not
/// reach a terminal.
pub fn not_understood(path: &Path, error: &dyn std::fmt::Display, advice: &str) -> HostError {
    HostError::Unfit(printable(format!("'{}' can't be understood: {error}; {advice}", path.display()).as_bytes()))
}
