//! Adds a received pack to the store.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use gix_hash::ObjectId;
use gix_object::{CommitRefIter, Kind};

use crate::shared::store::{
    Store,
    error::{At, Result, StoreError},
    index::{self, IndexEntry},
    layout::{is_sound, remove_if_exists, remove_pack},
    pack::{self, Limits, PackError, Summary},
};

impl Store {
    /// Read one pack from `input`, and not a byte more, and add its objects to the store.
    ///
    /// Every object is hashed. A pack that is cut off, corrupt, above `limits` or that has deltas leaves nothing
    /// behind. The caller has to sync the files in [`Store::written`].
    pub fn add_pack(&mut self, input: &mut dyn BufRead, limits: &Limits) -> Result<Summary> {
        let dir = self.pack_dir();
        let mut temporary = TemporaryFile::create(&dir, "pack")?;
        let mut entries = Vec::new();
        let mut history = History::default();
        let mut copy = BufWriter::with_capacity(1 << 16, &mut temporary.file);
        let summary = pack::read(input, limits, &mut copy, &mut |entry| {
            entries.push(IndexEntry { id: entry.id, offset: entry.offset, crc32: entry.crc32 });
            if entry.kind == Kind::Commit { history.note(entry.id, entry.data) } else { Ok(()) }
        })
        .and_then(|summary| copy.flush().map(|()| summary).map_err(PackError::Write))
        .map_err(StoreError::Pack)?;
        drop(copy);
        index::sort(&mut entries).map_err(|id| StoreError::Pack(PackError::Twice(id)))?;
        if !entries.is_empty() {
            self.widen_shallow(&history)?;
            let added = self.publish(temporary, &entries, &summary.checksum)?;
            self.added.extend(added);
            self.update_shallow(history.commits.iter().map(|commit| commit.0))?;
        }
        Ok(summary)
    }

    /// Give a written pack its name, its `.promisor` file and its index. The index comes last, because Git only sees
    /// packs that have an index.
    ///
    /// Returns the path of the index, or `None` if the store had the pack already.
    pub(super) fn publish(
        &mut self,
        pack: TemporaryFile,
        entries: &[IndexEntry],
        checksum: &ObjectId,
    ) -> Result<Option<PathBuf>> {
        let path = pack.path.with_file_name(format!("pack-{checksum}.pack"));
        let index_path = path.with_extension("idx");
        if self.packs.has_pack(&index_path) {
            if is_sound(&index_path)? {
                return Ok(None);
            }
            self.packs.forget(&index_path);
            remove_pack(&index_path)?;
        }
        let mut index = TemporaryFile::create(&self.pack_dir(), "idx")?;
        let mut out = BufWriter::with_capacity(1 << 16, &mut index.file);
        index::write(&mut out, entries, checksum).at("write", &index_path)?;
        drop(out);
        let mark = path.with_extension("promisor");
        let name = || -> Result<()> {
            pack.rename(&path)?;
            let marked = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&mark);
            marked.at("write", &mark)?;
            index.rename(&index_path)
        };
        if let Err(error) = name() {
            // The error above is the one to report. The next sweep removes what is left.
            let _ = remove_pack(&index_path);
            return Err(error);
        }
        self.packs.add(&index_path);
        Ok(Some(index_path))
    }
}

/// The most parents that all commits of one pack may have together. They are held in memory, and a hostile pack can
/// have many of them in few compressed bytes.
const PARENTS: usize = 2_000_000;

/// The commits of a pack and their parents.
#[derive(Debug, Default)]
pub(super) struct History {
    pub commits: Vec<(ObjectId, Vec<ObjectId>)>,
    parents: usize,
}

impl History {
    fn note(&mut self, id: ObjectId, data: &[u8]) -> std::result::Result<(), PackError> {
        let left = PARENTS - self.parents;
        let parents: Vec<ObjectId> =
            CommitRefIter::from_bytes(data, id.kind()).parent_ids().take(left.saturating_add(1)).collect();
        if parents.len() > left {
            return Err(PackError::TooLarge { limit: PARENTS as u64, unit: "parents of commits" });
        }
        self.parents += parents.len();
        self.commits.push((id, parents));
        Ok(())
    }
}

/// A temporary file. It is removed when dropped, unless it was renamed.
pub(super) struct TemporaryFile {
    pub file: File,
    path: PathBuf,
    keep: bool,
}

impl TemporaryFile {
    /// Create a file in `dir`. It is named like Git's temporary files, so that `git gc` cleans it up, too.
    pub fn create(dir: &Path, kind: &str) -> Result<Self> {
        for n in 0..u32::MAX {
            let path = dir.join(format!("tmp_{kind}_{}_{n}", std::process::id()));
            match OpenOptions::new().read(true).write(true).create_new(true).mode(0o400).open(&path) {
                Ok(file) => return Ok(TemporaryFile { file, path, keep: false }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error).at("make", path),
            }
        }
        Err(io::Error::from(io::ErrorKind::AlreadyExists)).at("make", dir)
    }

    fn rename(mut self, to: &Path) -> Result<()> {
        fs::rename(&self.path, to).at("rename", to)?;
        self.keep = true;
        Ok(())
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.keep {
            // `drop` can't report an error. The next sweep removes the file.
            let _ = remove_if_exists(&self.path);
        }
    }
}
