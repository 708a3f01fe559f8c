//! [`System`] for the systemd that runs this machine, over D-Bus.
//!
//! Calls and signals: org.freedesktop.systemd1(5).

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    Active, Converted, JobKind, JobResult, Leave, Manager, System, SystemError, UnitDetail, UnitFile, UnitState,
    dbus::{ANSWER, Call, Connection, DbusError, MANAGER, SYSTEMD, Value, manager_call},
    program,
};
use crate::shared::name::{Account, UnitName};
use crate::shared::ordered::Ordered as _;

mod ahead;
mod client;
mod jobs;
mod journal;
mod leave;
#[cfg(test)]
mod live;
#[cfg(test)]
mod live_settle;
mod run;
mod transient;
mod unit;

use client::{Client, PROPERTIES, failed, is_absent};
pub(super) use unit::{clock, unit_file};

/// The time-out for a daemon-reload. Generators alone may take 90 s.
const RELOAD: Duration = Duration::from_secs(180);
/// The time-out for systemd-sysusers and systemd-tmpfiles.
const PROGRAM: Duration = Duration::from_secs(120);
const JOURNAL: Duration = Duration::from_secs(5);
/// How many calls for invocation ids are sent at once.
const AT_ONCE: usize = 200;

/// The systemd of this machine.
#[derive(Debug, Default)]
pub struct Systemd {
    client: Client,
    /// The managers of the users of [`System::join`].
    users: Vec<(Account, Client)>,
    jobs: Jobs,
}

/// Whether to wait for jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Jobs {
    #[default]
    Awaited,
    /// A job counts as done as soon as it is queued.
    Queued,
}

impl Systemd {
    pub fn new() -> Self {
        Self::default()
    }

    /// For the unit that runs at boot. It must not wait for jobs, because jobs may wait for this unit.
    pub fn at_boot() -> Self {
        Systemd { jobs: Jobs::Queued, ..Self::default() }
    }

    /// The client for this user's manager, or for the system's.
    fn of(&mut self, user: Option<&Account>) -> Result<&mut Client, SystemError> {
        let Some(user) = user else { return Ok(&mut self.client) };
        let missing = || SystemError(format!("the service manager of user '{user}' can't be reached"));
        let known = self.users.iter_mut().find(|(known, _)| known == user);
        known.map(|(_, client)| client).ok_or_else(missing)
    }

    fn clients(&mut self) -> impl Iterator<Item = &mut Client> {
        std::iter::once(&mut self.client).chain(self.users.iter_mut().map(|(_, client)| client))
    }

