//! Rollback: undoes everything that the actions of a record may have done, newest first, whether or not they were
//! carried out.
//!
//! Undoing compares with the real state, and can be repeated after an interruption. It continues after an error, to
//! restore as much as possible.

use std::{
    collections::{BTreeMap, BTreeSet},
    slice,
};

use crate::{
    host::{
        deploy::{
            action::{Action, New, Old, Placement, UnitJobs},
            apply::{link_apps, point, unlink_apps},
        },
        external::{
            place::{Found, Place, Sibling},
            users,
        },
        secrets,
        state::{
            error::HostError,
            failed_units::{self, Down, LIMIT},
            journal::{Record, release_reserve},
            layout::Home,
            ledger::Content,
        },
    },
    shared::{
        name::{AppName, UnitName, UnitType},
        ordered::Ordered as _,
        path::ExternalPath,
        text::{LISTED, shorten},
    },
    system::{
        Active, JobKind, JobResult, Manager, System, UnitState,
        touched::{self, Change, Ours, Touched},
    },
};

/// What could not be undone. Empty if the host was restored completely.
#[derive(Debug, Default)]
pub struct Left {
    /// Errors about files or enablement, in sentences. The journal stays, and the next agent tries again.
    pub errors: Vec<String>,
    /// Units that did not start again, although all of their files were restored.
    pub down: Vec<Down>,
}

impl Left {
    /// All problems, for the operator.
    pub fn sentences(&self) -> Vec<String> {
        let mut all: Vec<String> = self.errors.iter().chain(self.down.iter().map(|down| &down.why)).cloned().collect();
        shorten(&mut all, LISTED, |problem| problem);
        all
    }
}

/// The progress of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// The number of actions that were begun.
    Actions(usize),
    /// Unknown, because the agent has died.
    Unknown,
}

/// Undo the deployment of `record`.
pub fn undo(
    home: &Home,
    record: &Record,
    reached: Reached,
    system: &mut dyn System,
    tick: &mut dyn FnMut(&str),
) -> Left {
    let mut undoing = Undoing { home, record, reached, system, tick, left: Left::default() };
    let released = release_reserve(home);
    undoing.note(released);
    let joined = users::join(home, undoing.system, record.users());
    undoing.note(joined);
    undoing.stop_what_was_started();
    undoing.files_and_enablement();
    undoing.start_what_ran();
    undoing.left
}

struct Undoing<'a> {
    home: &'a Home,
    record: &'a Record,
    reached: Reached,
    system: &'a mut dyn System,
    tick: &'a mut dyn FnMut(&str),
    left: Left,
}

