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
fn a_host_that_runs_a_colleagues_commit_can_be_renamed_and_deployed_to() {
    for by_hand in [true, false] {
        let sandbox = Sandbox::new();
        let repo = begin(&sandbox);
        repo.git(&["reset", "--quiet", "--hard"]).ok();
        let colleague = sandbox.clone_of(&repo, "colleague");
        colleague.add_root("web1");
        colleague.git(&["fetch", "--quiet", "web1"]).ok();
        colleague.write("web1/app/conf", "a colleague's");
        colleague.write("db1/app/conf", "which web1 does not get");
        colleague.commit("A colleague's");
        colleague.git(&["push", "web1", "HEAD:prod"]).ok();

        repo.git(&["fetch", "web1"]).ok().says("shows the host's part of it");
        let remote = if by_hand { "web1" } else { "web01" };
        if by_hand {
            repo.git(&["mv", "web1", "web01"]).ok();
            repo.git(&["config", "remote.web1.deptoolHost", "web01"]).ok();
        } else {
            deptool(&repo, &["rename-host", "web1", "web01"]).ok();
        }
        repo.commit("Rename");
        if by_hand {
            repo.git(&["fetch", "web1"]).ok();
        }
        let merged = ["merge", "--quiet", "-s", "ours", "-m", "Merge", &format!("{remote}/prod")];
        repo.git(&[&merged[..], &["--allow-unrelated-histories"]].concat()).ok();
        repo.git(&["push", remote, "prod"]).ok().says("web01: its directory was 'web1' until now");
        at_rest(&sandbox, "web1", Some(&repo.id("prod")));
        repo.write("web01/app/conf", "another");
        repo.commit("Another");
        repo.git(&["push", remote, "prod"]).ok();
        at_rest(&sandbox, "web1", Some(&repo.id("prod")));
    }
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

#[test]
fn a_host_is_renamed_with_its_remote_what_is_known_of_it_its_groups_and_its_directory() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    repo.git(&["mv", "web01", "web1"]).ok();
    repo.write("cluster.json", r#"{"hosts": {"web1": {"ssh": {"user": "root"}}}, "groups": {"web": ["web1"]}}"#);
    repo.git(&["config", "deptool.group.all-web", "web1 web2"]).ok();
    repo.git(&["config", "--add", "deptool.group.all-web", "web3 web4"]).ok();
    repo.git(&["config", "branch.prod.remote", "web1"]).ok();
    repo.write("web1/app/conf", "two");
    repo.commit("Two");
    repo.git(&["push", "web1", "prod"]).ok();
    let (two, log) = (repo.id("web1/prod"), repo.git(&["log", "-g", "--format=%H %gs", "web1/prod"]).ok().stdout());
    let root = sandbox.tree("web1");

    let run = deptool(&repo, &["rename-host", "web1", "web01"]).ok();
    run.prints("renamed remote 'web1' to 'web01'").prints("changed cluster.json").prints("moved 'web1' to 'web01'");
    assert_eq!(sandbox.tree("web1"), root, "nothing changes on the host");
    assert_eq!(repo.id("refs/remotes/web01/prod"), two);
    assert_eq!(repo.git(&["log", "-g", "--format=%H %gs", "web01/prod"]).ok().stdout(), log, "with its reflog");
    assert_eq!(repo.id_if_any("refs/remotes/web1/prod"), None);
    let config = |key: &str| repo.git(&["config", key]).ok().line();
    assert_eq!(config("remote.web01.deptoolHost"), "web01");
    assert_eq!(config("branch.prod.remote"), "web01");
    let group = repo.git(&["config", "--get-all", "deptool.group.all-web"]).ok().stdout();
    assert_eq!(group, "web01 web2\nweb3 web4\n");
    repo.git(&["config", "--get-regexp", r"^remote\.web1\."]).code(1);
    let shared: serde_json::Value =
        serde_json::from_slice(&std::fs::read(repo.dir.join("cluster.json")).unwrap()).unwrap();
    assert_eq!(shared["groups"]["web"], serde_json::json!(["web01"]));
    assert_eq!(shared["hosts"], serde_json::json!({"web01": {"ssh": {"user": "root", "host": "web1"}}}));
    assert!(repo.git(&["status", "--porcelain"]).ok().stdout().contains("R  web1/app/conf -> web01/app/conf"));

    // Again: there is nothing left to do.
    deptool(&repo, &["rename-host", "web1", "web01"]).ok().prints("everything here has the new name already");
    repo.commit("Rename web1 to web01");
    deptool(&repo, &["plan"]).ok();
    repo.git(&["push", "web01", "prod"]).ok().says("web01: its directory was 'web1' until now");
    assert_eq!(recorded(&sandbox), "web01");
    deptool(&repo, &["status", "--live"]).ok().prints("web01  up to date");
}

#[test]
fn an_interrupted_renaming_is_completed_by_the_next_one() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    let one = repo.id("web1/prod");
    // Interrupted before the configuration was changed: both names have the refs.
    repo.git(&["update-ref", "refs/remotes/web01/prod", &one]).ok();
    deptool(&repo, &["rename-host", "web1", "web01"]).ok();
    assert_eq!((repo.id("web01/prod"), repo.id_if_any("refs/remotes/web1/prod")), (one.clone(), None));
    // Interrupted after that: refs and facts are left under the old name.
    repo.git(&["update-ref", "refs/remotes/web1/prod", &one]).ok();
    deptool(&repo, &["rename-host", "web1", "web01"]).ok();
    assert_eq!((repo.id("web01/prod"), repo.id_if_any("refs/remotes/web1/prod")), (one, None));
    repo.commit("Rename");
    repo.git(&["push", "web01", "prod"]).ok();
    assert_eq!(recorded(&sandbox), "web01");
}

#[test]
fn a_host_is_not_renamed_if_it_is_another_one_or_does_not_answer() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    repo.add_root("web2");
    deptool(&repo, &["rename-host", "web1", "web2"]).fails().says("'web2' is another host: it has a remote of its own");
    deptool(&repo, &["rename-host", "web1", "web1"]).code(129);
    deptool(&repo, &["rename-host", "web1", "all"]).code(129);
    std::fs::rename(sandbox.root("web1"), sandbox.root("gone")).unwrap();
    deptool(&repo, &["rename-host", "web1", "web01"]).fails().says("does not exist");
    repo.git(&["config", "remote.web1.url"]).ok();
    assert!(repo.id_if_any("refs/remotes/web01/prod").is_none());
    // What is known of another remote stays.
    std::fs::rename(sandbox.root("gone"), sandbox.root("web1")).unwrap();
    repo.add_remote("web01", "../elsewhere");
    repo.git(&["commit", "--quiet", "--allow-empty", "-m", "Theirs"]).ok();
    let theirs = repo.id("prod");
    repo.git(&["update-ref", "refs/remotes/web01/prod", &theirs]).ok();
    deptool(&repo, &["rename-host", "web1", "web01"]).fails().says("there is a remote 'web01' already");
    assert_eq!(repo.id("refs/remotes/web01/prod"), theirs);
    repo.git(&["remote", "remove", "web01"]).ok();
    repo.git(&["config", "--unset", "deptool.cluster"]).ok();
    deptool(&repo, &["rename-host", "web1", "web01"]).fails().says("there is no cluster here yet");
    assert!(repo.id_if_any("refs/remotes/web01/prod").is_none());
}
