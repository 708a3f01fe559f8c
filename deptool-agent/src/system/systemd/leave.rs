//! Moves the agent out of the login session into a scope of its own. systemd may kill everything in a session that ends.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use super::{
    client::{ANSWER, Client, failed},
    run::Run,
};
use crate::{
    shared::beside::Beside,
    system::{
        JobResult, Leave, SystemError,
        dbus::{Connection, DbusError, Value, manager_call},
    },
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
    fn begin() -> Option<Ahead> {
        let leave = Arc::new(OnceLock::new());
        let asked = leave.clone();
        let connecting = Beside::begin(move || {
            let mut connection = Connection::open(None)?;
            let run = if *asked.wait() { Some(ask_to_leave(&mut connection)?) } else { None };
            Ok((connection, run))
        })?;
        Some(Ahead { leave, connecting })
    }

    /// The connection, once it is made, and the job if systemd was asked.
    pub fn end(self) -> Result<(Connection, Option<Run>), DbusError> {
        self.leave.get_or_init(|| false);
        self.connecting.end().unwrap_or(Err(DbusError::Closed))
    }
}

/// Ask systemd to move this process into a new scope. Does not wait for the answer.
fn ask_to_leave(connection: &mut Connection) -> Result<Run, DbusError> {
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

impl Client {
    /// Connect in another thread, if there is no connection. Whatever goes wrong goes wrong again at the first call.
    pub fn connect_ahead(&mut self) {
        if self.connection.is_none() && self.ahead.is_none() {
            self.ahead = Ahead::begin();
        }
    }

    /// Ask systemd to move this process into a new scope, without waiting for anything. Whatever goes wrong goes wrong again when
    /// it is waited for.
    pub fn begin_leaving(&mut self) {
        if let Some(ahead) = &self.ahead {
            ahead.leave.get_or_init(|| true);
        }
    }

    /// Ask systemd if that was not done yet, and wait until systemd has agreed or is done.
    pub fn leave(&mut self, how_far: Leave) -> Result<(), SystemError> {
        const WHAT: &str = "leave the login session";
        let wait = |this: &mut Self| {
            let until = Instant::now() + ANSWER;
            this.connection()?;
            if this.leaving.is_none() {
                this.leaving = Some(ask_to_leave(this.connection()?)?);
            }
            let is_enough = |run: &Run| match how_far {
                Leave::Agreed => run.is_queued(),
                Leave::Done => run.is_over(),
            };
            while this.leaving.as_ref().is_some_and(|run| !is_enough(run)) && Instant::now() < until {
                let job = this.receive(until)?.and_then(|(_, job)| job);
                this.note_other(job);
            }
            if how_far == Leave::Agreed && this.leaving.as_ref().is_some_and(|run| run.is_queued() && !run.is_over()) {
                return Ok(Some(JobResult::Done));
            }
            Ok(this.leaving.take().and_then(|run| run.end().0.pop()))
        };
        match self.with(wait).map_err(failed(WHAT))? {
            Some(JobResult::Done) => Ok(()),
            Some(JobResult::Failed(why)) => Err(SystemError(format!("can't {WHAT}: {why}"))),
            Some(JobResult::TimedOut) | None => Err(SystemError(format!("can't {WHAT}: systemd took too long"))),
        }
    }
}
