//! The state and history of a host: fetch, ls-remote, log, clone, projections.

use deptool_tests::is_quick;
use deptool_tests::sandbox::{Repo, Sandbox, gits};

use crate::seen::{at_rest, refs, shows, state_of, unchanged};

fn operator(sandbox: &Sandbox) -> Repo<'_> {
    let operator = sandbox.repo("operator");
    operator.write("web1/web/file", "1\n");
    operator.write("web2/web/secret", "of another host\n");
    operator.add_root("web1");
    operator
}

/// A repository that has only the host in common with that of the first operator.
fn stranger(sandbox: &Sandbox) -> Repo<'_> {
    let stranger = sandbox.repo("stranger");
    stranger.add_root("web1");
    stranger
}

#[test]
fn a_fetch_learns_what_runs_and_changes_nothing_on_the_host() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let ada = operator(&sandbox);
        let one = ada.commit("One");
        ada.git(&["push", "web1", "prod"]).ok();
        let before = state_of(&sandbox.root("web1"));
        ada.git(&["update-ref", "-d", "refs/remotes/web1/prod"]).ok();
        ada.git(&["fetch", "web1"]).ok();
        assert_eq!(ada.id("web1/prod"), one);
        let run = ada.git(&["ls-remote", "web1"]).ok();
        shows(&sandbox, &run, &[("one", &one)], "<one>\tHEAD\n<one>\trefs/heads/prod");
        unchanged(&state_of(&sandbox.root("web1")), &before);
        // A url works like a remote.
        let url = format!("deptool::{}", sandbox.root("web1").display());
        ada.git(&["fetch", &url, "prod:fetched"]).ok();
        assert_eq!(ada.id("fetched"), one);
    }
}

#[test]
fn nothing_is_written_to_a_host_that_is_only_asked() {
    let sandbox = Sandbox::new();
    let stranger = stranger(&sandbox);
    let root = sandbox.root("web1");
    for args in [&["fetch", "web1"][..], &["ls-remote", "web1"]] {
        stranger.git(args).ok();
        assert_eq!(state_of(&root).len(), 1, "{}", sandbox.tree("web1"));
    }
    assert_eq!(refs(&stranger), "");
}

#[test]
fn the_log_tells_what_runs_and_what_was_deployed_from_here() {
    let sandbox = Sandbox::new();
    let ada = operator(&sandbox);
    let one = ada.commit("One");
    ada.git(&["push", "web1", "prod"]).ok();
    ada.write("web1/web/file", "2\n");
    let two = ada.commit("Two");
    ada.git(&["push", "web1", "prod"]).ok();
    ada.git(&["push", "-f", "web1", "prod~1:prod"]).ok();
    let names = [("one", one.as_str()), ("two", two.as_str())];
    shows(&sandbox, &ada.git(&["log", "--format=%h %s", "web1/prod"]).ok(), &names, "<one> One");
    let log = ada.git(&["log", "-g", "--format=%h %gs", "web1/prod"]).ok();
    let expected = "<one> deptool: deployed <one>\n<two> deptool: deployed <two>\n<one> deptool: deployed <one>";
    shows(&sandbox, &log, &names, expected);
    // The plan, as a difference of trees.
    let diff = ada.git(&["diff", "--stat", "web1/prod", "prod", "--", "web1"]).ok();
    assert!(diff.stdout().starts_with(" web1/web/file | 2 +-\n"), "{diff}");
    // And on the host, with Git alone.
    let store = sandbox.root("web1").join("var/lib/deptool/store");
    let store = store.to_str().unwrap();
    let log = ada.git(&["-C", store, "log", "-p", "--format=%s", two.as_str(), "--", "web1"]).ok();
    assert!(log.stdout().contains("-1\n+2\n"), "{log}");
    let log = ada.git(&["-C", store, "log", "-g", "--format=%s, %gn, %gs", "prod"]).ok();
    let line = "deptool: deployed";
    let who = "Ada Operator";
    same_lines(
        &log.stdout(),
        &[format!("One, {who}, {line}"), format!("Two, {who}, {line}"), format!("One, {who}, {line}")],
    );
}

