//! Local roots on file systems of their own: full ones, and ones with power failures. These tests need root, but no
//! host.

use std::fs;

use deptool_tests::lab;
use deptool_tests::process::Cmd;
use deptool_tests::sandbox::{Repo, Sandbox};
use deptool_tests::sweep::world::{Scenario, World};
use deptool_tests::sweep::{Choice, Tally, disk};

/// A sample of what `cargo xtask sweep` tries. If nothing can be mounted here, prints the reason and returns `None`.
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

const HOSTS: [&str; 2] = ["web1", "web2"];

/// Gives both hosts files with new content that can't be compressed.
fn change(operator: &Repo<'_>, message: &str) -> String {
    let random = Cmd::new("head").args(["-c", "200000", "/dev/urandom"]).check().unwrap().stdout;
    for host in HOSTS {
        operator.write(format!("{host}/web/large"), &random);
        operator.write(format!("{host}/web/word"), message);
    }
    operator.commit(message)
}

/// Asserts that each host is exactly in its known state, and returns that state.
#[track_caller]
fn known(sandbox: &Sandbox, operator: &Repo<'_>) -> [String; 2] {
    HOSTS.map(|host| {
        let commit = operator.id(&format!("refs/remotes/{host}/prod"));
        let on_host = sandbox.read(host, "/var/lib/deptool/store/refs/heads/prod");
        assert_eq!(String::from_utf8_lossy(&on_host).trim(), commit, "{host}");
        for file in ["word", "large"] {
            let wanted = operator.git(&["cat-file", "blob", &format!("{commit}:{host}/web/{file}")]).ok().stdout;
            assert!(
                sandbox.read(host, &format!("/var/lib/deptool/apps/web/current/{file}")) == wanted,
                "{host} {file}"
            );
        }
        assert_eq!(sandbox.read(host, "/var/lib/deptool/state/journal"), b"", "{host}");
        commit
    })
}

#[test]
fn a_disk_that_is_full_on_one_host_of_a_group_is_told_of_and_with_atomic_keeps_all_as_they_were() {
    if lab::is_skipped(disk::unable()) {
        return;
    }
    let sandbox = Sandbox::new();
    let operator = sandbox.repo("operator");
    HOSTS.iter().for_each(|host| operator.add_root(host));
    operator.add_remote("cluster", "deptool::@all");
    let full = sandbox.root("web2");
    let test = || {
        Cmd::new("mount").args(["-t", "tmpfs", "-o", "size=32m", "tmpfs"]).arg(&full).check()?;
        let mut before = change(&operator, "one");
        operator.git(&["push", "cluster", "prod"]).ok();
        let (mut refused, mut enough) = (0, 0);
        for options in [&["push"][..], &["push", "--atomic"]] {
            for kib in [0, 16, 64, 200, 300, 380, 420, 460, 520, 2000] {
                let after = change(&operator, &format!("{options:?} {kib}"));
                let stat = rustix::fs::statvfs(&full)?;
                let filler = vec![1; (stat.f_bavail * stat.f_frsize) as usize - kib * 1024];
                fs::write(full.join("filler"), filler)?;
                let push = operator.git(&[options, &["cluster", "prod"]].concat());
                let runs = known(&sandbox, &operator);
                if push.success() {
                    enough += 1;
                    assert_eq!(runs, [after.clone(), after.clone()], "{push}");
                } else {
                    refused += 1;
                    let push = push.says("No space left on device");
                    assert_eq!(runs[1], before, "{push}");
                    // Without `--atomic`, each host is independent, so a lack of space may be noticed after others have
                    // begun.
                    let is_alone = options.len() == 1 && push.stderr().contains("; deployed to web1)");
                    assert_eq!(runs[0], if is_alone { after.clone() } else { before.clone() }, "{push}");
                }
                // With free space, the deployment succeeds.
                fs::remove_file(full.join("filler"))?;
                operator.git(&[options, &["cluster", "prod"]].concat()).ok();
                assert_eq!(known(&sandbox, &operator), [after.clone(), after.clone()]);
                before = after;
            }
        }
        assert!(refused > 4 && enough > 1, "{refused} refused, {enough} done");
        Ok(())
    };
    disk::in_own_namespace(test).unwrap();
}
