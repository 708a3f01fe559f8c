//! What is known of files by their stat: the ids of their contents, in Git's own index format, one file for each
//! rendered directory.
//!
//! A file that was changed in the very tick of the clock in which it was read has the same times afterwards: what is
//! not older than the walk is kept without a stat, and read again the next time. (Git compares with the time at which
//! the index was written, which is later.) A cache that is lost or broken costs time and nothing else.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use gix::{
    ObjectId,
    bstr::BStr,
    hash::Kind as HashKind,
    index::{
        self, State,
        entry::{Flags, Mode, Stat, stat},
    },
};

use super::{
    Identified, Run,
    walk::{Kind, stat_of},
};
use crate::repo::Repo;

/// So many are kept: who renders into a new directory each time would fill the disk with them.
const CACHES: usize = 4;

/// The stat of what has to be read again.
const UNKNOWN: Stat = Stat {
    mtime: stat::Time { secs: 0, nsecs: 0 },
    ctime: stat::Time { secs: 0, nsecs: 0 },
    dev: 0,
    ino: 0,
    uid: 0,
    gid: 0,
    size: 0,
};

/// As Git's defaults.
const COMPARE: stat::Options = stat::Options { trust_ctime: true, check_stat: true, use_nsec: true, use_stdev: false };

/// What was known before, and where to put what is known now.
pub(super) struct Cache {
    path: PathBuf,
    known: Option<index::File>,
    next: Option<Next>,
}

/// The cache that is to take the place of the old one; removed if it does not.
struct Next {
    path: PathBuf,
    file: File,
    /// Made before the walk, its own time is that of the clock that files get theirs from.
    began: stat::Time,
}

impl Cache {
    /// The cache for `directory`. In a dry run nothing can be stored: there are no objects for what is new.
    pub fn open(repo: &Repo, directory: &Path, run: Run) -> Self {
        let place = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
        let name = gix::objs::compute_hash(HashKind::Sha1, gix::objs::Kind::Blob, place.as_os_str().as_encoded_bytes());
        let name = name.map_or_else(|_| "directory".into(), |id| id.to_hex_with_len(16).to_string());
        let path = repo.common_dir().join("deptool/snapshot").join(name);
        let known = index::File::at(&path, HashKind::Sha1, false, index::decode::Options::default()).ok();
        let next = (run == Run::Real).then(|| Next::begin(&path).ok()).flatten();
        Cache { path, known, next }
    }

    /// For each path in turn, in the index's order: the id that was known of it, if its stat is the same.
    pub fn lookup(&self) -> impl FnMut(&BStr, Kind, &Stat) -> Option<ObjectId> {
        let mut entries = self.known.iter().flat_map(|index| index.entries()).peekable();
        move |path, kind, stat| {
            let index = self.known.as_ref()?;
            while entries.next_if(|entry| entry.path(index) < path).is_some() {}
            let entry = entries.next_if(|entry| entry.path(index) == path)?;
            let is_same = entry.stat.matches(stat, COMPARE) && entry.stat != UNKNOWN && entry.mode == mode(kind);
            is_same.then_some(entry.id)
        }
    }

    /// Keep what is known now. That it can't be kept is no error: the next snapshot takes longer.
    pub fn store(self, files: &[Identified]) {
        let count = self.known.as_ref().map_or(0, |index| index.entries().len());
        let is_news = count != files.len() || files.iter().any(|file| !file.is_cached);
        if let (true, Some(next)) = (is_news, self.next) {
            let _ = next.write(files, &self.path).and_then(|()| prune(&self.path));
        }
    }
}

impl Next {
    fn begin(cache: &Path) -> io::Result<Self> {
        let directory = cache.parent().ok_or(io::ErrorKind::NotFound)?;
        fs::create_dir_all(directory)?;
        let path = cache.with_extension(std::process::id().to_string());
        let file = File::create(&path)?;
        let began = stat_of(&file.metadata()?).mtime;
        Ok(Next { path, file, began })
    }

    fn write(&self, files: &[Identified], cache: &Path) -> io::Result<()> {
        let mut state = State::new(HashKind::Sha1);
        for Identified { path, kind, stat, id, is_cached: _ } in files {
            let is_old = stat.mtime < self.began && stat.ctime < self.began;
            let stat = if is_old { *stat } else { UNKNOWN };
            state.dangerously_push_entry(stat, *id, Flags::empty(), mode(*kind), path.as_ref());
        }
        let mut out = BufWriter::new(&self.file);
        let index = index::File::from_state(state, cache);
        index.write_to(&mut out, index::write::Options::default()).map_err(io::Error::other)?;
        out.flush()?;
        fs::rename(&self.path, cache)
    }
}

impl Drop for Next {
    fn drop(&mut self) {
        // Mostly it is not there any more.
        let _ = fs::remove_file(&self.path);
    }
}

/// Remove caches, the oldest first, and what was left of others that were being made.
fn prune(cache: &Path) -> io::Result<()> {
    let directory = cache.parent().ok_or(io::ErrorKind::NotFound)?;
    let mut files = Vec::new();
    for entry in directory.read_dir()? {
        let entry = entry?;
        files.push((entry.metadata()?.modified()?, entry.path()));
    }
    files.sort();
    let too_many = files.len().saturating_sub(CACHES);
    files.iter().take(too_many).try_for_each(|(_, path)| fs::remove_file(path))
}

fn mode(kind: Kind) -> Mode {
    match kind {
        Kind::Regular => Mode::FILE,
        Kind::Executable => Mode::FILE_EXECUTABLE,
        Kind::Link => Mode::SYMLINK,
    }
}
