//! One deployment on this host, from the request to the outcome. This file owns the order of all steps and every early
//! exit.
//!
//! ```text
//! lock ▸ lease ▸ stage ▸ (activate?) ▸ journal opens ▸ apply ▸ settle ▸ (keep?) ▸ journal: kept ▸ finish ▸ clean up
//!                                    │ nothing has changed so far     │ any failure: undo
//! ```

pub mod action;
pub mod activate;
mod admission;
pub mod apply;
pub mod failure;
pub mod finish;
pub mod gates;
pub mod health;
pub mod mend;
pub mod prepare;
mod receive;
pub mod stage;
mod stale;
pub mod sync;
pub mod undo;

use std::path::PathBuf;

use crate::{
    host::{
        connection::{peer::Peer, takeover},
        deploy::{
            activate::{Along, End, Running, tell},
            failure::Failure,
            stage::{Ready, Staged, stage},
        },
        secrets,
        state::{
            durable,
            error::HostError,
            heal,
            identity::deployed,
            journal::Journal,
            labels,
            layout::Home,
            lock::{HostLock, Taken},
        },
    },
    shared::{
        outcome::{Holder, Outcome, Phase},
        store::Store,
        text::printable,
        time::now,
        wire::{Activation, Deploy, Lease, Repair, Response},
    },
    system::System,
};

/// Carry out `request` and tell the helper how it ended.
pub fn deploy(home: &Home, request: &Deploy, peer: &mut Peer, system: &mut dyn System) {
    match try_deploy(home, request, peer, system) {
        Ok(End::Told) => {}
        Ok(End::Outcome(outcome)) => tell(peer, outcome),
        Err(error) => tell(peer, refusal(error)),
    }
}

/// An error before activation is a refusal: nothing was changed.
fn refusal(error: HostError) -> Outcome {
    match error {
        HostError::Refused { why, details } => Outcome::Refused { why, details, in_the_way: Vec::new() },
        HostError::InTheWay { why, files } => Outcome::Refused { why, details: String::new(), in_the_way: files },
        error => Outcome::refused(error.to_string()),
    }
}

/// Admit the deployment: this is the right host, nobody else deploys, and the lease holds. Then prepare and activate it.
fn try_deploy(home: &Home, request: &Deploy, peer: &mut Peer, system: &mut dyn System) -> Result<End, HostError> {
    admission::check_hostname(home, request)?;
    home.create()?;
    let by = printable(request.operator.as_bytes());
    let holder = Holder { id: Some(request.id), by, phase: Phase::Preparing, since: now() };
    let mut lock = match HostLock::take(home, holder)? {
        Taken::Lock(lock) => lock,
        Taken::Busy(holder) => return Ok(End::Outcome(Outcome::Busy(holder))),
    };
    lock.is_written(home)?;
    admission::check_records(home, request)?;
    admission::check_links(home)?;
    system.connect();
    if takeover::is_blocked(home, request.id)? {
        lock.leave();
        return Ok(End::Outcome(Outcome::Cancelled));
    }
    admission::check_at_rest(home)?;
    labels::install_unit(home)?;
    for healed in heal::mend(home)? {
        peer.send(&Response::Note(healed));
    }
    if request.repair == Repair::Changed {
        heal::check_in_step(home)?;
    }
    // The first deployment to a root directory makes the key for secrets. Elsewhere, the first contact did. A damaged one is told
    // of by hello, and refused where it is needed.
    let key = secrets::identity::load_or_make(home);
    let mut store = Store::open_or_init(&home.store())?;
    // At the first deployment, directories are new. The contact has told what is not possible.
    let _ = labels::mend(home);
    let actual = deployed(home)?;
    let refused = admission::check_lease(request, actual).unwrap_or_else(|error| Some(refusal(error)));
    if let Some(outcome) = refused.or_else(|| admission::check_recipient(request, key).err().map(refusal)) {
        lock.leave();
        return Ok(End::Outcome(outcome));
    }
    system.begin_leaving();
    Ok(match prepare(home, request, &mut store, &mut lock, &mut *peer, system) {
        Ok(Ready { record, written, expectations, left }) => {
            let running = Running {
                home,
                lock,
                peer,
                system,
                record,
                expectations,
                left,
                decided_by: request.decided_by,
                begun: 0,
                along: Along::default(),
            };
            activate(running, written, &mut store)
        }
        Err(outcome) => discard(home, lock, &mut store, outcome),
    })
}

/// Stage the deployment, and wait until all hosts are prepared. Nothing becomes visible.
fn prepare(
    home: &Home,
    request: &Deploy,
    store: &mut Store,
    lock: &mut HostLock,
    peer: &mut Peer,
    system: &mut dyn System,
) -> Result<Ready, Outcome> {
    peer.send(&Response::Progress(Phase::Preparing));
    let mut ready = match stage(home, request, store, peer, system).map_err(refusal)? {
        Staged::Ready(ready) => ready,
        Staged::Gone => return Err(Outcome::Cancelled),
    };
    match request.lease {
        Lease::At(_) if !store.is_suspect() => {}
        // At the first deployment the whole state directory is new. After damage to the store it is unclear what is new.
        Lease::At(_) | Lease::Absent => ready.written = vec![home.directory().to_owned()],
    }
    // Sync now what would be synced with the journal: meanwhile other hosts prepare.
    if request.activation == Activation::WhenTold {
        durable::sync(home, &std::mem::take(&mut ready.written)).map_err(refusal)?;
    }
    if gates::await_activation(request, lock, peer) { Ok(*ready) } else { Err(Outcome::Cancelled) }
}

/// Activate, then keep or roll back. From the opened journal on, one of the two happens even if the connection is lost.
fn activate(mut running: Running<'_>, staged: Vec<PathBuf>, store: &mut Store) -> End {
    let mut journal = match running.open_journal(staged) {
        Ok(journal) => journal,
        Err(error) => {
            let outcome = refusal(error);
            // If the journal can't be removed, the next agent undoes it, and finds nothing to undo.
            return match Journal::discard(running.home) {
                Ok(()) => discard(running.home, running.lock, store, outcome),
                Err(_) => End::Outcome(outcome),
            };
        }
    };
    let result = finish::note_target(&running.record, store).map_err(Failure::from);
    let result = result.and_then(|()| running.apply_and_settle());
    let result = result.and_then(|()| running.await_helper());
    let result = result.and_then(|()| running.make_durable(&mut journal).map_err(Failure::from));
    let result = result.and_then(|()| running.await_release(&mut journal));
    match result {
        Ok(()) => running.keep(journal, store),
        Err(_) if running.system.is_stopping() => {
            // systemd starts no more units. The journal stays, and recovery at the next boot rolls back.
            running.peer.send(&Response::Error("the host is shutting down; it rolls back when it boots again".into()));
            End::Told
        }
        Err(why) => End::Outcome(running.roll_back(why, journal)),
    }
}

/// Remove what was staged. If that fails, the next agent cleans up: the lock file still names this deployment.
fn discard(home: &Home, lock: HostLock, store: &mut Store, outcome: Outcome) -> End {
    let forgotten = store.remove_added_packs().map_err(HostError::from);
    if forgotten.and_then(|()| finish::tidy(home)).is_ok() {
        lock.leave();
    }
    End::Outcome(outcome)
}
