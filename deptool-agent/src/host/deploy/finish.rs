//! Finishes a deployment that is kept: updates refs, ledger, log and links, and then removes what is no longer needed.
//!
//! Everything here is idempotent, so that it can be repeated after an interruption.

use std::collections::BTreeSet;

use crate::{
    host::{
        connection::takeover,
        deploy::{
            action::{Action, New, Old, Placement},
            apply::point,
            sync::{self, Own},
        },
        external::{
            backup,
            place::{Place, Sibling},
            stamps,
        },
        secrets,
        state::{
            agents::{self, AgentId},
            attempts,
            boot::BootUnit,
            durable,
            error::HostError,
            failed_units,
            generations::{Note, prune},
            identity::clear_unnamed,
            journal::{Handle, Record, release_reserve},
            layout::{Home, names},
            ledger::Claims,
            untidy,
        },
    },
    shared::{
        outcome::{Attempt, AttemptResult, Goal},
        path::ExternalPath,
        store::{Expected, LogEntry, Store, StoreError},
    },
};

/// If there are more packs than this, the store is repacked.
const MANY_PACKS: usize = 50;

/// Record the commit in `refs/deptool/target`, so that it stays readable however the deployment ends.
pub fn note_target(record: &Record, store: &mut Store) -> Result<(), HostError> {
    match record.to {
        Goal::Commit(id) => Ok(store.set_target(&id)?),
        Goal::Nothing => Ok(()),
    }
}

/// Make all records agree with the deployment of `record`, which is kept.
pub fn finish(home: &Home, record: &Record, store: &mut Store) -> Result<(), HostError> {
    release_reserve(home)?;
    // Before the branch: whatever is deployed must have the name of its directory on record.
    if let Goal::Commit(_) = record.to {
        durable::replace(&home.host_name(), record.host.as_str().as_bytes())?;
    }
    set_refs(record, store)?;
    record.claims.save(home)?;
    point(home, record.generation, &home.previous(), record.previous)?;
    if record.to == Goal::Nothing {
        durable::remove(&home.host_name())?;
    }
    // Units that were down run now, or are no longer deployed.
    failed_units::clear(home)?;
    attempts::record(home, &attempt_of(record, AttemptResult::Done))
}

/// Remove what this deployment needed outside, and what it gave up. Returns what somebody has locked, see chattr(1): it
/// stays, and gets in the way of nothing. After any other error the journal must stay, so that the next agent tries again.
pub fn clear_outside(home: &Home, record: &Record) -> Result<Vec<HostError>, HostError> {
    let mut locked = Vec::new();
    clear_siblings(home, record, &mut locked)?;
    release_directories(home, record, &mut locked)?;
    stamps::update(home, record)?;
    Ok(locked)
}

/// For what is locked, this is `()`, or false: it is not gone.
fn unless_locked<T: Default>(removed: Result<T, HostError>, locked: &mut Vec<HostError>) -> Result<T, HostError> {
    match removed {
        Err(error) if error.is_not_permitted() => {
            locked.push(error);
            Ok(T::default())
        }
        other => other,
    }
}

/// Remove what no generation needs, and close the journal. Before, what was cleared away is durable.
pub fn rest(home: &Home, record: &Record, store: &mut Store, journal: Handle) -> Result<(), HostError> {
    clear_away(home, store)?;
    sync::places(home, record, Own::Anything)?;
    home.sync_own()?;
    journal.close()
}

/// Remove what no generation needs. What can't be removed is put on record: it gets in the way of nothing.
pub fn clear_away(home: &Home, store: &mut Store) -> Result<(), HostError> {
    let mut left = prune(home)?;
    left.extend(secrets::prune(home).err());
    left.extend(prune_labels(home).err());
    left.extend(agents::prune(home, &AgentId::own()).err());
    left.extend(tidy_store(home, store).err());
    untidy::record(home, &left)
}

/// Remove the unit that labels at boot, if nothing is deployed.
fn prune_labels(home: &Home) -> Result<(), HostError> {
    let is_empty = Note::current(home).is_none_or(|note| note.commit == Goal::Nothing);
    if is_empty { BootUnit::Labels.remove(home) } else { Ok(()) }
}

fn tidy_store(home: &Home, store: &mut Store) -> Result<(), HostError> {
    // Repacking drops objects that no ref and no reflog names.
    if store.is_suspect() {
        store.drop_damaged()?;
    }
    match store.repack_if_many(MANY_PACKS) {
        Err(StoreError::Corrupt { .. } | StoreError::Kind { .. } | StoreError::BadPack { .. }) => {
            store.drop_damaged()?;
            store.repack_if_many(MANY_PACKS)?;
        }
        result => drop(result?),
    }
    Ok(Store::sweep_temporary_files(&home.store())?)
}

/// The entry in the attempts log for the deployment of `record`.
pub fn attempt_of(record: &Record, result: AttemptResult) -> Attempt {
    let Record { id, by, when, cluster, from, to, mended, .. } = record.clone();
    let mended = if result == AttemptResult::Done { mended } else { Vec::new() };
    Attempt { id, when, by, cluster, from, to, result, mended }
}

