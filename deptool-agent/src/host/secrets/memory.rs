//! Memory for plain text: a file system of its own that is never swapped to a disk.
//!
//! A tmpfs can be told so since Linux 6.3; before, there is ramfs. A root directory has neither: there, secrets are ordinary
//! files.

use std::{ffi::CString, fs, io, path::PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::host::{
    secrets::make_passage,
    state::{
        error::{Context, HostError},
        labels,
        layout::Home,
    },
};

const MOUNTS: &str = "/proc/self/mounts";

/// What is mounted at the directory for secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mounted {
    Nothing,
    /// Something that is never swapped.
    Safe,
    Unsafe,
}

/// Make the directory for secrets, and return its path.
pub fn open(home: &Home) -> Result<PathBuf, HostError> {
    let directory = home.secrets();
    home.create_run()?;
    if !home.is_live() {
        make_passage(&directory)?;
        return Ok(directory);
    }
    let mounts = fs::read_to_string(MOUNTS).during("read", MOUNTS.as_ref())?;
    match mounted(&mounts, &directory.to_string_lossy()) {
        Mounted::Safe => Ok(directory),
        Mounted::Unsafe => Err(HostError::refused(format!(
            "something else is mounted at '{}', and may be swapped to a disk: unmount it",
            directory.display()
        ))),
        Mounted::Nothing => {
            make_passage(&directory)?;
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            let label = labels::mount_option(home);
            let try_to = |kind: &str, options: &str| {
                let options = CString::new(format!("{options}{label}"))?;
                Ok(mount("deptool-secrets", &directory, kind, flags, options.as_c_str())?)
            };
            // An older kernel does not know the option.
            let done = try_to("tmpfs", "mode=0711,noswap").or_else(|_: io::Error| try_to("ramfs", "mode=0711"));
            done.during("mount memory at", &directory)?;
            Ok(directory)
        }
    }
}

/// Unmount the memory, and remove its directory. If a program still uses it, it stays, and is empty.
pub fn close(home: &Home) {
    let directory = home.secrets();
    if home.is_live() && directory.is_dir() {
        let _ = unmount(&directory, UnmountFlags::empty());
    }
    let _ = fs::remove_dir(&directory);
}

/// What `mounts`, the content of `/proc/self/mounts`, says of `directory`.
fn mounted(mounts: &str, directory: &str) -> Mounted {
    let mut found = Mounted::Nothing;
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, at, kind, options, ..] = fields[..] else { continue };
        // The last one hides those before.
        if at == directory {
            let is_safe = kind == "ramfs" || (kind == "tmpfs" && options.split(',').any(|one| one == "noswap"));
            found = if is_safe { Mounted::Safe } else { Mounted::Unsafe };
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_may_be_swapped_is_not_used() {
        let at = "/run/deptool/secrets";
        let of =
            |kind, options| format!("tmpfs /run tmpfs rw 0 0\nx {at} {kind} {options} 0 0\nx {at}/y ext4 rw 0 0\n");
        assert_eq!(mounted("tmpfs /run tmpfs rw 0 0\n", at), Mounted::Nothing);
        assert_eq!(mounted(&of("tmpfs", "rw,nosuid,noswap,mode=711"), at), Mounted::Safe);
        assert_eq!(mounted(&of("ramfs", "rw"), at), Mounted::Safe);
        for (kind, options) in [("tmpfs", "rw"), ("ext4", "rw"), ("tmpfs", "rw,nonoswap")] {
            assert_eq!(mounted(&of(kind, options), at), Mounted::Unsafe);
        }
        assert_eq!(mounted(&(of("ramfs", "rw") + &of("ext4", "rw")), at), Mounted::Unsafe);
    }
}
