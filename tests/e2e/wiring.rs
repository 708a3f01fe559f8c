//! What `git deptool init` and `add-host` set up, with every Git on this machine.

use deptool_tests::process::write_program;
use deptool_tests::sandbox::{Repo, Sandbox, gits};

/// A repository with a tree for two hosts, which are local roots.
fn begin(sandbox: &Sandbox) -> Repo<'_> {
    let repo = sandbox.repo("operator");
    repo.write("web1/app/file", "1");
    repo.write("web2/app/file", "1");
    repo.commit("Begin");
    repo
}

#[track_caller]
fn add_host(sandbox: &Sandbox, repo: &Repo<'_>, host: &str) {
    let url = format!("deptool::{}", sandbox.root(host).display());
    repo.git(&["deptool", "add-host", "--url", &url, host]).ok();
}

#[test]
fn with_one_host_plain_commands_are_about_that_host() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let repo = begin(&sandbox);
        repo.git(&["deptool", "init"]).ok().prints("deptool.cluster = prod");
        add_host(&sandbox, &repo, "web1");
        repo.git(&["push"]).ok().says("deployed to 1 host");
        assert_eq!(repo.id("@{push}"), repo.id("HEAD"));
        repo.write("web1/app/file", "2");
        let new = repo.commit("Change");
        assert_eq!(repo.git(&["log", "--format=%H", "@{push}.."]).ok().line(), new);
        assert!(repo.git(&["status"]).ok().stdout().contains("ahead of 'web1/prod' by 1 commit"));
        repo.git(&["push"]).ok();
        assert_eq!(sandbox.read("web1", "/var/lib/deptool/apps/app/current/file"), b"2");
        repo.git(&["update-ref", "-d", "refs/remotes/web1/prod"]).ok();
        repo.git(&["fetch"]).ok();
        assert_eq!(repo.id("refs/remotes/web1/prod"), new);
        repo.git(&["push"]).ok().says("Everything up-to-date");
    }
}

#[test]
fn with_more_hosts_plain_commands_are_about_all_of_them() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let repo = begin(&sandbox);
        repo.git(&["deptool", "init", "prod"]).ok();
        for host in ["web1", "web2"] {
            add_host(&sandbox, &repo, host);
        }
        repo.git(&["push"]).ok().says("deployed to 2 hosts");
        for host in ["web1", "web2"] {
            assert_eq!(repo.id(&format!("refs/remotes/{host}/prod")), repo.id("HEAD"));
            repo.git(&["update-ref", "-d", &format!("refs/remotes/{host}/prod")]).ok();
        }
        repo.git(&["fetch"]).ok();
        repo.git(&["fetch", "--all"]).ok();
        assert_eq!(repo.id("refs/remotes/web2/prod"), repo.id("HEAD"));
        assert!(repo.git(&["log", "-1", "--format=%D"]).ok().line().contains("web1/prod"));
        repo.git(&["status"]).ok();
    }
}

#[test]
fn a_remote_where_everybody_meets_stays_the_place_for_plain_push_and_is_not_pruned() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let shared = begin(&sandbox);
        shared.git(&["config", "receive.denyCurrentBranch", "ignore"]).ok();
        let repo = sandbox.clone_of(&shared, "second");
        repo.git(&["deptool", "init"]).ok().prints("goes to 'origin', as before");
        add_host(&sandbox, &repo, "web1");
        add_host(&sandbox, &repo, "web2");
        repo.write("web1/app/file", "2");
        let new = repo.commit("Change");
        repo.git(&["push"]).ok().does_not_say("deployed");
        assert_eq!(shared.id("prod"), new);
        repo.git(&["push", "cluster"]).ok().says("deployed to 2 hosts");
        repo.git(&["fetch", "--prune", "cluster"]).ok();
        repo.git(&["-c", "fetch.prune=true", "fetch", "cluster"]).ok();
        assert_eq!(repo.id("refs/remotes/origin/prod"), new);
    }
}

#[test]
fn a_second_run_changes_nothing_and_git_config_undoes_it() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    let read = || std::fs::read_to_string(repo.dir.join(".git/config")).unwrap();
    let before = read();
    repo.git(&["deptool", "init", "--share-connections"]).ok();
    add_host(&sandbox, &repo, "web1");
    let after = read();
    repo.git(&["deptool", "init", "--share-connections"]).ok().prints("is set up already");
    add_host(&sandbox, &repo, "web1");
    assert_eq!(read(), after);
    for section in ["deptool", "remote.cluster", "remote.web1", "branch.prod"] {
        repo.git(&["config", "--remove-section", section]).ok();
    }
    assert_eq!(read(), before);
}

