//! Moves the agent out of the login session into a scope of its own. systemd may kill everything in a session that ends.

use std::time::Instant;

use super::{
    client::{ANSWER, Client, failed},
    run::Run,
};
use crate::system::{
    JobResult, Leave, SystemError,
    dbus::{DbusError, Value, manager_call},
};

impl Client {
    /// Ask systemd to move this process into a new scope. Does not wait for the answer.
    pub fn ask_to_leave(&mut self) -> Result<(), DbusError> {
        let pid = std::process::id();
        let property =
            |name: &str, value: Value| Value::Struct(vec![Value::str(name), Value::Variant(Box::new(value))]);
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
        run.asked(self.connection()?.send(&call, Instant::now() + ANSWER)?);
        self.leaving = Some(run);
        Ok(())
    }

    /// Ask systemd if that was not done yet, and wait until systemd has agreed or is done.
    pub fn leave(&mut self, how_far: Leave) -> Result<(), SystemError> {
        const WHAT: &str = "leave the login session";
        let wait = |this: &mut Self| {
            let until = Instant::now() + ANSWER;
            if this.leaving.is_none() {
                this.ask_to_leave()?;
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
