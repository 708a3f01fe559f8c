//! Refs in Git's file format: loose refs, `packed-refs` and reflogs, with Git's lock files, so that Git's own
//! commands can run at the same time.
//!
//! This is a small part of what gix-ref does. That crate would add a quarter of a megabyte to the agent. Ref names come
//! from validated types or constants, and no name is a directory of another name.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use gix_hash::{Kind as HashKind, ObjectId};

use crate::shared::store::{
    error::{At, Result, StoreError},
    layout::{open_file, read_file, remove_if_exists, replace},
};

/// A reflog that is longer than this many bytes loses its older half. A deployment takes about 150 bytes.
const LONG_LOG: u64 = 256 * 1024;

/// The value of a ref.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Object(ObjectId),
    /// The name of another ref.
    Symbolic(String),
}

/// The refs of one repository.
pub(super) struct RefFiles {
    dir: PathBuf,
}

impl RefFiles {
    pub fn at(dir: &Path) -> Self {
        RefFiles { dir: dir.to_owned() }
    }

    /// Read a ref. `None` if it does not exist.
    pub fn read(&self, name: &str) -> Result<Option<Target>> {
        let path = self.dir.join(name);
        let content = match read_file(&path) {
            Err(error) if is_absent(&error) => return self.read_packed(name),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(StoreError::BadRef { name: name.to_owned() });
            }
            result => result.at("read", &path)?,
        };
        let line = content.trim_ascii_end();
        let symbolic = line.strip_prefix(b"ref:").and_then(|name| std::str::from_utf8(name.trim_ascii_start()).ok());
        match (symbolic, ObjectId::from_hex(line)) {
            (Some(name), _) => Ok(Some(Target::Symbolic(name.to_owned()))),
            (None, Ok(id)) => Ok(Some(Target::Object(id))),
            (None, Err(_)) => Err(StoreError::BadRef { name: name.to_owned() }),
        }
    }

    fn read_packed(&self, name: &str) -> Result<Option<Target>> {
        let packed = self.packed()?;
        let line = packed.split(|byte| *byte == b'\n').find(|line| names(line, name));
        let id = line.map(|line| ObjectId::from_hex(&line[..40]));
        id.transpose().map(|id| id.map(Target::Object)).map_err(|_| StoreError::BadRef { name: name.to_owned() })
    }

    fn packed(&self) -> Result<Vec<u8>> {
        let path = self.dir.join("packed-refs");
        match read_file(&path) {
            Err(error) if is_absent(&error) || error.kind() == io::ErrorKind::InvalidData => Ok(Vec::new()),
            result => result.at("read", path),
        }
    }

    /// Lock a ref, as Git's own commands do.
    pub fn lock(&self, name: &str) -> Result<RefLock<'_>> {
        let path = self.dir.join(name);
        let parent = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(parent).at("make", parent)?;
        Ok(RefLock { refs: self, name: name.to_owned(), lock: LockFile::take(&path)? })
    }

    /// Remove a ref from `packed-refs`, along with the line of a peeled tag (`^…`) that may follow it.
    fn remove_packed(&self, name: &str) -> Result<()> {
        let path = self.dir.join("packed-refs");
        if !path.try_exists().at("look at", &path)? {
            return Ok(());
        }
        let mut lock = LockFile::take(&path)?;
        let packed = self.packed()?;
        let mut kept = Vec::with_capacity(packed.len());
        let mut dropping = false;
        for line in packed.split_inclusive(|byte| *byte == b'\n') {
            dropping = names(line.trim_ascii_end(), name) || (dropping && line.starts_with(b"^"));
            if !dropping {
                kept.extend_from_slice(line);
            }
        }
        lock.commit(&kept)
    }

    /// The names of all refs in the directory `prefix`.
    pub fn names_in(&self, prefix: &str) -> Result<Vec<String>> {
        let dir = self.dir.join(prefix);
        let entries = match fs::read_dir(&dir) {
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            result => result.at("read", &dir)?,
        };
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect::<io::Result<_>>().at("read", dir)
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(name)
    }

    /// Copy the reflog of `from` to `to`, if `from` has a reflog.
    pub fn copy_log(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.log_path(from), self.log_path(to));
        let parent = to.parent().unwrap_or(&self.dir);
        fs::create_dir_all(parent).at("make", parent)?;
        match read_file(&from) {
            Err(error) if is_absent(&error) => Ok(()),
            log => replace(&to, &log.at("read", &from)?),
        }
    }

    /// Sync a ref and its reflog.
    pub fn sync(&self, name: &str) -> Result<()> {
        [self.dir.join(name), self.log_path(name)]
            .iter()
            .try_for_each(|path| File::open(path).and_then(|file| file.sync_all()).at("sync", path))
    }
}

