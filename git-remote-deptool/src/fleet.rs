//! Deploys to all hosts of a push at the same time. [`Decision`] decides which hosts may continue; this module carries
//! that out. [`Schedule`] has a few threads for all hosts.

pub mod context;
pub mod decision;
pub mod delivery;
pub mod parallel;
pub mod remote;
mod schedule;

use std::{
    sync::{
        Mutex, PoisonError,
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

pub use decision::Rules;
use decision::{Decision, Ending, Input, Step};
use deptool_agent::shared::{
    outcome::Outcome,
    wire::{Activation, Request},
};

use crate::{
    agent::{
        payload::Payload,
        session::{LocalError, Mailbox, Order, Orders, SessionError},
        transport::Connector,
    },
    fleet::{
        delivery::{Conversation, Delivery, DeliveryEnd, DeliveryEvent},
        schedule::Schedule,
    },
};

/// How often to check for an interrupt.
const INTERRUPT_CHECK: Duration = Duration::from_millis(100);
/// After an interrupt, how long hosts that can still be cancelled may take to confirm that, before the operator is told
/// which hosts have begun.
const TIME_TO_CANCEL: Duration = Duration::from_millis(300);

/// Why the push can't continue.
pub type SupervisorError = Box<dyn std::error::Error + Send + Sync>;

fn not_begun(why: SupervisorError) -> DeliveryEnd {
    DeliveryEnd::NotReached(LocalError::Supervisor(why).into())
}

/// The callbacks to the push that the fleet belongs to.
pub trait Supervisor {
    /// Make a pack for the host with index `at` that does not assume any objects there.
    fn full_pack(&mut self, at: usize) -> Result<Payload, SupervisorError>;

    /// Record durably that the hosts may be told to activate. If this fails, none of them is.
    fn before_activation(&mut self) -> Result<(), SupervisorError>;

    /// The operator interrupted the push, and these hosts have begun.
    fn interrupted(&mut self, begun: &[usize]);

    /// Report the progress of the host with index `at`.
    fn on_event(&mut self, at: usize, report: &DeliveryEvent);
}

/// The result for one host.
#[derive(Debug)]
pub enum HostResult {
    Ended(DeliveryEnd),
    /// It was told to roll back because of another host.
    Reverted(DeliveryEnd),
    /// It can't be reached, and was skipped.
    Skipped(SessionError),
    /// It was cancelled because of another host.
    NotAttempted,
}

/// Carry out all deliveries, and return the result of each.
pub fn run(
    deliveries: Vec<Delivery>,
    rules: Rules,
    connector: &Connector,
    supervisor: &mut dyn Supervisor,
) -> Vec<HostResult> {
    let count = deliveries.len();
    let at_once = count == 1 && deliveries[0].request.activation == Activation::AtOnce;
    if at_once && let Err(why) = supervisor.before_activation() {
        return vec![HostResult::Ended(not_begun(why))];
    }
    let decision = if at_once { Decision::at_once(rules.unreachable) } else { Decision::new(count, rules) };
    let (sender, reports) = channel();
    let schedule = Schedule::new(count);
    let mailbox = |at| {
        let schedule = schedule.clone();
        Mailbox::new(move || schedule.wake(at))
    };
    let mailboxes: Vec<Mailbox> = (0..count).map(mailbox).collect();
    let orders = mailboxes.iter().map(Mailbox::orders).collect();
    let conversation = |(at, (delivery, mailbox))| {
        let tell = sender.clone();
        // The receiver lives until all threads have ended.
        let tell = move |report| drop(tell.send((at, report)));
        Mutex::new(Conversation::new(delivery, connector, mailbox, Box::new(tell)))
    };
    let conversations: Vec<_> = deliveries.into_iter().zip(mailboxes).enumerate().map(conversation).collect();
    let step = |at: usize| conversations[at].lock().unwrap_or_else(PoisonError::into_inner).step();
    thread::scope(|scope| {
        if let Err(error) = schedule.run(scope, step) {
            let failed = |_| HostResult::Ended(DeliveryEnd::NotReached(LocalError::Thread(error.kind().into()).into()));
            return (0..count).map(failed).collect();
        }
        let mut fleet = Fleet {
            decision,
            ends: (0..count).map(|_| None).collect(),
            went_well: vec![true; count],
            reverted: vec![false; count],
            may_begin: vec![!at_once; count],
            orders,
            is_told: false,
            supervisor,
        };
        // Hosts prepare meanwhile.
        if !at_once && let Err(why) = fleet.supervisor.before_activation() {
            fleet.give_up(0, why);
        }
        let mut tell_at = None;
        while !fleet.decision.is_over() {
            match reports.recv_timeout(INTERRUPT_CHECK) {
                Ok((at, report)) => fleet.take(at, report),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if connector.interrupted.is_set() {
                let steps = fleet.decision.interrupt();
                fleet.carry_out(steps);
                let at = *tell_at.get_or_insert_with(|| Instant::now() + TIME_TO_CANCEL);
                if !fleet.is_told && Instant::now() >= at {
                    fleet.tell_of_begun();
                }
            }
        }
        fleet.results()
    })
}

struct Fleet<'a> {
    decision: Decision,
    ends: Vec<Option<DeliveryEnd>>,
    /// The hosts whose connection was never lost, so they have not rolled back by themselves.
    went_well: Vec<bool>,
    reverted: Vec<bool>,
    /// The hosts that begin when they are told to. A single host needs no order: it begins as soon as it has
    /// everything.
    may_begin: Vec<bool>,
    orders: Vec<Orders>,
    /// Whether the operator was told, after an interrupt, which hosts have begun.
    is_told: bool,
    supervisor: &'a mut dyn Supervisor,
}

impl Fleet<'_> {
    fn tell_of_begun(&mut self) {
        self.is_told = true;
        let begun: Vec<usize> = self.decision.begun().into_iter().filter(|at| self.may_begin[*at]).collect();
        self.supervisor.interrupted(&begun);
    }

    fn take(&mut self, at: usize, report: DeliveryEvent) {
        self.supervisor.on_event(at, &report);
        let input = match report {
            DeliveryEvent::NeedFull => {
                match self.supervisor.full_pack(at) {
                    Ok(payload) => self.orders[at].give(Order::Full(payload)),
                    Err(why) => self.give_up(at, why),
                }
                return;
            }
            DeliveryEvent::Prepared => Input::Prepared,
            DeliveryEvent::Healthy => Input::Healthy,
            DeliveryEvent::Kept => Input::Kept,
            DeliveryEvent::Lost => {
                self.went_well[at] = false;
                Input::Lost
            }
            DeliveryEvent::Ended(end) => Input::Ended(self.ended(at, end)),
            DeliveryEvent::MayBegin => {
                self.may_begin[at] = true;
                return;
            }
            DeliveryEvent::Stage(_)
            | DeliveryEvent::Hello(_)
            | DeliveryEvent::Came(_)
            | DeliveryEvent::Socket(_)
            | DeliveryEvent::Phase(_)
            | DeliveryEvent::WaitsFor(_)
            | DeliveryEvent::Note(_)
            | DeliveryEvent::Busy(_) => return,
        };
        let steps = self.decision.apply(at, input);
        self.carry_out(steps);
    }

    fn carry_out(&mut self, steps: Vec<(usize, Step)>) {
        for (at, step) in steps {
            let request = match step {
                Step::Activate => Request::Activate,
                Step::Cancel => Request::Cancel,
                Step::Keep => Request::Keep,
                Step::Revert => {
                    self.reverted[at] = self.went_well[at];
                    Request::Revert
                }
                Step::Release => Request::Release,
            };
            self.orders[at].give(Order::Send(request));
        }
    }

    /// An error on this machine prevents the deployment to the host.
    fn give_up(&mut self, at: usize, why: SupervisorError) {
        self.orders[at].give(Order::Send(Request::Cancel));
        let steps = self.decision.apply(at, Input::Ended(Ending::Failed));
        self.ends[at].get_or_insert(not_begun(why));
        self.carry_out(steps);
    }

    fn ended(&mut self, at: usize, end: DeliveryEnd) -> Ending {
        let ending = match &end {
            DeliveryEnd::Outcome(Outcome::Done { .. }) => Ending::Done,
            DeliveryEnd::NotReached(error) if error.is_unreachable() => Ending::Unreachable,
            DeliveryEnd::Outcome(_) | DeliveryEnd::NotReached(_) | DeliveryEnd::Unknown(_) => Ending::Failed,
        };
        // The first error is the reason, not the host's answer to our cancellation.
        let is_answer = self.decision.is_called_off() && matches!(end, DeliveryEnd::Outcome(Outcome::Cancelled));
        if self.ends[at].is_none() && !is_answer {
            self.ends[at] = Some(end);
        }
        ending
    }

    fn results(self) -> Vec<HostResult> {
        let result = |(at, end)| match end {
            Some(DeliveryEnd::NotReached(error)) if self.decision.is_skipped(at) => HostResult::Skipped(error),
            Some(end) if self.reverted[at] => HostResult::Reverted(end),
            Some(end) => HostResult::Ended(end),
            None => HostResult::NotAttempted,
        };
        self.ends.into_iter().enumerate().map(result).collect()
    }
}
