//! A service manager in memory, for tests. It records all calls, and fails where a test wants it to.
//!
//! Its clock only advances in [`System::wait_for_change`], so that no test sleeps. It does not look at files: a unit exists
//! as soon as a call names it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    Active, Converted, JobKind, JobResult, Leave, Load, Manager, System, SystemError, UnitDetail, UnitFile, UnitState,
    verdict::WINDOW,
};
use crate::shared::name::{Account, UnitName};

/// What a unit does when it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// Starts and stays.
    Works,
    /// Its job fails.
    FailsAtStart,
    /// Starts, and is dead after this many looks.
    DiesAfterLooks(usize),
    /// Starts, and is restarted between any two looks.
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
    /// Answered by [`System::processes`].
    pub processes: Vec<u32>,
    /// The number of looks since its last start.
    looks: usize,
}

/// The service manager in memory.
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
    pub has_podman: bool,
    /// Jobs count as done as soon as they are queued.
    pub only_queues: bool,
    /// Where the links are made that enabling makes. Without it, enabling is only remembered.
    pub root: Option<PathBuf>,
    /// The number of the call that fails, from 1.
    pub fails_at: Option<usize>,
    /// If set, calls that can take long wait until there is more to read here. Those that wait in vain are in `silent`.
    pub listener: Option<File>,
    pub silent: Vec<String>,
    now: Duration,
    started: u32,
}

/// The calls that can take longer than a helper waits for a silent host.
const SLOW: [&str; 7] =
    ["verify", "convert-quadlets", "create-users", "create-tmpfiles", "enable", "disable", "daemon-reload"];

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
            has_podman: true,
            only_queues: false,
            root: None,
            fails_at: None,
            listener: None,
            silent: Vec::new(),
            now: Duration::from_secs(1000),
            started: 0,
        }
    }
}

/// Parse a unit name that must be valid.
pub fn unit(name: &str) -> UnitName {
    UnitName::parse(name.as_bytes()).expect("a valid unit name")
}

impl Fake {
    /// A manager whose `n`th call fails. If `calls` is shorter afterwards, there was no such call.
    pub fn failing_at(n: usize) -> Self {
        Fake { fails_at: Some(n), ..Fake::default() }
    }

    /// Set the behaviour of a Type=simple unit from its next start on. A new unit is loaded, inactive and disabled.
    pub fn behave(&mut self, name: &str, behaviour: Behaviour) -> &mut FakeUnit {
        let unit = self.entry(&unit(name));
        unit.behaviour = behaviour;
        unit
    }

    /// Add a unit that is up and enabled.
    pub fn running(&mut self, name: &str) -> &mut FakeUnit {
        let name = unit(name);
        self.start(&name);
        self.set_enabled(&name, true);
        self.entry(&name)
    }

    /// Whether the unit is enabled: as the links say, if there is a root.
    pub fn is_enabled(&self, name: &UnitName) -> bool {
        match self.link(name) {
            Some(link) => link.is_symlink(),
            None => self.units.get(name).is_some_and(|unit| unit.file == UnitFile::Enabled),
        }
    }

    fn link(&self, name: &UnitName) -> Option<PathBuf> {
        // A user's links are in the user's home.
        let root = self.root.as_ref().filter(|_| name.user().is_none())?;
        Some(root.join("etc/systemd/system/multi-user.target.wants").join(name.as_str()))
    }

    fn set_enabled(&mut self, name: &UnitName, enabled: bool) {
        let Some(link) = self.link(name) else {
            self.entry(name).file = if enabled { UnitFile::Enabled } else { UnitFile::Disabled };
            return;
        };
        let directory = link.parent().expect("it is below the root").to_owned();
        if enabled && !link.is_symlink() {
            fs::create_dir_all(&directory).expect("the root can be written");
            let target = format!("/etc/systemd/system/{name}");
            std::os::unix::fs::symlink(target, &link).expect("the root can be written");
        } else if !enabled && link.is_symlink() {
            fs::remove_file(&link).expect("the root can be written");
            // As systemd does with directories that it has emptied.
            let _ = fs::remove_dir(directory);
        }
    }

