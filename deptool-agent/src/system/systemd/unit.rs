//! Parses the properties of units. Their names and types are in org.freedesktop.systemd1(5), "Unit objects" and "Service unit
//! objects".

use std::{collections::BTreeMap, time::Duration};

use super::super::{Active, FailedRun, Load, May, UnitDetail, UnitFile, UnitState, dbus::Value};
use crate::shared::name::{Account, UnitName};
use crate::shared::ordered::Ordered as _;

/// The object path of a unit. Bytes that are not letters or digits become `_` and two hex digits, and so does a leading digit.
pub fn object_path(unit: &str) -> String {
    let mut path = String::from("/org/freedesktop/systemd1/unit/");
    for (at, byte) in unit.bytes().enumerate() {
        match byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()) {
            true => path.push(char::from(byte)),
            false => path.push_str(&format!("_{byte:02x}")),
        }
    }
    path
}

/// The time of CLOCK_MONOTONIC, as in the time stamps of units.
pub fn clock() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Parse the reply to `ListUnits`: name, description, load state, active state, sub state and more for each unit.
///
/// Scopes, devices and other units that can't be deployed are left out.
pub fn snapshot(reply: &[Value], user: Option<&Account>) -> BTreeMap<UnitName, UnitState> {
    let units = reply.first().map(Value::items).unwrap_or_default();
    units.iter().filter_map(|unit| listed(unit.items(), user)).into_map()
}

/// The unit that the manager of this user, or of the system, calls `name`.
pub fn unit_of(user: Option<&Account>, name: &str) -> Option<UnitName> {
    UnitName::parse(name.as_bytes()).ok().map(|unit| unit.of(user))
}

fn listed(fields: &[Value], user: Option<&Account>) -> Option<(UnitName, UnitState)> {
    let text = |at: usize| fields.get(at).and_then(Value::text);
    let name = unit_of(user, text(0)?)?;
    let has_job = matches!(fields.get(7), Some(Value::U32(1..)));
    let (load, active, sub) = (load(text(2)?), active(text(3)?), text(4)?.to_owned());
    Some((name, UnitState { load, active, sub, has_job, invocation: String::new() }))
}

fn load(text: &str) -> Load {
    match text {
        "not-found" => Load::NotFound,
        "masked" => Load::Masked,
        "bad-setting" | "error" => Load::Broken,
        // loaded, stub, merged.
        _ => Load::Loaded,
    }
}

fn active(text: &str) -> Active {
    match text {
        "active" => Active::Active,
        // A mount is refreshing while its options are changed.
        "reloading" | "refreshing" => Active::Reloading,
        "failed" => Active::Failed,
        "activating" => Active::Activating,
        "deactivating" => Active::Deactivating,
        "maintenance" => Active::Maintenance,
        _ => Active::Inactive,
    }
}

/// Parse the reply to `GetUnitFileState`.
pub fn unit_file(text: &str) -> UnitFile {
    match text {
        "enabled" => UnitFile::Enabled,
        "enabled-runtime" => UnitFile::EnabledRuntime,
        "disabled" => UnitFile::Disabled,
        "linked" | "linked-runtime" => UnitFile::Linked,
        "indirect" => UnitFile::Indirect,
        "masked" | "masked-runtime" => UnitFile::Masked,
        "" | "not-found" => UnitFile::Absent,
        _ => UnitFile::Static,
    }
}

/// Properties from signals, by object path.
///
/// systemd unloads units that are inactive and not referenced by other units. Then it no longer knows whether the unit ended
/// well or was not started because of a condition. Before it unloads the unit, it sends a signal with its properties. Also, a
/// service that failed may be up again before the agent looks, because of Restart= or socket activation.
#[derive(Debug, Default)]
pub struct Memory(BTreeMap<String, Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    properties: BTreeMap<String, Value>,
    last_failure: Option<FailedRun>,
}

impl Memory {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether the last reload of the unit was too slow.
    pub fn reload_timed_out(&self, unit: &UnitName) -> bool {
        let remembered = self.0.get(&object_path(unit.name()));
        let result = remembered.and_then(|unit| unit.properties.get("ReloadResult"));
        result.and_then(Value::text) == Some("timeout")
    }

