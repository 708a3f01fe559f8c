//! What people do with any remote, in the order of Git's own tests of remote helpers (t5801), as far as they apply to
//! hosts. The helper's own tests cover its dialogue with Git line by line.

use std::{io::Write, path::Path, process::Stdio, time::Duration};

use deptool_tests::sandbox::{Repo, Sandbox, gits};

use crate::seen::{at_rest, refs};

/// Runs a test with every Git on this machine, in a repository with a commit that runs on `web1`.
fn with_every_git(test: impl Fn(&Sandbox, &Repo<'_>, &str)) {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let repo = sandbox.repo("operator");
        repo.write("web1/web/file", "1\n");
        repo.add_root("web1");
        let one = repo.commit("One");
        repo.git(&["push", "web1", "prod"]).ok();
        test(&sandbox, &repo, &one);
    }
}

fn url(sandbox: &Sandbox) -> String {
    format!("deptool::{}", sandbox.root("web1").display())
}

#[test]
fn cloning_and_pulling_work_from_a_host() {
    with_every_git(|sandbox, repo, one| {
        let url = url(sandbox);
        sandbox.command("git").args(["clone", "-q", &url, "clone"]).run().unwrap().ok();
        let clone = sandbox.repo_at(sandbox.dir().join("clone"));
        assert_eq!((clone.id("HEAD"), clone.id("origin/prod")), (one.to_owned(), one.to_owned()));
        assert_eq!(clone.git(&["symbolic-ref", "HEAD"]).ok().line(), "refs/heads/prod");
        repo.write("web1/web/file", "2\n");
        let two = repo.commit("Two");
        repo.git(&["push", "web1", "prod"]).ok();
        clone.git(&["pull", "-q", "--ff-only"]).ok();
        assert_eq!(clone.id("HEAD"), two);
        // Into an empty repository, without a checkout, and from a url without a remote.
        for args in [&["clone", "-q", "--bare", &url, "bare"][..], &["clone", "-q", "--no-checkout", &url, "empty"]] {
            sandbox.command("git").args(args).run().unwrap().ok();
        }
        // Some versions of Git create the requested kind of repository, others the kind that fits the remote.
        let other = sandbox.command("git").args(["clone", &url, "other"]).env("GIT_DEFAULT_HASH", "sha256");
        let other = other.run().unwrap();
        if other.success() {
            let made = sandbox.repo_at(sandbox.dir().join("other"));
            assert_eq!(made.git(&["rev-parse", "--show-object-format"]).ok().line(), "sha1");
            assert_eq!(made.id("HEAD"), two);
        } else {
            other.fails().says("SHA-256 object ids are not supported");
        }
        let new = sandbox.repo("new");
        new.git(&["fetch", "-q", &url, "prod"]).ok();
        assert_eq!(new.id("FETCH_HEAD"), two);
        new.git(&["fetch", "-q", &url]).ok();
        assert_eq!(new.id("FETCH_HEAD"), two);
        new.git(&["pull", "-q", &url, "prod"]).ok();
        assert_eq!(new.id("HEAD"), two);
        for dir in ["clone", "bare", "empty", "new"] {
            sandbox.repo_at(sandbox.dir().join(dir)).git(&["fsck", "--strict"]).ok();
        }
    });
}

#[test]
fn missing_refs_are_reported() {
    with_every_git(|sandbox, repo, _| {
        let before = refs(repo);
        repo.git(&["fetch", "web1", "other"]).fails().says("couldn't find remote ref");
        repo.git(&["push", "web1", "nothing"]).fails().says("src refspec nothing does not match any");
        repo.git(&["push", "web1", ":other"]).fails();
        repo.git(&["push", "--delete", "web1", "other"]).fails();
        assert_eq!(repo.git(&["ls-remote", "web1", "other"]).ok().stdout(), "");
        repo.git(&["ls-remote", "--exit-code", "web1", "other"]).code(2);
        sandbox.command("git").args(["clone", "-q", "-b", "other", &url(sandbox), "x"]).run().unwrap().fails();
        assert!(!Path::new(&sandbox.dir().join("x")).exists());
        assert_eq!(refs(repo), before);
    });
}

#[test]
fn pushing_everything_at_once_deploys_one_branch_or_nothing() {
    with_every_git(|sandbox, repo, one| {
        repo.git(&["tag", "v1"]).ok();
        repo.git(&["branch", "other"]).ok();
        for args in [&["push", "--all", "web1"][..], &["push", "--mirror", "web1"], &["push", "web1", "other"]] {
            let run = repo.git(args).fails();
            assert!(run.stderr().contains("rejected"), "{args:?}: {run}");
            at_rest(sandbox, "web1", Some(one));
        }
        repo.git(&["branch", "-D", "other"]).ok();
        repo.write("web1/web/file", "2\n");
        let two = repo.commit("Two");
        repo.git(&["push", "--all", "web1"]).ok();
        at_rest(sandbox, "web1", Some(&two));
        // A branch with another name is deployed as the cluster's branch.
        repo.git(&["checkout", "-q", "-b", "work"]).ok();
        repo.write("web1/web/file", "3\n");
        let three = repo.commit("Three");
        repo.git(&["push", "web1", "work:prod"]).ok();
        at_rest(sandbox, "web1", Some(&three));
        assert_eq!(repo.id("web1/prod"), three);
    });
}

#[test]
fn what_other_transports_can_do_is_refused_in_gits_words() {
    with_every_git(|sandbox, repo, one| {
        let url = url(sandbox);
        repo.git(&["archive", &format!("--remote={url}"), "prod"]).fails();
        repo.git(&["fetch", "--depth=1", "web1"]).ok();
        repo.git(&["remote", "show", "web1"]).ok().prints("prod");
        repo.git(&["remote", "update", "--prune"]).ok();
        repo.git(&["fetch", "--prune", "--tags", "web1"]).ok();
        repo.git(&["push", "--prune", "web1", "refs/heads/*:refs/heads/*"]).ok();
        assert_eq!(repo.id("web1/prod"), one);
        at_rest(sandbox, "web1", Some(one));
        repo.git(&["fsck", "--strict"]).ok();
    });
}

/// Otherwise Git is killed by SIGPIPE, if the helper is the faster of the two.
#[test]
fn a_helper_that_can_not_begin_waits_for_gits_first_line() {
    let sandbox = Sandbox::new();
    let mut helper = sandbox.command("git-remote-deptool").args(["web1", "a b"]).into_inner();
    let mut helper = helper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(helper.try_wait().unwrap(), None);
    helper.stdin.as_ref().unwrap().write_all(b"capabilities\n").unwrap();
    let run = helper.wait_with_output().unwrap();
    assert_eq!((run.status.code(), run.stdout.as_slice()), (Some(128), &b""[..]));
    assert!(String::from_utf8_lossy(&run.stderr).starts_with("fatal: invalid address 'a b': "), "{run:?}");
}