#[test]
fn deployments_are_recorded_with_the_operator_and_the_time_zone_that_git_would_take() {
    let sandbox = Sandbox::new();
    let ada = operator(&sandbox);
    let push = |file: &str, name: &str, email: &str| {
        ada.write("web1/web/file", file);
        ada.commit(file);
        let push = ada.command(&["push", "web1", "prod"]).env("TZ", "LOCAL-05:30");
        push.env("GIT_COMMITTER_NAME", name).env("GIT_COMMITTER_EMAIL", email).run().unwrap().ok();
    };
    push("2\n", "Grace", "grace@example.org");
    let reflog = ["log", "-g", "-1", "--date=iso", "--format=%gn %ge %gd", "web1/prod"];
    let recorded = ada.git(&reflog).ok().stdout();
    assert!(recorded.starts_with("Grace grace@example.org ") && recorded.ends_with("+0530}\n"), "{recorded}");
    let log = ada.command(&["deptool", "log", "web1"]).env("TZ", "LOCAL-05:30").run().unwrap().ok().stdout();
    assert!(log.contains("+0530") && log.contains("Grace"), "{log}");

    ada.git(&["config", "committer.email", "ops@example.org"]).ok();
    ada.write("web1/web/file", "3\n");
    ada.commit("Three");
    ada.command(&["push", "web1", "prod"]).env_remove("GIT_COMMITTER_EMAIL").run().unwrap().ok();
    assert!(ada.git(&reflog).ok().stdout().contains(" ops@example.org "));
}

#[track_caller]
fn same_lines(text: &str, lines: &[String]) {
    assert_eq!(text.lines().collect::<Vec<_>>(), lines);
}

#[test]
fn a_clone_gets_the_configuration_back_from_a_host() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let ada = operator(&sandbox);
        ada.commit("One");
        ada.write("web1/web/file", "2\n");
        let two = ada.commit("Two");
        ada.git(&["push", "web1", "prod"]).ok();
        let before = state_of(&sandbox.root("web1"));
        let url = format!("deptool::{}", sandbox.root("web1").display());
        let run = sandbox.command("git").args(["clone", &url, "back"]).run().unwrap().ok();
        let expected = "Cloning into 'back'...\n\
                        web1: <two> by Ada Operator <ada@example.org> is not in this repository; \
                        'origin' shows the host's part of it";
        shows(&sandbox, &run, &[("two", &two)], expected);
        unchanged(&state_of(&sandbox.root("web1")), &before);
        let back = sandbox.repo_at(sandbox.dir().join("back"));
        assert_eq!(std::fs::read(back.dir.join("web1/web/file")).unwrap(), b"2\n");
        assert!(!back.dir.join("web2").exists(), "a host knows nothing of the files of others");
        back.git(&["fsck", "--strict", "--no-dangling"]).ok();
        assert_eq!(back.git(&["branch", "--show-current"]).ok().line(), "prod");

        // Further work on that host can start there.
        back.write("web1/web/file", "3\n");
        let three = back.commit("Three");
        back.git(&["push", "origin", "prod"]).ok();
        at_rest(&sandbox, "web1", Some(&three));
        assert_eq!(back.id("origin/prod"), three);
        ada.git(&["fetch", "web1"]).ok();
        back.git(&["push", "-f", "origin", "HEAD~1:prod"]).ok();
    }
}

#[test]
fn clones_of_all_kinds_work() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let ada = operator(&sandbox);
        ada.remove("web2");
        let one = ada.commit("One");
        ada.git(&["push", "web1", "prod"]).ok();
        let url = format!("deptool::{}", sandbox.root("web1").display());
        for (n, args) in
            [&["--bare"][..], &["--mirror"], &["-o", "web1"], &["-b", "prod"], &["--no-checkout"], &["--depth=1"]]
                .iter()
                .enumerate()
        {
            let dir = format!("clone{n}");
            sandbox.command("git").arg("clone").args(*args).args([&url, &dir]).run().unwrap().ok();
            let clone = sandbox.repo_at(sandbox.dir().join(dir));
            assert_eq!(clone.id("HEAD"), one, "{args:?}");
            clone.git(&["fsck", "--strict"]).ok();
        }
        let web1 = sandbox.repo_at(sandbox.dir().join("clone2"));
        assert_eq!(web1.id("web1/prod"), one);
        web1.git(&["push", "web1", "prod"]).ok().says("Everything up-to-date");
    }
}

