//! The attributes by which a file is recognised as unchanged without reading it.

use rustix::fs::{FileType, Stat};
use serde::{Deserialize, Serialize};

/// The attributes of a file or directory. If none of a file's has changed, neither has its content. If none of a directory's
/// has changed, it has the same entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// In bytes. 0 for a directory: its size depends on the file system, not on its entries alone.
    pub size: u64,
    pub modified: (i64, i64),
    /// The change time of the inode. Unlike the modification time, users can't set it.
    pub changed: (i64, i64),
    pub inode: u64,
    pub mode: u32,
    pub owner: (u32, u32),
}

impl Stamp {
    #[allow(clippy::unnecessary_cast, reason = "the types of times differ between platforms")]
    pub fn of(stat: &Stat) -> Stamp {
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        Stamp {
            size: if is_directory { 0 } else { stat.st_size as u64 },
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
            inode: stat.st_ino,
            mode: stat.st_mode,
            owner: (stat.st_uid, stat.st_gid),
        }
    }

    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    pub fn is_directory(&self) -> bool {
        self.kind() == FileType::Directory
    }
}
