//! `git push` deploys, and says so as Git does.

use deptool_tests::process::Run;
use deptool_tests::sandbox::{Repo, Sandbox, gits};

use crate::{
    seen::{at_rest, refs, shows, state_of, unchanged},
    stand_in::with_stand_in,
};

/// A repository with one app for `web1`, and a remote for it.
fn operator(sandbox: &Sandbox) -> Repo<'_> {
    let operator = sandbox.repo("operator");
    operator.write("web1/web/index.html", "hello\n");
    operator.write("web1/web/web.conf", "x=1\n");
    operator.write("web1/web/manifest.json", r#"{"symlinks": {"/etc/web.conf": "web.conf"}}"#);
    operator.add_root("web1");
    operator
}

/// Runs `git`, and asserts that it started no agent.
#[track_caller]
pub fn without_contact(sandbox: &Sandbox, repo: &Repo<'_>, args: &[&str]) -> Run {
    let run = with_stand_in(sandbox, repo, args, "touch \"$DEPTOOL_ROOT/../contacted\"").run().unwrap();
    assert!(!sandbox.dir().join("roots/contacted").exists(), "{run}");
    run
}

#[test]
fn the_first_push_deploys_and_the_second_changes_only_what_changed() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let operator = operator(&sandbox);
        let one = operator.commit("One");
        let run = operator.git(&["push", "web1", "prod"]).ok();
        let expected = "To deptool::DIR/roots/web1\n * [new branch]      prod -> prod\ndeployed to 1 host in N s";
        shows(&sandbox, &run, &[], expected);
        assert_eq!(sandbox.read("web1", "/var/lib/deptool/apps/web/current/index.html"), b"hello\n");
        assert_eq!(sandbox.read("web1", "/etc/web.conf"), b"x=1\n");
        at_rest(&sandbox, "web1", Some(&one));

        operator.write("web1/web/web.conf", "x=2\n");
        let two = operator.commit("Two");
        let run = operator.git(&["push", "web1", "prod"]).ok();
        let names = [("one", one.as_str()), ("two", two.as_str())];
        let expected = "To deptool::DIR/roots/web1\n   <one>..<two>  prod -> prod\ndeployed to 1 host in N s";
        shows(&sandbox, &run, &names, expected);
        assert_eq!(sandbox.read("web1", "/etc/web.conf"), b"x=2\n");
        at_rest(&sandbox, "web1", Some(&two));
        assert_eq!(operator.id("web1/prod"), two);
    }
}

#[test]
fn a_push_of_what_runs_already_changes_nothing_and_connects_to_nothing() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let operator = operator(&sandbox);
        operator.commit("One");
        operator.git(&["push", "web1", "prod"]).ok();
        let before = state_of(&sandbox.root("web1"));
        for args in [&["push", "web1", "prod"][..], &["push", "-f", "web1", "prod"], &["push", "-v", "web1", "prod"]] {
            without_contact(&sandbox, &operator, args).ok().says("Everything up-to-date");
        }
        unchanged(&state_of(&sandbox.root("web1")), &before);
    }
}

#[test]
fn a_change_of_other_hosts_only_leaves_the_host_alone() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    let one = operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    let before = state_of(&sandbox.root("web1"));
    operator.write("web2/web/index.html", "another host\n");
    operator.commit("Two");
    let run = without_contact(&sandbox, &operator, &["push", "web1", "prod"]).ok();
    shows(&sandbox, &run, &[], "Everything up-to-date");
    unchanged(&state_of(&sandbox.root("web1")), &before);
    assert_eq!(operator.id("web1/prod"), one, "the tracking ref says what the host has said");
}

#[test]
fn force_moves_the_hosts_commit_although_no_file_changes() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    let two = operator.commit("Nothing changes");
    operator.git(&["push", "-f", "web1", "prod"]).ok();
    assert_eq!(operator.id("web1/prod"), two);
    at_rest(&sandbox, "web1", Some(&two));
}

#[test]
fn a_url_without_a_remote_works_also_from_a_detached_head() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let operator = operator(&sandbox);
        let one = operator.commit("One");
        operator.git(&["remote", "remove", "web1"]).ok();
        operator.git(&["checkout", "--quiet", "--detach"]).ok();
        let url = format!("deptool::{}", sandbox.root("web1").display());
        operator.git(&["push", &url, "HEAD:prod"]).ok();
        assert_eq!(operator.id("refs/remotes/web1/prod"), one);
        at_rest(&sandbox, "web1", Some(&one));
        operator.git(&["push", &url, "HEAD:prod"]).ok().says("Everything up-to-date");
    }
}

