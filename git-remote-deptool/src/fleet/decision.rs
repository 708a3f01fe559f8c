//! Decides which hosts may continue, and when. This is a pure state machine: its input are events on hosts, and its
//! output are orders to hosts.
//!
//! ```text
//! all are prepared ▸ wave 1 ▸ wave 2 … ▸ all are healthy: keep ▸ all have kept: release     with --atomic
//!                  ▸ wave 1 ▸ wave 2 … ▸ all are done                                       without
//! ```
//!
//! Guarantees:
//!
//! - No host is told to activate before all hosts are prepared, or were skipped as unreachable.
//! - A wave begins when all hosts of the earlier waves have succeeded: they are done, or healthy with `--atomic`.
//! - After the first failure, no host is told to activate. With `--atomic`, the hosts that have activated are told to
//!   roll back, unless all of them were released.
//! - Messages that are not valid in a host's state change nothing.

use crate::model::{
    options::Atomicity,
    push_option::{Unreachable, Waves},
};

/// The options of the push that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    pub atomicity: Atomicity,
    pub unreachable: Unreachable,
    pub waves: Waves,
}

/// An event on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    Prepared,
    /// The host has activated and settled, and waits for the verdict.
    Healthy,
    /// The verdict is durable on the host, but the host can still roll back.
    Kept,
    /// The connection was lost after the host was told to activate. The host is asked on a new connection.
    Lost,
    Ended(Ending),
}

/// How the deployment ended on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Done,
    /// The host was never told to activate, because it can't be reached.
    Unreachable,
    /// Any other end, known or unknown.
    Failed,
}

/// An action for one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Activate,
    Cancel,
    Keep,
    Revert,
    Release,
}

/// The state of the push.
#[derive(Debug)]
pub struct Decision {
    rules: Rules,
    states: Vec<State>,
    course: Course,
}

/// The state of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Preparing,
    Prepared,
    /// The host was told to activate.
    Active,
    Healthy,
    Kept,
    Lost,
    /// The host was skipped.
    Skipped,
    Ended(Ending),
}

/// The state of the push as a whole.
#[derive(Debug)]
enum Course {
    Preparing,
    Waves(Order),
    /// All hosts were told to keep the deployment.
    Keeping(Order),
    /// All hosts have kept it, and were told that they no longer need to be able to roll back.
    Released,
    /// No host may continue, because one has failed or because all have received their last order.
    Over,
}

/// The order of hosts and waves.
#[derive(Debug)]
struct Order {
    hosts: Vec<usize>,
    /// For each wave, the number of hosts up to its end.
    ends: Vec<usize>,
    /// The current wave.
    wave: usize,
}

impl Order {
    fn wave(&self) -> &[usize] {
        let begin = self.wave.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.hosts[begin..self.ends[self.wave]]
    }

    fn gone(&self) -> &[usize] {
        &self.hosts[..self.ends[self.wave]]
    }

    fn is_last_wave(&self) -> bool {
        self.wave + 1 == self.ends.len()
    }
}

type Steps = Vec<(usize, Step)>;

impl Decision {
    /// All of the hosts are preparing.
    pub fn new(hosts: usize, rules: Rules) -> Decision {
        Decision { rules, states: vec![State::Preparing; hosts], course: Course::Preparing }
    }

    /// A single host, which may activate as soon as it is prepared.
    pub fn at_once(unreachable: Unreachable) -> Decision {
        let order = Order { hosts: vec![0], ends: vec![1], wave: 0 };
        let rules = Rules { atomicity: Atomicity::PerHost, unreachable, waves: Waves::default() };
        Decision { rules, states: vec![State::Active], course: Course::Waves(order) }
    }

    /// Whether all hosts have ended.
    pub fn is_over(&self) -> bool {
        self.states.iter().all(|state| matches!(state, State::Ended(_) | State::Skipped))
    }

    /// The hosts that were told to activate and have not ended.
    pub fn begun(&self) -> Vec<usize> {
        self.those(|state| matches!(state, State::Active | State::Healthy | State::Kept | State::Lost)).collect()
    }

    /// Whether the host was skipped.
    pub fn is_skipped(&self, at: usize) -> bool {
        self.states[at] == State::Skipped
    }

    /// Whether no host may continue.
    pub fn is_called_off(&self) -> bool {
        matches!(self.course, Course::Over)
    }

    /// Process an event. Returns the resulting actions.
    pub fn apply(&mut self, at: usize, input: Input) -> Steps {
        let is_keeping = matches!(self.course, Course::Keeping(_));
        let is_before_barrier = matches!(self.course, Course::Preparing) || self.states.len() == 1;
        if self.states[at] == State::Lost && matches!(input, Input::Healthy | Input::Kept) {
            // The last order may have been lost with the connection.
            match self.course {
                Course::Released => return vec![(at, Step::Release)],
                Course::Over => return vec![(at, Step::Revert)],
                Course::Keeping(_) if input == Input::Healthy => {
                    self.states[at] = State::Healthy;
                    return vec![(at, Step::Keep)];
                }
                Course::Preparing | Course::Waves(_) | Course::Keeping(_) => {}
            }
        }
        let skips = is_before_barrier && self.rules.unreachable == Unreachable::IsSkipped;
        self.states[at] = match (self.states[at], input) {
            (State::Skipped | State::Ended(_), _) => return Vec::new(),
            (_, Input::Ended(Ending::Unreachable)) if skips => State::Skipped,
            (_, Input::Ended(ending)) => State::Ended(ending),
            (State::Preparing, Input::Prepared) => State::Prepared,
            (State::Active, Input::Healthy) => State::Healthy,
            (State::Active | State::Healthy | State::Lost, Input::Kept) if is_keeping => State::Kept,
            (State::Active | State::Healthy | State::Kept, Input::Lost) => State::Lost,
            (_, Input::Prepared | Input::Healthy | Input::Kept | Input::Lost) => return Vec::new(),
        };
        self.advance()
    }

