//! A Debian package of what [`crate::dist`] installs.
//!
//! Builds are reproducible: all times are that of the last commit, or `SOURCE_DATE_EPOCH`, and the owner is always
//! root.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use deptool_agent::shared::build::VERSION;

use crate::{
    build,
    dist::{self, Built},
    process::Cmd,
};

/// The directory for the documentation that Debian requires.
const DOC: &str = "usr/share/doc/git-deptool";

const COPYRIGHT: &str = "\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: git-deptool

Files: *
Copyright: the authors of git-deptool
License: Apache-2.0
 On Debian systems the text of this license is in
 /usr/share/common-licenses/Apache-2.0.
";

/// What a package of any kind says about itself in one line.
pub const SUMMARY: &str = "deploy configuration to hosts with git push";

/// The rest of the description, from the end of its first line.
const DESCRIPTION: &str = "
 A branch holds one directory per host and in it one per application. Pushing it
 to a remote such as deptool::web1 makes the host's files and systemd units what
 the commit says, over ssh and all at once, or leaves everything as it was.
 Nothing has to be installed on hosts.
";

/// The compression of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Best,
    /// For tests, whose binaries are large.
    Fast,
}

pub fn file_name(architecture: &str) -> String {
    format!("git-deptool_{VERSION}_{architecture}.deb")
}

/// Makes a package for an architecture that has this name in Debian, and returns its path. `stage` is a directory for its
/// contents, which is emptied first.
pub fn package(
    built: &Built,
    architecture: &str,
    stage: &Path,
    out: &Path,
    compression: Compression,
) -> Result<PathBuf> {
    let root = stage.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot empty {}", root.display()))?;
    }
    let usr = root.join("usr");
    dist::install(built, &usr, &dist::DEBIAN)?;
    write(&root.join(DOC).join("copyright"), COPYRIGHT)?;
    copy(&build::workspace().join("CHANGELOG.md"), &root.join(DOC).join("changelog"))?;
    compress(&root)?;
    let control = control(&root, architecture)?;
    write(&root.join("DEBIAN/control"), &control)?;
    let sums = sums(&root)?;
    write(&root.join("DEBIAN/md5sums"), &sums)?;
    let epoch = epoch()?;
    settle(&root, epoch)?;

    fs::create_dir_all(out)?;
    let package = out.join(file_name(architecture));
    // The output of xz depends on the number of threads.
    let compression = match compression {
        Compression::Best => "-Zxz",
        Compression::Fast => "-Znone",
    };
    let build = Cmd::new("dpkg-deb").args(["--root-owner-group", "--threads-max=1", compression, "--build"]);
    build.arg(&root).arg(&package).env("SOURCE_DATE_EPOCH", epoch.to_string()).check()?;
    Ok(package)
}

fn control(root: &Path, architecture: &str) -> Result<String> {
    let size: u64 =
        dist::files(root)?.iter().map(|file| root.join(file).symlink_metadata().map_or(0, |m| m.len())).sum();
    let libc = libc_of(&[root.join("usr/bin/git-deptool"), root.join("usr/bin/git-remote-deptool")])?;
    Ok(format!(
        "Package: git-deptool\nVersion: {VERSION}\nArchitecture: {architecture}\n\
         Maintainer: git-deptool maintainers <maintainers@git-deptool.invalid>\nInstalled-Size: {}\n\
         Depends: git (>= 1:2.30), openssh-client{libc}\nSection: vcs\nPriority: optional\n\
         Description: {SUMMARY}{DESCRIPTION}",
        size.div_ceil(1024)
    ))
}

/// What depends on the version of glibc that the binaries need: the newest symbol version that they refer to. Nothing for
/// static binaries.
fn libc_of(binaries: &[PathBuf]) -> Result<String> {
    let mut newest: Option<u32> = None;
    for binary in binaries {
        let bytes = fs::read(binary)?;
        let names = bytes.windows(8).enumerate().filter(|(_, window)| window == b"GLIBC_2.").map(|(at, _)| at + 8);
        for at in names {
            let digits: String = bytes[at..].iter().take_while(|b| b.is_ascii_digit()).map(|b| *b as char).collect();
            newest = newest.max(digits.parse().ok());
        }
    }
    Ok(newest.map(|minor| format!(", libc6 (>= 2.{minor}), libgcc-s1")).unwrap_or_default())
}

/// Compresses the manual and the changelog, as Debian requires. Without name and time, the output of gzip is
/// reproducible.
fn compress(root: &Path) -> Result<()> {
    for file in dist::files(root)? {
        let is_page = file.starts_with("usr/share/man");
        if is_page || file.ends_with("changelog") {
            Cmd::new("gzip").args(["-9", "-n", "-f"]).arg(root.join(file)).check()?;
        }
    }
    Ok(())
}

/// One line per file of the package, in the format of md5sum(1), for `dpkg --verify`.
fn sums(root: &Path) -> Result<String> {
    let files = dist::files(root)?.into_iter().filter(|file| !file.starts_with("DEBIAN"));
    Ok(Cmd::new("md5sum").dir(root).args(files).check()?.stdout())
}

/// The time of all files in a package, in seconds since 1970.
pub fn epoch() -> Result<u64> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        return epoch.parse().context("SOURCE_DATE_EPOCH is not a number of seconds");
    }
    let log = Cmd::new("git").dir(build::workspace()).args(["log", "-1", "--format=%ct"]).check();
    let log = log.context("set SOURCE_DATE_EPOCH where there is no Git repository")?;
    log.line().parse().context("the last commit has no time")
}

/// The architecture of this computer.
pub fn architecture() -> Result<String> {
    Ok(Cmd::new("dpkg").arg("--print-architecture").check()?.line())
}

/// Sets modes and times that do not depend on who builds the package, and when.
pub fn settle(place: &Path, epoch: u64) -> Result<()> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(epoch);
    let metadata = place.symlink_metadata()?;
    if metadata.is_dir() {
        for entry in fs::read_dir(place)? {
            settle(&entry?.path(), epoch)?;
        }
    }
    let is_program = metadata.is_dir() || metadata.permissions().mode() & 0o100 != 0;
    fs::set_permissions(place, Permissions::from_mode(if is_program { 0o755 } else { 0o644 }))?;
    File::open(place)?.set_times(FileTimes::new().set_modified(time).set_accessed(time))?;
    Ok(())
}

fn write(to: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(to.parent().context("no directory")?)?;
    fs::write(to, text).with_context(|| format!("cannot write {}", to.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let text = fs::read_to_string(from).with_context(|| format!("cannot read {}", from.display()))?;
    write(to, &text)
}
