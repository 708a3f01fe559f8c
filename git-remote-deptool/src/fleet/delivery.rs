//! One deployment to one host, from the connection to the outcome.

mod conversation;
mod messages;

use std::{io::Read, sync::Arc, time::Duration};

pub use conversation::Conversation;
use deptool_agent::shared::{
    id::BlobId,
    outcome::{Holder, Outcome, Phase},
    wire::{Deploy, Hello},
};

use crate::agent::{
    payload::Payload,
    session::SessionError,
    transport::{Endpoint, Present, Stage, Started, ssh::control::ControlSocket},
};
use crate::state::{RequestPath, Timing};

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
    /// The host had our agent at the last contact, so the request is sent ahead. How to start it.
    pub agent: Option<Present>,
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
    /// The request has come.
    Came(Timing),
    /// ssh has said where it shares its connections to the host.
    Socket(ControlSocket),
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
