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
    Active, JobKind, JobResult, Leave, Manager, System, SystemError, UnitDetail, UnitFile, UnitState,
    dbus::{Call, Connection, DbusError, Kind, MANAGER, Message, SYSTEMD, Value, manager_call, reply_to},
    program,
};
use crate::shared::name::UnitName;

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

/// For a call that systemd answers at once. It may be in the middle of a reload, which answers nobody.
const ANSWER: Duration = Duration::from_secs(60);
/// For a daemon-reload: generators alone may take 90 s.
const RELOAD: Duration = Duration::from_secs(180);
/// For systemd-sysusers and systemd-tmpfiles.
const PROGRAM: Duration = Duration::from_secs(120);
/// For systemd to come back after it was re-executed.
const REEXECUTION: Duration = Duration::from_secs(10);
const JOURNAL: Duration = Duration::from_secs(5);
/// A wait is interrupted this often to call `tick`.
const TICK: Duration = Duration::from_millis(500);
/// Changes come in bursts: after the first, wait until nothing comes for this long, but not longer than `BURST`.
const QUIET: Duration = Duration::from_millis(2);
const BURST: Duration = Duration::from_millis(20);

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// The systemd of this machine. Connects when it is first asked, and again after systemd was re-executed.
#[derive(Debug, Default)]
pub struct Systemd {
    connection: Option<Connection>,
    /// There was a connection, and it broke.
    is_lost: bool,
    jobs: Jobs,
    /// A signal came since the last [`System::wait_for_change`].
    changed: bool,
    /// Units of jobs that we did not ask for.
    other_jobs: BTreeSet<UnitName>,
    /// What signals said of units since the last jobs.
    memory: Memory,
    /// The job that moves us out of the login session, once it was asked for.
    leaving: Option<Run>,
}

/// What is done about jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Jobs {
    #[default]
    Awaited,
    /// Good as soon as they are queued.
    Queued,
}

/// An error reply's name, for the few that are told apart.
fn is_absent(error: &DbusError) -> bool {
    const NAMES: [&str; 4] = [
        "org.freedesktop.systemd1.NoSuchUnit",
        "org.freedesktop.systemd1.UnitNotFound",
        "org.freedesktop.DBus.Error.FileNotFound",
        "System.Error.ENOENT",
    ];
    matches!(error, DbusError::Reply { name, .. } if NAMES.contains(&name.as_str()))
}

/// While systemd re-executes itself, its socket is gone for a moment.
fn reconnect() -> Result<Connection, DbusError> {
    let until = Instant::now() + REEXECUTION;
    loop {
        match Connection::open() {
            Err(DbusError::Connect { .. }) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            result => return result,
        }
    }
}

