//! The agents in `bin/`: those that were used last, and for as long as a deployment is under way the one that carries it out.
//!
//! Only the agent that wrote a journal can undo what it says. On a local root it may be started from anywhere, and be gone
//! when it is needed: so it is put into `bin/` before the journal opens, and taken away when that is closed.

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

/// How many agents stay.
const KEPT: usize = 3;
/// The present, for [`utimensat`].
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
/// Our own program.
const SELF: &str = "/proc/self/exe";

/// See to it that this agent is in `bin/`. Returns what has to be made durable of it.
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
    // Where it is on the same file system, a second name is enough.
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

/// No journal needs this agent any more: on a local root it goes.
pub fn release_own(home: &Home) -> Result<(), HostError> {
    if home.is_live() {
        return Ok(());
    }
    durable::remove(&home.bin().join(AgentId::own().as_str()))?;
    // Another agent may be in it.
    let _ = fs::remove_dir(home.bin());
    Ok(())
}

/// Remove agents beyond those that deployed last, by their times; never the one that is running.
pub fn prune(home: &Home, running: &AgentId) -> Result<(), HostError> {
    let bin = home.bin();
    if !bin.exists() {
        return Ok(());
    }
    let mut agents = Vec::new();
    for name in names(&bin)? {
        let path = bin.join(&name);
        if name == running.as_str() {
            // So that it counts as the last used when another one looks.
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