    /// Note a signal `PropertiesChanged(s interface, a{sv} changed, as invalidated)` about the unit with this path.
    pub fn changed(&mut self, path: &str, arguments: Vec<Value>) {
        let mut arguments = arguments.into_iter();
        let (Some(interface), Some(Value::Array(_, entries))) = (arguments.next(), arguments.next()) else { return };
        let unit = self.0.entry(path.to_owned()).or_default();
        for entry in entries {
            if let Value::Entry(pair) = entry
                && let (Value::Str(name), value) = *pair
            {
                unit.properties.insert(name, value);
            }
        }
        // The signal for the common interface, with the invocation id, follows the signal for the unit type's interface.
        if interface.text() == Some("org.freedesktop.systemd1.Unit") {
            let known = unit.properties.iter().map(|(name, value)| (name.as_str(), value)).into_map();
            let detail = Properties(known, None).detail(None);
            if !matches!(detail.result.as_str(), "" | "success" | "exec-condition") {
                let UnitDetail { invocation, changed_at, result, exit, .. } = detail;
                unit.last_failure = Some(FailedRun { invocation, changed_at, result, exit });
            }
        }
    }
}

/// The properties of a unit: the reply to `GetAll` for all interfaces.
pub struct Properties<'a>(BTreeMap<&'a str, &'a Value>, Option<&'a FailedRun>);

impl<'a> Properties<'a> {
    /// `memory` is used if systemd has unloaded the unit, and has loaded it again for this call.
    pub fn new(reply: &'a [Value], memory: &'a Memory) -> Self {
        let entries = reply.first().map(Value::items).unwrap_or_default();
        let pair = |entry: &'a Value| match entry {
            Value::Entry(pair) => Some((pair.0.text()?, &pair.1)),
            _ => None,
        };
        let mut properties = Properties(entries.iter().filter_map(pair).into_map(), None);
        let Some(remembered) = memory.0.get(&object_path(properties.text("Id"))) else { return properties };
        properties.1 = remembered.last_failure.as_ref();
        if properties.number("StateChangeTimestamp") == 0 && properties.number("ConditionTimestamp") == 0 {
            properties.0.extend(remembered.properties.iter().map(|(name, value)| (name.as_str(), value)));
        }
        properties
    }

    fn text(&self, name: &str) -> &'a str {
        self.0.get(name).and_then(|value| value.text()).unwrap_or_default()
    }

    fn number(&self, name: &str) -> u64 {
        self.0.get(name).and_then(|value| value.unsigned()).unwrap_or_default()
    }

    fn flag(&self, name: &str) -> bool {
        self.0.get(name).and_then(|value| value.bool()).unwrap_or_default()
    }

    fn items(&self, name: &str) -> &'a [Value] {
        self.0.get(name).map(|value| value.items()).unwrap_or_default()
    }

    /// What the properties tell. Units that they name are of the same manager.
    pub fn detail(&self, user: Option<&Account>) -> UnitDetail {
        let units = |names: &[&str]| {
            let values = names.iter().flat_map(|name| self.items(name));
            values.filter_map(|value| unit_of(user, value.text()?)).collect::<Vec<_>>()
        };
        let invocation = self.0.get("InvocationID").and_then(|value| value.bytes()).unwrap_or_default();
        let active = active(self.text("ActiveState"));
        let entered = self.number("ActiveEnterTimestampMonotonic");
        let is_up = matches!(active, Active::Active | Active::Reloading);
        UnitDetail {
            load: load(self.text("LoadState")),
            active,
            sub: self.text("SubState").to_owned(),
            result: self.text("Result").to_owned(),
            service_type: self.text("Type").to_owned(),
            restarts_itself: !matches!(self.text("Restart"), "" | "no"),
            remains: self.flag("RemainAfterExit"),
            needs_reload: self.flag("NeedDaemonReload"),
            restarts: self.number("NRestarts") as u32,
            invocation: crate::shared::text::hex(invocation),
            active_since: is_up.then(|| Duration::from_micros(entered)),
            changed_at: Duration::from_micros(self.number("StateChangeTimestampMonotonic")),
            // `(uo)`. The id is 0 if there is no job.
            has_job: self.items("Job").first().and_then(Value::unsigned).is_some_and(|id| id != 0),
            // ConditionResult is also false before conditions were ever checked. The timestamp tells the difference.
            condition_failed: !self.flag("ConditionResult") && self.number("ConditionTimestamp") != 0,
            exit: self.exit(),
            file: self.text("FragmentPath").to_owned(),
            last_failure: self.1.cloned(),
            triggers: units(&["Triggers"]),
            is_triggered: !self.items("TriggeredBy").is_empty(),
            started_by: units(&["TriggeredBy", "WantedBy", "RequiredBy", "RequisiteOf", "BoundBy", "UpheldBy"]),
            stopped_by: units(&["Requires", "Requisite", "BindsTo", "PartOf", "StopPropagatedFrom"]),
            conflicts: units(&["Conflicts", "ConflictedBy"]),
            members: units(&["ConsistsOf"]),
            // Pairs of the kind of condition and the path.
            paths: self
                .items("Paths")
                .iter()
                .filter_map(|pair| Some(pair.items().get(1)?.text()?.to_owned()))
                .collect(),
            may: May {
                start: self.flag("CanStart"),
                stop: self.flag("CanStop"),
                reload: self.flag("CanReload"),
                keep_files: self.number("FileDescriptorStoreMax") > 0,
                accept: self.flag("Accept"),
            },
        }
    }

    /// How the relevant command ended: a command before or after the main process if it failed, otherwise the main process.
    fn exit(&self) -> Option<String> {
        const AROUND: [&str; 4] = ["ExecCondition", "ExecStartPre", "ExecStartPost", "ExecReload"];
        let failed = |name: &&str| self.items(name).iter().find_map(|command| Command::parse(command)?.failure());
        let around = AROUND.iter().find_map(|name| Some(format!("{name} {}", failed(name)?)));
        let main = Command {
            began: self.number("ExecMainStartTimestampMonotonic"),
            ended: self.number("ExecMainExitTimestampMonotonic"),
            code: self.number("ExecMainCode"),
            status: self.number("ExecMainStatus"),
        };
        // With Type=forking the main process is not the one in ExecStart.
        around.or_else(|| main.end()).or_else(|| failed(&"ExecStart")).or_else(|| self.mount_exit())
    }

    /// How a mount command ended. systemd does not tell mount from unmount commands here.
    fn mount_exit(&self) -> Option<String> {
        ["ExecMount", "ExecRemount"]
            .iter()
            .find_map(|name| self.items(name).iter().find_map(|command| Command::parse(command)?.failure()))
            .map(|end| format!("mount {end}"))
    }
}

