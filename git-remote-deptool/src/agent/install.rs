//! Installs the agent on a host: one fixed command, one line in which the host describes itself, one upload.
//!
//! ```text
//! helper                                     host
//! ssh host <script::remote_command>  ──▶     the agent is there: it is started, by itself or by a script
//! deptool-hello <build id>           ──▶
//!                                    ◀──     deptool-agent <version> <build id>         frames follow, both ways
//!
//!                                            the agent is not there:
//!                                    ◀──     deptool-absent <system> <machine> <gzip|plain> <hostname>
//! deptool-upload <size> <sha256> …   ──▶     nothing is written before this line
//! <size bytes>                       ──▶     checked, made durable, renamed into place, started
//! deptool-hello <build id>           ──▶
//!                                    ◀──     deptool-agent <version> <build id>         frames follow, both ways
//! ```
//! If an agent that is to be started by itself is not there, or another user than root starts it, the script runs on
//! another connection.
//! An agent whose file is damaged, or that ends without a word, is replaced on another connection: there the command does
//! not start it.
//!
//! An error on the host is reported as `deptool-error <code> <text>`. A request that was sent ahead does no harm on a
//! host without the agent: it does not begin with `deptool-upload`, so the script exits before it writes anything.
//! `<size>` counts the bytes that are sent; `<sha256>` is the digest of the file after decompression.
//! The size is that of the bytes sent, the digest that of the file they unpack to.

use deptool_agent::shared::{build, name::HostName, seal};

pub mod agents;
pub mod opening;
pub mod script;
#[cfg(test)]
mod tests;

/// The helper's first line on every connection.
pub fn hello() -> String {
    format!("deptool-hello {}\n", build::BUILD_ID)
}

/// Whether a host whose `/etc/hostname` contains `told` can be the host named `expected`.
///
/// One of the names may be the first label of the other. A host without a name is accepted.
pub fn is_the_right_host(expected: &HostName, told: Option<&str>) -> bool {
    let Some(told) = told.map(str::trim).filter(|told| !told.is_empty()) else { return true };
    let (expected, told) = (expected.as_str().to_ascii_lowercase(), told.to_ascii_lowercase());
    let first_label = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    told == expected || first_label(&told) == expected || told == first_label(&expected) || told == "localhost"
}

/// Why the install script failed, or why sudo or doas refused to run it as root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    #[error("the login is not root, and there is neither sudo nor doas to become it")]
    NoRoot,
    #[error("{program} asks for a password: allow it without one (NOPASSWD, nopass) or log in as root")]
    PasswordAsked { program: &'static str },
    #[error("{program} refuses: {text}")]
    RootRefused { program: &'static str, text: String },
    #[error("'{0}' is missing")]
    MissingTool(String),
    #[error("the file system is read-only ({0})")]
    ReadOnly(String),
    #[error("no space left ({0})")]
    NoSpace(String),
    #[error("the file system is mounted noexec: no program can run from /var/lib/deptool")]
    NoExec,
    #[error("the upload was damaged on the way (its SHA-256 is {0})")]
    Digest(String),
    #[error("its file is damaged, and can't be replaced")]
    Damaged,
    #[error("{0}")]
    Other(String),
}

impl InstallError {
    /// The error that `deptool-error <code> <text>` stands for.
    pub fn from_script(code: &str, text: &str) -> Self {
        let text = text.to_owned();
        match code {
            "no-root" => InstallError::NoRoot,
            "missing" => InstallError::MissingTool(text),
            "noexec" => InstallError::NoExec,
            "digest" => InstallError::Digest(text),
            seal::DAMAGED => InstallError::Damaged,
            // The script asks for messages in English.
            _ if text.contains("Read-only file system") => InstallError::ReadOnly(text),
            _ if text.contains("No space left") || text.contains("uota exceeded") => InstallError::NoSpace(text),
            _ if text.is_empty() => InstallError::Other(format!("the installation failed ({code})")),
            _ => InstallError::Other(text),
        }
    }

    /// Why sudo or doas refused, from stderr of a command that printed nothing on stdout.
    pub fn from_refusal(text: &str) -> Option<Self> {
        for program in ["sudo", "doas"] {
            let prefix = format!("{program}: ");
            let lines = || text.lines().map(str::trim);
            // sudo, sudo-rs, doas.
            let asks = ["a password is required", "interactive authentication is required", "Authorization required"];
            if lines().any(|line| line.strip_prefix(&prefix).is_some_and(|why| asks.contains(&why))) {
                return Some(InstallError::PasswordAsked { program });
            }
            let refuses = |line: &&str| {
                (line.starts_with(&prefix) && !line.contains("unable to resolve host"))
                    || (program == "sudo"
                        && (line.contains(" is not in the sudoers file") || line.starts_with("Sorry, user ")))
            };
            if let Some(line) = lines().rfind(refuses) {
                return Some(InstallError::RootRefused { program, text: opening::excerpt(line.as_bytes()) });
            }
        }
        None
    }
}
