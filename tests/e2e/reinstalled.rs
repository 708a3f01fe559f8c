//! A host that was reinstalled is recognised at the next contact of any kind, and plans are made accordingly.

use std::path::PathBuf;

use deptool_tests::process::Run;
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::seen::at_rest;

const ANEW: &str = "web1: the host was reinstalled since the last connection";

/// All commands that ask a host without deploying to it.
const CONTACTS: [&[&str]; 6] = [
    &["fetch", "web1"],
    &["ls-remote", "web1"],
    &["deptool", "status", "--live"],
    &["deptool", "verify"],
    &["deptool", "log"],
    &["deptool", "ping", "-n", "1"],
];

struct World {
    sandbox: Sandbox,
}

impl World {
    fn new() -> World {
        let world = World { sandbox: Sandbox::new() };
        let ada = world.sandbox.repo("ada");
        ada.write("web1/web/file", "1\n");
        ada.commit("One");
        ada.add_root("web1");
        ada.git(&["config", "deptool.cluster", "prod"]).ok();
        ada.git(&["push", "web1", "prod"]).ok();
        world
    }

    fn ada(&self) -> Repo<'_> {
        self.sandbox.repo_at(self.sandbox.dir().join("ada"))
    }

    /// Another operator, whose branch has one more commit.
    fn ben(&self) -> (Repo<'_>, String) {
        let ben = self.sandbox.clone_of(&self.ada(), "ben");
        ben.add_root("web1");
        ben.write("web1/web/file", "Ben's\n");
        let commit = ben.commit("Of somebody else");
        (ben, commit)
    }

    fn state(&self) -> PathBuf {
        self.sandbox.root("web1").join("var/lib/deptool")
    }

    fn wipe(&self) {
        std::fs::remove_dir_all(self.state()).unwrap();
    }

    /// Replaces the host with another machine, to which Ben has deployed something else.
    fn replace(&self, ben: &Repo<'_>) {
        self.wipe();
        ben.git(&["fetch", "web1"]).ok();
        ben.git(&["push", "web1", "prod"]).ok();
    }

    #[track_caller]
    fn tracked(&self, commit: Option<&str>, run: &Run) {
        assert_eq!(self.ada().id_if_any("refs/remotes/web1/prod").as_deref(), commit, "{run}");
    }
}

#[test]
fn a_wiped_host_is_recognised_by_whatever_asks_it_and_planned_for_from_nothing() {
    let world = World::new();
    let ada = world.ada();
    let one = ada.id("prod");
    for contact in CONTACTS {
        ada.git(&["push", "web1", "prod"]).ok().says("Everything up-to-date");
        world.wipe();
        // The loss of the deployment is drift, however often it is asked for.
        let differs = i32::from(contact.contains(&"verify")) * 2;
        let run = ada.git(contact).code(differs).says(ANEW);
        world.tracked(None, &run);
        ada.git(contact).code(differs).does_not_say(ANEW);
        ada.git(&["deptool", "plan"]).ok().prints("add web").prints("+ file");
        ada.git(&["deptool", "status"]).ok().prints("nothing deployed");
        ada.git(&["push", "web1", "prod"]).ok();
        at_rest(&world.sandbox, "web1", Some(&one));
    }
}

#[test]
fn a_push_to_a_wiped_host_is_stale_once_and_one_that_asks_first_works_at_once() {
    let world = World::new();
    let ada = world.ada();
    world.wipe();
    ada.write("web1/web/file", "2\n");
    let two = ada.commit("Two");
    let run = ada.git(&["push", "web1", "prod"]).code(1).says(ANEW).says("(stale info)");
    world.tracked(None, &run);
    ada.git(&["push", "web1", "prod"]).ok().does_not_say(ANEW);
    at_rest(&world.sandbox, "web1", Some(&two));
    // With `check`, a push of a ref that seems to be up to date finds out that it is not.
    world.wipe();
    ada.git(&["push", "-o", "check", "web1", "prod"]).ok().says(ANEW).says("[new branch]");
    at_rest(&world.sandbox, "web1", Some(&two));
    world.wipe();
    ada.git(&["config", "push.pushOption", "check"]).ok();
    ada.git(&["push", "web1", "prod"]).ok().says(ANEW).says("[new branch]");
    at_rest(&world.sandbox, "web1", Some(&two));
    // Nothing is left to remove, but this push did not remove it.
    ada.git(&["config", "--unset", "push.pushOption"]).ok();
    world.wipe();
    let run = ada.git(&["push", "web1", ":prod"]).code(1).says(ANEW).says("(stale info)");
    world.tracked(None, &run);
}

#[test]
fn a_host_that_was_replaced_by_one_with_another_deployment_is_recognised_and_that_is_brought_home() {
    let world = World::new();
    let ada = world.ada();
    let one = ada.id("prod");
    let (ben, theirs) = world.ben();
    ada.git(&["fetch", "web1"]).ok();
    for contact in CONTACTS.iter().chain(&[&["-c", "push.pushOption=check", "push", "web1", "prod"][..]]) {
        world.replace(&ben);
        let run = ada.git(contact).says(ANEW);
        world.tracked(Some(&theirs), &run);
        // As with any deployment by somebody else: an older commit does not replace it by accident.
        ada.git(&["push", "web1", "prod"]).code(1).says("[rejected]");
        ada.git(&["push", "-f", "web1", "prod"]).ok();
        at_rest(&world.sandbox, "web1", Some(&one));
    }
}

#[test]
fn who_asks_while_another_process_talks_to_the_host_remembers_nothing_that_is_older() {
    let world = World::new();
    let ada = world.ada();
    let one = ada.id("prod");
    world.wipe();
    let lock = ada.dir.join(".git/deptool/hosts/web1.lock");
    let held = world.sandbox.command("flock").arg(&lock).args(["git", "-C"]).arg(&ada.dir).args(["deptool", "verify"]);
    let run = held.run().unwrap();
    world.tracked(Some(&one), &run);
    let run = ada.git(&["deptool", "verify"]).code(2).says(ANEW);
    world.tracked(None, &run);
}
