//! Finds the units that a deployment has touched: their state or their invocation has changed, and they are related to units
//! of the deployment's jobs.
//!
//! systemd also starts, restarts and stops units that require a unit, are part of it, or conflict with it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Active, System, SystemError, UnitDetail, UnitState};
use crate::shared::name::UnitName;
use crate::shared::ordered::Ordered as _;

/// At most this many units are looked at to find out what has started one.
const STARTERS: usize = 100;

/// The state of a unit before the deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    pub active: Active,
    /// As in [`UnitState`].
    pub invocation: String,
}

/// The states of all units that were not inactive before the deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct States(BTreeMap<UnitName, Before>);

impl States {
    pub fn of(loaded: &BTreeMap<UnitName, UnitState>) -> States {
        let before = |state: &UnitState| Before { active: state.active, invocation: state.invocation.clone() };
        let known = loaded.iter().filter(|(_, state)| state.active != Active::Inactive);
        States(known.map(|(unit, state)| (unit.clone(), before(state))).into_map())
    }

    /// Whether the unit ran or was starting.
    pub fn ran(&self, unit: &UnitName) -> bool {
        self.0.get(unit).is_some_and(|before| before.active.is_up())
    }

    pub fn had_failed(&self, unit: &UnitName) -> bool {
        self.0.get(unit).is_some_and(|before| before.active == Active::Failed)
    }

    /// The invocation id of the unit. Empty if the unit was down.
    pub fn invocation(&self, unit: &UnitName) -> &str {
        self.0.get(unit).map_or("", |before| before.invocation.as_str())
    }

    /// Treat the unit as if it had run, because it should have.
    pub fn add_running(&mut self, unit: UnitName) {
        self.0.insert(unit, Before { active: Active::Active, invocation: String::new() });
    }

    /// Whether these states are of the systemd that runs now. After a reboot, every unit has another invocation, which does
    /// not mean that a deployment has touched it.
    pub fn are_of_this_boot(&self, now: &BTreeMap<UnitName, UnitState>) -> bool {
        let is_same = |(unit, before): (&UnitName, &Before)| {
            !before.invocation.is_empty() && now.get(unit).is_some_and(|state| state.invocation == before.invocation)
        };
        self.0.iter().any(is_same)
    }

    /// How the unit has changed. `None` if it has not.
    pub fn change_of(&self, unit: &UnitName, now: &BTreeMap<UnitName, UnitState>) -> Option<Change> {
        let state = now.get(unit);
        let is_up = state.is_some_and(|state| state.active.is_up());
        let has_failed = state.is_some_and(|state| state.active == Active::Failed);
        let is_another = || state.is_some_and(|state| state.invocation != self.invocation(unit));
        match (self.ran(unit), is_up) {
            (true, true) if is_another() => Some(Change::Restarted),
            (true, true) => None,
            (true, false) => Some(Change::Stopped),
            (false, true) => Some(Change::Started),
            (false, false) if has_failed && !self.had_failed(unit) => Some(Change::Failed),
            // It is deactivating, so it was started in between.
            (false, false) if state.is_some_and(|s| !matches!(s.active, Active::Inactive | Active::Failed)) => {
                Some(Change::Started)
            }
            (false, false) => None,
        }
    }

    /// All units that have changed.
    fn changes<'a>(&'a self, now: &'a BTreeMap<UnitName, UnitState>) -> impl Iterator<Item = (&'a UnitName, Change)> {
        let all: BTreeSet<&UnitName> = self.0.keys().chain(now.keys()).into_set();
        all.into_iter().filter_map(|unit| Some((unit, self.change_of(unit, now)?)))
    }
}

/// How a unit has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It ran, and now runs with another invocation id.
    Restarted,
    /// It ran, and is down now.
    Stopped,
    /// It was down, and runs now or ran in between.
    Started,
    /// It was down, and has failed now.
    Failed,
}

