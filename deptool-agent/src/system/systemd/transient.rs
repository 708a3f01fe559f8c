//! Temporary units: unit files in `/run`, for checks.
//!
//! systemd reads a new unit file when the unit is first used, so these need no daemon-reload. StartTransientUnit is not used
//! because it needs every setting in a D-Bus type of its own.

use std::{fs, io, path::Path};

use super::super::SystemError;
use crate::shared::name::UnitName;

const UNITS: &str = "/run/systemd/system";
const PREFIX: &str = "deptool-check-";

/// Write the unit files. Names must not repeat while the machine runs, or systemd could still have an old unit loaded.
pub fn add(files: &[&str]) -> Result<Vec<UnitName>, SystemError> {
    remove_leftovers().map_err(|error| SystemError(format!("can't clean up in '{UNITS}': {error}")))?;
    let pid = std::process::id();
    let mut units = Vec::new();
    for (number, text) in files.iter().enumerate() {
        let name = format!("{PREFIX}{pid}-{number}.service");
        let unit = UnitName::parse(name.as_bytes()).map_err(|error| SystemError(error.to_string()))?;
        let path = Path::new(UNITS).join(&name);
        fs::write(&path, text).map_err(|error| SystemError(format!("can't write '{}': {error}", path.display())))?;
        units.push(unit);
    }
    Ok(units)
}

pub fn remove(unit: &UnitName) -> Result<(), SystemError> {
    let path = Path::new(UNITS).join(unit.as_str());
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SystemError(format!("can't remove '{}': {error}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Remove the units of an agent that was killed. No other agent is running, because the caller holds the host lock.
fn remove_leftovers() -> io::Result<()> {
    for entry in fs::read_dir(UNITS)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
