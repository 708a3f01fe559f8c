//! `cargo xtask sweep`: every fault at every point.

use anyhow::{Result, bail};
use deptool_tests::sweep::agent::{self, Interrupted};
use deptool_tests::sweep::group::{self, Manner, Place};
use deptool_tests::sweep::operator::{self, Act};
use deptool_tests::sweep::world::{Scenario, World};
use deptool_tests::sweep::{Choice, Tally, disk, many};

use crate::needs;

/// The number of concurrent pushes to two hosts.
const WORKERS: usize = 6;

/// Runs those parts whose names contain `word`.
pub fn run(choice: Choice, word: &str) -> Result<()> {
    needs::to_sweep()?;
    let world = World::new()?;
    let mut all = Tally::default();
    for (name, part) in parts(&world)? {
        if name.contains(word) {
            let tally = part(choice)?;
            println!("{name}: {tally}");
            all.add(tally);
        }
    }
    if "many deployments".contains(word) {
        println!("{}", many::deploy(if matches!(choice, Choice::All) { 1000 } else { 120 })?);
    }
    println!("in all: {} points, {} violations", all.points, all.violations.len());
    if !all.violations.is_empty() {
        bail!("a promise is broken");
    }
    Ok(())
}

type Part<'a> = Box<dyn Fn(Choice) -> Result<Tally> + 'a>;

type Sweep = fn(&World, Scenario, Choice) -> Result<Tally>;

fn full(world: &World, scenario: Scenario, choice: Choice) -> Result<Tally> {
    disk::in_own_namespace(|| disk::full(world, scenario, choice))
}

fn power(world: &World, scenario: Scenario, choice: Choice) -> Result<Tally> {
    disk::in_own_namespace(|| disk::power(world, scenario, choice))
}

fn parts(world: &World) -> Result<Vec<(String, Part<'_>)>> {
    let mut parts: Vec<(String, Part<'_>)> = Vec::new();
    for scenario in world.scenarios()? {
        let name = scenario.name;
        let mut add = |what: &str, sweep: Sweep| {
            let scenario = scenario.clone();
            parts.push((format!("{name}, {what}"), Box::new(move |choice| sweep(world, scenario.clone(), choice))));
        };
        add("agent", agent::deployment);
        add("agent that undoes", |world, scenario, choice| {
            agent::recovery(world, scenario, Interrupted::BeforeVerdict, choice)
        });
        add("agent that finishes", |world, scenario, choice| {
            agent::recovery(world, scenario, Interrupted::AfterVerdict, choice)
        });
        add("agent, twice", agent::twice);
        add("disk that gets full", full);
        add("power", power);
    }
    let mut add = |scenario: fn(&World) -> Result<Scenario>, what: &str, sweep: Sweep| {
        let sweep = move |choice| sweep(world, scenario(world)?, choice);
        parts.push((what.to_owned(), Box::new(sweep)));
    };
    add(World::held, "held update, agent", agent::deployment);
    add(World::held, "held update, power", power);
    add(World::revoked, "revoked update, agent", agent::deployment);
    add(World::confirmed, "confirmed update, agent", agent::deployment);
    add(World::crowded, "update that tidies up, agent", agent::deployment);
    add(World::crowded, "update that tidies up, disk that gets full", full);
    add(World::crowded, "update that tidies up, power", power);
    for (manner, place) in Manner::ALL.into_iter().flat_map(|manner| Place::ALL.map(|place| (manner, place))) {
        let name = format!("two hosts, {manner:?}, {place:?}");
        parts.push((name, Box::new(move |choice| group::sweep(manner, place, choice, WORKERS))));
    }
    for act in Act::ALL {
        parts.push((format!("operator, {act:?}"), Box::new(move |choice| operator::sweep(world, act, choice))));
    }
    Ok(parts)
}
