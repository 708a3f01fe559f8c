//! Hosts whose directory was renamed, and a cluster whose branch was.

use deptool_tests::sandbox::{Repo, Sandbox};

use crate::{cluster::deptool, seen::at_rest};

/// `web1` is deployed, and renamed to `web01` in the tree since.
fn begin<'a>(sandbox: &'a Sandbox) -> Repo<'a> {
    let repo = sandbox.repo("operator");
    repo.add_root("web1");
    repo.git(&["config", "deptool.cluster", "prod"]).ok();
    repo.write("web1/app/conf", "one");
    repo.write("web1/app/manifest.json", r#"{"symlinks": {"/etc/app.conf": "conf"}}"#);
    repo.write("web1/old/conf", "gone with the new name");
    repo.write("web1/old/manifest.json", r#"{"symlinks": {"/etc/old.conf": "conf"}}"#);
    repo.commit("One");
    repo.git(&["push", "web1", "prod"]).ok();
    repo.git(&["mv", "web1", "web01"]).ok();
    repo
}

fn recorded(sandbox: &Sandbox) -> String {
    String::from_utf8(sandbox.read("web1", "/var/lib/deptool/state/host")).unwrap()
}

#[test]
fn a_renamed_directory_is_deployed_as_a_change_of_what_ran_and_the_host_takes_its_name() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    repo.remove("web01/old");
    repo.write("web01/app/conf", "two");
    let two = repo.commit("Rename");
    repo.git(&["config", "remote.web1.deptoolHost", "web01"]).ok();
    let planned = deptool(&repo, &["plan", "web01"]).ok();
    planned.prints("update app").prints("remove old");
    repo.git(&["push", "web1", "prod"]).ok().says("web01: its directory was 'web1' until now");
    at_rest(&sandbox, "web1", Some(&two));
    assert_eq!(recorded(&sandbox), "web01");
    assert!(!sandbox.exists("web1", "/etc/old.conf"), "what the new tree lacks is given up");
    assert_eq!(sandbox.read("web1", "/etc/app.conf"), b"two");
    // From now on it is a host like any other.
    repo.git(&["fetch", "web1"]).ok();
    deptool(&repo, &["verify", "web01"]).ok();
    repo.write("web01/app/conf", "three");
    repo.commit("Three");
    repo.git(&["push", "web1", "prod"]).ok().does_not_say("its directory was");
    repo.git(&["push", "web1", ":prod"]).ok();
    assert!(!sandbox.exists("web1", "/etc/app.conf"));
}

#[test]
fn a_rename_alone_is_deployed_and_changes_no_file() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    repo.commit("Rename");
    repo.git(&["config", "remote.web1.deptoolHost", "web01"]).ok();
    let before = std::fs::read_link(sandbox.root("web1").join("etc/app.conf")).unwrap();
    // What the host runs is asked, and found under its old name.
    repo.git(&["fetch", "web1"]).ok();
    repo.git(&["push", "web1", "prod"]).ok();
    assert_eq!(recorded(&sandbox), "web01");
    assert_eq!(std::fs::read_link(sandbox.root("web1").join("etc/app.conf")).unwrap(), before);
    repo.git(&["push", "web1", "prod"]).ok().says("Everything up-to-date");
}

#[test]
fn before_the_renamed_directory_is_deployed_the_host_can_be_emptied_and_told_from_another_one() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    repo.git(&["config", "remote.web1.deptoolHost", "web01"]).ok();
    repo.write("web1/app/conf", "still here");
    repo.commit("Both");
    repo.git(&["push", "web1", "prod"])
        .fails()
        .says("the host is deployed from directory 'web1', not 'web01'; if 'web01' is its new name, remove 'web1'");
    assert_eq!(recorded(&sandbox), "web1");
    repo.remove("web1");
    repo.commit("Rename");
    repo.git(&["push", "web1", ":prod"]).ok();
    at_rest(&sandbox, "web1", None);
    assert!(!sandbox.exists("web1", "/etc/app.conf") && !sandbox.exists("web1", "/etc/old.conf"));
}
