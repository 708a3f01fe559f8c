//! Walks from the root of the host to the directory of an external path, one component at a time.
//!
//! A symlink on the way is only followed if it belongs to root (or to the user who runs the agent on a local root), and
//! if only that user can write to its directory. Any other symlink could be a trap.
//!
//! openat2(2) can walk a path in one call, but it follows either all symlinks or none. Here it depends on the owner of each.
//! Each component is opened without following symlinks, and then the opened file is checked. That leaves no race, and works
//! on every kernel.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, Stat, Uid},
    io::Errno,
};

use crate::host::state::{
    error::{Context, HostError},
    layout::Home,
};

/// The flags to open a file without reading it.
pub(super) const LOOK: OFlags = OFlags::PATH;
/// A path with more symlinks than this is taken for a loop.
const MAX_LINKS: usize = 40;

/// A walk down from the root. It holds all entered directories, so that `..` in a symlink goes back the same way.
pub(super) struct Walk {
    root: OwnedFd,
    below: Vec<(OsString, OwnedFd)>,
    links: usize,
}

pub(super) enum Step {
    Entered,
    Link(Vec<u8>),
    Missing,
}

pub(super) enum WalkError {
    Io(Errno),
    Untrusted(PathBuf),
    TooManyLinks,
    NotADirectory(PathBuf),
}

impl WalkError {
    pub(super) fn at(self, path: &Path) -> HostError {
        let shown = path.display();
        match self {
            WalkError::Io(error) => Err::<(), _>(error).during("reach", path).unwrap_err(),
            WalkError::Untrusted(link) => HostError::External(format!(
                "'{shown}' can't be reached safely: '{}' is a symlink that another user than root could change",
                link.display()
            )),
            WalkError::TooManyLinks => HostError::External(format!("'{shown}' can't be reached: too many symlinks")),
            WalkError::NotADirectory(what) => {
                HostError::External(format!("'{shown}' can't be reached: '{}' is not a directory", what.display()))
            }
        }
    }
}

impl Walk {
    pub(super) fn start(home: &Home) -> Result<Walk, HostError> {
        let flags = LOOK | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, home.root(), flags, Mode::empty()).during("open", home.root())?;
        Ok(Walk { root, below: Vec::new(), links: 0 })
    }

    fn directory(&self) -> &OwnedFd {
        self.below.last().map_or(&self.root, |(_, fd)| fd)
    }

    pub(super) fn into_directory(mut self) -> OwnedFd {
        self.below.pop().map_or(self.root, |(_, fd)| fd)
    }

    pub(super) fn real(&self) -> PathBuf {
        let mut path = PathBuf::from("/");
        path.extend(self.below.iter().map(|(name, _)| name));
        path
    }

    pub(super) fn enter(&mut self, name: &OsStr) -> Result<Step, WalkError> {
        let flags = LOOK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(self.directory(), name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(Step::Missing),
            Err(error) => return Err(WalkError::Io(error)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(WalkError::Io)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.below.push((name.to_owned(), fd));
                Ok(Step::Entered)
            }
            FileType::Symlink => {
                let above = rustix::fs::fstat(self.directory()).map_err(WalkError::Io)?;
                if !is_trusted(&stat) || !is_trusted(&above) || above.st_mode & 0o022 != 0 {
                    return Err(WalkError::Untrusted(self.real().join(name)));
                }
                let target = rustix::fs::readlinkat(fd.as_fd(), "", Vec::new()).map_err(WalkError::Io)?;
                Ok(Step::Link(target.into_bytes()))
            }
            _ => Err(WalkError::NotADirectory(self.real().join(name))),
        }
    }

    /// Follow a symlink: its components come before the pending ones.
    pub(super) fn follow(&mut self, target: &[u8], pending: &mut VecDeque<OsString>) -> Result<(), WalkError> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(WalkError::TooManyLinks);
        }
        let mut ahead = Vec::new();
        for component in Path::new(OsStr::from_bytes(target)).components() {
            match component {
                Component::RootDir => self.below.clear(),
                // Only a `..` at the beginning can be resolved here. After a name it would be walked later.
                Component::ParentDir if ahead.is_empty() => {
                    self.below.pop();
                }
                Component::ParentDir => return Err(WalkError::Untrusted(self.real())),
                Component::Normal(name) => ahead.push(name.to_owned()),
                Component::CurDir | Component::Prefix(_) => {}
            }
        }
        for name in ahead.into_iter().rev() {
            pending.push_front(name);
        }
        Ok(())
    }
}

fn is_trusted(stat: &Stat) -> bool {
    let owner = Uid::from_raw(stat.st_uid);
    owner.is_root() || owner == rustix::process::geteuid()
}
