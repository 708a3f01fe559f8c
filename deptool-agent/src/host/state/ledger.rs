//! The ledger: the external paths and units that are claimed by deployed apps, and what was there before.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    host::state::{
        durable::{self, RECORD},
        error::{Damage, HostError},
        layout::Home,
    },
    shared::{
        name::{AppName, UnitName},
        path::ExternalPath,
        text::hex,
    },
    system::UnitFile,
};

/// The ledger. It is stored as JSON, so that people can read it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claims {
    pub paths: BTreeMap<ExternalPath, PathClaim>,
    pub units: BTreeMap<UnitName, UnitClaim>,
    /// Directories that a deployment made. They are removed when they become empty.
    pub directories: BTreeSet<ExternalPath>,
    /// The SELinux labels of the paths, as far as they were set.
    pub labels: BTreeMap<ExternalPath, String>,
}

/// A path that an app claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathClaim {
    pub app: AppName,
    pub before: Before,
    /// The content that was deployed, to recognise later changes by hand.
    pub ours: Content,
}

/// What was at a path before it was claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Before {
    Absent,
    /// A file or symlink, which is kept as a backup.
    Kept,
}

/// The content of an external path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// A symlink with this target.
    Link(String),
    /// A file of mode 0644 with content of this SHA-256, in hex.
    File(String),
}

/// A unit that an app enables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitClaim {
    /// Its enablement before it was claimed.
    pub file: UnitFile,
    /// Whether it ran before it was claimed.
    pub active: bool,
    /// The enablement links of the unit, and of the units in its `Also=`, before it was claimed.
    pub links: Enablement,
    /// Units that ran before it was claimed and that conflict with it (Conflicts=).
    pub displaced: BTreeSet<UnitName>,
    /// Foreign files that changed it before it was claimed. They are not drift.
    pub beside: BTreeSet<ExternalPath>,
}

impl Default for UnitClaim {
    /// The claim on a unit that did not exist before.
    fn default() -> Self {
        let (links, displaced) = (Enablement::default(), BTreeSet::new());
        UnitClaim { file: UnitFile::Absent, active: false, links, displaced, beside: BTreeSet::new() }
    }
}

/// The enablement of some units: the symlinks that enabling or disabling them may affect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enablement {
    /// The units, including those in `Also=` and `Alias=`.
    pub names: BTreeSet<UnitName>,
    /// For each symlink, its path below the directory of units, and its target. For each unit of a user that is enabled, its
    /// name, and an empty target.
    pub links: BTreeMap<String, String>,
}

impl Enablement {
    /// Whether nothing is enabled.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }
}

/// The content of the ledger's file. It has a digest, because a deployment based on a changed ledger could delete files
/// that were never deployed.
#[derive(Serialize, Deserialize)]
struct Sealed {
    /// The digest of `claims` as JSON without spaces.
    sha256: String,
    claims: Claims,
}

/// The claims of a host without SELinux, for their digest.
#[derive(Serialize)]
struct Unlabelled<'a> {
    paths: &'a BTreeMap<ExternalPath, PathClaim>,
    units: &'a BTreeMap<UnitName, UnitClaim>,
    directories: &'a BTreeSet<ExternalPath>,
}

impl Claims {
    /// Read the ledger. `None` if there is none.
    pub fn load(home: &Home) -> Result<Option<Claims>, HostError> {
        let path = home.claims();
        let Some(bytes) = durable::read(&path, RECORD)? else { return Ok(None) };
        let sealed: Sealed = serde_json::from_slice(&bytes).map_err(|error| Damage::unreadable(&path, &error))?;
        if sealed.claims.digest()? != sealed.sha256 {
            return Err(Damage::of(&path, "was changed").into());
        }
        Ok(Some(sealed.claims))
    }

    /// Replace the ledger. The caller syncs the file system.
    pub fn save(&self, home: &Home) -> Result<(), HostError> {
        let sealed = Sealed { sha256: self.digest()?, claims: self.clone() };
        let text = serde_json::to_vec_pretty(&sealed).map_err(not_written)?;
        durable::replace(&home.claims(), &text)
    }

    fn digest(&self) -> Result<String, HostError> {
        // Ledgers from before there were labels have a digest without them.
        let Claims { paths, units, directories, labels } = self;
        let text = match labels.is_empty() {
            true => serde_json::to_vec(&Unlabelled { paths, units, directories }),
            false => serde_json::to_vec(self),
        };
        Ok(hex(&Sha256::digest(text.map_err(not_written)?)))
    }
}

fn not_written(error: serde_json::Error) -> HostError {
    HostError::refused(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_that_was_changed_is_damage_even_if_it_can_be_parsed() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        home.create().unwrap();
        assert_eq!(Claims::load(&home).unwrap(), None);
        let path = ExternalPath::parse("/etc/motd").unwrap();
        let claims = Claims { directories: BTreeSet::from([path]), ..Claims::default() };
        claims.save(&home).unwrap();
        assert_eq!(Claims::load(&home).unwrap(), Some(claims));
        let text = std::fs::read_to_string(home.claims()).unwrap();
        std::fs::write(home.claims(), text.replace("motd", "mot")).unwrap();
        assert!(matches!(Claims::load(&home), Err(HostError::Damaged(_))));
    }
}
