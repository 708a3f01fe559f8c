//! `git deptool snapshot`: what it commits, on which parents, and what it leaves alone.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use deptool_tests::process::{Run, poll};
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::seen::state_of;

/// A repository with the cluster `prod` and another branch checked out, and a rendered directory next to it.
fn begin(sandbox: &Sandbox) -> (Repo<'_>, Repo<'_>) {
    let repo = sandbox.repo("operator");
    repo.git(&["deptool", "init", "prod"]).ok();
    repo.write("template", "1");
    repo.git(&["checkout", "-q", "--orphan", "main"]).ok();
    repo.commit("Sources");
    let rendered = sandbox.repo_at(sandbox.dir().join("rendered"));
    rendered.write("web1/app/file", "1");
    (repo, rendered)
}

#[track_caller]
fn snapshot(repo: &Repo<'_>, args: &[&str]) -> Run {
    repo.git(&[&["deptool", "snapshot"], args, &["../rendered"]].concat())
}

fn json(run: &Run) -> serde_json::Value {
    serde_json::from_slice(&run.stdout).unwrap()
}

#[test]
fn a_directory_is_committed_as_it_is_and_nothing_else_is_touched() {
    let sandbox = Sandbox::new();
    let (repo, rendered) = begin(&sandbox);
    rendered.write("web1/app/run", "#!/bin/sh\n");
    fs::set_permissions(rendered.dir.join("web1/app/run"), PermissionsExt::from_mode(0o755)).unwrap();
    symlink("file", rendered.dir.join("web1/app/link")).unwrap();
    rendered.write("web1/app/.gitattributes", "* text eol=lf ident\n");
    rendered.write("web1/app/.gitignore", "*\n");
    rendered.write("web1/app/crlf", "a\r\n$Id$\r\n");
    rendered.write("web2/app/file", "2");
    rendered.write("README", "at the top");
    fs::create_dir_all(rendered.dir.join("web1/app/empty")).unwrap();
    fs::create_dir_all(rendered.dir.join(".git/objects")).unwrap();
    repo.git(&["config", "core.autocrlf", "true"]).ok();
    let index = || fs::read(repo.dir.join(".git/index")).unwrap();
    let (before, files) = (index(), state_of(&rendered.dir));

    let source = repo.id("HEAD");
    let said = snapshot(&repo, &[]).ok();
    said.clone().prints("    + web1\n    + web2\n").prints("8 files from");
    assert_eq!((index(), state_of(&rendered.dir)), (before, files));
    assert_eq!(repo.git(&["status", "--porcelain"]).ok().line(), "");

    // Git makes the same tree of it.
    let git = |args: &[&str]| {
        let command = sandbox.command("git").dir(&rendered.dir).env("GIT_DIR", repo.dir.join(".git"));
        let command =
            command.env("GIT_WORK_TREE", &rendered.dir).env("GIT_INDEX_FILE", sandbox.dir().join("tmp/index"));
        command
            .args(["-c", "core.autocrlf=false", "-c", "core.attributesFile=/dev/null"])
            .args(args)
            .run()
            .unwrap()
            .ok()
    };
    fs::remove_dir_all(rendered.dir.join(".git")).unwrap();
    fs::write(repo.dir.join(".git/info/attributes"), "* -text -ident -eol\n").unwrap();
    git(&["add", "--all", "--force"]);
    assert_eq!(repo.id("prod^{tree}"), git(&["write-tree"]).line());
    assert_eq!(repo.git(&["cat-file", "blob", "prod:web1/app/crlf"]).stdout, b"a\r\n$Id$\r\n");

    let message = repo.git(&["log", "-1", "--format=%s|%(trailers:key=Source,valueonly)", "prod"]).ok().line();
    assert_eq!(message, format!("Snapshot of {}: Sources|{source}", &source[..10]));
    assert!(repo.git(&["reflog", "prod"]).ok().stdout().contains("snapshot: Snapshot of"));
    repo.git(&["fsck", "--strict"]).ok();
}

