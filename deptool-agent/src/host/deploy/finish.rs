//! After the verdict: refs, ledger, log and links agree with the new generation, and what is no longer needed goes.
//!
//! All of it can be done again after an interruption.

use std::{collections::BTreeSet, fs, io, path::Path};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};

use crate::{
    host::{
        connection::takeover,
        deploy::action::{Action, New, Old},
        external::place::{Place, Sibling},
        state::{
            attempts,
            error::{Context, HostError},
            failed_units,
            journal::{Journal, Record, release_reserve},
            layout::{Home, remove_if_there, replace_file, replace_link},
            ledger::Claims,
        },
    },
    shared::{
        outcome::{Attempt, AttemptResult, Goal},
        path::ExternalPath,
        store::{Expected, LogEntry, Store, StoreError},
    },
};

/// How many generations stay, the running one included.
const KEPT_GENERATIONS: usize = 5;
/// How many agents stay.
const KEPT_AGENTS: usize = 3;
/// The present, for [`utimensat`].
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
/// With more packs than this the store is repacked.
const MANY_PACKS: usize = 50;

impl From<StoreError> for HostError {
    fn from(error: StoreError) -> HostError {
        use std::error::Error as _;
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        HostError::Unfit(text)
    }
}

/// Let what was tried stay readable in the store, however it ends.
pub fn note_target(record: &Record, store: &mut Store) -> Result<(), HostError> {
    match record.to {
        Goal::Commit(id) => Ok(store.set_target(&id)?),
        Goal::Nothing => Ok(()),
    }
}

/// Make everything agree with the deployment of `record`, which has its verdict.
pub fn finish(home: &Home, record: &Record, store: &mut Store) -> Result<(), HostError> {
    release_reserve(home)?;
    // What is deployed is never there without the directory that it is deployed from.
    if let Goal::Commit(_) = record.to {
        replace_file(&home.host_name(), record.host.as_str().as_bytes())?;
    }
    set_refs(record, store)?;
    record.claims.save(home)?;
    match record.previous {
        Some(number) => replace_link(&home.previous(), &format!("generations/{number}"))?,
        None => remove_if_there(&home.previous())?,
    }
    if record.to == Goal::Nothing {
        remove_if_there(&home.host_name())?;
    }
    // Whatever was down runs now, or is not asked for any more.
    failed_units::clear(home)?;
    attempts::record(home, &attempt_of(record, AttemptResult::Done))?;
    clear_siblings(home, record)?;
    release_directories(home, record)
}

/// Remove what no generation needs, then close the journal: the host is at rest.
pub fn rest(home: &Home, record: &Record, store: &mut Store, journal: Journal) -> Result<(), HostError> {
    prune(home)?;
    prune_agents(home, &record.agent)?;
    // Attempts of the last generations stay readable; nothing else needs objects that no reflog names.
    if store.is_doubted() {
        store.drop_damaged()?;
    }
    match store.repack_if_many(MANY_PACKS, &[]) {
        Err(StoreError::Corrupt { .. } | StoreError::Kind { .. } | StoreError::BadPack { .. }) => {
            store.drop_damaged()?;
            store.repack_if_many(MANY_PACKS, &[])?;
        }
        result => drop(result?),
    }
    Store::sweep_passing(&home.store())?;
    home.sync_state()?;
    journal.close()
}

/// The log's line for the deployment of `record`.
pub fn attempt_of(record: &Record, result: AttemptResult) -> Attempt {
    let Record { id, by, when, cluster, from, to, .. } = record.clone();
    Attempt { id, when, by, cluster, from, to, result }
}

