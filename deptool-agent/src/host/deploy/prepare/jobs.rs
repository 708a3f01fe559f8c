//! Decides the jobs for systemd: those of the plan, for the units that exist on the host.

use std::collections::{BTreeMap, BTreeSet};

use super::Sides;
use crate::{
    host::{deploy::action::UnitJobs, state::error::HostError},
    shared::{
        manifest::OnChange,
        name::{UnitName, UnitType},
        ordered::Ordered as _,
        plan::{
            PatternChange, PatternJob, UnitJob, When,
            units::{Side, pattern_applies},
        },
        unit_file::is_true,
    },
    system::{Active, JobKind, System, UnitDetail, UnitState},
};

/// Name at most this many units in a note.
const NAMED: usize = 8;

/// The decision.
pub(super) struct Decided {
    /// Running units that are stopped for good, while their files still exist.
    pub(super) stop: Vec<UnitName>,
    pub(super) jobs: UnitJobs,
    pub(super) notes: Vec<String>,
    pub(super) problems: Vec<String>,
}

/// What should happen to a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Start,
    Restart,
    Reload,
    ReloadOrRestart,
}

/// The wishes so far. The first wish for a unit counts.
pub(super) struct Jobs<'a> {
    sides: &'a Sides<'a>,
    loaded: &'a BTreeMap<UnitName, UnitState>,
    wishes: Vec<(UnitName, Wish)>,
    stop: BTreeSet<UnitName>,
    given_back: BTreeSet<UnitName>,
    notes: Vec<String>,
    problems: Vec<String>,
}

