//! What a host's tree asks for outside of `/var/lib/deptool`: paths and units.
//!
//! A plan is the difference of two of these maps, so what moves from one app to another is not torn down in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::shared::{
    id::BlobId,
    manifest::{OnChange, SETTLE_TIMEOUT, Window},
    name::{AppName, UnitName},
    path::{ExternalPath, TreePath, is_within},
    tree::{App, FileKind, HostTree},
    unit_file::Facts,
};

mod snippet;

pub use snippet::Snippet;
use snippet::placement;

/// Everything that a host's tree asks for outside of its apps' directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub outside: BTreeMap<ExternalPath, Claim>,
    /// Units in some app's `units_enabled`.
    pub enabled: BTreeMap<UnitName, WantedUnit>,
    /// Units in some app's `on_change` that no app enables: the host's own, or started by something else.
    pub watched: BTreeMap<UnitName, WantedUnit>,
    /// How long starting and settling may take altogether: the longest that any app asks for.
    pub settle_timeout: Duration,
}

/// One path outside of `/var/lib/deptool` and what it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub app: AppName,
    pub file: TreePath,
    pub kind: ClaimKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimKind {
    /// A symlink through `apps/<app>/current`.
    Link,
    /// A copy of the file's content.
    Copy(Snippet, BlobId),
}

/// A unit that is to be enabled and running, or to follow its app's changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantedUnit {
    pub apps: BTreeSet<AppName>,
    /// The strongest that any of the apps asks for.
    pub on_change: OnChange,
    pub settle: Option<Window>,
    /// Its files in the tree say that it tells how a reload went (Type=notify-reload).
    pub tells_of_reload: bool,
}

/// Why a tree asks for something that can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WantedError {
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
    #[error("'{app}/{file}': {why}")]
    BadFile { app: AppName, file: TreePath, why: String },
}

impl Wanted {
    /// Collect what all apps of `host` ask for, and refuse what contradicts itself.
    pub fn of(host: &HostTree) -> Result<Wanted, WantedError> {
        let timeouts = host.apps.values().filter_map(|app| app.manifest.settle_timeout);
        let mut wanted = Wanted {
            outside: BTreeMap::new(),
            enabled: BTreeMap::new(),
            watched: BTreeMap::new(),
            settle_timeout: timeouts.max().map_or(SETTLE_TIMEOUT, |window| window.0),
        };
        for (name, app) in &host.apps {
            wanted.add_links(name, app)?;
            wanted.add_files(name, app)?;
            wanted.add_units(name, app)?;
            check_attributes(name, app)?;
            check_checks(name, app)?;
        }
        wanted.add_facts(host);
        // A unit that some app enables is enabled, whatever another one says of its changes.
        for unit in wanted.enabled.keys() {
            wanted.watched.remove(unit);
        }
        wanted.check_conflicts()?;
        Ok(wanted)
    }

    fn add_links(&mut self, name: &AppName, app: &App) -> Result<(), WantedError> {
        for (path, target) in &app.manifest.symlinks {
            let exists = app.files.keys().any(|file| file.is_within(target));
            if !exists {
                let key = format!("symlinks.{path}");
                return Err(WantedError::NoSuchFile { app: name.clone(), key, file: target.clone() });
            }
            self.claim(path.clone(), Claim { app: name.clone(), file: target.clone(), kind: ClaimKind::Link })?;
        }
        Ok(())
    }

    fn add_files(&mut self, name: &AppName, app: &App) -> Result<(), WantedError> {
        for (file, entry) in &app.files {
            let bad = |why: String| WantedError::BadFile { app: name.clone(), file: file.clone(), why };
            let Some((directory, snippet, below)) = placement(file).map_err(bad)? else { continue };
            if entry.kind == FileKind::Symlink {
                return Err(bad("it must be a regular file".into()));
            }
            let path = ExternalPath::parse(&format!("{directory}/{below}")).map_err(|e| bad(e.to_string()))?;
            let kind = ClaimKind::Copy(snippet, entry.id);
            self.claim(path, Claim { app: name.clone(), file: file.clone(), kind })?;
        }
        Ok(())
    }

