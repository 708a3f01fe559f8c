//! Reads and writes external paths, safe from other users' symlinks: see [`walk`].

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use crate::{
    host::{
        external::{backup, content},
        owners::{Database, resolve},
        state::{
            error::{Context, HostError},
            labels,
            layout::{Home, fsync, sync_directory},
            ledger::Content,
            stamp::Stamp,
        },
    },
    shared::{
        desired::USERS_QUADLETS,
        name::{Account, LONGEST_NAME},
        path::{ExternalPath, STATE_DIR, is_within},
        text::hex,
    },
};

mod walk;
mod writable;

pub use writable::lock_of;

use walk::{LOOK, Step, Walk};

/// A symlink's target is shorter than this on Linux, in bytes.
const MAX_LINK: usize = 4096;

/// An external path: its parent directory, held open, and a name in it.
pub struct Place {
    directory: OwnedFd,
    /// The directory's real path on the host, for messages.
    real: PathBuf,
    name: OsString,
}

/// The result of resolving a path.
pub enum Resolved {
    Place(Place),
    /// These directories do not exist. The outermost is first.
    Missing(Vec<ExternalPath>),
    /// In deptool's own directory, through a symlink on the way.
    Inside,
}

impl Resolved {
    /// The real path of `path`, which was resolved to this. Two paths can have the same real path.
    pub fn real(&self, path: &ExternalPath) -> PathBuf {
        let name = Path::new(path.as_str()).file_name().unwrap_or_default();
        match self {
            Resolved::Place(place) => place.real.join(name),
            Resolved::Missing(directories) => {
                directories.last().map_or(PathBuf::new(), |directory| Path::new(directory.as_str()).join(name))
            }
            Resolved::Inside => PathBuf::from(path.as_str()),
        }
    }
}

impl Place {
    /// Resolve the parent directory of `path`.
    pub fn resolve(home: &Home, path: &ExternalPath) -> Result<Resolved, HostError> {
        let with_id = with_users_id(home, path)?;
        let path = with_id.as_ref().unwrap_or(path);
        let full = Path::new(path.as_str());
        let mut walk = Walk::start(home)?;
        let parent = path.relative().parent().unwrap_or(Path::new(""));
        let mut pending: VecDeque<OsString> = parent.iter().map(OsStr::to_owned).collect();
        while let Some(name) = pending.pop_front() {
            match walk.enter(&name).map_err(|error| error.at(full))? {
                Step::Entered => {}
                Step::Link(target) => walk.follow(&target, &mut pending).map_err(|error| error.at(full))?,
                Step::Missing => {
                    pending.push_front(name);
                    let real = walk.real();
                    return if is_inside(&real) { Ok(Resolved::Inside) } else { missing(&real, &pending) };
                }
            }
        }
        let real = walk.real();
        if is_inside(&real) {
            return Ok(Resolved::Inside);
        }
        let name = full.file_name().unwrap_or_default().to_owned();
        Ok(Resolved::Place(Place { directory: walk.into_directory(), real, name }))
    }

    /// Like [`Place::resolve`], but `None` if the parent directory does not exist.
    pub fn existing(home: &Home, path: &ExternalPath) -> Result<Option<Place>, HostError> {
        match Self::resolve(home, path)? {
            Resolved::Place(place) => Ok(Some(place)),
            Resolved::Missing(_) | Resolved::Inside => Ok(None),
        }
    }

    fn path(&self, name: &OsStr) -> PathBuf {
        self.real.join(name)
    }

