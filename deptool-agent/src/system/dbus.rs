//! A connection to systemd, spoken by hand: a D-Bus library would double the agent's size.
//!
//! Formats: D-Bus Specification, "Authentication Protocol" and "Message Protocol"; the calls themselves are in
//! org.freedesktop.systemd1(5). Only what the agent needs is here: calls, replies, signals; no file descriptors, no
//! services of our own.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

mod marshal;
mod message;
mod value;

pub use marshal::WireError;
pub use message::{Call, Kind, Message, Signal};
pub use value::Value;

/// Where systemd itself listens, for root only. There is no bus between: no names, all signals are sent.
const PRIVATE: &str = "/run/systemd/private";
/// The system bus, for machines where the private socket is not there.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
/// systemd's name on the bus.
pub const SYSTEMD: &str = "org.freedesktop.systemd1";
const BUS: &str = "org.freedesktop.DBus";
/// The interface of systemd's main object.
pub const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";

/// To connect, and to say hello.
const CONNECTING: Duration = Duration::from_secs(10);
/// A line of the authentication protocol is far shorter.
const LONGEST_LINE: usize = 4096;

/// Why systemd could not be asked, or what it answered.
#[derive(Debug, thiserror::Error)]
pub enum DbusError {
    #[error("can't connect to '{}': {source}", socket.display())]
    Connect { socket: PathBuf, source: io::Error },
    #[error("the connection to systemd broke: {0}")]
    Io(#[from] io::Error),
    #[error("systemd closed the connection")]
    Closed,
    #[error("systemd does not let us in: {0}")]
    Refused(String),
    #[error("systemd did not answer in time")]
    TimedOut,
    #[error("systemd sent something unexpected: {0}")]
    Wire(#[from] WireError),
    /// An error reply to a call. The connection is as good as before.
    #[error("{text}")]
    Reply { name: String, text: String },
}

/// A call of systemd's main object.
pub fn manager_call<'a>(member: &'a str, arguments: &'a [Value]) -> Call<'a> {
    Call { destination: SYSTEMD, path: MANAGER_PATH, interface: MANAGER, member, arguments }
}

/// An authenticated connection. After an error other than [`DbusError::Reply`] it is of no more use.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    /// Received, not yet taken as a message.
    pending: Vec<u8>,
    last_serial: u32,
    /// Where a bus is between: systemd's unique name. Anybody on the bus may send us a signal that looks like systemd's.
    systemd: Option<String>,
}

impl Connection {
    /// Connect to systemd, directly or else over the system bus, and have it send its signals.
    pub fn open() -> Result<Connection, DbusError> {
        let until = Instant::now() + CONNECTING;
        match Connection::authenticate(Path::new(PRIVATE), until) {
            Ok(connection) => Ok(connection),
            Err(first) => match Connection::open_bus(until) {
                Ok(connection) => Ok(connection),
                // The private socket is the one that should have worked.
                Err(_) => Err(first),
            },
        }
    }

    /// The way for where the private socket is not there.
    pub(super) fn open_bus(until: Instant) -> Result<Connection, DbusError> {
        let mut connection = Connection::authenticate(Path::new(SYSTEM_BUS), until)?;
        let mut bus = |member: &str, arguments: &[Value]| {
            let call = Call { destination: BUS, path: "/org/freedesktop/DBus", interface: BUS, member, arguments };
            connection.only_reply(&call, until)
        };
        bus("Hello", &[])?;
        let owner = bus("GetNameOwner", &[Value::str(SYSTEMD)])?;
        let owner = owner.first().and_then(Value::text).ok_or(WireError("GetNameOwner answered no name"))?.to_owned();
        bus("AddMatch", &[Value::str("type='signal',sender='org.freedesktop.systemd1'")])?;
        connection.only_reply(&manager_call("Subscribe", &[]), until)?;
        connection.systemd = Some(owner);
        Ok(connection)
    }

    /// Specification, "Authentication Protocol": one zero byte, then lines, with the kernel vouching for our user id.
    fn authenticate(path: &Path, until: Instant) -> Result<Connection, DbusError> {
        let socket = UnixStream::connect(path)
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
            .map_err(|source| DbusError::Connect { socket: path.to_owned(), source })?;
        let mut connection = Connection { socket, pending: Vec::new(), last_serial: 0, systemd: None };
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hex = crate::shared::text::hex(uid.as_bytes());
        // All at once, as systemd's own library does: BEGIN after a refusal does no harm.
        connection.write(format!("\0AUTH EXTERNAL {hex}\r\nBEGIN\r\n").as_bytes(), until)?;
        let line = connection.line(until)?;
        match line.starts_with(b"OK ") {
            true => Ok(connection),
            false => Err(DbusError::Refused(crate::shared::text::printable(&line))),
        }
    }

