//! Makes the packs for hosts: commits, their root trees, and of each only the host's own directory.
//!
//! [`select`] decides which objects are sent, and [`write()`] makes a pack of them. Those that are too large for a pack are read
//! as [blobs](super::blob). A host never gets a tree or blob that only another host's directory contains.

use std::{
    collections::HashSet,
    io::{self, Write},
};

use deptool_agent::shared::{
    id::{BlobId, CommitId},
    name::HostName,
    store::pack::{LARGE_BLOB, PackWriter, Summary},
    text::printable,
};
use flate2::{Compress, Compression, FlushCompress, Status};
use gix_hash::ObjectId;
use gix_object::{Kind, tree::EntryKind};

use super::{
    fsck,
    history::{DEPTH, Entry, HistoryError, Objects, collect, parse_tree},
};

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

/// The most commits of earlier history that are sent.
const COMMITS: usize = 1000;
/// The largest total size in bytes of the root trees of that history. Each of them lists all hosts, and every host gets
/// them.
const ROOTS: u64 = 256 * 1024;

/// The objects that the host is known to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// None are known: send everything.
    Nothing,
    /// Its own directory of this commit, or of a projection of it.
    HostSubtreeOf(CommitId),
}

/// The objects to send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// All objects in the pack, including the commits.
    pub objects: Vec<ObjectId>,
    /// The target's large blobs, with their sizes in bytes. They are sent separately.
    pub large: Vec<(BlobId, u64)>,
}

/// Why nothing can be sent.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// An object could not be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The host's directory contains a submodule.
    #[error("'{path}' is a submodule, whose files are not in this repository: they can't be deployed")]
    Submodule {
        /// Its path from the root of the tree, safe to show.
        path: String,
    },
    /// A fetch from the host would refuse this object later.
    #[error("tree {id} {why}: Git does not accept it, and neither do hosts")]
    Malformed { id: ObjectId, why: &'static str },
    /// A commit or a tree is too large for a pack.
    #[error("{kind} {id} has {size} bytes, more than a host accepts ({LARGE_BLOB})")]
    TooLarge {
        /// The object.
        id: ObjectId,
        /// Its type.
        kind: Kind,
        /// Its size in bytes.
        size: u64,
    },
}

/// Select the objects that `host` needs for `target`.
///
/// These are the commits of `old..target`, at most 1000, or only `target` if there is no `old`. The target is always
/// sent, even if `old` reaches it. Of each commit, the root tree and the objects of the host's directory that are not
/// in `base` are sent. A commit need not have the host's directory.
pub fn select(
    objects: &Objects,
    host: &HostName,
    base: Base,
    old: Option<CommitId>,
    target: CommitId,
) -> Result<Selection, SelectError> {
    let base = match base {
        Base::HostSubtreeOf(commit) if objects.has(&commit.0) => objects.host_tree(&commit, host)?,
        Base::HostSubtreeOf(_) | Base::Nothing => None,
    };
    let mut commits = vec![target];
    if let Some(old) = old.filter(|old| objects.has(&old.0)) {
        let root = objects.header(&objects.commit(&target)?.tree.0)?.1;
        let most = usize::try_from(ROOTS / root.max(1)).unwrap_or(COMMITS);
        let between = objects.between(&[old], &target, most.clamp(1, COMMITS))?;
        // A treeless clone lacks the trees of earlier commits, and some of them may be malformed.
        let is_fit = |id: &ObjectId| objects.expect(id, Kind::Tree).is_ok_and(|data| fsck::fault(&data).is_none());
        let has_root = |commit: &CommitId| objects.commit(commit).is_ok_and(|commit| is_fit(&commit.tree.0));
        commits.extend(between.into_iter().filter(|commit| *commit != target && has_root(commit)));
    }
    let mut search = Search {
        objects,
        base: base.map(|tree| tree.0),
        seen: HashSet::new(),
        selection: Selection::default(),
        path: Vec::new(),
    };
    for (n, commit) in commits.iter().enumerate() {
        search.commit(commit, host, if n == 0 { Age::Target } else { Age::Past })?;
    }
    Ok(search.selection)
}

/// Whether a commit is the target, which must be complete, or earlier history, which need not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    Target,
    Past,
}

struct Search<'a> {
    objects: &'a Objects,
    /// The directory that the host already has. It is added to `seen` when the first other tree is found.
    base: Option<ObjectId>,
    seen: HashSet<ObjectId>,
    selection: Selection,
    /// The current path, for messages.
    path: Vec<Vec<u8>>,
}

