//! What a change of a host's tree does to its units. This depends on the type of the unit and on what has changed:
//!
//! | type | its own unit file or a drop-in | another file of its app |
//! | --- | --- | --- |
//! | service | restart | restart, or what `on_change` says |
//! | socket, path | restart | nothing; what it starts is restarted if it runs |
//! | timer | nothing: systemd computes the next time anew | the same |
//! | target | what it pulls in now is started | nothing; its members are restarted if they run |
//! | mount | reload if only `Options=` changed; restart if `What=` or `Type=` did | nothing |
//! | automount, swap | restart | nothing |
//! | slice | nothing: systemd applies limits at the daemon-reload | nothing |
//!
//! Comments, descriptions, `[Install]` and resource limits never cause a restart. A unit of any type that is new is
//! started, and one whose file is removed is stopped. `on_change` overrides everything but the last two.

use std::collections::{BTreeMap, BTreeSet};

use super::{AppChange, Enablement, PatternChange, PatternJob, UnitChange, UnitJob, When, keys};
use crate::shared::{
    desired::{Desired, DesiredUnit, Snippet, UnitSource, drop_in_applies},
    manifest::OnChange,
    name::{AppName, UnitName, UnitType, split_user},
    ordered::Ordered as _,
    path::TreePath,
    tree::{App, HostTree},
    unit_file::Assignment,
};

/// What it takes for a change of a unit's own files to take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Extent {
    /// A daemon-reload.
    DaemonReload,
    /// A reload of the mount.
    Options,
    /// A restart.
    Start,
}

/// One side of a plan: the old or the new state.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    pub tree: &'a HostTree,
    pub desired: &'a Desired,
}

impl<'a> Side<'a> {
    fn sources(self) -> impl Iterator<Item = UnitSource<'a>> {
        UnitSource::all(&self.desired.external, self.tree)
    }

    /// The sources that apply to this unit: its own files, and those of its template, prefix and type.
    fn sources_of(self, unit: &UnitName) -> impl Iterator<Item = UnitSource<'a>> {
        self.sources().filter(|source| source.snippet.affects(unit))
    }

    /// The last value of a setting in the sources that apply to this unit.
    pub fn value(self, unit: &UnitName, section: &str, key: &str) -> Option<&'a str> {
        self.sources_of(unit).filter_map(|source| source.facts.value(section, key)).last()
    }

    /// The unit that this socket, timer or path starts, which it may name in a setting.
    pub fn started_by(self, unit: &UnitName, section: &str, key: &str) -> Option<UnitName> {
        let stem = unit.name().rsplit_once('.').map_or("", |(stem, _)| stem);
        let named = self.value(unit, section, key).map(str::to_owned);
        unit.beside(&named.unwrap_or_else(|| format!("{stem}.service")))
    }

    /// Whether a file of the tree defines exactly this unit or template.
    pub fn makes(self, unit: &UnitName) -> bool {
        self.sources().any(|source| matches!(source.snippet, Snippet::Unit(made) if made == unit))
    }

    /// Whether a manifest names the unit.
    fn names(self, unit: &UnitName) -> bool {
        self.desired.enabled.contains_key(unit) || self.desired.watched.contains_key(unit)
    }
}

/// The changes of single units, and those of patterns.
pub fn changes(apps: &[AppChange], old: Side<'_>, new: Side<'_>) -> (Vec<UnitChange>, Vec<PatternChange>) {
    let matters = apps.iter().filter(|change| matters(change, old.tree, new.tree));
    let mut planning = Planning {
        old,
        new,
        changed_apps: matters.map(|change| &change.app).into_set(),
        changed: changed_sources(old, new),
        units: BTreeMap::new(),
        patterns: BTreeMap::new(),
    };
    planning.enabled();
    planning.gone();
    planning.watched();
    planning.made();
    (planning.units.into_values().collect(), planning.patterns.into_values().collect())
}

