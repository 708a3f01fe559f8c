//! The way to a single host, prepared while what it is to be told is still being made.
//!
//! A connection of its own is begun at once: it takes longest. Where the host is far and a connection is shared, what
//! takes longest is that a session on it takes nothing on stdin at first: then the request travels in a variable, and
//! is waited for (see [`deptool_agent::early`]).

use std::thread::{self, JoinHandle};

use super::Affected;
use crate::{
    delivery::{Delivery, Flight},
    remote::Remote,
    tracking::HostFacts,
    transport::{Started, Target, ssh},
};

/// What was begun.
pub(super) enum Approach {
    Nothing,
    Started(Box<Started>),
    /// Is there a connection that can be shared?
    Asking(JoinHandle<bool>),
}

/// What was found out about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    Unknown,
    /// There is no connection that could be shared.
    Alone,
}

impl Approach {
    /// Begin. Whatever goes wrong goes wrong again, and is told then.
    pub fn begin(remote: &Remote, affected: &[Affected]) -> Approach {
        let [one] = affected else { return Approach::Nothing };
        let Ok(target) = remote.place(&one.remote) else { return Approach::Nothing };
        let facts = HostFacts::load(&remote.repo, &one.remote.tracking);
        if let Target::Ssh(ssh) = &target
            && facts.is_some_and(|facts| facts.route.may_be_shared())
        {
            let (ssh, connector) = (ssh.clone(), remote.connector.clone());
            return Approach::Asking(thread::spawn(move || {
                ssh::is_shared(&ssh, &connector.ssh, &connector.environment)
            }));
        }
        let started = remote.connector.start(&target, &mut |_| {});
        started.map_or(Approach::Nothing, |started| Approach::Started(Box::new(started)))
    }

    /// All that is to be told is there.
    pub fn end(self, deliveries: &mut [Delivery]) -> Company {
        let [delivery] = deliveries else { return Company::Unknown };
        match self {
            Approach::Nothing => Company::Unknown,
            Approach::Started(started) => {
                delivery.started = Some(*started);
                Company::Unknown
            }
            Approach::Asking(asking) => match asking.join() {
                Ok(true) => {
                    delivery.flight = Flight::Variable;
                    Company::Unknown
                }
                Ok(false) | Err(_) => Company::Alone,
            },
        }
    }
}
