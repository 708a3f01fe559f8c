//! Reads, replaces and syncs the agent's own files.
//!
//! - Files are opened without following links, must be regular files, and are never read beyond a limit. Anything else in
//!   their place is [`Damage`].
//! - Files are replaced by a rename, so that readers see either the old or the new content.
//! - Written files are durable after [`sync`], not before.
//!
//! What has to be durable before what, in a deployment:
//!
//! | | before | so that a power cut |
//! | --- | --- | --- |
//! | all that was staged, the journal, the unit that recovers | the first visible change | is followed by a recovery that knows what to undo |
//! | links and copies outside, the link to the generation | the verdict | leaves all of the deployment that is kept |
//! | the verdict | the answer to the helper | leaves the deployment kept |
//! | branch, ledger, log | the journal is emptied | is followed by a recovery that writes these again |
//!
//! Each flush of a disk takes milliseconds, however little there is to write. `syncfs` is one flush for all files, but it writes
//! out the whole file system: on a host with a busy database that takes seconds. So it is used while little waits to be written
//! on this machine. Else a few files are synced one by one. The kernel is asked to start writing all of them first; otherwise each
//! fsync would wait for a transaction of its own.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
};

use crate::host::state::{
    error::{Context, Damage, HostError},
    kind::Kind,
    layout::{Home, fsync},
};
use crate::shared::ordered::Ordered as _;

/// If there are more files and directories than this, syncing the whole file system is faster.
const FEW: usize = 64;
/// If no more than this waits to be written, in KiB, syncing the whole file system is as fast as syncing one file.
const LITTLE: u64 = 16 << 10;
/// If a few files take longer than this to sync, heartbeats are sent meanwhile.
const SLOW: Duration = Duration::from_millis(500);

/// The limits for the agent's files, in bytes: for records of a deployment, and for short notes.
pub const RECORD: u64 = 64 << 20;
pub const NOTE: u64 = 64 << 10;

/// How a file is opened for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// Keep the content, read and write anywhere.
    InPlace,
    /// Empty the file.
    Anew,
    /// Write at the end.
    Append,
}

/// The content of a file. `None` if it does not exist or is empty.
pub fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, HostError> {
    Ok(read_even_if_empty(path, limit)?.filter(|bytes| !bytes.is_empty()))
}

/// The content of a file. `None` if it does not exist.
pub fn read_even_if_empty(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, HostError> {
    let mut bytes = Vec::new();
    Ok(read_into(path, limit, &mut bytes)?.then_some(bytes))
}

/// Replace `bytes` with the content of a file. Returns false if it does not exist.
pub fn read_into(path: &Path, limit: u64, bytes: &mut Vec<u8>) -> Result<bool, HostError> {
    bytes.clear();
    let Some(file) = open(path)? else { return Ok(false) };
    let length = file.metadata().during("look at", path)?.len();
    if length > limit {
        return Err(Damage::of(path, format!("is longer than {limit} bytes")).into());
    }
    bytes.reserve_exact(length as usize);
    // To ask for more than there is would take another call.
    file.take(length).read_to_end(bytes).during("read", path)?;
    Ok(true)
}

/// Open a file for reading. `None` if it does not exist.
pub fn open(path: &Path) -> Result<Option<File>, HostError> {
    open_with(path, OFlags::RDONLY)
}

/// Open a file for writing. If it does not exist, it is created with mode 0600.
pub fn open_to_write(path: &Path, how: Writing) -> Result<File, HostError> {
    let flags = match how {
        Writing::InPlace | Writing::Anew => OFlags::RDWR | OFlags::CREATE,
        Writing::Append => OFlags::RDWR | OFlags::CREATE | OFlags::APPEND,
    };
    // O_CREAT never answers that the file is missing.
    let missing = || HostError::from(Damage::of(path, "was removed"));
    let file = open_with(path, flags)?.ok_or_else(missing)?;
    if how == Writing::Anew {
        // Not O_TRUNC: only now it is certain that this is a regular file.
        file.set_len(0).during("empty", path)?;
    }
    Ok(file)
}

fn open_with(path: &Path, flags: OFlags) -> Result<Option<File>, HostError> {
    // O_NONBLOCK, because opening a FIFO would wait for its other end.
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => return Err(not_a_file(path)),
        Err(error) => return Err(error).during("open", path),
    };
    let kind = rustix::fs::fstat(&file).during("look at", path)?.st_mode;
    if FileType::from_raw_mode(kind) != FileType::RegularFile {
        return Err(not_a_file(path));
    }
    Ok(Some(file))
}

fn not_a_file(path: &Path) -> HostError {
    Damage::of(path, format!("is {}, not a file", Kind::of(path))).into()
}

/// Replace the file at `path` atomically, by a rename. A file that has this content stays: a rename over another file makes
/// some file systems write the new one to the disk at once.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), HostError> {
    replace_with_mode(path, content, 0o600)
}

/// Like [`replace`], but a file that is written gets this mode.
pub fn replace_with_mode(path: &Path, content: &[u8], mode: u32) -> Result<(), HostError> {
    if read_even_if_empty(path, RECORD).is_ok_and(|old| old.as_deref() == Some(content)) {
        return Ok(());
    }
    let temporary = temporary_of(path);
    let write = || -> Result<(), HostError> {
        let mut file = create(&temporary, mode)?;
        file.write_all(content).during("write", &temporary)?;
        fs::rename(&temporary, path).during("replace", path)
    };
    or_nothing(write(), &temporary)
}