/// Whether a change of an app affects units other than those that the changed files define.
fn matters(change: &AppChange, old: &HostTree, new: &HostTree) -> bool {
    match (old.apps.get(&change.app), new.apps.get(&change.app)) {
        (Some(was), Some(is)) => change.files.iter().any(|(path, _)| file_matters(path, was, is)),
        _ => true,
    }
}

fn file_matters(path: &TreePath, was: &App, is: &App) -> bool {
    if path.as_bytes() == b"manifest.json" {
        let external = |app: &App| (app.manifest.symlinks.clone(), app.manifest.files.clone());
        return external(was) != external(is);
    }
    // Unit files are compared one by one. Next to quadlets there may be other files, for example for a pod.
    let is_unit = |app: &App| app.units.get(path).is_some_and(|facts| !facts.lines.is_empty());
    !(is_unit(was) || is_unit(is))
}

/// A unit file, drop-in or quadlet that differs, with its old and new content.
struct Changed<'a> {
    app: &'a AppName,
    snippet: &'a Snippet,
    was: &'a [Assignment],
    is: &'a [Assignment],
}

fn changed_sources<'a>(old: Side<'a>, new: Side<'a>) -> Vec<Changed<'a>> {
    // Users can share a file, which then is several sources.
    let by_place = |source: UnitSource<'a>| ((source.path, source.file.user()), source);
    let was = old.sources().map(by_place).into_map();
    let is = new.sources().map(by_place).into_map();
    let mut changed = Vec::new();
    for place in keys(&was, &is) {
        let (before, after) = (was.get(place), is.get(place));
        let Some(source) = after.or(before) else { continue };
        if before.map(|source| source.content) != after.map(|source| source.content) {
            let lines = |source: Option<&UnitSource<'a>>| source.map_or(&[][..], |source| &source.facts.lines);
            let (was, is) = (lines(before), lines(after));
            changed.push(Changed { app: source.app, snippet: source.snippet, was, is });
        }
    }
    changed
}

struct Planning<'a> {
    old: Side<'a>,
    new: Side<'a>,
    /// Apps in which changed files affect all units.
    changed_apps: BTreeSet<&'a AppName>,
    changed: Vec<Changed<'a>>,
    units: BTreeMap<UnitName, UnitChange>,
    patterns: BTreeMap<String, PatternChange>,
}