impl<'a> Jobs<'a> {
    pub(super) fn new(sides: &'a Sides<'a>, loaded: &'a BTreeMap<UnitName, UnitState>) -> Jobs<'a> {
        let (stop, given_back) = (BTreeSet::new(), BTreeSet::new());
        let (wishes, notes, problems) = (Vec::new(), Vec::new(), Vec::new());
        Jobs { sides, loaded, wishes, stop, given_back, notes, problems }
    }

    /// Add the plan's job for a unit.
    pub(super) fn unit(&mut self, unit: &UnitName, job: &UnitJob, system: &mut dyn System) -> Result<(), HostError> {
        match job {
            UnitJob::None | UnitJob::Stop => {}
            UnitJob::DaemonReload => self.refresh(unit),
            UnitJob::Start => self.wish(unit, Wish::Restart),
            UnitJob::Restart(when) => self.wish_when(unit, Wish::Restart, *when, system)?,
            UnitJob::Reload(when) => self.wish_when(unit, Wish::Reload, *when, system)?,
            UnitJob::ReloadOrRestart(when) => self.wish_when(unit, Wish::ReloadOrRestart, *when, system)?,
            UnitJob::PullIn(When::IfRunning) if !self.is_up(unit) => {}
            UnitJob::PullIn(_) => self.wish(unit, Wish::Start),
            UnitJob::Members(on_change, known) => self.members(unit, *on_change, known, system)?,
        }
        Ok(())
    }

    /// Add the plan's job for all units of a pattern.
    pub(super) fn pattern(&mut self, change: &PatternChange, system: &mut dyn System) -> Result<(), HostError> {
        let is_meant =
            |unit: &&UnitName| self.is_up(unit) && pattern_applies(&change.pattern, unit) && self.is_free(unit);
        let units: Vec<UnitName> = self.loaded.keys().filter(is_meant).cloned().collect();
        let mut left = Vec::new();
        for unit in units {
            let wish = match change.job {
                PatternJob::None => continue,
                PatternJob::Stop => {
                    self.stop(&unit);
                    continue;
                }
                PatternJob::Leave => None,
                // An instance of a socket with Accept= serves one connection, perhaps ours, and ends with it.
                _ if self.serves_a_connection(&unit, system)? => None,
                PatternJob::Reload => Some(Wish::Reload),
                PatternJob::ReloadOrRestart => Some(Wish::ReloadOrRestart),
                PatternJob::Restart => Some(Wish::Restart),
            };
            match wish {
                Some(wish) => self.wish_when(&unit, wish, When::IfRunning, system)?,
                None => left.push(unit.to_string()),
            }
        }
        if !left.is_empty() {
            let more = left.len().saturating_sub(NAMED);
            left.truncate(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let (pattern, names) = (&change.pattern, left.join(", "));
            self.notes.push(format!("keep their settings until they are restarted ('{pattern}'): {names}{more}"));
        }
        Ok(())
    }

    /// Stop a running unit for good.
    pub(super) fn stop(&mut self, unit: &UnitName) {
        if self.loaded.get(unit).is_some_and(|state| state.active.is_up()) {
            self.stop.insert(unit.clone());
        }
    }

    pub(super) fn stops(&self, unit: &UnitName) -> bool {
        self.stop.contains(unit)
    }

    pub(super) fn start(&mut self, unit: &UnitName) {
        self.wish(unit, Wish::Start);
    }

    /// Have a unit run as it did before the first deployment.
    pub(super) fn give_back(&mut self, unit: &UnitName) {
        self.wish(unit, Wish::Restart);
        self.given_back.insert(unit.clone());
    }

    /// Turn the wishes into jobs.
    pub(super) fn decide(mut self, system: &mut dyn System) -> Result<Decided, HostError> {
        let mut wishes = std::mem::take(&mut self.wishes);
        wishes.retain(|(unit, _)| !self.stop.contains(unit));
        let mut decided = UnitJobs { given_back: std::mem::take(&mut self.given_back), ..UnitJobs::default() };
        let mut jobs = BTreeMap::new();
        let mut restarts: Vec<(UnitName, UnitDetail)> = Vec::new();
        for (unit, wish) in wishes {
            let detail = system.detail(&unit)?;
            let is_up = self.is_up(&unit);
            match wish {
                Wish::Reload | Wish::ReloadOrRestart if is_up && detail.may.reload => {
                    if wish == Wish::ReloadOrRestart {
                        decided.restart_if_stale.insert(unit.clone());
                    }
                    jobs.insert(unit, JobKind::Reload);
                }
                Wish::Reload if is_up && UnitType::of(&unit) == UnitType::Service => {
                    self.problems.push(format!("unit '{unit}' can't be reloaded: it has no ExecReload="));
                }
                Wish::Start => drop(jobs.insert(unit, JobKind::Start)),
                Wish::Restart | Wish::Reload | Wish::ReloadOrRestart if is_up && !self.may_stop(&unit, &detail) => {
                    self.cannot_stop(&unit);
                }
                Wish::Restart | Wish::Reload | Wish::ReloadOrRestart if !is_up && !self.may_start(&unit, &detail) => {
                    self.problems.push(format!("unit '{unit}' can't be started by hand (RefuseManualStart=)"));
                }
                Wish::Restart | Wish::Reload | Wish::ReloadOrRestart => restarts.push((unit, detail)),
            }
        }
        let stopped_first = self.restarts(restarts, &mut jobs);
        decided.jobs = jobs.into_iter().collect();
        decided.stop = stopped_first.into_iter().collect();
        let stop = self.stops_for_good(system)?;
        Ok(Decided { stop, jobs: decided, notes: self.notes, problems: self.problems })
    }

    /// If several units restart, or a socket and its service, all are stopped before the first of them starts. A single
    /// unit is restarted, which is its shortest outage. Returns the units to stop first.
    fn restarts(
        &self,
        restarts: Vec<(UnitName, UnitDetail)>,
        jobs: &mut BTreeMap<UnitName, JobKind>,
    ) -> BTreeSet<UnitName> {
        // A socket can't be started while its service runs, nor an automount while its file system is mounted.
        let mut behind = BTreeSet::new();
        for (unit, detail) in &restarts {
            let starts_others = matches!(UnitType::of(unit), UnitType::Socket | UnitType::Automount);
            if starts_others && !detail.may.accept {
                let is_new = |other: &UnitName| restarts.iter().all(|(unit, _)| unit != other);
                // A new socket is not loaded yet, so its file says which service it starts.
                let named = detail.triggers.iter().cloned().chain(self.service_of(unit));
                behind.extend(named.filter(|other| is_new(other) && self.is_up(other)));
            }
        }
        behind.retain(|unit| !self.stop.contains(unit));
        jobs.extend(behind.iter().map(|unit| (unit.clone(), JobKind::Start)));
        let mut stop = behind;
        let starts = jobs.values().filter(|kind| **kind == JobKind::Start).count();
        let is_single = restarts.len() + starts == 1;
        for (unit, detail) in restarts {
            let is_up = self.is_up(&unit);
            // For some services, systemd keeps open files over a restart, but not over a stop.
            let stops_first = is_up && !is_single && !detail.may.keep_files;
            jobs.insert(unit.clone(), if stops_first { JobKind::Start } else { JobKind::Restart });
            if stops_first {
                stop.insert(unit);
            }
        }
        stop
    }

    /// The service that a socket in the tree starts.
    fn service_of(&self, unit: &UnitName) -> Option<UnitName> {
        if UnitType::of(unit) != UnitType::Socket || self.says("Socket", unit, "Accept") || !self.side().makes(unit) {
            return None;
        }
        self.side().started_by(unit, "Socket", "Service")
    }

    /// The units to stop. A slice disappears with its last unit. A unit that can't be stopped by hand keeps running.
    fn stops_for_good(&mut self, system: &mut dyn System) -> Result<Vec<UnitName>, HostError> {
        let mut stops = Vec::new();
        for unit in std::mem::take(&mut self.stop) {
            let detail = system.detail(&unit)?;
            if !detail.may.stop {
                self.notes.push(format!("'{unit}' can't be stopped by hand: it keeps running until the next boot"));
                continue;
            }
            stops.push(unit);
        }
        let all: BTreeSet<UnitName> = stops.iter().cloned().into_set();
        let mut kept = Vec::new();
        for unit in stops {
            if UnitType::of(&unit) == UnitType::Slice {
                let is_in_use = |other: &UnitName| self.is_up(other) && !all.contains(other);
                if system.detail(&unit)?.started_by.iter().any(is_in_use) {
                    continue;
                }
            }
            kept.push(unit);
        }
        Ok(kept)
    }

    fn is_up(&self, unit: &UnitName) -> bool {
        self.loaded.get(unit).is_some_and(|state| state.active.is_up())
    }

    /// Whether nothing else decides about the unit.
    fn is_free(&self, unit: &UnitName) -> bool {
        let is_named = |desired: &crate::shared::desired::Desired| {
            desired.enabled.contains_key(unit) || desired.watched.contains_key(unit)
        };
        let is_known = self.wishes.iter().any(|(other, _)| other == unit) || self.stop.contains(unit);
        !is_known && !is_named(self.sides.wants)
    }

    fn wish(&mut self, unit: &UnitName, wish: Wish) {
        if self.wishes.iter().all(|(other, _)| other != unit) {
            self.wishes.push((unit.clone(), wish));
        }
    }

    fn wish_when(&mut self, unit: &UnitName, wish: Wish, when: When, system: &mut dyn System) -> Result<(), HostError> {
        let is_up = self.is_up(unit);
        match when {
            // Reloading does not help a unit that should run but does not.
            When::Always => self.wish(unit, if is_up { wish } else { Wish::Restart }),
            When::IfRunning if is_up && self.is_at_work(unit, system)? => {
                self.notes.push(format!("'{unit}' is running: its next run will use the new files"));
            }
            When::IfRunning if is_up => self.wish(unit, wish),
            When::IfRunning => {}
        }
        Ok(())
    }

    /// Whether this is a oneshot that is running, such as a backup.
    fn is_at_work(&self, unit: &UnitName, system: &mut dyn System) -> Result<bool, HostError> {
        let is_activating = self.loaded.get(unit).is_some_and(|state| state.active == Active::Activating);
        Ok(is_activating && system.detail(unit)?.service_type == "oneshot")
    }

    /// Restart a timer if it has no next time left: systemd only computes that when it reads the file of an active
    /// timer.
    fn refresh(&mut self, unit: &UnitName) {
        let has_elapsed =
            self.loaded.get(unit).is_some_and(|state| state.active == Active::Active && state.sub == "elapsed");
        if UnitType::of(unit) == UnitType::Timer && has_elapsed {
            self.wish(unit, Wish::Restart);
        }
    }

    /// Add the wish for the units that `unit` starts or groups.
    fn members(
        &mut self,
        unit: &UnitName,
        on_change: OnChange,
        known: &BTreeSet<UnitName>,
        system: &mut dyn System,
    ) -> Result<(), HostError> {
        let detail = system.detail(unit)?;
        let members = match UnitType::of(unit) {
            UnitType::Target if self.side().makes(unit) => known.clone(),
            UnitType::Target => detail.members.into_iter().into_set(),
            _ if detail.may.accept => BTreeSet::new(),
            _ if detail.triggers.is_empty() => known.clone(),
            _ => detail.triggers.into_iter().into_set(),
        };
        let wish = match on_change {
            OnChange::None => return Ok(()),
            OnChange::Reload => Wish::Reload,
            OnChange::ReloadOrRestart => Wish::ReloadOrRestart,
            OnChange::Restart => Wish::Restart,
        };
        for member in members.iter().filter(|member| self.is_free(member)).cloned().collect::<Vec<_>>() {
            self.wish_when(&member, wish, When::IfRunning, system)?;
        }
        // Start a unit that should run but does not.
        if !self.is_up(unit) && self.sides.wants.enabled.contains_key(unit) {
            self.wish(unit, Wish::Restart);
        }
        Ok(())
    }

    /// The tree that is deployed.
    fn side(&self) -> Side<'_> {
        Side { tree: self.sides.new, desired: self.sides.wants }
    }

    fn serves_a_connection(&self, unit: &UnitName, system: &mut dyn System) -> Result<bool, HostError> {
        let is_instance = unit.as_str().contains('@');
        if !is_instance {
            return Ok(false);
        }
        let detail = system.detail(unit)?;
        for by in detail.started_by.iter().filter(|by| UnitType::of(by) == UnitType::Socket) {
            if system.detail(by)?.may.accept {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn says(&self, section: &str, unit: &UnitName, key: &str) -> bool {
        self.side().value(unit, section, key).is_some_and(is_true)
    }

    fn may_stop(&self, unit: &UnitName, detail: &UnitDetail) -> bool {
        detail.may.stop && !self.says("Unit", unit, "RefuseManualStop")
    }

    fn may_start(&self, unit: &UnitName, detail: &UnitDetail) -> bool {
        let is_unknown = detail.load != crate::system::Load::Loaded;
        (is_unknown || detail.may.start) && !self.says("Unit", unit, "RefuseManualStart")
    }

    /// Handle a unit that should be restarted but can't be stopped by hand.
    fn cannot_stop(&mut self, unit: &UnitName) {
        let demands = |app: &std::sync::Arc<crate::shared::tree::App>| {
            app.manifest.systemd.on_change.get(unit) == Some(&OnChange::Restart)
        };
        match self.sides.new.apps.values().any(demands) {
            true => self.problems.push(format!(
                "unit '{unit}' refuses to be stopped by hand (RefuseManualStop=): 'on_change' can't be 'restart'"
            )),
            false => self
                .notes
                .push(format!("'{unit}' refuses to be stopped by hand: the change takes effect at the next boot")),
        }
    }
}
