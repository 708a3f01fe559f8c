//! One kind of change to a machine each, with all that is needed to undo it.
//!
//! Actions are decided in *prepare* and written to the journal before the first of them is carried out. Doing and undoing
//! are in [`crate::host::deploy::apply`] and [`crate::host::deploy::undo`]; neither decides anything.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    shared::{
        manifest::FileAttributes,
        name::{AppName, UnitName},
        path::{ExternalPath, TreePath},
    },
    system::JobKind,
};

/// A change, in the order in which a deployment makes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Action {
    /// Stop units that go away, while their files are still there. All of them were running.
    Stop(Vec<UnitName>),
    /// Disable units that were enabled.
    Disable(Vec<UnitName>),
    /// Make directories outside, outermost first. None of them was there.
    MakeDirectories(Vec<ExternalPath>),
    /// Change what is at one path outside.
    Place(Placement),
    /// Create the users of these snippets. They stay after a rollback.
    CreateUsers(Vec<ExternalPath>),
    /// Set owners and modes in the checkout `tree`, which nothing refers to yet.
    Own {
        tree: String,
        files: Vec<(TreePath, FileAttributes)>,
    },
    /// Make the stable paths of apps that are new.
    LinkApps(Vec<AppName>),
    /// All apps of the host change at once.
    Switch {
        from: Option<u32>,
        to: u32,
    },
    /// Create the files of these snippets. They stay after a rollback.
    CreateTmpfiles(Vec<ExternalPath>),
    /// Enable units that were not enabled.
    Enable(Vec<UnitName>),
    DaemonReload,
    /// Remove the stable paths of apps that are gone.
    UnlinkApps(Vec<AppName>),
    /// Start, restart and reload units; the ones in `running` ran before.
    Jobs {
        jobs: Vec<(UnitName, JobKind)>,
        running: BTreeSet<UnitName>,
    },
}

/// What happens at one path outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    pub path: ExternalPath,
    pub new: New,
    pub old: Old,
}

/// What a path is to hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum New {
    Link(String),
    /// A copy of an app's file, whose content has this SHA-256.
    Copy {
        app: AppName,
        file: TreePath,
        sha256: String,
    },
    /// What was there before us.
    Before,
    Nothing,
}

/// What a path held when the deployment was prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Old {
    Nothing,
    /// What an earlier deployment put there.
    Ours,
    /// Equal to what we want, but not ours: kept for as long as we hold the path.
    Foreign,
    /// Somebody put it in place of ours: kept, and the operator was told.
    Drifted,
}