impl Planning<'_> {
    /// Add a change, unless the unit has one already.
    fn add(&mut self, unit: &UnitName, enablement: Enablement, job: UnitJob, apps: &BTreeSet<AppName>) {
        if (enablement, &job) != (Enablement::Keep, &UnitJob::None) && !self.units.contains_key(unit) {
            let change = UnitChange { unit: unit.clone(), enablement, job, apps: apps.clone() };
            self.units.insert(unit.clone(), change);
        }
    }

    /// Plan for the units in `units_enabled`.
    fn enabled(&mut self) {
        let (had, wants) = (&self.old.desired.enabled, &self.new.desired.enabled);
        for unit in keys(had, wants) {
            match (had.get(unit), wants.get(unit)) {
                (None, Some(new)) => self.add(unit, Enablement::Enable, UnitJob::Start, &new.apps),
                (Some(old), None) => self.add(unit, Enablement::Release, UnitJob::Stop, &old.apps),
                (Some(old), Some(new)) => {
                    let job = self.job(unit, old, new, When::Always);
                    let is_same = self.install_section(self.old, unit) == self.install_section(self.new, unit);
                    let enablement = if is_same { Enablement::Keep } else { Enablement::Renew };
                    self.add(unit, enablement, job, &new.apps);
                }
                (None, None) => {}
            }
        }
    }

    /// Plan for the units whose files are removed. They are stopped while the files still exist, whoever started them.
    fn gone(&mut self) {
        let is_gone = |unit: &UnitName| !self.new.makes(unit) && !self.new.desired.enabled.contains_key(unit);
        let gone = self.changed.iter().filter_map(|changed| match changed.snippet {
            Snippet::Unit(unit) if is_gone(unit) => Some((unit.clone(), [changed.app.clone()].into_iter().into_set())),
            _ => None,
        });
        for (unit, apps) in gone.collect::<Vec<_>>() {
            match unit.is_template() {
                true => self.add_pattern(unit.as_str(), PatternJob::Stop, apps),
                false => self.add(&unit, Enablement::Release, UnitJob::Stop, &apps),
            }
        }
    }

    /// Plan for the units in `on_change` that no app enables.
    fn watched(&mut self) {
        let (had, wants) = (&self.old.desired.watched, &self.new.desired.watched);
        for unit in keys(had, wants) {
            let (old, new) = (had.get(unit), wants.get(unit));
            let Some(current) = new.or(old) else { continue };
            let job = match (old, new) {
                (Some(old), Some(new)) => self.job(unit, old, new, When::IfRunning),
                _ => match self.own_extent(unit) {
                    Some(extent) => own_files(UnitType::of(unit), extent, current.on_change, When::IfRunning),
                    None => self.other_files(unit, current.on_change, When::IfRunning),
                },
            };
            match unit.is_template() {
                true => self.add_pattern(unit.as_str(), pattern_job(&job), current.apps.clone()),
                false => self.add(unit, Enablement::Keep, job, &current.apps),
            }
        }
    }

    /// Plan for the remaining units: those that no manifest names and whose files are deployed.
    fn made(&mut self) {
        for at in 0..self.changed.len() {
            let Changed { app, snippet, was, is } = self.changed[at];
            let stem = match snippet {
                Snippet::Unit(unit) => unit.as_str().to_owned(),
                Snippet::DropIn(stem) => stem.clone(),
                Snippet::QuadletFile | Snippet::Sysusers | Snippet::Tmpfiles => continue,
            };
            let apps = [app.clone()].into_iter().into_set();
            match UnitName::try_from(stem.clone()) {
                Ok(unit) if !is_pattern(&stem) => {
                    let Some(extent) = self.own_extent(&unit) else { continue };
                    let job = own_files(UnitType::of(&unit), extent, None, When::IfRunning);
                    if !self.new.names(&unit) {
                        self.add(&unit, Enablement::Keep, job, &apps);
                    }
                }
                _ => {
                    let name = split_user(&stem).1;
                    let suffix = name.rsplit_once('.').map_or(name, |(_, suffix)| suffix);
                    let kind = UnitType::of_suffix(suffix).unwrap_or(UnitType::Service);
                    let job = own_files(kind, extent_of(kind, was, is), None, When::IfRunning);
                    let job = if is_left_alone(&stem) { leave(&job) } else { pattern_job(&job) };
                    self.add_pattern(&stem, job, apps);
                }
            }
        }
    }

    fn add_pattern(&mut self, stem: &str, job: PatternJob, apps: BTreeSet<AppName>) {
        if job != PatternJob::None {
            let change = PatternChange { pattern: stem.to_owned(), job, apps };
            self.patterns.entry(stem.to_owned()).or_insert(change);
        }
    }

    /// The job for a unit that the manifests named before and still name.
    fn job(&self, unit: &UnitName, old: &DesiredUnit, new: &DesiredUnit, when: When) -> UnitJob {
        let own = match self.own_extent(unit) {
            Some(extent) => own_files(UnitType::of(unit), extent, new.on_change, when),
            None => UnitJob::None,
        };
        let is_changed = old.apps.union(&new.apps).any(|app| self.changed_apps.contains(app));
        match own {
            // If the unit's own changes only need a daemon-reload, changes of other files may still need a job.
            UnitJob::None | UnitJob::DaemonReload if is_changed => match self.other_files(unit, new.on_change, when) {
                UnitJob::None => own,
                job => job,
            },
            own => own,
        }
    }

    /// The job for a unit when other files of its apps change.
    fn other_files(&self, unit: &UnitName, on_change: Option<OnChange>, when: When) -> UnitJob {
        use UnitType::{Automount, Mount, Path, Service, Slice, Socket, Swap, Target, Timer};
        match (UnitType::of(unit), on_change) {
            (_, Some(OnChange::None)) => UnitJob::None,
            (_, Some(OnChange::Restart)) => UnitJob::Restart(when),
            (Service | Mount, Some(OnChange::Reload)) => UnitJob::Reload(when),
            (Service | Mount, Some(OnChange::ReloadOrRestart)) => UnitJob::ReloadOrRestart(when),
            (Service, None) => UnitJob::Restart(when),
            (Mount | Automount | Swap | Slice, _) => UnitJob::None,
            (Socket | Timer | Path | Target, on_change) => {
                UnitJob::Members(on_change.unwrap_or(OnChange::Restart), self.members(unit))
            }
        }
    }

    /// The units that a socket, timer or path starts, or that a target groups, according to the tree.
    fn members(&self, unit: &UnitName) -> BTreeSet<UnitName> {
        let started = |section, key| self.new.started_by(unit, section, key).into_iter().into_set();
        match UnitType::of(unit) {
            UnitType::Socket => started("Socket", "Service"),
            UnitType::Timer => started("Timer", "Unit"),
            UnitType::Path => started("Path", "Unit"),
            _ => {
                const PULLS: [&str; 4] = ["Wants", "Requires", "BindsTo", "Upholds"];
                let facts = self.new.sources_of(unit).map(|source| source.facts);
                let pulled = facts.flat_map(|facts| PULLS.iter().flat_map(|key| facts.words("Unit", key)));
                let mut members: BTreeSet<UnitName> = pulled.filter_map(|name| unit.beside(name)).into_set();
                for source in self.new.sources() {
                    if let Snippet::Unit(made) = source.snippet
                        && source.facts.words("Unit", "PartOf").contains(&unit.name())
                        && made.user() == unit.user()
                        && !made.is_template()
                    {
                        members.insert(made.clone());
                    }
                }
                // If only the target's own file has changed, units of other apps are not affected.
                let is_of_changed = |member: &UnitName| {
                    self.new.sources_of(member).any(|source| {
                        matches!(source.snippet, Snippet::Unit(_)) && self.changed_apps.contains(source.app)
                    })
                };
                members.retain(is_of_changed);
                members
            }
        }
    }

    /// What it takes for changes of the unit's own files to take effect, or `None` if they have not changed.
    fn own_extent(&self, unit: &UnitName) -> Option<Extent> {
        if !self.changed.iter().any(|changed| changed.snippet.affects(unit)) {
            return None;
        }
        let lines = |side: Side<'_>| -> Vec<Assignment> {
            side.sources_of(unit).flat_map(|source| source.facts.lines.clone()).collect()
        };
        Some(extent_of(UnitType::of(unit), &lines(self.old), &lines(self.new)))
    }

    fn install_section(&self, side: Side<'_>, unit: &UnitName) -> BTreeSet<Assignment> {
        let lines = side.sources_of(unit).flat_map(|source| source.facts.lines.iter());
        lines.filter(|line| line.section == "Install").cloned().into_set()
    }
}

