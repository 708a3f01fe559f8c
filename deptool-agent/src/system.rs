//! The machine's service manager and user database, as the agent needs them.
//!
//! [`System`] is the seam between deciding and doing: the real one speaks to systemd, the fake one records the order
//! of calls and fails at a chosen step. Files are not part of it; they are real in every test.

use std::{collections::BTreeMap, path::Path, time::Duration};

use crate::shared::name::UnitName;

pub mod dbus;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod offline;
mod program;
pub mod settle;
pub mod systemd;
pub mod verdict;

/// What a service manager call can fail with. The text says which call and what the manager answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SystemError(pub String);

/// Whether and how units can be handled here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// systemd is running on this machine.
    Running,
    /// A root directory: units can be enabled in it, not started.
    Offline,
    /// Neither: unit files can be put in place, and that is all.
    Absent,
}

/// systemd's ActiveState.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Whether it runs, or is about to.
    pub fn is_up(self) -> bool {
        matches!(self, Active::Active | Active::Reloading | Active::Activating)
    }
}

/// systemd's LoadState, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    Loaded,
    NotFound,
    Masked,
    /// bad-setting or error: the unit file can't be used.
    Broken,
}

/// One loaded unit in [`System::snapshot`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    pub load: Load,
    pub active: Active,
    /// systemd's SubState: `running`, `exited`, `auto-restart`, `waiting` …
    pub sub: String,
    /// A job of it is queued or running.
    pub has_job: bool,
}

/// systemd's UnitFileState, as far as undoing needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum UnitFile {
    Absent,
    Enabled,
    EnabledRuntime,
    Disabled,
    /// static, generated, transient, indirect, alias, linked …: can be started, not enabled.
    Static,
    Masked,
}

/// All that settling looks at, for one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitDetail {
    pub load: Load,
    pub active: Active,
    pub sub: String,
    /// `success`, `exit-code`, `signal`, `timeout`, `start-limit-hit`, `resources` …; empty for types without one.
    pub result: String,
    /// `simple`, `exec`, `forking`, `oneshot`, `dbus`, `notify`, `notify-reload`, `idle`; empty for what is no service.
    pub service_type: String,
    /// The unit has a Restart= other than `no`.
    pub restarts_itself: bool,
    pub restarts: u32,
    pub main_pid: u32,
    /// 32 hex digits, empty if the unit was never started.
    pub invocation: String,
    /// Since when it is active (or reloading) without interruption, on the clock of [`System::clock`].
    pub active_since: Option<Duration>,
    /// When it last went from one of [`Active`]'s states to another, on the same clock; 0 if never.
    pub changed_at: Duration,
    /// A job for it is queued or running.
    pub has_job: bool,
    /// A condition of the unit was not met at its last start: it is inactive and that is fine.
    pub condition_failed: bool,
    /// How its last process ended, in words: "exited with status 203/EXEC after 0.0 s", "ExecStartPre: killed by signal 9".
    pub exit: Option<String>,
    /// The last run that failed since the last jobs, which a restart may already have covered up.
    pub last_failure: Option<FailedRun>,
    /// For a socket, path or timer: the units that it starts.
    pub triggers: Vec<UnitName>,
    /// A socket, path or timer starts it.
    pub is_triggered: bool,
    /// Units that start it along with them: those that want, require or trigger it.
    pub started_by: Vec<UnitName>,
    /// Units that stop it along with them: those that it requires or is a part of.
    pub stopped_by: Vec<UnitName>,
}

/// A run of a unit that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedRun {
    /// As in [`UnitDetail`], each.
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
            restarts: 0,
            main_pid: 0,
            invocation: String::new(),
            active_since: None,
            changed_at: Duration::ZERO,
            has_job: false,
            condition_failed: false,
            exit: None,
            last_failure: None,
            triggers: Vec::new(),
            is_triggered: false,
            started_by: Vec::new(),
            stopped_by: Vec::new(),
        }
    }
}

/// Makes the machine's service manager. A function, because a connection to it does not survive a fork.
pub type MakeSystem<'a> = dyn Fn() -> Box<dyn System> + 'a;

/// What to ask systemd to do with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum JobKind {
    Start,
    Restart,
    Reload,
    Stop,
}

/// How far a process has got out of its login session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// It is about to be moved: the kernel takes some milliseconds. Who ends the session sends signals that are ignored
    /// here, and SIGKILL to those that are left after seconds.
    Agreed,
    /// It was moved.
    Done,
}

