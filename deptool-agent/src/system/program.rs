//! Runs programs of the host, those of systemd and of its package manager: without a shell, with a clean environment, and with
//! limits for time and output.

use std::{
    ffi::OsStr,
    io::{self, Read},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::SystemError;

/// The search path for programs. The PATH of the session is not used: sudo and ssh set it differently.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The most bytes that are kept of each output stream: its end, or its beginning.
const KEPT: usize = 64 << 10;

/// How a program ended, and its output.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Whether the program is installed.
pub fn exists(program: &str) -> bool {
    PATH.split(':').any(|directory| Path::new(directory).join(program).is_file())
}

/// Run a program and wait for it. Fails unless the program succeeded.
pub fn succeed(program: &str, arguments: &[&OsStr], limit: Duration) -> Result<Ended, SystemError> {
    let ended =
        run(program, arguments, limit).map_err(|error| SystemError(format!("can't run '{program}': {error}")))?;
    match ended.status.success() {
        true => Ok(ended),
        false => Err(failure(program, &ended)),
    }
}

/// The complaints of a program that succeeded. Messages about created files are not complaints.
pub fn complaints(ended: &Ended) -> String {
    let text = String::from_utf8_lossy(&ended.stderr);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("Creating "));
    lines.collect::<Vec<_>>().join("\n")
}

/// The error for a program that failed.
pub fn failure(program: &str, ended: &Ended) -> SystemError {
    let stderr = crate::shared::text::printable_lines(ended.stderr.trim_ascii());
    let colon = if stderr.is_empty() { "" } else { ": " };
    SystemError(format!("'{program}' failed ({}){colon}{stderr}", ended.status))
}

/// Run a program and wait for it. After `limit` the program is killed and the call fails.
pub fn run(program: &str, arguments: &[&OsStr], limit: Duration) -> io::Result<Ended> {
    run_with(program, arguments, &[], limit)
}

/// Like [`run`], with additional environment variables.
pub fn run_with(
    program: &str,
    arguments: &[&OsStr],
    environment: &[(&str, &OsStr)],
    limit: Duration,
) -> io::Result<Ended> {
    let mut stdout = Vec::new();
    let (status, stderr) = start(program, arguments, environment, limit, &mut |bytes| keep(&mut stdout, bytes))?;
    Ok(Ended { status, stdout, stderr })
}

/// Run a program and pass on each line of its output, without the line feed. Of a line that is too long, the end is passed
/// on. After `limit` the program is killed and the call fails.
pub fn lines(
    program: &str,
    arguments: &[&OsStr],
    limit: Duration,
    each: &mut dyn FnMut(&[u8]),
) -> io::Result<ExitStatus> {
    let mut rest = Vec::new();
    let (status, _) = start(program, arguments, &[], limit, &mut |bytes| {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            keep(&mut rest, piece);
            if let Some(line) = rest.strip_suffix(b"\n") {
                each(line);
                rest.clear();
            }
        }
    })?;
    if !rest.is_empty() {
        each(&rest);
    }
    Ok(status)
}

/// Run a program. Returns how it ended, and the beginning of its output. After `limit` the program is killed and the call fails.
pub fn beginning(program: &str, arguments: &[&OsStr], limit: Duration) -> io::Result<(ExitStatus, Vec<u8>)> {
    let mut stdout = Vec::new();
    let (status, _) = start(program, arguments, &[], limit, &mut |bytes| {
        let room = KEPT - stdout.len();
        stdout.extend_from_slice(&bytes[..bytes.len().min(room)]);
    })?;
    Ok((status, stdout))
}

/// Run a program. Returns how it ended, and the end of what it wrote to stderr.
fn start(
    program: &str,
    arguments: &[&OsStr],
    environment: &[(&str, &OsStr)],
    limit: Duration,
    each: &mut dyn FnMut(&[u8]),
) -> io::Result<(ExitStatus, Vec<u8>)> {
    let until = Instant::now() + limit;
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .envs(environment.iter().copied())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let result = collect(&mut child, until, each);
    if result.is_err() {
        // The program may have ended just now. Then killing it fails, but it must be reaped anyway.
        let _ = child.kill();
        let _ = child.wait();
    }
    result
}

