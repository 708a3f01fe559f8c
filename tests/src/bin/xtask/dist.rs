//! `cargo xtask dist` and `cargo xtask deb`: everything that a user installs.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use deptool_tests::build::{self, Platform};
use deptool_tests::process::find_program;
use deptool_tests::{deb, dist};

use crate::needs;

pub fn run(prefix: &str, platforms: &[Platform]) -> Result<()> {
    needs::to_build()?;
    let prefix = std::path::absolute(Path::new(prefix))?;
    dist::install(&dist::build(platforms)?, &prefix, &dist::USUAL)?;
    for file in dist::files(&prefix)? {
        println!("{}", prefix.join(file).display());
    }
    Ok(())
}

/// Makes a Debian package in the target directory, for this computer's architecture.
pub fn deb() -> Result<()> {
    needs::to_build()?;
    if find_program("dpkg-deb").is_none() {
        bail!("missing: dpkg-deb");
    }
    let dir = build::target_dir()?.join("debian");
    let package = deb::package(&dist::build(&Platform::USUAL)?, &dir, &dir, deb::Compression::Xz)?;
    println!("{}", package.display());
    Ok(())
}

/// Installs a release build in the target directory for other tasks, with the agent for this computer only.
pub fn in_target() -> Result<PathBuf> {
    needs::to_build()?;
    let prefix = build::target_dir()?.join("dist");
    dist::install(&dist::build(&[Platform::here()])?, &prefix, &dist::USUAL)?;
    Ok(prefix)
}