/// A locked ref. The lock is released when this is dropped.
#[must_use]
pub(super) struct RefLock<'a> {
    refs: &'a RefFiles,
    name: String,
    lock: LockFile,
}

impl RefLock<'_> {
    /// The value of the ref. A damaged ref counts as absent, so that it can be replaced.
    pub fn read(&self) -> Result<Option<Target>> {
        match self.refs.read(&self.name) {
            Err(StoreError::BadRef { .. }) => Ok(None),
            result => result,
        }
    }

    /// Set the ref to `new`. If there is a `line`, add it to the reflog after the two ids.
    pub fn set(mut self, new: &Target, line: Option<&str>) -> Result<()> {
        if let (Target::Object(id), Some(line)) = (new, line) {
            let old = match self.read()? {
                Some(Target::Object(old)) => old,
                Some(Target::Symbolic(_)) | None => ObjectId::null(HashKind::Sha1),
            };
            let path = self.refs.log_path(&self.name);
            let parent = path.parent().unwrap_or(&self.refs.dir);
            fs::create_dir_all(parent).at("make", parent)?;
            shorten_log(&path)?;
            let entry = format!("{old} {id} {line}\n");
            let log = open_file(&path, OpenOptions::new().append(true).create(true).mode(0o600));
            log.and_then(|mut log| log.write_all(entry.as_bytes())).at("write", &path)?;
        }
        let content = match new {
            Target::Object(id) => format!("{id}\n"),
            Target::Symbolic(name) => format!("ref: {name}\n"),
        };
        self.lock.commit(content.as_bytes())
    }

    /// Remove the ref and its reflog. The loose file goes last: until then it hides the entry in `packed-refs`.
    pub fn remove(self) -> Result<()> {
        remove_if_exists(&self.refs.log_path(&self.name))?;
        self.refs.remove_packed(&self.name)?;
        remove_if_exists(&self.refs.dir.join(&self.name))
    }
}

/// Drop the older half of a reflog that has become too long.
fn shorten_log(path: &Path) -> Result<()> {
    if fs::metadata(path).map_or(0, |meta| meta.len()) <= LONG_LOG {
        return Ok(());
    }
    let log = read_file(path).at("read", path)?;
    let half = log.len() / 2;
    let from = log[half..].iter().position(|byte| *byte == b'\n').map_or(log.len(), |at| half + at + 1);
    replace(path, &log[from..])
}

/// The lock file `<path>.lock`. It is renamed to `path` by [`LockFile::commit`], or removed when dropped.
struct LockFile {
    file: File,
    path: PathBuf,
    lock: PathBuf,
    held: bool,
}

impl LockFile {
    fn take(path: &Path) -> Result<Self> {
        let mut lock = path.as_os_str().to_owned();
        lock.push(".lock");
        let lock = PathBuf::from(lock);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&lock).at("lock", path)?;
        Ok(LockFile { file, path: path.to_owned(), lock, held: true })
    }

    fn commit(&mut self, content: &[u8]) -> Result<()> {
        // Not synced: the journal records the change, too, and recovery repeats it if it was lost.
        let written = self.file.write_all(content);
        written.and_then(|()| fs::rename(&self.lock, &self.path)).at("write", &self.path)?;
        self.held = false;
        Ok(())
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        if self.held {
            // `drop` can't report an error. The next sweep removes the file.
            let _ = remove_if_exists(&self.lock);
        }
    }
}

/// Whether `line` of `packed-refs` is the line of the ref `name`.
fn names(line: &[u8], name: &str) -> bool {
    line.len() == 41 + name.len() && line[40] == b' ' && &line[41..] == name.as_bytes()
}

/// Whether there is no such file. A directory can be in its place if refs with longer names were there once.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory)
}
