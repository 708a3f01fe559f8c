//! A sample of the faults of `cargo xtask sweep`.

use deptool_agent::shared::wire::Response;
use deptool_tests::is_quick;
use deptool_tests::sweep::agent::{self, Interrupted};
use deptool_tests::sweep::group::{self, Manner, Place};
use deptool_tests::sweep::operator::{self, Act};
use deptool_tests::sweep::world::{Runs, Scenario, World};
use deptool_tests::sweep::{Choice, Tally, many};
use deptool_tests::trace::{self, Deed, Errno};

/// A prime number, so that the sample contains every kind of fault.
const SPREAD: Choice = Choice::OneIn(127);

fn is_skipped() -> bool {
    if is_quick() {
        return true;
    }
    let Some(why) = trace::unable() else { return false };
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "skipped, which is a failure in CI: {why}");
    eprintln!("skipped: {why}");
    true
}

pub fn world() -> Option<World> {
    (!is_skipped()).then(|| World::new().unwrap())
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

/// If all faults ended in the same state, they would have had no effect.
fn assert_both(tally: &Tally) {
    assert!(tally.old > 0 && tally.old < tally.points, "{tally}");
}

#[test]
fn a_fault_in_an_update_leaves_the_old_or_the_new() {
    let Some(world) = world() else { return };
    let scenario = world.an_update().unwrap();
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

#[test]
fn a_fault_in_a_deployment_that_waits_for_its_helper_leaves_the_old_or_the_new() {
    let Some(world) = world() else { return };
    let mut all = Tally::default();
    for scenario in [world.held(), world.revoked(), world.confirmed()] {
        let scenario = scenario.unwrap();
        let name = scenario.name;
        let tally = agent::deployment(&world, scenario, SPREAD).unwrap();
        println!("{name}: {tally}");
        all.add(tally);
    }
    assert!(all.points > 10 && all.violations.is_empty(), "{all}");
    assert_both(&all);
}

#[test]
fn a_verdict_that_can_not_be_taken_back_is_kept_by_the_next_agent_too() {
    let Some(world) = world() else { return };
    let mut scenario = world.revoked().unwrap();
    world.reset(&mut scenario).unwrap();
    let mut syncs = 0;
    let said = world.deploy(&scenario.request, &mut |call| {
        let is_verdict = call.name == "fdatasync" && call.path.ends_with("var/lib/deptool/state/journal");
        syncs += usize::from(is_verdict);
        match call.sends::<Response>(&["Ended"]) {
            true => Deed::KillAfter,
            false if is_verdict && syncs == 2 => Deed::Fail(Errno::EIO),
            false => Deed::Go,
        }
    });
    let said = said.unwrap();
    assert!(said.is_done(), "{said:?}");
    agent::next_contact(&world).unwrap();
    assert_eq!(agent::agree(&world, &scenario, &said), Ok(Runs::New));

    // From there on, nothing can be written.
    world.reset(&mut scenario).unwrap();
    let mut writes = 0;
    let said = world.deploy(&scenario.request, &mut |call| {
        let is_verdict = call.name == "pwrite64" && call.path.ends_with("var/lib/deptool/state/journal");
        writes += usize::from(is_verdict);
        let makes = ["write", "pwrite64", "openat", "mkdirat", "mkdir", "symlinkat", "symlink", "linkat"];
        let is_broken = writes >= 2 && !call.is_to_peer() && makes.contains(&call.name);
        if is_broken { Deed::Fail(Errno::EIO) } else { Deed::Go }
    });
    agent::next_contact(&world).unwrap();
    assert_eq!(agent::agree(&world, &scenario, &said.unwrap()), Ok(Runs::New));
}

#[test]
fn a_fault_while_generations_and_packs_are_cleared_away_leaves_the_old_or_the_new() {
    let Some(world) = world() else { return };
    let tally = agent::deployment(&world, world.crowded().unwrap(), Choice::OneIn(257)).unwrap();
    println!("{tally}");
    assert!(tally.points > 5 && tally.violations.is_empty(), "{tally}");
    assert_both(&tally);
}

#[test]
fn a_fault_in_a_push_to_two_hosts_leaves_both_with_it_or_none() {
    if is_skipped() {
        return;
    }
    let mut all = Tally::default();
    for (place, spread) in [(Place::Agent, 127), (Place::Helper, 53), (Place::Link, 5)] {
        let tally = group::sweep(Manner::Atomic, place, Choice::OneIn(spread), 2).unwrap();
        println!("{place:?}: {tally}");
        all.add(tally);
    }
    let tally = group::sweep(Manner::Confirmed, Place::Helper, Choice::OneIn(61), 2).unwrap();
    println!("to be confirmed: {tally}");
    all.add(tally);
    assert!(all.points > 10 && all.violations.is_empty(), "{all}");
    assert_both(&all);
}

#[test]
fn a_fault_in_the_helper_is_healed_by_a_fetch() {
    let Some(world) = world() else { return };
    let mut all = Tally::default();
    for act in Act::ALL {
        let tally = operator::sweep(&world, act, Choice::OneIn(43)).unwrap();
        println!("operator, {act:?}: {tally}");
        all.add(tally);
    }
    assert!(all.points > 10 && all.violations.is_empty(), "{all}");
    assert_both(&all);
}

#[test]
fn the_store_does_not_grow_with_the_number_of_deployments() {
    if is_quick() {
        return;
    }
    // More than twice as many as it takes to repack the store.
    println!("{}", many::deploy(120).unwrap());
}
