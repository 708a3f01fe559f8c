//! Sweeps: a fault at every point at which something changes, and the result, as seen from outside.
//!
//! After every fault and the next contact, the host must be in exactly the old state or the new one. What was reported
//! as done is done; what was reported as failed is not. Nothing of ours is left over, and nothing of the host's own is
//! lost. Sweeps do not rely on what an agent says: they compare files, symlinks and modes, and have Git check the
//! store.

pub mod agent;
pub mod disk;
pub mod group;
pub mod many;
pub mod operator;
pub mod request;
pub mod state;
pub mod world;

use anyhow::{Context as _, Result, ensure};
use world::Runs;

/// The points of a sweep to try.
#[derive(Debug, Clone, Copy)]
pub enum Choice {
    All,
    /// One point in this many, with another kind of fault at each.
    OneIn(usize),
}

impl Choice {
    /// From a number in text.
    pub fn one_in(step: &str) -> Result<Choice> {
        let step = step.parse().context("not a number")?;
        ensure!(step > 0, "one in 0 is none");
        Ok(Choice::OneIn(step))
    }

    fn takes(self, point: usize) -> bool {
        match self {
            Choice::All => true,
            Choice::OneIn(step) => point.is_multiple_of(step),
        }
    }
}

/// The result of a sweep.
#[derive(Debug, Default)]
pub struct Tally {
    /// The number of faults.
    pub points: usize,
    /// How many of them ended in the old state. The others ended in the new one.
    pub old: usize,
    /// Violations, in sentences.
    pub violations: Vec<String>,
}

impl Tally {
    /// Counts a point and its result.
    fn note(&mut self, point: &str, result: std::result::Result<Runs, String>) {
        self.points += 1;
        match result {
            Ok(Runs::Old) => self.old += 1,
            Ok(Runs::New) => {}
            Err(violation) => self.violations.push(format!("{point}: {violation}")),
        }
    }

    pub fn add(&mut self, other: Tally) {
        self.points += other.points;
        self.old += other.old;
        self.violations.extend(other.violations);
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tally { points, old, violations } = self;
        write!(f, "{points} points, {old} ended in the old state, {} in the new; ", points - old)?;
        write!(f, "{} violations", violations.len())?;
        violations.iter().try_for_each(|violation| write!(f, "\n    {violation}"))
    }
}
