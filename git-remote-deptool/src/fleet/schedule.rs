//! Runs many tasks in a few threads. A task that waits for something occupies no thread.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, Scope},
    time::{Duration, Instant},
};

/// How many tasks may block at the same time. With more, hosts that accept a connection and then are silent would be waited for
/// in less time, but hardly any fleet has so many of them.
const BLOCKED: usize = 32;
/// The threads for other tasks.
const OTHERS: usize = 4;
/// The stack size of each thread. None of them needs much.
const STACK: usize = 512 * 1024;
/// How often to look for tasks that wait for a time.
const LOOK: Duration = Duration::from_millis(100);

/// How a task goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It has something to do that may block.
    Blocks,
    /// It waits until it is woken, and no longer than until then.
    Waits(Manner, Instant),
    Over,
}

/// Whether a task may block a thread when it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Quick,
    Blocking,
}

/// Which tasks have something to do. Handles share it.
#[derive(Debug, Clone)]
pub struct Schedule(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    tasks: Vec<Progress>,
    /// The tasks that have something to do.
    quick: VecDeque<usize>,
    blocking: VecDeque<usize>,
    /// How many tasks may be blocking a thread now.
    blocked: usize,
    left: usize,
    /// A thread looks for tasks that wait for a time.
    is_watched: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Queued,
    Running { is_woken: bool },
    Waiting(Manner, Instant),
    Over,
}

impl Schedule {
    /// For `count` tasks, each of which may block at first.
    pub fn new(count: usize) -> Schedule {
        let state = State {
            tasks: vec![Progress::Queued; count],
            quick: VecDeque::new(),
            blocking: (0..count).collect(),
            blocked: 0,
            left: count,
            is_watched: false,
        };
        Schedule(Arc::new(Inner { state: Mutex::new(state), changed: Condvar::new() }))
    }

    /// Something has happened that a task may wait for.
    pub fn wake(&self, task: usize) {
        let mut state = self.lock();
        match state.tasks[task] {
            Progress::Running { .. } => state.tasks[task] = Progress::Running { is_woken: true },
            Progress::Waiting(manner, _) => state.queue(task, manner),
            Progress::Queued | Progress::Over => return,
        }
        drop(state);
        self.0.changed.notify_one();
    }

