//! External paths where nothing can be written, and what a rollback leaves at those that can.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use deptool_tests::process::Run;
use deptool_tests::sandbox::{Repo, Sandbox};
use deptool_tests::sweep::world::Runs;
use deptool_tests::trace::{Call, Deed, Errno};

use crate::{
    seen::{at_rest, unchanged, visible},
    sweep::world,
};

/// An app on `web1` that links these paths to its file.
fn link(operator: &Repo<'_>, path: &str) {
    operator.write("web1/web/manifest.json", format!(r#"{{"symlinks": {{"{path}": "file"}}}}"#));
}

fn deployed(sandbox: &Sandbox) -> Repo<'_> {
    let operator = sandbox.repo("operator");
    operator.add_root("web1");
    std::fs::create_dir_all(sandbox.root("web1").join("etc/locked")).unwrap();
    operator.write("web1/web/file", "1\n");
    operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    operator
}

/// A push in a mount namespace of its own, between two commands. `None` if the first of them is not possible here.
fn push_between(sandbox: &Sandbox, operator: &Repo<'_>, (before, after): (&str, &str)) -> Option<Run> {
    let root = sandbox.root("web1");
    let script =
        format!("cd $1 || exit 99; {before} || exit 99; cd $2; git push web1 prod; r=$?; cd $1; {after}; exit $r");
    let mut command = sandbox.command("unshare").args(["--mount", "sh", "-c", &script, "sh"]).arg(&root);
    command = command.arg(&operator.dir);
    let run = command.run().ok()?;
    (run.status.code() != Some(99)).then_some(run)
}

#[test]
fn a_place_that_can_not_be_written_is_refused_before_anything_changes() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: needs root");
    }
    let tmpfs = ("mkdir -p usr && mount -t tmpfs -o ro tmpfs usr", "umount usr");
    // Like FAT, it does not let anybody make symlinks.
    let sysfs = ("mkdir -p usr && mount -t sysfs sysfs usr", "umount usr");
    let cases = [
        (tmpfs, "/usr/x", "the file system is read-only"),
        (tmpfs, "/usr/new/deep/x", "the file system is read-only"),
        (sysfs, "/usr/x", "its file system has no symlinks"),
        (
            ("chattr +i etc/locked", "chattr -i etc/locked"),
            "/etc/locked/x",
            "its directory is immutable, see chattr(1)",
        ),
        (
            ("chattr +i etc/locked", "chattr -i etc/locked"),
            "/etc/locked/new/x",
            "its directory is immutable, see chattr(1)",
        ),
        (
            ("chattr +a etc/locked", "chattr -a etc/locked"),
            "/etc/locked/x",
            "its directory is append-only, see chattr(1)",
        ),
        (("chattr +i etc/taken", "chattr -i etc/taken"), "/etc/taken", "it is immutable, see chattr(1)"),
        (("mount --bind etc/taken etc/taken", "umount etc/taken"), "/etc/taken", "something is mounted there"),
    ];
    for (around, path, why) in cases {
        let sandbox = Sandbox::new();
        let operator = deployed(&sandbox);
        let root = sandbox.root("web1");
        std::fs::write(root.join("etc/taken"), "1\n").unwrap();
        let before = visible(&root);
        link(&operator, path);
        operator.commit("Two");
        let Some(run) = push_between(&sandbox, &operator, around) else {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "skipped, which is a failure in CI: {path}");
            eprintln!("skipped: '{}' is not possible here", around.0);
            continue;
        };
        let expected = format!("can't be written: {why})");
        assert!(!run.success() && run.stderr().contains(&expected), "{path}: {run}");
        unchanged(&visible(&root), &before);
        at_rest(&sandbox, "web1", Some(&operator.id("prod~1")));
        // On a file system that can be written to, the same push succeeds.
        let two = operator.id("prod");
        operator.git(&["push", "web1", "prod"]).ok();
        at_rest(&sandbox, "web1", Some(&two));
    }
}

#[test]
fn a_name_as_long_as_a_name_can_be_is_deployed_taken_over_and_given_back() {
    let sandbox = Sandbox::new();
    let operator = deployed(&sandbox);
    let long = format!("/etc/{}", "a".repeat(255));
    let at = sandbox.root("web1").join(&long[1..]);
    std::fs::write(&at, "1\n").unwrap();
    link(&operator, &long);
    operator.commit("Two");
    operator.git(&["push", "web1", "prod"]).ok().says("is taken over");
    assert!(at.is_symlink());
    operator.git(&["push", "web1", ":prod"]).ok();
    assert_eq!(std::fs::read(&at).unwrap(), b"1\n");
    assert_eq!(std::fs::read_dir(at.parent().unwrap()).unwrap().count(), 2, "nothing is left beside it");
    link(&operator, &format!("{long}a"));
    operator.commit("Three");
    operator.git(&["push", "--dry-run", "web1", "prod"]).code(1).says("a name in it is longer than 255 bytes");
}

#[test]
fn what_was_not_done_is_undone_even_where_nothing_can_be_written_any_more() {
    let Some(world) = world() else { return };
    let mut scenario = world.an_update().unwrap();
    world.reset(&mut scenario).unwrap();
    let journal = world.root().join("var/lib/deptool/state/journal");
    let mut is_killed = false;
    let said = world.deploy(&scenario.request, &mut |call| {
        let is_written = std::fs::metadata(&journal).is_ok_and(|journal| journal.len() > 0);
        is_killed |= ["fsync", "syncfs"].contains(&call.name) && is_written;
        if is_killed { Deed::KillAfter } else { Deed::Go }
    });
    assert!(is_killed && said.unwrap().outcome().is_none());
    // `/run` is a file system of its own.
    let ours = ["var/lib/deptool", "run"].map(|path| world.root().join(path));
    let is_outside = |call: &Call| {
        call.path.starts_with(world.root()) && !ours.iter().any(|directory| call.path.starts_with(directory))
    };
    let mut refused = BTreeSet::new();
    let said = world.recover(&mut |call| {
        let is_change = !["fsync", "syncfs"].contains(&call.name);
        if is_outside(call) && is_change {
            refused.insert(call.name);
            return Deed::Fail(Errno::EROFS);
        }
        Deed::Go
    });
    assert!(!refused.is_empty(), "it has looked for leftovers");
    assert_eq!(world.judge(&scenario), Ok(Runs::Old), "{said:?}");
    assert_eq!(std::fs::metadata(&journal).unwrap().len(), 0, "{said:?}");
}

fn device(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().dev()
}

#[test]
fn new_directories_outside_are_on_disk_before_the_verdict() {
    let Some(world) = world() else { return };
    let mut scenario = world.an_update().unwrap();
    world.reset(&mut scenario).unwrap();
    let (mut made, mut unsynced, mut wrong) = (0, BTreeSet::<PathBuf>::new(), Vec::new());
    let (etc, journal) = (world.root().join("etc"), world.root().join("var/lib/deptool/state/journal"));
    world
        .deploy(&scenario.request, &mut |call| {
            match call.name {
                "mkdirat" if call.path.starts_with(&etc) => {
                    made += 1;
                    unsynced.extend(call.path.parent().map(Path::to_owned));
                }
                "fsync" => drop(unsynced.remove(&call.path)),
                "syncfs" => unsynced.retain(|path| device(path) != device(&call.path)),
                // The verdict.
                "pwrite64" if call.path == journal => wrong.extend(unsynced.iter().cloned()),
                _ => {}
            }
            Deed::Go
        })
        .unwrap();
    assert!(made > 0, "the update makes directories");
    assert!(wrong.is_empty(), "not synced: {wrong:?}");
}
