//! Runs a function many times in a few threads.

use std::{
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::channel,
    },
    thread,
};

/// The stack size of each thread. None of them needs much.
const STACK: usize = 512 * 1024;

/// Call `work` for each number below `count`, in up to `threads` threads. Each result is passed to `take`, which runs
/// in the calling thread. Each thread makes a `state` of its own.
pub fn each<S, T: Send>(
    count: usize,
    threads: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) -> T + Sync,
    take: &mut dyn FnMut(usize, T),
) {
    let next = AtomicUsize::new(0);
    let take_one = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < count);
    if threads.min(count) > 1 {
        let (sender, results) = channel();
        thread::scope(|scope| {
            for _ in 0..threads.min(count) {
                let sender = sender.clone();
                let (take_one, state, work) = (&take_one, &state, &work);
                let run = move || {
                    let mut state = state();
                    while let Some(at) = take_one() {
                        // The receiver lives until all threads have ended.
                        let _ = sender.send((at, work(&mut state, at)));
                    }
                };
                // If a thread can't be started, the others do its work.
                let _ = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, run);
            }
            drop(sender);
            results.into_iter().for_each(|(at, result)| take(at, result));
        });
    }
    // If no thread could be started, the calling thread does all the work.
    let mut own = None;
    while let Some(at) = take_one() {
        let result = work(own.get_or_insert_with(&state), at);
        take(at, result);
    }
}

/// Like [`each`], but returns the results in order.
pub fn map<S, T: Send>(
    count: usize,
    threads: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) -> T + Sync,
) -> Vec<T> {
    let mut results: Vec<Option<T>> = (0..count).map(|_| None).collect();
    each(count, threads, state, work, &mut |at, result| results[at] = Some(result));
    results.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_done_once_and_results_are_in_order() {
        for threads in [0, 1, 3, 100] {
            let done = AtomicUsize::new(0);
            let results = map(50, threads, || (), |(), at| (at, done.fetch_add(1, Ordering::Relaxed)).0);
            assert_eq!(results, (0..50).collect::<Vec<_>>());
            assert_eq!(done.into_inner(), 50);
        }
    }
}
