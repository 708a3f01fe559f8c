//! The client of systemd's D-Bus interface: sends calls, receives replies, and notes signals. Connects at the first call, and
//! again after systemd was re-executed.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{
    ahead::Ahead,
    run::{JobSignal, Run},
    unit::{self, Memory, Properties, unit_of},
};
use crate::{
    shared::name::{Account, UnitName},
    system::{
        SystemError, UnitDetail,
        dbus::{ANSWER, Call, Connection, DbusError, Kind, MANAGER, Message, SYSTEMD, Value, manager_call, reply_to},
    },
};

/// The time-out for systemd to come back after a re-execution.
const REEXECUTION: Duration = Duration::from_secs(10);
/// Signals come in bursts. After the first one, wait until none comes for `QUIET`, but not longer than `BURST`.
const QUIET: Duration = Duration::from_millis(2);
const BURST: Duration = Duration::from_millis(20);

pub const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// A connection, and what signals have told.
#[derive(Debug, Default)]
pub struct Client {
    /// The user whose manager it is, and the user's id. `None` for the system's manager.
    user: Option<(Account, u32)>,
    pub(super) connection: Option<Connection>,
    /// A connection that is being made.
    pub(super) ahead: Option<Ahead>,
    /// There was a connection, and it was lost.
    is_lost: bool,
    /// A signal came since the last [`Client::wait_for_change`].
    changed: bool,
    /// Units of jobs that the agent did not ask for.
    pub other_jobs: BTreeSet<UnitName>,
    /// The contents of signals about units since the last jobs.
    pub memory: Memory,
    /// The job that moves the agent out of the login session, once systemd was asked.
    pub leaving: Option<Run>,
}

impl Client {
    /// A client for the manager of this user, who has this id.
    pub fn of(user: &Account, uid: u32) -> Client {
        Client { user: Some((user.clone(), uid)), ..Client::default() }
    }

    /// The id of the user whose manager it is.
    pub fn uid(&self) -> Option<u32> {
        self.user.as_ref().map(|(_, uid)| *uid)
    }

    /// A unit that the manager names.
    pub fn unit(&self, name: &str) -> Option<UnitName> {
        unit_of(self.user.as_ref().map(|(user, _)| user), name)
    }

    /// The connection if signals are to be waited for. `None` if some are here already.
    pub fn quiet(&mut self) -> Result<Option<&Connection>, DbusError> {
        if self.changed {
            return Ok(None);
        }
        self.connection().map(|connection| connection.is_drained().then_some(&*connection))
    }

    pub fn connection(&mut self) -> Result<&mut Connection, DbusError> {
        let uid = self.uid();
        let open = match (self.connection.take(), self.ahead.take().map(Ahead::end)) {
            (Some(connection), _) => connection,
            (None, Some(Ok((connection, leaving)))) => {
                self.leaving = leaving;
                connection
            }
            (None, None) if !self.is_lost => Connection::open(uid)?,
            (None, Some(Err(DbusError::Connect { .. }))) => Connection::open(uid)?,
            (None, Some(Err(_)) | None) => reconnect(uid)?,
        };
        Ok(self.connection.insert(open))
    }

