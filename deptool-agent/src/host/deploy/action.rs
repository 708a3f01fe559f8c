//! The actions of a deployment: the kinds of change to the machine, each with everything that is needed to undo it.
//!
//! *Prepare* decides all actions. They are in the journal before the first of them is carried out. Then
//! [`crate::host::deploy::apply`] does them and [`crate::host::deploy::undo`] undoes them; neither decides anything.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    host::state::ledger::{Content, Enablement},
    shared::{
        manifest::FileAttributes,
        name::{AppName, UnitName},
        path::{ExternalPath, TreePath},
    },
    system::JobKind,
};

/// One change. The variants are in the order in which a deployment makes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Action {
    /// Stop running units that are removed, while their files still exist.
    Stop(Vec<UnitName>),
    /// Disable units that were enabled.
    Disable(Vec<UnitName>),
    /// Make external directories that do not exist, outermost first. Some of them are links that were given up.
    MakeDirectories(Vec<ExternalPath>),
    /// Change one external path.
    Place(Placement),
    /// Create the users in these sysusers.d snippets. The users stay after a rollback.
    CreateUsers(Vec<ExternalPath>),
    /// Set owners and modes in the checkout `tree`, which is not visible yet.
    Own {
        tree: String,
        files: Vec<(TreePath, FileAttributes)>,
    },
    /// Make the stable paths of new apps.
    LinkApps(Vec<AppName>),
    /// Point `current` to the new generation: all apps of the host change at once.
    Switch {
        from: Option<u32>,
        to: u32,
    },
    /// Create the files in these tmpfiles.d snippets. The files stay after a rollback.
    CreateTmpfiles(Vec<ExternalPath>),
    /// Enable units that were not enabled.
    Enable(Vec<UnitName>),
    /// Make links that say what the host had enabled before us, and that disabling ours has taken along.
    RestoreLinks(Enablement),
    DaemonReload,
    /// Remove the stable paths of apps that were removed.
    UnlinkApps(Vec<AppName>),
    /// Start, restart and reload units.
    Jobs(UnitJobs),
}

/// What is done with units once all files are in place.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UnitJobs {
    /// These are stopped before anything is started, so that ports and files can be handed over. Those that go on are in
    /// `jobs`, too.
    pub stop: Vec<UnitName>,
    pub jobs: Vec<(UnitName, JobKind)>,
    /// Units that become again what they were before us. That one of them does not start is said, and no failure.
    pub given_back: BTreeSet<UnitName>,
    /// Units among those to be reloaded that are restarted if the reload did not take.
    pub restart_if_stale: BTreeSet<UnitName>,
}

impl UnitJobs {
    pub fn is_empty(&self) -> bool {
        self.stop.is_empty() && self.jobs.is_empty()
    }

    /// Every unit that they are about.
    pub fn units(&self) -> impl Iterator<Item = &UnitName> {
        self.stop.iter().chain(self.jobs.iter().map(|(unit, _)| unit))
    }
}

/// The change of one external path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    pub path: ExternalPath,
    pub new: New,
    pub old: Old,
}

/// What a path has after the change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum New {
    /// A symlink with this target.
    Link(String),
    /// A copy of an app's file. Its content has this SHA-256.
    Copy {
        app: AppName,
        file: TreePath,
        sha256: String,
    },
    /// The backup of what was there before the first deployment, which has this content.
    Before(Content),
    Nothing,
}

/// What a path had when the deployment was prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Old {
    Nothing,
    /// What an earlier deployment put there.
    Ours,
    /// Something with the same content that no deployment put there. A backup is kept.
    Foreign,
    /// What somebody put in place of a deployed path. A backup is kept, and the operator was told.
    Drifted,
    /// The same, and it is a directory.
    DriftedDirectory,
    /// A directory that we made, and all that is in it is given up.
    OurDirectory,
}
