//! How often a push waits for a disk, and that this is often enough.

use std::path::Path;

use deptool_agent::shared::wire::Request;
use deptool_tests::is_quick;
use deptool_tests::process::Cmd;
use deptool_tests::sandbox::{Repo, Sandbox};
use deptool_tests::sweep::disk::{self, Image};
use deptool_tests::trace::{self, Deed, FLUSHES, Watched};

const HOST: Watched = Watched::From { from: "deptool-agent", but: "git" };
const HERE: Watched = Watched::From { from: "git", but: "deptool-agent" };
/// Other tests write to the disks, too. If much waits to be written, the agent syncs file by file.
const TRIES: usize = 10;

fn is_skipped(why: Option<String>) -> bool {
    let Some(why) = why else { return false };
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "skipped, which is a failure in CI: {why}");
    eprintln!("skipped: {why}");
    true
}

/// The flushes in a push of a commit that changes one file.
fn flushes(operator: &Repo<'_>, watched: Watched, content: &str) -> Vec<String> {
    operator.write("web1/app/file", content);
    operator.commit("One file");
    rustix::fs::sync();
    let mut flushes = Vec::new();
    let push = operator.command(&["push", "-q", "web1", "prod"]).into_inner();
    trace::run(push, watched, &mut |call| {
        flushes.extend(FLUSHES.contains(&call.name).then(|| call.to_string()));
        Deed::Go
    })
    .unwrap();
    assert_eq!(operator.id("refs/remotes/web1/prod"), operator.id("HEAD"));
    flushes
}

#[test]
fn a_deployment_of_one_file_flushes_disks_at_most_8_times_on_the_host_and_2_times_here() {
    if is_skipped(trace::unable().map(str::to_owned)) {
        return;
    }
    let sandbox = Sandbox::new();
    let operator = sandbox.repo("operator");
    operator.write("web1/app/file", "first");
    operator.commit("First");
    operator.add_root("web1");
    operator.git(&["push", "-q", "web1", "prod"]).ok();
    let fewest = |watched, most: usize| {
        let mut counted = (0..TRIES).map(|number| flushes(&operator, watched, &format!("{most} {number}")));
        counted.find(|flushes| (1..=most).contains(&flushes.len()))
    };
    assert!(fewest(HOST, 8).is_some(), "{:?}", flushes(&operator, HOST, "host"));
    assert!(fewest(HERE, 2).is_some(), "{:?}", flushes(&operator, HERE, "here"));
}

/// The calls of a push about a directory and backups, and those that empty the journal. The first about `fails` fails.
fn calls_about(operator: &Repo<'_>, directory: &Path, fails: &str) -> Vec<String> {
    operator.commit("Next");
    let (mut calls, mut has_failed) = (Vec::new(), false);
    let push = operator.command(&["push", "-q", "-o", "take-over", "web1", "prod"]).into_inner();
    trace::run(push, HOST, &mut |call| {
        let is_of_journal = call.path.ends_with("state/journal") && call.name == "ftruncate";
        let is_of_backups = call.path.components().any(|part| part.as_os_str() == "backups");
        if call.path.starts_with(directory) || is_of_journal || is_of_backups {
            calls.push(format!("{} {}", call.name, call.path.file_name().unwrap().display()));
        }
        if call.path.ends_with(fails) && !std::mem::replace(&mut has_failed, true) {
            return Deed::Fail(trace::Errno::EIO);
        }
        Deed::Go
    })
    .unwrap();
    calls
}

