//! Which units a deployment has touched: those that are in another state or in another run than before, and that are related
//! to the units of its jobs.
//!
//! systemd starts, restarts and stops more than it is asked for: what requires a unit, is a part of it, or conflicts with it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Active, System, SystemError, UnitDetail, UnitState};
use crate::shared::name::UnitName;

/// A unit as it was before the deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    pub active: Active,
    /// As in [`UnitState`].
    pub invocation: String,
}

/// All units that were not simply inactive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct States(BTreeMap<UnitName, Before>);

impl States {
    pub fn of(loaded: &BTreeMap<UnitName, UnitState>) -> States {
        let before = |state: &UnitState| Before { active: state.active, invocation: state.invocation.clone() };
        let known = loaded.iter().filter(|(_, state)| state.active != Active::Inactive);
        States(known.map(|(unit, state)| (unit.clone(), before(state))).collect())
    }

    /// Whether the unit ran, or was about to.
    pub fn ran(&self, unit: &UnitName) -> bool {
        self.0.get(unit).is_some_and(|before| before.active.is_up())
    }

    pub fn had_failed(&self, unit: &UnitName) -> bool {
        self.0.get(unit).is_some_and(|before| before.active == Active::Failed)
    }

    /// The run that it was in; empty if it was down.
    pub fn invocation(&self, unit: &UnitName) -> &str {
        self.0.get(unit).map_or("", |before| before.invocation.as_str())
    }

    /// Count the unit among those that ran: it should have.
    pub fn add_running(&mut self, unit: UnitName) {
        self.0.insert(unit, Before { active: Active::Active, invocation: String::new() });
    }

    /// How the unit differs now from what it was; nothing if it does not.
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
            // It is being stopped.
            (false, false) if state.is_some_and(|s| !matches!(s.active, Active::Inactive | Active::Failed)) => {
                Some(Change::Started)
            }
            (false, false) => None,
        }
    }

    /// All units that are not as they were.
    fn changes<'a>(&'a self, now: &'a BTreeMap<UnitName, UnitState>) -> impl Iterator<Item = (&'a UnitName, Change)> {
        let all: BTreeSet<&UnitName> = self.0.keys().chain(now.keys()).collect();
        all.into_iter().filter_map(|unit| Some((unit, self.change_of(unit, now)?)))
    }
}

/// How a unit differs from what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It ran, and is in another run.
    Restarted,
    /// It ran, and does not.
    Stopped,
    /// It did not run, and does, or did in between.
    Started,
    /// It did not run, and has failed.
    Failed,
}

/// What it means that systemd touched a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// It goes with a unit that was started or restarted: it should be as well as before.
    Along,
    /// It was stopped because a unit that it requires was stopped for good, or because it can't run at the same time as
    /// one that was started. That is what the tree asks for.
    Consequence,
}

/// A unit that systemd touched along with others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    pub unit: UnitName,
    pub change: Change,
    pub relation: Relation,
    /// The unit along with which it was touched.
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

/// The units that are not as they were because of `ours`, directly or through each other. Not `ours` themselves.
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
        others.push((unit.clone(), change, system.detail(unit)?));
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

/// How a unit that has changed is related to one of `reached`.
fn relation<'a>(
    change: Change,
    detail: &UnitDetail,
    reached: &'a BTreeMap<UnitName, Relation>,
) -> Option<(Relation, &'a UnitName)> {
    let among = |units: &[UnitName]| {
        let found = units.iter().filter_map(|unit| reached.get_key_value(unit)).map(|(unit, how)| (*how, unit));
        // One that should be well again counts more than one that is gone.
        found.max_by_key(|(how, _)| *how == Relation::Along)
    };
    match change {
        Change::Restarted => among(&detail.stopped_by).or_else(|| among(&detail.started_by)),
        Change::Started | Change::Failed => among(&detail.started_by),
        Change::Stopped => among(&detail.stopped_by)
            .or_else(|| among(&detail.conflicts).map(|(_, unit)| (Relation::Consequence, unit))),
    }
}
