//! `cargo xtask dist`, `deb` and `release`: everything that a user installs.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use deptool_tests::build::{self, Platform, System};
use deptool_tests::process::find_program;
use deptool_tests::{deb, dist, release};

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
    let built = dist::build(&Platform::USUAL)?;
    let package = deb::package(&built, &deb::architecture()?, &dir, &dir, deb::Compression::Best)?;
    println!("{}", package.display());
    Ok(())
}

/// Makes everything that a release consists of, for these systems, or for all.
pub fn release(out: &str, systems: &[&str]) -> Result<()> {
    let systems = match systems {
        [] => System::ALL.to_vec(),
        some => some.iter().map(|name| System::parse(name)).collect::<Result<_>>()?,
    };
    needs::to_release()?;
    release::make(&systems, &std::path::absolute(out)?)
}

/// Installs and runs what was released, and makes it once more in a clone in another directory, which must give the
/// same bytes.
pub fn check_release(out: &str) -> Result<()> {
    needs::to_release()?;
    release::check(&std::path::absolute(out)?)
}

/// Installs a release build in the target directory for other tasks, with the agent for this computer only.
pub fn in_target() -> Result<PathBuf> {
    needs::to_build()?;
    let prefix = build::target_dir()?.join("dist");
    dist::install(&dist::build(&[Platform::here()])?, &prefix, &dist::USUAL)?;
    Ok(prefix)
}
