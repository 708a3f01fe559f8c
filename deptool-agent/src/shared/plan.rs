//! The plan: what changes on a host between two trees of it.
//!
//! A pure function of the two trees: no clock, no host, no I/O. The operator's side shows it, both sides compute it,
//! and the host refuses a deployment whose plan has another digest than its own.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::shared::{
    desired::{Claim, ClaimKind, Snippet, Wanted, WantedError, WantedUnit},
    manifest::OnChange,
    name::{AppName, UnitName},
    path::{ExternalPath, TreePath},
    tree::HostTree,
};

/// All that a deployment changes on one host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HostPlan {
    pub apps: Vec<AppChange>,
    pub outside: Vec<OutsideChange>,
    pub units: Vec<UnitChange>,
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
pub struct OutsideChange {
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
    /// Back to what it was before we had it: disabled if it is ours, or if it was.
    Release,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum UnitJob {
    None,
    /// Reload it if it runs.
    ReloadIfRunning,
    Reload,
    /// Restart it if it runs: nobody asked for it to be running.
    RestartIfRunning,
    Restart,
    /// As a restart, of a unit that was not ours to run before.
    Start,
    /// Stop it; one that ran before we came is restarted with what is left of its configuration.
    Stop,
}

impl HostPlan {
    /// The difference between what a host has (`old`) and what it is to have (`new`).
    pub fn between(old: &HostTree, new: &HostTree) -> Result<HostPlan, WantedError> {
        let (had, wants) = (Wanted::of(old)?, Wanted::of(new)?);
        Ok(Self::of_wanted(old, new, &had, &wants))
    }

    /// As [`HostPlan::between`], for a caller that has collected the two sides already.
    pub fn of_wanted(old: &HostTree, new: &HostTree, had: &Wanted, wants: &Wanted) -> HostPlan {
        let apps = app_changes(old, new);
        let outside = outside_changes(&had.outside, &wants.outside);
        let mut units = unit_changes(&apps, had, wants);
        // A check is run on what is staged, and is not running at any other time.
        let is_check = |unit: &UnitName| new.apps.values().any(|app| app.manifest.checks.contains(unit));
        units.retain(|change| {
            let is_idle = (change.enablement, change.job) == (Enablement::Keep, UnitJob::RestartIfRunning);
            !(is_idle && !wants.watched.contains_key(&change.unit) && is_check(&change.unit))
        });
        let unobserved = unobserved_reloads(&units, new, wants);
        HostPlan { apps, outside, units, unobserved }
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        let HostPlan { apps, outside, units, unobserved: _ } = self;
        apps.is_empty() && outside.is_empty() && units.is_empty()
    }

    /// Whether systemd has to read its configuration again.
    pub fn needs_daemon_reload(&self) -> bool {
        self.outside.iter().any(|change| change.class == Class::Unit)
    }

    /// Whether there is anything in it for a service manager.
    pub fn has_units(&self) -> bool {
        !self.units.is_empty() || self.needs_daemon_reload()
    }

