//! All hosts of one push at once. [`Decision`] says who may go on; here it is carried out, each host in a thread of its
//! own.

pub mod context;
pub mod decision;
pub mod delivery;
pub mod parallel;
pub mod remote;

use std::{
    sync::mpsc::{RecvTimeoutError, channel},
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
    fleet::delivery::{Delivery, DeliveryEnd, DeliveryEvent},
};

/// How often we look whether we were interrupted.
const INTERRUPT_CHECK: Duration = Duration::from_millis(100);
/// How long hosts that can still be called off may take to say so, before the operator is told which have begun.
const TIME_TO_CANCEL: Duration = Duration::from_millis(300);
/// A session's thread has little to remember.
const STACK: usize = 512 * 1024;

/// Why whoever leads the push can't go on.
pub type SupervisorError = Box<dyn std::error::Error + Send + Sync>;

fn not_begun(why: SupervisorError) -> DeliveryEnd {
    DeliveryEnd::NotReached(LocalError::Supervisor(why).into())
}

/// What the fleet needs of whoever leads the push.
pub trait Supervisor {
    /// Make a pack for the host at `at` that assumes nothing.
    fn full_pack(&mut self, at: usize) -> Result<Payload, SupervisorError>;

    /// These hosts are about to be allowed to activate: note that, durably. An error means that none of them is.
    fn before_activation(&mut self, hosts: &[usize]) -> Result<(), SupervisorError>;

    /// The operator wants to stop. These hosts have begun.
    fn interrupted(&mut self, begun: &[usize]);

    /// How the host at `at` is doing.
    fn on_event(&mut self, at: usize, report: &DeliveryEvent);
}

/// What became of one host.
#[derive(Debug)]
pub enum HostResult {
    Ended(DeliveryEnd),
    /// It was told to go back because of something else than this host.
    Reverted(DeliveryEnd),
    /// It can't be reached, and was left out.
    Skipped(SessionError),
    /// It was called off because of something else than this host.
    NotAttempted,
}

/// Carry out all deliveries, and say of each how it ended.
pub fn run(
    deliveries: Vec<Delivery>,
    rules: Rules,
    connector: &Connector,
    supervisor: &mut dyn Supervisor,
) -> Vec<HostResult> {
    let count = deliveries.len();
    let at_once = count == 1 && deliveries[0].request.activation == Activation::AtOnce;
    if at_once && let Err(why) = supervisor.before_activation(&[0]) {
        return vec![HostResult::Ended(not_begun(why))];
    }
    let decision = if at_once { Decision::at_once(rules.unreachable) } else { Decision::new(count, rules) };
    let (sender, reports) = channel();
    thread::scope(|scope| {
        let mailboxes: Vec<Mailbox> = (0..count).map(|_| Mailbox::new()).collect();
        let orders = mailboxes.iter().map(Mailbox::orders).collect();
        // By a thread of their own, so that the first are followed while the last are still to come.
        scope.spawn(move || {
            for (at, (delivery, mailbox)) in deliveries.into_iter().zip(mailboxes).enumerate() {
                let tell = sender.clone();
                let session = thread::Builder::new().name(format!("host {at}")).stack_size(STACK);
                let run = move || {
                    delivery.run(connector, mailbox, &|report| {
                        // The receiver lives until all have ended.
                        let _ = tell.send((at, report));
                    });
                };
                if let Err(error) = session.spawn_scoped(scope, run) {
                    let end = DeliveryEnd::NotReached(LocalError::Thread(error).into());
                    let _ = sender.send((at, DeliveryEvent::Ended(end)));
                }
            }
        });
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
    /// Whose connection was never lost: they have not gone back by themselves.
    went_well: Vec<bool>,
    reverted: Vec<bool>,
    /// Which hosts may begin once they are told to: a single one is not told, but needs all that it takes.
    may_begin: Vec<bool>,
    orders: Vec<Orders>,
    /// The operator was told what becomes of hosts that had begun when we were interrupted.
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
            | DeliveryEvent::Answered(_)
            | DeliveryEvent::Phase(_)
            | DeliveryEvent::WaitsFor(_)
            | DeliveryEvent::Note(_)
            | DeliveryEvent::Busy(_) => return,
        };
        let steps = self.decision.apply(at, input);
        self.carry_out(steps);
    }

    fn carry_out(&mut self, steps: Vec<(usize, Step)>) {
        let to_note: Vec<usize> = steps.iter().filter(|(_, step)| *step == Step::Note).map(|(at, _)| *at).collect();
        self.note(&to_note);
        for (at, step) in steps {
            let request = match step {
                Step::Note => continue,
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

    /// All at once: what waits for the disk is the whole fleet.
    fn note(&mut self, hosts: &[usize]) {
        let Some(first) = hosts.first() else { return };
        match self.supervisor.before_activation(hosts) {
            Ok(()) => {
                for at in hosts {
                    let steps = self.decision.apply(*at, Input::Noted);
                    self.carry_out(steps);
                }
            }
            Err(why) => self.give_up(*first, why),
        }
    }

    /// Something on this side keeps the host from being deployed to.
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
        // What was noted first is the reason; what the host said to our cancelling is not.
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
