//! Work that goes on in another thread.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

/// Work in another thread. If this is dropped, the work goes on.
#[derive(Debug)]
pub struct Beside<T> {
    thread: JoinHandle<()>,
    result: Arc<Mutex<Option<T>>>,
}

impl<T: Send + 'static> Beside<T> {
    /// Begin. `None` if no thread can be started.
    pub fn begin(work: impl FnOnce() -> T + Send + 'static) -> Option<Beside<T>> {
        let result = Arc::new(Mutex::new(None));
        let its = result.clone();
        let work = move || {
            let done = work();
            *its.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        };
        Some(Beside { thread: start(Box::new(work))?, result })
    }

    /// Wake it up if it is parked, see [`thread::park`].
    pub fn wake(&self) {
        self.thread.thread().unpark();
    }

    /// Wait until it has ended. Returns `None` if it panicked.
    pub fn end(self) -> Option<T> {
        let _ = self.thread.join();
        self.result.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Not generic: what starts a thread takes more than a kilobyte of the agent for each type.
fn start(work: Box<dyn FnOnce() + Send>) -> Option<JoinHandle<()>> {
    thread::Builder::new().spawn(work).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_goes_on_until_its_result_is_wanted() {
        let parked = Beside::begin(|| {
            thread::park();
            7
        });
        let parked = parked.unwrap();
        parked.wake();
        assert_eq!(parked.end(), Some(7));
        assert_eq!(Beside::begin(|| panic!("on purpose")).unwrap().end(), None::<()>);
    }
}
