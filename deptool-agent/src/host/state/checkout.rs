//! Checkouts of apps: `trees/<tree id>.<n>/`, each with a record of what was written.
//!
//! A checkout is complete before anything refers to it, and never changed afterwards. It is only used again if every file
//! and directory still matches the record.

mod earlier;

pub use earlier::{Earlier, Unchanged, apps, unchanged};

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, Permissions},
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, PermissionsExt, symlink},
        },
    },
    path::{Path, PathBuf},
};

use gix_hash::{Kind as HashKind, ObjectId, hasher};
use gix_object::Find;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, Timespec, Timestamps, fstat, openat, statat, utimensat};
use serde::{Deserialize, Serialize};

use crate::{
    host::state::{
        durable::{self, RECORD},
        error::{Context, HostError},
        labels,
        layout::{Home, set_mode},
        stamp::Stamp,
    },
    shared::{
        encoding,
        id::BlobId,
        path::TreePath,
        store::{copy_and_hash, pack::LARGE_BLOB},
        tree::{App, Entry, FileKind, TreeError, read_blob},
    },
};

/// How directories are opened.
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The files and directories of a checkout at one moment.
type Seen = BTreeMap<TreePath, Stamp>;

/// The record of a checkout: its own directory, and everything in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    root: Stamp,
    seen: Seen,
}

/// How a file has changed, if it has. Its content is only read if other attributes differ.
fn difference(was: &Stamp, now: &Stamp, has_content: impl FnOnce() -> bool) -> Option<&'static str> {
    let is_touched =
        (was.size, was.modified, was.changed, was.inode) != (now.size, now.modified, now.changed, now.inode);
    if was.kind() != now.kind() {
        Some("was replaced")
    } else if !was.is_directory() && is_touched && !has_content() {
        Some("was edited")
    } else if (was.mode, was.owner) != (now.mode, now.owner) {
        Some("has another mode or owner")
    } else {
        None
    }
}

/// The sources for the contents of files.
pub struct Contents<'a> {
    /// Has a directory of large blobs that were just received. Files are named by their ids.
    pub home: &'a Home,
    pub objects: &'a dyn Find,
    /// Earlier checkouts, for large files: the store does not have these.
    pub earlier: &'a [Earlier<'a>],
    /// Large files that were moved into a checkout, where a second file of the same content can be copied from.
    moved: RefCell<Vec<(BlobId, PathBuf)>>,
}

impl<'a> Contents<'a> {
    pub fn new(home: &'a Home, objects: &'a dyn Find, earlier: &'a [Earlier<'a>]) -> Self {
        Contents { home, objects, earlier, moved: RefCell::default() }
    }

    /// Whether the content is available: in the store, or elsewhere if it is too large for the store.
    pub fn has(&self, id: BlobId, buffer: &mut Vec<u8>) -> bool {
        let is_large = |path: PathBuf| fs::metadata(path).is_ok_and(|meta| meta.len() >= LARGE_BLOB);
        matches!(self.objects.try_find(&id.0, buffer), Ok(Some(_))) || self.large(id).is_some_and(is_large)
    }

    fn large(&self, id: BlobId) -> Option<PathBuf> {
        let incoming = self.home.incoming().join(id.to_string());
        if incoming.exists() {
            return Some(incoming);
        }
        let moved = self.moved.borrow().iter().find(|(moved, _)| *moved == id).map(|(_, path)| path.clone());
        moved.or_else(|| self.earlier.iter().find_map(|earlier| earlier.file_with(id)))
    }

    /// Make the file `at`, which only this user can read.
    fn make(&self, id: BlobId, at: &Path) -> Result<File, HostError> {
        let create = || -> Result<File, HostError> {
            let mut options = fs::OpenOptions::new();
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            options.write(true).create_new(true).open(at).during("create", at)
        };
        match read_blob(self.objects, id) {
            Ok(bytes) => {
                let mut file = create()?;
                return file.write_all(&bytes).during("write", at).map(|()| file);
            }
            Err(TreeError::Missing { .. }) => {}
            Err(error) => return Err(HostError::refused(error.to_string())),
        }
        // A file that was just received is moved: copying it would take as long again.
        if fs::rename(self.home.incoming().join(id.to_string()), at).is_ok() {
            self.moved.borrow_mut().push((id, at.to_owned()));
            return File::open(at).during("open", at);
        }
        let large = self.large(id).ok_or_else(|| HostError::refused(format!("object {id} is missing")))?;
        let mut file = create()?;
        self.home.wait_for(|| copy_large(&large, id, &mut file)).map(|()| file)
    }
}

