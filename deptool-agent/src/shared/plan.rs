//! The plan: what changes on a host between two trees of it.
//!
//! It is a pure function of the two trees, without clock, host or I/O. The operator's side shows it, both sides compute
//! it, and the host refuses a deployment if the digests differ.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::shared::{
    desired::{Claim, ClaimKind, Desired, DesiredError, Snippet},
    manifest::OnChange,
    name::{Account, AppName, UnitName, UnitType},
    ordered::Ordered as _,
    path::{ExternalPath, TreePath},
    tree::HostTree,
};

pub mod units;

/// Everything that a deployment changes on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HostPlan {
    pub apps: Vec<AppChange>,
    pub external: Vec<ExternalChange>,
    pub units: Vec<UnitChange>,
    pub patterns: Vec<PatternChange>,
    /// Units that are reloaded although nothing can tell whether the reload succeeds.
    pub unobserved: BTreeSet<UnitName>,
    /// The service managers that have to read their unit files again: the system's (`None`), and those of users.
    pub reloads: BTreeSet<Option<Account>>,
}

/// What happens to one app's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AppChange {
    pub app: AppName,
    pub change: Change,
    pub files: Vec<(TreePath, Change)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Change {
    Add,
    Update,
    Remove,
}

/// The change of one external path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExternalChange {
    pub path: ExternalPath,
    pub change: Change,
    pub class: Class,
    /// The app that claims the path after the deployment, or before it if no app does afterwards.
    pub app: AppName,
    /// The file in that app.
    pub file: TreePath,
}

/// The kind of an external path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Class {
    Link,
    /// A unit file, drop-in or quadlet. It takes effect at a daemon-reload.
    Unit,
    Sysusers,
    Tmpfiles,
}

/// What happens to one unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnitChange {
    pub unit: UnitName,
    pub enablement: Enablement,
    pub job: UnitJob,
    /// The apps that cause the change.
    pub apps: BTreeSet<AppName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Enablement {
    Keep,
    Enable,
    /// Its `[Install]` section has changed: disable it with the old one, and enable it with the new one.
    Renew,
    /// Restore its enablement from before the first deployment. A unit that the deployment installed is disabled.
    Release,
}

/// The job for a unit. See [`units`] for the rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum UnitJob {
    None,
    /// None: a daemon-reload is sufficient.
    DaemonReload,
    Reload(When),
    /// Reload it, and restart it if it still uses old files.
    ReloadOrRestart(When),
    Restart(When),
    /// For a target: start the units that it pulls in and that do not run.
    PullIn(When),
    /// Restart it, although it was not managed before.
    Start,
    /// Stop it. If it ran before the first deployment, restart it with what is left of its configuration.
    Stop,
    /// Restart or reload the units that it starts or groups, if they run. The tree may know only some of these units;
    /// the host knows all.
    Members(OnChange, BTreeSet<UnitName>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum When {
    /// The unit must run: start it if it does not.
    Always,
    /// Nothing asks for the unit to run.
    IfRunning,
}

/// The change of all units of a template, a dashed prefix, or a type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PatternChange {
    /// The name of the unit file or of the directory with drop-ins: `web@.service`, `app-.service`, `service`.
    pub pattern: String,
    pub job: PatternJob,
    pub apps: BTreeSet<AppName>,
}

/// The job for the running units of a pattern that have no job of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum PatternJob {
    None,
    Reload,
    ReloadOrRestart,
    Restart,
    /// They keep their old settings until something restarts them, and a note says so.
    Leave,
    Stop,
}

impl HostPlan {
    /// The difference between the deployed tree (`old`) and the one to deploy (`new`).
    pub fn between(old: &HostTree, new: &HostTree) -> Result<HostPlan, DesiredError> {
        let (had, wants) = (Desired::of(old)?, Desired::of(new)?);
        Ok(Self::of_desired(old, new, &had, &wants))
    }

    /// Like [`HostPlan::between`], if the desired states are known already.
    pub fn of_desired(old: &HostTree, new: &HostTree, had: &Desired, wants: &Desired) -> HostPlan {
        let apps = app_changes(old, new);
        let external = external_changes(&had.external, &wants.external);
        let side = |tree, desired| units::Side { tree, desired };
        let (mut units, patterns) = units::changes(&apps, side(old, had), side(new, wants));
        // Checks and probes are started by the agent, and do not run at other times.
        let is_run = |unit: &UnitName| {
            new.apps
                .values()
                .any(|app| app.manifest.checks.contains(unit) || app.manifest.probes().any(|one| one == unit))
        };
        units.retain(|change| {
            let is_idle = change.enablement == Enablement::Keep && change.job == UnitJob::Restart(When::IfRunning);
            !(is_idle && !wants.watched.contains_key(&change.unit) && is_run(&change.unit))
        });
        let unobserved = unobserved_reloads(&units, new, wants);
        let changed = external.iter().filter(|change| change.class == Class::Unit);
        let claims = changed.flat_map(|change| [&had.external, &wants.external].map(|all| all.get(&change.path)));
        let reloads = claims.flatten().flat_map(Claim::all).map(Claim::user).into_set();
        HostPlan { apps, external, units, patterns, unobserved, reloads }
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        let HostPlan { apps, external, units, patterns, unobserved: _, reloads: _ } = self;
        apps.is_empty() && external.is_empty() && units.is_empty() && patterns.is_empty()
    }

