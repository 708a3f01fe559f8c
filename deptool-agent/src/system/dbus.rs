//! A D-Bus connection to systemd. It is our own code because a D-Bus library would double the agent's size.
//!
//! The formats are in the D-Bus Specification, "Authentication Protocol" and "Message Protocol"; the calls are in
//! org.freedesktop.systemd1(5). Only calls, replies and signals are implemented: no file descriptors and no services.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

mod marshal;
mod message;
mod value;

pub use marshal::WireError;
pub use message::{Call, Kind, Message, Signal};
pub use value::Value;

/// systemd's private socket, for root only. It is not a bus: there are no names, and all signals are sent.
const PRIVATE: &str = "/run/systemd/private";
/// The socket of the service manager of the user with this id.
pub fn private_of(uid: u32) -> PathBuf {
    format!("/run/user/{uid}/systemd/private").into()
}

/// systemd's name. Its own socket ignores it.
pub const SYSTEMD: &str = "org.freedesktop.systemd1";
/// The interface of systemd's main object.
pub const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";

/// The time-out for calls that systemd answers at once. It may be in the middle of a reload, and does not answer then.
pub const ANSWER: Duration = Duration::from_secs(60);
/// The time-out for the authentication.
const CONNECTING: Duration = Duration::from_secs(10);
/// The limit for a line of the authentication protocol, in bytes. Real lines are far shorter.
const LONGEST_LINE: usize = 4096;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum DbusError {
    #[error("can't connect to '{}': {source}", socket.display())]
    Connect { socket: PathBuf, source: io::Error },
    #[error("the connection to systemd broke: {0}")]
    Io(#[from] io::Error),
    #[error("systemd closed the connection")]
    Closed,
    #[error("systemd refused the connection: {0}")]
    Refused(String),
    #[error("systemd did not answer in time")]
    TimedOut,
    #[error("systemd sent something unexpected: {0}")]
    Wire(#[from] WireError),
    /// An error reply to a call. The connection is still usable.
    #[error("{text}")]
    Reply { name: String, text: String },
}

/// A call to systemd's main object.
pub fn manager_call<'a>(member: &'a str, arguments: &'a [Value]) -> Call<'a> {
    Call { destination: SYSTEMD, path: MANAGER_PATH, interface: MANAGER, member, arguments }
}

/// A connection. After an error other than [`DbusError::Reply`] it must not be used any more.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    /// Bytes that were received and not yet parsed.
    pending: Vec<u8>,
    /// Whether systemd has accepted us.
    is_accepted: bool,
    last_serial: u32,
}

impl Connection {
    /// Connect to the system's manager, or to that of the user with this id. User managers take calls from root, too.
    ///
    /// Whatever is done first waits until the system's manager has accepted us. A user's manager may not answer at all.
    pub fn open(user: Option<u32>) -> Result<Connection, DbusError> {
        let Some(uid) = user else { return Connection::connect(Path::new(PRIVATE)) };
        let mut connection = Connection::connect(&private_of(uid))?;
        // The directory is the user's. A link in it to the system's socket would have us control the system's units.
        match rustix::net::sockopt::socket_peercred(&connection.socket) {
            Ok(peer) if peer.uid.as_raw() == uid => connection.await_acceptance().map(|()| connection),
            _ => Err(DbusError::Refused("it is not a process of the user".into())),
        }
    }

    /// Connect, and authenticate as in the specification, "Authentication Protocol": one zero byte, then lines. The kernel tells
    /// systemd the user id.
    pub fn connect(path: &Path) -> Result<Connection, DbusError> {
        let socket = connect(path).map_err(|source| DbusError::Connect { socket: path.to_owned(), source })?;
        let mut connection = Connection { socket, pending: Vec::new(), is_accepted: false, last_serial: 0 };
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hex = crate::shared::text::hex(uid.as_bytes());
        // Send BEGIN without waiting for the answer, as systemd's own library does. After a refusal it does no harm.
        connection.write(format!("\0AUTH EXTERNAL {hex}\r\nBEGIN\r\n").as_bytes(), Instant::now() + CONNECTING)?;
        Ok(connection)
    }

    /// Wait for the answer to the authentication. systemd would not notice a call that it receives together with BEGIN until it
    /// receives something else.
    fn await_acceptance(&mut self) -> Result<(), DbusError> {
        let until = Instant::now() + CONNECTING;
        while !self.is_accepted {
            if let Some(end) = self.pending.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.pending.drain(..end + 2).collect();
                if !line.starts_with(b"OK ") {
                    return Err(DbusError::Refused(crate::shared::text::printable(line.trim_ascii_end())));
                }
                self.is_accepted = true;
            } else if self.pending.len() > LONGEST_LINE {
                return Err(WireError("a line is too long").into());
            } else if !self.fill(until)? {
                return Err(DbusError::TimedOut);
            }
        }
        Ok(())
    }

    /// Send a call. Returns the serial that the reply will name.
    pub fn send(&mut self, call: &Call<'_>, until: Instant) -> Result<u32, DbusError> {
        self.await_acceptance()?;
        self.last_serial = self.last_serial.checked_add(1).unwrap_or(1);
        self.write(&call.to_bytes(self.last_serial), until)?;
        Ok(self.last_serial)
    }

    /// Send calls, all of them at once: systemd reads what has arrived before it starts a job, so that jobs which are asked
    /// for together are queued together, and After= holds among them. Returns the serials.
    pub fn send_all(&mut self, calls: &[Call<'_>], until: Instant) -> Result<Vec<u32>, DbusError> {
        self.await_acceptance()?;
        let (mut bytes, mut serials) = (Vec::new(), Vec::with_capacity(calls.len()));
        for call in calls {
            self.last_serial = self.last_serial.checked_add(1).unwrap_or(1);
            bytes.extend(call.to_bytes(self.last_serial));
            serials.push(self.last_serial);
        }
        self.write(&bytes, until)?;
        Ok(serials)
    }

    /// Receive the next message, or `None` if no message is complete by `until`.
    pub fn receive(&mut self, until: Instant) -> Result<Option<Message>, DbusError> {
        self.await_acceptance()?;
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(Some(message));
            }
            if !self.fill(until)? {
                return Ok(None);
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

    /// Whether everything that was received was also taken.
    pub fn is_drained(&self) -> bool {
        self.pending.is_empty()
    }

    /// Wait until something arrives on one of these, but not longer than `limit`.
    pub fn wait_for_any(connections: &[&Connection], limit: Duration) -> Result<(), DbusError> {
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
        let mut fds: Vec<_> = connections.iter().map(|one| PollFd::new(&one.socket, PollFlags::IN)).collect();
        match poll(&mut fds, Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(io::Error::from(error).into()),
        }
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

/// Connect without waiting. If a user listens in place of the user's manager and never accepts, the kernel would wait for ever.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A connection, and systemd's side of it.
    fn connected() -> (Connection, UnixStream) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("private");
        let listener = UnixListener::bind(&path).unwrap();
        let connection = Connection::connect(&path).unwrap();
        (connection, listener.accept().unwrap().0)
    }

    #[test]
    fn a_socket_that_is_never_accepted_from_does_not_hang_the_agent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("private");
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let mut waiting = Vec::new();
        let error = loop {
            match Connection::connect(&path) {
                Ok(connection) => waiting.push(connection),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, DbusError::Connect { .. }), "{error}");
    }

    #[test]
    fn no_call_is_sent_together_with_the_authentication() {
        let (mut connection, mut systemd) = connected();
        let until = Instant::now() + Duration::from_secs(10);
        let answers = std::thread::spawn(move || {
            let mut sent = [0; 4096];
            let count = systemd.read(&mut sent).unwrap();
            assert!(sent[..count].ends_with(b"BEGIN\r\n"), "{:?}", String::from_utf8_lossy(&sent[..count]));
            systemd.write_all(b"OK 0123\r\n").unwrap();
            // Any message will do as an answer, for example the call.
            let count = systemd.read(&mut sent).unwrap();
            systemd.write_all(&sent[..count]).unwrap();
        });
        connection.send(&manager_call("Subscribe", &[]), until).unwrap();
        assert_eq!(connection.receive(until).unwrap().unwrap().kind, Kind::Other);
        assert!(connection.is_drained());
        answers.join().unwrap();
    }

    #[test]
    fn a_refusal_is_the_error_of_the_first_call() {
        let (mut connection, mut systemd) = connected();
        let until = Instant::now() + Duration::from_secs(10);
        systemd.write_all(b"REJECTED EXTERNAL\r\n").unwrap();
        let error = connection.send(&manager_call("Subscribe", &[]), until).unwrap_err();
        assert_eq!(error.to_string(), "systemd refused the connection: REJECTED EXTERNAL");
    }
}
