//! A session over a connection that ssh shares (`ControlMaster`), without starting ssh, whose start takes six milliseconds of
//! processor time. The protocol is version 4 of `PROTOCOL.mux` in the sources of OpenSSH.
//!
//! As if ssh had been started, the process that has the connection reads and writes our pipes. Its socket only tells how the session
//! goes.

use std::{
    fs,
    io::{self, IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{fs::FileTypeExt, fs::MetadataExt, net::UnixStream, process::ExitStatusExt},
    },
    path::Path,
    process::ExitStatus,
    time::Duration,
};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType, sendmsg,
};

const VERSION: u32 = 4;
const HELLO: u32 = 1;
const NEW_SESSION: u32 = 0x1000_0002;
const PERMISSION_DENIED: u32 = 0x8000_0002;
const FAILURE: u32 = 0x8000_0003;
const EXIT: u32 = 0x8000_0004;
const SESSION_OPENED: u32 = 0x8000_0006;
/// Longer messages are not part of an answer to us.
const MAX_MESSAGE: usize = 64 * 1024;
/// The status of ssh if it loses the connection.
const LOST: i32 = 255;
/// The other process only has to take what fits into its socket.
const PATIENCE: Duration = Duration::from_secs(1);

/// A session. Dropping it ends the session, whatever the program on the host is doing.
#[derive(Debug)]
pub struct MuxSession {
    socket: UnixStream,
    received: Vec<u8>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The other process has not said hello yet, so it has not read our request.
    Called,
    Asked,
    Opened,
    /// There is no session, and nothing was passed on to the host.
    Refused,
    Ended(ExitStatus),
}

impl MuxSession {
    /// Ask for a session that runs `command` with these pipes for stdin, stdout and stderr. If this fails, there is none.
    ///
    /// `variable` is a name and a value for its environment. The host gets it if the connection was made with a matching `SendEnv`.
    pub fn begin(
        socket: &Path,
        command: &str,
        variable: Option<(&str, &str)>,
        pipes: [BorrowedFd<'_>; 3],
    ) -> io::Result<MuxSession> {
        let meta = fs::symlink_metadata(socket)?;
        // Once ours is gone, others may be able to make one there.
        if !meta.file_type().is_socket() || meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut socket = connect(socket)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.write_all(&request(command, variable))?;
        for pipe in pipes {
            pass(&socket, pipe)?;
        }
        socket.set_nonblocking(true)?;
        Ok(MuxSession { socket, received: Vec::new(), state: State::Called })
    }

    /// The status of the command, as ssh would exit with it, or `None` if it still runs.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.advance();
        match self.state {
            State::Called | State::Asked | State::Opened => None,
            State::Refused => Some(ended(LOST)),
            State::Ended(status) => Some(status),
        }
    }

    /// Whether it is certain that nothing reached the host.
    pub fn is_refused(&mut self) -> bool {
        self.advance();
        self.state == State::Refused
    }

