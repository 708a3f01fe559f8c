//! How many connections are being made at once.
//!
//! Many hosts may be behind one jump host, whose OpenSSH begins to drop connections when ten have not logged in yet
//! (`MaxStartups 10:30:100`). So a few are let through at a time, each until the other end has answered. One that hangs
//! is soon not waited for any more: a host that is down is no burden to a jump host, which that login has passed.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::model::interrupt::Interrupt;

/// How many connections may be logging in at a time: two fewer than OpenSSH starts to drop, to leave room for other logins.
pub const AT_ONCE: usize = 8;
/// How long the first ones are waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// How much longer than those that came through before a connection may take, and the least that is allowed.
const TIMES: u32 = 3;
const LEAST: Duration = Duration::from_secs(1);
/// How often a waiting connection looks whether it may go on.
const LOOK: Duration = Duration::from_millis(250);

/// Lets connections through.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Those that are within: a number for each, and since when.
    within: Vec<(u64, Instant)>,
    passes: u64,
    /// What the slowest of those that came through took.
    longest: Option<Duration>,
}

/// The right to be within, until dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Pass {
    gate: Arc<Gate>,
    number: u64,
    since: Instant,
}

impl Gate {
    /// Wait for a pass; `None` if `interrupted` becomes true before.
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
    /// How many are within at `now` and not taken to hang.
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
