//! The kind of file at a path.

use std::{fmt, fs, path::Path};

/// The kind of file at a path. A symlink is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Nothing,
    File,
    Directory,
    Symlink,
    /// A FIFO, a socket or a device.
    Special,
}

impl Kind {
    /// The kind of file at `path`. An error counts as nothing.
    pub fn of(path: &Path) -> Kind {
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_symlink() => Kind::Symlink,
            Ok(meta) if meta.is_dir() => Kind::Directory,
            Ok(meta) if meta.is_file() => Kind::File,
            Ok(_) => Kind::Special,
            Err(_) => Kind::Nothing,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Nothing => "nothing",
            Kind::File => "a file",
            Kind::Directory => "a directory",
            Kind::Symlink => "a symlink",
            Kind::Special => "a special file",
        })
    }
}
