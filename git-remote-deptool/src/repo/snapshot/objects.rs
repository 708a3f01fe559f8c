//! The contents of files, and the trees made of them, as objects.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::Path,
};

use gix::{
    ObjectId,
    bstr::{BStr, ByteSlice},
    hash::Kind as HashKind,
    objs::{self, Exists, Write},
};
use rustix::fs::OFlags;

use super::{
    Identified, Run, SnapshotError,
    cache::Cache,
    walk::{self, kind_of, stat_of},
};
use crate::repo::Repo;

/// Larger files are not held in memory.
const LARGE: u64 = 8 << 20;

/// The object database, and the directory that contents come from.
pub(super) struct Objects<'a> {
    database: gix::OdbHandle,
    root: &'a Path,
    run: Run,
}

/// A directory as a tree object.
pub(super) struct Directory<'a> {
    pub id: ObjectId,
    pub data: &'a [u8],
    /// The files that are in it, not below it.
    pub files: &'a [&'a Identified],
    pub is_root: bool,
}

impl<'a> Objects<'a> {
    pub fn new(repo: &Repo, root: &'a Path, run: Run) -> Self {
        let mut database = repo.gix().objects.clone();
        // Most of what is asked for is not there: to look for new packs each time would take long.
        database.refresh_never();
        Objects { database, root, run }
    }

    /// The ids of all contents, those that are not in the cache by reading and, in a real run, storing them.
    pub fn identify(&self, found: Vec<walk::File>, cache: &Cache) -> Result<Vec<Identified>, SnapshotError> {
        let mut lookup = cache.lookup();
        let identify = |walk::File { path, kind, stat }| match lookup(path.as_ref(), kind, &stat) {
            Some(id) => Ok(Identified { path, kind, stat, id, is_cached: true }),
            None => self.read(walk::File { path, kind, stat }),
        };
        found.into_iter().map(identify).collect()
    }

    /// Store a tree, if it is not there yet, and what it names. A cached id may be that of a blob that was pruned.
    pub fn store(&self, directory: &Directory<'_>) -> Result<(), SnapshotError> {
        if self.database.exists(&directory.id) {
            return Ok(());
        }
        for file in directory.files.iter().filter(|file| file.is_cached && !self.database.exists(&file.id)) {
            let Identified { path, kind, stat, .. } = (*file).clone();
            if self.read(walk::File { path, kind, stat })?.id != file.id {
                return Err(self.changed(file.path.as_ref()));
            }
        }
        let written = self.database.write_buf_with_known_id(objs::Kind::Tree, directory.data, directory.id);
        written.map(drop).map_err(SnapshotError::Object)
    }

    fn read(&self, file: walk::File) -> Result<Identified, SnapshotError> {
        let place = self.root.join(file.path.to_path_lossy());
        let walk::File { path, kind, stat } = file;
        if kind == walk::Kind::Link {
            let target = place.read_link().map_err(|source| SnapshotError::Io { path: place, source })?;
            let id = self.blob(target.as_os_str().as_bytes())?;
            return Ok(Identified { path, kind, stat, id, is_cached: false });
        }
        let failed = |source| SnapshotError::Io { path: place.clone(), source };
        let mut file = open(&place).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let kind = kind_of(&metadata).ok_or_else(|| self.changed(path.as_ref()))?;
        let id = if metadata.len() > LARGE {
            let id = self.large_blob(&mut file, metadata.len()).map_err(failed)?;
            id.ok_or_else(|| self.changed(path.as_ref()))?
        } else {
            let mut content = Vec::with_capacity(metadata.len() as usize);
            file.read_to_end(&mut content).map_err(failed)?;
            self.blob(&content)?
        };
        Ok(Identified { path, kind, stat: stat_of(&metadata), id, is_cached: false })
    }

    fn blob(&self, content: &[u8]) -> Result<ObjectId, SnapshotError> {
        let id = objs::compute_hash(HashKind::Sha1, objs::Kind::Blob, content).map_err(SnapshotError::Object)?;
        if self.run == Run::Real && !self.database.exists(&id) {
            self.database.write_buf_with_known_id(objs::Kind::Blob, content, id).map_err(SnapshotError::Object)?;
        }
        Ok(id)
    }

    /// The blob of a file of `size` bytes; None if it has another size, or content, by the time that it was read.
    fn large_blob(&self, file: &mut File, size: u64) -> io::Result<Option<ObjectId>> {
        let mut hasher = gix::hash::hasher(HashKind::Sha1);
        hasher.update(&objs::encode::loose_header(objs::Kind::Blob, size));
        let mut buffer = vec![0; 1 << 16];
        let mut left = size;
        loop {
            let count = file.read(&mut buffer)?;
            match left.checked_sub(count as u64) {
                None => return Ok(None),
                Some(_) if count == 0 => break,
                Some(rest) => left = rest,
            }
            hasher.update(&buffer[..count]);
        }
        let id = hasher.try_finalize().map_err(io::Error::other)?;
        if left == 0 && self.run == Run::Real && !self.database.exists(&id) {
            file.rewind()?;
            let mut content = file.take(size);
            let written = self.database.write_stream(objs::Kind::Blob, size, &mut content).map_err(io::Error::other)?;
            return Ok((written == id).then_some(id));
        }
        Ok((left == 0).then_some(id))
    }

    fn changed(&self, path: &BStr) -> SnapshotError {
        SnapshotError::Io {
            path: self.root.join(path.to_path_lossy()),
            source: io::Error::other("it was changed while it was read"),
        }
    }
}

/// Not through a link that has taken the place of a file, nor waiting for what is none.
fn open(place: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(place)
}
