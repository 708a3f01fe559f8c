//! `cargo xtask site`: the manual and the pages of `doc/` as a website.

use std::fs;

use anyhow::{Context as _, Result};
use deptool_tests::{build, site};

use crate::needs;

pub fn run() -> Result<()> {
    needs::to_make_site()?;
    let dir = build::target_dir()?.join("site");
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    site::build(&dir)?;
    println!("{}", dir.join("index.html").display());
    Ok(())
}