    fn add_units(&mut self, name: &AppName, app: &App) -> Result<(), WantedError> {
        let systemd = &app.manifest.systemd;
        let is_named = |unit: &&UnitName| systemd.units_enabled.contains(unit) || systemd.on_change.contains_key(*unit);
        if let Some(unit) = app.manifest.settle.keys().find(|unit| !is_named(unit)) {
            return Err(WantedError::IdleSettle { app: name.clone(), unit: unit.clone() });
        }
        let limit = self.settle_timeout;
        if let Some((unit, _)) = app.manifest.settle.iter().find(|(_, window)| window.0 > limit) {
            return Err(WantedError::LongSettle { app: name.clone(), unit: unit.clone(), limit });
        }
        let enabled = systemd.units_enabled.iter().map(|unit| (unit, true));
        for (unit, enable) in enabled.chain(systemd.on_change.keys().map(|unit| (unit, false))) {
            let on_change = systemd.on_change.get(unit).copied().unwrap_or_default();
            let into = if enable { &mut self.enabled } else { &mut self.watched };
            let wanted = into.entry(unit.clone()).or_insert_with(|| WantedUnit { on_change, ..WantedUnit::default() });
            wanted.on_change = wanted.on_change.max(on_change);
            wanted.settle = wanted.settle.max(app.manifest.settle.get(unit).copied());
            wanted.apps.insert(name.clone());
        }
        Ok(())
    }

    /// What unit files say of units that are to be reloaded.
    fn add_facts(&mut self, host: &HostTree) {
        let snippets: Vec<(&Snippet, Facts)> = self
            .outside
            .values()
            .filter_map(|claim| match &claim.kind {
                ClaimKind::Copy(snippet, _) => Some((snippet, *host.apps.get(&claim.app)?.units.get(&claim.file)?)),
                ClaimKind::Link => None,
            })
            .collect();
        for (unit, wanted) in self.enabled.iter_mut().chain(&mut self.watched) {
            for (_, facts) in snippets.iter().filter(|(snippet, _)| snippet.affects(unit)) {
                wanted.tells_of_reload |= facts.tells_of_reload;
                if facts.binds_ours && wanted.on_change == OnChange::Reload {
                    wanted.on_change = OnChange::Restart;
                }
            }
        }
    }

    fn claim(&mut self, path: ExternalPath, claim: Claim) -> Result<(), WantedError> {
        if let Some(other) = self.outside.get(&path) {
            return Err(WantedError::ClaimedTwice { path, first: owner(other), second: owner(&claim) });
        }
        self.outside.insert(path, claim);
        Ok(())
    }

    fn check_conflicts(&self) -> Result<(), WantedError> {
        let mut by_place: Vec<(String, &ExternalPath, &Claim)> =
            self.outside.iter().map(|(path, claim)| (path.normalized(), path, claim)).collect();
        // With '/' first, a directory sorts right before what is below it.
        by_place.sort_by_cached_key(|(place, _, _)| place.replace('/', "\0"));
        for pair in by_place.windows(2) {
            let [(outer, outer_path, first), (inner, inner_path, second)] = pair else { continue };
            if outer == inner {
                let path = (*inner_path).clone();
                return Err(WantedError::ClaimedTwice { path, first: owner(first), second: owner(second) });
            }
            if is_within(inner, outer) {
                return Err(WantedError::Nested { outer: (*outer_path).clone(), inner: (*inner_path).clone() });
            }
        }
        let mut makers: BTreeMap<&UnitName, &Claim> = BTreeMap::new();
        for claim in self.outside.values() {
            let ClaimKind::Copy(Snippet::Unit(unit), _) = &claim.kind else { continue };
            if let Some(first) = makers.insert(unit, claim) {
                let (first, second) = (owner(first), owner(claim));
                return Err(WantedError::UnitTwice { unit: unit.clone(), first, second });
            }
        }
        Ok(())
    }
}

