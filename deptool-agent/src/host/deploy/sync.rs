//! Makes durable what a deployment has done or undone, before the journal says so.
//!
//! External paths may be on file systems of their own. So the directory of each is synced, once. If more than the link to the
//! generation has changed in deptool's directory, then its file system is synced as a whole, with the external paths on it.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt, path::Path, slice};

use crate::{
    host::{
        deploy::action::Action,
        external::place::Place,
        state::{
            error::HostError,
            journal::Record,
            layout::{Home, sync_directory},
        },
    },
    shared::path::ExternalPath,
};

/// What has changed in deptool's own directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// Only the link to the current generation.
    Link,
    Anything,
}

impl Own {
    /// The file system that is synced as a whole.
    fn device(self, home: &Home) -> Option<u64> {
        match self {
            Own::Link => None,
            Own::Anything => device_of(home.directory()),
        }
    }
}

/// Sync all that the deployment of `record` may have changed, and at least `own`.
pub fn everything(home: &Home, record: &Record, mut own: Own) -> Result<(), HostError> {
    let (mut is_etc_changed, mut are_homes_changed) = (false, false);
    for action in &record.actions {
        match action {
            // systemd makes links in the directories of all units that [Install] names. Those of users are in their homes.
            Action::Enable(units) | Action::Disable(units) => {
                is_etc_changed = true;
                are_homes_changed |= units.iter().any(|unit| unit.user().is_some());
            }
            Action::RestoreLinks(_) => is_etc_changed = true,
            Action::CreateUsers(_) => (is_etc_changed, own) = (true, Own::Anything),
            Action::Own { .. }
            | Action::OwnSecrets { .. }
            | Action::LinkApps(_)
            | Action::UnlinkApps(_)
            | Action::CreateTmpfiles(_) => own = Own::Anything,
            // See `places`.
            Action::Place(_) | Action::MakeDirectories(_) => {}
            Action::Stop(_) | Action::Switch { .. } | Action::DaemonReload(_) | Action::Jobs(_) => {}
        }
    }
    places(home, record, own)?;
    let etc = home.root().join("etc");
    if are_homes_changed {
        home.wait_for(rustix::fs::sync);
    } else if is_etc_changed && device_of(&etc).is_some_and(|device| own.device(home) != Some(device)) {
        home.sync_file_system(&etc)?;
    }
    match own {
        Own::Link => sync_directory(home.directory()),
        Own::Anything => home.sync_own(),
    }
}

/// Sync the directories of external paths. Those on the file system that is synced as a whole are left out.
pub fn places(home: &Home, record: &Record, own: Own) -> Result<(), HostError> {
    let (mut synced, own) = (BTreeSet::new(), own.device(home));
    for action in &record.actions {
        let paths: &[ExternalPath] = match action {
            Action::Place(placement) => slice::from_ref(&placement.path),
            Action::MakeDirectories(paths) => paths,
            _ => &[],
        };
        for path in paths {
            match Place::existing(home, path) {
                Ok(Some(place)) if own != Some(place.device()?) && synced.insert(place.directory().to_owned()) => {
                    place.sync()?
                }
                // What can't be reached safely any more is left alone: see `finish` and `undo`.
                Ok(_) | Err(HostError::External(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn device_of(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|meta| meta.dev())
}
