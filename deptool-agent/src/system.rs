//! The interface to the machine's service manager and user database.
//!
//! [`System`] has three implementations: for the running systemd, for a local root, and a fake one for tests, which records
//! the calls and fails where a test wants it to. Files are not part of the interface; tests use real files.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use crate::shared::name::{Account, UnitName};

pub mod dbus;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod offline;
pub mod program;
pub mod settle;
pub mod systemd;
pub mod touched;
pub mod verdict;

/// The error of a call. The text says which call failed, and what the service manager answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SystemError(pub String);

/// The kind of service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// systemd is running on this machine.
    Running,
    /// A local root: units can be enabled, but not started.
    Offline,
    /// None: unit files can be written, and nothing else.
    Absent,
}

/// systemd's ActiveState.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Active {
    Active,
    Reloading,
    Inactive,
    Failed,
    Activating,
    Deactivating,
    Maintenance,
}

impl Active {
    /// Whether the unit runs or is starting.
    pub fn is_up(self) -> bool {
        matches!(self, Active::Active | Active::Reloading | Active::Activating)
    }
}

/// systemd's LoadState, without the states that do not matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    Loaded,
    NotFound,
    Masked,
    /// The unit file can't be used: bad-setting or error.
    Broken,
}

/// A loaded unit in [`System::snapshot`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    pub load: Load,
    pub active: Active,
    /// systemd's SubState: `running`, `exited`, `auto-restart`, `waiting` …
    pub sub: String,
    /// A job of the unit is queued or running.
    pub has_job: bool,
    /// The invocation id: 32 hex digits. Empty if it was not asked for, or if the unit is down.
    pub invocation: String,
}

/// systemd's UnitFileState, without the states that do not matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum UnitFile {
    Absent,
    Enabled,
    EnabledRuntime,
    Disabled,
    /// A symlink leads to the unit file somewhere else. The unit is not enabled.
    Linked,
    /// The `[Install]` section has only `Also=`, or the unit is a template: enabling it enables other units.
    Indirect,
    /// static, generated, transient, alias …: the unit can be started, but not enabled.
    Static,
    Masked,
}

impl UnitFile {
    /// Whether enabling the unit would change anything.
    pub fn can_be_enabled(self) -> bool {
        match self {
            UnitFile::Absent
            | UnitFile::Disabled
            | UnitFile::EnabledRuntime
            | UnitFile::Linked
            | UnitFile::Indirect => true,
            UnitFile::Enabled | UnitFile::Static | UnitFile::Masked => false,
        }
    }
}

/// The properties of a unit that settling needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitDetail {
    pub load: Load,
    pub active: Active,
    pub sub: String,
    /// `success`, `exit-code`, `signal`, `timeout`, `start-limit-hit`, `resources` …; empty for unit types without a result.
    pub result: String,
    /// `simple`, `exec`, `forking`, `oneshot`, `dbus`, `notify`, `notify-reload`, `idle`; empty if the unit is not a service.
    pub service_type: String,
    /// Restart= is not `no`.
    pub restarts_itself: bool,
    /// It counts as active after its process has ended (RemainAfterExit=).
    pub remains: bool,
    /// Its unit file has changed since systemd has read it.
    pub needs_reload: bool,
    pub restarts: u32,
    /// The invocation id: 32 hex digits, or empty if the unit was never started.
    pub invocation: String,
    /// Since when the unit is active (or reloading) without interruption, on the clock of [`System::clock`].
    pub active_since: Option<Duration>,
    /// When the ActiveState last changed, on the same clock; 0 if never.
    pub changed_at: Duration,
    /// A job of the unit is queued or running.
    pub has_job: bool,
    /// A condition of the unit was not met at its last start, so it is inactive and that is fine.
    pub condition_failed: bool,
    /// How its last process ended: "exited with status 203/EXEC after 0.0 s", "ExecStartPre: killed by signal 9".
    pub exit: Option<String>,
    /// The path of the unit file that systemd has loaded. Empty if there is none.
    pub file: String,
    /// The last run that failed since the last jobs. The unit may have been restarted since.
    pub last_failure: Option<FailedRun>,
    /// The units that this socket, path or timer starts.
    pub triggers: Vec<UnitName>,
    /// A socket, path or timer starts this unit.
    pub is_triggered: bool,
    /// The units that want, require or trigger this unit: starting them starts it, too.
    pub started_by: Vec<UnitName>,
    /// The units that this unit requires or is part of: stopping them stops it, too.
    pub stopped_by: Vec<UnitName>,
    /// The units with a Conflicts= in either direction.
    pub conflicts: Vec<UnitName>,
    /// The units that are part of this unit (PartOf=).
    pub members: Vec<UnitName>,
    /// The paths that a path unit watches.
    pub paths: Vec<String>,
    /// The jobs that are possible.
    pub may: May,
}