    /// Run the tasks to their ends, in threads of `scope`. `work` carries out a task as far as possible. Fails if not a single
    /// thread can be started.
    pub fn run<'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        work: impl Fn(usize) -> Next + Send + Sync + 'scope,
    ) -> io::Result<()> {
        let work = Arc::new(work);
        let count = self.lock().left;
        for started in 0..(count + 1).min(BLOCKED + OTHERS) {
            let (schedule, work) = (self.clone(), work.clone());
            let run = move || {
                while let Some((task, manner)) = schedule.next() {
                    let next = work(task);
                    schedule.ran(task, manner, next);
                }
            };
            let thread = thread::Builder::new().name("hosts".into()).stack_size(STACK).spawn_scoped(scope, run);
            // If some can't be started, the others do their work.
            if started == 0 {
                thread?;
            }
        }
        Ok(())
    }

    /// Wait for a task that has something to do. `None` if all are over.
    fn next(&self) -> Option<(usize, Manner)> {
        let mut state = self.lock();
        while state.left > 0 {
            if let Some(task) = state.take() {
                if !state.is_watched {
                    self.0.changed.notify_one();
                }
                return Some(task);
            }
            if state.is_watched {
                state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else {
                state.is_watched = true;
                (state, _) = self.0.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner);
                state.is_watched = false;
                state.queue_due(Instant::now());
            }
        }
        None
    }

    fn ran(&self, task: usize, manner: Manner, next: Next) {
        let mut state = self.lock();
        if manner == Manner::Blocking {
            state.blocked -= 1;
        }
        let is_woken = state.tasks[task] == Progress::Running { is_woken: true };
        match next {
            Next::Blocks => state.queue(task, Manner::Blocking),
            Next::Waits(manner, _) if is_woken => state.queue(task, manner),
            Next::Waits(manner, until) => state.tasks[task] = Progress::Waiting(manner, until),
            Next::Over => {
                state.tasks[task] = Progress::Over;
                state.left -= 1;
                if state.left == 0 {
                    self.0.changed.notify_all();
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn queue(&mut self, task: usize, manner: Manner) {
        self.tasks[task] = Progress::Queued;
        match manner {
            Manner::Quick => self.quick.push_back(task),
            Manner::Blocking => self.blocking.push_back(task),
        }
    }

    fn take(&mut self) -> Option<(usize, Manner)> {
        let taken = match self.quick.pop_front() {
            Some(task) => (task, Manner::Quick),
            None if self.blocked < BLOCKED => (self.blocking.pop_front()?, Manner::Blocking),
            None => return None,
        };
        if taken.1 == Manner::Blocking {
            self.blocked += 1;
        }
        self.tasks[taken.0] = Progress::Running { is_woken: false };
        Some(taken)
    }

    fn queue_due(&mut self, now: Instant) {
        for task in 0..self.tasks.len() {
            if let Progress::Waiting(manner, until) = self.tasks[task]
                && until <= now
            {
                self.queue(task, manner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn run(schedule: &Schedule, work: impl Fn(usize) -> Next + Send + Sync) {
        thread::scope(|scope| schedule.run(scope, work).unwrap());
    }

    #[test]
    fn what_waits_occupies_no_thread_and_goes_on_when_it_is_woken() {
        const COUNT: usize = 500;
        let schedule = Schedule::new(COUNT);
        let (waiting, steps) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let far = Instant::now() + Duration::from_secs(1000);
        run(&schedule, |task| {
            if steps.fetch_add(1, Ordering::SeqCst) >= COUNT {
                return Next::Over;
            }
            // All wait before the first goes on. The last may be woken before it waits.
            if waiting.fetch_add(1, Ordering::SeqCst) + 1 == COUNT {
                (0..COUNT).for_each(|task| schedule.wake(task));
            }
            assert!(task < COUNT);
            Next::Waits(Manner::Quick, far)
        });
        assert_eq!(steps.into_inner(), 2 * COUNT);
    }

    #[test]
    fn no_more_than_so_many_block_at_once_and_others_go_on_meanwhile() {
        const COUNT: usize = BLOCKED + 8;
        let schedule = Schedule::new(COUNT);
        let (blocked, quick) = (Mutex::new(0), AtomicUsize::new(0));
        let changed = Condvar::new();
        let begun: Vec<AtomicUsize> = (0..COUNT).map(|_| AtomicUsize::new(0)).collect();
        run(&schedule, |task| {
            let is_first = begun[task].fetch_add(1, Ordering::SeqCst) == 0;
            match task {
                // The first hosts have connected, and take many quick steps.
                0..4 if is_first => Next::Waits(Manner::Quick, Instant::now()),
                0..4 => {
                    quick.fetch_add(1, Ordering::SeqCst);
                    changed.notify_all();
                    Next::Over
                }
                // The others hang until those are over.
                _ => {
                    let mut now = blocked.lock().unwrap();
                    *now += 1;
                    assert!(*now <= BLOCKED);
                    while quick.load(Ordering::SeqCst) < 4 {
                        now = changed.wait_timeout(now, LOOK).unwrap().0;
                    }
                    *now -= 1;
                    Next::Over
                }
            }
        });
    }

    #[test]
    fn what_waits_for_a_time_goes_on_by_itself() {
        let schedule = Schedule::new(1);
        let begin = Instant::now();
        let until = begin + Duration::from_millis(20);
        run(&schedule, |_| if Instant::now() < until { Next::Waits(Manner::Blocking, until) } else { Next::Over });
        assert!(begin.elapsed() >= Duration::from_millis(20));
    }
}
