//! All hosts of one push at once: nobody activates before everybody is prepared.

use std::{
    sync::{
        atomic::Ordering,
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

use deptool_agent::{
    id::BlobId,
    wire::{Go, Request, Verdict},
};

use crate::{
    delivery::{Delivery, End, Report},
    session::{Mailbox, Order, Orders, SessionError},
    transport::Connector,
};

/// Between two connections that are begun, so that the unauthenticated ones at a shared jump host stay few.
const PACE: Duration = Duration::from_millis(20);
/// So many are begun without waiting: OpenSSH's MaxStartups drops none of the first ten.
const BURST: usize = 8;
/// How often we look whether we were interrupted.
const INTERRUPT_CHECK: Duration = Duration::from_millis(100);
/// A session's thread has little to remember.
const STACK: usize = 512 * 1024;

/// A pack that assumes nothing, and the blobs that go with it.
pub type FullPack = (Vec<u8>, Vec<(BlobId, u64)>);

/// What the fleet needs of whoever leads the push.
pub trait Lead {
    /// Make a pack for the host at `at` that assumes nothing.
    fn full_pack(&mut self, at: usize) -> Result<FullPack, String>;

    /// The host at `at` is about to be allowed to activate: note that, durably.
    fn permit(&mut self, at: usize) -> Result<(), String>;

    /// Hear how the host at `at` is doing.
    fn heard(&mut self, at: usize, report: &Report);
}

/// Where one host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Preparing,
    Prepared,
    Activated,
    Healthy,
    Ended,
}

/// Carry out all deliveries, and say of each how it ended. `None` means that it was called off because of another host.
pub fn run(deliveries: Vec<Delivery>, connector: &Connector, lead: &mut dyn Lead) -> Vec<Option<End>> {
    let count = deliveries.len();
    let at_once = count == 1 && deliveries[0].request.go == Go::AtOnce;
    if at_once && let Err(why) = lead.permit(0) {
        return vec![Some(End::NotReached(SessionError::Agent(why)))];
    }
    let awaits_verdict = deliveries.iter().any(|delivery| delivery.request.verdict == Verdict::Helper);
    let (sender, reports) = channel();
    thread::scope(|scope| {
        let mut orders = Vec::with_capacity(count);
        let mut mailboxes = Vec::with_capacity(count);
        for _ in 0..count {
            let mailbox = Mailbox::new();
            orders.push(mailbox.orders());
            mailboxes.push(mailbox);
        }
        let pacer = sender.clone();
        drop(sender);
        // Sessions are begun by a thread of their own, so that the first are heard while the last are still to come.
        scope.spawn(move || {
            for (at, (delivery, mailbox)) in deliveries.into_iter().zip(mailboxes).enumerate() {
                if at >= BURST {
                    thread::sleep(PACE);
                }
                let tell = pacer.clone();
                let session = thread::Builder::new().name(format!("host {at}")).stack_size(STACK);
                let run = move || {
                    delivery.run(connector, mailbox, &|report| {
                        // The receiver lives until all have ended.
                        let _ = tell.send((at, report));
                    });
                };
                if let Err(error) = session.spawn_scoped(scope, run) {
                    let end = End::NotReached(SessionError::Lost(format!("no thread for it: {error}")));
                    let _ = pacer.send((at, Report::Ended(end)));
                }
            }
        });
        let state = if at_once { State::Activated } else { State::Preparing };
        let mut fleet = Fleet {
            states: vec![state; count],
            ends: (0..count).map(|_| None).collect(),
            orders,
            lead,
            awaits_verdict,
            called_off: false,
        };
        while fleet.states.iter().any(|state| *state != State::Ended) {
            match reports.recv_timeout(INTERRUPT_CHECK) {
                Ok((at, report)) => fleet.take(at, report),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if connector.interrupted.load(Ordering::Relaxed) {
                fleet.call_off();
            }
        }
        fleet.ends
    })
}

struct Fleet<'a> {
    states: Vec<State>,
    ends: Vec<Option<End>>,
    orders: Vec<Orders>,
    lead: &'a mut dyn Lead,
    awaits_verdict: bool,
    called_off: bool,
}

impl Fleet<'_> {
    fn take(&mut self, at: usize, report: Report) {
        self.lead.heard(at, &report);
        match report {
            Report::NeedFull => match self.lead.full_pack(at) {
                Ok((pack, large)) => self.orders[at].give(Order::Full { pack, large }),
                Err(why) => {
                    self.ends[at] = Some(End::NotReached(SessionError::Agent(why)));
                    self.orders[at].give(Order::Send(Request::Cancel));
                }
            },
            Report::Prepared => {
                self.states[at] = State::Prepared;
                if self.called_off {
                    self.orders[at].give(Order::Send(Request::Cancel));
                }
                self.activate_if_all_are_prepared();
            }
            Report::Healthy => {
                self.states[at] = State::Healthy;
                self.keep_if_all_are_healthy();
            }
            Report::Ended(end) => self.ended(at, end),
            Report::Stage(_) | Report::Hello(_) | Report::Phase(_) | Report::Note(_) => {}
        }
    }

    fn activate_if_all_are_prepared(&mut self) {
        if self.called_off || self.states.iter().any(|state| *state != State::Prepared) {
            return;
        }
        for at in 0..self.states.len() {
            if let Err(why) = self.lead.permit(at) {
                self.ends[at] = Some(End::NotReached(SessionError::Agent(why)));
                return self.call_off();
            }
        }
        for (state, orders) in self.states.iter_mut().zip(&self.orders) {
            *state = State::Activated;
            orders.give(Order::Send(Request::Activate));
        }
    }

    fn keep_if_all_are_healthy(&mut self) {
        if self.states.iter().all(|state| *state == State::Healthy) {
            self.orders.iter().for_each(|orders| orders.give(Order::Send(Request::Keep)));
        } else if self.called_off {
            self.revert_all();
        }
    }

    /// One failure before the barrier means that nobody goes on; after it, with a common verdict, that all go back.
    fn ended(&mut self, at: usize, end: End) {
        let was = std::mem::replace(&mut self.states[at], State::Ended);
        // What was noted first is the reason; what the host said to our cancelling is not.
        if self.ends[at].is_none() && !(self.called_off && is_cancelled(&end)) {
            self.ends[at] = Some(end);
        }
        if was == State::Preparing || was == State::Prepared {
            self.call_off();
        } else if self.awaits_verdict && was == State::Activated {
            self.called_off = true;
            self.revert_all();
        }
    }

    /// Tell everybody who has not been allowed to go on that they will not be.
    fn call_off(&mut self) {
        if std::mem::replace(&mut self.called_off, true) {
            return;
        }
        for orders in &self.orders {
            orders.give(Order::Send(Request::Cancel));
        }
    }

    fn revert_all(&mut self) {
        for (state, orders) in self.states.iter().zip(&self.orders) {
            if *state == State::Healthy {
                orders.give(Order::Send(Request::Revert));
            }
        }
    }
}

fn is_cancelled(end: &End) -> bool {
    matches!(end, End::Outcome(deptool_agent::outcome::Outcome::Cancelled))
}
