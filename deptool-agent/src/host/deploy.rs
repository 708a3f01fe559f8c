//! One deployment on this host, from the request to the outcome.
//!
//! ```text
//! lock ▸ lease ▸ receive ▸ prepare ▸ (go?) ▸ journal opens ▸ apply ▸ settle ▸ (keep?) ▸ verdict ▸ finish ▸ rest
//!                                     │ until here nothing happened   │ any failure: undo
//! ```

pub mod action;
pub mod activate;
pub mod apply;
pub mod failure;
pub mod finish;
pub mod gates;
pub mod health;
pub mod owners;
pub mod prepare;
mod receive;
pub mod stage;
pub mod undo;

use crate::{
    host::{
        connection::{
            peer::{Incoming, Peer},
            takeover,
        },
        deploy::{
            activate::{End, Running, tell},
            stage::{Ready, Staged, stage},
        },
        state::{
            durable,
            error::HostError,
            identity::{deployed, make_instance},
            journal::Journal,
            layout::{Home, read_if_there},
            lock::{HostLock, Taken},
        },
    },
    shared::{
        outcome::{Deployed, Holder, Outcome, Phase},
        store::Store,
        text::printable,
        time::now,
        wire::{Deploy, Go, Lease, Request, Response},
    },
    system::System,
};

/// Carry out `request` and tell how it ended. Whatever goes wrong before something is visible is a refusal.
pub fn deploy(home: &Home, request: &Deploy, peer: &mut Peer, system: &mut dyn System) {
    match try_deploy(home, request, peer, system) {
        Ok(End::Told) => {}
        Ok(End::Outcome(outcome)) => tell(peer, outcome),
        Err(error) => tell(peer, refusal(error)),
    }
}

fn refusal(error: HostError) -> Outcome {
    match error {
        HostError::Refused { why, details } => Outcome::Refused { why, details },
        error => Outcome::refused(error.to_string()),
    }
}

fn try_deploy(home: &Home, request: &Deploy, peer: &mut Peer, system: &mut dyn System) -> Result<End, HostError> {
    check_hostname(home, request)?;
    check_selinux(home)?;
    home.create()?;
    let by = printable(request.operator.as_bytes());
    let holder = Holder { id: Some(request.id), by, phase: Phase::Preparing, since: now() };
    let mut lock = match HostLock::take(home, holder)? {
        Taken::Lock(lock) => lock,
        Taken::Busy(holder) => return Ok(End::Outcome(Outcome::Busy(holder))),
    };
    lock.is_written(home)?;
    system.begin_leaving();
    if takeover::is_barred(home, request.id)? {
        lock.leave();
        return Ok(End::Outcome(Outcome::Cancelled));
    }
    check_at_rest(home)?;
    make_instance(home)?;
    let mut store = Store::open_or_init(&home.store())?;
    let actual = deployed(home)?;
    if let Some(outcome) = check_lease(request, actual).unwrap_or_else(|error| Some(refusal(error))) {
        lock.leave();
        return Ok(End::Outcome(outcome));
    }
    peer.send(&Response::Progress(Phase::Preparing));
    let staged = match stage(home, request, &mut store, peer, system) {
        Ok(Staged::Ready(staged)) => staged,
        Ok(Staged::Gone) => return Ok(discard(home, lock, &mut store, Outcome::Cancelled)),
        Err(error) => return Ok(discard(home, lock, &mut store, refusal(error))),
    };
    // Here, and not with the journal: systemd needs its time to let us leave the session, and other hosts theirs.
    let written = match request.expected {
        Lease::At(_) if !store.is_doubted() => &staged.written,
        // With the first deployment all that is ours is new; of a store that was damaged nobody knows what is.
        Lease::At(_) | Lease::Absent => &vec![home.state().to_owned()],
    };
    if let Err(error) = durable::sync(home, written) {
        return Ok(discard(home, lock, &mut store, refusal(error)));
    }
    if !may_go(request, &mut lock, peer) {
        return Ok(discard(home, lock, &mut store, Outcome::Cancelled));
    }
    let Ready { record, expectations, .. } = *staged;
    let mut running = Running { home, lock, peer, system, record, expectations, verdict: request.verdict };
    Ok(match running.begin() {
        Ok(journal) => running.see_to_its_end(journal, &mut store),
        Err(error) => {
            let outcome = refusal(error);
            // What is left of the journal is undone by the next agent, which finds nothing that was done.
            match Journal::discard(home) {
                Ok(()) => discard(home, running.lock, &mut store, outcome),
                Err(_) => End::Outcome(outcome),
            }
        }
    })
}

