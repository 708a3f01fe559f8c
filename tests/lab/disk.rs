//! Root directories on file systems of their own: full ones, and ones whose power is cut. No host is needed, but root.

use deptool_tests::lab;
use deptool_tests::sweep::world::{Scenario, World};
use deptool_tests::sweep::{Choice, Tally, disk};

/// A spread of what `cargo xtask sweep` tries. `None`, and why, where nothing can be mounted.
fn sweep(sweep: fn(&World, Scenario, Choice) -> anyhow::Result<Tally>, choice: Choice) -> Option<Tally> {
    if lab::is_skipped(disk::unable()) {
        return None;
    }
    let world = World::new().unwrap();
    let mut all = Tally::default();
    for scenario in world.scenarios().unwrap() {
        let name = scenario.name;
        let tally = disk::in_own_namespace(|| sweep(&world, scenario, choice)).unwrap();
        println!("{name}: {tally}");
        all.add(tally);
    }
    assert!(all.old > 0 && all.old < all.points, "{all}");
    assert!(all.violations.is_empty(), "{all}");
    Some(all)
}

#[test]
fn a_disk_that_gets_full_at_any_phase_leaves_the_host_as_it_was_and_gets_its_space_back() {
    if let Some(all) = sweep(disk::full, Choice::OneIn(11)) {
        assert!(all.points > 12, "{all}");
    }
}

#[test]
fn a_power_cut_leaves_the_old_or_the_new_and_what_was_acknowledged_stays() {
    if let Some(all) = sweep(disk::power, Choice::OneIn(29)) {
        assert!(all.points > 12, "{all}");
    }
}
