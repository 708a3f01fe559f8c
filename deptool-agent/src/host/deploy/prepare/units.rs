//! Deciding what happens to units.

use crate::{
    host::{
        deploy::prepare::Deciding,
        state::{error::HostError, ledger::UnitClaim},
    },
    shared::{
        desired::{ClaimKind, Snippet},
        name::UnitName,
        plan::{Enablement, UnitChange, UnitJob},
    },
    system::{JobKind, Load, Manager, System, UnitFile, UnitState},
};

/// What is to be done with units.
#[derive(Default)]
pub(super) struct UnitWork {
    pub(super) stop: Vec<UnitName>,
    pub(super) disable: Vec<UnitName>,
    pub(super) enable: Vec<UnitName>,
    pub(super) jobs: Vec<(UnitName, JobKind)>,
    pub(super) running: Vec<UnitName>,
    /// There is a systemd to tell.
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
        let loaded = system.snapshot()?;
        work.running = loaded.iter().filter(|(_, state)| state.active.is_up()).map(|(unit, _)| unit.clone()).collect();
        for change in &self.sides.plan.units {
            self.unit(change, loaded.get(&change.unit), system, &mut work)?;
        }
        self.start_what_is_down(&mut work);
        if !work.live {
            work.stop.clear();
            work.jobs.clear();
        }
        Ok(work)
    }

    /// A failed deployment has left units down that should run: with the next good one they do.
    fn start_what_is_down(&mut self, work: &mut UnitWork) {
        let sides = self.sides;
        for down in self.staged.down {
            let unit = &down.unit;
            let was_ours = sides.had.enabled.contains_key(unit) && !sides.wants.enabled.contains_key(unit);
            if was_ours || work.running.contains(unit) || work.stop.contains(unit) {
                continue;
            }
            self.notes.push(format!("'{unit}' is started: it has been down since a deployment that failed"));
            if work.jobs.iter().all(|(other, _)| other != unit) {
                work.jobs.push((unit.clone(), JobKind::Start));
            }
            // So that going back means to try again.
            work.running.push(unit.clone());
        }
    }

    fn unit(
        &mut self,
        change: &UnitChange,
        state: Option<&UnitState>,
        system: &mut dyn System,
        work: &mut UnitWork,
    ) -> Result<(), HostError> {
        let unit = &change.unit;
        let is_running = work.running.contains(unit);
        let file = match change.enablement {
            Enablement::Keep => UnitFile::Static,
            Enablement::Enable | Enablement::Release => system.unit_file(unit)?,
        };
        match change.enablement {
            Enablement::Keep => {}
            Enablement::Enable => {
                let can_tell = system.manager() != Manager::Absent;
                self.enable(unit, (file, state), is_running, can_tell, work);
            }
            Enablement::Release => {
                self.release_unit(unit, file, is_running, work);
                return Ok(());
            }
        }
        let job = match change.job {
            UnitJob::None | UnitJob::Stop => None,
            UnitJob::Restart | UnitJob::Start => Some(JobKind::Restart),
            // A unit that should run and does not is not helped by a reload.
            UnitJob::Reload => Some(if is_running { JobKind::Reload } else { JobKind::Restart }),
            UnitJob::ReloadIfRunning => is_running.then_some(JobKind::Reload),
            UnitJob::RestartIfRunning => is_running.then_some(JobKind::Restart),
        };
        work.jobs.extend(job.map(|job| (unit.clone(), job)));
        Ok(())
    }

    fn enable(
        &mut self,
        unit: &UnitName,
        (file, state): (UnitFile, Option<&UnitState>),
        runs: bool,
        can_tell: bool,
        work: &mut UnitWork,
    ) {
        let made_by = self.sides.wants.outside.iter().find_map(|(path, claim)| match &claim.kind {
            ClaimKind::Copy(snippet @ Snippet::Unit(_), _) if snippet.affects(unit) => Some(path.as_str()),
            _ => None,
        });
        let is_masked = file == UnitFile::Masked || state.is_some_and(|state| state.load == Load::Masked);
        let is_known = file != UnitFile::Absent || state.is_some_and(|state| state.load == Load::Loaded);
        if is_masked {
            self.problems.push(format!("unit '{unit}' is masked on the host: 'systemctl unmask' it there"));
        } else if made_by.is_none() && !is_known && can_tell {
            self.problems.push(format!("unit '{unit}' is neither in the tree nor on the host"));
        }
        let before = UnitClaim { file, active: runs };
        self.claims.units.entry(unit.clone()).or_insert(before);
        // What Podman's generator makes is started, not enabled: its own [Install] section does the rest.
        let is_generated = made_by.is_some_and(|path| path.starts_with("/etc/containers/"));
        match file {
            UnitFile::Absent | UnitFile::Disabled | UnitFile::EnabledRuntime if !is_generated => {
                work.enable.push(unit.clone());
            }
            _ => {}
        }
    }

    /// Give a unit back: what was enabled and ran before us stays so, the rest is stopped and disabled.
    fn release_unit(&mut self, unit: &UnitName, file: UnitFile, runs: bool, work: &mut UnitWork) {
        let before = self.claims.units.remove(unit).unwrap_or(UnitClaim { file: UnitFile::Absent, active: false });
        if matches!(file, UnitFile::Enabled | UnitFile::EnabledRuntime) && before.file != UnitFile::Enabled {
            work.disable.push(unit.clone());
        }
        let stays = before.file != UnitFile::Absent;
        match (before.active && stays, runs) {
            // Its drop-ins and files are gone: it has to come back without them.
            (true, _) => work.jobs.push((unit.clone(), JobKind::Restart)),
            (false, true) => work.stop.push(unit.clone()),
            (false, false) => {}
        }
    }
}
