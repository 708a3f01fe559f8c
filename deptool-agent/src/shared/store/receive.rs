//! Taking a pack in.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use gix_hash::ObjectId;
use gix_object::{CommitRefIter, Kind};

use crate::shared::{
    id::CommitId,
    store::{
        Store,
        error::{At, Result, StoreError},
        index::{self, IndexEntry},
        layout::{is_sound, remove_if_there, remove_pack},
        pack::{self, Limits, PackError, Summary},
    },
};

/// What a received pack had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Its size, how many objects it had, its checksum.
    pub summary: Summary,
    /// Its commits, in its order.
    pub commits: Vec<CommitId>,
}

impl Store {
    /// Take one pack from `input`, not a byte further, and make its objects part of the store.
    ///
    /// Every object is hashed on the way. A pack that is cut off, corrupt, above `limits` or has deltas leaves nothing
    /// behind. What is added is durable only when [`Store::written`] is.
    pub fn add_pack(&mut self, input: &mut dyn BufRead, limits: &Limits) -> Result<Added> {
        let dir = self.pack_dir();
        let mut temporary = Temporary::create(&dir, "pack")?;
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
        Ok(Added { summary, commits: history.commits.into_iter().map(|commit| CommitId(commit.0)).collect() })
    }

    /// Give a written pack its name, its mark and its index: the index last, for it is what makes Git see the pack.
    ///
    /// Returns the index; `None` if the pack was there already.
    pub(super) fn publish(
        &mut self,
        pack: Temporary,
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
        let mut index = Temporary::create(&self.pack_dir(), "idx")?;
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
            // Nobody can be told if this fails, too; the sweep at the next opening gets it.
            let _ = remove_pack(&index_path);
            return Err(error);
        }
        self.packs.add(&index_path);
        Ok(Some(index_path))
    }
}

/// So many parents the commits of one pack may have together. They are held in memory, and compress well.
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

/// A file in the making, gone if it is not renamed.
pub(super) struct Temporary {
    pub file: File,
    path: PathBuf,
    keep: bool,
}

impl Temporary {
    /// A new file in `dir`, named as Git names its own, so that Git's housekeeping knows it too.
    pub fn create(dir: &Path, kind: &str) -> Result<Self> {
        for n in 0..u32::MAX {
            let path = dir.join(format!("tmp_{kind}_{}_{n}", std::process::id()));
            match OpenOptions::new().read(true).write(true).create_new(true).mode(0o400).open(&path) {
                Ok(file) => return Ok(Temporary { file, path, keep: false }),
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

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.keep {
            // Nobody can be told here; the sweep at the next opening gets it.
            let _ = remove_if_there(&self.path);
        }
    }
}