/// How a process ended. Times are in µs of CLOCK_MONOTONIC, or 0 if the event has not happened yet.
#[derive(Debug, Clone, Copy)]
struct Command {
    began: u64,
    ended: u64,
    code: u64,
    status: u64,
}

/// The `si_code` of SIGCHLD, see waitid(2).
const CLD_EXITED: u64 = 1;
const CLD_KILLED: u64 = 2;
const CLD_DUMPED: u64 = 3;

impl Command {
    /// Parse an element of a property like `ExecStart`, `(sasbttttuii)`: path, arguments, whether failures are ignored; begin
    /// and end, each on both clocks; pid, code, status. `None` if failures are ignored.
    fn parse(value: &Value) -> Option<Command> {
        match value.items() {
            [_, _, ignored, _, began, _, ended, _, code, status, ..] if ignored.bool() == Some(false) => {
                Some(Command {
                    began: began.unsigned()?,
                    ended: ended.unsigned()?,
                    code: code.unsigned()?,
                    status: status.unsigned()?,
                })
            }
            _ => None,
        }
    }

    fn failure(&self) -> Option<String> {
        if self.code == CLD_EXITED && self.status == 0 { None } else { self.end() }
    }

    fn end(&self) -> Option<String> {
        let how = match self.code {
            CLD_EXITED => format!("exited with status {}{}", self.status, setup_step(self.status)),
            CLD_KILLED => format!("was killed by signal {}{}", self.status, signal_name(self.status)),
            CLD_DUMPED => format!("dumped core on signal {}{}", self.status, signal_name(self.status)),
            _ => return None,
        };
        match self.ended.checked_sub(self.began) {
            // Formatting a float would cost the agent 10 kB.
            Some(ran) if self.began > 0 => {
                Some(format!("{how} after {}", crate::shared::time::seconds(Duration::from_micros(ran))))
            }
            _ => Some(how),
        }
    }
}

/// Exit statuses of systemd itself, before the program has begun: systemd.exec(5), "Process Exit Codes". Those seen often.
fn setup_step(status: u64) -> &'static str {
    match status {
        200 => "/CHDIR",
        203 => "/EXEC",
        209 => "/STDOUT",
        216 => "/GROUP",
        217 => "/USER",
        218 => "/CAPABILITIES",
        226 => "/NAMESPACE",
        228 => "/SECCOMP",
        233 => "/RUNTIME_DIRECTORY",
        238 => "/STATE_DIRECTORY",
        239 => "/CACHE_DIRECTORY",
        240 => "/LOGS_DIRECTORY",
        241 => "/CONFIGURATION_DIRECTORY",
        243 => "/CREDENTIALS",
        _ => "",
    }
}

