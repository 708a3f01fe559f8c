//! The agents in `bin/`: those that deployed last, and the agent of the deployment that is under way.
//!
//! Only the agent that wrote a journal can undo it. For a local root the agent can be started from anywhere, and may be gone
//! when it is needed. So it is copied to `bin/` before the journal is opened, and removed when the journal is closed.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, linkat, utimensat};

use crate::host::state::{
    durable,
    error::{Context, HostError},
    generations::names,
    journal::AgentId,
    layout::Home,
};

/// How many agents are kept.
const KEPT: usize = 3;
/// The present, for [`utimensat`].
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
/// The program of this process.
const SELF: &str = "/proc/self/exe";

/// Put this agent into `bin/` unless it is there. Returns the path to sync, if it was written.
pub fn keep_own(home: &Home) -> Result<Option<PathBuf>, HostError> {
    let path = home.bin().join(AgentId::own().as_str());
    if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file()) {
        return Ok(None);
    }
    match fs::DirBuilder::new().mode(0o755).create(home.bin()) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error).during("create", &home.bin())?,
        _ => {}
    }
    durable::remove_all(&path)?;
    // On the same file system a hard link is enough.
    if linkat(CWD, SELF, CWD, &path, AtFlags::SYMLINK_FOLLOW).is_err() {
        let temporary = home.bin().join(format!("{}.new", AgentId::own()));
        let mut program = fs::File::open(SELF).during("open", Path::new(SELF))?;
        let mut copy = durable::create(&temporary, 0o700)?;
        io::copy(&mut program, &mut copy).during("write", &temporary)?;
        copy.set_permissions(fs::Permissions::from_mode(0o755)).during("change the mode of", &temporary)?;
        fs::rename(&temporary, &path).during("replace", &path)?;
    }
    Ok(Some(path))
}

/// Remove this agent from a local root's `bin/`, because no journal needs it any more.
pub fn release_own(home: &Home) -> Result<(), HostError> {
    if home.is_live() {
        return Ok(());
    }
    durable::remove(&home.bin().join(AgentId::own().as_str()))?;
    // This fails if another agent is in it.
    let _ = fs::remove_dir(home.bin());
    Ok(())
}

/// Remove all agents but those that deployed last, by modification time. Never removes the agent that is running.
pub fn prune(home: &Home, running: &AgentId) -> Result<(), HostError> {
    let bin = home.bin();
    if !bin.exists() {
        return Ok(());
    }
    let mut agents = Vec::new();
    for name in names(&bin)? {
        let path = bin.join(&name);
        if name == running.as_str() {
            // Other agents see by this time that it was used last.
            let now = Timestamps { last_access: NOW, last_modification: NOW };
            utimensat(CWD, &path, &now, AtFlags::SYMLINK_NOFOLLOW).during("set the time of", &path)?;
        }
        let meta = fs::symlink_metadata(&path).during("look at", &path)?;
        if name.starts_with("deptool-agent-") && name != running.as_str() && meta.is_file() {
            agents.push((meta.modified().during("look at", &path)?, path));
        }
    }
    agents.sort();
    agents.reverse();
    for (_, path) in agents.into_iter().skip(KEPT - 1) {
        durable::remove(&path)?;
    }
    Ok(())
}
