//! `cargo xtask sweep`: every fault at every point.

use anyhow::{Result, bail};
use deptool_tests::sweep::{
    Choice, Tally,
    agent::{self, Interrupted},
    world::World,
};

use crate::needs;

pub fn run(choice: Choice) -> Result<()> {
    needs::to_build()?;
    let mut all = Tally::default();
    let mut note = |what: &str, tally: Tally| {
        println!("{what}: {tally}");
        all.add(tally);
    };
    let world = World::new()?;
    for scenario in world.scenarios()? {
        let name = scenario.name;
        note(name, agent::deployment(&world, scenario.clone(), choice)?);
        for interrupted in [Interrupted::BeforeVerdict, Interrupted::AfterVerdict] {
            let tally = agent::recovery(&world, scenario.clone(), interrupted, choice)?;
            note(&format!("{name}, recovery from {interrupted:?}"), tally);
        }
        note(&format!("{name}, two faults"), agent::twice(&world, scenario, choice)?);
    }
    println!("in all: {} points, {} violations", all.points, all.violations.len());
    if !all.violations.is_empty() {
        bail!("a promise is broken");
    }
    Ok(())
}
