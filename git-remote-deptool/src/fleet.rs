//! All hosts of one push at once. [`Decision`] says who may go on; here it is carried out, each host in a thread of its
//! own.

pub mod context;
pub mod decision;
pub mod delivery;
pub mod remote;

use std::{
    sync::{
        atomic::Ordering,
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

pub use decision::Rules;
use decision::{Decision, Ending, Heard, Step};
use deptool_agent::shared::{
    outcome::Outcome,
    wire::{Go, Request},
};

use crate::{
    agent::{
        parcel::Parcel,
        session::{Mailbox, Order, Orders, SessionError},
        transport::Connector,
    },
    fleet::delivery::{Delivery, End, Report},
};

/// How often we look whether we were interrupted.
const INTERRUPT_CHECK: Duration = Duration::from_millis(100);
/// A session's thread has little to remember.
const STACK: usize = 512 * 1024;

/// What the fleet needs of whoever leads the push.
pub trait Lead {
    /// Make a pack for the host at `at` that assumes nothing.
    fn full_pack(&mut self, at: usize) -> Result<Parcel, String>;

    /// These hosts are about to be allowed to activate: note that, durably. An error means that none of them is.
    fn permit(&mut self, hosts: &[usize]) -> Result<(), String>;

    /// Hear how the host at `at` is doing.
    fn heard(&mut self, at: usize, report: &Report);
}

/// What became of one host.
#[derive(Debug)]
pub enum Conclusion {
    Ended(End),
    /// It was told to go back because of something else than this host.
    Reverted(End),
    /// It can't be reached, and was left out.
    Skipped(SessionError),
    /// It was called off because of something else than this host.
    NotAttempted,
}

/// Carry out all deliveries, and say of each how it ended.
pub fn run(deliveries: Vec<Delivery>, rules: Rules, connector: &Connector, lead: &mut dyn Lead) -> Vec<Conclusion> {
    let count = deliveries.len();
    let at_once = count == 1 && deliveries[0].request.go == Go::AtOnce;
    if at_once && let Err(why) = lead.permit(&[0]) {
        return vec![Conclusion::Ended(End::NotReached(SessionError::Here(why)))];
    }
    let decision = if at_once { Decision::at_once(rules.unreachable) } else { Decision::new(count, rules) };
    let (sender, reports) = channel();
    thread::scope(|scope| {
        let mailboxes: Vec<Mailbox> = (0..count).map(|_| Mailbox::new()).collect();
        let orders = mailboxes.iter().map(Mailbox::orders).collect();
        // By a thread of their own, so that the first are heard while the last are still to come.
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
                    let end = End::NotReached(SessionError::Here(format!("no thread for it: {error}")));
                    let _ = sender.send((at, Report::Ended(end)));
                }
            }
        });
        let mut fleet = Fleet {
            decision,
            ends: (0..count).map(|_| None).collect(),
            went_well: vec![true; count],
            reverted: vec![false; count],
            orders,
            lead,
        };
        while !fleet.decision.is_over() {
            match reports.recv_timeout(INTERRUPT_CHECK) {
                Ok((at, report)) => fleet.take(at, report),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if connector.interrupted.load(Ordering::Relaxed) {
                let steps = fleet.decision.interrupt();
                fleet.carry_out(steps);
            }
        }
        fleet.conclusions()
    })
}

struct Fleet<'a> {
    decision: Decision,
    ends: Vec<Option<End>>,
    /// Whose connection was never lost: they have not gone back by themselves.
    went_well: Vec<bool>,
    reverted: Vec<bool>,
    orders: Vec<Orders>,
    lead: &'a mut dyn Lead,
}

impl Fleet<'_> {
    fn take(&mut self, at: usize, report: Report) {
        self.lead.heard(at, &report);
        let heard = match report {
            Report::NeedFull => {
                match self.lead.full_pack(at) {
                    Ok(parcel) => self.orders[at].give(Order::Full(parcel)),
                    Err(why) => self.give_up(at, why),
                }
                return;
            }
            Report::Prepared => Heard::Prepared,
            Report::Healthy => Heard::Healthy,
            Report::Kept => Heard::Kept,
            Report::Lost => {
                self.went_well[at] = false;
                Heard::Lost
            }
            Report::Ended(end) => Heard::Ended(self.ended(at, end)),
            Report::Stage(_)
            | Report::Hello(_)
            | Report::Answered(_)
            | Report::Phase(_)
            | Report::Note(_)
            | Report::Busy(_) => return,
        };
        let steps = self.decision.hear(at, heard);
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
        match self.lead.permit(hosts) {
            Ok(()) => {
                for at in hosts {
                    let steps = self.decision.hear(*at, Heard::Noted);
                    self.carry_out(steps);
                }
            }
            Err(why) => self.give_up(*first, why),
        }
    }

    /// Something on this side keeps the host from being deployed to.
    fn give_up(&mut self, at: usize, why: String) {
        self.orders[at].give(Order::Send(Request::Cancel));
        let steps = self.decision.hear(at, Heard::Ended(Ending::Failed));
        self.ends[at].get_or_insert(End::NotReached(SessionError::Here(why)));
        self.carry_out(steps);
    }

    fn ended(&mut self, at: usize, end: End) -> Ending {
        let ending = match &end {
            End::Outcome(Outcome::Done { .. }) => Ending::Done,
            End::NotReached(error) if error.is_unreachable() => Ending::Unreachable,
            End::Outcome(_) | End::NotReached(_) | End::Unknown(_) => Ending::Failed,
        };
        // What was noted first is the reason; what the host said to our cancelling is not.
        let is_answer = self.decision.is_called_off() && matches!(end, End::Outcome(Outcome::Cancelled));
        if self.ends[at].is_none() && !is_answer {
            self.ends[at] = Some(end);
        }
        ending
    }

    fn conclusions(self) -> Vec<Conclusion> {
        let conclude = |(at, end)| match end {
            Some(End::NotReached(error)) if self.decision.is_skipped(at) => Conclusion::Skipped(error),
            Some(end) if self.reverted[at] => Conclusion::Reverted(end),
            Some(end) => Conclusion::Ended(end),
            None => Conclusion::NotAttempted,
        };
        self.ends.into_iter().enumerate().map(conclude).collect()
    }
}
