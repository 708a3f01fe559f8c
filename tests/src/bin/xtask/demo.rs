//! `cargo xtask demo`: shows the demo, or draws it for the README.

use std::fs;
use std::io::IsTerminal as _;

use anyhow::{Context as _, Result};
use deptool_tests::build;
use deptool_tests::demo::{self, Step, picture};
use deptool_tests::sandbox::{Sandbox, default_git};

use crate::{dist, needs};

pub fn run() -> Result<()> {
    println!("Building everything into target/dist (takes minutes the first time) ...");
    let prefix = dist::in_target()?;
    let dir = build::target_dir()?.join("demo");
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    fs::create_dir_all(&dir)?;
    let bold = std::io::stdout().is_terminal();
    demo::run(&Sandbox::at(&dir, &default_git(), &prefix), &mut |step| match step {
        Step::Explanation(text) if bold => println!("\n\x1b[1m# {text}\x1b[0m"),
        step => print!("{step}"),
    })?;
    println!("\nThat's all. The repositories and the hosts are in {}.", dir.display());
    Ok(())
}

/// Draws the picture in the README.
pub fn draw() -> Result<()> {
    needs::to_build()?;
    let svg = picture::draw(&Sandbox::new())?;
    let file = picture::path();
    fs::write(&file, svg).with_context(|| format!("cannot write {}", file.display()))?;
    println!("{}", file.display());
    Ok(())
}