    /// The operator interrupted the push.
    pub fn interrupt(&mut self) -> Steps {
        match (&self.course, self.rules.atomicity) {
            // All hosts are healthy. Keeping takes milliseconds, and rolling back now could leave a mix.
            (Course::Keeping(_) | Course::Released | Course::Over, _) => Vec::new(),
            (Course::Preparing, _) | (Course::Waves(_), Atomicity::AllOrNothing) => self.stop(),
            (Course::Waves(_), Atomicity::PerHost) => {
                let mut steps = self.stop();
                // Hosts that may begin but have not done so can still be cancelled.
                steps.extend(self.those(|state| state == State::Active).map(|at| (at, Step::Cancel)));
                steps
            }
        }
    }

    fn those(&self, wanted: impl Fn(State) -> bool) -> impl Iterator<Item = usize> {
        self.states.iter().enumerate().filter(move |(_, state)| wanted(**state)).map(|(at, _)| at)
    }

    fn advance(&mut self) -> Steps {
        if self.has_failed() {
            return self.stop();
        }
        match &mut self.course {
            Course::Over | Course::Released => Vec::new(),
            Course::Preparing if self.states.contains(&State::Preparing) => Vec::new(),
            Course::Preparing => {
                let hosts: Vec<usize> = self.those(|state| state == State::Prepared).collect();
                if hosts.is_empty() {
                    self.course = Course::Over;
                    return Vec::new();
                }
                let ends = self.rules.waves.ends(hosts.len());
                let order = Order { hosts, ends, wave: 0 };
                let steps = activate(&mut self.states, order.wave());
                self.course = Course::Waves(order);
                steps
            }
            Course::Waves(order) => {
                let good = match self.rules.atomicity {
                    Atomicity::PerHost => State::Ended(Ending::Done),
                    Atomicity::AllOrNothing => State::Healthy,
                };
                if !order.gone().iter().all(|at| self.states[*at] == good) {
                    return Vec::new();
                }
                if !order.is_last_wave() {
                    order.wave += 1;
                    return activate(&mut self.states, order.wave());
                }
                if self.rules.atomicity == Atomicity::PerHost {
                    self.course = Course::Over;
                    return Vec::new();
                }
                let steps = order.gone().iter().map(|at| (*at, Step::Keep)).collect();
                let order = std::mem::replace(order, Order { hosts: Vec::new(), ends: Vec::new(), wave: 0 });
                self.course = Course::Keeping(order);
                steps
            }
            Course::Keeping(order) => {
                let has_kept = |state| matches!(state, State::Kept | State::Ended(Ending::Done));
                if !order.hosts.iter().all(|at| has_kept(self.states[*at])) {
                    return Vec::new();
                }
                self.course = Course::Released;
                self.those(|state| state == State::Kept).map(|at| (at, Step::Release)).collect()
            }
        }
    }

    /// Whether this state is a failure, given the state of the push.
    fn has_failed(&self) -> bool {
        let is_atomic = self.rules.atomicity == Atomicity::AllOrNothing;
        self.states.iter().any(|state| match (state, &self.course) {
            (State::Ended(Ending::Done), Course::Waves(_)) => is_atomic,
            (State::Ended(Ending::Done), Course::Preparing) => true,
            (State::Ended(Ending::Failed | Ending::Unreachable), _) => true,
            // The host rolls back by itself.
            (State::Lost, Course::Waves(_)) => is_atomic,
            (
                State::Ended(Ending::Done) | State::Lost,
                Course::Preparing | Course::Keeping(_) | Course::Released | Course::Over,
            ) => false,
            (State::Preparing | State::Prepared | State::Active | State::Healthy | State::Kept | State::Skipped, _) => {
                false
            }
        })
    }

    fn stop(&mut self) -> Steps {
        if matches!(self.course, Course::Over | Course::Released) {
            return Vec::new();
        }
        self.course = Course::Over;
        let step = |state: &State| match (state, self.rules.atomicity) {
            (State::Preparing | State::Prepared, _) => Some(Step::Cancel),
            (State::Active | State::Healthy | State::Kept | State::Lost, Atomicity::AllOrNothing) => Some(Step::Revert),
            (State::Active | State::Healthy | State::Kept | State::Lost, Atomicity::PerHost) => None,
            (State::Skipped | State::Ended(_), _) => None,
        };
        self.states.iter().enumerate().filter_map(|(at, state)| Some((at, step(state)?))).collect()
    }
}

fn activate(states: &mut [State], hosts: &[usize]) -> Steps {
    hosts.iter().for_each(|at| states[*at] = State::Active);
    hosts.iter().map(|at| (*at, Step::Activate)).collect()
}

#[cfg(test)]
mod tests;