#[test]
fn what_has_not_changed_is_not_committed_and_what_has_is_found() {
    let sandbox = Sandbox::new();
    let (repo, rendered) = begin(&sandbox);
    rendered.write("web2/app/file", "1");
    snapshot(&repo, &[]).ok();
    let first = repo.id("prod");
    let again = snapshot(&repo, &["--json"]).ok();
    assert_eq!(json(&again)["result"], "unchanged");
    assert_eq!(json(&again)["commit"], first.as_str());
    assert_eq!(repo.id("prod"), first);

    // The same length within the same clock tick, repeatedly; the next snapshot may be in another second.
    for content in ["2", "3", "4", "5"] {
        rendered.write("web1/app/file", content);
        if content == "3" {
            let second = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            let now = second();
            poll("the next second", Duration::from_secs(30), || (second() > now).then_some(())).unwrap();
        }
        let changed = json(&snapshot(&repo, &["--json", "-m", content]).ok());
        assert_eq!(
            (&changed["result"], &changed["hosts"]),
            (&"committed".into(), &serde_json::json!({"web1": "changed"}))
        );
        assert_eq!(repo.git(&["cat-file", "blob", "prod:web1/app/file"]).line(), content);
    }
    fs::set_permissions(rendered.dir.join("web1/app/file"), PermissionsExt::from_mode(0o755)).unwrap();
    rendered.remove("web2");
    snapshot(&repo, &["-m", "Mode"]).ok().prints("    - web2\n").prints("    ~ web1\n");
    assert!(repo.git(&["ls-tree", "-r", "prod"]).line().starts_with("100755 blob"));
    fs::remove_file(rendered.dir.join("web1/app/file")).unwrap();
    symlink("5", rendered.dir.join("web1/app/file")).unwrap();
    snapshot(&repo, &["-m", "Link"]).ok();
    assert!(repo.git(&["ls-tree", "-r", "prod"]).line().starts_with("120000 blob"));
}

#[test]
fn a_dry_run_writes_nothing_and_a_lost_or_broken_cache_or_blob_costs_only_time() {
    let sandbox = Sandbox::new();
    let (repo, rendered) = begin(&sandbox);
    // An object that exists already gets a new time, so that `git gc` does not delete it meanwhile.
    let without_time = |line: String| line.split(['(', ')']).step_by(2).collect::<String>();
    let objects = || state_of(&repo.dir.join(".git/objects")).into_iter().map(without_time).collect::<Vec<_>>();
    let before = objects();
    let dry = json(&snapshot(&repo, &["-n", "--json"]).ok());
    assert_eq!((&dry["result"], &dry["commit"]), (&"dry-run".into(), &serde_json::Value::Null));
    assert_eq!(objects(), before);
    assert_eq!(repo.id_if_any("prod"), None);
    snapshot(&repo, &[]).ok();
    let tree = repo.id("prod^{tree}");
    assert_eq!(dry["tree"], tree.as_str());

    let cache = repo.dir.join(".git/deptool/snapshot");
    let files: Vec<_> = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    // The cache is an index that Git can read.
    let listed = repo.command(&["ls-files", "--stage"]).env("GIT_INDEX_FILE", file).run().unwrap().ok();
    assert_eq!(listed.line(), format!("100644 {} 0\tweb1/app/file", repo.id("prod:web1/app/file")));
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(file, bytes).unwrap();
    snapshot(&repo, &[]).ok().prints("nothing has changed");

    // Everything of the branch is lost except the cache, which then contains ids of missing blobs.
    repo.git(&["update-ref", "-d", "refs/heads/prod"]).ok();
    repo.git(&["reflog", "expire", "--expire=all", "--all"]).ok();
    repo.git(&["gc", "-q", "--prune=now"]).ok();
    rendered.write("web1/app/other", "2");
    snapshot(&repo, &[]).ok();
    repo.git(&["fsck", "--full"]).ok();
    assert_eq!(repo.git(&["cat-file", "blob", "prod:web1/app/file"]).ok().line(), "1");
}