fn signal_name(signal: u64) -> &'static str {
    match signal {
        1 => " (HUP)",
        2 => " (INT)",
        4 => " (ILL)",
        6 => " (ABRT)",
        7 => " (BUS)",
        8 => " (FPE)",
        9 => " (KILL)",
        11 => " (SEGV)",
        13 => " (PIPE)",
        15 => " (TERM)",
        31 => " (SYS)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_paths_are_escaped_as_systemd_does() {
        assert_eq!(object_path("a-b@1.service"), "/org/freedesktop/systemd1/unit/a_2db_401_2eservice");
        assert_eq!(object_path("9p.mount"), "/org/freedesktop/systemd1/unit/_39p_2emount");
    }

    fn command(code: i32, status: i32, ignored: bool) -> Value {
        let time = |n| Value::U64(n);
        let text = Value::str("/bin/x");
        let members = [Value::strings([]), Value::Bool(ignored), time(5), time(1_000_000), time(6), time(1_200_000)];
        let mut all = vec![text];
        all.extend(members);
        all.extend([Value::U32(9), Value::I32(code), Value::I32(status)]);
        Value::Array("(sasbttttuii)".into(), vec![Value::Struct(all)])
    }

    fn exit(properties: &[(&str, Value)]) -> Option<String> {
        let reply = [dictionary(properties)];
        Properties::new(&reply, &Memory::default()).detail(None).exit
    }

    #[test]
    fn the_command_that_failed_is_named() {
        let main = [("ExecMainCode", Value::I32(1)), ("ExecMainStatus", Value::I32(203))];
        assert_eq!(exit(&main).unwrap(), "exited with status 203/EXEC");
        let before = [("ExecStartPre", command(1, 1, false)), ("ExecMainCode", Value::I32(0))];
        assert_eq!(exit(&before).unwrap(), "ExecStartPre exited with status 1 after 0.2 s");
        let ignored = [("ExecStartPre", command(1, 1, true)), ("ExecStart", command(2, 11, false))];
        assert_eq!(exit(&ignored).unwrap(), "was killed by signal 11 (SEGV) after 0.2 s");
        assert_eq!(exit(&[("ExecStartPre", command(1, 0, false))]), None);
    }

    fn dictionary(properties: &[(&str, Value)]) -> Value {
        let entry = |(name, value): &(&str, Value)| {
            Value::Entry(Box::new((Value::str(name), Value::Variant(Box::new(value.clone())))))
        };
        Value::Array("{sv}".into(), properties.iter().map(entry).collect())
    }

    #[test]
    fn a_forgotten_unit_is_remembered() {
        let mut memory = Memory::default();
        let signal = |changed: &[(&str, Value)]| vec![Value::str("…Unit"), dictionary(changed), Value::strings([])];
        let path = object_path("a.service");
        memory
            .changed(&path, signal(&[("ConditionTimestamp", Value::U64(7)), ("ConditionResult", Value::Bool(false))]));
        memory.changed(&path, signal(&[("InvocationID", Value::Bytes(vec![1]))]));
        memory.changed(&path, vec![Value::U32(1)]);
        let fresh = [dictionary(&[("Id", Value::str("a.service")), ("InvocationID", Value::Bytes(vec![]))])];
        let detail = Properties::new(&fresh, &memory).detail(None);
        assert_eq!((detail.condition_failed, detail.invocation.as_str()), (true, "01"));
        let unit = "org.freedesktop.systemd1.Unit";
        memory.changed(&path, signal(&[("Result", Value::str("exit-code")), ("ExecMainCode", Value::I32(1))]));
        memory.changed(&path, vec![Value::str(unit), dictionary(&[]), Value::strings([])]);
        memory.changed(&path, signal(&[("Result", Value::str("success"))]));
        let failure = Properties::new(&fresh, &memory).detail(None).last_failure.unwrap();
        assert_eq!((failure.invocation.as_str(), failure.exit.unwrap().as_str()), ("01", "exited with status 0"));
        let known = [dictionary(&[("Id", Value::str("a.service")), ("StateChangeTimestamp", Value::U64(9))])];
        assert!(!Properties::new(&known, &memory).detail(None).condition_failed);
    }

    #[test]
    fn a_reply_of_other_types_yields_defaults() {
        let detail = Properties::new(&[Value::U32(1)], &Memory::default()).detail(None);
        assert_eq!((detail.active, detail.restarts, detail.exit), (Active::Inactive, 0, None));
        assert!(snapshot(&[Value::Array("s".into(), vec![Value::str("x")])], None).is_empty());
    }
}
