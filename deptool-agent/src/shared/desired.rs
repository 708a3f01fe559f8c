//! The external paths and the units that a host's tree asks for.
//!
//! A plan is the difference between two of these maps. So a path or unit that moves from one app to another is not
//! removed in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::shared::{
    id::BlobId,
    manifest::{OnChange, SETTLE_TIMEOUT, Window},
    name::{Account, AppName, UnitName, UnitType},
    path::{ExternalPath, TreePath, is_within},
    tree::{App, FileKind, HostTree},
    unit_file::Facts,
};

mod check;
mod snippet;

pub use check::check_file;
use snippet::{COPIED, placement};
pub use snippet::{Snippet, USERS_QUADLETS, drop_in_applies, template_of};

/// Everything that a host's tree asks for outside of `/var/lib/deptool`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    pub external: BTreeMap<ExternalPath, Claim>,
    /// Units in the `units_enabled` of an app.
    pub enabled: BTreeMap<UnitName, DesiredUnit>,
    /// Units in the `on_change` of an app that no app enables, such as the host's own.
    pub watched: BTreeMap<UnitName, DesiredUnit>,
    /// The time limit for starting and settling: the longest that an app asks for.
    pub settle_timeout: Duration,
}

/// The desired state of one external path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub app: AppName,
    pub file: TreePath,
    pub kind: ClaimKind,
    /// The same unit file for other users: all users' managers read one directory.
    pub shared: Vec<Claim>,
}

impl Claim {
    fn new(app: &AppName, file: &TreePath, kind: ClaimKind) -> Claim {
        Claim { app: app.clone(), file: file.clone(), kind, shared: Vec::new() }
    }

    /// It, and what shares its path.
    pub fn all(&self) -> impl Iterator<Item = &Claim> {
        std::iter::once(self).chain(&self.shared)
    }

    /// The user whose manager it is for. The name was checked when the file got its place.
    pub fn user(&self) -> Option<Account> {
        self.file.user().and_then(Result::ok)
    }