/// Create a new file. If a dead agent left a file of this name, it is removed first.
pub fn create(path: &Path, mode: u32) -> Result<File, HostError> {
    remove(path)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        rustix::fs::open(path, flags, Mode::from_raw_mode(mode as rustix::fs::RawMode)).during("create", path)?;
    Ok(File::from(file))
}

/// Point the symlink `link` to `target` atomically, by a rename.
pub fn replace_link(link: &Path, target: &str) -> Result<(), HostError> {
    let temporary = temporary_of(link);
    remove_all(&temporary)?;
    std::os::unix::fs::symlink(target, &temporary).during("make", &temporary)?;
    or_nothing(fs::rename(&temporary, link).during("replace", link), &temporary)
}

/// The temporary file of [`replace`] and [`replace_link`].
pub fn temporary_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

/// Remove the temporary file if the result is an error. If that fails, the next agent removes the file.
fn or_nothing(result: Result<(), HostError>, temporary: &Path) -> Result<(), HostError> {
    if result.is_err() {
        let _ = fs::remove_file(temporary);
    }
    result
}

/// Remove a file or link, if it exists.
pub fn remove(path: &Path) -> Result<(), HostError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).during("remove", path),
        _ => Ok(()),
    }
}

/// Remove a directory, if it exists and is empty.
pub fn remove_if_empty(directory: &Path) -> Result<(), HostError> {
    match fs::remove_dir(directory) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Err(error).during("remove", directory)
        }
        _ => Ok(()),
    }
}

/// Remove whatever is at `path`, with everything below it.
pub fn remove_all(path: &Path) -> Result<(), HostError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).during("remove", path),
        Ok(_) => remove(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).during("look at", path),
    }
}

/// Make `written` durable: files, directories with everything below them, and the directory entries of all these.
pub fn sync(home: &Home, written: &[PathBuf]) -> Result<(), HostError> {
    let mut all = names_of(home, written);
    if all.len() + written.len() > 1 && is_little_unwritten() {
        return sync_file_systems(home, all.iter().chain(written));
    }
    for path in written {
        add(path, &mut all)?;
    }
    if all.len() > FEW {
        home.sync_own()?;
        // Some of the written files may be on another file system.
        all = names_of(home, written);
        all.extend(written.iter().filter(|path| !path.is_symlink()).cloned());
    }
    sync_each(home, &all)
}

/// Whether little waits to be written on this machine, to all its disks together.
fn is_little_unwritten() -> bool {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
    };
    kib("Dirty:").zip(kib("Writeback:")).is_some_and(|(dirty, writing)| dirty + writing <= LITTLE)
}

/// Sync each file system that has any of `paths`.
fn sync_file_systems<'a>(home: &Home, paths: impl Iterator<Item = &'a PathBuf>) -> Result<(), HostError> {
    let mut synced = Vec::new();
    for path in paths {
        let meta = fs::symlink_metadata(path).during("look at", path)?;
        // The file system of a file or link is that of its directory, which is among the paths. On an overlay, files may have
        // other device numbers.
        if meta.is_dir() && !synced.contains(&meta.dev()) {
            home.sync_file_system(path)?;
            synced.push(meta.dev());
        }
    }
    Ok(())
}

/// The parent directories of `written`. If the state directory is among these, then all directories above it, because they
/// may be new, too.
fn names_of(home: &Home, written: &[PathBuf]) -> BTreeSet<PathBuf> {
    let above = |path: &PathBuf| match path == home.directory() {
        true => {
            path.ancestors().skip(1).take_while(|above| above.starts_with(home.root())).map(Path::to_owned).collect()
        }
        false => Vec::from_iter(path.parent().map(Path::to_owned)),
    };
    written.iter().flat_map(above).into_set()
}

/// Add `path` and everything below it to `all`. Stops when there are more than [`FEW`]. A symlink or socket needs no sync of its
/// own: syncing its directory is enough.
fn add(path: &Path, all: &mut BTreeSet<PathBuf>) -> Result<(), HostError> {
    let kind = fs::symlink_metadata(path).during("look at", path)?.file_type();
    if !(kind.is_dir() || kind.is_file()) || all.len() > FEW {
        return Ok(());
    }
    all.insert(path.to_owned());
    if kind.is_dir() {
        for entry in fs::read_dir(path).during("read", path)? {
            add(&entry.during("read", path)?.path(), all)?;
        }
    }
    Ok(())
}

fn sync_each(home: &Home, paths: &BTreeSet<PathBuf>) -> Result<(), HostError> {
    let mut open = Vec::with_capacity(paths.len());
    for path in paths {
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during("open", path)?;
        begin_writing(&file, 0);
        open.push((file, path));
    }
    let began = Instant::now();
    let (mut left, sync) = (open.iter(), |(file, path): &(OwnedFd, &PathBuf)| fsync(file).during("sync", path));
    while let Some(one) = left.next() {
        sync(one)?;
        if began.elapsed() > SLOW {
            return home.wait_for(|| left.try_for_each(sync));
        }
    }
    Ok(())
}

/// Have the kernel begin to write a file from `offset` on, which a later sync waits for. That is all it does, so errors do not
/// matter.
///
/// The advice that a file is not needed begins that, too, but takes it out of memory, where those who use it next want it.
#[allow(unsafe_code)]
pub fn begin_writing(file: impl AsFd, offset: u64) {
    let file = file.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and no memory is passed.
    unsafe { libc::sync_file_range(file, offset as libc::off64_t, 0, libc::SYNC_FILE_RANGE_WRITE) };
}