    /// One line without its end.
    fn line(&mut self, until: Instant) -> Result<Vec<u8>, DbusError> {
        loop {
            if let Some(end) = self.pending.windows(2).position(|pair| pair == b"\r\n") {
                let mut line: Vec<u8> = self.pending.drain(..end + 2).collect();
                line.truncate(end);
                return Ok(line);
            }
            if self.pending.len() > LONGEST_LINE {
                return Err(WireError("a line is too long").into());
            }
            if !self.fill(until)? {
                return Err(DbusError::TimedOut);
            }
        }
    }

    /// Send a call and return the serial that its reply will name.
    pub fn send(&mut self, call: &Call<'_>, until: Instant) -> Result<u32, DbusError> {
        self.last_serial = self.last_serial.checked_add(1).unwrap_or(1);
        self.write(&call.to_bytes(self.last_serial), until)?;
        Ok(self.last_serial)
    }

    /// The next message, or `None` when `until` has passed before one was complete.
    ///
    /// A signal that comes over a bus and is not systemd's becomes [`Kind::Other`].
    pub fn receive(&mut self, until: Instant) -> Result<Option<Message>, DbusError> {
        loop {
            if let Some(mut message) = self.take_message()? {
                if let (Kind::Signal(signal), Some(systemd)) = (&message.kind, &self.systemd)
                    && signal.sender.as_ref() != Some(systemd)
                {
                    message.kind = Kind::Other;
                }
                return Ok(Some(message));
            }
            if !self.fill(until)? {
                return Ok(None);
            }
        }
    }

    /// Call, and drop whatever else comes before the reply. For the first calls, before signals matter.
    fn only_reply(&mut self, call: &Call<'_>, until: Instant) -> Result<Vec<Value>, DbusError> {
        let serial = self.send(call, until)?;
        loop {
            let message = self.receive(until)?.ok_or(DbusError::TimedOut)?;
            if let Some(result) = reply_to(&message, serial) {
                return result;
            }
        }
    }

    fn take_message(&mut self) -> Result<Option<Message>, DbusError> {
        let Some(head) = self.pending.first_chunk() else { return Ok(None) };
        let length = Message::length(head)?;
        if self.pending.len() < length {
            return Ok(None);
        }
        let rest = self.pending.split_off(length);
        let bytes = std::mem::replace(&mut self.pending, rest);
        Ok(Some(Message::parse(bytes)?))
    }

    /// Receive some bytes; false when `until` has passed. What is already there is taken even then.
    fn fill(&mut self, until: Instant) -> Result<bool, DbusError> {
        let mut buffer = [0; 32 << 10];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(DbusError::Closed),
                Ok(count) => {
                    self.pending.extend_from_slice(&buffer[..count]);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.ready(PollFlags::IN, until)? {
                        return Ok(false);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(DbusError::Closed),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn write(&mut self, mut bytes: &[u8], until: Instant) -> Result<(), DbusError> {
        while !bytes.is_empty() {
            match self.socket.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.ready(PollFlags::OUT, until)? {
                        return Err(DbusError::TimedOut);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(DbusError::Closed),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Wait until the socket can be read or written; false when `until` has passed.
    fn ready(&self, what: PollFlags, until: Instant) -> Result<bool, DbusError> {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&self.socket, what)], Some(&left)) {
            Ok(count) => Ok(count > 0),
            // The caller tries again, and comes back here if there is time left.
            Err(rustix::io::Errno::INTR) => Ok(Instant::now() < until),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }
}

/// What `message` answers to the call with this serial; `None` if it is no answer to it.
pub fn reply_to(message: &Message, serial: u32) -> Option<Result<Vec<Value>, DbusError>> {
    match &message.kind {
        Kind::Reply(to) if *to == serial => Some(message.arguments().map_err(DbusError::from)),
        Kind::Error(to, name) if *to == serial => {
            let text = message.arguments().ok().and_then(|values| Some(values.first()?.text()?.to_owned()));
            let text = crate::shared::text::printable(text.as_deref().unwrap_or(name).trim_end_matches('.').as_bytes());
            Some(Err(DbusError::Reply { name: name.clone(), text }))
        }
        _ => None,
    }
}
