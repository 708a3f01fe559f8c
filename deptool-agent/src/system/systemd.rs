//! [`System`] for the systemd that runs this machine, over D-Bus.
//!
//! Calls and signals: org.freedesktop.systemd1(5).

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    Active, Converted, JobKind, JobResult, Leave, Manager, System, SystemError, UnitDetail, UnitFile, UnitState,
    dbus::{Call, Connection, DbusError, Kind, MANAGER, Message, SYSTEMD, Value, manager_call, reply_to},
    program, some_of,
};
use crate::shared::name::UnitName;

mod journal;
mod leave;
#[cfg(test)]
mod live;
#[cfg(test)]
mod live_settle;
mod run;
mod transient;
mod unit;

use run::{JobSignal, Run};
pub(super) use unit::unit_file;
use unit::{Memory, Properties};

/// The time-out for calls that systemd answers at once. It may be in the middle of a reload, and does not answer then.
const ANSWER: Duration = Duration::from_secs(60);
/// The time-out for a daemon-reload. Generators alone may take 90 s.
const RELOAD: Duration = Duration::from_secs(180);
/// The time-out for systemd-sysusers and systemd-tmpfiles.
const PROGRAM: Duration = Duration::from_secs(120);
/// The time-out for systemd to come back after a re-execution.
const REEXECUTION: Duration = Duration::from_secs(10);
const JOURNAL: Duration = Duration::from_secs(5);
/// How often a wait is interrupted to call `tick`.
const TICK: Duration = Duration::from_millis(500);
/// How many calls for invocation ids are sent at once.
const AT_ONCE: usize = 200;
/// Signals come in bursts. After the first one, wait until none comes for `QUIET`, but not longer than `BURST`.
const QUIET: Duration = Duration::from_millis(2);
const BURST: Duration = Duration::from_millis(20);

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// The systemd of this machine. Connects at the first call, and again after systemd was re-executed.
#[derive(Debug, Default)]
pub struct Systemd {
    connection: Option<Connection>,
    /// There was a connection, and it was lost.
    is_lost: bool,
    jobs: Jobs,
    /// A signal came since the last [`System::wait_for_change`].
    changed: bool,
    /// Units of jobs that the agent did not ask for.
    other_jobs: BTreeSet<UnitName>,
    /// The contents of signals about units since the last jobs.
    memory: Memory,
    /// The job that moves the agent out of the login session, once systemd was asked.
    leaving: Option<Run>,
}

/// Whether to wait for jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Jobs {
    #[default]
    Awaited,
    /// A job counts as done as soon as it is queued.
    Queued,
}

/// Whether the error says that there is no such unit.
fn is_absent(error: &DbusError) -> bool {
    const NAMES: [&str; 4] = [
        "org.freedesktop.systemd1.NoSuchUnit",
        "org.freedesktop.systemd1.UnitNotFound",
        "org.freedesktop.DBus.Error.FileNotFound",
        "System.Error.ENOENT",
    ];
    matches!(error, DbusError::Reply { name, .. } if NAMES.contains(&name.as_str()))
}

/// Whether the connection was lost. This happens when systemd re-executes itself.
fn is_loss(error: &DbusError) -> bool {
    match error {
        DbusError::Closed | DbusError::Io(_) => true,
        DbusError::Reply { .. }
        | DbusError::TimedOut
        | DbusError::Connect { .. }
        | DbusError::Refused(_)
        | DbusError::Wire(_) => false,
    }
}

/// Whether the state of a unit without a job shows that its job, which was sent at `began`, is done.
fn was_done(kind: JobKind, now: &UnitDetail, began: Duration) -> bool {
    match kind {
        JobKind::Start => now.active != Active::Inactive || now.changed_at >= began,
        JobKind::Stop => !now.active.is_up(),
        JobKind::Restart => now.changed_at >= began,
        JobKind::Reload => true,
    }
}

/// Connect again. While systemd re-executes itself, its socket is gone for a moment.
fn reconnect() -> Result<Connection, DbusError> {
    let until = Instant::now() + REEXECUTION;
    loop {
        match Connection::open() {
            Err(DbusError::Connect { .. }) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            result => return result,
        }
    }
}

