//! What is in a rendered directory, in the order of Git's index.

use std::{
    fs::{FileType, Metadata},
    num::NonZero,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use deptool_agent::shared::name::{AppName, HostName, check_component};
use gix::{
    bstr::{BString, ByteSlice},
    index::entry::{Stat, stat::Time},
};

use super::SnapshotError;

/// Hosts refuse directories that are deeper.
const MAX_DEPTH: usize = 64;
/// More than this are in each other's way.
const MAX_THREADS: usize = 8;

/// A file or a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    /// Below the directory, with slashes.
    pub path: BString,
    pub kind: Kind,
    pub stat: Stat,
}

/// As far as trees know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Regular,
    Executable,
    Link,
}

/// An entry of a directory. Its path ends with a slash if it is one itself, which makes the order that of the index.
struct Entry {
    path: BString,
    place: PathBuf,
    is_directory: bool,
}

/// All files and links below `root`. Directories without any are left out, as in Git.
///
/// Hosts are shared out to threads: most of the time goes into the kernel, for one `stat` per file.
pub(super) fn walk(root: &Path) -> Result<Vec<File>, SnapshotError> {
    let top = read(root, b"", 0)?;
    let parts: Vec<Mutex<Result<Vec<File>, SnapshotError>>> = top.iter().map(|_| Mutex::new(Ok(Vec::new()))).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((entry, part)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            top.get(at).zip(parts.get(at))
        } {
            let mut files = Vec::new();
            let result = visit(entry, 0, &mut files).map(|()| files);
            *part.lock().unwrap_or_else(PoisonError::into_inner) = result;
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS).min(top.len());
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    let mut files = Vec::new();
    for part in parts {
        files.append(&mut part.into_inner().unwrap_or_else(PoisonError::into_inner)?);
    }
    Ok(files)
}

/// What `place` is and has, added to `files`.
fn visit(entry: &Entry, depth: usize, files: &mut Vec<File>) -> Result<(), SnapshotError> {
    if entry.is_directory {
        for entry in read(&entry.place, &entry.path, depth + 1)? {
            visit(&entry, depth + 1, files)?;
        }
        return Ok(());
    }
    let metadata = entry.place.symlink_metadata().map_err(|source| unreadable(&entry.place, source))?;
    match kind_of(&metadata) {
        Some(kind) => files.push(File { path: entry.path.clone(), kind, stat: stat_of(&metadata) }),
        None => return Err(bad(&entry.path, what_else(metadata.file_type()))),
    }
    Ok(())
}

/// The entries of a directory, sorted, their names checked as far as a name can be judged at this depth.
fn read(place: &Path, prefix: &[u8], depth: usize) -> Result<Vec<Entry>, SnapshotError> {
    let failed = |source| unreadable(place, source);
    if depth > MAX_DEPTH {
        return Err(bad(prefix, "directories are nested too deeply"));
    }
    let mut entries = Vec::new();
    for entry in place.read_dir().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (name, is_directory) = (entry.file_name(), entry.file_type().map_err(failed)?.is_dir());
        let name = name.as_bytes();
        if depth == 0 && name == b".git" {
            continue;
        }
        let mut path = BString::from(prefix);
        path.extend_from_slice(name);
        check(name, is_directory, depth).map_err(|why| bad(&path, &why))?;
        if is_directory {
            path.push(b'/');
        }
        entries.push(Entry { path, place: entry.path(), is_directory });
    }
    entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// What is wrong with a name at this depth: hosts are at 0, apps at 1.
fn check(name: &[u8], is_directory: bool, depth: usize) -> Result<(), String> {
    check_component(name)?;
    match depth {
        0 if is_directory && name == b"all" => Err("the name stands for all hosts".into()),
        // Such as '.github': whoever begins a name with a dot knows that it is no host's.
        0 if is_directory && !name.starts_with(b".") => {
            HostName::parse(name).map(drop).map_err(|error| error.to_string())
        }
        1 if is_directory => AppName::parse(name).map(drop).map_err(|error| error.to_string()),
        _ => Ok(()),
    }
}

/// What trees know of a file; None if they know nothing of its kind.
pub(super) fn kind_of(metadata: &Metadata) -> Option<Kind> {
    match metadata.file_type() {
        link if link.is_symlink() => Some(Kind::Link),
        // As Git: what the owner may do is what counts.
        file if file.is_file() && metadata.permissions().mode() & 0o100 != 0 => Some(Kind::Executable),
        file if file.is_file() => Some(Kind::Regular),
        _ => None,
    }
}

fn what_else(kind: FileType) -> &'static str {
    match kind {
        fifo if fifo.is_fifo() => "it is a pipe",
        socket if socket.is_socket() => "it is a socket",
        device if device.is_block_device() || device.is_char_device() => "it is a device",
        _ => "it is neither a file nor a link",
    }
}

/// As in Git's index, which keeps the low 32 bits of everything.
pub(super) fn stat_of(metadata: &Metadata) -> Stat {
    let time = |seconds: i64, nanoseconds: i64| Time { secs: seconds as u32, nsecs: nanoseconds as u32 };
    Stat {
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
        dev: metadata.dev() as u32,
        ino: metadata.ino() as u32,
        uid: metadata.uid(),
        gid: metadata.gid(),
        size: metadata.size() as u32,
    }
}

fn unreadable(place: &Path, source: std::io::Error) -> SnapshotError {
    SnapshotError::Io { path: place.to_owned(), source }
}

fn bad(path: &[u8], why: &str) -> SnapshotError {
    SnapshotError::Name { path: path.trim_end_with(|c| c == '/').into(), why: why.into() }
}