/// Another agent may have been killed since this one looked: what it has begun is undone before anything else.
fn check_at_rest(home: &Home) -> Result<(), HostError> {
    let journal = read_if_there(&home.journal())?.unwrap_or_default();
    if journal.is_empty() {
        return Ok(());
    }
    Err(HostError::Unfit(
        "an earlier deployment is not undone yet; 'git fetch' tries that again, and says what stands in the way".into(),
    ))
}

/// `/etc/hostname` must be the host's name, or one the other's first label. Compared before anything is written.
fn check_hostname(home: &Home, request: &Deploy) -> Result<(), HostError> {
    let Some(expected) = &request.hostname else { return Ok(()) };
    let bytes = read_if_there(&home.root().join("etc/hostname"))?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let name = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
    let first = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let expected = expected.as_str();
    let same = name.eq_ignore_ascii_case(expected)
        || first(name).eq_ignore_ascii_case(expected)
        || first(expected).eq_ignore_ascii_case(name);
    if name.is_empty() || name == "localhost" || same {
        return Ok(());
    }
    let name = printable(name.as_bytes());
    Err(HostError::Unfit(format!("the host calls itself '{name}' in /etc/hostname, not '{expected}'")))
}

/// Under an enforcing SELinux our files would need labels, which nobody has tried yet.
fn check_selinux(home: &Home) -> Result<(), HostError> {
    let enforce = home.root().join("sys/fs/selinux/enforce");
    match std::fs::read(&enforce) {
        Ok(text) if home.is_live() && text.first() == Some(&b'1') => {
            Err(HostError::Unfit("SELinux is enforcing on the host, which is not supported yet".into()))
        }
        _ => Ok(()),
    }
}

/// The lease: what is deployed must be what the plan was made from.
fn check_lease(request: &Deploy, actual: Option<Deployed>) -> Result<Option<Outcome>, HostError> {
    let holds = match (&request.expected, &actual) {
        (Lease::Absent, None) => true,
        (Lease::At(id), Some(deployed)) => deployed.commit == *id,
        (Lease::Absent, Some(_)) | (Lease::At(_), None) => false,
    };
    if let Some(deployed) = &actual {
        if deployed.cluster != request.cluster {
            let (its, asked) = (&deployed.cluster, &request.cluster);
            return Err(HostError::Unfit(format!("the host belongs to cluster '{its}', not '{asked}'")));
        }
        if deployed.host != request.host {
            let (its, asked) = (&deployed.host, &request.host);
            return Err(HostError::Unfit(format!("the host is deployed from directory '{its}', not '{asked}'")));
        }
    }
    Ok((!holds).then_some(Outcome::Stale { actual }))
}

/// What was prepared goes again, and gives its space back. If that fails, the next agent tidies up.
fn discard(home: &Home, lock: HostLock, store: &mut Store, outcome: Outcome) -> End {
    let forgotten = store.forget_added().map_err(HostError::from);
    if forgotten.and_then(|()| finish::tidy(home)).is_ok() {
        lock.leave();
    }
    End::Outcome(outcome)
}

/// The last moment at which the deployment can be cancelled.
fn may_go(request: &Deploy, lock: &mut HostLock, peer: &mut Peer) -> bool {
    match request.go {
        Go::AtOnce => peer.still_waits(),
        Go::WhenTold => {
            lock.set_phase(Phase::Prepared);
            peer.send(&Response::Prepared);
            matches!(peer.receive(), Incoming::Request(Request::Activate))
        }
    }
}
