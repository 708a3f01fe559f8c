//! Where a deployment that is activated waits for the helper: to be confirmed, for the verdict, for the release.

use std::time::{Duration, Instant};

use crate::{
    host::{
        connection::peer::{Incoming, Peer, SILENCE},
        deploy::failure::Failure,
        state::lock::HostLock,
    },
    shared::{
        outcome::Phase,
        wire::{Deploy, Go, Request, Response},
    },
};

/// What becomes of a deployment that was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    Released,
    /// Some other host has not kept it.
    Revoked,
}

/// Wait until every host is prepared, where there are others. The last moment at which the deployment can be cancelled: returns
/// whether it goes on.
pub fn await_activation(request: &Deploy, lock: &mut HostLock, peer: &mut Peer) -> bool {
    match request.go {
        Go::AtOnce => peer.still_waits(),
        Go::WhenTold => {
            lock.set_phase(Phase::Prepared);
            peer.send(&Response::Prepared);
            matches!(peer.receive(), Incoming::Request(Request::Activate))
        }
    }
}

/// Wait to be reached over a new connection: the one that was there before may outlive a change that locks everybody
/// else out.
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
            // Expected, where the change concerns the network.
            Incoming::End | Incoming::Broken(_) => peer.drop_link(),
        }
    }
    peer.answered();
    Ok(())
}

/// Wait for the helper to say that all hosts are healthy; without an answer the deployment is not kept.
pub fn await_verdict(peer: &mut Peer) -> Result<(), Failure> {
    peer.ask(Response::Healthy);
    let answer = peer.receive();
    peer.answered();
    match answer {
        Incoming::Request(Request::Keep) => Ok(()),
        Incoming::Request(Request::Revert) => Err(Failure::Text("not kept, because another host failed".into())),
        Incoming::Request(_) => Err(Failure::Text("not kept: a message came out of order".into())),
        Incoming::Silence | Incoming::End | Incoming::Broken(_) => {
            Err(Failure::Text("the connection was lost before the verdict".into()))
        }
    }
}

/// Keep the way back until the helper has heard from all hosts. One that has lost its connection may come back for as
/// long as it would be waited for in silence.
pub fn await_release(peer: &mut Peer) -> Release {
    let mut heard = Instant::now();
    peer.ask(Response::Kept);
    let hold = loop {
        match peer.receive_within(SILENCE.saturating_sub(heard.elapsed())) {
            Incoming::Request(Request::Heartbeat) => heard = Instant::now(),
            Incoming::Request(Request::Keep) => {
                heard = Instant::now();
                peer.send(&Response::Kept);
            }
            Incoming::Request(Request::Revert) => break Release::Revoked,
            Incoming::Request(_) | Incoming::Silence => break Release::Released,
            Incoming::End | Incoming::Broken(_) => peer.drop_link(),
        }
    };
    peer.answered();
    hold
}