impl Search<'_> {
    fn commit(&mut self, id: &CommitId, host: &HostName, age: Age) -> Result<(), SelectError> {
        let root = self.objects.commit(id)?.tree.0;
        self.small(id.0)?;
        if !self.seen.insert(root) {
            return Ok(());
        }
        self.small(root)?;
        let entries = self.fit(&root)?;
        match entries.into_iter().find(|entry| entry.name == host.as_str().as_bytes()) {
            Some(entry) if Some(entry.id) == self.base => Ok(()),
            Some(entry) => {
                if let Some(base) = self.base.take() {
                    collect(self.objects, base, &mut self.seen)?;
                }
                self.path.push(entry.name);
                self.entry(entry.kind, entry.id, age)?;
                self.path.pop();
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn entry(&mut self, kind: EntryKind, id: ObjectId, age: Age) -> Result<(), SelectError> {
        let known = self.seen.contains(&id) || (age == Age::Past && !self.objects.has(&id));
        match (kind, age) {
            (EntryKind::Commit, Age::Target) => {
                return Err(SelectError::Submodule { path: printable(&self.path.join(&b'/')) });
            }
            (EntryKind::Commit, Age::Past) => {}
            _ if known => {}
            (EntryKind::Tree, _) => {
                self.seen.insert(id);
                self.tree(id, age)?;
            }
            (EntryKind::Blob | EntryKind::BlobExecutable | EntryKind::Link, _) => self.blob(id, age)?,
        }
        Ok(())
    }

    fn tree(&mut self, id: ObjectId, age: Age) -> Result<(), SelectError> {
        if self.path.len() > DEPTH {
            return Err(HistoryError::TooDeep(id).into());
        }
        let entries = match self.fit(&id) {
            // Earlier history need not be complete.
            Err(SelectError::Malformed { .. }) if age == Age::Past => return Ok(()),
            entries => entries?,
        };
        self.small(id)?;
        for entry in entries {
            self.path.push(entry.name);
            self.entry(entry.kind, entry.id, age)?;
            self.path.pop();
        }
        Ok(())
    }

    /// The entries of a tree that Git would accept.
    fn fit(&self, id: &ObjectId) -> Result<Vec<Entry>, SelectError> {
        let data = self.objects.expect(id, Kind::Tree)?;
        match fsck::fault(&data) {
            Some(why) => Err(SelectError::Malformed { id: *id, why }),
            None => Ok(parse_tree(id, &data)?),
        }
    }

    fn blob(&mut self, id: ObjectId, age: Age) -> Result<(), SelectError> {
        let (actual, size) = self.objects.header(&id)?;
        if actual != Kind::Blob {
            return Err(HistoryError::Kind { id, wanted: Kind::Blob, actual }.into());
        }
        self.seen.insert(id);
        match age {
            _ if size < LARGE_BLOB => self.selection.objects.push(id),
            Age::Target => self.selection.large.push((BlobId(id), size)),
            // Large blobs of earlier history can't be restored: hosts keep large files only while they are deployed.
            Age::Past => {}
        }
        Ok(())
    }

    /// Select a commit or a tree, which must fit into a pack.
    fn small(&mut self, id: ObjectId) -> Result<(), SelectError> {
        let (kind, size) = self.objects.header(&id)?;
        if size >= LARGE_BLOB {
            return Err(SelectError::TooLarge { id, kind, size });
        }
        self.selection.objects.push(id);
        Ok(())
    }
}

/// Why a pack could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// An object could not be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// Writing failed.
    #[error("could not write the pack")]
    Write(#[source] io::Error),
}

/// Write a pack of `objects` to `out`, without deltas, with fast compression. Only one object is in memory at a time.
pub fn write(source: &Objects, objects: &[ObjectId], out: &mut dyn Write) -> Result<Summary, WriteError> {
    write_from(source, objects, &[], out)
}

/// Like [`write`], and including the objects in `made`.
pub(crate) fn write_from(
    source: &Objects,
    objects: &[ObjectId],
    made: &[(Kind, Vec<u8>)],
    out: &mut dyn Write,
) -> Result<Summary, WriteError> {
    let count = u32::try_from(objects.len() + made.len());
    let count = count.map_err(|error| WriteError::Write(io::Error::other(error)))?;
    let mut writer = PackWriter::new(out, count).map_err(WriteError::Write)?;
    let mut zlib = Zlib { state: Compress::new(Compression::fast(), true), out: Vec::new() };
    let mut put = |kind, data: &[u8]| {
        let compressed = zlib.compress(data)?;
        writer.compressed(kind, data.len() as u64, compressed)
    };
    let mut data = Vec::new();
    for id in objects {
        let kind = source.read(id, &mut data)?;
        put(kind, &data).map_err(WriteError::Write)?;
    }
    for (kind, data) in made {
        put(*kind, data).map_err(WriteError::Write)?;
    }
    let (_, summary) = writer.finish().map_err(WriteError::Write)?;
    Ok(summary)
}

/// A compressor that reuses its memory for each object.
struct Zlib {
    state: Compress,
    out: Vec<u8>,
}

impl Zlib {
    fn compress(&mut self, data: &[u8]) -> io::Result<&[u8]> {
        self.state.reset();
        self.out.clear();
        loop {
            self.out.reserve(data.len() / 2 + 256);
            let taken = self.state.total_in() as usize;
            let status = self.state.compress_vec(&data[taken..], &mut self.out, FlushCompress::Finish);
            if status.map_err(io::Error::other)? == Status::StreamEnd {
                return Ok(&self.out);
            }
        }
    }
}
