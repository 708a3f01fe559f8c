//! Everything that a user installs, below one prefix.
//!
//! ```text
//! bin/            git-remote-deptool, git-deptool
//! lib/deptool/    agents for the platforms of hosts
//! share/          manual, the manifest's schema, completion for bash, zsh and fish
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::build::{self, Platform, System};

/// The files to install.
pub struct Built {
    /// The directory with the helper's binaries.
    pub binaries: PathBuf,
    /// Agents, with the names of their platforms.
    pub agents: Vec<(PathBuf, String)>,
}

/// Paths that differ between packages and other prefixes.
pub struct Places {
    /// The directory of zsh's functions, relative to the prefix.
    pub zsh: &'static str,
}

/// For `/usr/local`, `~/.local` and similar prefixes.
pub const USUAL: Places = Places { zsh: "share/zsh/site-functions" };
/// For a Debian package, which installs below `/usr`. (On Fedora, the usual places apply there, too.)
pub const DEBIAN: Places = Places { zsh: "share/zsh/vendor-completions" };

/// Builds the release: the helper for this computer, and agents for these platforms.
pub fn build(platforms: &[Platform]) -> Result<Built> {
    build::cargo(&["build", "--release", "-p", "git-remote-deptool", "--bins"])?;
    Ok(Built { binaries: build::target_dir()?.join("release"), agents: agents(platforms)? })
}

/// Builds what is released for systems of operators: helpers that need nothing of it, and agents for all platforms.
pub fn release(systems: &[System]) -> Result<Vec<(System, Built)>> {
    let agents = agents(&Platform::ALL)?;
    let build = |system: &System| Ok((*system, Built { agents: agents.clone(), binaries: build::helper(*system)? }));
    systems.iter().map(build).collect()
}

fn agents(platforms: &[Platform]) -> Result<Vec<(PathBuf, String)>> {
    platforms.iter().map(|platform| Ok((build::agent(*platform)?, platform.name().to_owned()))).collect()
}

/// Installs everything below a prefix. Users only need `prefix/bin` on their PATH.
pub fn install(built: &Built, prefix: &Path, places: &Places) -> Result<()> {
    build::install(prefix, &built.binaries, &built.agents)?;
    install_manual(&build::workspace().join("man"), &prefix.join("share"))?;
    install_completion(prefix, places)
}

/// `git-deptool.1` goes to `man/man1/`, and so on; the manifest's schema to `deptool/`.
fn install_manual(from: &Path, to: &Path) -> Result<()> {
    for page in std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let page: PathBuf = page?.path();
        let dir = match page.extension().and_then(|extension| extension.to_str()) {
            Some(section @ ("1" | "5" | "7" | "8")) => to.join(format!("man/man{section}")),
            Some("json") => to.join("deptool"),
            _ => continue,
        };
        copy(&page, &dir.join(page.file_name().context("a page has a name")?))?;
    }
    Ok(())
}

/// Where each shell looks for its completion of `git deptool`.
fn install_completion(prefix: &Path, places: &Places) -> Result<()> {
    let from = build::workspace().join("git-remote-deptool/src/cli/completion");
    let share = prefix.join("share");
    copy(&from.join("git-deptool.bash"), &share.join("bash-completion/completions/git-deptool"))?;
    copy(&from.join("_git-deptool"), &prefix.join(places.zsh).join("_git-deptool"))?;
    copy(&from.join("git-deptool.fish"), &share.join("fish/vendor_conf.d/git-deptool.fish"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to.parent().context("no directory")?)?;
    std::fs::copy(from, to).with_context(|| format!("cannot install {}", to.display()))?;
    Ok(())
}

/// The files that [`install`] created, relative to the prefix, sorted.
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