/// How a queued job ended: systemd's JobRemoved result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobResult {
    Done,
    /// `failed`, `timeout`, `canceled`, `dependency`, `skipped`, `invalid`, `assert`, `unsupported`, `collected`, `once`,
    /// or the error that systemd answered instead of queueing.
    Failed(String),
    /// Still queued or running when the time was up.
    TimedOut,
}

/// The service manager of one machine.
///
/// `tick` is called at least once a second while a call waits, so that the session can say it is alive.
pub trait System {
    fn manager(&self) -> Manager;

    /// The monotonic clock, which systemd's times are of too.
    fn clock(&self) -> Duration;

    /// Whether systemd is shutting the machine down.
    fn is_stopping(&mut self) -> bool;

    /// Every loaded unit, in one call.
    fn snapshot(&mut self) -> Result<BTreeMap<UnitName, UnitState>, SystemError>;

    /// What settling needs to know of `unit`. One that does not exist has [`Load::NotFound`].
    fn detail(&mut self, unit: &UnitName) -> Result<UnitDetail, SystemError>;

    fn unit_file(&mut self, unit: &UnitName) -> Result<UnitFile, SystemError>;

    /// `systemctl enable` without `--now` and without a daemon-reload. Static and generated units are left as they are.
    fn enable(&mut self, units: &[UnitName]) -> Result<(), SystemError>;

    /// `systemctl disable` without `--now`. Unknown units are not an error.
    fn disable(&mut self, units: &[UnitName]) -> Result<(), SystemError>;

    fn daemon_reload(&mut self) -> Result<(), SystemError>;

    /// Forget failures, start counters and the count of restarts, so that a start limit does not hit us and settling
    /// counts from 0. Unknown units are not an error.
    fn reset_failed(&mut self, units: &[UnitName]) -> Result<(), SystemError>;

    /// Queue all jobs (mode `replace`) before awaiting any, then wait for all, `limit` at most. One result per job, in order.
    fn run_jobs(
        &mut self,
        jobs: &[(UnitName, JobKind)],
        limit: Duration,
        tick: &mut dyn FnMut(),
    ) -> Result<Vec<JobResult>, SystemError> {
        self.run_jobs_while(jobs, limit, &mut || {
            tick();
            true
        })
    }

    /// The same, and the wait is over when `go_on`, called as `tick` is, says no.
    fn run_jobs_while(
        &mut self,
        jobs: &[(UnitName, JobKind)],
        limit: Duration,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<JobResult>, SystemError>;

    /// What `systemd-analyze verify` says of these unit files; `None` where it is not installed or of no use.
    fn verify(&mut self, files: &[&Path]) -> Result<Option<String>, SystemError>;

    /// Make units of these unit files, under names of their own, and return the names. They are not enabled, nothing
    /// depends on them, and no daemon-reload is needed: systemd reads them when it is asked to start them.
    fn add_transient(&mut self, files: &[&str]) -> Result<Vec<UnitName>, SystemError>;

    /// Stop what still runs of units made by [`System::add_transient`], and have systemd forget them.
    fn remove_transient(&mut self, units: &[UnitName]) -> Result<(), SystemError>;

    /// Units that had a job which [`System::run_jobs`] did not ask for, since this was last called: what systemd itself
    /// stopped or restarted along with ours (Requires=, PartOf= …), and what a timer or somebody else did. Units that
    /// were asked for can be among them.
    fn take_other_jobs(&mut self) -> Vec<UnitName>;

    /// Sleep until something about units changed, or `limit` has passed.
    fn wait_for_change(&mut self, limit: Duration) -> Result<(), SystemError>;

    /// Create the users and groups of these sysusers.d(5) files, given as we open them.
    fn create_users(&mut self, snippets: &[&Path]) -> Result<(), SystemError>;

    /// Create the files of these tmpfiles.d(5) files, given as we open them.
    fn create_tmpfiles(&mut self, snippets: &[&Path]) -> Result<(), SystemError>;

    /// The last `lines` lines of the unit's journal, newest last; raw, unfiltered text. Of the given invocations, or,
    /// without any, of this boot. Empty if there is none or it can't be read. Takes some 30 ms: not in an outage.
    fn journal_tail(&mut self, unit: &UnitName, invocations: &[String], lines: usize) -> String;

    /// Ask for what [`System::leave_session`] waits for: systemd does it while we do something else.
    fn begin_leaving(&mut self) {}

    /// Move this process into a transient scope of its own, out of the login session's control group. A system that is
    /// shutting down refuses.
    fn leave_session(&mut self, how_far: Leave) -> Result<(), SystemError>;
}
