//! The identity of the host: its id, its name in the tree, and what is deployed on it.
//!
//! The note of the current generation repeats these, for when a file here is damaged.

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
        generations::Note,
        layout::{Home, names, sync_directory},
    },
    shared::{
        id::CommitId,
        name::HostName,
        outcome::Deployed,
        store::Store,
        text::{hex, printable, unhex},
        tree::{Apps, HostTree, TreeError, host_directory, root_of},
    },
};

/// The length of a host's id, in bytes.
const LENGTH: usize = 16;

/// What is deployed on this host.
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

/// The name of the host's directory in the tree, as it was recorded at the last deployment.
pub fn host_name(home: &Home) -> Result<HostName, HostError> {
    let path = home.host_name();
    let bytes = durable::read(&path, NOTE)?.unwrap_or_default();
    let advice = "write the name of this host's directory in the tree into it";
    HostName::parse(&bytes).map_err(|error| Damage::unreadable(&path, &error).with_advice(advice).into())
}

/// The name in `/etc/hostname`, if it can't be that of the host `expected`.
pub fn hostname_differs(home: &Home, expected: &HostName) -> Result<Option<String>, HostError> {
    let path = home.root().join("etc/hostname");
    let bytes = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        bytes => bytes.during("read", &path)?,
    };
    let text = String::from_utf8_lossy(&bytes);
    let name = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
    let first = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let expected = expected.as_str();
    let same = name.eq_ignore_ascii_case(expected)
        || first(name).eq_ignore_ascii_case(expected)
        || first(expected).eq_ignore_ascii_case(name);
    if name.is_empty() || name == "localhost" || same {
        return Ok(None);
    }
    Ok(Some(printable(name.as_bytes())))
}

/// Load the directory of `host` in `commit`, with apps from `known` where they are there. The tree is empty if there is no
/// such directory.
pub fn load_tree(store: &Store, host: &HostName, commit: CommitId, known: &mut Apps) -> Result<HostTree, TreeError> {
    let root = root_of(store, commit)?;
    match host_directory(store, root, host)? {
        Some(directory) => HostTree::load_sharing(store, directory, known),
        None => Ok(HostTree::default()),
    }
}

/// The id of this host. Empty if nothing was ever deployed to a root directory.
pub fn instance(home: &Home) -> Result<String, HostError> {
    match (read_instance(home), Note::current(home)) {
        (Ok(Some(instance)), _) => Ok(instance),
        (Ok(None) | Err(HostError::Damaged(_)), Some(note)) => Ok(note.instance),
        (Ok(None), None) => Ok(String::new()),
        (Err(error), _) => Err(error),
    }
}

/// Read the id from its file. `None` if there is no file.
pub fn read_instance(home: &Home) -> Result<Option<String>, HostError> {
    let path = home.instance();
    let Some(bytes) = durable::read(&path, NOTE)? else { return Ok(None) };
    match unhex(&bytes) {
        Some(id) if id.len() == LENGTH => Ok(Some(hex(&id))),
        _ => Err(Damage::of(&path, "does not hold a valid id").into()),
    }
}

/// Create the id if there is none. If several agents do so at once, the first one wins. A lost id is restored.
pub fn make_instance(home: &Home) -> Result<(), HostError> {
    if read_instance(home)?.is_some() {
        return Ok(());
    }
    home.create_state()?;
    let id = match Note::current(home) {
        Some(note) => note.instance,
        None => hex(&crate::shared::id::random_bytes::<LENGTH>().during("read", Path::new("/dev/urandom"))?),
    };
    create_once(home, &home.instance(), id.as_bytes())
}

/// Create a file in `state/` that never changes, and make it durable. If several agents do so at once, the first one wins.
pub fn create_once(home: &Home, path: &Path, content: &[u8]) -> Result<(), HostError> {
    clear_unnamed(home)?;
    let temporary = path.with_extension(std::process::id().to_string());
    let write = || {
        let mut file = durable::create(&temporary, 0o600)?;
        file.write_all(content).and_then(|()| file.sync_all()).during("write", &temporary)?;
        name_once(&temporary, path)
    };
    let named = write();
    if named.is_err() {
        // The error above is the one to report. The next agent removes the file.
        let _ = fs::remove_file(&temporary);
        return named;
    }
    // At the first contact, the directories above may be new, too.
    let mut above = path.ancestors().skip(1).take_while(|above| above.starts_with(home.root()));
    above.try_for_each(sync_directory)
}

/// Rename the temporary file to `path`, unless another agent was first.
fn name_once(temporary: &Path, path: &Path) -> Result<(), HostError> {
    match renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => fs::remove_file(temporary).during("remove", temporary),
        // Some file systems do not support RENAME_NOREPLACE.
        Err(Errno::INVAL) if !path.exists() => fs::rename(temporary, path).during("write", path),
        Err(error) => Err(error).during("write", path),
    }
}

/// Remove temporary files that dead agents left in [`create_once`].
pub fn clear_unnamed(home: &Home) -> Result<(), HostError> {
    for name in names(&home.state())?.iter().filter(|name| is_of_dead_agent(name)) {
        durable::remove(&home.state().join(name))?;
    }
    Ok(())
}

/// Whether this is the name of a temporary file of [`create_once`], and its agent is dead.
fn is_of_dead_agent(name: &str) -> bool {
    let process = ["instance.", "identity."].iter().find_map(|prefix| name.strip_prefix(prefix));
    // A process id, and nothing that somebody else has put there.
    process.is_some_and(|process| process.parse::<u32>().is_ok() && !is_alive(process))
}

/// Whether the process with this number is alive. A zombie is not.
fn is_alive(process: &str) -> bool {
    let stat = fs::read(Path::new("/proc").join(process).join("stat")).unwrap_or_default();
    // The state follows the program's name, which is in brackets and may have brackets in it.
    let state = stat.rsplit(|byte| *byte == b')').next().and_then(|fields| fields.get(1));
    state.is_some_and(|state| !b"ZX".contains(state))
}

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

    use super::*;

    #[test]
    fn files_of_a_killed_agent_are_removed_even_if_it_is_a_zombie() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        home.create().unwrap();
        let mut killed = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        killed.kill().unwrap();
        // Wait for its end without reaping it: it is a zombie now.
        let pid = Pid::from_child(&killed);
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        for process in [killed.id(), std::process::id()] {
            fs::write(home.state().join(format!("instance.{process}")), "").unwrap();
        }
        clear_unnamed(&home).unwrap();
        let left: Vec<_> =
            names(&home.state()).unwrap().into_iter().filter(|name| name.contains("instance.")).collect();
        assert_eq!(left, [format!("instance.{}", std::process::id())]);
        killed.wait().unwrap();
    }
}
