//! Connects to systemd, and asks it for a scope, in another thread.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use super::run::Run;
use crate::{
    shared::beside::Beside,
    system::dbus::{ANSWER, Connection, DbusError, Value, manager_call},
};

/// A connection that another thread makes, because systemd's work for it may take the processor of whoever connects.
#[derive(Debug)]
pub struct Ahead {
    /// What to do once it is made: leave the session, or nothing.
    leave: Arc<OnceLock<bool>>,
    connecting: Beside<Result<(Connection, Option<Run>), DbusError>>,
}

impl Ahead {
    /// Connect to the system's manager.
    pub fn begin() -> Option<Ahead> {
        let leave = Arc::new(OnceLock::new());
        let asked = leave.clone();
        let connecting = Beside::begin(move || {
            let mut connection = Connection::open(None)?;
            let run = if *asked.wait() { Some(ask_to_leave(&mut connection)?) } else { None };
            Ok((connection, run))
        })?;
        Some(Ahead { leave, connecting })
    }

    /// Have it ask systemd to move this process into a new scope.
    pub fn ask_to_leave(&self) {
        self.leave.get_or_init(|| true);
    }

    /// The connection, once it is made, and the job if systemd was asked.
    pub fn end(self) -> Result<(Connection, Option<Run>), DbusError> {
        self.leave.get_or_init(|| false);
        self.connecting.end().unwrap_or(Err(DbusError::Closed))
    }
}

/// Ask systemd to move this process into a new scope. Does not wait for the answer.
pub fn ask_to_leave(connection: &mut Connection) -> Result<Run, DbusError> {
    let pid = std::process::id();
    let property = |name: &str, value: Value| Value::Struct(vec![Value::str(name), Value::Variant(Box::new(value))]);
    let properties = vec![
        property("Description", Value::str("Deptool agent, deploying")),
        property("PIDs", Value::Array("u".into(), vec![Value::U32(pid)])),
        // Otherwise a failed scope would stay, and the next scope of this name could not be started.
        property("CollectMode", Value::str("inactive-or-failed")),
        // The agent ignores TERM while it changes the machine. Without this it would delay a shutdown by 90 s.
        property("TimeoutStopUSec", Value::U64(15_000_000)),
    ];
    let arguments = [
        Value::Str(format!("deptool-agent-{pid}.scope")),
        Value::str("fail"),
        Value::Array("(sv)".into(), properties),
        Value::Array("(sa(sv))".into(), vec![]),
    ];
    let call = manager_call("StartTransientUnit", &arguments);
    let mut run = Run::default();
    run.asked(connection.send(&call, Instant::now() + ANSWER)?);
    Ok(run)
}