    /// The users whose managers the plan involves.
    pub fn users(&self) -> BTreeSet<Account> {
        let of_units = self.units.iter().filter_map(|change| change.unit.user());
        of_units.chain(self.reloads.iter().flatten().cloned()).into_set()
    }

    /// Whether the plan involves the service manager.
    pub fn has_units(&self) -> bool {
        !self.units.is_empty() || !self.patterns.is_empty() || !self.reloads.is_empty()
    }

    /// The SHA-256 of the plan in its canonical form: the version of the format, and the fields in postcard's encoding.
    pub fn digest(&self) -> PlanDigest {
        let bytes = crate::shared::encoding::to_vec(&("deptool plan 1", self))
            .expect("a plan has only types that postcard has");
        PlanDigest(Sha256::digest(bytes).into())
    }
}

/// Identifies a plan. See [`HostPlan::digest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct PlanDigest(pub [u8; 32]);

fn app_changes(old: &HostTree, new: &HostTree) -> Vec<AppChange> {
    let none = BTreeMap::new();
    let mut changes = Vec::new();
    for app in keys(&old.apps, &new.apps) {
        let (was, is) = (old.apps.get(app), new.apps.get(app));
        if was.map(|a| a.tree) == is.map(|a| a.tree) {
            continue;
        }
        let before = was.map_or(&none, |app| &app.files);
        let after = is.map_or(&none, |app| &app.files);
        let files = keys(before, after)
            .into_iter()
            .filter_map(|path| Some((path.clone(), change_of(before.get(path), after.get(path))?)))
            .collect();
        let change = match (was, is) {
            (None, _) => Change::Add,
            (_, None) => Change::Remove,
            _ => Change::Update,
        };
        changes.push(AppChange { app: app.clone(), change, files });
    }
    changes
}

fn external_changes(had: &BTreeMap<ExternalPath, Claim>, wants: &BTreeMap<ExternalPath, Claim>) -> Vec<ExternalChange> {
    let mut changes = Vec::new();
    for path in keys(had, wants) {
        let (was, is) = (had.get(path), wants.get(path));
        // Moving a copy to another app without a change of its content does not change the system.
        let content = |claim: &Claim| match &claim.kind {
            ClaimKind::Link => (Some((claim.app.clone(), claim.file.clone())), None),
            ClaimKind::Copy(_, id) => (None, Some(*id)),
        };
        let Some(change) = change_of(was.map(content).as_ref(), is.map(content).as_ref()) else { continue };
        let Some(claim) = is.or(was) else { continue };
        let class = match &claim.kind {
            ClaimKind::Link => Class::Link,
            ClaimKind::Copy(Snippet::Sysusers, _) => Class::Sysusers,
            ClaimKind::Copy(Snippet::Tmpfiles, _) => Class::Tmpfiles,
            ClaimKind::Copy(Snippet::Unit(_) | Snippet::DropIn(_) | Snippet::QuadletFile, _) => Class::Unit,
        };
        let (app, file) = (claim.app.clone(), claim.file.clone());
        changes.push(ExternalChange { path: path.clone(), change, class, app, file });
    }
    changes
}

/// The reloads whose result can't be observed: those of units without Type=notify-reload, in apps without checks or
/// health probes.
fn unobserved_reloads(units: &[UnitChange], new: &HostTree, wants: &Desired) -> BTreeSet<UnitName> {
    let is_looked_after = |app: &AppName| {
        let manifest = new.apps.get(app).map(|app| &app.manifest);
        manifest.is_some_and(|manifest| !manifest.checks.is_empty() || !manifest.health.is_empty())
    };
    let tells = |unit: &UnitName| {
        let wanted = wants.enabled.get(unit).or_else(|| wants.watched.get(unit));
        wanted.is_some_and(|wanted| wanted.tells_of_reload)
    };
    let is_service = |change: &&UnitChange| UnitType::of(&change.unit) == UnitType::Service;
    let reloads = units.iter().filter(is_service);
    let reloads = reloads.filter(|change| matches!(change.job, UnitJob::Reload(_) | UnitJob::ReloadOrRestart(_)));
    let unobserved = reloads.filter(|change| !tells(&change.unit) && !change.apps.iter().any(is_looked_after));
    unobserved.map(|change| change.unit.clone()).into_set()
}

fn change_of<T: PartialEq>(before: Option<&T>, after: Option<&T>) -> Option<Change> {
    match (before, after) {
        (None, Some(_)) => Some(Change::Add),
        (Some(_), None) => Some(Change::Remove),
        (Some(was), Some(is)) if was != is => Some(Change::Update),
        _ => None,
    }
}

/// The keys of both maps, in order.
fn keys<'a, K: Ord, V, W>(a: &'a BTreeMap<K, V>, b: &'a BTreeMap<K, W>) -> BTreeSet<&'a K> {
    a.keys().chain(b.keys()).into_set()
}

#[cfg(test)]
mod tests;