/// The jobs that are possible for a unit, and what they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct May {
    pub start: bool,
    /// False with RefuseManualStop=, and for units that systemd itself needs.
    pub stop: bool,
    pub reload: bool,
    /// systemd keeps open files of the service during a restart (FileDescriptorStoreMax=), but not after a stop.
    pub keep_files: bool,
    /// The socket starts an instance of its service for each connection (Accept=).
    pub accept: bool,
}

/// A run of a unit that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedRun {
    /// These are as in [`UnitDetail`].
    pub invocation: String,
    pub changed_at: Duration,
    pub result: String,
    pub exit: Option<String>,
}

impl UnitDetail {
    /// A unit that was never started.
    pub fn inactive() -> Self {
        UnitDetail {
            load: Load::Loaded,
            active: Active::Inactive,
            sub: "dead".into(),
            result: "success".into(),
            service_type: String::new(),
            restarts_itself: false,
            remains: false,
            needs_reload: false,
            restarts: 0,
            invocation: String::new(),
            active_since: None,
            changed_at: Duration::ZERO,
            has_job: false,
            condition_failed: false,
            exit: None,
            file: String::new(),
            last_failure: None,
            triggers: Vec::new(),
            is_triggered: false,
            started_by: Vec::new(),
            stopped_by: Vec::new(),
            conflicts: Vec::new(),
            members: Vec::new(),
            paths: Vec::new(),
            may: May { start: true, stop: true, reload: true, keep_files: false, accept: false },
        }
    }
}

/// Units in a few words: the first of them, and how many there are.
pub fn some_of(units: &[&UnitName]) -> String {
    match units {
        [] => String::new(),
        [one] => one.to_string(),
        [first, others @ ..] => format!("{first} and {} more", others.len()),
    }
}

/// Creates the [`System`] of this machine. A function, because its connection does not survive a fork.
pub type MakeSystem<'a> = dyn Fn() -> Box<dyn System> + 'a;

/// The kind of a systemd job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum JobKind {
    Start,
    Restart,
    Reload,
    Stop,
}

/// How far moving the agent out of its login session has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// systemd has agreed; moving takes some milliseconds more. If the session ends in between, the agent ignores the first
    /// signals, and SIGKILL only follows after seconds.
    Agreed,
    /// The agent was moved.
    Done,
}

/// The output of Podman's generator for some quadlets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Converted {
    pub units: BTreeSet<UnitName>,
    /// Its error messages. It exits with status 0 even if it could not convert some quadlets.
    pub output: String,
}

/// How a job ended: the result in systemd's JobRemoved signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobResult {
    Done,
    /// `failed`, `timeout`, `canceled`, `dependency`, `skipped`, `invalid`, `assert`, `unsupported`, `collected`, `once`,
    /// or systemd's error if it did not queue the job.
    Failed(String),
    /// The job was still queued or running at the time-out.
    TimedOut,
}

/// The service manager of one machine.
///
/// `tick` is called at least once a second while a call waits, with what is waited for: for heartbeats and progress.
pub trait System {
    fn manager(&self) -> Manager;

    /// The monotonic clock, which systemd uses for its timestamps.
    fn clock(&self) -> Duration;

    /// Whether systemd is shutting the machine down.
    fn is_stopping(&mut self) -> bool;

    /// Include the units of the manager of this user, who has this id. False if it can't be reached: then calls for its units
    /// fail. The user can stop it at any time.
    fn join(&mut self, user: &Account, uid: u32) -> bool;

    /// Every loaded unit of the system and of the users of [`System::join`].
    fn snapshot(&mut self) -> Result<BTreeMap<UnitName, UnitState>, SystemError>;

    /// Like [`System::snapshot`], with the invocation ids of the units that are up.
    fn snapshot_of_runs(&mut self) -> Result<BTreeMap<UnitName, UnitState>, SystemError>;

    /// The ids of the unit's processes.
    fn processes(&mut self, unit: &UnitName) -> Result<Vec<u32>, SystemError>;

    /// The properties of `unit`. If it does not exist, they have [`Load::NotFound`].
    fn detail(&mut self, unit: &UnitName) -> Result<UnitDetail, SystemError>;

