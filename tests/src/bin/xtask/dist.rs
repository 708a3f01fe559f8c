//! `cargo xtask dist`: everything that a user installs.

use std::path::{Path, PathBuf};

use anyhow::Result;
use deptool_tests::{build, dist};

use crate::needs;

pub fn run(prefix: &str) -> Result<()> {
    needs::to_build()?;
    let prefix = std::path::absolute(Path::new(prefix))?;
    dist::install(&prefix)?;
    for file in dist::files(&prefix)? {
        println!("{}", prefix.join(file).display());
    }
    Ok(())
}

/// A finished build in the target directory, for the tasks that need one.
pub fn in_target() -> Result<PathBuf> {
    needs::to_build()?;
    let prefix = build::target_dir()?.join("dist");
    dist::install(&prefix)?;
    Ok(prefix)
}
