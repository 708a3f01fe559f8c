//! `cargo xtask dist`: everything that a user installs.

use std::path::{Path, PathBuf};

use anyhow::Result;
use deptool_tests::build::{self, Platform};
use deptool_tests::dist;

use crate::needs;

pub fn run(prefix: &str) -> Result<()> {
    needs::to_build()?;
    let prefix = std::path::absolute(Path::new(prefix))?;
    dist::install(&prefix, &Platform::ALL)?;
    for file in dist::files(&prefix)? {
        println!("{}", prefix.join(file).display());
    }
    Ok(())
}

/// A build as users get it, in the target directory, with the agent for this computer alone: what tasks need.
pub fn in_target() -> Result<PathBuf> {
    needs::to_build()?;
    let prefix = build::target_dir()?.join("dist");
    dist::install(&prefix, &[Platform::here()])?;
    Ok(prefix)
}