    fn unit_file(&mut self, unit: &UnitName) -> Result<UnitFile, SystemError>;

    /// Enable units, without a daemon-reload and without starting them. Static and generated units are left as they are.
    fn enable(&mut self, units: &[UnitName]) -> Result<(), SystemError>;

    /// Disable units, without stopping them. Unknown units are not an error.
    fn disable(&mut self, units: &[UnitName]) -> Result<(), SystemError>;

    /// Have the system's manager (`None`) or a user's read its unit files again.
    fn daemon_reload(&mut self, user: Option<&Account>) -> Result<(), SystemError>;

    /// Reset failures, start limits and restart counters, so that no start limit is hit and settling counts restarts from 0.
    /// Unknown units are not an error.
    fn reset_failed(&mut self, units: &[UnitName]) -> Result<(), SystemError>;

    /// Queue all jobs (mode `replace`), then wait up to `limit` for all of them. Returns one result per job, in order.
    fn run_jobs(
        &mut self,
        jobs: &[(UnitName, JobKind)],
        limit: Duration,
        tick: &mut dyn FnMut(&str),
    ) -> Result<Vec<JobResult>, SystemError> {
        self.run_jobs_while(jobs, limit, &mut |awaited| {
            tick(awaited);
            true
        })
    }

    /// Whether [`System::run_jobs`] waits for jobs. If not, a job counts as done as soon as it is queued.
    fn waits_for_jobs(&self) -> bool {
        true
    }

    /// Like [`System::run_jobs`], but stop waiting when `go_on` returns false. `go_on` is called like `tick`.
    fn run_jobs_while(
        &mut self,
        jobs: &[(UnitName, JobKind)],
        limit: Duration,
        go_on: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Vec<JobResult>, SystemError>;

    /// The output of `systemd-analyze verify` for these unit files. `None` if it is not installed, or useless here.
    fn verify(&mut self, files: &[&Path]) -> Result<Option<String>, SystemError>;

    /// The output of Podman's generator for the quadlets of the system or of a user in `directory`. `None` if it is not
    /// installed.
    fn convert_quadlets(&mut self, user: Option<&Account>, directory: &Path) -> Result<Option<Converted>, SystemError>;

    /// Create temporary units with new names from these unit files. Returns the names. The units are not enabled, and need no
    /// daemon-reload: systemd reads them when they are started.
    fn add_transient(&mut self, files: &[&str]) -> Result<Vec<UnitName>, SystemError>;

    /// Stop the units of [`System::add_transient`] if they run, and remove them.
    fn remove_transient(&mut self, units: &[UnitName]) -> Result<(), SystemError>;

    /// The units that had other jobs than those of [`System::run_jobs`] since the last call of this: systemd stopped or
    /// restarted them together with other units (Requires=, PartOf= …), or a timer or an administrator did. Units of
    /// [`System::run_jobs`] can be among them.
    fn take_other_jobs(&mut self) -> Vec<UnitName>;

    /// Wait until a signal about any unit comes, but at most for `limit`.
    fn wait_for_change(&mut self, limit: Duration) -> Result<(), SystemError>;

    /// Create the users and groups of these sysusers.d(5) files, given as we open them. Returns complaints, in lines.
    fn create_users(&mut self, snippets: &[&Path]) -> Result<String, SystemError>;

    /// Create the files of these tmpfiles.d(5) files, given as we open them. Returns complaints, in lines.
    fn create_tmpfiles(&mut self, snippets: &[&Path]) -> Result<String, SystemError>;

    /// The last `lines` lines of the unit's journal, oldest first, unfiltered. Only lines of the given invocations, or of this
    /// boot if none are given. Empty if the journal can't be read. This takes about 30 ms, so do not call it in an outage.
    fn journal_tail(&mut self, unit: &UnitName, invocations: &[String], lines: usize) -> String;

    /// Write an entry to the host's journal, with the identifier `deptool`. Fields are names in capitals and their values.
    fn log(&mut self, _message: &str, _fields: &[(&str, &str)]) {}

    /// Connect to systemd, without waiting until it has accepted that.
    fn connect(&mut self) {}

    /// Ask systemd to move this process out of the login session, without waiting. See [`System::leave_session`].
    fn begin_leaving(&mut self) {}

    /// Move this process from the login session's control group into a transient scope of its own. This fails during a
    /// shutdown.
    fn leave_session(&mut self, how_far: Leave) -> Result<(), SystemError>;
}
