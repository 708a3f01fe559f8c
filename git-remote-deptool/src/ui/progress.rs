//! The progress display: a block of lines on the terminal that is redrawn in place until all hosts have ended.
//!
//! [`Board`] holds the state of each host and makes lines of it, without a clock or a terminal. [`Screen`] is the
//! terminal. All output goes through it and appears above the block. [`Progress`] draws the board on the screen while a
//! fleet is at work.

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

/// How often to draw the block, at most.
const DRAW: Duration = Duration::from_millis(100);

/// Whether progress is shown.
#[derive(Clone)]
pub enum Manner {
    /// As a block of lines on this terminal.
    Live(Arc<Mutex<Screen>>),
    /// Not at all.
    Hidden,
}

impl Manner {
    /// Whether progress is shown on a terminal, so that it need not be printed as lines.
    pub fn is_live(&self) -> bool {
        matches!(self, Manner::Live(_))
    }
}

/// The progress display of one fleet.
#[must_use]
pub struct Progress {
    manner: Manner,
    board: Arc<Mutex<Board>>,
    began: Instant,
    drawing: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Begin to show the progress of these hosts.
    pub fn new(hosts: Vec<Host>, manner: Manner) -> Progress {
        let began = Instant::now();
        let board = Arc::new(Mutex::new(Board::new(hosts)));
        let drawing = match &manner {
            Manner::Live(screen) => draw_now_and_then(screen.clone(), board.clone(), began),
            Manner::Hidden => None,
        };
        Progress { manner, board, began, drawing }
    }

    /// Set the state of the host with index `at`.
    pub fn note(&self, at: usize, state: State) {
        let is_prompt = state == State::Prompting;
        lock(&self.board).set(at, state, self.began.elapsed());
        if let (true, Manner::Live(screen)) = (is_prompt, &self.manner) {
            // Before ssh asks, because text below the block is not ours to erase.
            lock(screen).clear();
        }
    }

    /// Whether progress is shown on a terminal, so that it need not be printed as lines.
    pub fn is_live(&self) -> bool {
        self.manner.is_live()
    }

    /// Stop, and erase the block.
    pub fn finish(self) {
        let Some((stop, thread)) = self.drawing else { return };
        drop(stop);
        // If the thread has panicked, that is no reason to panic, too.
        let _ = thread.join();
        if let Manner::Live(screen) = &self.manner {
            lock(screen).clear();
        }
    }
}

/// Start the thread that draws the block. A slow terminal does not delay anything else. `None` if no thread can be
/// started: progress is not essential.
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
