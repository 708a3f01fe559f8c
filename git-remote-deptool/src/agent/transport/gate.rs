//! Limits the number of connections that are being made at once.
//!
//! Many hosts may be behind one jump host, and OpenSSH starts to drop connections when ten have not logged in yet
//! (`MaxStartups 10:30:100`). So only a few connections are made at a time, and each counts until the other end has
//! answered. A connection that hangs soon stops to count: its login has passed the jump host, so it is no burden there.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::model::interrupt::Interrupt;

/// How many connections may be logging in at the same time. This is two fewer than OpenSSH accepts, to leave room for
/// other logins.
pub const AT_ONCE: usize = 8;
/// How long one of the first connections counts.
const PATIENCE: Duration = Duration::from_secs(3);
/// A connection stops to count after this many times the longest successful login, but not before the minimum.
const TIMES: u32 = 3;
const LEAST: Duration = Duration::from_secs(1);
/// How often a waiting connection checks whether it may continue.
const LOOK: Duration = Duration::from_millis(250);

/// Admits connections.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The admitted connections: a number for each, and the time of its admission.
    within: Vec<(u64, Instant)>,
    passes: u64,
    /// The longest time that a successful login has taken.
    longest: Option<Duration>,
}

/// The permission to connect. It ends when this is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Pass {
    gate: Arc<Gate>,
    number: u64,
    since: Instant,
}

impl Gate {
    /// Wait for a pass, or return `None` if `interrupted` becomes true first.
    pub fn enter(self: &Arc<Self>, interrupted: &Interrupt) -> Option<Pass> {
        let mut state = self.lock();
        loop {
            if interrupted.is_set() {
                return None;
            }
            let now = Instant::now();
            if state.count(now) < AT_ONCE {
                let number = state.passes;
                state.passes += 1;
                state.within.push((number, now));
                return Some(Pass { gate: self.clone(), number, since: now });
            }
            (state, _) = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The number of admitted connections that do not hang at `now`.
    fn count(&self, now: Instant) -> usize {
        let patience = self.longest.map_or(PATIENCE, |longest| (longest * TIMES).max(LEAST));
        self.within.iter().filter(|(_, since)| now.saturating_duration_since(*since) < patience).count()
    }
}

impl Pass {
    /// The other end has answered.
    pub fn through(self) {
        let took = self.since.elapsed();
        {
            let mut state = self.gate.lock();
            state.longest = state.longest.max(Some(took));
        }
        drop(self);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.lock().within.retain(|(number, _)| *number != self.number);
        self.gate.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn only_so_many_are_within_at_once_and_all_come_through() {
        let (gate, within, most, through) =
            (Arc::<Gate>::default(), AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..60 {
                scope.spawn(|| {
                    let pass = gate.enter(&Interrupt::default()).unwrap();
                    most.fetch_max(within.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::yield_now();
                    within.fetch_sub(1, Ordering::SeqCst);
                    pass.through();
                    through.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        assert!(most.into_inner() <= AT_ONCE);
        assert_eq!(through.into_inner(), 60);
        assert!(gate.lock().within.is_empty());
    }

    #[test]
    fn who_hangs_is_soon_not_waited_for() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut state = State { within: vec![(0, now), (1, now + 2 * second)], ..State::default() };
        assert_eq!(state.count(now + 2 * second), 2, "nothing is known of how long it takes");
        assert_eq!(state.count(now + 4 * second), 1);
        state.longest = Some(second / 10);
        assert_eq!(state.count(now + 2 * second), 1, "others take a tenth of a second");
        state.longest = Some(2 * second);
        assert_eq!(state.count(now + 4 * second), 2, "others take two seconds");
    }

    #[test]
    fn whoever_waits_can_be_interrupted() {
        let gate = Arc::<Gate>::default();
        let passes: Vec<_> = (0..AT_ONCE).map(|_| gate.enter(&Interrupt::default()).unwrap()).collect();
        let interrupted = Interrupt::default();
        interrupted.set();
        assert!(gate.enter(&interrupted).is_none());
        drop(passes);
        assert!(gate.enter(&Interrupt::default()).is_some());
    }
}