    fn stat(&self, name: &OsStr) -> Result<Option<Stat>, HostError> {
        match rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error).during("look at", &self.path(name)),
        }
    }

    /// A name in the directory that is there.
    pub fn enter(&self, name: &OsStr) -> Result<Place, HostError> {
        let flags = LOOK | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = self.path(&self.name);
        let directory = rustix::fs::openat(&self.directory, &self.name, flags, Mode::empty()).during("open", &path)?;
        Ok(Place { directory, real: path, name: name.to_owned() })
    }

    /// Another name in the same directory.
    pub fn beside(&self, name: &OsStr) -> Result<Place, HostError> {
        let directory = self.directory.try_clone().during("open", &self.real)?;
        Ok(Place { directory, real: self.real.clone(), name: name.to_owned() })
    }

    /// What is at the path.
    pub fn found(&self) -> Result<Found, HostError> {
        self.found_as(&self.name.clone())
    }

    fn found_as(&self, name: &OsStr) -> Result<Found, HostError> {
        let Some(stat) = self.stat(name)? else { return Ok(Found::Nothing) };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&self.directory, name, Vec::new());
                let target = target.during("read", &self.path(name))?.into_bytes();
                Ok(Found::Content(Content::Link(String::from_utf8_lossy(&target).into_owned())))
            }
            FileType::RegularFile => {
                let mut file = self.open(name)?;
                let digest = content::digest(&mut file).during("read", &self.path(name))?;
                Ok(Found::Content(Content::File(digest)))
            }
            FileType::Directory => Ok(Found::Directory),
            _ => Ok(Found::Special),
        }
    }

    /// The attributes of the file at the path, to recognise changes.
    pub fn stamp(&self) -> Result<Option<Stamp>, HostError> {
        Ok(self.stat(&self.name)?.map(|stat| Stamp::of(&stat)))
    }

    /// Whether another name in the directory is a symlink with this target, or a file with these attributes.
    pub fn has_beside(&self, name: &OsStr, content: &Content, known: Option<&Stamp>) -> Result<bool, HostError> {
        match content {
            Content::Link(target) => {
                let mut buffer = [MaybeUninit::uninit(); MAX_LINK];
                let found = rustix::fs::readlinkat_raw(&self.directory, name, &mut buffer[..]);
                Ok(found.is_ok_and(|(found, _)| found == target.as_bytes()))
            }
            Content::File(_) => Ok(known.is_some() && self.stat(name)?.map(|stat| Stamp::of(&stat)).as_ref() == known),
        }
    }

    /// Whether another name in the directory has this SELinux label. It has, if nothing there can have one.
    pub fn has_label_beside(&self, name: &OsStr, label: Option<&String>) -> bool {
        label.is_none_or(|label| labels::of(&self.through_directory(name)).is_none_or(|found| found == *label))
    }

    /// The path of a name in the directory that is held open, for calls that have no variant for that.
    fn through_directory(&self, name: &OsStr) -> PathBuf {
        let mut path = PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()));
        path.push(name);
        path
    }

    /// Open the file at the path.
    pub fn file(&self) -> Result<File, HostError> {
        self.open(&self.name)
    }

    fn open(&self, name: &OsStr) -> Result<File, HostError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&self.directory, name, flags, Mode::empty()).during("open", &self.path(name))?;
        Ok(File::from(file))
    }

    /// Whether a sibling of this kind exists.
    pub fn has(&self, sibling: Sibling) -> Result<bool, HostError> {
        Ok(self.stat(&sibling.name(&self.name))?.is_some())
    }

    /// Back up the path under a sibling's name. A sibling that exists, from before an interruption, stays.
    pub fn keep_as(&self, sibling: Sibling) -> Result<(), HostError> {
        let name = sibling.name(&self.name);
        match rustix::fs::linkat(&self.directory, &self.name, &self.directory, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error).during("back up", &self.path(&self.name)),
        }
    }

    /// Rename a directory to the sibling's name, because it can't have two names. One that was renamed before an
    /// interruption stays.
    pub fn move_to(&self, sibling: Sibling) -> Result<(), HostError> {
        if self.has(sibling)? { Ok(()) } else { self.rename(&self.name, &sibling.name(&self.name)) }
    }

    /// Put a sibling back in place of what was deployed. Renaming does nothing if both are names of the same file, so
    /// the sibling is removed afterwards.
    pub fn put_back(&self, sibling: Sibling) -> Result<(), HostError> {
        let name = sibling.name(&self.name);
        let is_directory = |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if self.stat(&name)?.is_some_and(is_directory) {
            self.remove()?;
            return self.rename(&name, &self.name);
        }
        self.rename(&name, &self.name)?;
        self.remove_name(&name)
    }

    /// Put a copy of `source`, a file or symlink of ours, at the path, with its mode, owner and time.
    pub fn put_copy_of(&self, source: &Path, label: Option<&str>, over: Over) -> Result<(), HostError> {
        let new = Sibling::New.name(&self.name);
        self.remove_name(&new)?;
        backup::copy(CWD, source, self.directory.as_fd(), Path::new(&new))?;
        self.put_in_place(label, over)?;
        // Renaming does nothing if both are names of the same file.
        self.remove_name(&new)
    }

    /// Move a sibling to `target`, which may be on another file system. A copy is durable before the sibling is removed.
    pub fn move_away(&self, sibling: Sibling, target: &Path) -> Result<(), HostError> {
        let name = sibling.name(&self.name);
        match rustix::fs::renameat(&self.directory, &name, CWD, target) {
            Err(Errno::XDEV) => {
                backup::copy(self.directory.as_fd(), Path::new(&name), CWD, target)?;
                sync_directory(target.parent().unwrap_or(target))?;
                self.remove_name(&name)
            }
            result => result.during("move away", &self.path(&self.name)),
        }
    }

    /// The real path of the directory.
    pub fn directory(&self) -> &Path {
        &self.real
    }

    /// The id of the file system.
    pub fn device(&self) -> Result<u64, HostError> {
        Ok(rustix::fs::fstat(&self.directory).during("look at", &self.real)?.st_dev)
    }

    /// The names in the directory at the path.
    pub fn names(&self) -> Result<Vec<OsString>, HostError> {
        let path = self.path(&self.name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&self.directory, &self.name, flags, Mode::empty()).during("open", &path)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(directory).during("read", &path)? {
            let name = OsString::from_vec(entry.during("read", &path)?.file_name().to_bytes().to_vec());
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> Result<(), HostError> {
        rustix::fs::renameat(&self.directory, from, &self.directory, to).during("replace", &self.path(to))
    }

    fn remove_name(&self, name: &OsStr) -> Result<(), HostError> {
        match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            // On a read-only file system this error comes before the check whether the file exists.
            Err(Errno::ROFS) if self.stat(name)?.is_none() => Ok(()),
            Err(error) => Err(error).during("remove", &self.path(name)),
        }
    }

    pub fn remove(&self) -> Result<(), HostError> {
        self.remove_name(&self.name)
    }

    pub fn remove_sibling(&self, sibling: Sibling) -> Result<(), HostError> {
        self.remove_name(&sibling.name(&self.name))
    }

    /// Put a symlink at the path, by a rename.
    pub fn write_link(&self, target: &str, label: Option<&str>, over: Over) -> Result<(), HostError> {
        let new = Sibling::New.name(&self.name);
        self.remove_name(&new)?;
        rustix::fs::symlinkat(target, &self.directory, &new).during("make", &self.path(&self.name))?;
        self.put_in_place(label, over)
    }

    /// Rename the new sibling to the path. Before, it gets its SELinux label, if there is one for it.
    fn put_in_place(&self, label: Option<&str>, over: Over) -> Result<(), HostError> {
        let flags = match over {
            Over::Anything => RenameFlags::empty(),
            Over::Nothing => RenameFlags::NOREPLACE,
        };
        let new = Sibling::New.name(&self.name);
        if let Some(label) = label {
            match labels::set(&self.through_directory(&new), label) {
                Err(error) if labels::is_unsupported(&error) => {}
                result => result.during("label", &self.path(&self.name))?,
            }
        }
        match rustix::fs::renameat_with(&self.directory, &new, &self.directory, &self.name, flags) {
            // Some file systems do not support RENAME_NOREPLACE. There, looking first has to do.
            Err(Errno::INVAL) if over == Over::Nothing && self.stat(&self.name)?.is_none() => {
                self.rename(&new, &self.name)
            }
            result => result.during("put in place", &self.path(&self.name)),
        }
    }

    /// Put a copy of `source` with mode 0644 at the path, by a rename. The content is synced first.
    pub fn write_copy(&self, source: &Path, label: Option<&str>, over: Over) -> Result<(), HostError> {
        let new = Sibling::New.name(&self.name);
        self.remove_name(&new)?;
        let mut target = self.create(&new).during("create", &self.path(&self.name))?;
        let mut from = File::open(source).during("open", source)?;
        let mut write = || -> io::Result<()> {
            content::copy(&mut from, &mut |bytes| target.write_all(bytes))?;
            rustix::fs::fchmod(&target, Mode::from_raw_mode(0o644))?;
            target.sync_data()
        };
        write().during("write", &self.path(&self.name))?;
        self.put_in_place(label, over)
    }

    fn create(&self, name: &OsStr) -> Result<File, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.directory, name, flags, Mode::from_raw_mode(0o644)).map(File::from)
    }

    /// Remove the directory with the sibling's name, as far as it contains nothing but backups and empty directories.
    pub fn clear_our_directory(&self) -> Result<(), HostError> {
        let moved = self.beside(&Sibling::Undo.name(&self.name))?;
        clear_backups(&moved)?;
        moved.remove_directory_if_empty().map(drop)
    }

    /// Sync the parent directory.
    pub fn sync(&self) -> Result<(), HostError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&self.directory, ".", flags, Mode::empty()).during("open", &self.real)?;
        fsync(directory).during("sync", &self.real)
    }

    /// Make a directory at the path, if it does not exist.
    pub fn make_directory(&self) -> Result<(), HostError> {
        match rustix::fs::mkdirat(&self.directory, &self.name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error).during("create", &self.path(&self.name)),
        }
    }

    /// Remove the directory at the path if it is empty. Returns whether it is gone.
    pub fn remove_directory_if_empty(&self) -> Result<bool, HostError> {
        match rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR | Errno::BUSY) => Ok(false),
            // On a read-only file system this error comes before the check what the path is.
            Err(Errno::ROFS) => match self.found()? {
                Found::Nothing => Ok(true),
                Found::Directory => Err(Errno::ROFS).during("remove", &self.path(&self.name)),
                Found::Content(_) | Found::Special => Ok(false),
            },
            Err(error) => Err(error).during("remove", &self.path(&self.name)),
        }
    }
}

