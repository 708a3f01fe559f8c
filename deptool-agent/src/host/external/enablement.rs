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
};

/// The directory in which systemd creates the symlinks.
const DIRECTORY: &str = "etc/systemd/system";

impl Enablement {
    /// The current enablement of `names`.
    pub fn read(home: &Home, names: BTreeSet<UnitName>) -> Result<Enablement, HostError> {
        let mut links = BTreeMap::new();
        if !names.is_empty() {
            let directory = directory(home);
            collect(&directory, "", &names, &mut links).during("read", &directory)?;
        }
        Ok(Enablement { names, links })
    }

    /// Restore exactly these symlinks.
    pub fn restore(&self, home: &Home) -> Result<(), HostError> {
        let now = Enablement::read(home, self.names.clone())?;
        let directory = directory(home);
        for (path, target) in &now.links {
            if self.links.get(path) != Some(target) {
                durable::remove(&directory.join(path))?;
            }
        }
        self.add_missing(home)?;
        // Remove empty directories that systemd created for the symlinks.
        for path in now.links.keys().filter(|path| !self.links.contains_key(*path)) {
            if let Some(above) = Path::new(path).parent().filter(|above| above.components().next().is_some()) {
                let _ = fs::remove_dir(directory.join(above));
            }
        }
        Ok(())
    }

    /// Create the missing symlinks. Whatever is in the place of one of them stays.
    pub fn add_missing(&self, home: &Home) -> Result<(), HostError> {
        let directory = directory(home);
        for (path, target) in &self.links {
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