fn set_refs(record: &Record, store: &mut Store) -> Result<(), HostError> {
    let (name, email) = match record.by.split_once(" <") {
        Some((name, email)) => (name, email.trim_end_matches('>')),
        None => (record.by.as_str(), ""),
    };
    let log = LogEntry { name, email, seconds: record.when, message: "deptool: deployed" };
    match record.to {
        Goal::Commit(commit) => {
            // This also replaces a ref that was damaged when the machine went down.
            let is_set =
                matches!(store.deployed(), Ok(Some((cluster, id))) if cluster == record.cluster && id == commit);
            if !is_set {
                store.set_deployed(&record.cluster, Expected::Any, &commit, log)?;
            }
        }
        Goal::Nothing => {
            let log = LogEntry { message: "deptool: removed", ..log };
            store.remove(&record.cluster, Expected::Any, log)?;
        }
    }
    Ok(())
}

/// Remove the backups for undoing this deployment, and the original backups of paths that are no longer claimed.
fn clear_siblings(home: &Home, record: &Record, locked: &mut Vec<HostError>) -> Result<(), HostError> {
    for action in &record.actions {
        let Action::Place(placement) = action else { continue };
        match clear_siblings_of(home, record, placement, locked) {
            // A path that can't be reached safely any more: what is there is left alone.
            Ok(()) | Err(HostError::External(_)) => {}
            Err(error) => return Err(error),
        }
    }
    for kept in &record.kept_files {
        let target = backup::kept_file(home, record.generation, &kept.app, &kept.file);
        backup::link_kept(home, &home.trees().join(&kept.tree).join(kept.file.as_path()), &target)?;
    }
    Ok(())
}

fn clear_siblings_of(
    home: &Home,
    record: &Record,
    placement: &Placement,
    locked: &mut Vec<HostError>,
) -> Result<(), HostError> {
    let path = &placement.path;
    if matches!(placement.new, New::Before(_) | New::Nothing) {
        unless_locked(durable::remove_all(&backup::of(home, path)), locked)?;
    }
    let Some(place) = Place::existing(home, path)? else { return Ok(()) };
    unless_locked(place.remove_sibling(Sibling::New), locked)?;
    if !place.has(Sibling::Undo)? {
        return Ok(());
    }
    match placement.old {
        Old::Nothing => Ok(()),
        Old::Ours => unless_locked(place.remove_sibling(Sibling::Undo), locked),
        Old::Foreign => place.move_away(Sibling::Undo, &backup::make_room(home, path)?),
        Old::Drifted | Old::DriftedDirectory => keep(home, record, path, &place),
        Old::OurDirectory => {
            place.clear_our_directory()?;
            // Another program has put files into it since.
            if place.has(Sibling::Undo)? { keep(home, record, path, &place) } else { Ok(()) }
        }
    }
}

fn keep(home: &Home, record: &Record, path: &ExternalPath, place: &Place) -> Result<(), HostError> {
    let target = backup::kept_path(home, record.generation, path.relative());
    backup::make_parents(home, &target)?;
    durable::remove_all(&target)?;
    place.move_away(Sibling::Undo, &target)
}

/// Remove directories that a deployment made, if nothing is left in them.
fn release_directories(home: &Home, record: &Record, locked: &mut Vec<HostError>) -> Result<(), HostError> {
    let mut claims = Claims { directories: BTreeSet::new(), ..record.claims.clone() };
    // Innermost first.
    for path in record.claims.directories.iter().rev() {
        let is_needed = record.claims.paths.keys().any(|held| below(held, path));
        let gone = !is_needed
            && match Place::existing(home, path) {
                Ok(Some(place)) => {
                    let gone = unless_locked(place.remove_directory_if_empty(), locked)?;
                    // No action names it.
                    if gone {
                        place.sync()?;
                    }
                    gone
                }
                Ok(None) | Err(HostError::External(_)) => true,
                Err(error) => return Err(error),
            };
        if !gone {
            claims.directories.insert(path.clone());
        }
    }
    if claims.directories == record.claims.directories { Ok(()) } else { claims.save(home) }
}

fn below(path: &ExternalPath, directory: &ExternalPath) -> bool {
    crate::shared::path::is_within(path.as_str(), directory.as_str())
}

/// Remove whatever a deployment that was not activated left. The caller holds the host lock.
pub fn tidy(home: &Home) -> Result<(), HostError> {
    for name in names(&home.state())?.iter().filter(|name| name.ends_with(".new")) {
        durable::remove_all(&home.state().join(name))?;
    }
    agents::tidy(home)?;
    takeover::remove_stale_sockets(home)?;
    clear_unnamed(home)?;
    Store::sweep(&home.store())?;
    let mut left = prune(home)?;
    left.extend(secrets::prune(home).err());
    left.extend(prune_labels(home).err());
    if left.is_empty() { Ok(()) } else { untidy::record(home, &left) }
}
