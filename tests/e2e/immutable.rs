//! What can't be cleared away after a deployment, or can't be reached any more: everything else goes on, and it is told.

use std::fs;
use std::path::{Path, PathBuf};

use deptool_tests::process::Cmd;
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::seen::{at_rest, unchanged, visible};

/// A file or directory that can't be changed until this is dropped.
struct Immutable(PathBuf);

impl Immutable {
    /// `None` if that is not possible here.
    fn make(path: PathBuf) -> Option<Immutable> {
        let is_made = Cmd::new("chattr").arg("+i").arg(&path).run().is_ok_and(|run| run.success());
        assert!(is_made || std::env::var_os("CI").is_none_or(|ci| ci != "true"), "skipped, which is a failure in CI");
        if !is_made {
            eprintln!("skipped: '{}' can't be made immutable", path.display());
        }
        is_made.then_some(Immutable(path))
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = Cmd::new("chattr").arg("-i").arg(&self.0).run();
    }
}

/// A host with three deployments, a file that was taken over, and a directory that was made.
fn world(sandbox: &Sandbox) -> Repo<'_> {
    let operator = sandbox.repo("operator");
    operator.add_root("web1");
    let etc = sandbox.root("web1").join("etc");
    fs::create_dir_all(&etc).unwrap();
    fs::write(etc.join("taken"), "same\n").unwrap();
    operator.write("web1/web/same", "same\n");
    let links = r#"{"symlinks": {"/etc/x": "file", "/etc/taken": "same", "/etc/made/x": "file"}}"#;
    operator.write("web1/web/manifest.json", links);
    for n in 1..=3 {
        push(sandbox, &operator, n);
    }
    operator
}

/// Deploys that number, and returns what was printed.
#[track_caller]
fn push(sandbox: &Sandbox, operator: &Repo<'_>, number: u32) -> String {
    operator.write("web1/web/file", format!("{number}\n"));
    let commit = operator.commit("Next");
    let run = operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!(sandbox.read("web1", "/etc/x"), format!("{number}\n").as_bytes(), "{run}");
    assert_eq!(operator.id("web1/prod"), commit);
    run.stderr()
}

/// The checkout of the current generation.
fn checkout(state: &Path) -> PathBuf {
    fs::canonicalize(state.join("current/web")).unwrap()
}

#[test]
fn an_old_checkout_that_can_not_be_removed_is_told_and_stops_nothing() {
    let sandbox = Sandbox::new();
    let operator = world(&sandbox);
    let state = sandbox.root("web1").join("var/lib/deptool");
    let old = checkout(&state);
    let Some(immutable) = Immutable::make(old.join("file")) else { return };
    for number in 4..=9 {
        push(&sandbox, &operator, number);
    }
    let told = format!("web1: can't be cleared away: cannot remove '{}': Operation not permitted", old.display());
    for _ in 0..2 {
        operator.git(&["fetch", "web1"]).ok().says(&told);
    }
    assert!(push(&sandbox, &operator, 10).contains(&told));
    operator.git(&["deptool", "verify"]).ok().prints("web1: as deployed").says(&told);
    operator.git(&["deptool", "status", "--exit-code"]).ok();
    // As soon as it can be removed, it is.
    drop(immutable);
    operator.git(&["fetch", "web1"]).ok().does_not_say("cleared away");
    assert!(!old.exists());
    at_rest(&sandbox, "web1", Some(&operator.id("prod")));
}

#[test]
fn a_backup_that_can_not_be_removed_is_told_and_stops_nothing() {
    let sandbox = Sandbox::new();
    let operator = world(&sandbox);
    let state = sandbox.root("web1").join("var/lib/deptool");
    let Some(immutable) = Immutable::make(state.join("state/backups")) else { return };
    operator.write("web1/web/manifest.json", r#"{"symlinks": {"/etc/x": "file"}}"#);
    let told = push(&sandbox, &operator, 4);
    assert!(told.contains("web1: can't be cleared away: cannot remove '") && told.contains("etc%2Ftaken"), "{told}");
    assert_eq!(sandbox.read("web1", "/etc/taken"), b"same\n", "it was given back");
    operator.git(&["fetch", "web1"]).ok();
    push(&sandbox, &operator, 5);
    drop(immutable);
    push(&sandbox, &operator, 6);
    operator.git(&["deptool", "verify"]).ok().prints("web1: as deployed");
}

#[test]
fn a_record_that_can_not_be_written_is_refused_before_anything_changes() {
    for record in
        ["state/claims", "state/attempts", "state/host", "state", "store/refs/heads/prod", "store/logs/refs/heads/prod"]
    {
        let sandbox = Sandbox::new();
        let operator = world(&sandbox);
        let (root, state) = (sandbox.root("web1"), sandbox.root("web1").join("var/lib/deptool"));
        let Some(immutable) = Immutable::make(state.join(record)) else { return };
        let before = visible(&root);
        operator.write("web1/web/file", "4\n");
        let four = operator.commit("Four");
        let run = operator.git(&["push", "web1", "prod"]).code(1);
        let run = run.says(&format!("'{}' is immutable, see chattr(1)", state.join(record).display()));
        run.does_not_say("unknown");
        unchanged(&visible(&root), &before);
        operator.git(&["fetch", "web1"]).ok();
        drop(immutable);
        operator.git(&["push", "web1", "prod"]).ok();
        at_rest(&sandbox, "web1", Some(&four));
    }
}

#[test]
fn a_path_whose_directory_can_not_be_entered_any_more_can_be_given_up() {
    let sandbox = Sandbox::new();
    let operator = world(&sandbox);
    let made = sandbox.root("web1").join("etc/made");
    fs::remove_dir_all(&made).unwrap();
    fs::write(&made, "a file now\n").unwrap();
    // What does not change it goes on.
    operator.write("web1/other/file", "1\n");
    push(&sandbox, &operator, 3);
    operator.git(&["fetch", "web1"]).ok();
    operator.write("web1/web/manifest.json", r#"{"symlinks": {"/etc/x": "file", "/etc/taken": "same"}}"#);
    let told = push(&sandbox, &operator, 4);
    let expected = "'/etc/made/x' can't be reached: '/etc/made' is not a directory: what is there now is left as it is";
    assert!(told.contains(expected), "{told}");
    operator.git(&["deptool", "verify"]).ok().prints("web1: as deployed");
    operator.git(&["push", "web1", ":prod"]).ok();
    assert_eq!(fs::read(&made).unwrap(), b"a file now\n");
}