    /// The calls that change anything.
    pub fn changes(&self) -> Vec<&str> {
        const READS: [&str; 10] = [
            "convert-quadlets",
            "verify",
            "is-stopping",
            "snapshot",
            "detail",
            "unit-file",
            "wait-for-change",
            "other-jobs",
            "journal",
            "processes",
        ];
        let is_read = |call: &str| READS.iter().any(|read| call.split(' ').next() == Some(read));
        self.calls.iter().map(String::as_str).filter(|call| !is_read(call)).collect()
    }

    fn entry(&mut self, name: &UnitName) -> &mut FakeUnit {
        self.units.entry(name.clone()).or_insert_with(|| FakeUnit {
            behaviour: Behaviour::Works,
            file: UnitFile::Disabled,
            detail: UnitDetail { service_type: "simple".into(), ..UnitDetail::inactive() },
            processes: Vec::new(),
            looks: 0,
        })
    }

    fn record(&mut self, call: String) -> Result<(), SystemError> {
        self.take_long(&call);
        self.calls.push(call);
        match self.fails_at == Some(self.calls.len()) {
            true => Err(SystemError(format!("call {} fails as told", self.calls.len()))),
            false => Ok(()),
        }
    }

    fn take_long(&mut self, call: &str) {
        let Some(listener) = self.listener.as_ref().filter(|_| SLOW.iter().any(|slow| call.starts_with(slow))) else {
            return;
        };
        let unread = || rustix::io::ioctl_fionread(listener).expect("it is a pipe");
        let (before, begun) = (unread(), Instant::now());
        while unread() == before {
            if begun.elapsed() > Duration::from_secs(10) {
                return self.silent.push(call.to_owned());
            }
            std::thread::sleep(Duration::from_millis(1));
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
            conflicts: unit.detail.conflicts.clone(),
            members: unit.detail.members.clone(),
            paths: unit.detail.paths.clone(),
            may: unit.detail.may,
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

    /// What systemd does along with a job: it stops or restarts what requires the unit, and stops what conflicts with it.
    fn propagate(&mut self, name: &UnitName, kind: JobKind) {
        let is_up = |unit: &FakeUnit| unit.detail.active.is_up();
        let others: Vec<UnitName> = match kind {
            JobKind::Reload => Vec::new(),
            JobKind::Stop | JobKind::Restart => {
                let along = self.units.iter().filter(|(_, unit)| is_up(unit) && unit.detail.stopped_by.contains(name));
                along.map(|(other, _)| other.clone()).collect()
            }
            JobKind::Start => Vec::new(),
        };
        let conflicts: Vec<UnitName> = match (kind, self.units.get(name)) {
            (JobKind::Start | JobKind::Restart, Some(unit)) => unit
                .detail
                .conflicts
                .iter()
                .filter(|other| self.units.get(*other).is_some_and(is_up))
                .cloned()
                .collect(),
            _ => Vec::new(),
        };
        for (other, kind) in others
            .into_iter()
            .map(|other| (other, kind))
            .chain(conflicts.into_iter().map(|other| (other, JobKind::Stop)))
        {
            self.job(&other, kind);
            self.other_jobs.push(other);
        }
    }

    fn job(&mut self, name: &UnitName, kind: JobKind) -> JobResult {
        let now = self.now;
        self.propagate(name, kind);
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

    fn join(&mut self, _: &Account, _: u32) -> bool {
        true
    }

    fn snapshot(&mut self) -> Result<BTreeMap<UnitName, UnitState>, SystemError> {
        self.record("snapshot".into())?;
        let state = |unit: &FakeUnit| UnitState {
            load: unit.detail.load,
            active: unit.detail.active,
            sub: unit.detail.sub.clone(),
            has_job: unit.detail.has_job,
            invocation: unit.detail.invocation.clone(),
        };
        Ok(self.units.iter().map(|(name, unit)| (name.clone(), state(unit))).collect())
    }

    fn snapshot_of_runs(&mut self) -> Result<BTreeMap<UnitName, UnitState>, SystemError> {
        self.snapshot()
    }

    fn processes(&mut self, unit: &UnitName) -> Result<Vec<u32>, SystemError> {
        self.record(format!("processes {unit}"))?;
        Ok(self.units.get(unit).map_or(Vec::new(), |unit| unit.processes.clone()))
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
        let known = self.units.get(name).map_or(UnitFile::Absent, |unit| unit.file);
        Ok(if self.is_enabled(name) { UnitFile::Enabled } else { known })
    }

    fn enable(&mut self, units: &[UnitName]) -> Result<(), SystemError> {
        self.record(list("enable", units))?;
        for name in units {
            match self.entry(name).file {
                UnitFile::Static => {}
                UnitFile::Masked => return Err(SystemError(format!("can't enable '{name}': it is masked"))),
                _ => self.set_enabled(name, true),
            }
        }
        Ok(())
    }

    fn disable(&mut self, units: &[UnitName]) -> Result<(), SystemError> {
        self.record(list("disable", units))?;
        for unit in units {
            if self.is_enabled(unit) {
                self.set_enabled(unit, false);
            }
        }
        Ok(())
    }

    fn daemon_reload(&mut self, user: Option<&Account>) -> Result<(), SystemError> {
        self.record(user.map_or("daemon-reload".into(), |user| format!("daemon-reload {user}")))
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

    fn waits_for_jobs(&self) -> bool {
        !self.only_queues
    }

    fn run_jobs_while(
        &mut self,
        jobs: &[(UnitName, JobKind)],
        limit: Duration,
        go_on: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Vec<JobResult>, SystemError> {
        let words = jobs.iter().map(|(name, kind)| format!("{} {name}", format!("{kind:?}").to_lowercase()));
        self.record(format!("jobs {}", words.collect::<Vec<_>>().join(", ")))?;
        go_on("");
        let results: Vec<JobResult> = jobs.iter().map(|(name, kind)| self.job(name, *kind)).collect();
        if self.only_queues {
            return Ok(vec![JobResult::Done; jobs.len()]);
        }
        if results.contains(&JobResult::TimedOut) {
            self.now += limit;
        }
        Ok(results)
    }

    /// Answers with [`Fake::verdicts`], in which `DIR` stands for the directory of the files.
    fn verify(&mut self, files: &[&Path]) -> Result<Option<String>, SystemError> {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.record(format!("verify {}", files.iter().map(|path| name(path)).collect::<Vec<_>>().join(" ")))?;
        let directory = files.first().and_then(|path| path.parent()).unwrap_or(Path::new(""));
        Ok(Some(self.verdicts.replace("DIR", &directory.display().to_string())))
    }

    /// Every file becomes a unit but those whose content is `broken`.
    fn convert_quadlets(&mut self, _: Option<&Account>, directory: &Path) -> Result<Option<Converted>, SystemError> {
        self.record("convert-quadlets".into())?;
        if !self.has_podman {
            return Ok(None);
        }
        let mut converted = Converted::default();
        for entry in fs::read_dir(directory).expect("it was made").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            match fs::read(entry.path()).is_ok_and(|text| text == b"broken") {
                true => converted.output.push_str(&format!("converting \"{name}\": it is broken\n")),
                false => {
                    converted.units.extend(name.strip_suffix(".container").map(|stem| unit(&format!("{stem}.service"))))
                }
            }
        }
        Ok(Some(converted))
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

    /// There are never any signals, so this always waits for all of `limit`.
    fn wait_for_change(&mut self, limit: Duration) -> Result<(), SystemError> {
        self.record("wait-for-change".into())?;
        self.now += limit.min(WINDOW);
        Ok(())
    }

    fn create_users(&mut self, snippets: &[&Path]) -> Result<String, SystemError> {
        self.record(paths("create-users", snippets)).map(|()| String::new())
    }

    fn create_tmpfiles(&mut self, snippets: &[&Path]) -> Result<String, SystemError> {
        self.record(paths("create-tmpfiles", snippets)).map(|()| String::new())
    }

    fn journal_tail(&mut self, unit: &UnitName, _invocations: &[String], _lines: usize) -> String {
        self.calls.push(format!("journal {unit}"));
        self.journal.clone()
    }

    fn leave_session(&mut self, _: Leave) -> Result<(), SystemError> {
        self.record("leave-session".into())
    }
}
