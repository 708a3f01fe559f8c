//! Invalid pushes, with valid trees, are refused with a clear message. See `bad_input.rs` for invalid trees.

use std::fmt::Write as _;

use deptool_tests::is_quick;
use deptool_tests::sandbox::{Sandbox, gits};

use crate::{
    bad_input::{Deployed, why},
    seen::{at_rest, refs, shown, state_of, unchanged, visible},
};

#[test]
fn a_tree_without_the_hosts_directory_is_refused() {
    let sandbox = Sandbox::new();
    let deployed = Deployed::new(&sandbox);
    deployed.repo.remove("web1");
    deployed.repo.write("web2/web/file", "2\n");
    deployed.repo.commit("Two");
    let expected = "the tree has no directory 'web1'; to remove everything from the host, push ':prod'";
    assert_eq!(deployed.refused(&["push", "web1", "prod"]), expected);
    deployed.repo.write("web1", "a file of this name");
    deployed.repo.commit("Three");
    assert_eq!(deployed.refused(&["push", "web1", "prod"]), expected);
}

#[test]
fn only_one_branch_can_be_deployed() {
    if is_quick() {
        return;
    }
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let deployed = Deployed::new(&sandbox);
        deployed.repo.write("web1/web/file", "2\n");
        deployed.repo.commit("Two");
        deployed.repo.git(&["branch", "staging"]).ok();
        deployed.repo.git(&["tag", "v1"]).ok();
        deployed.repo.git(&["tag", "-a", "-m", "Version 2", "v2"]).ok();
        let mut seen = String::new();
        for refspecs in [
            &["staging"][..],
            &["prod:staging"],
            &["v1"],
            &["v2:refs/tags/v2"],
            &["prod", "staging"],
            &["prod:refs/notes/x"],
            &["prod:refs/heads/a/b"],
            &["prod^{tree}:refs/heads/prod"],
            &["prod:refs/heads/-x"],
        ] {
            let args: Vec<&str> = ["push", "web1"].into_iter().chain(refspecs.iter().copied()).collect();
            let root = state_of(&sandbox.root("web1"));
            let known = refs(&deployed.repo);
            let run = deployed.repo.git(&args).fails();
            unchanged(&state_of(&sandbox.root("web1")), &root);
            assert_eq!(refs(&deployed.repo), known);
            let said = shown(&sandbox, &run, &[]);
            let lines = said.lines().filter(|line| line.starts_with(" ! ") || line.starts_with("fatal"));
            writeln!(seen, "{}\n{}", refspecs.join(" "), lines.collect::<Vec<_>>().join("\n")).unwrap();
        }
        crate::seen::same(&seen, ONE_BRANCH);
        // The commit of a tag can be deployed to the branch.
        deployed.repo.git(&["push", "web1", "v2^{}:prod"]).ok();
    }
}

const ONE_BRANCH: &str = "\
staging
 ! [remote rejected] staging -> staging ('web1' belongs to cluster 'prod', not 'staging'; push '<branch>:prod' to deploy another branch there, as after a rename)
prod:staging
 ! [remote rejected] prod -> staging ('web1' belongs to cluster 'prod', not 'staging'; push '<branch>:prod' to deploy another branch there, as after a rename)
v1
 ! [remote rejected] v1 -> v1 (a tag can't be deployed; push a branch)
v2:refs/tags/v2
 ! [remote rejected] v2 -> v2 (a tag can't be deployed; push a branch)
prod staging
 ! [remote rejected] prod -> prod (a host belongs to one cluster: push one branch at a time)
 ! [remote rejected] staging -> staging (a host belongs to one cluster: push one branch at a time)
prod:refs/notes/x
 ! [remote rejected] prod -> refs/notes/x (only branches can be deployed)
prod:refs/heads/a/b
 ! [remote rejected] prod -> a/b (invalid cluster name 'a/b': only letters, digits and '.-_+' are allowed)
prod^{tree}:refs/heads/prod
 ! [remote rejected] prod^{tree} -> prod ('prod^{tree}' is a tree; only a commit can be deployed)
prod:refs/heads/-x
 ! [remote rejected] prod -> -x (invalid cluster name '-x': it may not begin with '.' or '-')
";

#[test]
fn an_unrelated_history_is_refused() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let deployed = Deployed::new(&sandbox);
        deployed.repo.git(&["checkout", "--quiet", "--orphan", "other"]).ok();
        deployed.repo.write("web1/web/file", "2\n");
        deployed.repo.commit("Another beginning");
        assert_eq!(deployed.refused(&["push", "web1", "other:prod"]), "non-fast-forward");
    }
}

