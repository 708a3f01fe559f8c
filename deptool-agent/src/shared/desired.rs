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
    manifest::{OnChange, SETTLE_TIMEOUT, Window, probe::Target},
    name::{Account, AppName, UnitName, UnitType},
    path::{ExternalPath, TreePath, is_within},
    secrets,
    tree::{App, FileKind, HostTree},
    unit_file::Facts,
};

mod snippet;

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
            check_attributes(name, app)?;
            check_secrets(name, app)?;
            check_checks(name, app)?;
            check_probes(name, app)?;
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

fn check_attributes(name: &AppName, app: &App) -> Result<(), DesiredError> {
    for file in app.manifest.files.keys() {
        if let Some(secret) = secrets::name_of(file).filter(|_| app.files.contains_key(file)) {
            let why = format!("it is encrypted; its decrypted file is 'secrets/{secret}'");
            return Err(DesiredError::BadFile { app: name.clone(), file: file.clone(), why });
        }
        if secrets::encrypted(file).is_some_and(|secret| app.files.contains_key(&secret)) {
            continue;
        }
        match app.files.get(file) {
            Some(entry) if entry.kind != FileKind::Symlink => {}
            _ => {
                let key = "files".into();
                return Err(DesiredError::NoSuchFile { app: name.clone(), key, file: file.clone() });
            }
        }
    }
    Ok(())
}

/// Check that no secret gets the place of something else when it is decrypted.
fn check_secrets(name: &AppName, app: &App) -> Result<(), DesiredError> {
    let is_number = name.as_str().bytes().all(|byte| byte.is_ascii_digit());
    for secret in secrets::of(app) {
        let bad = |file: &TreePath, why: &str| {
            Err(DesiredError::BadFile { app: name.clone(), file: file.clone(), why: why.into() })
        };
        if is_number {
            return bad(secret.file, "an app with secrets can't have a number as its name");
        }
        let is_plain = |file: &&TreePath| secrets::encrypted(file).as_ref() == Some(secret.file);
        if let Some(plain) = app.files.keys().find(is_plain) {
            return bad(plain, "there is also a secret of this name");
        }
    }
    Ok(())
}

/// Check that each check is a service in the app's own `systemd/`.
fn check_checks(name: &AppName, app: &App) -> Result<(), DesiredError> {
    for (at, unit) in app.manifest.checks.iter().enumerate() {
        let bad = |why| Err(DesiredError::BadCheck { app: name.clone(), unit: unit.clone(), why });
        if !unit.as_str().ends_with(".service") || unit.as_str().contains("@.") {
            return bad("is not a service that can be run");
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

/// Check that each probe unit is a oneshot in the app's own `systemd/`.
fn check_probes(name: &AppName, app: &App) -> Result<(), DesiredError> {
    for probe in &app.manifest.health {
        let Target::Unit(unit) = &probe.target else { continue };
        let bad = |why| Err(DesiredError::BadProbe { app: name.clone(), unit: unit.clone(), why });
        if UnitType::of(unit) != UnitType::Service || unit.is_template() {
            return bad("is not a service that can be run");
        }
        match app.units.get(&check_file(unit)) {
            None => return bad("is not in the app's 'systemd/' directory"),
            Some(facts) if facts.value("Service", "Type") != Some("oneshot") => return bad("is not of Type=oneshot"),
            Some(_) => {}
        }
        if app.manifest.systemd.units_enabled.contains(unit) {
            return bad("is in 'units_enabled', too");
        }
    }
    Ok(())
}

/// The path of a check's unit file in its app.
pub fn check_file(unit: &UnitName) -> TreePath {
    TreePath::parse(format!("systemd/{unit}").as_bytes()).expect("a unit's name is a valid file name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::tree::memory::Objects;

    fn wanted(files: &[(&str, &str)]) -> Result<Desired, String> {
        let host = Objects::default().host(files).map_err(|e| e.to_string())?;
        Desired::of(&host).map_err(|e| e.to_string())
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
        let paths: Vec<_> = wanted.external.keys().map(|p| p.as_str()).collect();
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
    fn what_is_for_a_user_is_copied_to_where_the_users_manager_looks() {
        let manifest = r#"{"users": {"alice": {"units_enabled": ["web.service", "db.service"]}}}"#;
        let wanted = wanted(&[
            ("web/manifest.json", manifest),
            ("web/user/alice/systemd/web.service", ""),
            ("web/user/alice/systemd/web.service.d/x.conf", ""),
            ("web/user/alice/quadlets/db.container", ""),
            ("web/user/README", ""),
            ("web/user/alice/other/web.service", ""),
            ("web/systemd/web.service", ""),
        ])
        .unwrap();
        let paths: Vec<_> = wanted.external.keys().map(|p| p.as_str()).collect();
        assert_eq!(
            paths,
            [
                "/etc/containers/systemd/users/~alice/db.container",
                "/etc/systemd/system/web.service",
                "/etc/systemd/user/web.service",
                "/etc/systemd/user/web.service.d/x.conf",
            ]
        );
        let enabled: Vec<_> = wanted.enabled.keys().map(|unit| unit.as_str()).collect();
        assert_eq!(enabled, ["alice/db.service", "alice/web.service"]);
    }

    #[test]
    fn users_share_a_unit_file_only_if_it_is_the_same() {
        let of_alice = ("a/user/alice/systemd/x.service", "[Service]\nNice=1");
        let shared = wanted(&[of_alice, ("b/user/bob/systemd/x.service", of_alice.1)]).unwrap();
        let users: Vec<_> = shared.external.values().flat_map(Claim::all).filter_map(Claim::user).collect();
        assert_eq!(users.iter().map(Account::as_str).collect::<Vec<_>>(), ["alice", "bob"]);
        for (file, text) in [
            ("b/user/bob/systemd/x.service", "[Service]\nNice=2"),
            ("b/user/alice/systemd/x.service", of_alice.1),
            ("b/user/a b/systemd/y.service", ""),
            ("b/user/bob/systemd/README", ""),
        ] {
            assert!(wanted(&[of_alice, (file, text)]).is_err(), "{file} {text}");
        }
        let both = [of_alice, ("b/user/alice/quadlets/x.container", "")];
        assert!(wanted(&both).unwrap_err().starts_with("unit 'alice/x.service' is made by"));
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
            &[("a/manifest.json", r#"{"health": [{"unit": "x.service"}]}"#)],
            &[
                ("a/manifest.json", r#"{"health": [{"unit": "x.service"}]}"#),
                ("a/systemd/x.service", "[Service]\nExecStart=/x"),
            ],
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
        assert_eq!((unit.apps.len(), unit.on_change), (2, Some(OnChange::Restart)));
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
        assert_eq!(wanted.watched["x@1.service"].on_change, Some(OnChange::Restart));
        let y = &wanted.watched["y.service"];
        assert_eq!((y.on_change, y.tells_of_reload), (Some(OnChange::Reload), true));
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