    /// End the session.
    pub fn stop(&self) {
        // If it is closed already, it has ended.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Read what has arrived.
    fn advance(&mut self) {
        let mut buffer = [0; 1024];
        while matches!(self.state, State::Called | State::Asked | State::Opened) {
            match self.socket.read(&mut buffer) {
                Ok(0) => self.closed(),
                Ok(count) => {
                    self.received.extend_from_slice(&buffer[..count]);
                    while let Some(message) = take_message(&mut self.received) {
                        self.on(&message);
                    }
                    if self.received.len() > MAX_MESSAGE {
                        self.closed();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.closed(),
            }
        }
    }

    fn on(&mut self, message: &[u8]) {
        match (number(message, 0), self.state) {
            (Some(HELLO), State::Called) => {
                self.state = if number(message, 4) == Some(VERSION) { State::Asked } else { State::Refused };
            }
            (Some(SESSION_OPENED), State::Asked) => self.state = State::Opened,
            (Some(PERMISSION_DENIED | FAILURE), State::Asked) => self.state = State::Refused,
            (Some(EXIT), State::Asked | State::Opened) => {
                let code = number(message, 8).and_then(|code| i32::try_from(code).ok());
                self.state = State::Ended(ended(code.filter(|code| (0..=255).contains(code)).unwrap_or(LOST)));
            }
            // Anything else says nothing about the end of the session.
            _ => {}
        }
    }

    fn closed(&mut self) {
        self.state = match self.state {
            State::Called => State::Refused,
            State::Asked | State::Opened => State::Ended(ended(LOST)),
            over => over,
        };
    }
}

/// Connect without waiting: a process that is stopped accepts nothing.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(socket.into())
}

fn ended(code: i32) -> ExitStatus {
    ExitStatus::from_raw(code << 8)
}

/// Our hello, and the request for a session without a terminal and without forwarding.
fn request(command: &str, variable: Option<(&str, &str)>) -> Vec<u8> {
    const REQUEST_ID: u32 = 1;
    const NO_ESCAPE: u32 = u32::MAX;
    let mut session = Vec::new();
    let numbers = |to: &mut Vec<u8>, numbers: &[u32]| {
        numbers.iter().for_each(|number| to.extend_from_slice(&number.to_be_bytes()));
    };
    numbers(&mut session, &[NEW_SESSION, REQUEST_ID]);
    string(&mut session, ""); // reserved
    numbers(&mut session, &[0, 0, 0, 0, NO_ESCAPE]); // terminal, X11, agent, subsystem
    string(&mut session, ""); // the terminal's type
    string(&mut session, command);
    if let Some((name, value)) = variable {
        string(&mut session, &format!("{name}={value}"));
    }
    let mut all = Vec::new();
    numbers(&mut all, &[8, HELLO, VERSION, session.len() as u32]);
    all.extend(session);
    all
}

fn string(to: &mut Vec<u8>, text: &str) {
    to.extend_from_slice(&(text.len() as u32).to_be_bytes());
    to.extend_from_slice(text.as_bytes());
}

/// Pass a file on, with a byte that means nothing.
fn pass(socket: &UnixStream, file: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let files = [file];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket.as_fd(), &[IoSlice::new(&[0])], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

/// Take the first message, without its length, if all of it is there.
fn take_message(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = 4usize.checked_add(usize::try_from(number(received, 0)?).ok()?)?;
    let message = received.get(4..end)?.to_vec();
    received.drain(..end);
    Some(message)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{IoSliceMut, Read},
        os::{
            fd::OwnedFd,
            unix::net::{UnixListener, UnixStream},
        },
        process::{Command, Stdio},
        thread::{self, JoinHandle},
        time::Instant,
    };

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::*;

    /// What the process that has the connection does with a request.
    enum Answer {
        /// Not even a hello.
        Nothing,
        Hello(u32),
        Refusal(u32),
        /// It runs the command, and does not tell how it ended.
        Lost,
        Exit,
    }

    struct Master {
        directory: tempfile::TempDir,
        thread: JoinHandle<Vec<u8>>,
    }

    /// A process with a shared connection, as OpenSSH's mux.c does it. Its thread returns the request.
    fn master(answer: Answer) -> Master {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        let thread = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let version = match answer {
                Answer::Hello(version) => version,
                _ => VERSION,
            };
            if !matches!(answer, Answer::Nothing) {
                socket.write_all(&message(&[HELLO, version])).unwrap();
            }
            assert_eq!(receive(&mut socket), message(&[HELLO, VERSION])[4..]);
            let request = receive(&mut socket);
            let [stdin, stdout, stderr] = [(); 3].map(|()| Stdio::from(receive_file(&socket)));
            match answer {
                Answer::Nothing | Answer::Hello(_) => {}
                Answer::Refusal(kind) => {
                    socket.write_all(&message(&[kind, 1, 3, u32::from_be_bytes(*b"no!\0")])).unwrap()
                }
                Answer::Lost | Answer::Exit => {
                    socket.write_all(&message(&[SESSION_OPENED, 1, 0])).unwrap();
                    let mut command = Command::new("sh");
                    command.args(["-c", "read word; echo $word >&2; cat; exit 3"]);
                    let status = command.stdin(stdin).stdout(stdout).stderr(stderr).status().unwrap();
                    if matches!(answer, Answer::Exit) {
                        socket.write_all(&message(&[EXIT, 0, status.code().unwrap() as u32])).unwrap();
                    }
                }
            }
            request
        });
        Master { directory, thread }
    }