/// Copy a file with the content of a large blob.
fn copy_large(large: &Path, id: BlobId, into: &mut File) -> Result<(), HostError> {
    let mut source = File::open(large).during("open", large)?;
    let meta = source.metadata().during("look at", large)?;
    if meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o022 == 0 {
        return io::copy(&mut source, into).map(drop).during("copy", large);
    }
    // The owner of the file may change it after it was verified, so hash what is copied.
    match copy_hashed(&mut source, into).during("copy", large)? {
        copied if copied == id.0 => Ok(()),
        _ => Err(HostError::refused(format!("'{}' changed while it was read", large.display()))),
    }
}

/// Copy a file. Returns the blob id of the copied bytes.
fn copy_hashed(source: &mut File, into: &mut dyn Write) -> io::Result<ObjectId> {
    let (size, mut hash) = (source.metadata()?.len(), hasher(HashKind::Sha1));
    hash.update(&gix_object::encode::loose_header(gix_object::Kind::Blob, size));
    // Stop at the size that was hashed: somebody may be appending to the file.
    copy_and_hash(source, size, hash, into)?.try_finalize().map_err(io::Error::other)
}

/// Check out `app` for `generation`, or find a checkout of the same tree that can be used again.
///
/// Returns the name of the checkout below `trees/`, and whether it was written now. Files with an owner or a mode in the
/// manifest are written with mode 0600. A checkout with such files has no record until [`record`] writes it.
pub fn check_out(
    home: &Home,
    generation: u32,
    app: &App,
    contents: &Contents<'_>,
    tick: &mut dyn FnMut(),
) -> Result<(String, bool), HostError> {
    for earlier in contents.earlier {
        if earlier.app.tree == app.tree
            && let Some(name) = earlier.tree_name()
        {
            return Ok((name, false));
        }
    }
    let name = format!("{}.{generation}", app.tree);
    let directory = home.trees().join(&name);
    remove(home, &name)?;
    fs::create_dir(&directory).during("create", &directory)?;
    set_mode(&directory, 0o755)?;
    let mut made = BTreeSet::new();
    for (path, entry) in &app.files {
        make_parents(&directory, path, &mut made)?;
        write_file(&directory.join(path.as_path()), path, entry, app, contents)?;
        tick();
    }
    labels::label_checkout(home, &directory)?;
    if app.manifest.files.is_empty() {
        record(home, &name)?;
    }
    Ok((name, true))
}

fn write_file(at: &Path, path: &TreePath, entry: &Entry, app: &App, contents: &Contents<'_>) -> Result<(), HostError> {
    if entry.kind == FileKind::Symlink {
        let target = read_blob(contents.objects, entry.id).map_err(|error| HostError::refused(error.to_string()))?;
        symlink(std::ffi::OsStr::from_bytes(&target), at).during("make", at)?;
    } else {
        let file = contents.make(entry.id, at)?;
        // Such files stay private until the activation sets owner and mode.
        let private = app.manifest.files.contains_key(path);
        let mode = match entry.kind {
            _ if private => 0o600,
            FileKind::Executable => 0o755,
            FileKind::Regular | FileKind::Symlink => 0o644,
        };
        file.set_permissions(Permissions::from_mode(mode)).during("change the mode of", at)?;
    }
    if let Some(time) = contents.earlier.iter().find_map(|earlier| earlier.time_of(path, entry)) {
        set_time(at, time)?;
    }
    Ok(())
}

fn make_parents(directory: &Path, path: &TreePath, made: &mut BTreeSet<PathBuf>) -> Result<(), HostError> {
    let mut at = directory.to_owned();
    let components: Vec<&[u8]> = path.components().collect();
    for name in &components[..components.len() - 1] {
        at.push(std::ffi::OsStr::from_bytes(name));
        if made.insert(at.clone()) {
            fs::create_dir(&at).during("create", &at)?;
            set_mode(&at, 0o755)?;
        }
    }
    Ok(())
}

