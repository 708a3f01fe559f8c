//! Waits for the first line of an agent, or of the install script.

use std::{
    io::{self, Read},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    ConnectError, Connector, Endpoint, INTERRUPT_CHECK, Link, PATIENCE_WITH_ENDING,
    process::{self, Connection},
    ssh::{self, Questions},
};
use crate::agent::install::{
    InstallError,
    opening::{self, MAX_OPENING, Opening, Scan},
};

/// How long a login may take until the first line begins, while nothing is being sent and ssh can't be asking.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the first line may take to complete after its first byte.
const PATIENCE_WITH_NOISE: Duration = Duration::from_secs(10);
impl Connector {
    /// Wait for the first line and parse it. Fail after the limits for a login, or at `deadline`.
    pub(super) fn first_line(
        &self,
        target: &Endpoint,
        link: &mut Link,
        deadline: Option<Instant>,
    ) -> Result<Opening, ConnectError> {
        let host = target.shown();
        let mut seen = Vec::new();
        let mut patience = Patience::begin(deadline);
        loop {
            match opening::scan(&seen) {
                Scan::Found(opening, length) => {
                    link.incoming.put_back(&seen[length..]);
                    return Ok(opening);
                }
                Scan::Noise(text) => return Err(ConnectError::Noise { host, text }),
                Scan::Malformed(text) => return Err(ConnectError::Nonsense { host, text }),
                Scan::More => {}
            }
            match self.readable(target, link, &mut patience) {
                Ok(Readiness::Ready) => {}
                Ok(Readiness::Silent) => {
                    link.connection.stopper().stop();
                    return Err(match seen.trim_ascii() {
                        [] => ConnectError::Silent { seconds: patience.began.elapsed().as_secs() },
                        seen => ConnectError::Noise { host, text: opening::excerpt(seen) },
                    });
                }
                Ok(Readiness::Interrupted) => {
                    link.connection.stopper().stop();
                    return Err(ConnectError::Interrupted);
                }
                Err(source) => return Err(ConnectError::Read { host, source }),
            }
            let mut buffer = [0; MAX_OPENING];
            match link.incoming.read(&mut buffer) {
                Ok(0) => return Err(no_answer(target, &link.connection, &seen)),
                Ok(n) => {
                    patience.has_begun();
                    seen.extend_from_slice(&buffer[..n]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ConnectError::Read { host, source }),
            }
        }
    }

    /// Wait for input or its end, within the limits.
    fn readable(&self, target: &Endpoint, link: &Link, patience: &mut Patience) -> io::Result<Readiness> {
        let slice = Timespec::try_from(INTERRUPT_CHECK).map_err(io::Error::other)?;
        loop {
            if self.interrupted.is_set() {
                return Ok(Readiness::Interrupted);
            }
            match poll(&mut [PollFd::new(&link.incoming.stdout, PollFlags::IN)], Some(&slice)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(Readiness::Ready),
                Err(error) => return Err(error.into()),
            }
            let may_ask = || target.questions() == Questions::Allowed && link.connection.may_be_asking();
            if patience.is_over(link.outgoing.written(), may_ask, Instant::now()) {
                return Ok(Readiness::Silent);
            }
        }
    }
}

/// The time limits for the first line.
struct Patience {
    began: Instant,
    deadline: Option<Instant>,
    /// When the host last read some of our data, or ssh last may have asked the operator.
    since: Instant,
    written: usize,
    /// When the first byte was received.
    begun: Option<Instant>,
}

impl Patience {
    fn begin(deadline: Option<Instant>) -> Patience {
        let now = Instant::now();
        Patience { began: now, deadline, since: now, written: 0, begun: None }
    }

    /// The first line, or other output of the login, has begun.
    fn has_begun(&mut self) {
        self.begun.get_or_insert_with(Instant::now);
    }

    /// Whether a limit has passed. `written` is the number of bytes sent so far.
    fn is_over(&mut self, written: usize, may_ask: impl FnOnce() -> bool, now: Instant) -> bool {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return true;
        }
        if self.begun.is_some_and(|begun| now.saturating_duration_since(begun) >= PATIENCE_WITH_NOISE) {
            return true;
        }
        if written != self.written {
            (self.written, self.since) = (written, now);
        }
        if now.saturating_duration_since(self.since) < PATIENCE {
            return false;
        }
        let is_over = !may_ask();
        self.since = now;
        is_over
    }
}

enum Readiness {
    Ready,
    Silent,
    Interrupted,
}

/// The error for a program that closed its stdout without a first line.
fn no_answer(target: &Endpoint, connection: &Connection, seen: &[u8]) -> ConnectError {
    let status = connection.wait_for(PATIENCE_WITH_ENDING).ok().flatten();
    let stderr = connection.stderr_at_end();
    let host = target.shown();
    let reason = ssh::reason(&stderr);
    connection.is_told(|line| ssh::is_told(line, &reason));
    // 255 is ssh's own status: it could not connect or log in, or it lost the connection. An unknown status is treated
    // the same.
    if let Endpoint::Ssh(ssh) = target
        && matches!(status.map(|status| status.code()), None | Some(None | Some(255)))
    {
        return if ssh.needs_answer(&stderr) {
            ConnectError::NeedsAnswer(reason)
        } else if stderr.trim().is_empty() && status.is_some() {
            ConnectError::Cut
        } else {
            ConnectError::Unreachable(reason)
        };
    }
    if let Some(error) = InstallError::from_refusal(&stderr) {
        return ConnectError::Install { host, error };
    }
    let stderr = match seen.trim_ascii() {
        [] if stderr.trim().is_empty() => "it said nothing".into(),
        [] => opening::excerpt(reason.as_bytes()),
        seen => format!("'{}'", opening::excerpt(seen)),
    };
    let is_failure = status.is_some_and(|status| !status.success());
    ConnectError::NoAnswer {
        host,
        status: status.map_or("it still runs".into(), process::describe),
        is_failure,
        stderr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it is over after so many seconds of a login that has written, has begun, and may ask.
    #[test]
    fn a_login_is_given_up_that_is_silent_drips_or_outlasts_its_deadline() {
        let mut silent = Patience::begin(None);
        let begin = silent.since;
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert!(!silent.is_over(0, || false, after(29)));
        assert!(silent.is_over(0, || false, after(30)));

        let mut uploading = Patience::begin(None);
        for second in 1..200 {
            assert!(!uploading.is_over(second as usize, || false, after(second)), "it takes what is sent");
        }
        let mut asking = Patience::begin(None);
        assert!((1..2000).all(|second| !asking.is_over(0, || true, after(second))), "nobody hurries an operator");

        let mut dripping = Patience::begin(None);
        dripping.has_begun();
        assert!(!dripping.is_over(0, || false, after(9)));
        assert!(dripping.is_over(0, || false, after(11)));

        let mut late = Patience::begin(Some(after(5)));
        assert!(!late.is_over(0, || true, after(4)));
        assert!(late.is_over(0, || true, after(5)));
    }
}