    /// SHA-256 over the plan's canonical form: its fields in order, as MessagePack, after the format's version.
    pub fn digest(&self) -> PlanDigest {
        let bytes = crate::shared::messagepack::to_vec(&("deptool plan 1", self))
            .expect("a plan has only types that MessagePack has");
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

fn outside_changes(had: &BTreeMap<ExternalPath, Claim>, wants: &BTreeMap<ExternalPath, Claim>) -> Vec<OutsideChange> {
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
        changes.push(OutsideChange { path: path.clone(), change, class, app, file });
    }
    changes
}

fn unit_changes(apps: &[AppChange], had: &Wanted, wants: &Wanted) -> Vec<UnitChange> {
    let changed_apps = apps.iter().map(|change| &change.app).collect::<BTreeSet<_>>();
    let changed_files = changed_snippets(had, wants);
    let own_file_changed = |unit: &UnitName| changed_files.iter().any(|(snippet, _)| snippet.affects(unit));
    let mut changes: BTreeMap<UnitName, UnitChange> = BTreeMap::new();
    let mut add = |unit: &UnitName, enablement, job, apps: &BTreeSet<AppName>| {
        if (enablement, job) != (Enablement::Keep, UnitJob::None) {
            let change = UnitChange { unit: unit.clone(), enablement, job, apps: apps.clone() };
            changes.entry(unit.clone()).or_insert(change);
        }
    };

    for unit in keys(&had.enabled, &wants.enabled) {
        match (had.enabled.get(unit), wants.enabled.get(unit)) {
            (None, Some(new)) => add(unit, Enablement::Enable, UnitJob::Start, &new.apps),
            (Some(old), None) => add(unit, Enablement::Release, UnitJob::Stop, &old.apps),
            (Some(_), Some(new)) if own_file_changed(unit) => {
                add(unit, Enablement::Keep, UnitJob::Restart, &new.apps);
            }
            (Some(old), Some(new)) => {
                let job = match changed_by_app(old, new, &changed_apps) {
                    None | Some(OnChange::None) => UnitJob::None,
                    Some(OnChange::Reload) => UnitJob::Reload,
                    Some(OnChange::Restart) => UnitJob::Restart,
                };
                add(unit, Enablement::Keep, job, &new.apps);
            }
            (None, None) => {}
        }
    }
    // Units whose own file goes away are stopped while it is still there, whoever started them.
    for (snippet, app) in &changed_files {
        if let Snippet::Unit(unit) = snippet
            && !makes_unit(wants, unit)
            && !wants.enabled.contains_key(unit)
        {
            add(unit, Enablement::Release, UnitJob::Stop, &BTreeSet::from([(*app).clone()]));
        }
    }
    for unit in keys(&had.watched, &wants.watched) {
        let (old, new) = (had.watched.get(unit), wants.watched.get(unit));
        let Some(current) = new.or(old) else { continue };
        let changed = if old.is_none() || new.is_none() {
            Some(current.on_change)
        } else {
            changed_by_app(old.unwrap_or(current), new.unwrap_or(current), &changed_apps)
        };
        let job = match changed {
            _ if own_file_changed(unit) => UnitJob::RestartIfRunning,
            None | Some(OnChange::None) => UnitJob::None,
            Some(OnChange::Reload) => UnitJob::ReloadIfRunning,
            Some(OnChange::Restart) => UnitJob::RestartIfRunning,
        };
        add(unit, Enablement::Keep, job, &current.apps);
    }
    // What is left: units that nobody enables but whose configuration is ours.
    for (snippet, app) in &changed_files {
        let unit = match snippet {
            Snippet::Unit(unit) => Some(unit.clone()),
            Snippet::DropIn(stem) => UnitName::parse(stem.as_bytes()).ok(),
            Snippet::QuadletFile | Snippet::Sysusers | Snippet::Tmpfiles => None,
        };
        // A template or a dashed prefix is no unit that could run.
        if let Some(unit) = unit.filter(|u| !u.as_str().contains("@.") && !u.as_str().contains("-.")) {
            add(&unit, Enablement::Keep, UnitJob::RestartIfRunning, &BTreeSet::from([(*app).clone()]));
        }
    }
    changes.into_values().collect()
}

/// A reload's success is believed of Type=notify-reload, and where a check or health tells of it.
fn unobserved_reloads(units: &[UnitChange], new: &HostTree, wants: &Wanted) -> BTreeSet<UnitName> {
    let is_looked_after = |app: &AppName| {
        let manifest = new.apps.get(app).map(|app| &app.manifest);
        manifest.is_some_and(|manifest| !manifest.checks.is_empty() || !manifest.health.is_empty())
    };
    let tells = |unit: &UnitName| {
        let wanted = wants.enabled.get(unit).or_else(|| wants.watched.get(unit));
        wanted.is_some_and(|wanted| wanted.tells_of_reload)
    };
    let reloads = units.iter().filter(|change| matches!(change.job, UnitJob::Reload | UnitJob::ReloadIfRunning));
    let unobserved = reloads.filter(|change| !tells(&change.unit) && !change.apps.iter().any(is_looked_after));
    unobserved.map(|change| change.unit.clone()).collect::<BTreeSet<_>>()
}

/// The strongest reaction that the changed apps ask of a unit, `None` if none of its apps changed.
fn changed_by_app(old: &WantedUnit, new: &WantedUnit, changed: &BTreeSet<&AppName>) -> Option<OnChange> {
    old.apps.union(&new.apps).any(|app| changed.contains(app)).then_some(new.on_change)
}

/// The copied files that differ, with the app that they belong to.
fn changed_snippets<'a>(had: &'a Wanted, wants: &'a Wanted) -> Vec<(&'a Snippet, &'a AppName)> {
    let copy = |claim: &'a Claim| match &claim.kind {
        ClaimKind::Copy(snippet, id) => Some((snippet, *id, &claim.app)),
        ClaimKind::Link => None,
    };
    let mut changed = Vec::new();
    for path in keys(&had.outside, &wants.outside) {
        let was = had.outside.get(path).and_then(copy);
        let is = wants.outside.get(path).and_then(copy);
        if was.map(|(_, id, _)| id) != is.map(|(_, id, _)| id)
            && let Some((snippet, _, app)) = is.or(was)
        {
            changed.push((snippet, app));
        }
    }
    changed
}

fn makes_unit(wanted: &Wanted, unit: &UnitName) -> bool {
    wanted.outside.values().any(|claim| matches!(&claim.kind, ClaimKind::Copy(Snippet::Unit(u), _) if u == unit))
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
