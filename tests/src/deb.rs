//! A Debian package of what [`crate::dist`] installs.
//!
//! Builds are reproducible: all times are that of the last commit, or `SOURCE_DATE_EPOCH`, and the owner is always
//! root.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};

use crate::{
    build::{self, Version},
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

const DESCRIPTION: &str = "\
deploy configuration to hosts with git push
 A branch holds one directory per host and in it one per application. Pushing it
 to a remote such as deptool::web1 makes the host's files and systemd units what
 the commit says, over ssh and all at once, or leaves everything as it was.
 Nothing has to be installed on hosts.
";

/// The compression of the package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As usual for packages.
    Xz,
    /// Fast, for tests, whose binaries are large.
    None,
}

/// Makes a package, and returns its path. `stage` is a directory for its contents, which is emptied first.
pub fn package(built: &Built, stage: &Path, out: &Path, compression: Compression) -> Result<PathBuf> {
    let root = stage.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot empty {}", root.display()))?;
    }
    let usr = root.join("usr");
    dist::install(built, &usr, &dist::DEBIAN)?;
    let version = Version::of(&usr.join("bin/git-deptool"))?.version;
    write(&root.join(DOC).join("copyright"), COPYRIGHT)?;
    copy(&build::workspace().join("CHANGELOG.md"), &root.join(DOC).join("changelog"))?;
    compress(&root)?;
    let architecture = Cmd::new("dpkg").arg("--print-architecture").check()?.line();
    let control = control(&root, &version, &architecture)?;
    write(&root.join("DEBIAN/control"), &control)?;
    let sums = sums(&root)?;
    write(&root.join("DEBIAN/md5sums"), &sums)?;
    let epoch = epoch()?;
    settle(&root, SystemTime::UNIX_EPOCH + Duration::from_secs(epoch))?;

    fs::create_dir_all(out)?;
    let package = out.join(format!("git-deptool_{version}_{architecture}.deb"));
    // The output of xz depends on the number of threads.
    let compression = match compression {
        Compression::Xz => "-Zxz",
        Compression::None => "-Znone",
    };
    let build = Cmd::new("dpkg-deb").args(["--root-owner-group", "--threads-max=1", compression, "--build"]);
    build.arg(&root).arg(&package).env("SOURCE_DATE_EPOCH", epoch.to_string()).check()?;
    Ok(package)
}

fn control(root: &Path, version: &str, architecture: &str) -> Result<String> {
    let size: u64 =
        dist::files(root)?.iter().map(|file| root.join(file).symlink_metadata().map_or(0, |m| m.len())).sum();
    let libc = libc_of(&[root.join("usr/bin/git-deptool"), root.join("usr/bin/git-remote-deptool")])?;
    Ok(format!(
        "Package: git-deptool\nVersion: {version}\nArchitecture: {architecture}\n\
         Maintainer: git-deptool maintainers <maintainers@git-deptool.invalid>\nInstalled-Size: {}\n\
         Depends: git (>= 1:2.30), openssh-client, {libc}\nSection: vcs\nPriority: optional\n\
         Description: {DESCRIPTION}",
        size.div_ceil(1024)
    ))
}

/// The version of glibc that the binaries need: the newest symbol version that they refer to.
fn libc_of(binaries: &[PathBuf]) -> Result<String> {
    let mut newest = (2, 0);
    for binary in binaries {
        let bytes = fs::read(binary)?;
        let names = bytes.windows(8).enumerate().filter(|(_, window)| window == b"GLIBC_2.").map(|(at, _)| at + 8);
        for at in names {
            let digits: String = bytes[at..].iter().take_while(|b| b.is_ascii_digit()).map(|b| *b as char).collect();
            newest = newest.max((2, digits.parse().unwrap_or(0)));
        }
    }
    ensure!(newest.1 > 0, "the binaries name no version of glibc");
    Ok(format!("libc6 (>= {}.{}), libgcc-s1", newest.0, newest.1))
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

/// The time of all files in the package, in seconds since 1970.
fn epoch() -> Result<u64> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        return epoch.parse().context("SOURCE_DATE_EPOCH is not a number of seconds");
    }
    let log = Cmd::new("git").dir(build::workspace()).args(["log", "-1", "--format=%ct"]).check();
    let log = log.context("set SOURCE_DATE_EPOCH where there is no Git repository")?;
    log.line().parse().context("the last commit has no time")
}

/// Sets modes and times that do not depend on who builds the package, and when.
fn settle(place: &Path, time: SystemTime) -> Result<()> {
    let metadata = place.symlink_metadata()?;
    if metadata.is_dir() {
        for entry in fs::read_dir(place)? {
            settle(&entry?.path(), time)?;
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