/// Why systemd touched a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// It belongs to a unit that was started or restarted, and should run if it ran before.
    Along,
    /// It was stopped because a unit that it requires was stopped for good, or because it conflicts with a unit that was
    /// started. The tree asks for this.
    Consequence,
}

/// A unit that systemd touched together with another unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    pub unit: UnitName,
    pub change: Change,
    pub relation: Relation,
    /// The other unit.
    pub by: UnitName,
}

/// The units of a deployment's own jobs.
#[derive(Debug, Clone, Default)]
pub struct Ours {
    /// Started, restarted or reloaded.
    pub jobs: BTreeSet<UnitName>,
    /// Stopped for good.
    pub stops: BTreeSet<UnitName>,
}

impl Ours {
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.stops.is_empty()
    }

    pub fn contains(&self, unit: &UnitName) -> bool {
        self.jobs.contains(unit) || self.stops.contains(unit)
    }
}

/// Find the units that have changed because of `ours`, directly or through each other, without `ours` themselves.
pub fn find(
    system: &mut dyn System,
    ours: &Ours,
    before: &States,
    now: &BTreeMap<UnitName, UnitState>,
) -> Result<Vec<Touched>, SystemError> {
    if ours.is_empty() {
        return Ok(Vec::new());
    }
    let mut others = Vec::new();
    for (unit, change) in before.changes(now).filter(|(unit, _)| !ours.contains(unit)) {
        let mut detail = system.detail(unit)?;
        if matches!(change, Change::Started | Change::Failed) {
            detail.started_by = starters(system, detail.started_by, now)?;
        }
        others.push((unit.clone(), change, detail));
    }
    let mut reached: BTreeMap<UnitName, Relation> = BTreeMap::new();
    reached.extend(ours.stops.iter().map(|unit| (unit.clone(), Relation::Consequence)));
    reached.extend(ours.jobs.iter().map(|unit| (unit.clone(), Relation::Along)));
    let mut touched: Vec<Touched> = Vec::new();
    loop {
        let known = touched.len();
        others.retain(|(unit, change, detail)| match relation(*change, detail, &reached) {
            Some((relation, by)) => {
                touched.push(Touched { unit: unit.clone(), change: *change, relation, by: by.clone() });
                false
            }
            None => true,
        });
        if touched.len() == known {
            return Ok(touched);
        }
        reached.extend(touched[known..].iter().map(|one| (one.unit.clone(), one.relation)));
    }
}

/// The units that may have started one, directly or through others that are down again: a oneshot that has done its work, or
/// a unit that did not start because this one had failed.
fn starters(
    system: &mut dyn System,
    direct: Vec<UnitName>,
    now: &BTreeMap<UnitName, UnitState>,
) -> Result<Vec<UnitName>, SystemError> {
    let (mut all, mut left) = (BTreeSet::new(), direct);
    while let Some(unit) = left.pop() {
        let is_down = now.get(&unit).is_none_or(|state| !state.active.is_up());
        if all.insert(unit.clone()) && is_down && all.len() < STARTERS {
            left.extend(system.detail(&unit)?.started_by);
        }
    }
    Ok(all.into_iter().collect())
}

/// How a changed unit is related to one of `reached`.
fn relation<'a>(
    change: Change,
    detail: &UnitDetail,
    reached: &'a BTreeMap<UnitName, Relation>,
) -> Option<(Relation, &'a UnitName)> {
    let among = |units: &[UnitName]| {
        let found = units.iter().filter_map(|unit| reached.get_key_value(unit)).map(|(unit, how)| (*how, unit));
        // A unit that should run again takes precedence over a unit that was stopped for good.
        found.max_by_key(|(how, _)| *how == Relation::Along)
    };
    match change {
        Change::Restarted => among(&detail.stopped_by).or_else(|| among(&detail.started_by)),
        Change::Started | Change::Failed => among(&detail.started_by),
        Change::Stopped => among(&detail.stopped_by)
            .or_else(|| among(&detail.conflicts).map(|(_, unit)| (Relation::Consequence, unit))),
    }
}
