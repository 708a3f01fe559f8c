//! Going back: everything that a record's actions may have done, newest first, whichever of them were carried out.
//!
//! Undoing compares with reality and can be done again after an interruption. It goes on after an error: the more is
//! back in place the better.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    host::{
        deploy::{
            action::{Action, New, Old, Placement},
            apply::{link_apps, unlink_apps},
        },
        external::place::{Found, Place, Sibling},
        state::{
            durable,
            error::HostError,
            failed_units::{self, Down, LIMIT},
            journal::{Record, release_reserve},
            layout::Home,
            ledger::Content,
        },
    },
    shared::{
        name::{AppName, UnitName},
        path::ExternalPath,
    },
    system::{Active, JobKind, JobResult, Load, Manager, System, UnitState},
};

/// What could not be undone; nothing if the host is as it was.
#[derive(Debug, Default)]
pub struct Left {
    /// Of files, or of what systemd knows, in sentences. It has to be tried again: the journal stays.
    pub errors: Vec<String>,
    /// Units that did not start again. Everything that they read is as it was.
    pub down: Vec<Down>,
}

impl Left {
    /// All of it, for the operator.
    pub fn sentences(&self) -> Vec<String> {
        self.errors.iter().chain(self.down.iter().map(|down| &down.why)).cloned().collect()
    }
}

/// Undo the deployment of `record`.
pub fn undo(home: &Home, record: &Record, system: &mut dyn System, tick: &mut dyn FnMut()) -> Left {
    let mut undoing = Undoing { home, record, system, tick, left: Left::default() };
    let released = release_reserve(home);
    undoing.note(released);
    undoing.stop_what_was_started();
    undoing.files_and_enablement();
    undoing.start_what_ran();
    undoing.left
}

/// How systemd comes to start or stop units that nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    StartedBy,
    StoppedBy,
}

struct Undoing<'a> {
    home: &'a Home,
    record: &'a Record,
    system: &'a mut dyn System,
    tick: &'a mut dyn FnMut(),
    left: Left,
}