fn set_time(path: &Path, (seconds, nanoseconds): (i64, i64)) -> Result<(), HostError> {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).during("set the time of", path)
}

fn record_path(home: &Home, name: &str) -> PathBuf {
    home.trees().join(format!("{name}.files"))
}

/// The directory of the checkout `name`, and its record if it has one.
pub fn paths(home: &Home, name: &str) -> impl Iterator<Item = PathBuf> {
    [home.trees().join(name), record_path(home, name)].into_iter().filter(|path| path.exists())
}

/// Write the record of the checkout `name`, so that it can be used again.
pub fn record(home: &Home, name: &str) -> Result<(), HostError> {
    let directory = home.trees().join(name);
    let record = look(&directory).during("look at", &directory)?;
    let bytes = encoding::to_vec(&record).map_err(|error| HostError::refused(error.to_string()))?;
    durable::replace(&record_path(home, name), &bytes)
}

/// The attributes of a checkout and of everything in it.
fn look(directory: &Path) -> io::Result<Record> {
    let (root, mut seen) = (openat(CWD, directory, DIRECTORY, Mode::empty())?, Seen::new());
    look_below(&root, &mut Vec::new(), &mut seen)?;
    Ok(Record { root: Stamp::of(&fstat(&root)?), seen })
}

/// Relative to open directories, as there may be ten thousand files with long paths.
fn look_below(directory: &OwnedFd, above: &mut Vec<u8>, seen: &mut Seen) -> io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let (name, length) = (entry.file_name(), above.len());
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if length > 0 {
            above.push(b'/');
        }
        above.extend(name.to_bytes());
        let path = TreePath::parse(above).map_err(io::Error::other)?;
        let stamp = Stamp::of(&statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?);
        seen.insert(path, stamp);
        if stamp.is_directory() {
            look_below(&openat(directory, name, DIRECTORY, Mode::empty())?, above, seen)?;
        }
        above.truncate(length);
    }
    Ok(())
}

/// What was recorded of the files of the checkout `name`.
fn load_record(home: &Home, name: &str) -> Option<Seen> {
    let bytes = durable::read(&record_path(home, name), RECORD).ok()??;
    Some(encoding::from_slice::<Record>(&bytes).ok()?.seen)
}

/// Whether the checkout `name` has a record, and everything still matches.
///
/// A directory with the same times has the same entries, so no directory is listed: that would double the time. Memory is
/// only allocated in `buffer`: another thread is busy, and would wait.
fn verify(home: &Home, name: &str, buffer: &mut Vec<u8>) -> Option<()> {
    durable::read_into(&record_path(home, name), RECORD, buffer).ok()?;
    let root = openat(CWD, home.trees().join(name), DIRECTORY, Mode::empty()).ok()?;
    // The same bytes as those of a `Record`, one item after another.
    let ((stamp, count), mut rest) = encoding::next::<(Stamp, u64)>(buffer).ok()?;
    if Stamp::of(&fstat(&root).ok()?) != stamp {
        return None;
    }
    // The directory of the last path, if it is not the root.
    let (mut parent, mut opened) = (&b""[..], None);
    for _ in 0..count {
        let ((path, stamp), after) = encoding::next::<(&[u8], Stamp)>(rest).ok()?;
        rest = after;
        let slash = path.iter().rposition(|byte| *byte == b'/');
        let (above, name) = slash.map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
        if above != parent {
            // Sorted before its entries, it was just seen to be a directory.
            parent = above;
            opened = if above.is_empty() { None } else { Some(openat(&root, above, DIRECTORY, Mode::empty()).ok()?) };
        }
        let directory = opened.as_ref().unwrap_or(&root);
        if Stamp::of(&statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?) != stamp {
            return None;
        }
    }
    rest.is_empty().then_some(())
}

/// A difference between a checkout and what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `None` for the checkout as a whole.
    pub file: Option<TreePath>,
    pub what: &'static str,
}

/// How the checkout `name` differs from what was written. Without a record, every file is read.
pub fn differences(home: &Home, name: &str, app: &App) -> Vec<Difference> {
    match verify(home, name, &mut Vec::new()) {
        Some(()) => Vec::new(),
        // Large files may have to be read.
        None => home.wait_for(|| look_closely(home, name, app)),
    }
}

