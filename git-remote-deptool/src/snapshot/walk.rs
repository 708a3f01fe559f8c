//! Checks that everything in a rendered directory can be deployed, and counts the files.

use std::{
    ffi::{OsStr, OsString},
    fs::FileType,
    os::unix::{ffi::OsStrExt, fs::FileTypeExt},
    path::Path,
};

use deptool_agent::shared::name::{AppName, HostName, check_component};
use gix::bstr::{BString, ByteSlice};

use super::SnapshotError;

/// The deepest nesting of directories that hosts accept.
const MAX_DEPTH: usize = 64;

/// A file or directory at the top level.
pub(super) struct Top {
    name: OsString,
    /// The number of files and symlinks in it.
    pub files: usize,
}

impl Top {
    pub fn name(&self) -> &OsStr {
        &self.name
    }
}

/// The number of files and symlinks in total.
pub(super) fn total(tops: &[Top]) -> usize {
    tops.iter().map(|top| top.files).sum()
}

/// The top-level entries of `root`. Fails for the first name below it, in sorted order, that can't be deployed.
pub(super) fn walk(root: &Path) -> Result<Vec<Top>, SnapshotError> {
    let mut tops = Vec::new();
    read(root, &BString::default(), 0, &mut |name, files| tops.push(Top { name: name.to_owned(), files }))?;
    Ok(tops)
}

/// Check a directory. `each` is called with every name, and the number of files in it.
fn read(
    place: &Path,
    prefix: &BString,
    depth: usize,
    each: &mut dyn FnMut(&OsStr, usize),
) -> Result<(), SnapshotError> {
    let failed = |source| SnapshotError::Io { path: place.to_owned(), source };
    if depth > MAX_DEPTH {
        return Err(bad(prefix, "directories are nested too deeply"));
    }
    let entries = place.read_dir().map_err(failed)?;
    let mut entries = entries.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    entries.sort_unstable_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (name, kind) = (entry.file_name(), entry.file_type().map_err(failed)?);
        if depth == 0 && name == ".git" {
            continue;
        }
        let mut path = prefix.clone();
        path.extend_from_slice(name.as_bytes());
        check(name.as_bytes(), kind.is_dir(), depth).map_err(|why| bad(&path, &why))?;
        let mut files = 0;
        match kind {
            directory if directory.is_dir() => {
                path.push(b'/');
                read(&entry.path(), &path, depth + 1, &mut |_, count| files += count)?;
            }
            file if file.is_file() || file.is_symlink() => files = 1,
            other => return Err(bad(&path, what_else(other))),
        }
        each(&name, files);
    }
    Ok(())
}

/// Check a name at this depth: hosts are at 0, apps at 1.
fn check(name: &[u8], is_directory: bool, depth: usize) -> Result<(), String> {
    check_component(name)?;
    match depth {
        0 if is_directory && name == b"all" => Err("the name stands for all hosts".into()),
        // A name that begins with a dot, such as '.github', is not a host.
        0 if is_directory && !name.starts_with(b".") => {
            HostName::parse(name).map(drop).map_err(|error| error.to_string())
        }
        1 if is_directory => AppName::parse(name).map(drop).map_err(|error| error.to_string()),
        _ => Ok(()),
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

fn bad(path: &[u8], why: &str) -> SnapshotError {
    SnapshotError::Name { path: path.trim_end_with(|c| c == '/').into(), why: why.into() }
}