fn collect(child: &mut Child, until: Instant, each: &mut dyn FnMut(&[u8])) -> io::Result<(ExitStatus, Vec<u8>)> {
    let (Some(mut out), Some(mut err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("its output can't be read"));
    };
    let mut stderr = Vec::new();
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        // Do not poll a stream that has ended: it would always be ready.
        let flags = |open| if open { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = [PollFd::new(&out, flags(out_open)), PollFd::new(&err, flags(err_open))];
        match poll(&mut fds, Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [out_ready, err_ready] = fds.map(|fd| !fd.revents().is_empty());
        if out_open && out_ready {
            out_open = read_some(&mut out, each)?;
        }
        if err_open && err_ready {
            err_open = read_some(&mut err, &mut |bytes| keep(&mut stderr, bytes))?;
        }
    }
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, stderr));
        }
        if Instant::now() >= until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // The program has closed its output, so it is about to end.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Read what can be read now. Returns false at the end of the stream.
fn read_some(from: &mut impl Read, each: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
    let mut buffer = [0; 8 << 10];
    let count = match from.read(&mut buffer) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
        other => other?,
    };
    each(&buffer[..count]);
    Ok(count > 0)
}

/// Append `bytes`, and keep the end.
fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    kept.extend_from_slice(bytes);
    if kept.len() > KEPT {
        kept.drain(..kept.len() - KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> io::Result<Ended> {
        run("sh", &[OsStr::new("-c"), OsStr::new(script)], limit)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn both_streams_and_the_status_are_kept() {
        let ended = sh("echo out; echo err >&2; exit 3", LONG).unwrap();
        assert_eq!((ended.stdout, ended.stderr, ended.status.code()), (b"out\n".into(), b"err\n".into(), Some(3)));
        let error = succeed("sh", &[OsStr::new("-c"), OsStr::new("echo bad >&2; exit 3")], LONG).unwrap_err();
        assert_eq!(error.0, "'sh' failed (exit status: 3): bad");
        assert!(succeed("no-such-program", &[], LONG).unwrap_err().0.starts_with("can't run 'no-such-program'"));
    }

    #[test]
    fn of_long_output_the_end_is_kept() {
        let ended = sh("head -c 300000 /dev/zero; printf end", LONG).unwrap();
        assert!(ended.stdout.len() == KEPT && ended.stdout.ends_with(b"end"));
    }

    #[test]
    fn of_long_output_the_beginning_can_be_had() {
        let script = OsStr::new("printf begin; head -c 300000 /dev/zero; exit 3");
        let (status, stdout) = beginning("sh", &[OsStr::new("-c"), script], LONG).unwrap();
        assert!(stdout.len() == KEPT && stdout.starts_with(b"begin"));
        assert_eq!(status.code(), Some(3));
    }

    #[test]
    fn lines_are_passed_on_one_by_one_and_there_may_be_more_than_is_kept() {
        let (mut count, mut last) = (0, Vec::new());
        let script =
            OsStr::new("i=0; while [ $i -lt 9000 ]; do echo line number $i; i=$((i+1)); done; printf end; exit 3");
        let status = lines("sh", &[OsStr::new("-c"), script], LONG, &mut |line| {
            count += 1;
            last = line.to_vec();
        });
        assert_eq!((count, last, status.unwrap().code()), (9001, b"end".to_vec(), Some(3)));
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        assert_eq!(sh("exec sleep 1000", Duration::from_millis(20)).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(
            sh("exec sleep 1000 >&- 2>&-", Duration::from_millis(20)).unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
    }

    #[test]
    fn nothing_of_our_environment_is_passed_on() {
        let ended = sh("exec env", LONG).unwrap();
        let names: Vec<_> =
            ended.stdout.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b'=').next()).collect();
        assert!(!names.contains(&b"HOME".as_slice()) && names.contains(&b"PATH".as_slice()));
    }
}
