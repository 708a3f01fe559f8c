//! One deployment to one host, from the connection to the outcome. It runs in a thread of its own.

mod conversation;
mod messages;

use std::{
    io::Read,
    sync::Arc,
    time::{Duration, Instant},
};

use conversation::Conversation;
use deptool_agent::shared::{
    id::{BlobId, DeploymentId},
    outcome::{Holder, Outcome, Phase},
    wire::{Deploy, Hello},
};

use crate::agent::{
    payload::Payload,
    session::{Mailbox, SessionError},
    transport::{Connector, Endpoint, Stage, Started},
};
use crate::state::{RequestPath, Timing};

/// The pauses between two attempts while the host is busy: the first one, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Opens a blob that is too large for a pack.
pub type OpenBlob = dyn Fn(BlobId) -> std::io::Result<Box<dyn Read>> + Send + Sync;

/// Everything that is sent to one host.
pub struct Delivery {
    pub target: Endpoint,
    /// A connection that is being made already, for the first attempt.
    pub started: Option<Started>,
    pub flight: RequestPath,
    pub request: Deploy,
    pub payload: Payload,
    pub open_blob: Arc<OpenBlob>,
    /// The host had our agent at the last contact, so the request is sent ahead.
    pub is_known: bool,
    /// How long to wait while another deployment holds the host's lock.
    pub lock_wait: Duration,
}

/// An event for the fleet.
#[derive(Debug)]
pub enum DeliveryEvent {
    Stage(Stage),
    Hello(Box<Hello>),
    /// From here on the host may begin: everything that it needs is on its way.
    MayBegin,
    /// The first answer to the request was received.
    Answered(Timing),
    Phase(Phase),
    /// The unit or health probe that the host is waiting for.
    WaitsFor(String),
    Note(String),
    NeedFull,
    Prepared,
    Healthy,
    Kept,
    /// Another deployment holds the host's lock. We wait for it.
    Busy(Holder),
    /// The connection was lost after the host may have begun. The host is asked on a new connection.
    Lost,
    Ended(DeliveryEnd),
}

/// How the deployment ended, as far as that is known.
#[derive(Debug)]
pub enum DeliveryEnd {
    /// The host's answer.
    Outcome(Outcome),
    /// The host can't have begun, so nothing was changed.
    NotReached(SessionError),
    /// The host may have begun, and could not be asked for the outcome.
    Unknown(SessionError),
}

/// Whether the host may have begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permission {
    NotGiven,
    Given,
}

impl Delivery {
    /// Carry out the deployment. This never panics, and always returns a [`DeliveryEnd`].
    pub fn run(mut self, connector: &Connector, mailbox: Mailbox, tell: &dyn Fn(DeliveryEvent)) {
        let deadline = Instant::now() + self.lock_wait;
        let mut started = self.started.take();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.try_once(started.take(), connector, &mailbox, tell) {
                // The agent's file may be damaged. It is replaced only on a connection on which nothing is sent ahead.
                DeliveryEnd::NotReached(SessionError::Connect(why)) if why.is_wordless() && self.is_known => {
                    self.is_known = false;
                    // The host was told that the request will not come any more.
                    match DeploymentId::random() {
                        Ok(id) => self.request.id = id,
                        Err(_) => return tell(DeliveryEvent::Ended(DeliveryEnd::NotReached(why.into()))),
                    }
                    continue;
                }
                DeliveryEnd::Outcome(Outcome::Busy(holder)) if Instant::now() < deadline => {
                    tell(DeliveryEvent::Busy(holder))
                }
                end => return tell(DeliveryEvent::Ended(end)),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // The only order to a host without a connection is to cancel.
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
