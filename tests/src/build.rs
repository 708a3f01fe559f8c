//! The binaries under test, built from the present sources.
//!
//! Cargo builds the binaries of a test's own package only: without this, the tests would run whatever helper and agent
//! happened to be in the target directory.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// The directory of this build's binaries: `target/debug`, say.
pub fn profile_dir() -> Result<PathBuf> {
    let me = std::env::current_exe().context("cannot find this program")?;
    let dir = me.parent().context("this program is in no directory")?;
    Ok(if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir }.to_owned())
}

/// The xtask binary, for what a test needs as a program (the relay).
pub fn xtask() -> Result<PathBuf> {
    Ok(profile_dir()?.join("xtask"))
}