#[test]
fn what_was_undone_or_cleared_away_on_another_file_system_is_durable_before_the_journal_is_empty() {
    let no_mounts = || disk::in_own_namespace(|| Ok(())).err().map(|error| format!("{error:#}"));
    if is_skipped(trace::unable().map(str::to_owned).or_else(no_mounts)) {
        return;
    }
    disk::in_own_namespace(|| {
        let sandbox = Sandbox::new();
        let opt = sandbox.root("web1").join("opt");
        std::fs::create_dir_all(&opt)?;
        Cmd::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&opt).check()?;
        std::os::unix::fs::symlink("there before", opt.join("x"))?;
        let operator = sandbox.repo("operator");
        operator.write("web1/app/a", "same");
        operator.write("web1/app/b", "same");
        operator.add_root("web1");
        operator.git(&["config", "remote.web1.push", "prod"]).ok();
        let link = |to: &str| {
            operator.write("web1/app/manifest.json", format!(r#"{{"symlinks": {{"/opt/x": "{to}", "/opt/y": "a"}}}}"#))
        };
        let is_synced = |calls: &[String]| {
            let closed = calls.iter().rposition(|call| call == "ftruncate journal").unwrap();
            let changed = calls[..closed].iter().rposition(|call| !FLUSHES.iter().any(|flush| call.starts_with(flush)));
            assert_eq!(calls[changed.unwrap() + 1..closed], ["fsync opt"], "{calls:?}");
        };
        link("a");
        let taken_over = calls_about(&operator, &opt, "nothing fails");
        let at = |call: &str| taken_over.iter().rposition(|made| made == call);
        assert!(at("fsync backups") < at("unlinkat .x.deptool-undo"), "{taken_over:?}");
        assert!(at("symlinkat opt%2Fx") < at("fsync backups"), "{taken_over:?}");
        is_synced(&taken_over);
        link("b");
        is_synced(&calls_about(&operator, &opt, "nothing fails"));
        link("a");
        let undone = calls_about(&operator, &opt, "deptool/current");
        assert!(std::fs::read_link(opt.join("x"))?.ends_with("b"));
        is_synced(&undone);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_group_whose_change_affects_one_host_costs_what_that_host_costs() {
    if is_skipped(trace::unable().map(str::to_owned)) {
        return;
    }
    let sandbox = Sandbox::new();
    let operator = sandbox.repo("operator");
    for host in ["web1", "web2", "web3"] {
        operator.write(format!("{host}/app/file"), "first");
        operator.add_root(host);
    }
    operator.add_remote("cluster", "deptool::@all");
    operator.commit("First");
    operator.git(&["push", "-q", "cluster", "prod"]).ok();
    let mut number = 0;
    // The calls that change a file or flush a disk, and messages to other processes.
    let mut calls = |remote: &str| {
        number += 1;
        operator.write("web1/app/file", number.to_string());
        operator.commit("One host");
        let mut calls = Vec::new();
        let push = operator.command(&["push", "-q", remote, "prod"]).into_inner();
        trace::run(push, Watched::Everybody, &mut |call| {
            calls.push(call.name);
            Deed::Go
        })
        .unwrap();
        let flushes = calls.iter().filter(|call| FLUSHES.contains(call)).count();
        (flushes, calls.len() - flushes)
    };
    let mut seen = Vec::new();
    let is_same = (0..TRIES).any(|_| {
        let (host, group) = (calls("web1"), calls("cluster"));
        seen.push((host, group));
        // The group has a tracking ref of its own.
        host.0 == group.0 && group.1 <= host.1 + 15
    });
    assert!(is_same, "flushes and other calls, to the host and to its group: {seen:?}");
}

#[test]
fn refs_are_there_after_a_power_cut() {
    if is_quick() || is_skipped(trace::unable().map(str::to_owned).or_else(disk::unable)) {
        return;
    }
    for (kind, size) in [("ext4", 48 << 20), ("xfs", 512 << 20)] {
        disk::in_own_namespace(|| {
            cut_power(kind, size);
            Ok(())
        })
        .unwrap();
    }
}

/// Copies the operator's disk right before a request leaves, and after the push. What was not synced is not in the copies.
fn cut_power(kind: &str, size: u64) {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir().join("operator");
    std::fs::create_dir(&dir).unwrap();
    let image = Image::make(&sandbox.dir().join("disk.img"), kind, size).unwrap();
    image.mount(&dir).unwrap();
    let operator = sandbox.repo("operator");
    operator.write("web1/app/file", kind);
    operator.commit("First");
    operator.add_root("web1");
    rustix::fs::sync();
    let copy = |name: &str| {
        let to = sandbox.dir().join(name);
        Cmd::new("cp").arg("--sparse=always").arg(sandbox.dir().join("disk.img")).arg(&to).check().unwrap();
        to
    };
    let mut sent = None;
    let push = operator.command(&["push", "-q", "web1", "prod"]).into_inner();
    trace::run(push, Watched::From { from: "git-remote-deptool", but: "deptool-agent" }, &mut |call| {
        if call.sends::<Request>(&["Deploy"]) {
            sent.get_or_insert_with(|| copy("sent.img"));
        }
        Deed::Go
    })
    .unwrap();
    let done = copy("done.img");
    let at = sandbox.dir().join("after");
    std::fs::create_dir(&at).unwrap();
    for (image, name) in [(sent.unwrap(), "refs/deptool/unsettled/web1/prod"), (done, "refs/remotes/web1/prod")] {
        // XFS does not mount two file systems of one id.
        let options = if kind == "xfs" { "loop,nouuid" } else { "loop" };
        Cmd::new("mount").args(["-o", options]).arg(image).arg(&at).check().unwrap();
        assert_eq!(read(&at, name), operator.id("HEAD"), "{kind}");
        disk::unmount(&at).unwrap();
    }
    disk::unmount(&dir).unwrap();
}

fn read(repo: &Path, name: &str) -> String {
    std::fs::read_to_string(repo.join(".git").join(name)).unwrap_or_default().trim().to_owned()
}
