//! Failed units: they ran before a deployment that was rolled back, and could not be started again.
//!
//! They stay on record until they run again, or until a deployment is kept.

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

/// The time-out for starting the units again.
pub const LIMIT: Duration = Duration::from_secs(90);

/// A unit that should run but does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    pub unit: UnitName,
    /// Why it could not be started, in a sentence.
    pub why: String,
}

/// Load the failed units. Mostly there are none.
pub fn load(home: &Home) -> Result<Vec<Down>, HostError> {
    let path = home.failed_units();
    let Some(bytes) = durable::read(&path, NOTE)? else { return Ok(Vec::new()) };
    serde_json::from_slice(&bytes).map_err(|error| Damage::unreadable(&path, &error).into())
}

/// Add units to the record. The caller syncs the file system.
pub fn add(home: &Home, new: &[Down]) -> Result<(), HostError> {
    if new.is_empty() {
        return Ok(());
    }
    let mut all = load(home)?;
    all.retain(|known| new.iter().all(|down| down.unit != known.unit));
    all.extend_from_slice(new);
    save(home, &all)
}

/// Remove the record: there are no failed units any more.
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

/// Try to start the failed units, and record those that still fail. Returns the units that run again. The caller holds the
/// host lock.
pub fn mend(home: &Home, system: &mut dyn System, tick: &mut dyn FnMut(&str)) -> Result<Vec<UnitName>, HostError> {
    let all = load(home)?;
    if all.is_empty() || system.manager() != Manager::Running {
        return Ok(Vec::new());
    }
    let left = start(&all, system, tick)?;
    if !system.waits_for_jobs() {
        // The next agent finds out which of them run.
        return Ok(Vec::new());
    }
    save(home, &left)?;
    let is_left = |unit: &UnitName| left.iter().any(|down| down.unit == *unit);
    Ok(all.into_iter().map(|down| down.unit).filter(|unit| !is_left(unit)).collect())
}

/// Start the units that do not run. Returns those that could not be started.
fn start(all: &[Down], system: &mut dyn System, tick: &mut dyn FnMut(&str)) -> Result<Vec<Down>, SystemError> {
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

/// The failed unit that follows from the `result` of starting it, if it failed.
pub fn down(unit: UnitName, result: JobResult) -> Option<Down> {
    let why = match result {
        JobResult::Done => return None,
        JobResult::Failed(why) => format!("cannot start '{unit}' again: {why}"),
        JobResult::TimedOut => format!("'{unit}' takes too long to start"),
    };
    Some(Down { unit, why })
}