#[test]
fn a_commit_that_only_the_host_knows_is_shown_as_far_as_the_host_knows_it() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let ada = operator(&sandbox);
        ada.commit("One");
        ada.write("web1/web/file", "2\n");
        let two = ada.commit("Two");
        ada.git(&["push", "web1", "prod"]).ok();
        let other = stranger(&sandbox);
        other.git(&["fetch", "web1"]).ok();
        let seen = other.id("web1/prod");
        assert_ne!(seen, two);
        let log = other.git(&["log", "--format=%an %s", "web1/prod"]).ok().stdout();
        assert!(log.starts_with("Ada Operator Two\n"), "{log}");
        let files = other.git(&["ls-tree", "-r", "--name-only", "web1/prod"]).ok().stdout();
        assert_eq!(files, "web1/web/file\n");
        other.git(&["fsck", "--strict", "--no-dangling"]).ok();

        // Another fetch creates nothing new.
        let before = refs(&other);
        other.git(&["fetch", "web1"]).ok();
        assert_eq!(refs(&other), before);

        // Once the commit itself is available, it replaces the projection.
        other.git(&["fetch", "--quiet", "../operator", "prod:theirs"]).ok();
        other.git(&["fetch", "web1"]).ok();
        assert_eq!(other.id("web1/prod"), two);
        let projections = other.git(&["for-each-ref", "refs/deptool/projection"]).ok().stdout();
        assert_eq!(projections, "", "what is not needed any more goes");
        other.git(&["push", "web1", "theirs:prod"]).ok().says("Everything up-to-date");
    }
}

#[test]
fn a_commit_that_another_remote_has_is_fetched_from_there() {
    let sandbox = Sandbox::new();
    let ada = operator(&sandbox);
    ada.commit("One");
    sandbox.command("git").args(["clone", "--quiet", "--bare", "operator", "shared.git"]).run().unwrap().ok();
    let ben = sandbox.repo("ben");
    ben.git(&["remote", "add", "origin", "../shared.git"]).ok();
    ben.git(&["fetch", "--quiet", "origin"]).ok();
    ben.add_root("web1");
    ada.write("web1/web/file", "2\n");
    let two = ada.commit("Two");
    ada.git(&["push", "--quiet", "../shared.git", "prod"]).ok();
    ada.git(&["push", "web1", "prod"]).ok();
    let run = ben.git(&["fetch", "web1"]).ok();
    run.says("was fetched from 'origin'");
    assert_eq!(ben.id("web1/prod"), two);
    assert_ne!(ben.id("origin/prod"), two, "origin's own refs are its business");
    ben.git(&["fsck", "--strict", "--no-dangling"]).ok();
}

#[test]
fn a_host_is_still_there_when_other_remotes_have_been_waited_for() {
    if is_quick() {
        return;
    }
    let sandbox = Sandbox::new();
    let ada = operator(&sandbox);
    ada.commit("One");
    ada.git(&["push", "web1", "prod"]).ok();
    let other = stranger(&sandbox);
    // Together they take longer than the agent waits for a helper that is silent.
    for remote in ["one", "two", "three", "four"] {
        other.git(&["remote", "add", remote, "ssh://silent/repository"]).ok();
    }
    other.command(&["fetch", "web1"]).env("GIT_SSH_COMMAND", "sleep 1000 #").run().unwrap().ok();
    other.git(&["rev-parse", "--verify", "web1/prod"]).ok();
}

#[test]
fn a_projection_can_not_be_pushed_to_another_host() {
    let sandbox = Sandbox::new();
    let ada = operator(&sandbox);
    ada.commit("One");
    ada.git(&["push", "web1", "prod"]).ok();
    let other = stranger(&sandbox);
    other.git(&["fetch", "web1"]).ok();
    other.add_root("web2");
    other.git(&["checkout", "--quiet", "-b", "prod", "web1/prod"]).ok();
    other.write("web2/web/file", "mine\n");
    other.commit("For web2");
    let run = other.git(&["push", "web2", "prod"]).code(1);
    run.says("the commit was made from a projection of 'web1', which contains nothing else");
    assert_eq!(state_of(&sandbox.root("web2")).len(), 1);
}

#[test]
fn a_host_gets_nothing_of_other_hosts() {
    let sandbox = Sandbox::new();
    let ada = operator(&sandbox);
    ada.commit("One");
    ada.write("web1/web/file", "2\n");
    ada.write("web2/web/secret", "another secret\n");
    ada.commit("Two");
    ada.git(&["push", "web1", "prod"]).ok();
    ada.write("web1/web/file", "3\n");
    ada.write("web2/web/secret", "a third secret\n");
    ada.commit("Three");
    ada.git(&["push", "web1", "prod"]).ok();
    let store = sandbox.root("web1").join("var/lib/deptool/store");
    for revision in ["prod", "prod~1", "prod~2"] {
        let secret = ada.id(&format!("{revision}:web2/web/secret"));
        let tree = ada.id(&format!("{revision}:web2"));
        for id in [secret, tree] {
            let run = ada.command(&["cat-file", "-e", &id]).env("GIT_DIR", &store).env("GIT_NO_LAZY_FETCH", "1");
            run.run().unwrap().fails();
        }
    }
}