fn clear_backups(directory: &Place) -> Result<(), HostError> {
    for name in directory.names()? {
        let inner = directory.enter(&name)?;
        match inner.found()? {
            Found::Directory => {
                clear_backups(&inner)?;
                inner.remove_directory_if_empty()?;
            }
            _ if name.as_bytes().ends_with(b".deptool-undo") => inner.remove()?,
            _ => {}
        }
    }
    Ok(())
}

/// The real path of a user's quadlet: with the user's id in place of `~` and the name. The name of a user who does not exist
/// stays: there is nothing at that path.
fn with_users_id(home: &Home, path: &ExternalPath) -> Result<Option<ExternalPath>, HostError> {
    let Some(below) = path.as_str().strip_prefix(USERS_QUADLETS) else { return Ok(None) };
    let (user, rest) = below.split_once('/').unwrap_or((below, ""));
    let Ok(user) = Account::try_from(user.to_owned()) else { return Ok(None) };
    let Some(uid) = resolve(home, Database::Passwd, &user)? else { return Ok(None) };
    let above = USERS_QUADLETS.trim_end_matches('~');
    let real = ExternalPath::parse(&format!("{above}{uid}/{rest}"));
    real.map(Some).map_err(|error| HostError::External(error.to_string()))
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Nothing,
    Content(Content),
    Directory,
    /// A FIFO, socket or device.
    Special,
}

