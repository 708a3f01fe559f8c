//! Attaches a connection to a deployment that began on another connection.

use std::time::Duration;

use crate::{
    host::{
        connection::{
            peer::{Incoming, Peer, Relayed},
            takeover,
        },
        recover::{Recovery, recover},
        state::{
            attempts,
            error::{Context, HostError, ProtocolError},
            layout::Home,
        },
    },
    shared::{
        id::DeploymentId,
        wire::{Request, Response},
    },
    system::MakeSystem,
};

/// The time between two attempts to reach the deployment's takeover socket.
const PAUSE: Duration = Duration::from_millis(50);

/// Relay between `peer` and the agent that carries out deployment `id`. If the deployment has ended, tell `peer` how.
pub fn attach(home: &Home, id: DeploymentId, peer: &mut Peer, system: &MakeSystem<'_>) -> Result<(), HostError> {
    let mut is_blocked = false;
    loop {
        if let Some(worker) = takeover::connect(home, id)?
            && peer.relay(worker).during("relay to", &home.run())? == Relayed::Something
        {
            return Ok(());
        }
        match recover(home, &mut *system(), &mut |_| peer.tick())? {
            // The deployment has no takeover socket yet, or is being undone: wait. If another deployment holds the lock,
            // this one has ended.
            Recovery::Busy(holder) if holder.id.is_none_or(|other| other == id) => {}
            Recovery::Busy(_) | Recovery::Nothing | Recovery::Done(_) | Recovery::Stuck(_) => {
                let attempt = attempts::find(home, id)?;
                if attempt.is_some() || is_blocked {
                    peer.send(&Response::NotRunning(attempt.map(Box::new)));
                    return Ok(());
                }
                // The request may still be in the buffers of the lost connection. Block it, then look once more.
                takeover::block(home, id)?;
                is_blocked = true;
                continue;
            }
        }
        match peer.receive_within(PAUSE) {
            Incoming::Silence | Incoming::Request(Request::Heartbeat) => peer.tick(),
            Incoming::End | Incoming::Failed(_) => return Ok(()),
            Incoming::Request(_) => return Err(ProtocolError::OutOfOrder.into()),
        }
    }
}
