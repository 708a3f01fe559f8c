//! A program and all that it starts, stopped right before each system call that changes something.
//!
//! A seccomp filter picks these calls out, so that all others run at full speed; ptrace stops the process there. Whoever
//! leads decides at every call: let it be, let it fail, kill before or after it. Needs no root rights.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
pub use nix::errno::Errno;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod filter;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod follow;

/// A system call that changes something, about to be made.
#[derive(Debug, Clone)]
pub struct Call {
    pub name: &'static str,
    /// The file that it is about, as far as that can be seen.
    pub path: PathBuf,
    /// What is about to be written, if it is a write: its beginning.
    pub data: Vec<u8>,
}

impl Call {
    /// Whether it concerns what is said to another process, and no file.
    pub fn is_to_peer(&self) -> bool {
        let path = self.path.to_string_lossy();
        path.starts_with("pipe:") || path.starts_with("socket:")
    }

    /// Whether a message is about to be sent that has all of these words near its beginning.
    pub fn says(&self, words: &[&str]) -> bool {
        let has = |word: &&str| self.data.windows(word.len()).any(|part| part == word.as_bytes());
        self.is_to_peer() && words.iter().all(has)
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.path.display())
    }
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    Go,
    /// It is not made, and says this.
    Fail(Errno),
    /// Every watched process is killed, before it or after it.
    KillBefore,
    KillAfter,
}

/// Whose calls are looked at.
#[derive(Debug, Clone, Copy)]
pub enum Watched {
    Everybody,
    /// The programs whose names begin with `from`, and what they start, but for those whose names begin with `but`.
    From {
        from: &'static str,
        but: &'static str,
    },
}

/// Why nothing can be traced on this computer, if so.
pub fn unable() -> Option<&'static str> {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    return follow::unable();
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    Some("system calls are traced on Linux on x86_64 only")
}

/// Runs a program until it and all that it has started have ended. `lead` decides about each call of those watched.
///
/// An error if it takes longer than a minute and a half.
pub fn run(command: Command, watched: Watched, lead: &mut dyn FnMut(&Call) -> Deed) -> Result<()> {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    return follow::run(command, watched, lead);
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    {
        let _ = (command, watched, lead);
        anyhow::bail!("system calls are traced on Linux on x86_64 only")
    }
}