fn look_closely(home: &Home, name: &str, app: &App) -> Vec<Difference> {
    let directory = home.trees().join(name);
    let now = match look(&directory) {
        Ok(now) => now.seen,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return vec![Difference { file: None, what: "is missing" }];
        }
        Err(_) => return vec![Difference { file: None, what: "can't be read, or has invalid names in it" }],
    };
    let recorded = load_record(home, name);
    let mut found = Vec::new();
    let mut add = |file: &TreePath, what| found.push(Difference { file: Some(file.clone()), what });
    for (path, was) in recorded.iter().flatten() {
        let what = match now.get(path) {
            None => Some("is missing"),
            Some(is) => difference(was, is, || has_content(&directory, path, app)),
        };
        what.into_iter().for_each(|what| add(path, what));
    }
    for (path, entry) in app.files.iter().filter(|_| recorded.is_none()) {
        match now.get(path) {
            None => add(path, "is missing"),
            Some(_) if !has_content(&directory, path, app) => add(path, "was edited"),
            Some(is) if !app.manifest.files.contains_key(path) && !has_usual_mode(is, entry) => {
                add(path, "has another mode or owner")
            }
            Some(_) => {}
        }
    }
    for (path, is) in &now {
        let is_known = match &recorded {
            Some(recorded) => recorded.contains_key(path),
            None => app.files.contains_key(path) || is.is_directory(),
        };
        if !is_known {
            add(path, "was added");
        }
    }
    found
}

fn has_usual_mode(stamp: &Stamp, entry: &Entry) -> bool {
    let mode = match entry.kind {
        FileKind::Symlink => return true,
        FileKind::Executable => 0o755,
        FileKind::Regular => 0o644,
    };
    stamp.mode & 0o7777 == mode && stamp.owner.0 == rustix::process::geteuid().as_raw()
}

/// Whether a file or symlink has the content of the tree.
fn has_content(directory: &Path, path: &TreePath, app: &App) -> bool {
    let (at, Some(entry)) = (directory.join(path.as_path()), app.files.get(path)) else { return false };
    let hash = || -> io::Result<ObjectId> {
        if fs::symlink_metadata(&at)?.is_symlink() {
            let target = fs::read_link(&at)?;
            return gix_object::compute_hash(HashKind::Sha1, gix_object::Kind::Blob, target.as_os_str().as_bytes())
                .map_err(io::Error::other);
        }
        copy_hashed(&mut File::open(&at)?, &mut io::sink())
    };
    hash().is_ok_and(|id| id == entry.id.0)
}

/// Remove the checkout `name` and its record.
pub fn remove(home: &Home, name: &str) -> Result<(), HostError> {
    durable::remove(&record_path(home, name))?;
    durable::remove_all(&home.trees().join(name))
}

#[cfg(test)]
mod tests {
    use std::{process::Command, sync::Arc, thread};

    use super::*;
    use crate::shared::{frame::FrameReader, store::Store, wire::Response};

    #[test]
    fn while_a_large_file_is_copied_slowly_the_helper_gets_heartbeats() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(root.path());
        home.create().unwrap();
        let store = Store::open_or_init(&home.store()).unwrap();
        let id = BlobId(ObjectId::null(HashKind::Sha1));
        // A FIFO is as slow as whoever writes to it.
        let slow = root.path().join("slow");
        assert!(Command::new("mkfifo").arg(&slow).status().unwrap().success());
        let (input, output) = io::pipe().unwrap();
        let output = Arc::new(OwnedFd::from(output));
        home.heartbeat().follow(&output);
        let contents = Contents::new(&home, &store, &[]);
        contents.moved.borrow_mut().push((id, slow.clone()));
        let disk = thread::spawn(move || {
            let mut disk = fs::OpenOptions::new().write(true).open(slow).unwrap();
            let mut messages = FrameReader::new(File::from(OwnedFd::from(input)));
            for _ in 0..3 {
                assert_eq!(messages.receive().unwrap(), Some(Response::Heartbeat));
                disk.write_all(b"slow").unwrap();
            }
        });
        let copy = root.path().join("copy");
        contents.make(id, &copy).unwrap();
        disk.join().unwrap();
        assert_eq!(fs::read(copy).unwrap(), b"slowslowslow");
    }
}