/// CLOCK_MONOTONIC.
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

    /// For a unit that the boot waits for: a job that it waited for could wait for it.
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

    /// Do something with the connection. One that broke is dropped; the next call connects anew.
    fn with<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T, DbusError>) -> Result<T, DbusError> {
        let result = act(self);
        if !matches!(result, Ok(_) | Err(DbusError::Reply { .. })) {
            self.is_lost = self.connection.take().is_some();
            self.leaving = None;
        }
        result
    }

    /// The next message. Signals are noted on the way.
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

    /// Note a job that came or went while we waited for something else.
    fn note_other(&mut self, job: Option<JobSignal>) {
        self.other_jobs.extend(job.and_then(|job| UnitName::parse(job.unit.as_bytes()).ok()));
    }

    /// Send all calls, then wait for all replies.
    fn calls(&mut self, calls: &[Call<'_>], limit: Duration) -> Result<Vec<Result<Vec<Value>, DbusError>>, DbusError> {
        self.with(|this| {
            let until = Instant::now() + limit;
            let mut serials = Vec::with_capacity(calls.len());
            for call in calls {
                serials.push(this.connection()?.send(call, until)?);
            }
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

    /// Make calls that are each answered with a job, and wait for the jobs.
    fn jobs(
        &mut self,
        calls: &[Call<'_>],
        limit: Duration,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<JobResult>, DbusError> {
        self.with(|this| {
            let until = Instant::now() + limit;
            let mut run = Run::default();
            // systemd reads all that is there before it starts a job, so these are queued together.
            for call in calls {
                run.asked(this.connection()?.send(call, until)?);
            }
            let mut ticked = Instant::now();
            while !run.is_over() && Instant::now() < until {
                if let Some((message, job)) = this.receive(until.min(Instant::now() + TICK))? {
                    job.into_iter().for_each(|job| run.signal(job));
                    take_reply(&mut run, &message)?;
                }
                if ticked.elapsed() >= TICK {
                    ticked = Instant::now();
                    if !go_on() {
                        break;
                    }
                }
            }
            let (results, others) = run.end();
            this.other_jobs.extend(others);
            Ok(results)
        })
    }

    /// One call for each unit. That a unit does not exist is no error.
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

    /// `EnableUnitFiles` for units that belong together, as one fails if the other does.
    fn enable_files(&mut self, units: &[UnitName]) -> Result<(), DbusError> {
        // Not for this boot only; a link of another unit is not replaced.
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

fn names(units: &[UnitName]) -> Value {
    Value::strings(units.iter().map(UnitName::as_str))
}

/// If `message` answers one of the run's calls, note the job's path or why there is none.
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
        // What sd_booted(3) looks at.
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

    fn detail(&mut self, unit: &UnitName) -> Result<UnitDetail, SystemError> {
        // An empty interface means the properties of all. Looking at the object of a unit loads the unit.
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
        // One by one, to leave out a generated unit and to name the one that can't be enabled.
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
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<JobResult>, SystemError> {
        self.memory.clear();
        let name_and_mode = |(unit, _): &(UnitName, JobKind)| [Value::str(unit.as_str()), Value::str("replace")];
        let arguments: Vec<[Value; 2]> = jobs.iter().map(name_and_mode).collect();
        let pairs = jobs.iter().zip(&arguments);
        let calls: Vec<Call<'_>> = pairs.map(|((_, kind), arguments)| manager_call(member(kind), arguments)).collect();
        let what = "start or stop units";
        if self.jobs == Jobs::Queued {
            let replies = self.calls(&calls, ANSWER).map_err(failed(what))?;
            let queued = |reply: Result<_, DbusError>| match reply {
                Ok(_) => JobResult::Done,
                Err(error) => JobResult::Failed(error.to_string()),
            };
            return Ok(replies.into_iter().map(queued).collect());
        }
        self.jobs(&calls, limit, go_on).map_err(failed(what))
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

    fn add_transient(&mut self, files: &[&str]) -> Result<Vec<UnitName>, SystemError> {
        transient::add(files)
    }

    fn remove_transient(&mut self, units: &[UnitName]) -> Result<(), SystemError> {
        let loaded = self.snapshot()?;
        let left = units.iter().filter(|unit| loaded.get(*unit).is_some_and(|state| state.active != Active::Inactive));
        let stops: Vec<_> = left.map(|unit| (unit.clone(), JobKind::Stop)).collect();
        if !stops.is_empty() {
            self.run_jobs(&stops, PROGRAM, &mut || ())?;
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

    fn create_users(&mut self, snippets: &[&Path]) -> Result<(), SystemError> {
        let arguments: Vec<&OsStr> = snippets.iter().map(|path| path.as_os_str()).collect();
        program::succeed("systemd-sysusers", &arguments, PROGRAM).map(drop)
    }

    fn create_tmpfiles(&mut self, snippets: &[&Path]) -> Result<(), SystemError> {
        let mut arguments = vec![OsStr::new("--create")];
        arguments.extend(snippets.iter().map(|path| path.as_os_str()));
        program::succeed("systemd-tmpfiles", &arguments, PROGRAM).map(drop)
    }

    fn journal_tail(&mut self, unit: &UnitName, invocations: &[String], lines: usize) -> String {
        // journald may not have stored the last words yet. If it can't be asked, what it has is better than nothing.
        let _ = program::run("journalctl", &[OsStr::new("--sync")], JOURNAL);
        let mut arguments: Vec<String> = ["--quiet", "--no-pager", "--output=cat", "--boot"].map(String::from).into();
        arguments.push(format!("--lines={lines}"));
        // What the unit said itself, or what systemd said of it.
        let of_invocation = |id: &String| format!("_SYSTEMD_INVOCATION_ID={id} + INVOCATION_ID={id}");
        let matches: Vec<String> = invocations.iter().map(of_invocation).collect();
        match matches.as_slice() {
            [] => arguments.push(format!("--unit={unit}")),
            some => arguments.extend(some.join(" + ").split(' ').map(String::from)),
        }
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        match program::run("journalctl", &arguments, JOURNAL) {
            Ok(ended) => String::from_utf8_lossy(&ended.stdout).into_owned(),
            Err(_) => String::new(),
        }
    }

    fn begin_leaving(&mut self) {
        // What goes wrong here goes wrong again when it is waited for.
        let _ = self.with(Systemd::ask_to_leave);
    }

    fn leave_session(&mut self, how_far: Leave) -> Result<(), SystemError> {
        self.leave(how_far)
    }
}
