//! Serves one connection: the first line, hello, and then one request after another.

use std::{env, io, time::Instant};

use crate::{
    host::{
        candidates,
        connection::{
            attach::attach,
            peer::{Incoming, Peer},
        },
        deploy::deploy,
        export,
        external::drift::{self, Finding},
        look,
        recover::{Recovery, recover},
        secrets,
        state::{
            attempts,
            error::{HostError, ProtocolError},
            failed_units,
            identity::{deployed, instance, make_instance},
            labels,
            layout::Home,
            untidy,
        },
    },
    shared::{
        build::{BUILD_ID, VERSION},
        outcome::Drift,
        wire::{Hello, Request, Response},
    },
    system::{MakeSystem, System},
};

/// The limit for the first line of a helper, in bytes.
const MAX_FIRST_LINE: usize = 128;
/// The most attempts that one answer lists.
const MAX_ATTEMPTS: u32 = 1000;
/// The number of differences that fit into one message, whatever their names are.
const DRIFT_PER_MESSAGE: usize = 50;

/// Runs a deployment in a process that outlives the login session, and waits until it has ended.
pub type Detach<'a> = dyn Fn(&mut dyn FnMut()) -> io::Result<()> + 'a;

/// Serve one connection to its end.
pub fn serve(home: &Home, peer: &mut Peer, system: &MakeSystem<'_>, detach: &Detach<'_>) {
    peer.send_bytes(format!("deptool-agent {VERSION} {BUILD_ID}\n").as_bytes());
    let hello = match recover_and_describe(home, &mut *system(), &mut |_| peer.tick()) {
        Ok(hello) => hello,
        Err(error) => return peer.send(&Response::Error(error.to_string())),
    };
    peer.send(&Response::Hello(Box::new(hello)));
    let greeted = Instant::now();
    match peer.receive_line(MAX_FIRST_LINE) {
        Ok(line) if line == format!("deptool-hello {BUILD_ID}").as_bytes() => {}
        Ok(_) => return peer.send(&Response::Error("helper and agent are of different builds".into())),
        // The helper is gone. This is normal: the command that installs the agent also starts it.
        Err(_) => return,
    }
    loop {
        let result = match peer.receive() {
            Incoming::Request(Request::Deploy(request)) => {
                let after = u32::try_from(greeted.elapsed().as_millis()).unwrap_or(u32::MAX);
                peer.send(&Response::Came { after });
                let mut run = || deploy(home, &request, peer, &mut *system());
                // The child process that deployed may have read further requests. So the connection ends here.
                return detach(&mut run).unwrap_or_else(|error| {
                    peer.send(&Response::Error(format!("cannot leave the login session: {error}")));
                });
            }
            Incoming::Request(Request::Attach(id)) => match attach(home, id, peer, system) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Incoming::Request(Request::Export { want, have }) => export::objects(home, peer, want, &have),
            Incoming::Request(Request::ExportBlob(id)) => export::blob(home, peer, id),
            Incoming::Request(Request::Attempts { limit }) => attempts::latest(home, limit.min(MAX_ATTEMPTS) as usize)
                .map(|list| peer.send(&Response::Attempts(list))),
            Incoming::Request(Request::Verify) => {
                drift::verify(home, &mut *system()).map(|found| send_drift(peer, found))
            }
            Incoming::Request(Request::Look(request)) => look::look(home, peer, &request, &mut *system()),
            Incoming::Request(Request::Candidates) => candidates::list(home, peer),
            Incoming::Request(Request::Ping) => {
                peer.send(&Response::Pong);
                Ok(())
            }
            Incoming::Request(_) => Err(ProtocolError::OutOfOrder.into()),
            Incoming::Failed(error) => Err(ProtocolError::from(error).into()),
            Incoming::Silence | Incoming::End => return,
        };
        if let Err(error) = result {
            return peer.send(&Response::Error(error.to_string()));
        }
    }
}

/// Send the drift, in as many messages as it takes.
fn send_drift(peer: &mut Peer, found: Vec<Finding>) {
    let drift: Vec<Drift> = found.into_iter().map(|finding| finding.drift).collect();
    for part in drift.chunks(DRIFT_PER_MESSAGE) {
        peer.send(&Response::Drift(part.to_vec()));
    }
    peer.send(&Response::End);
}

/// Recover from an interrupted deployment, then describe the host. Errors from then on do not prevent reading.
fn recover_and_describe(home: &Home, system: &mut dyn System, tick: &mut dyn FnMut(&str)) -> Result<Hello, HostError> {
    home.check_ownership()?;
    home.check_directories()?;
    let (mut notes, mut busy, mut failures) = (Vec::new(), None, Vec::new());
    notes.extend(labels::mend(home));
    match recover(home, system, tick) {
        Ok(Recovery::Nothing) => {}
        Ok(Recovery::Busy(holder)) => busy = Some(holder),
        Ok(Recovery::Done(what)) => notes.push(what),
        Ok(Recovery::Stuck(errors)) => failures = errors,
        Err(error) => failures.push(error.to_string()),
    }
    notes.extend(untidy::load(home));
    match failed_units::load(home) {
        Ok(down) => failures.extend(down.into_iter().map(|down| down.why)),
        Err(error) => failures.push(error.to_string()),
    }
    let deployed = deployed(home)?;
    let last_attempt = attempts::latest(home, 1)?.into_iter().next();
    // At the first contact over SSH, the state directory contains nothing but the agent. A full disk is no reason not
    // to answer: a deployment will be refused with that reason.
    if home.directory().exists()
        && let Err(error) = make_instance(home)
        && deployed.is_some()
    {
        failures.push(error.to_string());
    }
    let instance = instance(home)?;
    let recipient = match secrets::identity::recipient(home) {
        Ok(recipient) => recipient,
        Err(error) => {
            notes.push(error.to_string());
            None
        }
    };
    let is_roots_login = ["SUDO_UID", "DOAS_USER"].into_iter().all(|name| env::var_os(name).is_none());
    Ok(Hello { instance, recipient, deployed, last_attempt, notes, failures, busy, is_roots_login })
}
