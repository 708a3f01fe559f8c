//! A service manager in memory: it records the order of calls, and fails where a test wants it to.
//!
//! Its clock stands still but for [`System::wait_for_change`], so that no test sleeps. Files are not its business: a unit
//! that nobody announced exists as soon as something is done with it.

use std::{collections::BTreeMap, path::Path, time::Duration};

use super::{
    Active, JobKind, JobResult, Leave, Load, Manager, System, SystemError, UnitDetail, UnitFile, UnitState,
    verdict::WINDOW,
};
use crate::shared::name::UnitName;

/// What a unit does when it is told to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// Starts and stays.
    Works,
    /// Its job fails.
    FailsAtStart,
    /// Starts, and is found dead at the look after so many looks.
    DiesAfterLooks(usize),
    /// Starts, and has been restarted once more at every look.
    Loops,
    /// A oneshot that does its work and ends.
    Ends,
    /// Starts; can't be reloaded.
    ReloadFails,
    /// Its job does not end in time.
    NeverReady,
    /// There is no such unit.
    Missing,
}

/// A unit of [`Fake`].
#[derive(Debug, Clone)]
pub struct FakeUnit {
    pub behaviour: Behaviour,
    pub file: UnitFile,
    pub detail: UnitDetail,
    /// Looks since its last start.
    looks: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Fake {
    pub manager: Manager,
    /// Every call in order: `daemon-reload`, `enable a.service b.service`, `jobs restart a.service, stop b.service` …
    pub calls: Vec<String>,
    pub units: BTreeMap<UnitName, FakeUnit>,
    pub is_stopping: bool,
    /// Answered by [`System::journal_tail`].
    pub journal: String,
    /// Answered by the next [`System::take_other_jobs`].
    pub other_jobs: Vec<UnitName>,
    /// Answered by [`System::verify`].
    pub verdicts: String,
    /// The unit files of the last [`System::add_transient`].
    pub transient: Vec<String>,
    /// The call that fails, counted from 1 as in `calls`.
    pub fails_at: Option<usize>,
    now: Duration,
    started: u32,
}

impl Default for Fake {
    fn default() -> Self {
        Fake {
            manager: Manager::Running,
            calls: Vec::new(),
            units: BTreeMap::new(),
            is_stopping: false,
            journal: String::new(),
            other_jobs: Vec::new(),
            verdicts: String::new(),
            transient: Vec::new(),
            fails_at: None,
            now: Duration::from_secs(1000),
            started: 0,
        }
    }
}

/// `name` as a unit's name; for tests, which know what they write.
pub fn unit(name: &str) -> UnitName {
    UnitName::parse(name.as_bytes()).expect("a valid unit name")
}

impl Fake {
    /// A manager whose `n`th call fails, counted from 1. There was no such call if `calls` is shorter in the end.
    pub fn failing_at(n: usize) -> Self {
        Fake { fails_at: Some(n), ..Fake::default() }
    }

    /// Have a Type=simple unit behave so from its next start on. It is loaded, inactive and disabled if it is new.
    pub fn behave(&mut self, name: &str, behaviour: Behaviour) -> &mut FakeUnit {
        let unit = self.entry(&unit(name));
        unit.behaviour = behaviour;
        unit
    }

    /// Have a unit be up already, and enabled.
    pub fn running(&mut self, name: &str) -> &mut FakeUnit {
        let name = unit(name);
        self.start(&name);
        let unit = self.entry(&name);
        unit.file = UnitFile::Enabled;
        unit
    }

    /// The calls that change something.
    pub fn changes(&self) -> Vec<&str> {
        const READS: [&str; 8] =
            ["verify", "is-stopping", "snapshot", "detail", "unit-file", "wait-for-change", "other-jobs", "journal"];
        let is_read = |call: &str| READS.iter().any(|read| call.split(' ').next() == Some(read));
        self.calls.iter().map(String::as_str).filter(|call| !is_read(call)).collect()
    }

    fn entry(&mut self, name: &UnitName) -> &mut FakeUnit {
        self.units.entry(name.clone()).or_insert_with(|| FakeUnit {
            behaviour: Behaviour::Works,
            file: UnitFile::Disabled,
            detail: UnitDetail { service_type: "simple".into(), ..UnitDetail::inactive() },
            looks: 0,
        })
    }

    fn record(&mut self, call: String) -> Result<(), SystemError> {
        self.calls.push(call);
        match self.fails_at == Some(self.calls.len()) {
            true => Err(SystemError(format!("call {} fails as told", self.calls.len()))),
            false => Ok(()),
        }
    }