    /// Do something with the connection. If the connection fails, it is dropped, and the next call connects again.
    pub fn with<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T, DbusError>) -> Result<T, DbusError> {
        let result = act(self);
        if !matches!(result, Ok(_) | Err(DbusError::Reply { .. })) {
            self.is_lost = self.connection.take().is_some();
            self.leaving = None;
        }
        result
    }

    /// Receive the next message, and note signals.
    pub fn receive(&mut self, until: Instant) -> Result<Option<(Message, Option<JobSignal>)>, DbusError> {
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
    pub fn note_other(&mut self, job: Option<JobSignal>) {
        let unit = job.and_then(|job| self.unit(&job.unit));
        self.other_jobs.extend(unit);
    }

    /// Send all calls, then wait for all replies. If the connection is lost meanwhile, try again: these calls are idempotent.
    pub fn calls(
        &mut self,
        calls: &[Call<'_>],
        limit: Duration,
    ) -> Result<Vec<Result<Vec<Value>, DbusError>>, DbusError> {
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
                // What a user runs in place of the user's manager may send without end.
                if this.user.is_some() && Instant::now() > until {
                    return Err(DbusError::TimedOut);
                }
                let (message, job) = this.receive(until)?.ok_or(DbusError::TimedOut)?;
                this.note_other(job);
                for (serial, reply) in serials.iter().zip(&mut replies).filter(|(_, reply)| reply.is_none()) {
                    *reply = reply_to(&message, *serial);
                }
            }
            Ok(replies.into_iter().flatten().collect())
        })
    }

    pub fn call(&mut self, call: &Call<'_>, limit: Duration) -> Result<Vec<Value>, DbusError> {
        // One call yields one reply.
        self.calls(&[*call], limit)?.pop().unwrap_or(Err(DbusError::Closed))
    }

    pub fn ask(&mut self, member: &str, arguments: &[Value]) -> Result<Vec<Value>, DbusError> {
        self.call(&manager_call(member, arguments), ANSWER)
    }

    pub fn detail(&mut self, unit: &UnitName) -> Result<UnitDetail, SystemError> {
        // An empty interface name means all interfaces. Reading the properties of a unit loads the unit.
        let (path, arguments) = (unit::object_path(unit.name()), [Value::str("")]);
        let call =
            Call { destination: SYSTEMD, path: &path, interface: PROPERTIES, member: "GetAll", arguments: &arguments };
        let reply = self.call(&call, ANSWER).map_err(failed(&format!("look at '{unit}'")))?;
        let user = self.user.as_ref().map(|(user, _)| user);
        Ok(Properties::new(&reply, &self.memory).detail(user))
    }

    pub fn wait_for_change(&mut self, limit: Duration) -> Result<(), SystemError> {
        let wait = |this: &mut Self| {
            let until = Instant::now() + limit;
            while !this.changed {
                let Some((_, job)) = this.receive(until)? else { return Ok(()) };
                this.note_other(job);
                if Instant::now() > until {
                    break;
                }
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
}

/// Connect again. While systemd re-executes itself, its socket is gone for a moment.
fn reconnect(uid: Option<u32>) -> Result<Connection, DbusError> {
    let until = Instant::now() + REEXECUTION;
    loop {
        match Connection::open(uid) {
            Err(DbusError::Connect { .. }) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            result => return result,
        }
    }
}

/// If `message` is the reply to a call of the run, note the path of the job or the error.
pub fn take_reply(run: &mut Run, message: &Message) -> Result<(), DbusError> {
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

pub fn failed(what: &str) -> impl Fn(DbusError) -> SystemError + '_ {
    move |error| SystemError(format!("can't {what}: {error}"))
}

/// Whether the error says that there is no such unit.
pub fn is_absent(error: &DbusError) -> bool {
    const NAMES: [&str; 4] = [
        "org.freedesktop.systemd1.NoSuchUnit",
        "org.freedesktop.systemd1.UnitNotFound",
        "org.freedesktop.DBus.Error.FileNotFound",
        "System.Error.ENOENT",
    ];
    matches!(error, DbusError::Reply { name, .. } if NAMES.contains(&name.as_str()))
}

/// Whether the connection was lost. This happens when systemd re-executes itself.
pub fn is_loss(error: &DbusError) -> bool {
    match error {
        DbusError::Closed | DbusError::Io(_) => true,
        DbusError::Reply { .. }
        | DbusError::TimedOut
        | DbusError::Connect { .. }
        | DbusError::Refused(_)
        | DbusError::Wire(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixListener,
    };

    use super::*;

    #[test]
    fn a_users_manager_that_sends_without_end_does_not_hang_the_agent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("private");
        let listener = UnixListener::bind(&path).unwrap();
        let connection = Some(Connection::connect(&path).unwrap());
        let mut manager = listener.accept().unwrap().0;
        let sending = std::thread::spawn(move || {
            let mut sent = [0; 4096];
            let _ = manager.read(&mut sent).unwrap();
            manager.write_all(b"OK 0123\r\n").unwrap();
            let count = manager.read(&mut sent).unwrap();
            // The call itself is a message, and answers nothing.
            while manager.write_all(&sent[..count]).is_ok() {}
        });
        let mut client = Client { connection, ..Client::of(&Account::try_from("alice".to_owned()).unwrap(), 1) };
        let call = manager_call("Subscribe", &[]);
        let error = client.call(&call, Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, DbusError::TimedOut), "{error}");
        sending.join().unwrap();
    }
}