#[test]
fn going_back_needs_force() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let operator = operator(&sandbox);
        let one = operator.commit("One");
        operator.git(&["push", "web1", "prod"]).ok();
        operator.write("web1/web/web.conf", "x=2\n");
        operator.write("web1/web/new", "new\n");
        let two = operator.commit("Two");
        operator.git(&["push", "web1", "prod"]).ok();
        let names = [("one", one.as_str()), ("two", two.as_str())];
        let before = (state_of(&sandbox.root("web1")), refs(&operator));

        let run = operator.git(&["push", "web1", "prod~1:prod"]).code(1);
        run.says("! [rejected]        prod~1 -> prod (non-fast-forward)");
        unchanged(&state_of(&sandbox.root("web1")), &before.0);
        assert_eq!(refs(&operator), before.1);

        let run = operator.git(&["push", "-f", "web1", "prod~1:prod"]).ok();
        let expected = "To deptool::DIR/roots/web1\n + <two>...<one> prod~1 -> prod (forced update)\n\
                        deployed to 1 host in N s";
        shows(&sandbox, &run, &names, expected);
        assert_eq!(sandbox.read("web1", "/etc/web.conf"), b"x=1\n");
        assert!(!sandbox.exists("web1", "/var/lib/deptool/apps/web/current/new"));
        at_rest(&sandbox, "web1", Some(&one));

        operator.git(&["push", "web1", "prod"]).ok();
        at_rest(&sandbox, "web1", Some(&two));
    }
}

#[test]
fn deleting_the_branch_removes_everything() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let operator = operator(&sandbox);
        let one = operator.commit("One");
        operator.git(&["push", "web1", "prod"]).ok();
        let run = operator.git(&["push", "web1", ":prod"]).ok();
        let expected = "To deptool::DIR/roots/web1\n - [deleted]         prod\nremoved from 1 host in N s";
        shows(&sandbox, &run, &[], expected);
        assert_eq!(operator.id_if_any("refs/remotes/web1/prod"), None);
        assert!(!sandbox.exists("web1", "/etc/web.conf"));
        assert!(!sandbox.exists("web1", "/etc"), "what was made goes when it is empty");
        assert!(!sandbox.exists("web1", "/var/lib/deptool/apps/web"));
        at_rest(&sandbox, "web1", None);

        let before = state_of(&sandbox.root("web1"));
        let run = operator.git(&["push", "web1", ":prod"]).code(1);
        let expected = "To deptool::DIR/roots/web1\n \
                        ! [remote rejected] prod (nothing is known to run on 'web1')\n\
                        error: failed to push some refs to 'deptool::DIR/roots/web1'";
        shows(&sandbox, &run, &[], expected);
        unchanged(&state_of(&sandbox.root("web1")), &before);

        operator.git(&["push", "web1", "prod"]).ok();
        at_rest(&sandbox, "web1", Some(&one));
    }
}

#[test]
fn a_removed_host_can_be_claimed_by_another_cluster() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    let one = operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    operator.git(&["push", "web1", "prod:staging"]).code(1).says("'web1' belongs to cluster 'prod', not 'staging'");
    operator.git(&["push", "web1", ":prod"]).ok();
    operator.git(&["push", "web1", "prod:staging"]).ok();
    assert_eq!(operator.id("web1/staging"), one);
    assert_eq!(operator.id_if_any("refs/remotes/web1/prod"), None);
    at_rest(&sandbox, "web1", Some(&one));
}

#[test]
fn quiet_is_silent_and_porcelain_is_for_programs() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    let one = operator.commit("One");
    let run = operator.git(&["push", "-q", "web1", "prod"]).ok();
    shows(&sandbox, &run, &[], "");
    operator.write("web1/web/web.conf", "x=2\n");
    let two = operator.commit("Two");
    let run = operator.git(&["push", "--porcelain", "web1", "prod"]).ok();
    let expected = "To deptool::DIR/roots/web1\n \trefs/heads/prod:refs/heads/prod\t<one>..<two>\nDone";
    let names = [("one", one.as_str()), ("two", two.as_str())];
    assert_eq!(crate::seen::shown(&sandbox, &run, &names).lines().take(3).collect::<Vec<_>>().join("\n"), expected);
}

#[test]
fn tags_that_follow_are_left_alone() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    let one = operator.commit("One");
    operator.git(&["tag", "-a", "-m", "Version 1", "v1"]).ok();
    operator.git(&["push", "--follow-tags", "web1", "prod"]).ok();
    at_rest(&sandbox, "web1", Some(&one));
}

#[test]
fn a_push_from_a_linked_worktree_and_from_a_subdirectory_deploys() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    operator.commit("One");
    operator.git(&["-C", "web1/web", "push", "web1", "prod"]).ok();
    operator.git(&["worktree", "add", "--quiet", "-b", "work", "../linked"]).ok();
    let linked = sandbox.repo_at(sandbox.dir().join("linked"));
    linked.write("web1/web/web.conf", "x=2\n");
    let two = linked.commit("Two");
    linked.git(&["push", "web1", "HEAD:prod"]).ok();
    assert_eq!(operator.id("web1/prod"), two);
    at_rest(&sandbox, "web1", Some(&two));
}

#[test]
fn the_umask_of_the_operator_does_not_matter() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    let one = operator.commit("One");
    let push = sandbox.command("sh").dir(&operator.dir).args(["-c", "umask 077; exec git push web1 prod"]);
    push.run().unwrap().ok();
    at_rest(&sandbox, "web1", Some(&one));
    let mode = |path: &str| {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(sandbox.root("web1").join(path)).unwrap().mode() & 0o777
    };
    assert_eq!(mode("etc"), 0o755);
    assert_eq!(mode("var/lib/deptool/apps/web/current/"), 0o755);
    assert_eq!(mode("var/lib/deptool/current/web/web.conf"), 0o644);
    assert_eq!(mode("var/lib/deptool/store"), 0o700);
}
