//! One deployment to one host, from the connection to the outcome. Runs in a thread of its own.

mod conversation;
mod messages;

use std::{
    io::Read,
    sync::Arc,
    time::{Duration, Instant},
};

use conversation::Conversation;
use deptool_agent::shared::{
    id::BlobId,
    outcome::{Holder, Outcome, Phase},
    wire::{Deploy, Hello},
};

use crate::agent::{
    payload::Payload,
    session::{Mailbox, SessionError},
    transport::{Connector, Endpoint, Stage, Started},
};
use crate::state::{RequestPath, Timing};

/// Between two tries of a host that is busy: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Opens a blob that is too large for a pack.
pub type OpenBlob = dyn Fn(BlobId) -> std::io::Result<Box<dyn Read>> + Send + Sync;

/// Everything that is sent to one host.
pub struct Delivery {
    pub target: Endpoint,
    /// A connection that is being made already, for the first try.
    pub started: Option<Started>,
    pub flight: RequestPath,
    pub request: Deploy,
    pub payload: Payload,
    pub open_blob: Arc<OpenBlob>,
    /// An agent of ours was there before: the request is sent without waiting for it.
    pub is_known: bool,
    /// How long to wait while another deployment holds the host's lock.
    pub lock_wait: Duration,
}

/// What happens on the way, for the fleet.
#[derive(Debug)]
pub enum DeliveryEvent {
    Stage(Stage),
    Hello(Box<Hello>),
    /// From here on the host may begin: everything that it takes is on its way.
    MayBegin,
    /// The host has begun to answer the request.
    Answered(Timing),
    Phase(Phase),
    /// A unit, or what must answer, that the host waits for.
    WaitsFor(String),
    Note(String),
    NeedFull,
    Prepared,
    Healthy,
    Kept,
    /// Another deployment holds the host's lock. It is waited for.
    Busy(Holder),
    /// The connection was lost after the host may have begun. It is asked over a new one.
    Lost,
    Ended(DeliveryEnd),
}

/// How it ended, as far as is known.
#[derive(Debug)]
pub enum DeliveryEnd {
    /// The host's answer.
    Outcome(Outcome),
    /// The host can't have begun: nothing was changed.
    NotReached(SessionError),
    /// The host may have begun, and could not be asked how it ended.
    Unknown(SessionError),
}

/// Whether the host may have begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permission {
    NotGiven,
    Given,
}

impl Delivery {
    /// Carry it out. Never panics, never gives up without an [`DeliveryEnd`].
    pub fn run(mut self, connector: &Connector, mailbox: Mailbox, tell: &dyn Fn(DeliveryEvent)) {
        let deadline = Instant::now() + self.lock_wait;
        let mut started = self.started.take();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.try_once(started.take(), connector, &mailbox, tell) {
                DeliveryEnd::Outcome(Outcome::Busy(holder)) if Instant::now() < deadline => {
                    tell(DeliveryEvent::Busy(holder))
                }
                end => return tell(DeliveryEvent::Ended(end)),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // The only order for a host that is not connected to is to forget it.
            if mailbox.order_within(pause.min(left)).is_some() {
                return tell(DeliveryEvent::Ended(DeliveryEnd::Outcome(Outcome::Cancelled)));
            }
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    fn try_once(
        &self,
        started: Option<Started>,
        connector: &Connector,
        mailbox: &Mailbox,
        tell: &dyn Fn(DeliveryEvent),
    ) -> DeliveryEnd {
        let mut conversation = Conversation::new(self, connector, mailbox, tell);
        match (conversation.begin(started), conversation.permission) {
            (Ok(Outcome::Done { .. } | Outcome::RolledBack(_)), Permission::NotGiven) => {
                DeliveryEnd::NotReached(SessionError::OutOfOrder)
            }
            (Ok(outcome), _) => DeliveryEnd::Outcome(outcome),
            (Err(SessionError::Agent(why)), Permission::NotGiven) => DeliveryEnd::Outcome(Outcome::refused(why)),
            (Err(error), Permission::NotGiven) => DeliveryEnd::NotReached(error),
            (Err(error), Permission::Given) => {
                tell(DeliveryEvent::Lost);
                conversation.resume(error)
            }
        }
    }
}