#[test]
fn two_remotes_for_one_host_are_an_error() {
    let sandbox = Sandbox::new();
    let deployed = Deployed::new(&sandbox);
    deployed.repo.add_remote("again", &format!("deptool::{}", sandbox.root("web1").display()));
    deployed.repo.write("web1/web/file", "2\n");
    deployed.repo.commit("Two");
    let root = state_of(&sandbox.root("web1"));
    for args in [&["push", "web1", "prod"][..], &["push", "again", "prod"], &["fetch", "web1"], &["ls-remote", "again"]]
    {
        let run = deployed.repo.git(args).fails();
        run.says("remotes 'again' and 'web1' are both for host 'web1'; remove one of them");
        unchanged(&state_of(&sandbox.root("web1")), &root);
    }
}

#[test]
fn a_host_that_is_deployed_from_another_directory_is_refused() {
    let sandbox = Sandbox::new();
    let deployed = Deployed::new(&sandbox);
    deployed.repo.git(&["config", "remote.web1.deptoolHost", "web9"]).ok();
    deployed.repo.write("web9/web/file", "2\n");
    deployed.repo.commit("Two");
    let why = deployed.refused(&["push", "web1", "prod"]);
    let expected = "the host is deployed from directory 'web1', not 'web9'; if 'web9' is its new name, remove 'web1' from \
                    the tree";
    assert_eq!(why, expected);
    let run = deployed.repo.git(&["fetch", "web1"]).fails();
    run.says("the host is deployed from directory 'web1', not 'web9'; set remote.<name>.deptoolHost to 'web1'");
}

#[test]
fn a_repository_of_sha_256_is_refused() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let root = sandbox.root("web1");
        sandbox.command("git").args(["init", "-q", "-b", "prod", "--object-format=sha256", "op"]).run().unwrap().ok();
        let repo = sandbox.repo_at(sandbox.dir().join("op"));
        repo.write("web1/web/file", "1\n");
        repo.commit("One");
        repo.add_root("web1");
        let url = format!("deptool::{}", root.display());
        for args in [
            &["push", "web1", "prod"][..],
            &["push", "--dry-run", "web1", "prod"],
            &["push", &url, "prod"],
            &["fetch", "web1"],
            &["fetch", &url],
            &["ls-remote", "web1"],
            &["deptool", "plan"],
            &["deptool", "deploy"],
            &["deptool", "status"],
            &["deptool", "snapshot", "web1"],
        ] {
            let run = repo.git(args).fails();
            let said = run.stderr();
            let ours: Vec<&str> = said.lines().filter(|line| line.contains("SHA-256")).collect();
            let manner = if args[0] == "deptool" { "error" } else { "fatal" };
            assert_eq!(ours, [format!("{manner}: repositories with SHA-256 object ids are not supported")], "{run}");
            assert!(args[0] != "deptool" || said.lines().count() == 1, "{run}");
        }
        assert_eq!(state_of(&root).len(), 1, "nothing was made");
    }
}

