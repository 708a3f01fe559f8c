//! Stale locks of a Git or a helper that was killed. Locks of our own refs are removed automatically. Other locks are
//! named, and the state of a host is still reported correctly.

use std::fs;

use deptool_agent::shared::build::agent_file_name;
use deptool_tests::is_quick;
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::{seen::at_rest, stand_in::with_stand_in};

/// A host that runs one commit, and a second commit to push.
fn second_commit(sandbox: &Sandbox) -> (Repo<'_>, String) {
    let ada = sandbox.repo("ada");
    ada.add_root("web1");
    ada.write("web1/web/file", "1\n");
    ada.commit("One");
    ada.git(&["push", "web1", "prod"]).ok();
    ada.write("web1/web/file", "2\n");
    let two = ada.commit("Two");
    (ada, two)
}

#[track_caller]
fn is_settled(ada: &Repo<'_>, commit: &str) {
    assert_eq!(ada.id("refs/remotes/web1/prod"), commit);
    assert_eq!(ada.git(&["for-each-ref", "refs/deptool/unsettled"]).ok().stdout(), "", "nothing is in doubt");
}

#[test]
fn locks_of_our_own_refs_that_were_left_go_by_themselves() {
    for lock in ["refs/remotes/web1/prod.lock", "refs/deptool/unsettled/web1/prod.lock"] {
        let sandbox = Sandbox::new();
        let (ada, two) = second_commit(&sandbox);
        let lock = ada.dir.join(".git").join(lock);
        fs::create_dir_all(lock.parent().unwrap()).unwrap();
        fs::write(&lock, "").unwrap();
        ada.git(&["push", "web1", "prod"]).ok();
        assert!(!lock.exists());
        is_settled(&ada, &two);
    }
}

#[test]
fn a_lock_of_all_refs_is_named_and_nothing_is_sent() {
    let sandbox = Sandbox::new();
    let (ada, two) = second_commit(&sandbox);
    let lock = ada.dir.join(".git/packed-refs.lock");
    fs::write(&lock, "").unwrap();
    let advice = format!("'{}' is in the way; if no git is at work in this repository", lock.display());
    ada.git(&["push", "web1", "prod"]).code(1).says(&advice).does_not_say("unknown");
    assert_eq!(sandbox.read("web1", "/var/lib/deptool/apps/web/current/file"), b"1\n");
    assert!(lock.exists(), "it may be somebody's who lives");
    // The host was asked, but the answer could not be recorded, so this is no success either.
    let ben = sandbox.clone_of(&ada, "ben");
    ben.add_root("web1");
    ben.git(&["fetch", "web1"]).ok();
    ben.git(&["push", "web1", "prod"]).ok();
    ada.git(&["fetch", "web1"]).code(128).says(&advice);
    fs::remove_file(&lock).unwrap();
    ada.git(&["fetch", "web1"]).ok();
    is_settled(&ada, &two);
}

#[test]
fn a_deployment_that_could_not_be_noted_is_said_to_be_one() {
    let sandbox = Sandbox::new();
    let (ada, two) = second_commit(&sandbox);
    let lock = ada.dir.join(".git/packed-refs.lock");
    // A process is killed while the host is working, which starts only after the deployment was recorded.
    let script = format!(
        "until [ -e '{}' ] && (set -C; : >'{}') 2>/dev/null; do sleep 0.01; done; exec \"$DEPTOOL_AGENT\"",
        ada.dir.join(".git/refs/deptool/unsettled/web1/prod").display(),
        lock.display()
    );
    let push = with_stand_in(&sandbox, &ada, &["push", "web1", "prod"], &script);
    let push = push.env("GIT_DEPTOOL_REPORT", sandbox.dir().join("report")).run().unwrap().code(1);
    let push = push.says("(deployed, but that could not be noted here; run git fetch)").says("is in the way");
    let report = fs::read_to_string(sandbox.dir().join("report")).unwrap();
    assert!(report.contains("\"outcome\":\"not-noted\""), "{report}{push}");
    at_rest(&sandbox, "web1", Some(&two));
    fs::remove_file(&lock).unwrap();
    // The host is in doubt until it has been asked.
    assert_ne!(ada.git(&["for-each-ref", "refs/deptool/unsettled"]).ok().stdout(), "", "{push}");
    ada.git(&["fetch", "web1"]).ok();
    is_settled(&ada, &two);
    ada.git(&["push", "web1", "prod"]).ok().says("Everything up-to-date");
}

#[test]
fn several_first_contacts_at_once_leave_one_agent_under_its_name() {
    if is_quick() {
        return;
    }
    for round in 0..3 {
        let sandbox = Sandbox::new();
        let ada = sandbox.repo("ada");
        ada.write("web1/web/file", "1\n");
        let one = ada.commit("One");
        let url = format!("deptool::{}", sandbox.root("web1").display());
        let operators: Vec<_> = (0..4).map(|number| sandbox.clone_of(&ada, &format!("operator-{number}"))).collect();
        let start = |operator: &Repo<'_>| operator.command(&["push", &url, "HEAD:prod"]).start().unwrap();
        let pushes: Vec<_> = operators.iter().map(start).collect();
        let pushes: Vec<_> = pushes.into_iter().map(|push| push.wait().unwrap()).collect();
        // The others find that it is deployed already, or that somebody else was first.
        assert!(pushes.iter().any(|push| push.success()), "round {round}: {pushes:?}");
        assert!(pushes.iter().all(|push| !push.stderr().contains("unknown")), "round {round}: {pushes:?}");
        at_rest(&sandbox, "web1", Some(&one));
        let bin = fs::read_dir(sandbox.root("web1").join("var/lib/deptool/bin")).unwrap();
        let names: Vec<_> = bin.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(names, [agent_file_name()], "round {round}");
    }
}
