//! Begins connections to a few hosts while the data to be sent are still being prepared.
//!
//! A new connection is begun at once, because it takes long. If a shared connection leads to a single distant host, the
//! slow part is that a new session does not read stdin at first. In that case the request is prepared first and travels
//! in the environment (see [`deptool_agent::shared::env_request`]).

use std::thread::{self, JoinHandle};

use super::Affected;
use crate::{
    agent::transport::{AT_ONCE, Endpoint, Present, Started, ssh},
    fleet::{delivery::Delivery, remote::Remote},
    state::{HostFacts, RequestPath},
};

/// The connections that were begun.
pub(super) enum EarlyStart {
    /// One for each host, or `None` if it failed. The delivery will fail in the same way, and report it.
    Started(Vec<Option<Started>>),
    /// Finding out whether there is a shared connection.
    Asking(JoinHandle<bool>),
}

impl EarlyStart {
    /// Begin, unless there are more hosts than may be connected to at the same time.
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
        let start = |(one, facts): (&Affected, &Option<HostFacts>)| {
            let target = remote.place(&one.remote).ok()?;
            let present = facts.as_ref().and_then(HostFacts::our_agent).unwrap_or(Present::Started);
            remote.connector.start(&target, present, None, &mut |_| {}).ok()
        };
        EarlyStart::Started(affected.iter().zip(facts).map(start).collect())
    }

    /// Use the connections, now that the deliveries are ready.
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
