//! Reads and restores enablement: the symlinks in `/etc/systemd/system`.
//!
//! `systemctl disable` deletes the symlinks of all units that `Also=` names, and a linked unit's own file. So the
//! symlinks are recorded one by one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use crate::{
    host::state::{
        durable,
        error::{Context, HostError},
        kind::Kind,
        layout::Home,
        ledger::Enablement,
    },
    shared::name::UnitName,
    system::{System, UnitFile},
};

/// The directory in which systemd creates the symlinks.
const DIRECTORY: &str = "etc/systemd/system";
/// Takes the place of a target, which is never empty, for a unit of a user that is enabled. The symlinks are in the user's home,
/// where root had better not write: the user's manager is asked instead.
const OF_USER: &str = "";

impl Enablement {
    /// The current enablement of `names`.
    pub fn read(home: &Home, names: BTreeSet<UnitName>, system: &mut dyn System) -> Result<Enablement, HostError> {
        let mut links = links_of(home, &names)?;
        for unit in names.iter().filter(|unit| unit.user().is_some()) {
            if system.unit_file(unit)? == UnitFile::Enabled {
                links.insert(unit.to_string(), OF_USER.to_owned());
            }
        }
        Ok(Enablement { names, links })
    }

    /// Disable units of users, as a first step to restore what was enabled: those that were not enabled, and those of
    /// `renewed`, whose `[Install]` section has changed.
    pub fn disable_of_users(&self, renewed: &BTreeSet<UnitName>, system: &mut dyn System) -> Result<(), HostError> {
        for unit in self.names.iter().filter(|unit| unit.user().is_some()) {
            let is_same = self.links.contains_key(unit.as_str()) && !renewed.contains(unit);
            // After a power cut the boot has put back the files, but not what was enabled.
            if !is_same && matches!(system.unit_file(unit)?, UnitFile::Enabled | UnitFile::Absent) {
                system.disable(std::slice::from_ref(unit))?;
            }
        }
        Ok(())
    }

    /// Enable the units of users that were enabled.
    pub fn enable_of_users(&self, system: &mut dyn System) -> Result<(), HostError> {
        for (unit, _) in self.links.iter().filter(|(_, target)| *target == OF_USER) {
            if let Ok(unit) = UnitName::try_from(unit.clone())
                && system.unit_file(&unit)? != UnitFile::Enabled
            {
                system.enable(&[unit])?;
            }
        }
        Ok(())
    }

    /// Restore exactly these symlinks of the system.
    pub fn restore(&self, home: &Home) -> Result<(), HostError> {
        let now = links_of(home, &self.names)?;
        let directory = directory(home);
        for (path, target) in &now {
            if self.links.get(path) != Some(target) {
                durable::remove(&directory.join(path))?;
            }
        }
        self.add_missing(home)?;
        // Remove empty directories that systemd created for the symlinks.
        for path in now.keys().filter(|path| !self.links.contains_key(*path)) {
            if let Some(above) = Path::new(path).parent().filter(|above| above.components().next().is_some()) {
                let _ = fs::remove_dir(directory.join(above));
            }
        }
        Ok(())
    }

    /// Create the missing symlinks of the system. Whatever is in the place of one of them stays.
    pub fn add_missing(&self, home: &Home) -> Result<(), HostError> {
        let directory = directory(home);
        for (path, target) in self.links.iter().filter(|(_, target)| *target != OF_USER) {
            let path = directory.join(path);
            if Kind::of(&path) != Kind::Nothing {
                continue;
            }
            if let Some(above) = path.parent() {
                fs::create_dir_all(above).during("create", above)?;
            }
            symlink(target, &path).during("make", &path)?;
        }
        Ok(())
    }
}

fn links_of(home: &Home, names: &BTreeSet<UnitName>) -> Result<BTreeMap<String, String>, HostError> {
    let mut links = BTreeMap::new();
    if names.iter().any(|unit| unit.user().is_none()) {
        let directory = directory(home);
        collect(&directory, "", names, &mut links).during("read", &directory)?;
    }
    Ok(links)
}

fn directory(home: &Home) -> PathBuf {
    home.root().join(DIRECTORY)
}

/// Collect the symlinks in `directory` and in its subdirectories `UNIT.wants`, `.requires` and `.upholds`.
fn collect(
    directory: &Path,
    below: &str,
    names: &BTreeSet<UnitName>,
    links: &mut BTreeMap<String, String>,
) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
        let kind = entry.file_type()?;
        let is_of_links = [".wants", ".requires", ".upholds"].iter().any(|suffix| name.ends_with(suffix));
        if kind.is_dir() && below.is_empty() && is_of_links {
            collect(&entry.path(), &path, names, links)?;
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path())?;
            let is_named = |name: &str| UnitName::parse(name.as_bytes()).is_ok_and(|unit| names.contains(&unit));
            let leads_to = target.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if (is_named(&name) || is_named(leads_to))
                && let Some(target) = target.to_str()
            {
                links.insert(path, target.to_owned());
            }
        }
    }
    Ok(())
}