impl Undoing<'_> {
    /// An app that was deployed before keeps its stable path, and gets one if that was moved away and not made again.
    fn unlink_new(&self, apps: &[AppName]) -> Result<(), HostError> {
        let before = self.record.previous.map(|number| self.home.generation(number));
        let ran = |app: &AppName| before.as_ref().is_some_and(|before| before.join(app.as_str()).is_symlink());
        apps.iter().try_for_each(|app| {
            let change = if ran(app) { link_apps } else { unlink_apps };
            change(self.home, self.record.generation, slice::from_ref(app))
        })
    }

    fn note<T>(&mut self, result: Result<T, impl Into<HostError>>) -> Option<T> {
        result.map_err(|error| self.left.errors.push(error.into().to_string())).ok()
    }

    /// The units of the deployment's own jobs, whether or not they were run.
    fn ours(&self) -> Ours {
        let mut ours = Ours::default();
        for action in &self.record.actions {
            let (stops, jobs) = action.on_units();
            ours.jobs.extend(stops.iter().chain(jobs.into_iter().flat_map(UnitJobs::units)).cloned());
        }
        ours
    }

    /// Other units that systemd has changed together with those of the deployment. After a reboot there are none.
    fn touched(&mut self, ours: &Ours, now: &BTreeMap<UnitName, UnitState>) -> Vec<Touched> {
        if self.reached == Reached::Unknown && !self.record.before.are_of_this_boot(now) {
            return Vec::new();
        }
        let touched = touched::find(self.system, ours, &self.record.before, now);
        self.note(touched).unwrap_or_default()
    }

    /// Stop units that did not run before, while their files still exist, and remove them from the list of failed
    /// units.
    fn stop_what_was_started(&mut self) {
        let ours = self.ours();
        if self.system.manager() != Manager::Running || ours.jobs.is_empty() {
            return;
        }
        let snapshot = self.system.snapshot_of_runs();
        let Some(now) = self.note(snapshot) else { return };
        let touched = self.touched(&ours, &now);
        let before = &self.record.before;
        // An instance of a socket that ran before serves one connection, perhaps the operator's.
        let serves = |one: &Touched| UnitType::of(&one.by) == UnitType::Socket && before.ran(&one.by);
        let touched =
            touched.into_iter().filter(|one| !(one.unit.as_str().contains('@') && serves(one))).map(|one| one.unit);
        let is_new = |unit: &UnitName| !before.ran(unit) && before.change_of(unit, &now).is_some();
        let new: Vec<UnitName> = touched.chain(ours.jobs).filter(is_new).collect();
        let is_down = |unit: &UnitName| {
            now.get(unit)
                .is_none_or(|state| matches!(state.active, Active::Inactive | Active::Failed) && !state.has_job)
        };
        let stops: Vec<_> =
            new.iter().filter(|unit| !is_down(unit)).map(|unit| (unit.clone(), JobKind::Stop)).collect();
        self.stop(&stops);
        let reset = self.system.reset_failed(&new);
        self.note(reset);
    }

    fn files_and_enablement(&mut self) {
        // This takes the deployed unit files.
        let disabled = self.record.enablement.disable_of_users(&self.renewed(), self.system);
        self.note(disabled);
        let mut reload = BTreeSet::new();
        for action in self.record.actions.iter().rev() {
            let result = match action {
                Action::DaemonReload(of) => {
                    reload.clone_from(of);
                    Ok(())
                }
                Action::Place(placement) => self.put_back(placement),
                Action::MakeDirectories(paths) => self.remove_directories(paths),
                Action::Switch { from, to: _ } => point(self.home, self.record.generation, &self.home.current(), *from),
                Action::LinkApps(apps) => self.unlink_new(apps),
                Action::UnlinkApps(apps) => link_apps(self.home, self.record.generation, apps),
                // Users and temporary files remain, as the plan says. A checkout that nothing refers to is pruned.
                Action::CreateUsers(_) | Action::CreateTmpfiles(_) | Action::Own { .. } | Action::OwnSecrets { .. } => {
                    Ok(())
                }
                // Units are handled before and after the files, and enablement after all files.
                Action::Stop(_)
                | Action::Jobs(_)
                | Action::Enable(_)
                | Action::Disable(_)
                | Action::RestoreLinks(_) => Ok(()),
            };
            self.note(result);
        }
        // After a reboot, the units that start now find no secrets otherwise. An error here must not prevent the rollback: each
        // contact tries again, and says why it fails.
        if secrets::are_gone(self.home).unwrap_or(false) {
            let _ = secrets::restore(self.home);
        }
        let restored = self.record.enablement.restore(self.home);
        self.note(restored);
        let enabled = self.record.enablement.enable_of_users(self.system);
        self.note(enabled);
        for user in reload {
            let result = self.home.wait_for(|| self.system.daemon_reload(user.as_ref()));
            self.note(result);
        }
    }

    /// The units that were disabled to be enabled in another way.
    fn renewed(&self) -> BTreeSet<UnitName> {
        let disabled = self.record.actions.iter().filter_map(|action| match action {
            Action::Disable(units) => Some(units),
            _ => None,
        });
        disabled.flatten().cloned().into_set()
    }

    fn put_back(&mut self, placement: &Placement) -> Result<(), HostError> {
        let Some(place) = Place::existing(self.home, &placement.path)? else { return Ok(()) };
        place.remove_sibling(Sibling::New)?;
        let backup = match placement.old {
            Old::Ours | Old::Drifted | Old::Foreign | Old::DriftedDirectory | Old::OurDirectory => Sibling::Undo,
            // If it is not what would have been deployed, it belongs to somebody else.
            Old::Nothing if place.found()? == Found::Content(content_of(&placement.new)) => return place.remove(),
            Old::Nothing => return Ok(()),
        };
        // Without a backup, the path was not changed.
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

    /// Start the units that ran before and were changed, with their old configuration.
    fn start_what_ran(&mut self) {
        if self.system.manager() != Manager::Running {
            return;
        }
        let ours = self.ours();
        let snapshot = self.system.snapshot_of_runs();
        let Some(now) = self.note(snapshot) else { return };
        let touched = self.touched(&ours, &now).into_iter().map(|touched| touched.unit);
        // systemd knows of a conflict only while the deployed unit file is loaded.
        let displaced = self.record.claims.units.values().flat_map(|claim| &claim.displaced);
        let all = touched.chain(ours.jobs.iter().chain(displaced).cloned()).into_set();
        let (mut starts, mut restarts) = (Vec::new(), Vec::new());
        for unit in all.into_iter().filter(|unit| self.record.before.ran(unit)) {
            match self.record.before.change_of(&unit, &now) {
                Some(Change::Stopped) => starts.push(unit),
                Some(Change::Restarted | Change::Started | Change::Failed) => restarts.push(unit),
                None => {}
            }
        }
        let mut jobs = self.reloads(&now);
        let mut stops = Vec::new();
        let is_single = starts.len() + restarts.len() == 1;
        for unit in restarts {
            let detail = self.system.detail(&unit);
            let keeps_files = self.note(detail).is_some_and(|detail| detail.may.keep_files);
            // As in the deployment: a unit that takes its old port back must not meet another unit that still uses it.
            match is_single || keeps_files {
                true => jobs.push((unit, JobKind::Restart)),
                false => {
                    stops.push((unit.clone(), JobKind::Stop));
                    jobs.push((unit, JobKind::Start));
                }
            }
        }
        jobs.extend(starts.into_iter().map(|unit| (unit, JobKind::Start)));
        let units: Vec<UnitName> = jobs.iter().map(|(unit, _)| unit.clone()).collect();
        self.stop(&stops);
        let reset = self.system.reset_failed(&units);
        self.note(reset);
        self.start(&jobs);
        self.start_propagated(&ours);
        self.look_again(&jobs);
    }

    /// Units that were told to read the new configuration and are running. They are told to read the old one.
    fn reloads(&self, now: &BTreeMap<UnitName, UnitState>) -> Vec<(UnitName, JobKind)> {
        let begun = match self.reached {
            Reached::Actions(count) => count,
            Reached::Unknown => usize::MAX,
        };
        let jobs = self.record.actions.iter().take(begun).filter_map(|action| action.on_units().1);
        let reloads = jobs
            .flat_map(|jobs| &jobs.jobs)
            .filter(|(unit, kind)| *kind == JobKind::Reload && self.record.before.change_of(unit, now).is_none());
        // The first reload may still be in progress, and may never finish.
        let is_busy = |unit: &UnitName| now.get(unit).is_some_and(|state| state.has_job);
        let kind = |unit: &UnitName| if is_busy(unit) { JobKind::Restart } else { JobKind::Reload };
        reloads.map(|(unit, _)| (unit.clone(), kind(unit))).collect()
    }

    /// Check the started units, because some jobs finish before the unit is known to work.
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

    /// Start units that systemd stopped again while others were started, or did not start along with them.
    fn start_propagated(&mut self, ours: &Ours) {
        let snapshot = self.system.snapshot_of_runs();
        let Some(now) = self.note(snapshot) else { return };
        let stopped = self.touched(ours, &now).into_iter().filter(|one| one.change == Change::Stopped);
        let jobs: Vec<_> = stopped.map(|one| (one.unit, JobKind::Start)).collect();
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

    /// Run jobs. A unit that can't be reloaded is restarted: what it holds in memory may be from neither configuration.
    fn start(&mut self, jobs: &[(UnitName, JobKind)]) {
        let results = self.run(jobs).into_iter().zip(jobs.iter().map(|(_, kind)| *kind));
        let (not_reloaded, others): (Vec<_>, Vec<_>) =
            results.partition(|((_, result), kind)| *kind == JobKind::Reload && *result != JobResult::Done);
        let down = others.into_iter().filter_map(|((unit, result), _)| failed_units::down(unit, result));
        self.left.down.extend(down);
        if !not_reloaded.is_empty() {
            let restarts: Vec<_> = not_reloaded.into_iter().map(|((unit, _), _)| (unit, JobKind::Restart)).collect();
            self.start(&restarts);
        }
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

/// The content after a placement. No existing content is equal to a restoration or removal.
fn content_of(new: &New) -> Content {
    match new {
        New::Link(target) => Content::Link(target.clone()),
        New::Copy { sha256, .. } => Content::File(sha256.clone()),
        New::Before(content) => content.clone(),
        New::Nothing => Content::File(String::new()),
    }
}
