//! Everything that a release consists of:
//!
//! ```text
//! git-deptool-<version>-<system>.tar.gz       helper, agents for all platforms, manual, completion
//! git-deptool_<version>_<architecture>.deb    the same for Debian
//! git-deptool-<version>-1.<architecture>.rpm  the same for Fedora, RHEL and SUSE
//! git-deptool-<version>.cdx.json              the parts of the programs
//! SHA256SUMS
//! ```
//!
//! It is reproducible: a build elsewhere from the same commit, with the same version of Rust and of zig, gives the same
//! bytes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use deptool_agent::shared::build::VERSION;

use crate::build::{self, Platform, System};
use crate::deb::{self, Compression};
use crate::dist::{self, Built};
use crate::process::Cmd;
use crate::sandbox::{BRANCH, Sandbox, default_git};
use crate::{emulation, parts, rpm};

const SUMS: &str = "SHA256SUMS";

/// Builds and packages everything for these systems into `out`, which is emptied first.
pub fn make(systems: &[System], out: &Path) -> Result<()> {
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("cannot empty {}", out.display()))?;
    }
    fs::create_dir_all(out)?;
    for (system, built) in dist::release(systems)? {
        package(&built, system, out, Compression::Best)?;
    }
    fs::write(out.join(format!("git-deptool-{VERSION}.cdx.json")), parts::list(systems)?)?;
    let sums = Cmd::new("sha256sum").dir(out).args(dist::files(out)?).check()?.stdout();
    fs::write(out.join(SUMS), &sums)?;
    print!("{sums}");
    Ok(())
}

/// Packages what was built for a system.
pub fn package(built: &Built, system: System, out: &Path, compression: Compression) -> Result<()> {
    let stage = tempfile::tempdir()?;
    let prefix = stage.path().join(name(system));
    dist::install(built, &prefix, &dist::USUAL)?;
    deb::settle(&prefix, deb::epoch()?)?;
    if let Some((debian, rpm)) = system.architecture() {
        deb::package(built, debian, &stage.path().join("deb"), out, compression)?;
        rpm::package(&prefix, rpm, &stage.path().join("rpm"), out, compression)?;
    }
    for document in ["CHANGELOG.md", "LICENSE", "README.md"] {
        fs::copy(build::workspace().join(document), prefix.join(document))?;
    }
    deb::settle(&prefix, deb::epoch()?)?;
    let gzip = match compression {
        Compression::Best => "gzip -9n",
        Compression::Fast => "gzip -1n",
    };
    let tar = Cmd::new("tar").args(["--create", "--sort=name", "--format=ustar", "--owner=root:0", "--group=root:0"]);
    let tar = tar.args(["--use-compress-program", gzip, "--file"]).arg(out.join(tarball(system)));
    tar.arg("--directory").arg(stage.path()).arg(name(system)).check()?;
    Ok(())
}

/// The directory in a tarball.
fn name(system: System) -> String {
    format!("git-deptool-{VERSION}-{}", system.name())
}

fn tarball(system: System) -> String {
    format!("{}.tar.gz", name(system))
}

/// Checks that what was released works once it is installed, and that it is what a build from this commit in another
/// directory gives.
pub fn check(out: &Path) -> Result<()> {
    let changed = Cmd::new("git").dir(build::workspace()).args(["status", "--porcelain"]).check()?.stdout();
    ensure!(changed.is_empty(), "commit first: what is not committed can't be built elsewhere\n{changed}");
    Cmd::new("sha256sum").dir(out).args(["--check", "--quiet", SUMS]).check()?;
    emulation::enable(Platform::Aarch64)?;
    let systems: Vec<System> = System::ALL.into_iter().filter(|system| out.join(tarball(*system)).exists()).collect();
    for system in &systems {
        try_out(out, *system)?;
    }
    let elsewhere = tempfile::tempdir()?;
    let (source, again) = (elsewhere.path().join("source"), elsewhere.path().join("release"));
    Cmd::new("git").args(["clone", "--quiet"]).arg(build::workspace()).arg(&source).check()?;
    let cargo = build::cargo_command().dir(&source).env("CARGO_TARGET_DIR", elsewhere.path().join("target"));
    cargo.args(["xtask", "release"]).arg(&again).args(systems.iter().map(|system| system.name())).inherit()?;
    let (first, second) = (fs::read_to_string(out.join(SUMS))?, fs::read_to_string(again.join(SUMS))?);
    let differing: Vec<&str> = first.lines().filter(|line| !second.lines().any(|other| other == *line)).collect();
    ensure!(first == second, "built elsewhere, these differ:\n{}", differing.join("\n"));
    println!("built elsewhere, everything is the same");
    Ok(())
}

/// Installs what there is for a system, each into an empty root, and deploys with it, if its programs can run here.
pub fn try_out(out: &Path, system: System) -> Result<()> {
    let root = tempfile::tempdir()?;
    for prefix in install(out, system, root.path())? {
        if system.architecture().is_some() {
            deploy(&prefix);
        } else {
            ensure!(fs::read(prefix.join("bin/git-deptool"))?.starts_with(&MACH_O), "no program for macOS");
        }
        println!("{}: {} works", system.name(), prefix.strip_prefix(root.path())?.display());
    }
    Ok(())
}

/// How programs of macOS begin (`MH_MAGIC_64` in Apple's mach-o/loader.h).
const MACH_O: [u8; 4] = [0xcf, 0xfa, 0xed, 0xfe];

/// Installs every package for a system into a directory of its own. Returns their prefixes.
fn install(out: &Path, system: System, into: &Path) -> Result<Vec<PathBuf>> {
    let made = |name: &str| fs::create_dir_all(into.join(name)).map(|()| into.join(name));
    let tar = made("tarball")?;
    Cmd::new("tar").arg("-xzf").arg(out.join(tarball(system))).arg("-C").arg(&tar).check()?;
    let mut prefixes = vec![tar.join(name(system))];
    if let Some((debian, rpm)) = system.architecture() {
        let root = made("debian")?;
        made("debian/var/lib/dpkg")?;
        // Git and ssh are not in the root.
        let dpkg = Cmd::new("dpkg").arg("--root").arg(&root).args(["--force-depends", "--force-architecture"]);
        dpkg.arg("--install").arg(out.join(deb::file_name(debian))).check()?;
        prefixes.push(root.join("usr"));
        let root = made("rpm")?;
        let install = Cmd::new("rpm").arg("--root").arg(&root).args(["--install", "--nodeps", "--ignorearch"]);
        install.arg(out.join(rpm::file_name(rpm))).check()?;
        prefixes.push(root.join("usr"));
    }
    Ok(prefixes)
}

/// The main workflow, with only the files below `prefix`.
#[track_caller]
pub fn deploy(prefix: &Path) {
    let sandbox = Sandbox::make(&default_git(), prefix);
    let repo = sandbox.repo("operator");
    repo.git(&["deptool", "init"]).ok();
    repo.write("web1/app/file", "1");
    repo.commit("Begin");
    repo.add_root("web1");
    repo.git(&["push", "cluster", BRANCH]).ok().says("deployed to 1 host");
    assert_eq!(sandbox.read("web1", "/var/lib/deptool/apps/app/current/file"), b"1");
}
