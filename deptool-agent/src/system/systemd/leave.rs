//! Moves the agent out of the login session into a scope of its own. systemd may kill everything in a session that ends.

use std::time::Instant;

use super::{
    ahead::{Ahead, ask_to_leave},
    client::{Client, failed},
    run::Run,
};
use crate::system::{JobResult, Leave, SystemError, dbus::ANSWER};

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
            ahead.ask_to_leave();
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