#[test]
fn it_works_from_everywhere_in_the_repository() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    repo.git(&["worktree", "add", "-q", "../linked"]).ok();
    repo.git(&["clone", "-q", "--bare", ".", "../bare.git"]).ok();
    let cluster = |dir: &str| repo.git(&["-C", dir, "config", "--local", "deptool.cluster"]).line();
    repo.git(&["-C", "../linked", "deptool", "init", "prod"]).ok();
    assert_eq!(cluster("."), "prod", "linked worktrees share the configuration");
    repo.git(&["-C", "../bare.git", "deptool", "init"]).ok();
    assert_eq!(cluster("../bare.git"), "prod");

    // A relative url is relative to the top of the work tree, whatever the current directory.
    std::fs::create_dir(sandbox.dir().join("operator/root")).unwrap();
    let add = ["-C", "web1/app", "deptool", "add-host", "--url", "./root/web1", "web1"];
    repo.git(&add).ok();
    repo.git(&["-C", "web2", "push", "web1"]).ok();
    assert!(sandbox.dir().join("operator/root/web1/var/lib/deptool").exists());

    let outside = sandbox.command("git").args(["deptool", "init"]).run().unwrap().code(1);
    outside.says("error: not a git repository");
    let named = sandbox.command("git").args(["--git-dir=operator/.git", "deptool", "init"]).run().unwrap();
    named.ok().prints("is set up already");
}

#[test]
fn existing_settings_are_never_replaced() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    let error = |args: &[&str], text: &str| {
        let before = std::fs::read(repo.dir.join(".git/config")).unwrap();
        repo.git(&[&["deptool"], args].concat()).fails().says(text);
        assert_eq!(std::fs::read(repo.dir.join(".git/config")).unwrap(), before);
    };
    error(&["add-host", "web1"], "run 'git deptool init'");
    repo.add_remote("cluster", "git@example.org:config");
    error(&["init"], "remote 'cluster' belongs to something else");
    repo.git(&["remote", "rename", "cluster", "web2"]).ok();
    repo.git(&["deptool", "init"]).ok();
    error(&["init", "staging"], "the cluster of this repository is 'prod'");
    error(&["init", "a..b"], "invalid cluster name 'a..b'");
    error(&["add-host", "web2"], "remote 'web2' belongs to something else");
    error(&["add-host", "web1", "all"], "can't be named 'all'");
    error(&["add-host", "--url", "@all", "web1"], "'@all' is not a single host");
    error(&["add-host", "--user", "a b", "web1"], "the user may only have");
    repo.git(&["deptool", "add-host", "--user", "root", "--port", "2222", "web1"]).ok();
    assert_eq!(repo.git(&["config", "remote.web1.url"]).line(), "deptool::root@web1:2222");
    error(&["add-host", "web1"], "remote 'web1' has another url");
    repo.git(&["remote", "rename", "web1", "w"]).ok();
    error(&["add-host", "web1"], "host 'web1' has a remote already: 'w'");
    repo.git(&["deptool", "add-host", "--port", "x", "web3"]).code(129);
}

#[test]
fn connections_are_shared_also_where_the_environment_names_ssh() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox);
    repo.git(&["deptool", "init", "--share-connections"]).ok().prints("deptool.shareConnections = true");
    repo.git(&["deptool", "add-host", "web1"]).ok();
    // Says what it was told.
    let ssh = sandbox.dir().join("ssh");
    write_program(&ssh, "#!/bin/sh\necho \"ssh: $*\" >&2\nexit 255\n").unwrap();
    let push = repo.command(&["push", "web1", "prod"]).env("GIT_SSH_COMMAND", &ssh).run().unwrap().code(1);
    let push = push.says("-o ControlMaster=auto -o ControlPersist=10m -o ControlPath=~/.ssh/deptool-%C");
    push.says("-o RemoteCommand=none -o PermitLocalCommand=no").does_not_say("StdinNull");
    std::fs::create_dir(sandbox.home().join(".ssh")).unwrap();
    std::fs::write(sandbox.home().join(".ssh/config"), "Host *\n\tStdinNull yes\n\tSessionType none\n").unwrap();
    let push = repo.command(&["push", "web1", "prod"]).env("GIT_SSH_COMMAND", &ssh).run().unwrap().code(1);
    push.says("-o StdinNull=no -o SessionType=default");
}