/// What a new file or link may replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Whatever is at the path: it was checked and backed up before.
    Anything,
    /// Nothing: it is an error if something is at the path.
    Nothing,
}

/// Hidden files beside a path. Their names begin with a dot, and their suffix matches no glob such as `*.conf` or
/// `*.service`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sibling {
    /// The new content, before it is renamed to the path.
    New,
    /// The backup of what the deployment that is under way replaces.
    Undo,
}

impl Sibling {
    fn name(self, of: &OsStr) -> OsString {
        let suffix: &[u8] = match self {
            Sibling::New => b".deptool-new",
            Sibling::Undo => b".deptool-undo",
        };
        let name = of.as_bytes();
        if 1 + name.len() + suffix.len() <= LONGEST_NAME {
            return OsString::from_vec([b".", name, suffix].concat());
        }
        let digest = hex(&Sha256::digest(name)[..16]);
        OsString::from_vec([b".", digest.as_bytes(), suffix].concat())
    }
}

fn is_inside(real: &Path) -> bool {
    is_within(&real.to_string_lossy(), STATE_DIR)
}

/// The directories to make for the path `pending` below `real`.
fn missing(real: &Path, pending: &VecDeque<OsString>) -> Result<Resolved, HostError> {
    let mut path = real.to_owned();
    let mut directories = Vec::new();
    for name in pending {
        path.push(name);
        let text = path.to_str().ok_or_else(|| HostError::External(format!("'{}' is not UTF-8", path.display())))?;
        directories.push(ExternalPath::parse(text).map_err(|error| HostError::External(error.to_string()))?);
    }
    Ok(Resolved::Missing(directories))
}

/// Set owner, group and mode of a staged file. The owner comes first, so that the file never grants more than it should.
pub fn set_owner_and_mode(path: &Path, uid: Option<u32>, gid: Option<u32>, mode: u32) -> Result<(), HostError> {
    if uid.is_some() || gid.is_some() {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        rustix::fs::chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW).during("change the owner of", path)?;
    }
    rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode as rustix::fs::RawMode), AtFlags::empty())
        .during("change the mode of", path)
}
