//! Units for once: files in `/run`, where nobody else has units of these names.
//!
//! A unit that systemd has not loaded yet is read when it is first asked for, so there is no need for a daemon-reload.
//! StartTransientUnit would need each key's value in a type of its own.

use std::{fs, io, path::Path};

use super::super::SystemError;
use crate::shared::name::UnitName;

const UNITS: &str = "/run/systemd/system";
const PREFIX: &str = "deptool-check-";

/// Write the files. A name has not been used since this machine was booted, or systemd could know it from then.
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

/// What an agent left that was killed. There is no other one at work: this one has the host's lock.
fn remove_leftovers() -> io::Result<()> {
    for entry in fs::read_dir(UNITS)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