#[test]
fn a_conflict_with_what_is_on_the_host_changes_nothing() {
    let sandbox = Sandbox::new();
    let deployed = Deployed::new(&sandbox);
    let root = sandbox.root("web1");
    std::fs::create_dir_all(root.join("etc/dir")).unwrap();
    std::fs::write(root.join("etc/taken"), "somebody else's").unwrap();
    let links = r#"{"symlinks": {"/etc/taken": "file", "/etc/dir": "file", "/etc/free/x": "file"}}"#;
    deployed.repo.write("web1/web/manifest.json", links);
    deployed.repo.commit("Two");
    let before = visible(&root);
    let run = deployed.repo.git(&["push", "web1", "prod"]).code(1);
    let expected = "'/etc/dir' is a directory on the host: remove it there; \
                    '/etc/taken' exists and differs from 'web/file': make the two equal, or take it over with '-o take-over'";
    assert_eq!(why(&run), expected);
    unchanged(&visible(&root), &before);
    assert_eq!(deployed.repo.id("web1/prod"), deployed.commit);
    at_rest(&sandbox, "web1", Some(&deployed.commit));
}

#[test]
fn a_first_push_that_is_refused_leaves_no_deployment_behind() {
    let sandbox = Sandbox::new();
    let root = sandbox.root("web1");
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(root.join("etc/taken"), "somebody else's").unwrap();
    let repo = sandbox.repo("operator");
    repo.add_root("web1");
    repo.write("web1/web/file", "1\n");
    repo.write("web1/web/manifest.json", r#"{"symlinks": {"/etc/taken": "file"}}"#);
    repo.commit("One");
    let before = visible(&root);
    repo.git(&["push", "web1", "prod"]).code(1).says("'/etc/taken' exists and differs");
    unchanged(&visible(&root), &before);
    at_rest(&sandbox, "web1", None);
    assert_eq!(repo.id_if_any("refs/remotes/web1/prod"), None);
}

#[test]
fn an_option_that_does_not_exist_is_refused() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let deployed = Deployed::new(&sandbox);
        deployed.repo.write("web1/web/file", "2\n");
        deployed.repo.commit("Two");
        assert_eq!(deployed.refused(&["push", "-o", "chekc", "web1", "prod"]), "unknown push option 'chekc'");
        assert_eq!(deployed.refused(&["push", "--signed", "web1", "prod"]), "signed pushes are not supported");
    }
}

#[test]
fn addresses_that_name_no_host_are_refused() {
    let sandbox = Sandbox::new();
    let deployed = Deployed::new(&sandbox);
    let mut seen = String::new();
    for url in
        ["deptool::", "deptool::@nobody", "deptool::-oProxyCommand=x", "deptool::all", "deptool::a b", "deptool::/"]
    {
        let run = deployed.repo.git(&["push", url, "prod"]).fails();
        writeln!(seen, "{url}\n    {}", shown(&sandbox, &run, &[]).lines().next().unwrap_or_default()).unwrap();
    }
    crate::seen::same(&seen, ADDRESSES);
}

const ADDRESSES: &str = "\
deptool::
    fatal: invalid address '': it is empty
deptool::@nobody
    fatal: there is no group 'nobody'; set deptool.group.nobody to the names of its hosts, or add it to 'groups' in cluster.json
deptool::-oProxyCommand=x
    fatal: invalid address '-oProxyCommand=x': invalid host name '-oProxyCommand=x': \
only letters, digits, '.', '-' and '_' are allowed
deptool::all
    fatal: a host can't be named 'all'
deptool::a b
    fatal: invalid address 'a b': invalid host name 'a b': only letters, digits, '.', '-' and '_' are allowed
deptool::/
    fatal: '/' can't be the name of a directory; set remote.<name>.deptoolHost to the host's directory
";

#[test]
fn an_impossible_root_is_refused() {
    let sandbox = Sandbox::new();
    let repo = sandbox.repo("operator");
    repo.write("web1/web/file", "1\n");
    repo.commit("One");
    std::fs::write(sandbox.dir().join("roots/web1"), "a file").unwrap();
    let url = format!("deptool::{}/roots/web1", sandbox.dir().display());
    let refused =
        |url: &str| why(&repo.git(&["push", url, "prod"]).code(1)).replace(&sandbox.dir().display().to_string(), "DIR");
    assert_eq!(refused(&url), "can't use the root directory 'DIR/roots/web1': not a directory");
    let url = format!("deptool::{}/roots/none/web1", sandbox.dir().display());
    assert_eq!(refused(&url), "can't use the root directory 'DIR/roots/none/web1': No such file or directory");
}
