//! The gates at which a deployment waits for the helper: activation, confirmation, verdict, release.

use std::time::{Duration, Instant};

use crate::{
    host::{
        connection::peer::{Incoming, Peer, SILENCE},
        deploy::failure::Failure,
        state::lock::HostLock,
    },
    shared::{
        outcome::Phase,
        wire::{Activation, Deploy, Request, Response},
    },
};

/// The answer to a deployment that was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    Released,
    /// Another host has not kept the deployment.
    Revoked,
}

/// Wait until the helper says that every host is prepared, if it asked for that. This is the last chance to cancel: returns
/// whether to go on.
pub fn await_activation(request: &Deploy, lock: &mut HostLock, peer: &mut Peer) -> bool {
    match request.activation {
        Activation::AtOnce => peer.still_waits(),
        Activation::WhenTold => {
            lock.set_phase(Phase::Prepared);
            peer.send(&Response::Prepared);
            matches!(peer.receive(), Incoming::Request(Request::Activate))
        }
    }
}

/// Wait for a confirmation over a new connection. An old connection can survive a change that locks everybody out, so it
/// proves nothing.
pub fn await_confirmation(seconds: u16, peer: &mut Peer) -> Result<(), Failure> {
    let before = peer.takeovers();
    let deadline = Instant::now() + Duration::from_secs(seconds.into());
    peer.ask(Response::AwaitsConfirmation { seconds });
    loop {
        match peer.receive_within(deadline.saturating_duration_since(Instant::now())) {
            Incoming::Request(Request::Heartbeat) if Instant::now() < deadline => {}
            Incoming::Request(Request::Confirm) if peer.takeovers() > before => break,
            Incoming::Request(Request::Revert) => return Err(Failure::Text("not confirmed".into())),
            Incoming::Request(Request::Heartbeat) | Incoming::Silence => {
                let why = format!("not confirmed over a new connection within {seconds} s");
                return Err(Failure::Text(why));
            }
            Incoming::Request(_) => return Err(Failure::Text("not confirmed: a message came out of order".into())),
            // Normal when the network configuration changes.
            Incoming::End | Incoming::Failed(_) => peer.drop_link(),
        }
    }
    peer.stop_asking();
    Ok(())
}

/// Wait for the verdict: all hosts are healthy, or not. Without an answer the deployment is not kept.
pub fn await_verdict(peer: &mut Peer) -> Result<(), Failure> {
    peer.ask(Response::Healthy);
    let answer = peer.receive();
    peer.stop_asking();
    match answer {
        Incoming::Request(Request::Keep) => Ok(()),
        Incoming::Request(Request::Revert) => Err(Failure::Text("not kept, because another host failed".into())),
        Incoming::Request(_) => Err(Failure::Text("not kept: a message came out of order".into())),
        Incoming::Silence | Incoming::End | Incoming::Failed(_) => {
            Err(Failure::Text("the connection was lost before the verdict".into()))
        }
    }
}

/// Wait until the helper says that all hosts have kept the deployment; until then it can be revoked. After 30 seconds
/// without a message, on this or a new connection, the deployment counts as released.
pub fn await_release(peer: &mut Peer) -> Release {
    let mut last_message = Instant::now();
    peer.ask(Response::Kept);
    let release = loop {
        match peer.receive_within(SILENCE.saturating_sub(last_message.elapsed())) {
            Incoming::Request(Request::Heartbeat) => last_message = Instant::now(),
            Incoming::Request(Request::Keep) => {
                last_message = Instant::now();
                peer.send(&Response::Kept);
            }
            Incoming::Request(Request::Revert) => break Release::Revoked,
            Incoming::Request(_) | Incoming::Silence => break Release::Released,
            Incoming::End | Incoming::Failed(_) => peer.drop_link(),
        }
    };
    peer.stop_asking();
    release
}
