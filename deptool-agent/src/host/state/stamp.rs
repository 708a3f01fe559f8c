//! The attributes by which a file is recognised as unchanged without reading it.

use rustix::fs::{FileType, Stat};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// The attributes of a file or directory. If none of a file's has changed, neither has its content. If none of a directory's
/// has changed, it has the same entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// All stamps have the same length, which is faster than a number after another: a host may have ten thousand.
impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Stamp { size, modified, changed, inode, mode, owner } = *self;
        let words = [
            size,
            modified.0 as u64,
            modified.1 as u64,
            changed.0 as u64,
            changed.1 as u64,
            inode,
            u64::from(mode),
            u64::from(owner.0) << 32 | u64::from(owner.1),
        ];
        serializer.serialize_bytes(words.map(u64::to_le_bytes).as_flattened())
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let invalid = || D::Error::custom("a stamp is cut off");
        let bytes = <&[u8]>::deserialize(deserializer)?;
        let (words, []) = bytes.as_chunks() else { return Err(invalid()) };
        let [size, m, mn, c, cn, inode, mode, owner] = *words else {
            return Err(invalid());
        };
        let word = u64::from_le_bytes;
        Ok(Stamp {
            size: word(size),
            modified: (word(m) as i64, word(mn) as i64),
            changed: (word(c) as i64, word(cn) as i64),
            inode: word(inode),
            mode: word(mode) as u32,
            owner: ((word(owner) >> 32) as u32, word(owner) as u32),
        })
    }
}
