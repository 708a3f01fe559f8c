//! What a host knows of itself: its own id, and what is deployed on it.

use std::{fs, path::Path};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use crate::{
    host::{
        deploy::finish,
        state::{
            attempts,
            error::{Context, HostError, not_understood},
            layout::{Home, read_if_there},
        },
    },
    shared::{
        id::CommitId,
        name::HostName,
        outcome::Deployed,
        store::Store,
        text::{hex, printable},
        tree::{HostTree, TreeError, host_directory, root_of},
    },
};

/// What is deployed here, for whoever asks.
pub fn deployed(home: &Home) -> Result<Option<Deployed>, HostError> {
    let Some((cluster, commit)) = Store::deployed_at(&home.store())? else { return Ok(None) };
    let name = read_if_there(&home.host_name())?.unwrap_or_default();
    let advice = "write the name of this host's directory in the tree into it";
    let host = HostName::parse(&name).map_err(|error| not_understood(&home.host_name(), &error, advice))?;
    let done = attempts::last_done(home)?;
    let (by, when) = done.map_or(("somebody".into(), 0), |attempt| (attempt.by, attempt.when));
    Ok(Some(Deployed { host, cluster, commit, by, when }))
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
    let bytes = read_if_there(&home.instance())?.unwrap_or_default();
    Ok(printable(&bytes))
}

/// Make the id if there is none: the first to write it, of several agents, decides.
pub fn make_instance(home: &Home) -> Result<(), HostError> {
    if read_if_there(&home.instance())?.is_some() {
        return Ok(());
    }
    let bytes: [u8; 16] = crate::shared::id::random_bytes().during("read", Path::new("/dev/urandom"))?;
    let path = home.instance();
    finish::clear_instances(home)?;
    let temporary = home.state().join(format!("instance.{}", std::process::id()));
    let written = fs::write(&temporary, hex(&bytes)).during("write", &temporary);
    let named = written.and_then(|()| name_instance(&temporary, &path));
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
