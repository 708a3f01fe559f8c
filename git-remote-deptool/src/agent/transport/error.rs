//! Why there is no connection to an agent.

use std::{io, path::PathBuf};

use super::ssh;
use crate::agent::install::{InstallError, agents::AgentError};

/// Why there is no connection to an agent. Every message is one line that is safe to show.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// ssh ended with its own status and said nothing: the agent was killed by a signal, or the connection was lost.
    #[error("unreachable: {}", ssh::NO_REASON)]
    Cut,
    /// ssh needed an answer from the operator, but was not allowed to ask.
    #[error("unreachable: {0}")]
    NeedsAnswer(String),
    #[error(
        "no answer for {seconds} seconds: the login may wait for something, or a start-up file of its shell reads the input"
    )]
    Silent { seconds: u64 },
    #[error("interrupted")]
    Interrupted,
    #[error("'{name}' calls itself '{told}' in /etc/hostname; if it is the right host, set remote.<name>.deptoolHost")]
    OtherHost { name: String, told: String },
    #[error("the login shell of '{host}' prints text ('{text}'): silence it for non-interactive sessions")]
    Noise { host: String, text: String },
    #[error("unexpected answer from '{host}': '{text}'")]
    Nonsense { host: String, text: String },
    #[error("no answer from the agent on '{host}' ({status}): {stderr}")]
    NoAnswer { host: String, status: String, is_failure: bool, stderr: String },
    #[error("can't install the agent on '{host}': {error}")]
    Install { host: String, error: InstallError },
    #[error("the agent on '{host}' is of another build ({theirs}, this is {ours}): build both from the same sources")]
    OtherBuild { host: String, theirs: String, ours: String },
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error("ssh not found: install OpenSSH, or set core.sshCommand")]
    NoSsh,
    #[error("the program in GIT_SSH can't be told a port (ssh.variant is 'simple')")]
    PortNotSupported,
    #[error("invalid address '{}'", deptool_agent::shared::text::printable(.0.as_bytes()))]
    BadLogin(String),
    #[error("can't use the root directory '{}'", path.display())]
    LocalRoot { path: PathBuf, source: io::Error },
    #[error("can't start '{program}'")]
    Start { program: String, source: io::Error },
    #[error("can't read from '{host}'")]
    Read { host: String, source: io::Error },
}

impl ConnectError {
    /// Whether the program on the host ended without a first line, which an agent prints before anything else.
    pub fn is_wordless(&self) -> bool {
        matches!(self, ConnectError::NoAnswer { .. } | ConnectError::Cut)
    }

    /// Whether the program ended without a first line, as opposed to being given up.
    pub fn is_end(&self) -> bool {
        self.is_wordless() || matches!(self, ConnectError::Unreachable(_) | ConnectError::NeedsAnswer(_))
    }
}
