//! The connection between helper and agent may be cut, or stall, at any message.

use std::time::Duration;

use deptool_tests::link::{Fate, Fault, Way};
use deptool_tests::process::Run;
use deptool_tests::sandbox::Sandbox;
use deptool_tests::{build, is_quick};

use crate::{cut::World, stand_in::with_stand_in};

/// A push over a connection with that fault, and whether the fault happened. Later connections have no faults.
fn push_over(world: &World<'_>, fault: Fault) -> (Run, bool) {
    let once = world.sandbox.dir().join("roots/once");
    let hit = world.sandbox.dir().join("roots/hit");
    let _ = std::fs::remove_dir(&once);
    let _ = std::fs::remove_file(&hit);
    let script = format!(
        "mkdir '{}' 2>/dev/null || exec \"$DEPTOOL_AGENT\"; exec '{}' link {} \"$DEPTOOL_AGENT\" '{}'",
        once.display(),
        build::xtask().unwrap().display(),
        fault.words(),
        hit.display(),
    );
    let push = with_stand_in(world.sandbox, &world.repo, &["push", "web1", "prod"], &script);
    let run = push.timeout(Duration::from_secs(200)).run().unwrap();
    (run, hit.exists())
}

#[test]
fn a_link_that_is_cut_at_any_message_leaves_the_old_or_the_new_and_the_truth_is_told() {
    if is_quick() {
        return;
    }
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    let (mut points, mut ended) = (0, [0, 0]);
    for way in [Way::Up, Way::Down] {
        for fate in [Fate::Cut, Fate::CutInside] {
            for at in 0.. {
                let (push, is_hit) = push_over(&world, Fault { way, at, fate });
                ended[world.heal(&push)] += 1;
                if !is_hit {
                    assert!(at > 3, "{way:?} has more than {at} messages");
                    break;
                }
                points += 1;
            }
        }
    }
    println!("{points} cuts, {ended:?}");
    assert!(ended[0] > 1 && ended[1] > 1, "{ended:?}");
}

#[test]
fn a_link_that_stalls_is_given_up_and_the_truth_is_told() {
    // Each of them waits for 30 seconds, all at the same time. There is no limit before the first line of an agent,
    // since somebody may be typing a password.
    if is_quick() {
        return;
    }
    let stalls =
        [(Way::Up, 0), (Way::Up, 1), (Way::Up, 2), (Way::Up, 4), (Way::Down, 1), (Way::Down, 2), (Way::Down, 5)];
    std::thread::scope(|scope| {
        for (way, at) in stalls {
            scope.spawn(move || {
                let sandbox = Sandbox::new();
                let world = World::new(&sandbox);
                let (push, is_hit) = push_over(&world, Fault { way, at, fate: Fate::Stall });
                assert!(is_hit, "{way:?} {at}: {push}");
                world.heal(&push);
            });
        }
    });
}
