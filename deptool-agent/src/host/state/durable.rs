//! Making durable what a deployment has written.
//!
//! `syncfs` writes out the whole file system: on a host with a busy database that is much more than what was deployed,
//! and takes seconds. So where little was written, it is synced file by file. The kernel is asked to begin with all of
//! them first; otherwise each would wait for a transaction of its own.

use std::{
    collections::BTreeSet,
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{Mode, OFlags};

use crate::host::state::{
    error::{Context, HostError},
    layout::Home,
};

/// With more files and directories than this, the whole file system is less work.
const FEW: usize = 64;
/// A disk that takes so long for a few files is one to give signs of life for.
const SLOW: Duration = Duration::from_millis(500);

/// Make `written` durable: files, directories with all that is below them, and their names.
pub fn sync(home: &Home, written: &[PathBuf]) -> Result<(), HostError> {
    let mut all = names_of(home, written);
    for path in written {
        add(path, &mut all)?;
    }
    if all.len() > FEW {
        home.sync_state()?;
        // Some of what was written may be on another one.
        all = names_of(home, written);
        all.extend(written.iter().filter(|path| !path.is_symlink()).cloned());
    }
    sync_each(home, &all)
}

/// The directories that have the names of `written`. Our own directory may have been made with those above it.
fn names_of(home: &Home, written: &[PathBuf]) -> BTreeSet<PathBuf> {
    let above = |path: &PathBuf| match path == home.state() {
        true => {
            path.ancestors().skip(1).take_while(|above| above.starts_with(home.root())).map(Path::to_owned).collect()
        }
        false => Vec::from_iter(path.parent().map(Path::to_owned)),
    };
    written.iter().flat_map(above).collect()
}

/// Add `path` and what is below it to `all`, which need not get longer than [`FEW`]. A symlink is durable with its
/// directory.
fn add(path: &Path, all: &mut BTreeSet<PathBuf>) -> Result<(), HostError> {
    let kind = fs::symlink_metadata(path).during("look at", path)?.file_type();
    if kind.is_symlink() || all.len() > FEW {
        return Ok(());
    }
    all.insert(path.to_owned());
    if kind.is_dir() {
        for entry in fs::read_dir(path).during("read", path)? {
            add(&entry.during("read", path)?.path(), all)?;
        }
    }
    Ok(())
}

fn sync_each(home: &Home, paths: &BTreeSet<PathBuf>) -> Result<(), HostError> {
    let mut open = Vec::with_capacity(paths.len());
    for path in paths {
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during("open", path)?;
        // Whatever it answers: this only begins what fsync does.
        #[cfg(target_os = "linux")]
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        open.push((file, path));
    }
    let began = Instant::now();
    let (mut left, sync) =
        (open.iter(), |(file, path): &(OwnedFd, &PathBuf)| rustix::fs::fsync(file).during("sync", path));
    while let Some(one) = left.next() {
        sync(one)?;
        if began.elapsed() > SLOW {
            return home.wait_for_disk(|| left.try_for_each(sync));
        }
    }
    Ok(())
}
