//! Reads what units wrote to the journal, and writes entries of our own. See journalctl(1), systemd.journal-fields(7) and
//! systemd's "Native Journal Protocol".

use std::{io, os::unix::net::UnixDatagram, path::Path, time::Duration};

use serde_json::Value;

use crate::shared::name::UnitName;

const SOCKET: &str = "/run/systemd/journal/socket";
/// The time-out for journald to take an entry. A deployment may be waiting for its commit point.
const TAKING: Duration = Duration::from_secs(1);
/// The most entries that are read.
const ENTRIES: &str = "1000";
/// The invocation of a unit, in entries of systemd about the unit and in those of its processes. An entry of a user's manager has
/// both: the last one is then that of the manager itself.
const INVOCATION: [&str; 3] = ["USER_INVOCATION_ID", "INVOCATION_ID", "_SYSTEMD_INVOCATION_ID"];

/// Write an entry. It is lost if the host has no journal, or if journald is just restarting or hangs.
pub fn write(message: &str, fields: &[(&str, &str)]) {
    let mut entry = String::new();
    let own = [("MESSAGE", message), ("SYSLOG_IDENTIFIER", "deptool"), ("PRIORITY", "5")];
    for (name, value) in own.iter().chain(fields) {
        // A value with a line feed would need another encoding.
        let value = value.replace('\n', " ");
        entry.push_str(&format!("{name}={value}\n"));
    }
    let _ = send(entry.as_bytes(), Path::new(SOCKET));
}

fn send(entry: &[u8], to: &Path) -> io::Result<usize> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(TAKING))?;
    socket.send_to(entry, to)
}

/// The arguments of `journalctl` for [`last_lines`].
///
/// `uid` is that of the user whose unit it is.
pub fn query(unit: &UnitName, uid: Option<u32>, invocations: &[String]) -> Vec<String> {
    let fields = format!("--output-fields=MESSAGE,{}", INVOCATION.join(","));
    let options = ["--quiet", "--no-pager", "--all", "--boot", "--output=json", "--lines", ENTRIES, &fields];
    let mut arguments: Vec<String> = options.map(str::to_owned).into();
    for invocation in invocations {
        arguments.extend(INVOCATION.iter().flat_map(|field| [format!("{field}={invocation}"), "+".to_owned()]));
    }
    // Messages of the unit's processes. If a process exits at once, journald may know its unit but not its invocation.
    match uid {
        Some(uid) => {
            let (name, uid) = (unit.name(), format!("_UID={uid}"));
            arguments.extend([format!("_SYSTEMD_USER_UNIT={name}"), uid.clone(), "+".into()]);
            // Of a process that exits at once, journald does not know that a user's manager started it.
            arguments.extend([format!("_SYSTEMD_UNIT={name}"), uid]);
        }
        None => arguments.push(format!("_SYSTEMD_UNIT={unit}")),
    }
    arguments
}

/// The last `lines` messages of these invocations, or of all if none are given. An entry without an invocation belongs to the
/// one before it or to the one after it: a process may speak before its manager says that it has started it.
pub fn last_lines(output: &[u8], invocations: &[String], lines: usize) -> String {
    let output = String::from_utf8_lossy(output);
    // The first line may be cut off.
    let entries: Vec<Value> = output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let invocation = |entry: &Value| INVOCATION.iter().find_map(|field| Some(entry.get(field)?.as_str()?.to_owned()));
    let is_meant = |at: usize| {
        let before = entries[..=at].iter().rev().find_map(invocation);
        let after = entries[at..].iter().find_map(invocation);
        invocations.is_empty() || before.iter().chain(&after).any(|one| invocations.contains(one))
    };
    let meant = (0..entries.len()).filter(|at| is_meant(*at));
    let messages: Vec<String> = meant.filter_map(|at| entries[at].get("MESSAGE").and_then(text)).collect();
    messages[messages.len().saturating_sub(lines)..].join("\n")
}

/// The text of a field. journalctl prints a field that is not UTF-8, or has control characters, as an array of bytes.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(bytes) => {
            let bytes: Vec<u8> = bytes.iter().filter_map(|byte| u8::try_from(byte.as_u64()?).ok()).collect();
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = r#"half an entry"}
{"MESSAGE":"of an earlier run","_SYSTEMD_INVOCATION_ID":"1"}
{"MESSAGE":"of that run, too"}
{"MESSAGE":"a.service: Deactivated successfully.","INVOCATION_ID":"1"}
{"MESSAGE":"before it is said to have started"}
{"MESSAGE":"Starting a.service...","USER_INVOCATION_ID":"2","_SYSTEMD_INVOCATION_ID":"that of a user's manager"}
{"MESSAGE":"quick last words"}
{"MESSAGE":[98,0,255],"_SYSTEMD_INVOCATION_ID":"2"}
{"MESSAGE":"Starting a.service...","INVOCATION_ID":"3"}
{"MESSAGE":"of a later run"}
"#;

    #[test]
    fn a_journald_that_hangs_does_not_hang_the_agent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let _journald = UnixDatagram::bind(&path).unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        socket.set_nonblocking(true).unwrap();
        while socket.send_to(b"MESSAGE=x\n", &path).is_ok() {}
        assert_eq!(send(b"MESSAGE=y\n", &path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_a_run_said_is_found_even_without_its_invocation() {
        let of = |invocations: &[&str], lines| {
            let invocations: Vec<String> = invocations.iter().map(|id| (*id).to_owned()).collect();
            last_lines(OUTPUT.as_bytes(), &invocations, lines)
        };
        let second = "before it is said to have started\nStarting a.service...\nquick last words\nb\0\u{fffd}";
        assert_eq!(of(&["2"], 9), second);
        assert_eq!(of(&["2"], 1), "b\0\u{fffd}");
        assert_eq!(of(&["4"], 9), "");
        assert_eq!(of(&[], 2), "Starting a.service...\nof a later run");
    }
}
