//! What is shown on a terminal of hosts that are at work: a block of lines that is drawn again in place, until all have
//! ended.
//!
//! [`Board`] knows how far each host is and makes lines of that, without a clock or a terminal. [`Screen`] is the
//! terminal: everything that is printed goes through it, above the block. [`Progress`] keeps the one up to date on the
//! other while a fleet is at work.

mod board;
mod screen;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

pub use board::{Board, FirstContact, Host, MANY, State};
pub use screen::{Screen, Size};

/// How often the block is drawn: no more than the eye can follow.
const DRAW: Duration = Duration::from_millis(100);

/// How much is shown.
#[derive(Clone)]
pub enum Manner {
    /// A block of lines on this terminal.
    Live(Arc<Mutex<Screen>>),
    /// Nothing, until all have ended.
    Hidden,
}

impl Manner {
    /// Whether it is drawn on a terminal: what it says need not be said otherwise.
    pub fn is_live(&self) -> bool {
        matches!(self, Manner::Live(_))
    }
}

/// The progress of one fleet.
#[must_use]
pub struct Progress {
    manner: Manner,
    board: Arc<Mutex<Board>>,
    began: Instant,
    drawing: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Begin to show how these hosts are doing.
    pub fn new(hosts: Vec<Host>, manner: Manner) -> Progress {
        let began = Instant::now();
        let board = Arc::new(Mutex::new(Board::new(hosts)));
        let drawing = match &manner {
            Manner::Live(screen) => draw_now_and_then(screen.clone(), board.clone(), began),
            Manner::Hidden => None,
        };
        Progress { manner, board, began, drawing }
    }

    /// The host at `at` is that far.
    pub fn note(&self, at: usize, state: State) {
        let is_prompt = state == State::Prompting;
        lock(&self.board).set(at, state, self.began.elapsed());
        if let (true, Manner::Live(screen)) = (is_prompt, &self.manner) {
            // Before the question is there: what is below the block is not ours.
            lock(screen).clear();
        }
    }

    /// Whether it is drawn on a terminal: what it says need not be said otherwise.
    pub fn is_live(&self) -> bool {
        self.manner.is_live()
    }

    /// Stop. Nothing stays on the terminal: how it ended is for others to say.
    pub fn finish(self) {
        let Some((stop, thread)) = self.drawing else { return };
        drop(stop);
        // It has nothing to say but that it panicked, which is no reason for us to do so.
        let _ = thread.join();
        if let Manner::Live(screen) = &self.manner {
            lock(screen).clear();
        }
    }
}

/// The block is drawn by a thread of its own, so that a terminal that is slow to take it (a pager, a stopped one) holds
/// up nobody. `None` where there can be no more threads: a deployment can do without.
fn draw_now_and_then(
    screen: Arc<Mutex<Screen>>,
    board: Arc<Mutex<Board>>,
    began: Instant,
) -> Option<(Sender<()>, JoinHandle<()>)> {
    let (stop, stopped) = channel();
    let draw = move || {
        while stopped.recv_timeout(DRAW) == Err(RecvTimeoutError::Timeout) {
            let mut screen = lock(&screen);
            let size = screen.size();
            let lines = {
                let board = lock(&board);
                if board.is_being_asked() { None } else { Some(board.lines(size, began.elapsed())) }
            };
            if let Some(lines) = lines {
                screen.draw(lines);
            }
        }
    };
    let thread = thread::Builder::new().name("progress".into()).stack_size(256 * 1024).spawn(draw).ok()?;
    Some((stop, thread))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
