//! Whether an external path can be changed, as far as that can be known before.

use std::{ffi::OsStr, os::fd::AsFd};

use rustix::{
    fs::{Access, AtFlags, IFlags, Mode, OFlags, StatxAttributes, StatxFlags},
    io::Errno,
    path::Arg,
};

use super::{Place, Sibling};
use crate::host::state::error::{Context, HostError, reason};

impl Place {
    /// Check that something can be put in place here.
    ///
    /// `own` is the device of the state directory, which is known to take files and symlinks. On any other device one of
    /// them is made and removed beside the path, to find out.
    pub fn check_writable(&self, is_link: bool, own: u64) -> Result<(), HostError> {
        let refuse =
            |why: &str| HostError::External(format!("'{}' can't be written: {why}", self.path(&self.name).display()));
        match rustix::fs::accessat(&self.directory, ".", Access::WRITE_OK, AtFlags::EACCESS) {
            Err(Errno::ROFS) => return Err(refuse("the file system is read-only")),
            // Of an immutable directory. More is said of that below.
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => return Err(refuse(&reason(&error.into()))),
        }
        for (name, is) in [(OsStr::new("."), "its directory is"), (&self.name, "it is")] {
            if let Some(how) = lock_of(&self.directory, name).during("look at", &self.path(name))? {
                return Err(refuse(&format!("{is} {how}, see chattr(1)")));
            }
        }
        if attributes(&self.directory, &self.name).is_ok_and(|found| found.contains(StatxAttributes::MOUNT_ROOT)) {
            return Err(refuse("something is mounted there"));
        }
        if self.device()? == own {
            return Ok(());
        }
        let probe = Sibling::New.name(&self.name);
        self.remove_name(&probe)?;
        let made = match is_link {
            true => rustix::fs::symlinkat("probe", &self.directory, &probe),
            false => self.create(&probe).map(drop),
        };
        match made {
            Ok(()) => self.remove_name(&probe),
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) if is_link => {
                Err(refuse("its file system has no symlinks"))
            }
            Err(error) => Err(refuse(&reason(&error.into()))),
        }
    }
}

fn attributes(directory: impl AsFd, name: impl Arg) -> Result<StatxAttributes, Errno> {
    match rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()) {
        Ok(stat) => Ok(stat.stx_attributes),
        // Some kernels do not know this call.
        Err(Errno::NOENT | Errno::NOSYS) => Ok(StatxAttributes::empty()),
        Err(error) => Err(error),
    }
}

/// The attribute by which a file can't be replaced, nor anything in a directory, even by root.
pub fn lock_of(directory: impl AsFd, name: impl Arg + Copy) -> Result<Option<&'static str>, Errno> {
    let attributes = attributes(&directory, name)?;
    let (flag, how) = if attributes.contains(StatxAttributes::IMMUTABLE) {
        (IFlags::IMMUTABLE, "immutable")
    } else if attributes.contains(StatxAttributes::APPEND) {
        (IFlags::APPEND, "append-only")
    } else {
        return Ok(None);
    };
    // EROFS says that everything is immutable, and so do overlays of what they have not copied up from there. That is no
    // obstacle. chattr can't have set it either: no such file system has these flags, and no symlink.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&directory, name, flags, Mode::empty());
    match file.and_then(rustix::fs::ioctl_getflags) {
        Ok(flags) if !flags.contains(flag) => Ok(None),
        Err(Errno::LOOP | Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => Ok(None),
        _ => Ok(Some(how)),
    }
}
