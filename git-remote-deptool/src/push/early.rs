//! Connections to a few hosts, begun while what is sent over them is still being made.
//!
//! A connection of its own is begun at once: it takes longest. Where a single host is far and a connection is shared,
//! what takes longest is that a session on it takes nothing on stdin at first: then the request travels in a variable,
//! and is waited for (see [`deptool_agent::shared::env_request`]).

use std::thread::{self, JoinHandle};

use super::Affected;
use crate::{
    agent::transport::{AT_ONCE, Endpoint, Started, ssh},
    fleet::{delivery::Delivery, remote::Remote},
    state::{HostFacts, RequestPath},
};

/// What has been started.
pub(super) enum EarlyStart {
    /// For each host, unless it failed: the delivery will fail the same way, and report it.
    Started(Vec<Option<Started>>),
    /// Is there a connection that can be shared?
    Asking(JoinHandle<bool>),
}

impl EarlyStart {
    /// Begin, with no more hosts than are connected to at once.
    pub fn begin(remote: &Remote, affected: &[Affected], facts: &[Option<HostFacts>]) -> EarlyStart {
        if affected.len() > AT_ONCE {
            return EarlyStart::Started(Vec::new());
        }
        if let ([one], [Some(facts)]) = (affected, facts)
            && facts.is_far()
            && let Ok(Endpoint::Ssh(ssh)) = remote.place(&one.remote)
        {
            let connector = remote.connector.clone();
            return EarlyStart::Asking(thread::spawn(move || {
                ssh::is_shared(&ssh, &connector.ssh, &connector.environment)
            }));
        }
        let start = |one: &Affected| remote.connector.start(&remote.place(&one.remote).ok()?, None, &mut |_| {}).ok();
        EarlyStart::Started(affected.iter().map(start).collect())
    }

    /// The deliveries are ready.
    pub fn end(self, deliveries: &mut [Delivery]) {
        match self {
            EarlyStart::Started(all) => {
                for (delivery, started) in deliveries.iter_mut().zip(all) {
                    delivery.started = started;
                }
            }
            EarlyStart::Asking(asking) => {
                if asking.join().unwrap_or(false) {
                    deliveries.iter_mut().for_each(|delivery| delivery.flight = RequestPath::Environment);
                }
            }
        }
    }
}
