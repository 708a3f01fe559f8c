//! Decides which units are enabled and which are released. [`super::jobs`] decides the jobs.

use std::collections::{BTreeMap, BTreeSet};

use super::{Deciding, jobs::Jobs};
use crate::{
    host::{
        deploy::action::UnitJobs,
        external::{drift::foreign, users},
        state::{
            error::HostError,
            ledger::{Enablement, UnitClaim},
        },
    },
    shared::{
        desired::{Snippet, UnitSource, template_of},
        name::{Account, AppName, UnitName, UnitType},
        ordered::Ordered as _,
        path::ExternalPath,
        plan::{self, PatternChange, UnitChange, UnitJob},
        unit_file::Facts,
    },
    system::{Load, Manager, System, UnitFile, UnitState, touched::States},
};

/// The directories with the host's files of units like this one, in systemd's order. A user's own are left out.
pub(super) fn unit_directories(unit: &UnitName) -> [String; 5] {
    let kind = if unit.user().is_some() { "user" } else { "system" };
    ["etc", "run", "usr/local/lib", "usr/lib", "lib"].map(|above| format!("{above}/systemd/{kind}"))
}

/// The decisions about units.
#[derive(Default)]
pub(super) struct UnitWork {
    pub(super) stop: Vec<UnitName>,
    pub(super) disable: Vec<UnitName>,
    pub(super) enable: Vec<UnitName>,
    /// Enablement links of the host's own that disabling would delete.
    pub(super) links: Enablement,
    /// All units whose enablement may be affected.
    pub(super) names_touched: BTreeSet<UnitName>,
    pub(super) jobs: UnitJobs,
    pub(super) before: States,
    /// The users whose managers take part.
    pub(super) users: BTreeSet<Account>,
    /// Whether systemd is running.
    pub(super) live: bool,
}