/// The job for a unit when its own files change.
fn own_files(kind: UnitType, extent: Extent, on_change: Option<OnChange>, when: When) -> UnitJob {
    match (kind, extent) {
        _ if on_change == Some(OnChange::None) => UnitJob::DaemonReload,
        (_, Extent::DaemonReload) | (UnitType::Slice | UnitType::Timer, _) => UnitJob::DaemonReload,
        (UnitType::Target, _) => UnitJob::PullIn(when),
        (UnitType::Mount, Extent::Options) => UnitJob::Reload(when),
        (
            UnitType::Service
            | UnitType::Socket
            | UnitType::Path
            | UnitType::Mount
            | UnitType::Automount
            | UnitType::Swap,
            Extent::Options | Extent::Start,
        ) => UnitJob::Restart(when),
    }
}

fn extent_of(kind: UnitType, was: &[Assignment], is: &[Assignment]) -> Extent {
    let (mut gone, mut new) = (was.to_vec(), Vec::new());
    for line in is {
        match gone.iter().position(|old| old == line) {
            Some(at) => drop(gone.remove(at)),
            None => new.push(line.clone()),
        }
    }
    gone.iter().chain(&new).map(|line| extent_of_line(kind, line)).max().unwrap_or(Extent::DaemonReload)
}