    fn start(&mut self, name: &UnitName) -> JobResult {
        let now = self.now;
        self.started += 1;
        let invocation = format!("{:032x}", self.started);
        let unit = self.entry(name);
        unit.looks = 0;
        unit.detail = UnitDetail {
            load: Load::Loaded,
            service_type: unit.detail.service_type.clone(),
            restarts_itself: unit.detail.restarts_itself,
            triggers: unit.detail.triggers.clone(),
            is_triggered: unit.detail.is_triggered,
            started_by: unit.detail.started_by.clone(),
            stopped_by: unit.detail.stopped_by.clone(),
            invocation,
            changed_at: now,
            ..UnitDetail::inactive()
        };
        let detail = &mut unit.detail;
        match unit.behaviour {
            Behaviour::Missing => {
                detail.load = Load::NotFound;
                return JobResult::Failed(format!("Unit {name} not found"));
            }
            Behaviour::FailsAtStart => {
                die(detail);
                return JobResult::Failed("failed".into());
            }
            Behaviour::NeverReady => {
                (detail.active, detail.sub) = (Active::Activating, "start".into());
                return JobResult::TimedOut;
            }
            Behaviour::Ends => detail.service_type = "oneshot".into(),
            Behaviour::Works | Behaviour::ReloadFails | Behaviour::DiesAfterLooks(_) | Behaviour::Loops => {
                (detail.active, detail.sub, detail.active_since) = (Active::Active, "running".into(), Some(now));
            }
        }
        JobResult::Done
    }

    fn job(&mut self, name: &UnitName, kind: JobKind) -> JobResult {
        let now = self.now;
        let unit = self.entry(name);
        let is_up = unit.detail.active == Active::Active;
        match kind {
            JobKind::Start if is_up => JobResult::Done,
            JobKind::Start | JobKind::Restart => self.start(name),
            JobKind::Stop => {
                let detail = &mut unit.detail;
                (detail.active, detail.sub, detail.active_since) = (Active::Inactive, "dead".into(), None);
                detail.changed_at = now;
                JobResult::Done
            }
            JobKind::Reload if !is_up => JobResult::Failed("invalid".into()),
            JobKind::Reload if unit.behaviour == Behaviour::ReloadFails => JobResult::Failed("failed".into()),
            JobKind::Reload => JobResult::Done,
        }
    }
}

fn die(detail: &mut UnitDetail) {
    (detail.active, detail.sub, detail.active_since) = (Active::Failed, "failed".into(), None);
    detail.result = "exit-code".into();
    detail.exit = Some("exited with status 1 after 0.1 s".into());
}

fn list<'a>(what: &str, items: impl IntoIterator<Item = &'a UnitName>) -> String {
    items.into_iter().fold(what.to_owned(), |line, item| format!("{line} {item}"))
}

fn paths(what: &str, paths: &[&Path]) -> String {
    paths.iter().fold(what.to_owned(), |line, path| format!("{line} {}", path.display()))
}

impl System for Fake {
    fn manager(&self) -> Manager {
        self.manager
    }

    fn clock(&self) -> Duration {
        self.now
    }

    fn is_stopping(&mut self) -> bool {
        self.calls.push("is-stopping".into());
        self.is_stopping
    }

    fn snapshot(&mut self) -> Result<BTreeMap<UnitName, UnitState>, SystemError> {
        self.record("snapshot".into())?;
        let state = |unit: &FakeUnit| UnitState {
            load: unit.detail.load,
            active: unit.detail.active,
            sub: unit.detail.sub.clone(),
            has_job: unit.detail.has_job,
        };
        Ok(self.units.iter().map(|(name, unit)| (name.clone(), state(unit))).collect())
    }

    fn detail(&mut self, name: &UnitName) -> Result<UnitDetail, SystemError> {
        self.record(format!("detail {name}"))?;
        let now = self.now;
        let Some(unit) = self.units.get_mut(name).filter(|unit| unit.behaviour != Behaviour::Missing) else {
            return Ok(UnitDetail { load: Load::NotFound, ..UnitDetail::inactive() });
        };
        if unit.detail.active == Active::Active {
            unit.looks += 1;
            match unit.behaviour {
                Behaviour::DiesAfterLooks(looks) if unit.looks > looks => die(&mut unit.detail),
                Behaviour::Loops => {
                    unit.detail.restarts += 1;
                    unit.detail.active_since = Some(now);
                }
                _ => {}
            }
        }
        Ok(unit.detail.clone())
    }

