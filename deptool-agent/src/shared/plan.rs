//! The plan: what changes on a host between two trees of it.
//!
//! A pure function of the two trees: no clock, no host, no I/O. The operator's side shows it, both sides compute it,
//! and the host refuses a deployment whose plan has another digest than its own.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::shared::{
    desired::{Claim, ClaimKind, Desired, DesiredError, Snippet},
    manifest::OnChange,
    name::{AppName, UnitName, UnitType},
    path::{ExternalPath, TreePath},
    tree::HostTree,
};

pub mod units;

/// All that a deployment changes on one host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HostPlan {
    pub apps: Vec<AppChange>,
    pub external: Vec<ExternalChange>,
    pub units: Vec<UnitChange>,
    pub patterns: Vec<PatternChange>,
    /// Units that are reloaded although nothing can tell whether they took the new configuration.
    pub unobserved: BTreeSet<UnitName>,
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

/// What happens to one path outside of `/var/lib/deptool`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExternalChange {
    pub path: ExternalPath,
    pub change: Change,
    pub class: Class,
    /// The app that claims the path after the deployment, or did before if nobody does.
    pub app: AppName,
    /// The file in that app.
    pub file: TreePath,
}

/// What kind of thing a path outside is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Class {
    Link,
    /// A unit file, drop-in or quadlet: takes effect at a daemon-reload.
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
    /// The apps on whose account it happens.
    pub apps: BTreeSet<AppName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Enablement {
    Keep,
    Enable,
    /// Its `[Install]` section has changed: disabled by the old one, enabled by the new one.
    Renew,
    /// Back to what it was before we had it: disabled if it is ours, or if it was.
    Release,
}

/// What is done with a unit. See [`units`] for what decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum UnitJob {
    None,
    /// The daemon-reload is all that it takes.
    DaemonReload,
    Reload(When),
    /// Reload it, and restart it if the reload did not take.
    ReloadOrRestart(When),
    Restart(When),
    /// A target: start what it pulls in and does not run.
    PullIn(When),
    /// As a restart, of a unit that was not ours to run before.
    Start,
    /// Stop it; one that ran before we came is restarted with what is left of its configuration.
    Stop,
    /// What the unit starts or groups is restarted or reloaded, if it runs. The tree may know which units these are; the
    /// host does.
    Members(OnChange, BTreeSet<UnitName>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum When {
    /// It is to run: if it does not, it is started.
    Always,
    /// Nobody asked for it to be running.
    IfRunning,
}

/// What happens to all units of a template, of a dashed prefix, or of a type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PatternChange {
    /// As the unit file or the directory of drop-ins is named: `web@.service`, `app-.service`, `service`.
    pub pattern: String,
    pub job: PatternJob,
    pub apps: BTreeSet<AppName>,
}

/// What is done with those units of a pattern that run and that nothing else is said of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum PatternJob {
    None,
    Reload,
    ReloadOrRestart,
    Restart,
    /// They keep their old settings until something else restarts them, and that is said.
    Leave,
    Stop,
}

impl HostPlan {
    /// The difference between what a host has (`old`) and what it is to have (`new`).
    pub fn between(old: &HostTree, new: &HostTree) -> Result<HostPlan, DesiredError> {
        let (had, wants) = (Desired::of(old)?, Desired::of(new)?);
        Ok(Self::of_desired(old, new, &had, &wants))
    }

    /// As [`HostPlan::between`], for a caller that has collected the two sides already.
    pub fn of_desired(old: &HostTree, new: &HostTree, had: &Desired, wants: &Desired) -> HostPlan {
        let apps = app_changes(old, new);
        let external = external_changes(&had.external, &wants.external);
        let side = |tree, desired| units::Side { tree, desired };
        let (mut units, patterns) = units::changes(&apps, side(old, had), side(new, wants));
        // Checks and probes are run by themselves, and are not running at any other time.
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
        HostPlan { apps, external, units, patterns, unobserved }
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        let HostPlan { apps, external, units, patterns, unobserved: _ } = self;
        apps.is_empty() && external.is_empty() && units.is_empty() && patterns.is_empty()
    }

    /// Whether systemd has to read its configuration again.
    pub fn needs_daemon_reload(&self) -> bool {
        self.external.iter().any(|change| change.class == Class::Unit)
    }

    /// Whether there is anything in it for a service manager.
    pub fn has_units(&self) -> bool {
        !self.units.is_empty() || !self.patterns.is_empty() || self.needs_daemon_reload()
    }

    /// SHA-256 over the plan's canonical form: its fields in order, as postcard, after the format's version.
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
        // A copy that moves to another app with the same content is no change to the system.
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

/// A reload's success is believed of Type=notify-reload, and where a check or health tells of it.
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
    unobserved.map(|change| change.unit.clone()).collect::<BTreeSet<_>>()
}

fn change_of<T: PartialEq>(before: Option<&T>, after: Option<&T>) -> Option<Change> {
    match (before, after) {
        (None, Some(_)) => Some(Change::Add),
        (Some(_), None) => Some(Change::Remove),
        (Some(was), Some(is)) if was != is => Some(Change::Update),
        _ => None,
    }
}

/// The keys of both maps, in order, each once.
fn keys<'a, K: Ord, V, W>(a: &'a BTreeMap<K, V>, b: &'a BTreeMap<K, W>) -> BTreeSet<&'a K> {
    a.keys().chain(b.keys()).collect::<BTreeSet<_>>()
}

#[cfg(test)]
mod tests;