    /// Send one call for each unit. It is not an error if a unit does not exist.
    fn for_each(
        &mut self,
        what: &str,
        member: &str,
        units: &[UnitName],
        arguments: &dyn Fn(&UnitName) -> Vec<Value>,
    ) -> Result<(), SystemError> {
        for (user, units) in by_manager(units) {
            let arguments: Vec<Vec<Value>> = units.iter().map(arguments).collect();
            let calls: Vec<Call<'_>> = arguments.iter().map(|arguments| manager_call(member, arguments)).collect();
            let replies = self.of(user.as_ref())?.calls(&calls, ANSWER).map_err(failed(&format!("{what} units")))?;
            for (unit, reply) in units.iter().zip(replies) {
                match reply {
                    Err(error) if !is_absent(&error) => return Err(failed(&format!("{what} '{unit}'"))(error)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Call `EnableUnitFiles` for several units of one manager. If one of them fails, none is enabled.
    fn enable_files(client: &mut Client, units: &[UnitName]) -> Result<(), DbusError> {
        // `runtime` would enable until the next boot; `force` would replace links of other units.
        let (runtime, force) = (Value::Bool(false), Value::Bool(false));
        client.ask("EnableUnitFiles", &[names(units), runtime, force]).map(drop)
    }
}

fn names(units: &[UnitName]) -> Value {
    Value::strings(units.iter().map(UnitName::name))
}

/// The units of each manager, in order.
fn by_manager(units: &[UnitName]) -> Vec<(Option<Account>, Vec<UnitName>)> {
    let mut all: Vec<(Option<Account>, Vec<UnitName>)> = Vec::new();
    for unit in units {
        let user = unit.user();
        match all.iter_mut().find(|(known, _)| *known == user) {
            Some((_, units)) => units.push(unit.clone()),
            None => all.push((user, vec![unit.clone()])),
        }
    }
    all
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
        let state = self.client.call(&call, ANSWER);
        state.is_ok_and(|values| values.first().and_then(Value::text) == Some("stopping"))
    }

    fn join(&mut self, user: &Account, uid: u32) -> bool {
        if self.of(Some(user)).is_ok() {
            return true;
        }
        let mut client = Client::of(user, uid);
        let is_open = client.connection().is_ok();
        if is_open {
            self.users.push((user.clone(), client));
        }
        is_open
    }

    fn snapshot(&mut self) -> Result<BTreeMap<UnitName, UnitState>, SystemError> {
        let reply = self.client.ask("ListUnits", &[]).map_err(failed("list units"))?;
        let mut units = unit::snapshot(&reply, None);
        for (user, client) in &mut self.users {
            // A manager that has ended has no units.
            if let Ok(reply) = client.ask("ListUnits", &[]) {
                units.extend(unit::snapshot(&reply, Some(user)));
            }
        }
        Ok(units)
    }

    fn snapshot_of_runs(&mut self) -> Result<BTreeMap<UnitName, UnitState>, SystemError> {
        let mut units = self.snapshot()?;
        let up: Vec<UnitName> =
            units.iter().filter(|(_, state)| state.active.is_up()).map(|(unit, _)| unit.clone()).collect();
        let arguments = [Value::str("org.freedesktop.systemd1.Unit"), Value::str("InvocationID")];
        let interface = PROPERTIES;
        let of_managers = by_manager(&up);
        let chunks =
            of_managers.iter().flat_map(|(user, up)| up.chunks(AT_ONCE).map(move |some| (user.as_ref(), some)));
        for (user, some) in chunks {
            let paths: Vec<String> = some.iter().map(|unit| unit::object_path(unit.name())).collect();
            let calls = paths.iter().map(|path| {
                let member = "Get";
                Call { destination: SYSTEMD, path, interface, member, arguments: &arguments }
            });
            let replies = self.of(user)?.calls(&calls.collect::<Vec<_>>(), ANSWER).map_err(failed("look at units"))?;
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
        let reply = self.of(unit.user().as_ref())?.ask("GetUnitProcesses", &[Value::str(unit.name())]);
        let reply = reply.map_err(failed(&format!("list the processes of '{unit}'")))?;
        // Control group, id, command line.
        let processes = reply.first().map(Value::items).unwrap_or_default();
        Ok(processes.iter().filter_map(|one| Some(one.items().get(1)?.unsigned()? as u32)).collect())
    }

    fn detail(&mut self, unit: &UnitName) -> Result<UnitDetail, SystemError> {
        self.of(unit.user().as_ref())?.detail(unit)
    }

    fn unit_file(&mut self, unit: &UnitName) -> Result<UnitFile, SystemError> {
        match self.of(unit.user().as_ref())?.ask("GetUnitFileState", &[Value::str(unit.name())]) {
            Ok(reply) => Ok(unit::unit_file(reply.first().and_then(Value::text).unwrap_or_default())),
            Err(error) if is_absent(&error) => Ok(UnitFile::Absent),
            Err(error) => Err(failed(&format!("tell whether '{unit}' is enabled"))(error)),
        }
    }

    fn enable(&mut self, units: &[UnitName]) -> Result<(), SystemError> {
        for (user, units) in by_manager(units) {
            if Self::enable_files(self.of(user.as_ref())?, &units).is_ok() {
                continue;
            }
            // Try each unit alone, to skip generated units and to name the unit that can't be enabled.
            for unit in &units {
                if let Err(error) = Self::enable_files(self.of(user.as_ref())?, std::slice::from_ref(unit))
                    && self.unit_file(unit)? != UnitFile::Static
                {
                    return Err(failed(&format!("enable '{unit}'"))(error));
                }
            }
        }
        Ok(())
    }

    fn disable(&mut self, units: &[UnitName]) -> Result<(), SystemError> {
        let arguments = |unit: &UnitName| vec![names(std::slice::from_ref(unit)), Value::Bool(false)];
        self.for_each("disable", "DisableUnitFiles", units, &arguments)
    }

    fn daemon_reload(&mut self, user: Option<&Account>) -> Result<(), SystemError> {
        let reply = self.of(user)?.call(&manager_call("Reload", &[]), RELOAD);
        reply.map(drop).map_err(failed("have systemd read the unit files"))
    }

    fn reset_failed(&mut self, units: &[UnitName]) -> Result<(), SystemError> {
        let known = units.iter().filter(|unit| self.of(unit.user().as_ref()).is_ok());
        let known: Vec<UnitName> = known.cloned().collect();
        let arguments = |unit: &UnitName| vec![Value::str(unit.name())];
        self.for_each("reset the failure of", "ResetFailedUnit", &known, &arguments)
    }

    fn waits_for_jobs(&self) -> bool {
        self.jobs == Jobs::Awaited
    }

    fn run_jobs_while(
        &mut self,
        jobs: &[(UnitName, JobKind)],
        limit: Duration,
        go_on: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Vec<JobResult>, SystemError> {
        self.clients().for_each(|client| client.memory.clear());
        let until = Instant::now() + limit;
        let mut results = vec![JobResult::TimedOut; jobs.len()];
        let units: Vec<UnitName> = jobs.iter().map(|(unit, _)| unit.clone()).collect();
        for (user, _) in by_manager(&units) {
            let at: Vec<usize> = (0..jobs.len()).filter(|at| jobs[*at].0.user() == user).collect();
            let of_user: Vec<_> = at.iter().map(|at| jobs[*at].clone()).collect();
            let (how, left) = (self.jobs, until.saturating_duration_since(Instant::now()));
            let ended = self.of(user.as_ref()).and_then(|client| match how {
                Jobs::Queued => client.queue_jobs(&of_user),
                Jobs::Awaited => client.run_jobs(&of_user, left, go_on),
            });
            let ended = match ended {
                // A user's manager can end at any time, which is a failure of the user's units.
                Err(error) if user.is_some() => vec![JobResult::Failed(error.0); at.len()],
                ended => ended?,
            };
            at.into_iter().zip(ended).for_each(|(at, result)| results[at] = result);
        }
        Ok(results)
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

    fn convert_quadlets(&mut self, user: Option<&Account>, directory: &Path) -> Result<Option<Converted>, SystemError> {
        const GENERATORS: [&str; 3] = [
            "/usr/local/lib/systemd/system-generators/podman-system-generator",
            "/usr/lib/systemd/system-generators/podman-system-generator",
            "/usr/libexec/podman/quadlet",
        ];
        let Some(generator) = GENERATORS.iter().find(|path| Path::new(path).exists()) else { return Ok(None) };
        let environment = [("QUADLET_UNIT_DIRS", directory.as_os_str())];
        let arguments = [OsStr::new("-dryrun"), OsStr::new("-user")];
        let arguments = if user.is_some() { &arguments[..] } else { &arguments[..1] };
        let ended = program::run_with(generator, arguments, &environment, PROGRAM)
            .map_err(|error| SystemError(format!("can't run '{generator}': {error}")))?;
        let text = String::from_utf8_lossy(&ended.stdout);
        // Each unit's text follows a line `---NAME---`.
        let name = |line: &str| line.strip_prefix("---")?.strip_suffix("---").map(str::to_owned);
        let units = text.lines().filter_map(name).filter_map(|name| unit::unit_of(user, &name)).into_set();
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
        self.clients().flat_map(|client| std::mem::take(&mut client.other_jobs)).collect()
    }

    fn wait_for_change(&mut self, limit: Duration) -> Result<(), SystemError> {
        if self.users.is_empty() {
            return self.client.wait_for_change(limit);
        }
        let mut quiet = Vec::new();
        let mut is_quiet = true;
        for client in self.clients() {
            // What is wrong with a connection shows when it is used.
            match client.quiet() {
                Ok(Some(connection)) => quiet.push(connection),
                Ok(None) => is_quiet = false,
                Err(_) => {}
            }
        }
        if is_quiet {
            Connection::wait_for_any(&quiet, limit).map_err(failed("watch units"))?;
        }
        self.clients().try_for_each(|client| client.wait_for_change(Duration::ZERO))
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
        let arguments =
            journal::query(unit, self.of(unit.user().as_ref()).ok().and_then(|client| client.uid()), invocations);
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        match program::run("journalctl", &arguments, JOURNAL) {
            Ok(ended) => journal::last_lines(&ended.stdout, invocations, lines),
            Err(_) => String::new(),
        }
    }

    fn log(&mut self, message: &str, fields: &[(&str, &str)]) {
        journal::write(message, fields);
    }

    fn connect(&mut self) {
        self.client.connect_ahead();
    }

    fn begin_leaving(&mut self) {
        self.client.begin_leaving();
    }

    fn leave_session(&mut self, how_far: Leave) -> Result<(), SystemError> {
        self.client.leave(how_far)
    }
}
