//! The ledger of everything that we hold outside of `/var/lib/deptool`, and what was there before us.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    host::state::{
        error::{HostError, not_understood},
        layout::{Home, read_if_there, replace_file},
    },
    shared::{
        name::{AppName, UnitName},
        path::ExternalPath,
    },
    system::UnitFile,
};

/// What to do about a ledger that was damaged.
const ADVICE: &str = "mend it, or move it away: what it had counts as not ours then, and stays when it is given up";

/// What we hold. Kept as JSON, so that people can read it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claims {
    pub paths: BTreeMap<ExternalPath, PathClaim>,
    pub units: BTreeMap<UnitName, UnitClaim>,
    /// Directories that we made; they go when they are empty.
    pub directories: BTreeSet<ExternalPath>,
}

/// A path that is ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathClaim {
    pub app: AppName,
    pub before: Before,
    /// What we put there, to recognise what somebody else did since.
    pub ours: Content,
}

/// What was at a path before we took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Before {
    Absent,
    /// It is kept beside the path under its backup's name.
    Kept,
}

/// What a path outside holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// A symlink with this target.
    Link(String),
    /// A file of mode 0644 with content of this SHA-256, in hex.
    File(String),
}

/// A unit that is ours to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitClaim {
    /// Its enablement before us.
    pub file: UnitFile,
    /// Whether it ran before us.
    pub active: bool,
}

impl Claims {
    /// Read the ledger; empty if there is none yet.
    pub fn load(home: &Home) -> Result<Claims, HostError> {
        let path = home.claims();
        let Some(bytes) = read_if_there(&path)? else { return Ok(Claims::default()) };
        serde_json::from_slice(&bytes).map_err(|error| not_understood(&path, &error, ADVICE))
    }

    /// Replace the ledger durably.
    pub fn save(&self, home: &Home) -> Result<(), HostError> {
        let text = serde_json::to_vec_pretty(self).map_err(|error| HostError::Unfit(error.to_string()))?;
        replace_file(&home.claims(), &text)
    }
}
