//! Units that ran before a deployment that failed, and could not be started again: the configuration is as before, the host
//! is not. It stays so on record until they run, or a deployment is good without them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    host::state::{
        durable::{self, NOTE},
        error::{Damage, HostError},
        layout::Home,
    },
    shared::name::UnitName,
    system::{JobKind, JobResult, Manager, System, SystemError},
};

/// How long a batch of units may take to start again.
pub const LIMIT: Duration = Duration::from_secs(90);

/// A unit that should run, and does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    pub unit: UnitName,
    /// What came of starting it, in a sentence.
    pub why: String,
}

/// What is on record. Nothing if the host is whole.
pub fn load(home: &Home) -> Result<Vec<Down>, HostError> {
    let path = home.failed_units();
    let Some(bytes) = durable::read(&path, NOTE)? else { return Ok(Vec::new()) };
    serde_json::from_slice(&bytes).map_err(|error| Damage::unreadable(&path, &error).into())
}

/// Note these, too. Durable with the next sync of the file system.
pub fn add(home: &Home, new: &[Down]) -> Result<(), HostError> {
    if new.is_empty() {
        return Ok(());
    }
    let mut all = load(home)?;
    all.retain(|known| new.iter().all(|down| down.unit != known.unit));
    all.extend_from_slice(new);
    save(home, &all)
}

/// The host is whole.
pub fn clear(home: &Home) -> Result<(), HostError> {
    durable::remove(&home.failed_units())
}

fn save(home: &Home, all: &[Down]) -> Result<(), HostError> {
    if all.is_empty() {
        return clear(home);
    }
    let text = serde_json::to_vec(all).map_err(|error| HostError::refused(error.to_string()))?;
    durable::replace(&home.failed_units(), &text)
}

/// Start what is on record and still does not run, and note what is left. Returns the units that run again. The caller
/// holds the host's lock.
pub fn mend(home: &Home, system: &mut dyn System, tick: &mut dyn FnMut()) -> Result<Vec<UnitName>, HostError> {
    let all = load(home)?;
    if all.is_empty() || system.manager() != Manager::Running {
        return Ok(Vec::new());
    }
    let left = start(&all, system, tick)?;
    save(home, &left)?;
    let is_left = |unit: &UnitName| left.iter().any(|down| down.unit == *unit);
    Ok(all.into_iter().map(|down| down.unit).filter(|unit| !is_left(unit)).collect())
}

/// Returns those that could not be started.
fn start(all: &[Down], system: &mut dyn System, tick: &mut dyn FnMut()) -> Result<Vec<Down>, SystemError> {
    let loaded = system.snapshot()?;
    let runs = |down: &&Down| loaded.get(&down.unit).is_some_and(|state| state.active.is_up());
    let units: Vec<UnitName> = all.iter().filter(|down| !runs(down)).map(|down| down.unit.clone()).collect();
    if units.is_empty() {
        return Ok(Vec::new());
    }
    system.reset_failed(&units)?;
    let jobs: Vec<_> = units.iter().map(|unit| (unit.clone(), JobKind::Start)).collect();
    let results = system.run_jobs(&jobs, LIMIT, tick)?;
    Ok(units.into_iter().zip(results).filter_map(|(unit, result)| down(unit, result)).collect())
}

/// What `result` says of a unit that was started again.
pub fn down(unit: UnitName, result: JobResult) -> Option<Down> {
    let why = match result {
        JobResult::Done => return None,
        JobResult::Failed(why) => format!("cannot start '{unit}' again: {why}"),
        JobResult::TimedOut => format!("'{unit}' takes too long to start"),
    };
    Some(Down { unit, why })
}
