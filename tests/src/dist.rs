//! All that a user installs, under one prefix.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::build::{self, Platform};

/// Builds for use and installs helper, git-deptool, agents for these platforms, and the manual. With `prefix/bin` on
/// PATH nothing else is needed.
pub fn install(prefix: &Path, platforms: &[Platform]) -> Result<()> {
    build::cargo(&["build", "--release", "-p", "git-remote-deptool", "--bins"])?;
    let mut agents = Vec::new();
    for platform in platforms {
        agents.push((build::agent(*platform)?, platform.name().to_owned()));
    }
    build::install(prefix, &build::target_dir()?.join("release"), &agents)?;
    install_manual(&build::workspace().join("man"), &prefix.join("share"))
}

/// `git-deptool.1` goes to `man/man1/`, and so on; the manifest's schema to `deptool/`.
fn install_manual(from: &Path, to: &Path) -> Result<()> {
    let Ok(pages) = std::fs::read_dir(from) else { return Ok(()) };
    for page in pages {
        let page: PathBuf = page?.path();
        let Some(name) = page.file_name() else { continue };
        let dir = match page.extension().and_then(|extension| extension.to_str()) {
            Some(section @ ("1" | "5" | "7" | "8")) => to.join(format!("man/man{section}")),
            Some("json") => to.join("deptool"),
            _ => continue,
        };
        std::fs::create_dir_all(&dir)?;
        std::fs::copy(&page, dir.join(name)).with_context(|| format!("cannot install {}", page.display()))?;
    }
    Ok(())
}

/// The files that [`install`] made, relative to the prefix, sorted.
pub fn files(prefix: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories = vec![prefix.to_owned()];
    while let Some(dir) = directories.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(prefix)?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}
