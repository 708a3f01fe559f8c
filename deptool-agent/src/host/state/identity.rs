//! What a host knows of itself: its own id, and what is deployed on it.
//!
//! The generation that runs says the same again: what was damaged here is read from there.

use std::{fs, io::Write as _, path::Path};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use crate::{
    host::state::{
        attempts,
        durable::{self, NOTE},
        error::{Context, Damage, HostError},
        generations::{Note, names},
        layout::Home,
    },
    shared::{
        id::CommitId,
        name::HostName,
        outcome::Deployed,
        store::Store,
        text::{hex, unhex},
        tree::{HostTree, TreeError, host_directory, root_of},
    },
};

/// The bytes of a host's id.
const LENGTH: usize = 16;

/// What is deployed here, for whoever asks.
pub fn deployed(home: &Home) -> Result<Option<Deployed>, HostError> {
    let Some((cluster, commit)) = Store::deployed_at(&home.store())? else { return Ok(None) };
    let host = match (host_name(home), Note::current(home)) {
        (Err(HostError::Damaged(_)), Some(note)) => note.host,
        (host, _) => host?,
    };
    let done = attempts::last_done(home)?;
    let (by, when) = done.map_or(("somebody".into(), 0), |attempt| (attempt.by, attempt.when));
    Ok(Some(Deployed { host, cluster, commit, by, when }))
}

/// The name of the host's directory in the tree, as it was written down when it was deployed.
pub fn host_name(home: &Home) -> Result<HostName, HostError> {
    let path = home.host_name();
    let bytes = durable::read(&path, NOTE)?.unwrap_or_default();
    let advice = "write the name of this host's directory in the tree into it";
    HostName::parse(&bytes).map_err(|error| Damage::unreadable(&path, &error).with_advice(advice).into())
}

/// The directory of `host` in `commit`; empty if it has none.
pub fn load_tree(store: &Store, host: &HostName, commit: CommitId) -> Result<HostTree, TreeError> {
    let root = root_of(store, commit)?;
    match host_directory(store, root, host)? {
        Some(directory) => HostTree::load(store, directory),
        None => Ok(HostTree::default()),
    }
}

/// This host's own id. Empty in a root directory that nothing was ever deployed to.
pub fn instance(home: &Home) -> Result<String, HostError> {
    match (read_instance(home), Note::current(home)) {
        (Ok(Some(instance)), _) => Ok(instance),
        (Ok(None) | Err(HostError::Damaged(_)), Some(note)) => Ok(note.instance),
        (Ok(None), None) => Ok(String::new()),
        (Err(error), _) => Err(error),
    }
}

/// The id in its file; `None` if there is none.
pub fn read_instance(home: &Home) -> Result<Option<String>, HostError> {
    let path = home.instance();
    let Some(bytes) = durable::read(&path, NOTE)? else { return Ok(None) };
    match unhex(&bytes) {
        Some(id) if id.len() == LENGTH => Ok(Some(hex(&id))),
        _ => Err(Damage::of(&path, "is not an id that we made").into()),
    }
}

/// Make the id if there is none: the first to write it, of several agents, decides. One that was lost is the same again.
pub fn make_instance(home: &Home) -> Result<(), HostError> {
    if read_instance(home)?.is_some() {
        return Ok(());
    }
    home.create_state()?;
    let id = match Note::current(home) {
        Some(note) => note.instance,
        None => hex(&crate::shared::id::random_bytes::<LENGTH>().during("read", Path::new("/dev/urandom"))?),
    };
    clear_instances(home)?;
    let temporary = home.state().join(format!("instance.{}", std::process::id()));
    let written = durable::create(&temporary, 0o600)?.write_all(id.as_bytes()).during("write", &temporary);
    let named = written.and_then(|()| name_instance(&temporary, &home.instance()));
    if named.is_err() {
        // Nobody can be told if this fails, too: the next agent clears it away.
        let _ = fs::remove_file(&temporary);
    }
    named
}

/// Give the id its name, unless somebody else was first.
fn name_instance(temporary: &Path, path: &Path) -> Result<(), HostError> {
    match renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => fs::remove_file(temporary).during("remove", temporary),
        // Some file systems can't promise not to replace.
        Err(Errno::INVAL) if !path.exists() => fs::rename(temporary, path).during("write", path),
        Err(error) => Err(error).during("write", path),
    }
}

/// Remove what agents that are gone have left half written of this host's id.
pub fn clear_instances(home: &Home) -> Result<(), HostError> {
    for name in names(&home.state())?.iter().filter(|name| is_of_dead_agent(name)) {
        durable::remove(&home.state().join(name))?;
    }
    Ok(())
}

/// Whether a file was to become this host's id, and the agent that made it is gone.
fn is_of_dead_agent(name: &str) -> bool {
    name.strip_prefix("instance.").is_some_and(|process| !is_alive(process))
}

/// Whether there is a process of that number that has not ended. One that was killed stays known until somebody has asked
/// how it ended.
fn is_alive(process: &str) -> bool {
    let stat = fs::read(Path::new("/proc").join(process).join("stat")).unwrap_or_default();
    // The name, in brackets, may hold anything.
    let state = stat.rsplit(|byte| *byte == b')').next().and_then(|fields| fields.get(1));
    state.is_some_and(|state| !b"ZX".contains(state))
}

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

    use super::*;

    #[test]
    fn what_an_agent_that_was_killed_has_left_goes_also_while_nobody_has_taken_note_of_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        home.create().unwrap();
        let mut killed = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        killed.kill().unwrap();
        // It has ended, and is not waited for.
        let pid = Pid::from_child(&killed);
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        for process in [killed.id(), std::process::id()] {
            fs::write(home.state().join(format!("instance.{process}")), "").unwrap();
        }
        clear_instances(&home).unwrap();
        let left: Vec<_> =
            names(&home.state()).unwrap().into_iter().filter(|name| name.contains("instance.")).collect();
        assert_eq!(left, [format!("instance.{}", std::process::id())]);
        killed.wait().unwrap();
    }
}
