//! Repairs records that were damaged, by a disk or by a person.
//!
//! Whatever is in the place of a record and is not a valid one is moved to `kept/`, and the operator is told. The host's id
//! and its name in the tree are restored from the note of the current generation. The ledger is rebuilt where it is needed,
//! see [`crate::host::state::ledger`]; the branch is restored by [`crate::host::state::missing_branch`].

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    host::state::{
        durable,
        error::{Context, HostError},
        failed_units,
        generations::Note,
        identity::{host_name, make_instance, read_instance},
        kind::Kind,
        layout::{Home, make_directory},
        missing_branch,
    },
    shared::{name::HostName, outcome::Goal, store::Store, text::printable},
};

/// Whether any record is damaged. This only reads.
pub fn is_needed(home: &Home) -> bool {
    records(home).iter().any(|path| durable::open(path).is_err())
        || !matches!(read_instance(home), Ok(Some(_)))
        || failed_units::load(home).is_err()
        || Store::strange(&home.store()).is_ok_and(|found| !found.is_empty())
        || facts_disagree(home)
}

/// Whether branch, note and name of the host disagree. Every contact asks this, so each is read once.
fn facts_disagree(home: &Home) -> bool {
    let Ok(branch) = Store::deployed_at(&home.store()) else { return true };
    let (branch, note) = (branch.map(|(_, commit)| commit), Note::current(home));
    missing_branch::is_suspected(branch, note.as_ref())
        || (branch.is_some() && note.is_some_and(|note| other_name(home, note).is_some()))
}

/// Repair whatever can be repaired. Returns sentences about the repairs. The caller holds the lock, and no deployment is under
/// way.
pub fn mend(home: &Home) -> Result<Vec<String>, HostError> {
    let mut notes = clear_the_way(home)?;
    notes.extend(move_if_damaged(home, &home.failed_units(), failed_units::load(home).map(drop))?);
    notes.extend(move_if_damaged(home, &home.instance(), read_instance(home).map(drop))?);
    make_instance(home)?;
    if !matches!(Store::deployed_at(&home.store()), Ok(None))
        && let Some((name, what)) = Note::current(home).and_then(|note| other_name(home, note))
    {
        durable::replace(&home.host_name(), name.as_str().as_bytes())?;
        notes.push(format!("'{}' {what}: restored from the running generation", home.host_name().display()));
    }
    notes.extend(missing_branch::find(home)?.map(|lost| lost.restore(home)).transpose()?);
    Ok(notes)
}

/// Move away anything in the place of a record that is not a file, and anything that does not belong in the store.
/// Returns sentences about that. The caller holds the lock.
pub fn clear_the_way(home: &Home) -> Result<Vec<String>, HostError> {
    let mut notes = Vec::new();
    for path in records(home) {
        notes.extend(move_if_damaged(home, &path, durable::open(&path).map(drop))?);
    }
    for path in Store::strange(&home.store())? {
        let kept = set_aside(home, &path)?;
        let path = printable(path.as_os_str().as_encoded_bytes());
        notes.push(format!("'{path}' does not belong there: it was moved to '{kept}'"));
    }
    Ok(notes)
}

/// Check that the current generation is what the branch says. They differ only while a deployment is under way, or if it was
/// interrupted and its journal is lost.
pub fn check_in_step(home: &Home) -> Result<(), HostError> {
    let deployed = Store::deployed_at(&home.store())?.map_or(Goal::Nothing, |(_, commit)| Goal::Commit(commit));
    match Note::current(home) {
        Some(note) if note.commit != deployed => Err(HostError::Interrupted(
            "a deployment was interrupted and its journal is lost, so what runs is not what is deployed; deploy again \
             with '-o repair', or use 'git deptool repair'"
                .into(),
        )),
        Some(_) | None => Ok(()),
    }
}

/// The name of the host's directory according to the note of the current generation, and how the record differs. `None`
/// if they agree.
fn other_name(home: &Home, note: Note) -> Option<(HostName, String)> {
    match host_name(home) {
        Ok(name) if name == note.host => None,
        Ok(name) => Some((note.host, format!("has '{name}'"))),
        Err(HostError::Damaged(damage)) => Some((note.host, damage.what)),
        Err(_) => None,
    }
}

/// The records that must be regular files.
fn records(home: &Home) -> [PathBuf; 7] {
    [
        home.claims(),
        home.attempts(),
        home.failed_units(),
        home.instance(),
        home.host_name(),
        home.untidy(),
        home.stamps(),
    ]
}

fn move_if_damaged(home: &Home, path: &Path, looked: Result<(), HostError>) -> Result<Option<String>, HostError> {
    match looked {
        Ok(()) => Ok(None),
        Err(HostError::Damaged(damage)) => {
            let kept = set_aside(home, path)?;
            Ok(Some(format!("'{}' {}: it is kept as '{kept}'", damage.path, damage.what)))
        }
        Err(error) => Err(error),
    }
}

/// Move whatever is at `path` to `kept/`. Returns the new path, safe to show.
pub fn set_aside(home: &Home, path: &Path) -> Result<String, HostError> {
    let directory = home.kept().join("damaged");
    make_directory(&home.kept(), 0o700)?;
    make_directory(&directory, 0o700)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let free =
        (1..).map(|number| directory.join(format!("{name}.{number}"))).find(|free| Kind::of(free) == Kind::Nothing);
    let to = free.unwrap_or_else(|| directory.join(name));
    fs::rename(path, &to).during("move away", path)?;
    Ok(printable(to.as_os_str().as_encoded_bytes()))
}
