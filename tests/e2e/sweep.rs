//! A spread of the faults that `cargo xtask sweep` tries all of.

use deptool_tests::sweep::agent::{self, Interrupted};
use deptool_tests::sweep::world::{Scenario, World};
use deptool_tests::sweep::{Choice, Tally};
use deptool_tests::trace;

/// Prime, so that every kind of fault is among those tried.
const SPREAD: Choice = Choice::OneIn(127);

fn world() -> Option<World> {
    if let Some(why) = trace::unable() {
        assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped: {why}");
        eprintln!("skipped: {why}");
        return None;
    }
    Some(World::new().unwrap())
}

/// Sweeps the deployment itself, the recovery from it, and both at once.
fn sweep(world: &World, scenario: &Scenario) {
    let mut tally = agent::deployment(world, scenario.clone(), SPREAD).unwrap();
    for interrupted in [Interrupted::BeforeVerdict, Interrupted::AfterVerdict] {
        tally.add(agent::recovery(world, scenario.clone(), interrupted, SPREAD).unwrap());
    }
    tally.add(agent::twice(world, scenario.clone(), SPREAD).unwrap());
    println!("{}: {tally}", scenario.name);
    assert!(tally.points > 10 && tally.violations.is_empty(), "{tally}");
    assert_both(&tally);
}

/// Faults that all end alike would be none.
fn assert_both(tally: &Tally) {
    assert!(tally.old > 0 && tally.old < tally.points, "{tally}");
}

#[test]
fn a_fault_in_an_update_leaves_the_old_or_the_new() {
    let Some(world) = world() else { return };
    let scenario = world.scenario("update", &[&world.first], &world.update).unwrap();
    sweep(&world, &scenario);
}

#[test]
fn a_fault_in_the_first_deployment_leaves_nothing_or_the_new() {
    let Some(world) = world() else { return };
    let scenario = world.scenario("first deployment", &[], &world.first).unwrap();
    sweep(&world, &scenario);
}

#[test]
fn a_fault_in_a_removal_leaves_the_old_or_nothing() {
    let Some(world) = world() else { return };
    let scenario = world.scenario("removal", &[&world.first], &world.removal).unwrap();
    sweep(&world, &scenario);
}