#[test]
fn directories_that_are_rendered_once_do_not_fill_the_disk() {
    let sandbox = Sandbox::new();
    let (repo, _) = begin(&sandbox);
    for n in 0..7 {
        let dir = sandbox.repo_at(sandbox.dir().join(format!("rendered{n}")));
        dir.write("web1/app/file", n.to_string());
        repo.git(&["deptool", "snapshot", &format!("../rendered{n}")]).ok();
    }
    assert_eq!(fs::read_dir(repo.dir.join(".git/deptool/snapshot")).unwrap().count(), 4);
}

#[test]
fn a_snapshot_is_a_fast_forward_of_what_every_host_runs() {
    let sandbox = Sandbox::new();
    let (repo, rendered) = begin(&sandbox);
    rendered.write("web2/app/file", "1");
    snapshot(&repo, &[]).ok();
    for host in ["web1", "web2"] {
        repo.add_root(host);
    }
    repo.git(&["push", "-q", "cluster"]).ok();

    // Another operator deploys to web2 from a clone, unknown to the branch here.
    let other = sandbox.clone_of(&repo, "other");
    other.git(&["checkout", "-q", "prod"]).ok();
    other.add_root("web2");
    other.git(&["fetch", "-q", "web2"]).ok();
    other.write("web2/app/file", "other");
    let theirs = other.commit("Theirs");
    other.git(&["push", "-q", "web2", "prod"]).ok();
    repo.git(&["fetch", "-q", "origin"]).code(128);
    repo.git(&["fetch", "-q", "../other", "prod"]).ok();
    repo.git(&["fetch", "-q", "cluster"]).ok();
    assert_eq!(repo.id("web2/prod"), theirs);

    let tip = repo.id("prod");
    let same = json(&snapshot(&repo, &["--json"]).ok());
    assert_eq!(same["result"], "committed", "no file has changed, but web2 runs something else");
    assert_eq!(same["parents"], serde_json::json!([tip, theirs]));
    snapshot(&repo, &[]).ok().prints("nothing has changed");
    repo.git(&["push", "cluster"]).ok();
    assert_eq!(sandbox.read("web2", "/var/lib/deptool/apps/app/current/file"), b"1");
}

#[test]
fn names_that_hosts_would_refuse_are_refused() {
    let sandbox = Sandbox::new();
    let (repo, rendered) = begin(&sandbox);
    let bad = |path: &str, error: &str| {
        rendered.write(path, "");
        let refused = snapshot(&repo, &[]).code(1).says(error);
        assert_eq!(refused.stderr().lines().count(), 1, "{refused}");
        rendered.remove(path.split('/').next().unwrap());
    };
    bad("a b/app/file", "error: 'a b' can't be deployed: invalid host name 'a b': only letters");
    bad("all/app/file", "error: 'all' can't be deployed: the name stands for all hosts");
    bad(
        "web2/current/file",
        "error: 'web2/current' can't be deployed: invalid app name 'current': the name is reserved",
    );
    bad("web2/app/.git/config", "error: 'web2/app/.git' can't be deployed: '.git' is not allowed");
    bad("web2/app/a\nb", "error: 'web2/app/a\\nb' can't be deployed: control characters are not allowed");
    let name = std::ffi::OsStr::from_bytes(b"web2/\xff/file");
    rendered.write(name, "");
    snapshot(&repo, &[]).code(1).says("'web2/\\xff' can't be deployed: invalid app name");
    rendered.remove("web2");
    assert_eq!(repo.id_if_any("prod"), None);

    snapshot(&repo, &["-q"]).ok();
    rendered.remove("web1");
    snapshot(&repo, &[]).code(1).says("there is nothing in '../rendered'");
    repo.git(&["deptool", "snapshot", "none"]).code(1).says("could not read 'none'");
    repo.git(&["config", "--unset", "deptool.cluster"]).ok();
    snapshot(&repo, &[]).code(1).says("run 'git deptool init'");
}