fn owner(claim: &Claim) -> String {
    format!("{}/{}", claim.app, claim.file)
}

fn check_attributes(name: &AppName, app: &App) -> Result<(), WantedError> {
    for file in app.manifest.files.keys() {
        match app.files.get(file) {
            Some(entry) if entry.kind != FileKind::Symlink => {}
            _ => {
                let key = "files".into();
                return Err(WantedError::NoSuchFile { app: name.clone(), key, file: file.clone() });
            }
        }
    }
    Ok(())
}

/// A check is a service in the app's own `systemd/`, which is read there and not where it will be.
fn check_checks(name: &AppName, app: &App) -> Result<(), WantedError> {
    for (at, unit) in app.manifest.checks.iter().enumerate() {
        let bad = |why| Err(WantedError::BadCheck { app: name.clone(), unit: unit.clone(), why });
        if !unit.as_str().ends_with(".service") || unit.as_str().contains("@.") {
            return bad("is no service that could be run");
        }
        if !app.files.contains_key(&check_file(unit)) {
            return bad("is not in the app's 'systemd/' directory");
        }
        if app.manifest.checks[..at].contains(unit) {
            return bad("is named twice");
        }
    }
    Ok(())
}

/// The file of a check in its app.
pub fn check_file(unit: &UnitName) -> TreePath {
    TreePath::parse(format!("systemd/{unit}").as_bytes()).expect("a unit's name is a valid file name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::tree::memory::Objects;

    fn wanted(files: &[(&str, &str)]) -> Result<Wanted, String> {
        let host = Objects::default().host(files).map_err(|e| e.to_string())?;
        Wanted::of(&host).map_err(|e| e.to_string())
    }

    #[test]
    fn special_directories_are_copied_to_where_the_system_looks() {
        let wanted = wanted(&[
            ("web/systemd/web.service", ""),
            ("web/systemd/nginx.service.d/x.conf", ""),
            ("web/sysusers/web.conf", ""),
            ("web/tmpfiles/web.conf", ""),
            ("web/quadlets/db.container", ""),
            ("web/other/web.service", ""),
        ])
        .unwrap();
        let paths: Vec<_> = wanted.outside.keys().map(|p| p.as_str()).collect();
        assert_eq!(
            paths,
            [
                "/etc/containers/systemd/db.container",
                "/etc/systemd/system/nginx.service.d/x.conf",
                "/etc/systemd/system/web.service",
                "/etc/sysusers.d/web.conf",
                "/etc/tmpfiles.d/web.conf",
            ]
        );
    }

    #[test]
    fn a_path_or_unit_can_be_claimed_only_once() {
        for (files, expected) in [
            (
                &[
                    ("a/manifest.json", r#"{"symlinks": {"/etc/x": "f"}}"#),
                    ("a/f", ""),
                    ("b/manifest.json", r#"{"symlinks": {"/etc/x": "f"}}"#),
                    ("b/f", ""),
                ][..],
                "'/etc/x' is claimed by 'a/f' and by 'b/f'",
            ),
            (
                &[("a/manifest.json", r#"{"symlinks": {"/lib/x": "f", "/usr/lib/x": "f"}}"#), ("a/f", "")],
                "'/usr/lib/x' is claimed by",
            ),
            (
                &[
                    ("a/manifest.json", r#"{"symlinks": {"/etc/x": "d", "/etc/x-y": "d", "/etc/x/y": "d"}}"#),
                    ("a/d/f", ""),
                ],
                "'/etc/x' and '/etc/x/y' are both claimed",
            ),
            (&[("a/systemd/x.service", ""), ("b/systemd/x.service", "")], "'/etc/systemd/system/x.service' is claimed"),
            (&[("a/systemd/x.service", ""), ("b/quadlets/x.container", "")], "unit 'x.service' is made by"),
            (
                &[
                    ("a/manifest.json", r#"{"symlinks": {"/etc/tmpfiles.d/x.conf": "f"}}"#),
                    ("a/f", ""),
                    ("b/tmpfiles/x.conf", ""),
                ],
                "'/etc/tmpfiles.d/x.conf' is claimed",
            ),
        ] {
            let error = wanted(files).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn what_systemd_would_ignore_or_is_our_own_is_refused() {
        for files in [
            &[("a/systemd/README", "")][..],
            &[("a/systemd/x.service.d/override", "")],
            &[("a/systemd/x.wants/y.service", "")],
            &[("a/systemd/x.service.d/d/y.conf", "")],
            &[("a/systemd/x.service@", "y")],
            &[("a/sysusers/x", "")],
            &[("a/systemd/.x.service", "")],
            &[("a/systemd/deptool-recover.service", "")],
            &[("a/systemd/deptool-recover.service.d/x.conf", "")],
            &[("a/systemd/deptool-.service.d/x.conf", "")],
            &[("a/quadlets/deptool-check-1.container", "")],
            &[("a/manifest.json", r#"{"symlinks": {"/etc/x": "missing"}}"#)],
            &[("a/manifest.json", r#"{"files": {"missing": {"mode": "0600"}}}"#)],
            &[("a/manifest.json", r#"{"settle": {"x.service": "1s"}}"#)],
            &[(
                "a/manifest.json",
                r#"{"systemd": {"on_change": {"x.service": "reload"}}, "settle": {"x.service": "2min"}}"#,
            )],
            &[("a/manifest.json", r#"{"checks": ["x.service"]}"#)],
            &[("a/manifest.json", r#"{"checks": ["x.service", "x.service"]}"#), ("a/systemd/x.service", "")],
            &[("a/manifest.json", r#"{"checks": ["x@.service"]}"#), ("a/systemd/x@.service", "")],
            &[("a/manifest.json", r#"{"checks": ["x.timer"]}"#), ("a/systemd/x.timer", "")],
        ] {
            assert!(wanted(files).is_err(), "{files:?}");
        }
    }

    #[test]
    fn one_unit_may_be_enabled_by_two_apps() {
        let manifest = r#"{"systemd": {"units_enabled": ["x.service"], "on_change": {"x.service": "reload"}}}"#;
        let wanted = wanted(&[
            ("a/manifest.json", manifest),
            ("b/manifest.json", r#"{"systemd": {"units_enabled": ["x.service"]}}"#),
        ])
        .unwrap();
        let unit = &wanted.enabled["x.service"];
        assert_eq!((unit.apps.len(), unit.on_change), (2, OnChange::Restart));
    }

    #[test]
    fn a_unit_that_binds_what_is_ours_is_not_reloaded() {
        let manifest = r#"{"systemd": {"on_change": {"x@1.service": "reload", "y.service": "reload"}}}"#;
        let bind = "[Service]\nBindPaths=/var/lib/deptool/apps/a/current:/srv\n";
        let wanted = wanted(&[
            ("a/manifest.json", manifest),
            ("a/systemd/x@.service.d/bind.conf", bind),
            ("b/systemd/y.service", "[Service]\nType=notify-reload\n"),
        ])
        .unwrap();
        assert_eq!(wanted.watched["x@1.service"].on_change, OnChange::Restart);
        let y = &wanted.watched["y.service"];
        assert_eq!((y.on_change, y.tells_of_reload), (OnChange::Reload, true));
    }

    #[test]
    fn the_longest_settle_timeout_counts() {
        let longest = |files: &[(&str, &str)]| wanted(files).unwrap().settle_timeout.as_secs();
        assert_eq!(longest(&[("a/f", "")]), 90);
        let (short, long) = (r#"{"settle_timeout": "10s"}"#, r#"{"settle_timeout": "2min"}"#);
        assert_eq!(longest(&[("a/manifest.json", short), ("b/f", "")]), 10);
        assert_eq!(longest(&[("a/manifest.json", short), ("b/manifest.json", long)]), 120);
    }
}
