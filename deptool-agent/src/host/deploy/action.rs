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
        name::{Account, AppName, UnitName},
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
    /// Create external directories, outermost first. Some of them replace symlinks that are released.
    MakeDirectories(Vec<ExternalPath>),
    /// Change one external path.
    Place(Placement),
    /// Create the users in these sysusers.d snippets. The users stay after a rollback.
    CreateUsers(Vec<ExternalPath>),
    /// Set owners and modes in the checkout `tree`, which is not visible yet.
    Own { tree: String, files: Vec<(TreePath, FileAttributes)> },
    /// Set owners and modes of decrypted secrets of a generation, which are not visible yet. Each file is `<app>/<name>`.
    OwnSecrets { generation: u32, files: Vec<(String, FileAttributes)> },
    /// Make the stable paths of new apps.
    LinkApps(Vec<AppName>),
    /// Point `current` to the new generation: all apps of the host change at once.
    Switch { from: Option<u32>, to: u32 },
    /// Create the files in these tmpfiles.d snippets. The files stay after a rollback.
    CreateTmpfiles(Vec<ExternalPath>),
    /// Enable units that were not enabled.
    Enable(Vec<UnitName>),
    /// Restore enablement of the host's own that disabling our units has deleted.
    RestoreLinks(Enablement),
    /// Have these service managers read their unit files again: the system's (`None`), or those of users.
    DaemonReload(BTreeSet<Option<Account>>),
    /// Remove the stable paths of apps that were removed.
    UnlinkApps(Vec<AppName>),
    /// Start, restart and reload units.
    Jobs(UnitJobs),
}

impl Action {
    /// The units that this stops for good, and its jobs for others.
    pub fn on_units(&self) -> (&[UnitName], Option<&UnitJobs>) {
        match self {
            Action::Stop(units) => (units, None),
            Action::Jobs(jobs) => (&[], Some(jobs)),
            Action::Disable(_)
            | Action::MakeDirectories(_)
            | Action::Place(_)
            | Action::CreateUsers(_)
            | Action::Own { .. }
            | Action::OwnSecrets { .. }
            | Action::LinkApps(_)
            | Action::Switch { .. }
            | Action::CreateTmpfiles(_)
            | Action::Enable(_)
            | Action::RestoreLinks(_)
            | Action::DaemonReload(_)
            | Action::UnlinkApps(_) => (&[], None),
        }
    }
}

/// The jobs for units after all files are in place.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UnitJobs {
    /// Units to stop before any unit starts, so that a port or a file can be handed over. Those that start again are in
    /// `jobs`, too.
    pub stop: Vec<UnitName>,
    pub jobs: Vec<(UnitName, JobKind)>,
    /// Units that return to their state before the first deployment. If one of them does not start, that is reported
    /// but is not a failure.
    pub given_back: BTreeSet<UnitName>,
    /// Reloaded units that are restarted if they still use old files.
    pub restart_if_stale: BTreeSet<UnitName>,
}

impl UnitJobs {
    pub fn is_empty(&self) -> bool {
        self.stop.is_empty() && self.jobs.is_empty()
    }

    /// All units in these jobs.
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
    /// The SELinux label of what is put there, if the host has one for it.
    pub label: Option<String>,
}

/// What is at a path after the change.
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
    /// The backup of what was there before the first deployment, with this content.
    Before(Content),
    Nothing,
}

/// What was at a path when the deployment was prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Old {
    Nothing,
    /// What an earlier deployment put there.
    Ours,
    /// A file or symlink of the same content that was not deployed. It is backed up.
    Foreign,
    /// A file or symlink that replaced a deployed one. It is backed up, and the operator was told.
    Drifted,
    /// A directory that replaced a deployed file or symlink.
    DriftedDirectory,
    /// A directory that a deployment created, and whose content is released.
    OurDirectory,
}