fn extent_of_line(kind: UnitType, line: &Assignment) -> Extent {
    let Assignment { section, key, value: _ } = line;
    let own_section = !matches!(section.as_str(), "Unit" | "Install");
    match (kind, section.as_str(), key.as_str()) {
        (_, "Install", _) | (_, "Unit", "Description" | "Documentation") => Extent::DaemonReload,
        _ if section.starts_with("X-") || key.starts_with("X-") => Extent::DaemonReload,
        (UnitType::Mount, "Mount", "Options") => Extent::Options,
        (UnitType::Mount, "Mount", "What" | "Where" | "Type") => Extent::Start,
        (UnitType::Swap, "Swap", "What" | "Priority" | "Options") => Extent::Start,
        (UnitType::Automount, "Automount", "Where" | "TimeoutIdleSec" | "ExtraOptions") => Extent::Start,
        (UnitType::Mount | UnitType::Swap | UnitType::Automount, ..) => Extent::DaemonReload,
        _ if own_section && is_limit(key) => Extent::DaemonReload,
        _ => Extent::Start,
    }
}

/// Whether this is a setting of systemd.resource-control(5) that systemd applies to a running unit.
fn is_limit(key: &str) -> bool {
    const LIMITS: [&str; 22] = [
        "AllowedCPUs",
        "AllowedMemoryNodes",
        "CPUQuota",
        "CPUQuotaPeriodSec",
        "CPUWeight",
        "IODeviceLatencyTargetSec",
        "IODeviceWeight",
        "IOReadBandwidthMax",
        "IOReadIOPSMax",
        "IOWeight",
        "IOWriteBandwidthMax",
        "IOWriteIOPSMax",
        "MemoryHigh",
        "MemoryLow",
        "MemoryMax",
        "MemoryMin",
        "MemorySwapMax",
        "MemoryZSwapMax",
        "StartupCPUWeight",
        "StartupIOWeight",
        "StartupMemoryMax",
        "TasksMax",
    ];
    LIMITS.contains(&key)
}

/// Whether a unit file or drop-in of this name applies to several units: a template, a dashed prefix, or a type.
pub fn is_pattern(stem: &str) -> bool {
    let stem = split_user(stem).1;
    stem.contains("@.") || stem.contains("-.") || !stem.contains('.')
}

/// Whether a pattern applies to `unit`.
pub fn pattern_applies(pattern: &str, unit: &UnitName) -> bool {
    drop_in_applies(pattern, unit) && !unit.is_template()
}

/// Whether restarting all of these units would do harm: units of a whole type, user sessions, systemd itself.
fn is_left_alone(stem: &str) -> bool {
    const SESSIONS: [&str; 7] =
        ["user@.", "user-", "getty@.", "serial-getty@.", "container-getty@.", "systemd-", "dbus-"];
    let stem = split_user(stem).1;
    !stem.contains('.') || SESSIONS.iter().any(|prefix| stem.starts_with(prefix))
}

fn pattern_job(job: &UnitJob) -> PatternJob {
    match job {
        UnitJob::None | UnitJob::DaemonReload | UnitJob::PullIn(_) | UnitJob::Members(..) => PatternJob::None,
        UnitJob::Reload(_) => PatternJob::Reload,
        UnitJob::ReloadOrRestart(_) => PatternJob::ReloadOrRestart,
        UnitJob::Restart(_) | UnitJob::Start => PatternJob::Restart,
        UnitJob::Stop => PatternJob::Stop,
    }
}

fn leave(job: &UnitJob) -> PatternJob {
    if pattern_job(job) == PatternJob::None { PatternJob::None } else { PatternJob::Leave }
}