impl Deciding<'_> {
    pub(super) fn units(&mut self, system: &mut dyn System) -> Result<UnitWork, HostError> {
        let mut work = UnitWork { live: system.manager() == Manager::Running, ..UnitWork::default() };
        if !self.sides.plan.has_units() && self.staged.down.is_empty() {
            return Ok(work);
        }
        match system.manager() {
            Manager::Running => {}
            Manager::Offline => {}
            Manager::Absent if self.home.is_live() => {
                self.problems.push("the host has no systemd, and the tree has units".into());
                return Ok(work);
            }
            Manager::Absent => {
                self.notes.push("there is no 'systemctl' here: unit files are put in place, not enabled".into());
            }
        }
        self.users(system)?;
        work.users = self.sides.plan.users();
        work.users.extend(users::of(self.sides.wants));
        work.users.retain(|user| !self.absent.contains(user));
        self.taken_over = self.taken_over_as_they_are()?;
        let loaded = system.snapshot_of_runs()?;
        work.before = States::of(&loaded);
        let plan = self.sides.plan;
        let mut jobs = Jobs::new(self.sides, &loaded);
        for change in &plan.units {
            if self.is_absent(&change.unit) {
                self.claims.units.remove(&change.unit);
                continue;
            }
            self.unit(change, loaded.get(&change.unit), system, &mut work, &mut jobs)?;
        }
        let is_new = |change: &&PatternChange| !change.apps.is_subset(&self.taken_over) || change.apps.is_empty();
        for change in plan.patterns.iter().filter(is_new) {
            jobs.pattern(change, system)?;
        }
        self.start_what_is_down(&mut work, &mut jobs);
        if work.live {
            self.displaced(&loaded, system)?;
            let decided = jobs.decide(system)?;
            work.stop = decided.stop;
            work.jobs = decided.jobs;
            self.notes.extend(decided.notes);
            self.problems.extend(decided.problems);
        }
        self.watched_paths(&loaded, system)?;
        for unit in work.enable.iter().chain(&work.disable) {
            work.names_touched.extend(self.install_names(unit));
        }
        Ok(work)
    }

    /// Deployed files that path units watch. The kernel does not tell a path unit that the stable path leads to another
    /// file.
    fn watched_paths(
        &mut self,
        loaded: &BTreeMap<UnitName, UnitState>,
        system: &mut dyn System,
    ) -> Result<(), HostError> {
        let is_path = |unit: &&UnitName| UnitType::of(unit) == UnitType::Path;
        let up = loaded.iter().filter(|(_, state)| state.active.is_up()).map(|(unit, _)| unit);
        for unit in up.filter(is_path) {
            for path in system.detail(unit)?.paths {
                let Ok(real) = std::fs::canonicalize(self.home.root().join(path.trim_start_matches('/'))) else {
                    continue;
                };
                let tree = real.strip_prefix(self.home.trees()).ok().and_then(|below| below.iter().next());
                let stays = |(_, tree_of): &(AppName, String)| tree.is_some_and(|tree| tree == tree_of.as_str());
                if tree.is_some() && !self.staged.checkouts.iter().any(stays) {
                    self.watched.push(real);
                }
            }
        }
        Ok(())
    }

    /// Start units that should run but failed to start after a rollback.
    fn start_what_is_down(&mut self, work: &mut UnitWork, jobs: &mut Jobs<'_>) {
        let sides = self.sides;
        for down in self.staged.down {
            let unit = &down.unit;
            let was_ours = sides.had.enabled.contains_key(unit) && !sides.wants.enabled.contains_key(unit);
            if was_ours || work.before.ran(unit) || jobs.stops(unit) || self.is_absent(unit) {
                continue;
            }
            self.notes.push(format!("'{unit}' is started: it has been down since a deployment that failed"));
            jobs.start(unit);
            // With this, a rollback tries to start it, too.
            work.before.add_running(unit.clone());
        }
    }

    fn unit(
        &mut self,
        change: &UnitChange,
        state: Option<&UnitState>,
        system: &mut dyn System,
        work: &mut UnitWork,
        jobs: &mut Jobs<'_>,
    ) -> Result<(), HostError> {
        let unit = &change.unit;
        if change.enablement != plan::Enablement::Release {
            self.check_is_ours(unit, system)?;
        }
        match change.enablement {
            plan::Enablement::Keep => {}
            plan::Enablement::Renew => {
                work.disable.push(unit.clone());
                work.enable.push(unit.clone());
            }
            plan::Enablement::Enable => {
                let file = system.unit_file(unit)?;
                self.enable(unit, (file, state), work, system)?;
            }
            plan::Enablement::Release => {
                let file = system.unit_file(unit)?;
                self.release_unit(unit, file, work, jobs);
                return Ok(());
            }
        }
        // What is taken over as it is changes nothing for a unit that runs.
        let is_up = state.is_some_and(|state| state.active.is_up());
        if is_up && !change.apps.is_empty() && change.apps.is_subset(&self.taken_over) {
            return Ok(());
        }
        jobs.unit(unit, &change.job, system)
    }

    /// Foreign files that change `unit` and were there before the first deployment.
    fn beside(&self, unit: &UnitName) -> BTreeSet<ExternalPath> {
        let all = foreign(self.home, unit).into_iter().map(|(path, _)| path);
        all.filter(|path| !self.before.paths.contains_key(path)).into_set()
    }

    fn enable(
        &mut self,
        unit: &UnitName,
        (file, state): (UnitFile, Option<&UnitState>),
        work: &mut UnitWork,
        system: &mut dyn System,
    ) -> Result<(), HostError> {
        let mut sources = UnitSource::all(&self.sides.wants.external, self.sides.new);
        let is_its = |one: &UnitSource<'_>| matches!(one.snippet, Snippet::Unit(_)) && one.snippet.affects(unit);
        let made_by = sources.find(is_its).map(|source| source.path.as_str());
        let is_masked = file == UnitFile::Masked || state.is_some_and(|state| state.load == Load::Masked);
        let is_known = file != UnitFile::Absent || state.is_some_and(|state| state.load == Load::Loaded);
        if is_masked {
            self.problems.push(format!("unit '{unit}' is masked on the host: 'systemctl unmask' it there"));
        } else if made_by.is_none() && !is_known && system.manager() != Manager::Absent {
            self.problems.push(format!("unit '{unit}' is neither in the tree nor on the host"));
        }
        let links = Enablement::read(self.home, self.install_names(unit), system)?;
        let before =
            UnitClaim { file, active: work.before.ran(unit), links, beside: self.beside(unit), ..UnitClaim::default() };
        self.claims.units.entry(unit.clone()).or_insert(before);
        // A unit from Podman's generator is started but not enabled: its own [Install] section takes care of that.
        let is_generated = made_by.is_some_and(|path| path.starts_with("/etc/containers/"));
        if file.can_be_enabled() && !is_generated {
            work.enable.push(unit.clone());
        }
        Ok(())
    }

    /// Release a unit: if it was enabled or running before the first deployment, it stays so. Otherwise it is stopped
    /// and disabled.
    fn release_unit(&mut self, unit: &UnitName, file: UnitFile, work: &mut UnitWork, jobs: &mut Jobs<'_>) {
        let before = self.claims.units.remove(unit).unwrap_or_default();
        if matches!(file, UnitFile::Enabled | UnitFile::EnabledRuntime) && before.file != UnitFile::Enabled {
            work.disable.push(unit.clone());
            work.links.names.extend(before.links.names);
            work.links.links.extend(before.links.links);
        }
        let stays = before.file != UnitFile::Absent;
        match before.active && stays {
            // It must be restarted without its deployed drop-ins and files.
            true => jobs.give_back(unit),
            false => jobs.stop(unit),
        }
        before.displaced.iter().for_each(|unit| jobs.give_back(unit));
    }

    /// Running units that systemd will stop because they conflict with units that are started. They are started again
    /// when those are released.
    fn displaced(&mut self, loaded: &BTreeMap<UnitName, UnitState>, system: &mut dyn System) -> Result<(), HostError> {
        let sides = self.sides;
        let started = sides.plan.units.iter().filter(|change| change.job == UnitJob::Start);
        let started: Vec<_> = started.filter(|change| !self.is_absent(&change.unit)).collect();
        for UnitChange { unit, .. } in started {
            let sources = UnitSource::all(&sides.wants.external, sides.new).filter(|one| one.snippet.affects(unit));
            let named = sources.flat_map(|source| source.facts.words("Unit", "Conflicts"));
            let mut conflicts: BTreeSet<UnitName> = named.filter_map(|name| unit.beside(name)).into_set();
            conflicts.extend(system.detail(unit)?.conflicts);
            conflicts.retain(|other| {
                let is_up = loaded.get(other).is_some_and(|state| state.active.is_up());
                is_up && UnitType::of(other) != UnitType::Target && !sides.wants.enabled.contains_key(other)
            });
            if let Some(claim) = self.claims.units.get_mut(unit) {
                claim.displaced.extend(conflicts);
            }
        }
        Ok(())
    }

    /// The unit, and the units whose enablement its `[Install]` section affects, too.
    fn install_names(&self, unit: &UnitName) -> BTreeSet<UnitName> {
        let (mut names, mut left) = (BTreeSet::new(), vec![unit.clone()]);
        while let Some(unit) = left.pop() {
            if !names.insert(unit.clone()) {
                continue;
            }
            let template = template_of(&unit).and_then(|name| UnitName::try_from(name).ok());
            names.extend(template.clone());
            for facts in self.files_of(&unit, template.as_ref()) {
                let parse = |name: &str| unit.beside(name);
                names.extend(facts.words("Install", "Alias").into_iter().filter_map(parse));
                left.extend(facts.words("Install", "Also").into_iter().filter_map(parse));
            }
        }
        names
    }

    /// The content of the unit's files: those of the old and the new tree, and the host's own.
    fn files_of(&self, unit: &UnitName, template: Option<&UnitName>) -> Vec<Facts> {
        let sides = self.sides;
        let both = [(&sides.had.external, sides.old), (&sides.wants.external, sides.new)];
        let sources = both.into_iter().flat_map(|(external, tree)| UnitSource::all(external, tree));
        let mut files: Vec<Facts> =
            sources.filter(|source| source.snippet.affects(unit)).map(|source| source.facts.clone()).collect();
        let names = [Some(unit), template].into_iter().flatten();
        for name in names {
            let mut places = unit_directories(name).into_iter().map(|directory| self.home.root().join(directory));
            let text = places.find_map(|directory| std::fs::read(directory.join(name.name())).ok());
            files.extend(text.map(|text| Facts::of(&String::from_utf8_lossy(&text))));
        }
        files
    }
}