    /// Whether another user has the same unit file.
    fn is_for_another_user(&self, other: &Claim) -> bool {
        match (&self.kind, &other.kind) {
            (ClaimKind::Copy(_, id), ClaimKind::Copy(_, same)) => {
                id == same && self.all().all(|one| one.user().is_some() && one.user() != other.user())
            }
            _ => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimKind {
    /// A symlink through `apps/<app>/current`.
    Link,
    /// A copy of the file's content.
    Copy(Snippet, BlobId),
}

/// A unit that is enabled and running, or that follows the changes of an app.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DesiredUnit {
    pub apps: BTreeSet<AppName>,
    /// The strongest setting of all apps. `None` for a unit that is not a service and that has no setting; then the
    /// type of the unit decides.
    pub on_change: Option<OnChange>,
    pub settle: Option<Window>,
    /// Whether its files in the tree set Type=notify-reload, so that it reports the result of a reload.
    pub tells_of_reload: bool,
}

/// Why a tree is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DesiredError {
    #[error("'{path}' is claimed by '{first}' and by '{second}'")]
    ClaimedTwice { path: ExternalPath, first: String, second: String },
    #[error("'{outer}' and '{inner}' are both claimed, and one lies below the other")]
    Nested { outer: ExternalPath, inner: ExternalPath },
    #[error("unit '{unit}' is made by '{first}' and by '{second}'")]
    UnitTwice { unit: UnitName, first: String, second: String },
    #[error("{app}/manifest.json: {key}: '{file}' is not in the app")]
    NoSuchFile { app: AppName, key: String, file: TreePath },
    #[error("{app}/manifest.json: settle: '{unit}' is in neither 'units_enabled' nor 'on_change'")]
    IdleSettle { app: AppName, unit: UnitName },
    #[error("{app}/manifest.json: settle.{unit}: it is longer than the {} s that all may take ('settle_timeout')", limit.as_secs())]
    LongSettle { app: AppName, unit: UnitName, limit: Duration },
    #[error("{app}/manifest.json: checks: '{unit}' {why}")]
    BadCheck { app: AppName, unit: UnitName, why: &'static str },
    #[error("{app}/manifest.json: health: '{unit}' {why}")]
    BadProbe { app: AppName, unit: UnitName, why: &'static str },
    #[error("'{app}/{file}': {why}")]
    BadFile { app: AppName, file: TreePath, why: String },
}

impl Desired {
    /// Collect what all apps of `host` ask for. Fails if there is a contradiction.
    pub fn of(host: &HostTree) -> Result<Desired, DesiredError> {
        let timeouts = host.apps.values().filter_map(|app| app.manifest.settle_timeout);
        let mut desired = Desired {
            external: BTreeMap::new(),
            enabled: BTreeMap::new(),
            watched: BTreeMap::new(),
            settle_timeout: timeouts.max().map_or(SETTLE_TIMEOUT, |window| window.0),
        };
        for (name, app) in &host.apps {
            desired.add_links(name, app)?;
            desired.add_files(name, app)?;
            desired.add_units(name, app)?;
            check::app(name, app)?;
        }
        desired.add_facts(host);
        // If any app enables a unit, the `on_change` of apps that do not enable it is ignored.
        for unit in desired.enabled.keys() {
            desired.watched.remove(unit);
        }
        desired.check_conflicts()?;
        Ok(desired)
    }

    fn add_links(&mut self, name: &AppName, app: &App) -> Result<(), DesiredError> {
        for (path, target) in &app.manifest.symlinks {
            if !app.has(target) {
                let key = format!("symlinks.{path}");
                return Err(DesiredError::NoSuchFile { app: name.clone(), key, file: target.clone() });
            }
            self.claim(path.clone(), Claim::new(name, target, ClaimKind::Link))?;
        }
        Ok(())
    }

    fn add_files(&mut self, name: &AppName, app: &App) -> Result<(), DesiredError> {
        for (file, entry) in COPIED.iter().flat_map(|directory| app.below(&TreePath::directory(directory))) {
            let bad = |why: String| DesiredError::BadFile { app: name.clone(), file: file.clone(), why };
            let Some((directory, snippet, below)) = placement(file).map_err(bad)? else { continue };
            if entry.kind == FileKind::Symlink {
                return Err(bad("it must be a regular file".into()));
            }
            let path = ExternalPath::parse(&format!("{directory}/{below}")).map_err(|e| bad(e.to_string()))?;
            // A quadlet may choose the name of its unit.
            let name_of_unit = app.units.get(file).and_then(|facts| facts.service_name());
            let snippet = match (snippet, name_of_unit) {
                (Snippet::Unit(made), Some(unit)) => Snippet::Unit(unit.map_err(bad)?.of(made.user().as_ref())),
                (snippet, _) => snippet,
            };
            let kind = ClaimKind::Copy(snippet, entry.id);
            self.claim(path, Claim::new(name, file, kind))?;
        }
        Ok(())
    }

    fn add_units(&mut self, name: &AppName, app: &App) -> Result<(), DesiredError> {
        let systemd = &app.manifest.systemd;
        let is_named = |unit: &&UnitName| systemd.units_enabled.contains(unit) || systemd.on_change.contains_key(*unit);
        if let Some(unit) = app.manifest.settle.keys().find(|unit| !is_named(unit)) {
            return Err(DesiredError::IdleSettle { app: name.clone(), unit: unit.clone() });
        }
        let limit = self.settle_timeout;
        if let Some((unit, _)) = app.manifest.settle.iter().find(|(_, window)| window.0 > limit) {
            return Err(DesiredError::LongSettle { app: name.clone(), unit: unit.clone(), limit });
        }
        let enabled = systemd.units_enabled.iter().map(|unit| (unit, true));
        for (unit, enable) in enabled.chain(systemd.on_change.keys().map(|unit| (unit, false))) {
            let into = if enable { &mut self.enabled } else { &mut self.watched };
            // The default for services is a restart.
            let default = (UnitType::of(unit) == UnitType::Service).then_some(OnChange::Restart);
            let on_change = systemd.on_change.get(unit).copied().or(default);
            let desired = into.entry(unit.clone()).or_default();
            desired.on_change = desired.on_change.max(on_change);
            desired.settle = desired.settle.max(app.manifest.settle.get(unit).copied());
            desired.apps.insert(name.clone());
        }
        Ok(())
    }

    /// Add the facts from unit files that matter for reloads.
    fn add_facts(&mut self, host: &HostTree) {
        let sources: Vec<UnitSource<'_>> = UnitSource::all(&self.external, host).collect();
        for (unit, desired) in self.enabled.iter_mut().chain(&mut self.watched) {
            for UnitSource { facts, .. } in sources.iter().filter(|source| source.snippet.affects(unit)) {
                desired.tells_of_reload |= facts.tells_of_reload;
                let reloads = matches!(desired.on_change, Some(OnChange::Reload | OnChange::ReloadOrRestart));
                if facts.binds_ours && reloads {
                    desired.on_change = Some(OnChange::Restart);
                }
            }
        }
    }

    fn claim(&mut self, path: ExternalPath, claim: Claim) -> Result<(), DesiredError> {
        if let Some(other) = self.external.get_mut(&path) {
            if other.is_for_another_user(&claim) {
                other.shared.push(claim);
                return Ok(());
            }
            return Err(DesiredError::ClaimedTwice { path, first: owner(other), second: owner(&claim) });
        }
        self.external.insert(path, claim);
        Ok(())
    }

    fn check_conflicts(&self) -> Result<(), DesiredError> {
        let mut by_place: Vec<(String, &ExternalPath, &Claim)> =
            self.external.iter().map(|(path, claim)| (path.normalized(), path, claim)).collect();
        // With '\0' in place of '/', a directory sorts right before the paths below it.
        by_place.sort_by_cached_key(|(place, _, _)| place.replace('/', "\0"));
        for pair in by_place.windows(2) {
            let [(outer, outer_path, first), (inner, inner_path, second)] = pair else { continue };
            if outer == inner {
                let path = (*inner_path).clone();
                return Err(DesiredError::ClaimedTwice { path, first: owner(first), second: owner(second) });
            }
            if is_within(inner, outer) {
                return Err(DesiredError::Nested { outer: (*outer_path).clone(), inner: (*inner_path).clone() });
            }
        }
        let mut makers: BTreeMap<&UnitName, &Claim> = BTreeMap::new();
        for claim in self.external.values().flat_map(Claim::all) {
            let ClaimKind::Copy(Snippet::Unit(unit), _) = &claim.kind else { continue };
            if let Some(first) = makers.insert(unit, claim) {
                let (first, second) = (owner(first), owner(claim));
                return Err(DesiredError::UnitTwice { unit: unit.clone(), first, second });
            }
        }
        Ok(())
    }
}

/// A unit file, drop-in or quadlet of a host's tree.
#[derive(Debug, Clone, Copy)]
pub struct UnitSource<'a> {
    /// The path that it is copied to.
    pub path: &'a ExternalPath,
    pub app: &'a AppName,
    pub file: &'a TreePath,
    pub content: BlobId,
    pub snippet: &'a Snippet,
    pub facts: &'a Facts,
}

impl<'a> UnitSource<'a> {
    /// All sources in a tree.
    pub fn all(
        external: &'a BTreeMap<ExternalPath, Claim>,
        host: &'a HostTree,
    ) -> impl Iterator<Item = UnitSource<'a>> {
        let all = external.iter().flat_map(|(path, claim)| claim.all().map(move |claim| (path, claim)));
        all.filter_map(|(path, claim)| {
            let ClaimKind::Copy(snippet, content) = &claim.kind else { return None };
            let facts = host.apps.get(&claim.app)?.units.get(&claim.file)?;
            Some(UnitSource { path, app: &claim.app, file: &claim.file, content: *content, snippet, facts })
        })
    }
}

fn owner(claim: &Claim) -> String {
    format!("{}/{}", claim.app, claim.file)
}

#[cfg(test)]
mod tests;