#[test]
fn a_host_that_was_emptied_or_set_up_anew_is_noticed() {
    let sandbox = Sandbox::new();
    let ada = operator(&sandbox);
    let one = ada.commit("One");
    ada.git(&["push", "web1", "prod"]).ok();
    std::fs::remove_dir_all(sandbox.root("web1").join("var")).unwrap();
    ada.write("web1/web/file", "2\n");
    let two = ada.commit("Two");
    // The known state is out of date, so the lease fails.
    ada.git(&["push", "web1", "prod"]).code(1).says("(stale info)");
    ada.git(&["push", "web1", "prod"]).ok();
    at_rest(&sandbox, "web1", Some(&two));
    let _ = one;

    std::fs::remove_dir_all(sandbox.root("web1").join("var")).unwrap();
    let run = ada.git(&["fetch", "web1"]).ok();
    shows(
        &sandbox,
        &run,
        &[],
        "web1: the host was reinstalled since the last connection\nweb1: nothing is deployed any more",
    );
    assert_eq!(ada.id_if_any("refs/remotes/web1/prod"), None);
}

#[test]
fn what_was_removed_is_still_readable_on_the_host_and_can_be_deployed_again() {
    let sandbox = Sandbox::new();
    let ada = operator(&sandbox);
    let one = ada.commit("One");
    ada.git(&["push", "web1", "prod"]).ok();
    ada.git(&["push", "web1", ":prod"]).ok();
    let store = sandbox.root("web1").join("var/lib/deptool/store");
    let store = store.to_str().unwrap();
    let removed = ada.git(&["-C", store, "for-each-ref", "--format=%(objectname)", "refs/deptool/removed"]).ok();
    assert_eq!(removed.line(), one);
    let run = ada.git(&["fetch", "web1"]).ok();
    shows(&sandbox, &run, &[], "");
    assert_eq!(ada.git(&["ls-remote", "web1"]).ok().stdout(), "");
    ada.git(&["push", "web1", "prod"]).ok();
    ada.git(&["push", "web1", ":prod"]).ok();
    at_rest(&sandbox, "web1", None);
}

#[test]
fn a_shallow_repository_refuses_what_it_can_not_judge() {
    let sandbox = Sandbox::new();
    let ada = operator(&sandbox);
    ada.commit("One");
    ada.git(&["push", "web1", "prod"]).ok();
    for n in 2..5 {
        ada.write("web1/web/file", format!("{n}\n"));
        ada.commit("Next");
    }
    let url = format!("file://{}", ada.dir.display());
    sandbox.command("git").args(["clone", "--quiet", "--depth=1", &url, "shallow"]).run().unwrap().ok();
    let shallow = sandbox.repo_at(sandbox.dir().join("shallow"));
    shallow.add_root("web1");
    shallow.git(&["fetch", "web1"]).ok();
    let before = state_of(&sandbox.root("web1"));
    shallow.git(&["push", "web1", "prod"]).code(1).says("--unshallow");
    unchanged(&state_of(&sandbox.root("web1")), &before);
    shallow.git(&["fetch", "--quiet", "--unshallow"]).ok();
    shallow.git(&["push", "web1", "prod"]).ok();
    at_rest(&sandbox, "web1", Some(&ada.id("prod")));
}

#[test]
fn a_shallow_repository_can_make_the_first_deployment() {
    let sandbox = Sandbox::new();
    let ada = operator(&sandbox);
    ada.commit("One");
    ada.write("web1/web/file", "2\n");
    let two = ada.commit("Two");
    let url = format!("file://{}", ada.dir.display());
    sandbox.command("git").args(["clone", "--quiet", "--depth=1", &url, "shallow"]).run().unwrap().ok();
    let shallow = sandbox.repo_at(sandbox.dir().join("shallow"));
    shallow.add_root("web1");
    shallow.git(&["push", "web1", "prod"]).ok();
    at_rest(&sandbox, "web1", Some(&two));
}