    fn message(numbers: &[u32]) -> Vec<u8> {
        let numbers = [&[numbers.len() as u32 * 4], numbers].concat();
        numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    fn receive(socket: &mut UnixStream) -> Vec<u8> {
        let mut length = [0; 4];
        socket.read_exact(&mut length).unwrap();
        let mut message = vec![0; u32::from_be_bytes(length) as usize];
        socket.read_exact(&mut message).unwrap();
        message
    }

    fn receive_file(socket: &UnixStream) -> OwnedFd {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        recvmsg(socket, &mut [IoSliceMut::new(&mut [0])], &mut ancillary, RecvFlags::empty()).unwrap();
        let files = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        files.unwrap()
    }

    /// Begin a session with pipes for stdin, stdout and stderr, of which these are our ends.
    fn begin(master: &Master) -> io::Result<(MuxSession, io::PipeWriter, io::PipeReader, io::PipeReader)> {
        let ((stdin, ours), (out, stdout), (err, stderr)) = (io::pipe()?, io::pipe()?, io::pipe()?);
        let pipes = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let variable = Some(("LC_X", "value"));
        let session = MuxSession::begin(&master.directory.path().join("socket"), "the command", variable, pipes)?;
        Ok((session, ours, out, err))
    }

    fn wait(session: &mut MuxSession) -> i32 {
        let begun = Instant::now();
        loop {
            match session.try_wait() {
                Some(status) => return status.code().unwrap(),
                None => assert!(begun.elapsed() < Duration::from_secs(60)),
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_session_has_the_pipes_the_command_and_the_status() {
        let master = master(Answer::Exit);
        let (mut session, mut stdin, mut stdout, mut stderr) = begin(&master).unwrap();
        assert_eq!(session.try_wait(), None);
        stdin.write_all(b"word\nand more").unwrap();
        drop(stdin);
        let (mut out, mut err) = (String::new(), String::new());
        stdout.read_to_string(&mut out).unwrap();
        stderr.read_to_string(&mut err).unwrap();
        assert_eq!((out.as_str(), err.as_str()), ("and more", "word\n"));
        assert_eq!(wait(&mut session), 3);
        assert!(!session.is_refused());
        let request = master.thread.join().unwrap();
        let end = b"\x00\x00\x00\x0bthe command\x00\x00\x00\x0aLC_X=value";
        assert!(request.ends_with(end), "{request:?}");
        assert_eq!(request.len() - end.len(), 8 + 4 + 5 * 4 + 4);
    }

    #[test]
    fn what_reached_no_host_is_told_from_what_may_have() {
        for answer in [Answer::Nothing, Answer::Hello(5), Answer::Refusal(FAILURE), Answer::Refusal(PERMISSION_DENIED)]
        {
            let master = master(answer);
            let (mut session, ..) = begin(&master).unwrap();
            assert_eq!(wait(&mut session), 255);
            assert!(session.is_refused());
            master.thread.join().unwrap();
        }
        // It has read the request, and nobody knows what became of it.
        for answer in [Answer::Hello(VERSION), Answer::Lost] {
            let master = master(answer);
            let (mut session, stdin, ..) = begin(&master).unwrap();
            drop(stdin);
            assert_eq!(wait(&mut session), 255);
            assert!(!session.is_refused());
            master.thread.join().unwrap();
        }
    }

    #[test]
    fn only_a_socket_of_our_own_is_used() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        let master = master(Answer::Exit);
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(master.directory.path().join("socket"), &link).unwrap();
        let stdin = io::stdin();
        let begin = |path: &Path| MuxSession::begin(path, "", None, [stdin.as_fd(); 3]).unwrap_err().kind();
        assert_eq!(begin(&file), io::ErrorKind::PermissionDenied);
        assert_eq!(begin(&link), io::ErrorKind::PermissionDenied);
        assert_eq!(begin(&directory.path().join("none")), io::ErrorKind::NotFound);
        if rustix::process::geteuid().is_root() {
            let socket = master.directory.path().join("socket");
            std::os::unix::fs::chown(&socket, Some(12345), None).unwrap();
            assert_eq!(begin(&socket), io::ErrorKind::PermissionDenied);
        }
    }
}