fn set_refs(record: &Record, store: &mut Store) -> Result<(), HostError> {
    let (name, email) = match record.by.split_once(" <") {
        Some((name, email)) => (name, email.trim_end_matches('>')),
        None => (record.by.as_str(), ""),
    };
    let log = LogEntry { name, email, seconds: record.when, message: "deptool: deployed" };
    match record.to {
        Goal::Commit(commit) => {
            // A ref that was damaged when the machine went down is written again, too.
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

/// The backups of the deployment are not needed any more; what we do not hold any more needs no backup either.
fn clear_siblings(home: &Home, record: &Record) -> Result<(), HostError> {
    for action in &record.actions {
        let Action::Place(placement) = action else { continue };
        let Some(place) = Place::existing(home, &placement.path)? else { continue };
        place.remove_sibling(Sibling::New)?;
        match placement.old {
            Old::Drifted if place.has(Sibling::Undo)? => place.rename_sibling(Sibling::Undo, Sibling::Drift)?,
            Old::Ours => place.remove_sibling(Sibling::Undo)?,
            Old::Drifted | Old::Nothing | Old::Foreign => {}
        }
        if matches!(placement.new, New::Before | New::Nothing) {
            place.remove_sibling(Sibling::Before)?;
        }
    }
    Ok(())
}

/// Directories that we made go when nothing is left in them.
fn release_directories(home: &Home, record: &Record) -> Result<(), HostError> {
    let mut claims = Claims { directories: BTreeSet::new(), ..record.claims.clone() };
    // Innermost first.
    for path in record.claims.directories.iter().rev() {
        let is_needed = record.claims.paths.keys().any(|held| below(held, path));
        let gone = !is_needed
            && match Place::existing(home, path)? {
                Some(place) => place.remove_directory_if_empty()?,
                None => true,
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

/// Remove whatever a deployment that did not happen may have left. Only who holds the host lock may do this.
pub fn tidy(home: &Home) -> Result<(), HostError> {
    for name in names(home.state())?.iter().filter(|name| name.ends_with(".new")) {
        remove_if_there(&home.state().join(name))?;
    }
    takeover::clear(home)?;
    clear_instances(home)?;
    Store::sweep(&home.store())?;
    prune(home)
}

/// Remove what agents that are gone have left half written of this host's id.
pub fn clear_instances(home: &Home) -> Result<(), HostError> {
    for name in names(home.state())?.iter().filter(|name| is_of_dead_agent(name)) {
        remove_if_there(&home.state().join(name))?;
    }
    Ok(())
}

/// Whether a file was to become this host's id, and the agent that made it is gone.
fn is_of_dead_agent(name: &str) -> bool {
    name.strip_prefix("instance.").is_some_and(|process| !is_alive(process))
}

/// Whether there is a process of that number that has not ended. One that was killed stays known until somebody has asked
/// how it ended.
fn is_alive(process: &str) -> bool {
    let stat = fs::read(Path::new("/proc").join(process).join("stat")).unwrap_or_default();
    // The name, in brackets, may hold anything.
    let state = stat.rsplit(|byte| *byte == b')').next().and_then(|fields| fields.get(1));
    state.is_some_and(|state| !b"ZX".contains(state))
}

/// Remove generations beyond the last ones, checkouts that no generation has, and what came in for a deployment.
pub fn prune(home: &Home) -> Result<(), HostError> {
    let in_use = [home.linked_generation(&home.current())?, home.linked_generation(&home.previous())?];
    let mut numbers = numbered(&home.generations())?;
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    // What is newer than the running one was never kept.
    let current = in_use[0].unwrap_or(0);
    let kept = numbers.iter().filter(|n| **n <= current).take(KEPT_GENERATIONS).copied().collect::<BTreeSet<_>>();
    let mut trees = BTreeSet::new();
    for number in numbers {
        let directory = home.generation(number);
        if kept.contains(&number) || in_use.contains(&Some(number)) {
            trees.extend(trees_of(&directory)?);
        } else {
            fs::remove_dir_all(&directory).during("remove", &directory)?;
        }
    }
    for name in names(&home.trees())? {
        let tree = name.trim_end_matches(".new").trim_end_matches(".files");
        if !trees.contains(tree) {
            crate::host::state::checkout::remove(home, tree)?;
            remove_if_there(&home.trees().join(&name))?;
        }
    }
    match fs::remove_dir_all(home.incoming()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).during("remove", &home.incoming()),
        _ => Ok(()),
    }
}

/// The number of the next generation: one more than any that is there.
pub fn next_generation(home: &Home) -> Result<u32, HostError> {
    Ok(numbered(&home.generations())?.into_iter().max().unwrap_or(0) + 1)
}

fn numbered(directory: &Path) -> Result<Vec<u32>, HostError> {
    Ok(names(directory)?.iter().filter_map(|name| name.parse().ok()).collect())
}

/// The names in a directory; none if it is not there.
fn names(directory: &Path) -> Result<Vec<String>, HostError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.during("read", directory)?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect::<io::Result<_>>().during("read", directory)
}

/// The checkouts that a generation refers to.
fn trees_of(generation: &Path) -> Result<Vec<String>, HostError> {
    let mut trees = Vec::new();
    for name in names(generation)? {
        if let Ok(target) = fs::read_link(generation.join(name)) {
            trees.extend(target.file_name().map(|tree| tree.to_string_lossy().into_owned()));
        }
    }
    Ok(trees)
}

/// Remove agents beyond those that deployed last, by their times; never the one that is running.
fn prune_agents(home: &Home, running: &str) -> Result<(), HostError> {
    let bin = home.bin();
    if !bin.exists() {
        return Ok(());
    }
    let mut agents = Vec::new();
    for name in names(&bin)? {
        let path = bin.join(&name);
        if name == running {
            // So that it counts as the last used when another one looks.
            let now = Timestamps { last_access: NOW, last_modification: NOW };
            utimensat(CWD, &path, &now, AtFlags::SYMLINK_NOFOLLOW).during("set the time of", &path)?;
        }
        let meta = fs::symlink_metadata(&path).during("look at", &path)?;
        if name.starts_with("deptool-agent-") && name != running && meta.is_file() {
            agents.push((meta.modified().during("look at", &path)?, path));
        }
    }
    agents.sort();
    agents.reverse();
    for (_, path) in agents.into_iter().skip(KEPT_AGENTS - 1) {
        remove_if_there(&path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

    use super::*;

    #[test]
    fn what_an_agent_that_was_killed_has_left_goes_also_while_nobody_has_taken_note_of_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        home.create().unwrap();
        let mut killed = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        killed.kill().unwrap();
        // It has ended, and is not waited for.
        let pid = Pid::from_child(&killed);
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        for process in [killed.id(), std::process::id()] {
            fs::write(home.state().join(format!("instance.{process}")), "").unwrap();
        }
        clear_instances(&home).unwrap();
        let left: Vec<_> = names(home.state()).unwrap().into_iter().filter(|name| name.contains("instance.")).collect();
        assert_eq!(left, [format!("instance.{}", std::process::id())]);
        killed.wait().unwrap();
    }
}