/// The time of CLOCK_MONOTONIC.
pub(super) fn clock() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn failed(what: &str) -> impl Fn(DbusError) -> SystemError + '_ {
    move |error| SystemError(format!("can't {what}: {error}"))
}

impl Systemd {
    pub fn new() -> Self {
        Self::default()
    }

    /// For the unit that runs at boot. It must not wait for jobs, because jobs may wait for this unit.
    pub fn at_boot() -> Self {
        Systemd { jobs: Jobs::Queued, ..Self::default() }
    }

    fn connection(&mut self) -> Result<&mut Connection, DbusError> {
        let open = match self.connection.take() {
            Some(connection) => connection,
            None if self.is_lost => reconnect()?,
            None => Connection::open()?,
        };
        Ok(self.connection.insert(open))
    }

    /// Do something with the connection. If the connection fails, it is dropped, and the next call connects again.
    fn with<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T, DbusError>) -> Result<T, DbusError> {
        let result = act(self);
        if !matches!(result, Ok(_) | Err(DbusError::Reply { .. })) {
            self.is_lost = self.connection.take().is_some();
            self.leaving = None;
        }
        result
    }

    /// Receive the next message, and note signals.
    fn receive(&mut self, until: Instant) -> Result<Option<(Message, Option<JobSignal>)>, DbusError> {
        let Some(message) = self.connection()?.receive(until)? else { return Ok(None) };
        let mut job = None;
        if let Kind::Signal(signal) = &message.kind {
            self.changed = true;
            match (signal.interface.as_str(), signal.member.as_str()) {
                (MANAGER, "JobNew" | "JobRemoved") => job = JobSignal::parse(&message.arguments()?),
                (PROPERTIES, "PropertiesChanged") => self.memory.changed(&signal.path, message.arguments()?),
                _ => {}
            }
        }
        if let Some(run) = &mut self.leaving {
            job.iter().for_each(|job| run.signal(job.clone()));
            take_reply(run, &message)?;
        }
        Ok(Some((message, job)))
    }

    /// Note a signal about a job that came during another call.
    fn note_other(&mut self, job: Option<JobSignal>) {
        self.other_jobs.extend(job.and_then(|job| UnitName::parse(job.unit.as_bytes()).ok()));
    }

    /// Send all calls, then wait for all replies. If the connection is lost meanwhile, try again: these calls are idempotent.
    fn calls(&mut self, calls: &[Call<'_>], limit: Duration) -> Result<Vec<Result<Vec<Value>, DbusError>>, DbusError> {
        match self.calls_once(calls, limit) {
            Err(error) if is_loss(&error) => self.calls_once(calls, limit),
            result => result,
        }
    }

    fn calls_once(
        &mut self,
        calls: &[Call<'_>],
        limit: Duration,
    ) -> Result<Vec<Result<Vec<Value>, DbusError>>, DbusError> {
        self.with(|this| {
            let until = Instant::now() + limit;
            let serials = this.connection()?.send_all(calls, until)?;
            let mut replies: Vec<_> = calls.iter().map(|_| None).collect();
            while replies.iter().any(Option::is_none) {
                let (message, job) = this.receive(until)?.ok_or(DbusError::TimedOut)?;
                this.note_other(job);
                for (serial, reply) in serials.iter().zip(&mut replies).filter(|(_, reply)| reply.is_none()) {
                    *reply = reply_to(&message, *serial);
                }
            }
            Ok(replies.into_iter().flatten().collect())
        })
    }

    fn call(&mut self, call: &Call<'_>, limit: Duration) -> Result<Vec<Value>, DbusError> {
        // One call yields one reply.
        self.calls(&[*call], limit)?.pop().unwrap_or(Err(DbusError::Closed))
    }

    fn ask(&mut self, member: &str, arguments: &[Value]) -> Result<Vec<Value>, DbusError> {
        self.call(&manager_call(member, arguments), ANSWER)
    }

    /// Send calls that systemd answers with a job each, and wait for the jobs.
    fn jobs(
        &mut self,
        jobs: &[(UnitName, JobKind)],
        limit: Duration,
        go_on: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Vec<JobResult>, DbusError> {
        let arguments = job_arguments(jobs);
        let calls = job_calls(jobs, &arguments);
        self.with(|this| {
            let until = Instant::now() + limit;
            let mut run = Run::default();
            this.connection()?.send_all(&calls, until)?.into_iter().for_each(|serial| run.asked(serial));
            let mut ticked = Instant::now();
            while !run.is_over() && Instant::now() < until {
                if let Some((message, job)) = this.receive(until.min(Instant::now() + TICK))? {
                    job.into_iter().for_each(|job| run.signal(job));
                    take_reply(&mut run, &message)?;
                }
                for at in run.unfinished() {
                    // systemd 257 reports the time-out of a service of Type=notify-reload, and goes on waiting for it.
                    if jobs[at].1 == JobKind::Reload && this.memory.reload_timed_out(&jobs[at].0) {
                        run.give_up(at, JobResult::Failed("timeout".into()));
                    }
                }
                if ticked.elapsed() >= TICK {
                    ticked = Instant::now();
                    let left: Vec<&UnitName> = run.unfinished().into_iter().map(|at| &jobs[at].0).collect();
                    if !go_on(&some_of(&left)) {
                        break;
                    }
                }
            }
            let (results, others) = run.end();
            this.other_jobs.extend(others);
            Ok(results)
        })
    }

    /// Wait for jobs after the connection was lost. systemd keeps its jobs when it is re-executed, but their signals are lost,
    /// so the units are polled. Jobs that systemd never received are sent again.
    fn jobs_after_loss(
        &mut self,
        jobs: &[(UnitName, JobKind)],
        (began, until): (Duration, Instant),
        go_on: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Vec<JobResult>, SystemError> {
        let mut results: Vec<Option<JobResult>> = jobs.iter().map(|_| None).collect();
        loop {
            let mut again = Vec::new();
            for (at, (unit, kind)) in jobs.iter().enumerate() {
                if results[at].is_some() {
                    continue;
                }
                let now = self.detail(unit)?;
                match (now.has_job, was_done(*kind, &now, began)) {
                    (true, _) => {}
                    (false, true) => results[at] = Some(JobResult::Done),
                    (false, false) => again.push(at),
                }
            }
            if !again.is_empty() {
                let missing: Vec<_> = again.iter().map(|at| jobs[*at].clone()).collect();
                let left = until.saturating_duration_since(Instant::now());
                let ended = self.jobs(&missing, left, go_on).map_err(failed("start or stop units"))?;
                again.into_iter().zip(ended).for_each(|(at, result)| results[at] = Some(result));
            }
            let is_over = results.iter().all(Option::is_some);
            if is_over || Instant::now() >= until || !go_on("") {
                return Ok(results.into_iter().map(|result| result.unwrap_or(JobResult::TimedOut)).collect());
            }
            self.wait_for_change(TICK)?;
        }
    }

    /// Send one call for each unit. It is not an error if a unit does not exist.
    fn for_each<const N: usize>(
        &mut self,
        what: &str,
        member: &str,
        units: &[UnitName],
        arguments: &[[Value; N]],
    ) -> Result<(), SystemError> {
        let calls: Vec<Call<'_>> = arguments.iter().map(|arguments| manager_call(member, arguments)).collect();
        let replies = self.calls(&calls, ANSWER).map_err(failed(&format!("{what} units")))?;
        for (unit, reply) in units.iter().zip(replies) {
            match reply {
                Err(error) if !is_absent(&error) => return Err(failed(&format!("{what} '{unit}'"))(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Call `EnableUnitFiles` for several units. If one of them fails, none is enabled.
    fn enable_files(&mut self, units: &[UnitName]) -> Result<(), DbusError> {
        // `runtime` would enable until the next boot; `force` would replace links of other units.
        let (runtime, force) = (Value::Bool(false), Value::Bool(false));
        self.ask("EnableUnitFiles", &[names(units), runtime, force]).map(drop)
    }
}

/// The call that queues a job.
fn member(kind: &JobKind) -> &'static str {
    match kind {
        JobKind::Start => "StartUnit",
        JobKind::Restart => "RestartUnit",
        JobKind::Reload => "ReloadUnit",
        JobKind::Stop => "StopUnit",
    }
}

/// The arguments of the calls that queue jobs: the unit, and what becomes of a job that it has already.
fn job_arguments(jobs: &[(UnitName, JobKind)]) -> Vec<[Value; 2]> {
    jobs.iter().map(|(unit, _)| [Value::str(unit.as_str()), Value::str("replace")]).collect()
}

fn job_calls<'a>(jobs: &[(UnitName, JobKind)], arguments: &'a [[Value; 2]]) -> Vec<Call<'a>> {
    jobs.iter().zip(arguments).map(|((_, kind), arguments)| manager_call(member(kind), arguments)).collect()
}

fn names(units: &[UnitName]) -> Value {
    Value::strings(units.iter().map(UnitName::as_str))
}

/// If `message` is the reply to a call of the run, note the path of the job or the error.
fn take_reply(run: &mut Run, message: &Message) -> Result<(), DbusError> {
    let answered = run.awaited().find_map(|serial| Some((serial, reply_to(message, serial)?)));
    let Some((serial, reply)) = answered else { return Ok(()) };
    let answer = match reply {
        Ok(values) => Ok(values.first().and_then(Value::text).unwrap_or_default().to_owned()),
        Err(DbusError::Reply { text, .. }) => Err(text),
        Err(error) => return Err(error),
    };
    run.replied(serial, answer);
    Ok(())
}

impl System for Systemd {
    fn manager(&self) -> Manager {
        // The test of sd_booted(3).
        if Path::new("/run/systemd/system").is_dir() { Manager::Running } else { Manager::Absent }
    }

    fn clock(&self) -> Duration {
        clock()
    }

    fn is_stopping(&mut self) -> bool {
        let arguments = [Value::str(MANAGER), Value::str("SystemState")];
        let call = Call { interface: PROPERTIES, ..manager_call("Get", &arguments) };
        let state = self.call(&call, ANSWER);
        state.is_ok_and(|values| values.first().and_then(Value::text) == Some("stopping"))
    }

    fn snapshot(&mut self) -> Result<BTreeMap<UnitName, UnitState>, SystemError> {
        let reply = self.ask("ListUnits", &[]).map_err(failed("list units"))?;
        Ok(unit::snapshot(&reply))
    }

    fn snapshot_of_runs(&mut self) -> Result<BTreeMap<UnitName, UnitState>, SystemError> {
        let mut units = self.snapshot()?;
        let up: Vec<UnitName> =
            units.iter().filter(|(_, state)| state.active.is_up()).map(|(unit, _)| unit.clone()).collect();
        let arguments = [Value::str("org.freedesktop.systemd1.Unit"), Value::str("InvocationID")];
        let interface = PROPERTIES;
        for some in up.chunks(AT_ONCE) {
            let paths: Vec<String> = some.iter().map(|unit| unit::object_path(unit.as_str())).collect();
            let calls = paths.iter().map(|path| {
                let member = "Get";
                Call { destination: SYSTEMD, path, interface, member, arguments: &arguments }
            });
            let replies = self.calls(&calls.collect::<Vec<_>>(), ANSWER).map_err(failed("look at units"))?;
            for (unit, reply) in some.iter().zip(replies) {
                // It is not an error if systemd has unloaded the unit meanwhile.
                let values = reply.unwrap_or_default();
                if let (Some(id), Some(state)) = (values.first().and_then(Value::bytes), units.get_mut(unit)) {
                    state.invocation = crate::shared::text::hex(id);
                }
            }
        }
        Ok(units)
    }

    fn processes(&mut self, unit: &UnitName) -> Result<Vec<u32>, SystemError> {
        let reply = self.ask("GetUnitProcesses", &[Value::str(unit.as_str())]);
        let reply = reply.map_err(failed(&format!("list the processes of '{unit}'")))?;
        // Control group, id, command line.
        let processes = reply.first().map(Value::items).unwrap_or_default();
        Ok(processes.iter().filter_map(|one| Some(one.items().get(1)?.unsigned()? as u32)).collect())
    }

    fn detail(&mut self, unit: &UnitName) -> Result<UnitDetail, SystemError> {
        // An empty interface name means all interfaces. Reading the properties of a unit loads the unit.
        let (path, arguments) = (unit::object_path(unit.as_str()), [Value::str("")]);
        let call =
            Call { destination: SYSTEMD, path: &path, interface: PROPERTIES, member: "GetAll", arguments: &arguments };
        let reply = self.call(&call, ANSWER).map_err(failed(&format!("look at '{unit}'")))?;
        Ok(Properties::new(&reply, &self.memory).detail())
    }

    fn unit_file(&mut self, unit: &UnitName) -> Result<UnitFile, SystemError> {
        match self.ask("GetUnitFileState", &[Value::str(unit.as_str())]) {
            Ok(reply) => Ok(unit::unit_file(reply.first().and_then(Value::text).unwrap_or_default())),
            Err(error) if is_absent(&error) => Ok(UnitFile::Absent),
            Err(error) => Err(failed(&format!("tell whether '{unit}' is enabled"))(error)),
        }
    }

    fn enable(&mut self, units: &[UnitName]) -> Result<(), SystemError> {
        if units.is_empty() || self.enable_files(units).is_ok() {
            return Ok(());
        }
        // Try each unit alone, to skip generated units and to name the unit that can't be enabled.
        for unit in units {
            if let Err(error) = self.enable_files(std::slice::from_ref(unit))
                && self.unit_file(unit)? != UnitFile::Static
            {
                return Err(failed(&format!("enable '{unit}'"))(error));
            }
        }
        Ok(())
    }

    fn disable(&mut self, units: &[UnitName]) -> Result<(), SystemError> {
        let arguments: Vec<[Value; 2]> =
            units.iter().map(|unit| [names(std::slice::from_ref(unit)), Value::Bool(false)]).collect();
        self.for_each("disable", "DisableUnitFiles", units, &arguments)
    }

    fn daemon_reload(&mut self) -> Result<(), SystemError> {
        let reply = self.call(&manager_call("Reload", &[]), RELOAD);
        reply.map(drop).map_err(failed("have systemd read the unit files"))
    }

    fn reset_failed(&mut self, units: &[UnitName]) -> Result<(), SystemError> {
        let arguments: Vec<[Value; 1]> = units.iter().map(|unit| [Value::str(unit.as_str())]).collect();
        self.for_each("reset the failure of", "ResetFailedUnit", units, &arguments)
    }

    fn run_jobs_while(
        &mut self,
        jobs: &[(UnitName, JobKind)],
        limit: Duration,
        go_on: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Vec<JobResult>, SystemError> {
        self.memory.clear();
        let what = "start or stop units";
        if self.jobs == Jobs::Queued {
            let arguments = job_arguments(jobs);
            let calls = job_calls(jobs, &arguments);
            let replies = self.calls(&calls, ANSWER).map_err(failed(what))?;
            let queued = |reply: Result<_, DbusError>| match reply {
                Ok(_) => JobResult::Done,
                Err(error) => JobResult::Failed(error.to_string()),
            };
            return Ok(replies.into_iter().map(queued).collect());
        }
        let (began, until) = (clock(), Instant::now() + limit);
        match self.jobs(jobs, limit, go_on) {
            Err(error) if is_loss(&error) => self.jobs_after_loss(jobs, (began, until), go_on),
            result => result.map_err(failed(what)),
        }
    }

    fn verify(&mut self, files: &[&Path]) -> Result<Option<String>, SystemError> {
        const VERIFY: &str = "systemd-analyze";
        if !program::exists(VERIFY) {
            return Ok(None);
        }
        let mut arguments = vec![OsStr::new("verify"), OsStr::new("--man=no"), OsStr::new("--")];
        arguments.extend(files.iter().map(|path| path.as_os_str()));
        let ended = program::run(VERIFY, &arguments, PROGRAM)
            .map_err(|error| SystemError(format!("can't run '{VERIFY}': {error}")))?;
        // Its exit status tells no more than what it says, and is 1 for what is no error, too.
        Ok(Some(String::from_utf8_lossy(&ended.stderr).into_owned()))
    }

    fn convert_quadlets(&mut self, directory: &Path) -> Result<Option<Converted>, SystemError> {
        const GENERATORS: [&str; 3] = [
            "/usr/local/lib/systemd/system-generators/podman-system-generator",
            "/usr/lib/systemd/system-generators/podman-system-generator",
            "/usr/libexec/podman/quadlet",
        ];
        let Some(generator) = GENERATORS.iter().find(|path| Path::new(path).exists()) else { return Ok(None) };
        let environment = [("QUADLET_UNIT_DIRS", directory.as_os_str())];
        let ended = program::run_with(generator, &[OsStr::new("-dryrun")], &environment, PROGRAM)
            .map_err(|error| SystemError(format!("can't run '{generator}': {error}")))?;
        let text = String::from_utf8_lossy(&ended.stdout);
        // Each unit's text follows a line `---NAME---`.
        let name = |line: &str| line.strip_prefix("---")?.strip_suffix("---").map(str::to_owned);
        let units = text.lines().filter_map(name).filter_map(|name| UnitName::parse(name.as_bytes()).ok()).collect();
        Ok(Some(Converted { units, output: String::from_utf8_lossy(&ended.stderr).into_owned() }))
    }

    fn add_transient(&mut self, files: &[&str]) -> Result<Vec<UnitName>, SystemError> {
        transient::add(files)
    }

    fn remove_transient(&mut self, units: &[UnitName]) -> Result<(), SystemError> {
        let loaded = self.snapshot()?;
        let left = units.iter().filter(|unit| loaded.get(*unit).is_some_and(|state| state.active != Active::Inactive));
        let stops: Vec<_> = left.map(|unit| (unit.clone(), JobKind::Stop)).collect();
        if !stops.is_empty() {
            self.run_jobs(&stops, PROGRAM, &mut |_| ())?;
        }
        units.iter().try_for_each(transient::remove)
    }

    fn take_other_jobs(&mut self) -> Vec<UnitName> {
        std::mem::take(&mut self.other_jobs).into_iter().collect()
    }

    fn wait_for_change(&mut self, limit: Duration) -> Result<(), SystemError> {
        let wait = |this: &mut Self| {
            let until = Instant::now() + limit;
            while !this.changed {
                let Some((_, job)) = this.receive(until)? else { return Ok(()) };
                this.note_other(job);
            }
            let end = until.min(Instant::now() + BURST);
            while let Some((_, job)) = this.receive(end.min(Instant::now() + QUIET))? {
                this.note_other(job);
                if Instant::now() >= end {
                    break;
                }
            }
            this.changed = false;
            Ok(())
        };
        self.with(wait).map_err(failed("watch units"))
    }

    fn create_users(&mut self, snippets: &[&Path]) -> Result<String, SystemError> {
        let arguments: Vec<&OsStr> = snippets.iter().map(|path| path.as_os_str()).collect();
        program::succeed("systemd-sysusers", &arguments, PROGRAM).map(|ended| program::complaints(&ended))
    }

    fn create_tmpfiles(&mut self, snippets: &[&Path]) -> Result<String, SystemError> {
        let mut arguments = vec![OsStr::new("--create")];
        arguments.extend(snippets.iter().map(|path| path.as_os_str()));
        program::succeed("systemd-tmpfiles", &arguments, PROGRAM).map(|ended| program::complaints(&ended))
    }

    fn journal_tail(&mut self, unit: &UnitName, invocations: &[String], lines: usize) -> String {
        // journald may not have stored the last words yet. If it can't be asked, what it has is better than nothing.
        let _ = program::run("journalctl", &[OsStr::new("--sync")], JOURNAL);
        let arguments = journal::query(unit, invocations);
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        match program::run("journalctl", &arguments, JOURNAL) {
            Ok(ended) => journal::last_lines(&ended.stdout, invocations, lines),
            Err(_) => String::new(),
        }
    }

    fn log(&mut self, message: &str, fields: &[(&str, &str)]) {
        journal::write(message, fields);
    }

    fn begin_leaving(&mut self) {
        // What goes wrong here goes wrong again when it is waited for.
        let _ = self.with(Systemd::ask_to_leave);
    }

    fn leave_session(&mut self, how_far: Leave) -> Result<(), SystemError> {
        self.leave(how_far)
    }
}