    fn unit_file(&mut self, name: &UnitName) -> Result<UnitFile, SystemError> {
        self.record(format!("unit-file {name}"))?;
        Ok(self.units.get(name).map_or(UnitFile::Absent, |unit| unit.file))
    }

    fn enable(&mut self, units: &[UnitName]) -> Result<(), SystemError> {
        self.record(list("enable", units))?;
        for name in units {
            let unit = self.entry(name);
            match unit.file {
                UnitFile::Static => {}
                UnitFile::Masked => return Err(SystemError(format!("can't enable '{name}': it is masked"))),
                _ => unit.file = UnitFile::Enabled,
            }
        }
        Ok(())
    }

    fn disable(&mut self, units: &[UnitName]) -> Result<(), SystemError> {
        self.record(list("disable", units))?;
        for (_, unit) in self.units.iter_mut().filter(|(name, _)| units.contains(name)) {
            if unit.file == UnitFile::Enabled {
                unit.file = UnitFile::Disabled;
            }
        }
        Ok(())
    }

    fn daemon_reload(&mut self) -> Result<(), SystemError> {
        self.record("daemon-reload".into())
    }

    fn reset_failed(&mut self, units: &[UnitName]) -> Result<(), SystemError> {
        self.record(list("reset-failed", units))?;
        for (_, unit) in self.units.iter_mut().filter(|(name, _)| units.contains(name)) {
            let detail = &mut unit.detail;
            (detail.result, detail.restarts) = ("success".into(), 0);
            if detail.active == Active::Failed {
                (detail.active, detail.sub) = (Active::Inactive, "dead".into());
            }
        }
        Ok(())
    }

    fn run_jobs_while(
        &mut self,
        jobs: &[(UnitName, JobKind)],
        limit: Duration,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<JobResult>, SystemError> {
        let words = jobs.iter().map(|(name, kind)| format!("{} {name}", format!("{kind:?}").to_lowercase()));
        self.record(format!("jobs {}", words.collect::<Vec<_>>().join(", ")))?;
        go_on();
        let results: Vec<JobResult> = jobs.iter().map(|(name, kind)| self.job(name, *kind)).collect();
        if results.contains(&JobResult::TimedOut) {
            self.now += limit;
        }
        Ok(results)
    }

    /// Answers with what [`Fake::verdicts`] says, where `DIR` stands for the files' directory.
    fn verify(&mut self, files: &[&Path]) -> Result<Option<String>, SystemError> {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.record(format!("verify {}", files.iter().map(|path| name(path)).collect::<Vec<_>>().join(" ")))?;
        let directory = files.first().and_then(|path| path.parent()).unwrap_or(Path::new(""));
        Ok(Some(self.verdicts.replace("DIR", &directory.display().to_string())))
    }

    fn add_transient(&mut self, files: &[&str]) -> Result<Vec<UnitName>, SystemError> {
        self.record(format!("add-transient {}", files.len()))?;
        self.transient = files.iter().map(|file| (*file).to_owned()).collect();
        let names: Vec<UnitName> = (1..=files.len()).map(|n| unit(&format!("deptool-check-{n}.service"))).collect();
        for name in &names {
            self.entry(name).detail.service_type = "oneshot".into();
        }
        Ok(names)
    }

    fn remove_transient(&mut self, units: &[UnitName]) -> Result<(), SystemError> {
        self.units.retain(|name, _| !units.contains(name));
        self.record(list("remove-transient", units))
    }

    fn take_other_jobs(&mut self) -> Vec<UnitName> {
        self.calls.push("other-jobs".into());
        std::mem::take(&mut self.other_jobs)
    }

    /// Nothing ever changes before the time is up.
    fn wait_for_change(&mut self, limit: Duration) -> Result<(), SystemError> {
        self.record("wait-for-change".into())?;
        self.now += limit.min(WINDOW);
        Ok(())
    }

    fn create_users(&mut self, snippets: &[&Path]) -> Result<(), SystemError> {
        self.record(paths("create-users", snippets))
    }

    fn create_tmpfiles(&mut self, snippets: &[&Path]) -> Result<(), SystemError> {
        self.record(paths("create-tmpfiles", snippets))
    }

    fn journal_tail(&mut self, unit: &UnitName, _invocations: &[String], _lines: usize) -> String {
        self.calls.push(format!("journal {unit}"));
        self.journal.clone()
    }

    fn leave_session(&mut self, _: Leave) -> Result<(), SystemError> {
        self.record("leave-session".into())
    }
}
