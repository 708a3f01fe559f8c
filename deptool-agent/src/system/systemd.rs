//! [`System`] for the systemd that runs this machine, over D-Bus.
//!
//! Calls and signals: org.freedesktop.systemd1(5).

use std::{collections::BTreeMap, ffi::OsStr, path::Path, time::Duration};

use super::{
    Active, Converted, JobKind, JobResult, Leave, Manager, System, SystemError, UnitDetail, UnitFile, UnitState,
    dbus::{Call, DbusError, MANAGER, SYSTEMD, Value, manager_call},
    program,
};
use crate::shared::name::UnitName;
use crate::shared::ordered::Ordered as _;

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

use client::{ANSWER, Client, PROPERTIES, failed, is_absent};
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

    /// Send one call for each unit. It is not an error if a unit does not exist.
    fn for_each<const N: usize>(
        &mut self,
        what: &str,
        member: &str,
        units: &[UnitName],
        arguments: &[[Value; N]],
    ) -> Result<(), SystemError> {
        let calls: Vec<Call<'_>> = arguments.iter().map(|arguments| manager_call(member, arguments)).collect();
        let replies = self.client.calls(&calls, ANSWER).map_err(failed(&format!("{what} units")))?;
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
        self.client.ask("EnableUnitFiles", &[names(units), runtime, force]).map(drop)
    }
}

fn names(units: &[UnitName]) -> Value {
    Value::strings(units.iter().map(UnitName::as_str))
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

    fn snapshot(&mut self) -> Result<BTreeMap<UnitName, UnitState>, SystemError> {
        let reply = self.client.ask("ListUnits", &[]).map_err(failed("list units"))?;
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
            let replies = self.client.calls(&calls.collect::<Vec<_>>(), ANSWER).map_err(failed("look at units"))?;
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
        let reply = self.client.ask("GetUnitProcesses", &[Value::str(unit.as_str())]);
        let reply = reply.map_err(failed(&format!("list the processes of '{unit}'")))?;
        // Control group, id, command line.
        let processes = reply.first().map(Value::items).unwrap_or_default();
        Ok(processes.iter().filter_map(|one| Some(one.items().get(1)?.unsigned()? as u32)).collect())
    }

    fn detail(&mut self, unit: &UnitName) -> Result<UnitDetail, SystemError> {
        self.client.detail(unit)
    }

    fn unit_file(&mut self, unit: &UnitName) -> Result<UnitFile, SystemError> {
        match self.client.ask("GetUnitFileState", &[Value::str(unit.as_str())]) {
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
        let reply = self.client.call(&manager_call("Reload", &[]), RELOAD);
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
        self.client.memory.clear();
        match self.jobs {
            Jobs::Queued => self.client.queue_jobs(jobs),
            Jobs::Awaited => self.client.run_jobs(jobs, limit, go_on),
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
        let units = text.lines().filter_map(name).filter_map(|name| UnitName::parse(name.as_bytes()).ok()).into_set();
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
        std::mem::take(&mut self.client.other_jobs).into_iter().collect()
    }

    fn wait_for_change(&mut self, limit: Duration) -> Result<(), SystemError> {
        self.client.wait_for_change(limit)
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
        let _ = self.client.with(Client::ask_to_leave);
    }

    fn leave_session(&mut self, how_far: Leave) -> Result<(), SystemError> {
        self.client.leave(how_far)
    }
}
