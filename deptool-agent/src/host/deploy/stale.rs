//! Finds processes that still use files of an earlier deployment after a reload.
//!
//! The open files and the working directory of a process are in the tree that `current` pointed to when they were
//! opened. nsd and others change into their data directory, and then read old files forever. So do services for which
//! systemd has mounted the tree.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    host::state::{error::HostError, journal::Record, layout::Home},
    shared::{
        name::{UnitName, UnitType},
        text::printable,
    },
    system::{JobKind, System},
};

/// How long a server's old processes may take to finish their work after a reload.
const PATIENCE: Duration = Duration::from_millis(1500);
const PAUSE: Duration = Duration::from_millis(100);

/// A unit that was reloaded, and an old file that one of its processes still uses.
pub struct Stale {
    pub unit: UnitName,
    /// "process 123 still works in '/var/lib/deptool/trees/…/zones'"
    pub what: String,
    pub may_restart: bool,
}

/// The units reloaded by `record` that still use old files.
pub fn find(
    home: &Home,
    record: &Record,
    system: &mut dyn System,
    tick: &mut dyn FnMut(&str),
) -> Result<Vec<Stale>, HostError> {
    let jobs = record.actions.iter().filter_map(|action| action.on_units().1);
    let mut stale = Vec::new();
    for jobs in jobs {
        let reloaded = jobs.jobs.iter().filter(|(_, kind)| *kind == JobKind::Reload).map(|(unit, _)| unit);
        let units: Vec<&UnitName> = reloaded.filter(|unit| UnitType::of(unit) == UnitType::Service).collect();
        if units.is_empty() {
            continue;
        }
        let current = trees_of(home, record.generation);
        let until = system.clock() + PATIENCE;
        for unit in units {
            while let Some(what) = old_file(home, unit, &current, system)? {
                if system.clock() >= until {
                    let may_restart = jobs.restart_if_stale.contains(unit);
                    stale.push(Stale { unit: unit.clone(), what, may_restart });
                    break;
                }
                tick(unit.as_str());
                system.wait_for_change(PAUSE)?;
            }
        }
    }
    Ok(stale)
}

/// The names of the checkouts that a generation uses.
fn trees_of(home: &Home, generation: u32) -> Vec<OsString> {
    let apps = fs::read_dir(home.generation(generation)).into_iter().flatten().flatten();
    apps.filter_map(|app| Some(fs::read_link(app.path()).ok()?.file_name()?.to_owned())).collect()
}

/// An old file or directory that a process of the unit uses, in words.
fn old_file(
    home: &Home,
    unit: &UnitName,
    current: &[OsString],
    system: &mut dyn System,
) -> Result<Option<String>, HostError> {
    for process in system.processes(unit)? {
        let proc = Path::new("/proc").join(process.to_string());
        let descriptors = fs::read_dir(proc.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
        let places = [("works in", proc.join("cwd")), ("has its root in", proc.join("root"))];
        let open = places.into_iter().chain(descriptors.map(|path| ("has open", path)));
        for (how, link) in open {
            // The process may have ended, or may belong to another user.
            let Ok(path) = fs::read_link(link) else { continue };
            let Ok(below) = path.strip_prefix(home.trees()) else { continue };
            let tree = below.components().next().map(|tree| tree.as_os_str().to_owned());
            if tree.is_some_and(|tree| !current.contains(&tree)) {
                let path = printable(path.as_os_str().as_encoded_bytes());
                return Ok(Some(format!("process {process} still {how} '{path}'")));
            }
        }
        if let Some(path) = old_mount(home, &proc, current) {
            return Ok(Some(format!("process {process} still has '{}' mounted", path.display())));
        }
    }
    Ok(None)
}

/// An old checkout that is mounted for the process, but not for us: nothing that a unit does can change what everybody sees.
fn old_mount(home: &Home, proc: &Path, current: &[OsString]) -> Option<PathBuf> {
    let namespace = |proc: &Path| fs::read_link(proc.join("ns/mnt")).ok();
    if namespace(proc)? == namespace(Path::new("/proc/self"))? {
        return None;
    }
    let mounts = fs::read_to_string(proc.join("mountinfo")).ok()?;
    // The fourth word is the mounted directory, as a path from the root of its file system.
    mounts.lines().filter_map(|line| line.split(' ').nth(3)?.rsplit_once("/trees/")).find_map(|(_, below)| {
        let tree = below.split('/').next()?;
        let path = home.trees().join(tree);
        (!current.iter().any(|known| known == tree) && path.is_dir()).then_some(path)
    })
}
