//! Stops a program and its descendants right before each system call that changes something.
//!
//! A seccomp filter selects these calls, so that all others run at full speed, and ptrace stops the process there. The
//! caller decides about each call: let it run, let it fail, or kill the process before or after it. This does not
//! require root.

use std::fmt::Debug;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use deptool_agent::shared::frame::FrameBuffer;
pub use nix::errno::Errno;
use serde::de::DeserializeOwned;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod filter;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod follow;

/// The calls that make a disk write what it has in its memory, and wait for that.
pub const FLUSHES: [&str; 4] = ["fsync", "fdatasync", "syncfs", "sync"];

/// A system call that changes something, about to be made.
#[derive(Debug, Clone)]
pub struct Call {
    pub name: &'static str,
    /// The file that it changes, if known.
    pub path: PathBuf,
    /// The first bytes to be written, if it is a write.
    pub data: Vec<u8>,
}

impl Call {
    /// Whether it is communication with another process, and not about a file.
    pub fn is_to_peer(&self) -> bool {
        let path = self.path.to_string_lossy();
        path.starts_with("pipe:") || path.starts_with("socket:")
    }

    /// Whether it sends a message of this type whose debug output has all of these words.
    pub fn sends<T: DeserializeOwned + Debug>(&self, words: &[&str]) -> bool {
        let mut frames = FrameBuffer::default();
        frames.push(&self.data);
        let mut messages = std::iter::from_fn(|| frames.take::<T>().ok().flatten());
        self.is_to_peer() && messages.any(|message| has_words(&message, words))
    }
}

/// Whether a message's debug output, which begins with its name, has all of these words.
pub(crate) fn has_words(message: &impl Debug, words: &[&str]) -> bool {
    let text = format!("{message:?}");
    words.iter().all(|word| text.contains(word))
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.path.display())
    }
}

/// What to do with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    Go,
    /// Skip it, and return this error.
    Fail(Errno),
    /// Kill every watched process, before the call or after it.
    KillBefore,
    KillAfter,
}

/// Whose calls are reported.
#[derive(Debug, Clone, Copy)]
pub enum Watched {
    Everybody,
    /// The programs whose names begin with `from`, and their descendants, except those whose names begin with `but`.
    From {
        from: &'static str,
        but: &'static str,
    },
}

/// The reason why this computer can't trace, if it can't.
pub fn unable() -> Option<&'static str> {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    return follow::unable();
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    Some("system calls are traced on Linux on x86_64 only")
}

/// Runs a program until it and all of its descendants have exited. `lead` decides about each call of the watched ones.
///
/// It is an error if that takes longer than 90 seconds.
pub fn run(command: Command, watched: Watched, lead: &mut dyn FnMut(&Call) -> Deed) -> Result<()> {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    return follow::run(command, watched, lead);
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    {
        let _ = (command, watched, lead);
        anyhow::bail!("system calls are traced on Linux on x86_64 only")
    }
}
