//! Reads refs while other programs change them, even if some refs are damaged.
//!
//! `git pack-refs` moves refs from single files into a common file. If that happens during a listing, the refs are
//! listed again. A ref that can't be read, for example because its file is empty after a power failure, counts as
//! absent. Git prints a warning and continues, and so do we.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use deptool_agent::shared::id::CommitId;
use gix::{ObjectId, bstr::ByteSlice};

use super::{Refs, TrackingError, full};

/// How often to list refs again if they change at the same time.
const TRIES: usize = 20;
/// Prefixes of marks whose existence matters, whatever they point to.
const MARKS: [&str; 2] = ["refs/deptool/unsettled/", "refs/deptool/broken/"];

/// Refs by their names without the prefix, and whether some were unreadable.
struct Listed {
    refs: Vec<(String, CommitId)>,
    is_whole: bool,
}

impl Refs {
    /// The target of a ref; `None` if the ref is absent or damaged.
    pub fn get(&self, name: &str) -> Result<Option<CommitId>, TrackingError> {
        let full = full(name)?;
        let mut tries = 0;
        let found = loop {
            tries += 1;
            match self.gix.try_find_reference(&full) {
                Ok(found) => break found,
                Err(_) if self.is_damaged(name) => return Ok(None),
                Err(_) if tries < TRIES => {}
                Err(source) => return Err(TrackingError::Read { name: name.to_owned(), source }),
            }
        };
        // gix also searches for refs/tags/refs/… and the like.
        let found = found.filter(|reference| reference.name().as_bstr() == name);
        Ok(found.and_then(|reference| reference.try_id().map(|id| CommitId(id.detach()))))
    }

    /// All refs whose names begin with `prefix`, without the prefix. Symbolic refs (`HEAD`) are skipped.
    pub fn below(&self, prefix: &str) -> Result<Vec<(String, CommitId)>, TrackingError> {
        for last in [false, false, true] {
            let packed = self.packed();
            match self.list(prefix) {
                Ok(listed) if (listed.is_whole && self.packed() == packed) || last => {
                    return Ok(self.with_damaged_marks(prefix, listed));
                }
                Err(source) if last => return Err(TrackingError::Read { name: prefix.to_owned(), source }),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(Vec::new())
    }

    fn list(&self, prefix: &str) -> Result<Listed, gix::Error> {
        let mut listed = Listed { refs: Vec::new(), is_whole: true };
        let platform = self.gix.references()?;
        for reference in platform.prefixed(prefix.as_bytes())? {
            let Ok(reference) = reference else {
                listed.is_whole = false;
                continue;
            };
            let short = reference.name().as_bstr().strip_prefix(prefix.as_bytes()).and_then(|name| name.to_str().ok());
            if let (Some(short), Some(id)) = (short, reference.try_id()) {
                listed.refs.push((short.to_owned(), CommitId(id.detach())));
            }
        }
        Ok(listed)
    }

    /// The version of the file with the packed refs.
    fn packed(&self) -> Option<(u64, i64, i64, u64)> {
        let meta = fs::metadata(self.gix.common_dir().join("packed-refs")).ok()?;
        Some((meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()))
    }

    /// Add unreadable marks, because their existence matters. They point to no commit.
    fn with_damaged_marks(&self, prefix: &str, listed: Listed) -> Vec<(String, CommitId)> {
        let Listed { mut refs, is_whole } = listed;
        if !is_whole && MARKS.iter().any(|marks| prefix.starts_with(marks)) {
            let mut files = Vec::new();
            // If a directory is unreadable, the files found so far are used.
            let _ = files_below(&self.gix.common_dir().join(prefix), String::new(), &mut files);
            let damaged = files.into_iter().filter(|file| self.is_damaged(&format!("{prefix}{file}")));
            refs.extend(damaged.map(|file| (file, CommitId(ObjectId::null(gix::hash::Kind::Sha1)))));
        }
        refs
    }

    /// Whether the ref has a file whose content is not valid.
    pub(super) fn is_damaged(&self, name: &str) -> bool {
        let Ok(content) = fs::read(self.gix.common_dir().join(name)) else { return false };
        !content.starts_with(b"ref: ") && ObjectId::from_hex(content.trim_end()).is_err()
    }
}

fn files_below(directory: &Path, above: String, files: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if entry.file_type()?.is_dir() {
            files_below(&entry.path(), format!("{above}{name}/"), files)?;
        } else if !name.ends_with(".lock") {
            files.push(format!("{above}{name}"));
        }
    }
    Ok(())
}