impl Undoing<'_> {
    /// Those that did not run before. One that did keeps the path that it should have had.
    fn new_of(&self, apps: &[AppName]) -> Vec<AppName> {
        let before = self.record.previous.map(|number| self.home.generation(number));
        let ran = |app: &AppName| before.as_ref().is_some_and(|before| before.join(app.as_str()).is_symlink());
        apps.iter().filter(|app| !ran(app)).cloned().collect()
    }

    fn note<T>(&mut self, result: Result<T, impl Into<HostError>>) -> Option<T> {
        result.map_err(|error| self.left.errors.push(error.into().to_string())).ok()
    }

    /// Units that did not run before stop while their files are still there.
    fn stop_what_was_started(&mut self) {
        if self.system.manager() != Manager::Running {
            return;
        }
        let snapshot = self.system.snapshot();
        let Some(loaded) = self.note(snapshot) else { return };
        let (ours, mut new) = (self.started(), Vec::new());
        for unit in self.related(&ours, &loaded, Relation::StartedBy).into_iter().chain(ours) {
            let is_there = loaded.get(&unit).is_some_and(|state| state.load != Load::NotFound);
            if is_there && !self.record.running.contains(&unit) {
                new.push(unit);
            }
        }
        let stops: Vec<_> = new
            .iter()
            .filter(|unit| loaded.get(*unit).is_some_and(|state| state.active != Active::Inactive || state.has_job))
            .map(|unit| (unit.clone(), JobKind::Stop))
            .collect();
        self.stop(&stops);
        let reset = self.system.reset_failed(&new);
        self.note(reset);
    }

    /// The units that the deployment itself started, restarted or reloaded.
    fn started(&self) -> BTreeSet<UnitName> {
        let jobs = self.record.actions.iter().filter_map(|action| match action {
            Action::Jobs { jobs, .. } => Some(jobs),
            _ => None,
        });
        jobs.flatten().map(|(unit, _)| unit.clone()).collect::<BTreeSet<_>>()
    }

    /// The units whose state is another than before and that are so related to `ours`, directly or through each other.
    ///
    /// systemd has told of the jobs that it made along with ours; an agent that recovers has not heard that.
    fn related(
        &mut self,
        ours: &BTreeSet<UnitName>,
        loaded: &BTreeMap<UnitName, UnitState>,
        relation: Relation,
    ) -> BTreeSet<UnitName> {
        let ran = self.record.running.iter().collect::<BTreeSet<_>>();
        let changed: Vec<UnitName> = match relation {
            _ if ours.is_empty() => Vec::new(),
            Relation::StartedBy => {
                loaded.keys().filter(|unit| !ran.contains(unit) && !is_down(unit, loaded)).cloned().collect()
            }
            Relation::StoppedBy => ran.into_iter().filter(|unit| is_down(unit, loaded)).cloned().collect(),
        };
        let mut others = Vec::new();
        for unit in changed.into_iter().filter(|unit| !ours.contains(unit)) {
            let detail = self.system.detail(&unit);
            let Some(detail) = self.note(detail) else { continue };
            let by = match relation {
                Relation::StartedBy => detail.started_by,
                Relation::StoppedBy => detail.stopped_by,
            };
            others.push((unit, by));
        }
        let mut related = BTreeSet::new();
        loop {
            let is_related = |by: &[UnitName]| by.iter().any(|unit| ours.contains(unit) || related.contains(unit));
            let (new, rest): (Vec<_>, Vec<_>) = others.into_iter().partition(|(_, by)| is_related(by));
            if new.is_empty() {
                return related;
            }
            related.extend(new.into_iter().map(|(unit, _)| unit));
            others = rest;
        }
    }

    fn files_and_enablement(&mut self) {
        let running = self.system.manager() != Manager::Absent;
        let mut reload = false;
        for action in self.record.actions.iter().rev() {
            let result = match action {
                Action::Enable(units) if running => self.system.disable(units).map_err(HostError::from),
                Action::Disable(units) if running => self.system.enable(units).map_err(HostError::from),
                Action::DaemonReload => {
                    reload = true;
                    Ok(())
                }
                Action::Place(placement) => self.put_back(placement),
                Action::MakeDirectories(paths) => self.remove_directories(paths),
                Action::Switch { from, to: _ } => self.switch_back(*from),
                Action::LinkApps(apps) => unlink_apps(self.home, &self.new_of(apps)),
                Action::UnlinkApps(apps) => link_apps(self.home, apps),
                // Users and temporary files stay, as the plan says; a checkout that nothing refers to is pruned.
                Action::CreateUsers(_) | Action::CreateTmpfiles(_) | Action::Own { .. } => Ok(()),
                // Units come before and after the files.
                Action::Stop(_) | Action::Jobs { .. } | Action::Enable(_) | Action::Disable(_) => Ok(()),
            };
            self.note(result);
        }
        if reload {
            let result = self.system.daemon_reload();
            self.note(result);
        }
    }

    fn put_back(&mut self, placement: &Placement) -> Result<(), HostError> {
        let Some(place) = Place::existing(self.home, &placement.path)? else { return Ok(()) };
        place.remove_sibling(Sibling::New)?;
        let backup = match placement.old {
            Old::Ours | Old::Drifted => Sibling::Undo,
            Old::Foreign => Sibling::Before,
            // What is not what we would have put there is somebody else's.
            Old::Nothing if place.found()? == Found::Content(content_of(&placement.new)) => return place.remove(),
            Old::Nothing => return Ok(()),
        };
        // Without a backup the path was not touched.
        if place.has(backup)? { place.put_back(backup) } else { Ok(()) }
    }

    fn remove_directories(&mut self, paths: &[ExternalPath]) -> Result<(), HostError> {
        for path in paths.iter().rev() {
            if let Some(place) = Place::existing(self.home, path)? {
                place.remove_directory_if_empty()?;
            }
        }
        Ok(())
    }

    fn switch_back(&mut self, from: Option<u32>) -> Result<(), HostError> {
        match from {
            Some(number) => durable::replace_link(&self.home.current(), &format!("generations/{number}")),
            None => durable::remove(&self.home.current()),
        }
    }

    /// Start again what was stopped, restart what runs with a configuration that is gone, and see to it that whatever
    /// systemd stopped along with these is back too.
    fn start_what_ran(&mut self) {
        if self.system.manager() != Manager::Running {
            return;
        }
        let mut jobs: Vec<(UnitName, JobKind)> = Vec::new();
        for action in &self.record.actions {
            match action {
                Action::Stop(units) => jobs.extend(units.iter().map(|unit| (unit.clone(), JobKind::Start))),
                Action::Jobs { jobs: done, running } => {
                    let again = done.iter().filter(|(unit, _)| running.contains(unit));
                    jobs.extend(again.cloned());
                }
                _ => {}
            }
        }
        let snapshot = self.system.snapshot();
        if let Some(now) = self.note(snapshot) {
            // A reload can't help what the failed configuration has brought down.
            for (unit, kind) in &mut jobs {
                let active = now.get(unit).map(|state| state.active);
                if *kind == JobKind::Reload && active != Some(Active::Active) {
                    *kind = JobKind::Restart;
                }
            }
        }
        let units: Vec<UnitName> = jobs.iter().map(|(unit, _)| unit.clone()).collect();
        let reset = self.system.reset_failed(&units);
        self.note(reset);
        self.start(&jobs);
        self.start_propagated(&units.into_iter().collect::<BTreeSet<_>>());
        self.look_again(&jobs);
    }

    /// Not every unit's job waits until it is seen to work.
    fn look_again(&mut self, jobs: &[(UnitName, JobKind)]) {
        let snapshot = self.system.snapshot();
        let Some(now) = self.note(snapshot) else { return };
        let has_failed = |unit: &UnitName| now.get(unit).is_some_and(|state| state.active == Active::Failed);
        for (unit, _) in jobs.iter().filter(|(unit, _)| has_failed(unit)) {
            if self.left.down.iter().all(|down| down.unit != *unit) {
                let why = format!("'{unit}' was started again, and failed");
                self.left.down.push(Down { unit: unit.clone(), why });
            }
        }
    }

    fn start_propagated(&mut self, ours: &BTreeSet<UnitName>) {
        let mut others = self.system.take_other_jobs().into_iter().collect::<BTreeSet<_>>();
        let snapshot = self.system.snapshot();
        let Some(now) = self.note(snapshot) else { return };
        others.extend(self.related(ours, &now, Relation::StoppedBy));
        let jobs: Vec<_> = others
            .into_iter()
            .filter(|unit| !ours.contains(unit) && self.record.running.contains(unit) && is_down(unit, &now))
            .map(|unit| (unit, JobKind::Start))
            .collect();
        self.start(&jobs);
    }

    fn stop(&mut self, jobs: &[(UnitName, JobKind)]) {
        for (unit, result) in self.run(jobs) {
            match result {
                JobResult::Done => {}
                JobResult::Failed(why) => self.left.errors.push(format!("cannot stop '{unit}': {why}")),
                JobResult::TimedOut => self.left.errors.push(format!("'{unit}' takes too long to stop")),
            }
        }
    }

    fn start(&mut self, jobs: &[(UnitName, JobKind)]) {
        let down = self.run(jobs).into_iter().filter_map(|(unit, result)| failed_units::down(unit, result));
        self.left.down.extend(down);
    }

    fn run(&mut self, jobs: &[(UnitName, JobKind)]) -> Vec<(UnitName, JobResult)> {
        if jobs.is_empty() {
            return Vec::new();
        }
        let results = self.system.run_jobs(jobs, LIMIT, self.tick);
        let results = self.note(results).unwrap_or_default();
        jobs.iter().map(|(unit, _)| unit.clone()).zip(results).collect()
    }
}

fn is_down(unit: &UnitName, loaded: &BTreeMap<UnitName, UnitState>) -> bool {
    loaded.get(unit).is_none_or(|state| matches!(state.active, Active::Inactive | Active::Failed))
}

/// What a placement puts in place. Nothing that can be found is equal to what restores or removes.
fn content_of(new: &New) -> Content {
    match new {
        New::Link(target) => Content::Link(target.clone()),
        New::Copy { sha256, .. } => Content::File(sha256.clone()),
        New::Before | New::Nothing => Content::File(String::new()),
    }
}
