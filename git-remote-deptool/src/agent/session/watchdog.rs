//! Detects hosts that are silent, make no progress, or flood us with messages.

use std::time::{Duration, Instant};

use deptool_agent::shared::wire::Response;

/// The agent is given up after this time without progress. Checks and settling take minutes at most.
const STALLED: Duration = Duration::from_secs(15 * 60);
/// How many heartbeats, notes and progress messages a host may send at once, and how many more each second.
const CHATTER: u64 = 2000;
const CHATTER_PER_SECOND: u64 = 20;

/// Tracks when the host last sent a message and made progress, and how many messages it sent without progress.
pub(super) struct Watchdog {
    begun: Instant,
    /// When the last message was received.
    heard: Instant,
    /// Since when we have waited for an answer or the next step, or `None` while the host waits for us.
    owes_since: Option<Instant>,
    /// The number of messages that were not progress.
    chatter: u64,
}

impl Watchdog {
    pub fn begin(now: Instant) -> Watchdog {
        Watchdog { begun: now, heard: now, owes_since: Some(now), chatter: 0 }
    }

    pub fn asked(&mut self, now: Instant) {
        self.owes_since = Some(now);
    }

    /// Take note of a message. The error says why the host is given up.
    pub fn on_message(&mut self, message: &Response, now: Instant) -> Result<(), &'static str> {
        self.heard = now;
        match message {
            Response::Heartbeat
            | Response::Note(_)
            | Response::Came { after: _ }
            | Response::Progress(_)
            | Response::WaitsFor(_) => {
                self.chatter += 1;
                let allowed = CHATTER + CHATTER_PER_SECOND * now.duration_since(self.begun).as_secs();
                if self.chatter > allowed {
                    return Err("sent more messages than any deployment needs");
                }
                match self.owes_since {
                    Some(since) if now.duration_since(since) >= STALLED => Err("made no progress for 15 minutes"),
                    Some(_) | None => Ok(()),
                }
            }
            // The host waits for us, and we may be waiting for other hosts.
            Response::Prepared | Response::AwaitsConfirmation { .. } | Response::Healthy | Response::Kept => {
                self.owes_since = None;
                Ok(())
            }
            Response::Hello(_)
            | Response::NeedFull
            | Response::Attached
            | Response::NotRunning(_)
            | Response::Ended(_)
            | Response::Data(_)
            | Response::End
            | Response::Blob { size: _ }
            | Response::Attempts(_)
            | Response::Drift(_)
            | Response::Entry { .. }
            | Response::UnitNow(_)
            | Response::Candidates { .. }
            | Response::Error(_)
            | Response::Pong => {
                self.owes_since = self.owes_since.map(|_| now);
                Ok(())
            }
        }
    }

    pub fn is_silent(&self, patience: Duration, now: Instant) -> bool {
        now.duration_since(self.heard) >= patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::session::{HEARTBEAT, SILENCE};

    #[test]
    fn a_host_that_is_alive_and_does_not_get_on_is_given_up() {
        let begin = Instant::now();
        let mut watchdog = Watchdog::begin(begin);
        let mut now = begin;
        let mut beat_until = |watchdog: &mut Watchdog, end: Duration| -> Result<(), &'static str> {
            while now.duration_since(begin) < end {
                now += HEARTBEAT;
                watchdog.on_message(&Response::Heartbeat, now)?;
            }
            Ok(())
        };
        assert_eq!(beat_until(&mut watchdog, STALLED - HEARTBEAT), Ok(()));
        // It has got on, and waits for us, however long.
        watchdog.on_message(&Response::Prepared, begin + STALLED - HEARTBEAT).unwrap();
        assert_eq!(beat_until(&mut watchdog, STALLED * 5), Ok(()));
        watchdog.asked(begin + STALLED * 5);
        assert_eq!(beat_until(&mut watchdog, STALLED * 6 - HEARTBEAT), Ok(()));
        assert_eq!(beat_until(&mut watchdog, STALLED * 6), Err("made no progress for 15 minutes"));
    }

    #[test]
    fn a_host_that_says_the_same_over_and_over_is_given_up() {
        let now = Instant::now();
        for message in [Response::Heartbeat, Response::Note("x".into())] {
            let mut watchdog = Watchdog::begin(now);
            let many = std::iter::repeat_with(|| watchdog.on_message(&message, now)).take(10_000);
            assert_eq!(many.filter_map(Result::err).next(), Some("sent more messages than any deployment needs"));
        }
    }

    #[test]
    fn silence_is_noticed() {
        let begin = Instant::now();
        let mut watchdog = Watchdog::begin(begin);
        watchdog.on_message(&Response::Heartbeat, begin + HEARTBEAT).unwrap();
        assert!(!watchdog.is_silent(SILENCE, begin + SILENCE));
        assert!(watchdog.is_silent(SILENCE, begin + HEARTBEAT + SILENCE));
    }
}
