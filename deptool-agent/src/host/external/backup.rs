//! Keeps foreign files.
//!
//! What was at an external path before the first deployment is kept in `state/backups/` for as long as the path is
//! claimed. What replaced a deployed file is kept in `state/kept/<generation>/`, for people. Neither is kept next to
//! the path, because programs that read whole directories would take it for configuration.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use crate::{
    host::{
        external::content::digest_of,
        state::{
            durable,
            error::{Context, HostError},
            heal::set_aside,
            kind::Kind,
            layout::{Home, make_directory},
            ledger::Content,
        },
    },
    shared::{
        name::AppName,
        path::{ExternalPath, TreePath},
        text::hex,
    },
};

/// A longer name is cut off, and ends in a digest.
const LONG: usize = 200;

/// The path of the backup of what was at `path` before the first deployment.
pub fn of(home: &Home, path: &ExternalPath) -> PathBuf {
    let mut name: String = path.as_str()[1..].replace('%', "%25").replace('/', "%2F");
    if name.len() > LONG {
        let digest = hex(&Sha256::digest(name.as_bytes())[..16]);
        let cut = (0..LONG - 40).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
        name.truncate(cut);
        name.push_str(&format!("~{digest}"));
    }
    home.backups().join(name)
}

/// Whether there is a backup.
pub fn exists(home: &Home, path: &ExternalPath) -> bool {
    matches!(Kind::of(&of(home, path)), Kind::File | Kind::Symlink)
}

/// The content of the backup, or `None` if there is none.
pub fn content(home: &Home, path: &ExternalPath) -> Result<Option<Content>, HostError> {
    let backup = of(home, path);
    match Kind::of(&backup) {
        Kind::Symlink => {
            let target = fs::read_link(&backup).during("read", &backup)?;
            Ok(Some(Content::Link(target.to_string_lossy().into_owned())))
        }
        Kind::File => Ok(Some(Content::File(digest_of(&backup)?))),
        Kind::Nothing | Kind::Directory | Kind::Special => Ok(None),
    }
}

/// The path for a new backup of `path`. An unknown backup in its place is moved away.
pub fn make_room(home: &Home, path: &ExternalPath) -> Result<PathBuf, HostError> {
    make_directory(&home.backups(), 0o700)?;
    let backup = of(home, path);
    if Kind::of(&backup) != Kind::Nothing {
        set_aside(home, &backup)?;
    }
    Ok(backup)
}

/// Where generation `number` keeps what it replaced at `path`, which is relative to the root.
pub fn kept_path(home: &Home, number: u32, path: &Path) -> PathBuf {
    home.kept().join(number.to_string()).join("root").join(path)
}

/// Move what somebody put in the place of a symlink or directory of deptool's own to `kept/`. No rename replaces a directory.
pub fn keep_own(home: &Home, number: u32, path: &Path, ours: Kind) -> Result<(), HostError> {
    let found = Kind::of(path);
    if found == ours || found == Kind::Nothing {
        return Ok(());
    }
    let target = kept_path(home, number, path.strip_prefix(home.root()).unwrap_or(path));
    make_parents(home, &target)?;
    durable::remove_all(&target)?;
    fs::rename(path, &target).during("move away", path)
}

/// Where generation `number` keeps what it replaced of an app's files.
pub fn kept_file(home: &Home, number: u32, app: &AppName, file: &TreePath) -> PathBuf {
    home.kept().join(number.to_string()).join("apps").join(app.as_str()).join(file.as_path())
}

/// Make the directories above `path`, which is below `kept/`.
pub fn make_parents(home: &Home, path: &Path) -> Result<(), HostError> {
    make_directory(&home.kept(), 0o700)?;
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).during("create", parent)
}

/// Copy a file or symlink with its mode, owner and time, or create a hard link if both are on the same file system. The
/// paths are relative to the directories.
pub fn copy(from: impl AsFd, source: &Path, to: impl AsFd, target: &Path) -> Result<(), HostError> {
    match rustix::fs::linkat(&from, source, &to, target, AtFlags::empty()) {
        Ok(()) => return Ok(()),
        Err(Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK) => {}
        Err(error) => return Err(error).during("back up", source),
    }
    let stat = rustix::fs::statat(&from, source, AtFlags::SYMLINK_NOFOLLOW).during("look at", source)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => {
            let link = rustix::fs::readlinkat(&from, source, Vec::new()).during("read", source)?;
            rustix::fs::symlinkat(&link, &to, target).during("make", target)?;
        }
        FileType::RegularFile => {
            let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut read = File::from(rustix::fs::openat(&from, source, read, Mode::empty()).during("open", source)?);
            let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let write = rustix::fs::openat(&to, target, write, Mode::from_raw_mode(0o600)).during("create", target)?;
            let mut write = File::from(write);
            io::copy(&mut read, &mut write).during("write", target)?;
            let mode = Mode::from_raw_mode(stat.st_mode);
            if rustix::process::geteuid().is_root() {
                let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
                rustix::fs::fchown(&write, Some(uid), Some(gid)).during("change the owner of", target)?;
            }
            rustix::fs::fchmod(&write, mode).during("change the mode of", target)?;
            write.sync_data().during("sync", target)?;
        }
        _ => return Err(HostError::External(format!("'{}' is not a file that can be kept", source.display()))),
    }
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    rustix::fs::utimensat(&to, target, &times, AtFlags::SYMLINK_NOFOLLOW).during("set the time of", target)
}

/// Move what is at `source` to `target`. Both are below deptool's own directory.
pub fn link_kept(home: &Home, source: &Path, target: &Path) -> Result<(), HostError> {
    if Kind::of(target) != Kind::Nothing || !matches!(Kind::of(source), Kind::File | Kind::Symlink) {
        return Ok(());
    }
    make_parents(home, target)?;
    copy(CWD, source, CWD, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_has_a_name_that_tells_of_what_and_is_never_too_long() {
        let home = Home::new(Path::new("/"));
        let name = |path: &str| of(&home, &ExternalPath::parse(path).unwrap()).file_name().unwrap().to_owned();
        assert_eq!(name("/etc/a b/100%"), "etc%2Fa b%2F100%25");
        let long = format!("/{}", ["ä".repeat(120)].join("/"));
        assert!(name(&long).len() <= LONG && name(&long) != name(&format!("{long}x")));
    }
}
