//! What people have in their Git configuration, and clones as CI makes them: none of it makes a deployment fail, lie, or
//! cost anything that was there.

use std::{fs, time::Duration};

use deptool_tests::is_quick;
use deptool_tests::process::{Signal, poll};
use deptool_tests::sandbox::{Repo, Sandbox, gits};

const FILE: &str = "/var/lib/deptool/apps/app/current/file";

/// A repository with one commit for web1, which is a local root, set up by our own commands.
fn begin<'a>(sandbox: &'a Sandbox, host: &str) -> Repo<'a> {
    let repo = sandbox.repo("operator");
    repo.write(format!("{host}/app/file"), "1");
    repo.commit("One");
    repo.git(&["deptool", "init"]).ok();
    let url = format!("deptool::{}", sandbox.root(host).display());
    repo.git(&["deptool", "add-host", "--url", &url, host]).ok();
    repo
}

#[test]
fn force_if_includes_pushes_and_deploys() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let repo = begin(&sandbox, "web1");
        repo.git(&["config", "push.useForceIfIncludes", "true"]).ok();
        repo.git(&["push", "web1", "prod"]).ok();
        repo.write("web1/app/file", "2");
        repo.commit("Two");
        repo.git(&["deptool", "deploy", "--yes"]).ok();
        assert_eq!(sandbox.read("web1", FILE), b"2");
        repo.git(&["push", "--force", "web1", "prod~1:prod"]).ok();
    }
}

#[test]
fn pruning_tags_leaves_those_of_the_repository() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let repo = begin(&sandbox, "web1");
        // Remotes that were added without add-host.
        repo.add_root("web2");
        for (key, value) in [("fetch.prune", "true"), ("fetch.pruneTags", "true")] {
            repo.git(&["config", key, value]).ok();
        }
        repo.git(&["tag", "light"]).ok();
        repo.git(&["tag", "-a", "-m", "Release", "v1"]).ok();
        repo.git(&["push", "web1", "prod"]).ok();
        let fetches: [&[&str]; 6] = [
            &["fetch", "web1"],
            &["fetch", "web2"],
            &["fetch", "--all"],
            &["fetch", "cluster"],
            &["fetch", "--prune", "--prune-tags", "web1"],
            &["remote", "update", "--prune"],
        ];
        for fetch in fetches {
            repo.git(fetch).ok();
            assert_eq!(repo.git(&["tag"]).ok().stdout(), "light\nv1\n", "after {fetch:?}");
        }
        assert_eq!(repo.id("refs/remotes/web1/prod"), repo.id("prod"));
    }
}

/// A clone with that filter of a repository with three commits, in which nothing was read yet.
fn partial_clone<'a>(sandbox: &'a Sandbox, repo: &Repo<'_>, filter: &str, more: &[&str]) -> Repo<'a> {
    for (key, value) in [("uploadpack.allowFilter", "true"), ("uploadpack.allowAnySHA1InWant", "true")] {
        repo.git(&["config", key, value]).ok();
    }
    let (url, dir) = (format!("file://{}", repo.dir.display()), sandbox.dir().join("clone"));
    let clone = sandbox.command("git").args(["clone", "--quiet", "--filter", filter]).args(more).arg(url).arg(&dir);
    clone.run().unwrap().ok();
    sandbox.repo_at(dir)
}

#[test]
fn what_a_partial_clone_lacks_is_fetched_from_its_promisor() {
    if is_quick() {
        return;
    }
    for (filter, more) in [
        ("blob:none", &[][..]),
        ("blob:none", &["--no-checkout"]),
        ("blob:none", &["--sparse"]),
        ("tree:0", &["--no-checkout"]),
        ("blob:limit=1", &["--no-checkout", "--depth", "3"]),
    ] {
        let sandbox = Sandbox::new();
        let repo = sandbox.repo("operator");
        repo.write("web1/app/same", "the same in all commits");
        repo.write("web1/app/manifest.json", r#"{"symlinks": {"/etc/app": "file"}}"#);
        repo.write("web1/app/systemd/app.service.d/x.conf", "[Service]\n");
        for text in ["one", "two", "three"] {
            repo.write("web1/app/file", text);
            repo.write("web2/app/secret", text);
            repo.commit(text);
        }
        let clone = partial_clone(&sandbox, &repo, filter, more);
        clone.add_root("web1");
        let what = format!("{filter} {more:?}");
        clone.git(&["push", "--dry-run", "web1", "HEAD:prod"]).ok();
        clone.git(&["push", "web1", "HEAD~1:prod"]).ok();
        assert_eq!(sandbox.read("web1", FILE), b"two", "{what}");
        clone.git(&["push", "web1", "HEAD:prod"]).ok();
        clone.git(&["push", "--force", "web1", "HEAD~2:prod"]).ok();
        assert_eq!(sandbox.read("web1", FILE), b"one", "{what}");
        clone.git(&["deptool", "plan", "-p", "HEAD:prod"]).ok().prints("+three");
        clone.git(&["fetch", "web1"]).ok();
        clone.git(&["fsck", "--connectivity-only"]).ok();
    }
}

/// A repository with one commit, and a clone of it that lacks all files. The clone has a remote for `web1`.
fn without_files(sandbox: &Sandbox) -> (Repo<'_>, Repo<'_>) {
    let repo = sandbox.repo("operator");
    repo.write("web1/app/file", "1");
    repo.commit("One");
    let clone = partial_clone(sandbox, &repo, "blob:none", &["--no-checkout"]);
    clone.add_root("web1");
    (repo, clone)
}

#[test]
fn a_promisor_that_is_gone_is_named() {
    let sandbox = Sandbox::new();
    let (repo, clone) = without_files(&sandbox);
    fs::rename(&repo.dir, sandbox.dir().join("gone")).unwrap();
    let run = clone.git(&["push", "web1", "prod"]).code(1);
    run.says("could not fetch what this partial clone lacks from 'origin'");
    assert!(!sandbox.exists("web1", "/var/lib/deptool/apps/app"));
}

#[test]
fn a_promisor_that_is_silent_does_not_hold_a_push_that_is_interrupted() {
    let sandbox = Sandbox::new();
    let (_, clone) = without_files(&sandbox);
    clone.git(&["config", "remote.origin.url", "ssh://silent/repository"]).ok();
    let begun = sandbox.dir().join("begun");
    let ssh = format!("touch '{}'; sleep 1000 #", begun.display());
    let push = clone.command(&["push", "web1", "prod"]).env("GIT_SSH_COMMAND", ssh);
    let going = push.timeout(Duration::from_secs(60)).start().unwrap();
    poll("the promisor is asked", Duration::from_secs(60), || begun.exists().then_some(())).unwrap();
    // Its output ends with the last process that could write to it.
    going.signal(Signal::TERM).unwrap();
    assert!(!going.wait().unwrap().success());
    assert!(!sandbox.exists("web1", "/var/lib/deptool/apps/app"));
}

#[test]
fn settings_on_the_command_line_hold_when_other_remotes_are_asked() {
    let sandbox = Sandbox::new();
    let shared = sandbox.repo("shared");
    shared.write("web1/app/file", "1");
    shared.commit("One");
    let ada = sandbox.clone_of(&shared, "ada");
    let ben = sandbox.clone_of(&shared, "ben");
    for operator in [&ada, &ben] {
        operator.add_root("web1");
    }
    ben.write("web1/app/file", "2");
    let two = ben.commit("Two");
    ben.git(&["push", "web1", "prod"]).ok();
    ben.git(&["push", "origin", "prod:topic"]).ok();
    // Where the shared repository really is, only the command line says.
    ada.git(&["remote", "set-url", "origin", "moved:/shared"]).ok();
    let rewrite = format!("url.{}.insteadOf", shared.dir.display());
    let setting = format!("{rewrite}=moved:/shared");
    ada.git(&["-c", &setting, "fetch", "web1"]).ok().says("was fetched from 'origin'");
    assert_eq!(ada.id("refs/remotes/web1/prod"), two);

    let eve = sandbox.clone_of(&shared, "eve");
    eve.add_root("web1");
    eve.git(&["remote", "set-url", "origin", "moved:/shared"]).ok();
    eve.git(&["update-ref", "-d", "refs/remotes/origin/topic"]).ok();
    eve.git(&["repack", "-q", "-a", "-d"]).ok();
    eve.git(&["prune", "--expire=now"]).ok();
    let fetch = eve.command(&["fetch", "web1"]).env("GIT_CONFIG_COUNT", "1");
    fetch.env("GIT_CONFIG_KEY_0", &rewrite).env("GIT_CONFIG_VALUE_0", "moved:/shared").run().unwrap().ok();
    assert_eq!(eve.id("refs/remotes/web1/prod"), two, "not a projection");
}

#[test]
fn a_ref_that_can_not_be_read_is_nobodys_trouble_but_its_own() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox, "web1");
    repo.git(&["push", "web1", "prod"]).ok();
    let one = repo.id("prod");
    let break_ref = |name: &str| {
        let file = repo.dir.join(".git").join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "").unwrap();
    };
    break_ref("refs/heads/topic");
    break_ref("refs/tags/broken");
    repo.write("web1/app/file", "2");
    let two = repo.commit("Two");
    repo.git(&["push", "web1", "prod"]).ok();
    repo.git(&["deptool", "status", "--exit-code"]).ok();
    for name in ["refs/heads/topic", "refs/tags/broken"] {
        // Git itself does not fetch beside such a one.
        fs::remove_file(repo.dir.join(".git").join(name)).unwrap();
    }
    // Its own is written anew.
    break_ref("refs/remotes/web1/prod");
    repo.git(&["fetch", "web1"]).ok();
    assert_eq!(repo.id("refs/remotes/web1/prod"), two);
    // A mark that can't be read is a mark.
    break_ref("refs/deptool/unsettled/web1/prod");
    repo.git(&["deptool", "status"]).ok().prints("in doubt");
    repo.git(&["push", "--force", "web1", "prod~1:prod"]).ok();
    assert_eq!(repo.id("refs/remotes/web1/prod"), one);
    assert!(!repo.dir.join(".git/refs/deptool/unsettled/web1/prod").exists());
}

#[test]
fn nothing_fails_beside_another_git_that_packs_refs_and_objects() {
    if is_quick() {
        return;
    }
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox, "web1");
    for number in 0..20 {
        repo.git(&["tag", &format!("v{number}")]).ok();
    }
    // Before the other one begins: beside a repack, Git's own commit fails now and then.
    let commits: Vec<String> = (0..15)
        .map(|number: u8| {
            repo.write("web1/app/file", number.to_string());
            repo.commit("Next")
        })
        .collect();
    let script = "while test ! -e stop; do git pack-refs --all --prune; git repack -q -a -d; \
                  git update-ref refs/heads/x/y/z HEAD; git update-ref -d refs/heads/x/y/z; done";
    let packing = sandbox.command("sh").dir(&repo.dir).args(["-c", script]).start().unwrap();
    for commit in commits {
        repo.git(&["push", "web1", &format!("{commit}:refs/heads/prod")]).ok();
        repo.git(&["fetch", "web1"]).ok();
        repo.git(&["deptool", "status"]).ok().prints(&commit[..10]);
    }
    fs::write(repo.dir.join("stop"), "").unwrap();
    packing.wait().unwrap();
}

#[test]
fn a_removal_that_nobody_typed_is_refused() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let repo = begin(&sandbox, "web1");
        repo.git(&["push", "web1", "prod"]).ok();
        // As in CI: no branch, or another one.
        let clone = sandbox.clone_of(&repo, "clone");
        clone.add_root("web1");
        clone.git(&["fetch", "web1"]).ok();
        clone.git(&["checkout", "--quiet", "--detach"]).ok();
        clone.git(&["branch", "--quiet", "-D", "prod"]).ok();
        let pushes: [&[&str]; 4] = [
            &["push", "--prune", "web1", "refs/heads/*:refs/heads/*"],
            &["push", "--mirror", "web1"],
            &["push", "--force", "--prune", "web1", "+refs/heads/*:refs/heads/*"],
            &["push", "web1", ":prod", "HEAD:refs/heads/other"],
        ];
        for push in pushes {
            clone.git(push).code(1);
            assert_eq!(sandbox.read("web1", FILE), b"1", "after {push:?}");
        }
        clone.git(&["branch", "other"]).ok();
        clone.git(&["push", "--all", "--prune", "web1"]).code(1).says("remove nothing from a host");
        assert_eq!(sandbox.read("web1", FILE), b"1");
        repo.git(&["push", "--prune", "web1", "refs/heads/*:refs/heads/*"]).ok();
        clone.git(&["push", "web1", ":prod"]).ok();
        assert!(!sandbox.exists("web1", FILE));
    }
}

#[test]
fn a_file_that_a_filter_has_replaced_is_not_deployed() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox, "web1");
    repo.git(&["push", "web1", "prod"]).ok();
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:abab\nsize 12345\n";
    for (content, what) in [
        (lfs.as_bytes(), "a Git LFS pointer"),
        (b"/annex/objects/SHA256E-s12--ab.bin\n", "a git-annex pointer"),
        (b"\0GITCRYPT\0\x01\x02", "encrypted by git-crypt"),
    ] {
        repo.write("web1/app/sub/big", content);
        repo.commit("Filtered");
        repo.git(&["push", "web1", "prod"]).code(1).says(&format!("'app/sub/big' is {what}"));
        repo.git(&["deptool", "plan"]).code(1).says(&format!("'app/sub/big' is {what}"));
        repo.git(&["reset", "--quiet", "--hard", "HEAD~1"]).ok();
    }
    assert!(!sandbox.exists("web1", "/var/lib/deptool/apps/app/current/sub"));
}

#[test]
fn who_deploys_is_one_line_and_never_unknown() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox, "web1");
    let push = |name: &str| {
        let push = repo.command(&["push", "--force", "web1", "HEAD:prod"]);
        push.env("GIT_COMMITTER_NAME", name).run().unwrap().ok();
        repo.git(&["deptool", "log", "-n", "1", "--json"]).ok().stdout()
    };
    let said = push("Ada\nOperator");
    assert!(said.contains("\"by\":\"AdaOperator <ada@example.org>\""), "{said}");
    repo.write("web1/app/file", "2");
    repo.commit("Two");
    // Without a configured identity, as in a hook on a server.
    fs::write(sandbox.home().join(".gitconfig"), "[user]\n\tuseConfigOnly = true\n[init]\n\tdefaultBranch = prod\n")
        .unwrap();
    repo.git(&["push", "web1", "prod"]).ok();
    let said = repo.git(&["deptool", "log", "-n", "1", "--json"]).ok().stdout();
    let login = sandbox.command("id").arg("-un").run().unwrap().line();
    assert!(said.contains(&format!("\"by\":\"{login} <{login}@")), "{said}");
}

#[test]
fn pull_brings_the_newest_of_what_the_hosts_run() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let repo = begin(&sandbox, "web1");
        let url = format!("deptool::{}", sandbox.root("web2").display());
        repo.git(&["deptool", "add-host", "--url", &url, "web2"]).ok();
        repo.write("web2/app/file", "1");
        repo.commit("Two");
        repo.git(&["push"]).ok();
        repo.git(&["pull", "--ff-only"]).ok();
        // Somebody else changes one host.
        let other = sandbox.clone_of(&repo, "other");
        other.add_root("web2");
        other.git(&["fetch", "web2"]).ok();
        other.write("web2/app/file", "3");
        let three = other.commit("Three");
        other.git(&["push", "web2", "prod"]).ok();
        repo.add_remote("other", &other.dir.display().to_string());
        repo.git(&["pull", "--ff-only"]).ok();
        assert_eq!(repo.id("prod"), three);
    }
}

#[test]
fn all_hosts_can_not_be_cloned_and_that_is_said() {
    let sandbox = Sandbox::new();
    let clone = |url: &str| sandbox.command("git").args(["clone", url, "clone"]).run().unwrap();
    clone("deptool::@all").code(128).says("clone one of them by name");
    let repo = begin(&sandbox, "web1");
    repo.git(&["tag", "v1"]).ok();
    repo.git(&["push", "web1", "prod"]).ok();
    clone(&format!("deptool::{}", sandbox.root("web1").display())).ok();
    assert!(sandbox.dir().join("clone/web1/app/file").exists());
}

/// An object that no Git of today would write.
fn raw(repo: &Repo<'_>, kind: &str, content: &[u8]) -> String {
    let hash = repo.command(&["hash-object", "-w", "-t", kind, "--literally", "--stdin"]);
    hash.input(content).run().unwrap().ok().line()
}

#[test]
fn what_a_push_accepts_a_later_fetch_brings_home() {
    let sandbox = Sandbox::new();
    let repo = begin(&sandbox, "web1");
    let (host, app) = (repo.id("prod:web1"), repo.id("prod:web1/app"));
    let entry = |mode: &str, name: &str, id: &str| {
        let id: Vec<u8> = (0..20).map(|at| u8::from_str_radix(&id[2 * at..2 * at + 2], 16).unwrap()).collect();
        [mode.as_bytes(), b" ", name.as_bytes(), b"\0", &id].concat()
    };
    let commit = |tree: &str, author: &str| {
        let content = format!("tree {tree}\nauthor {author}\ncommitter {author}\n\nOdd\0\n");
        raw(&repo, "commit", content.as_bytes())
    };
    let ada = "Ada <ada@example.org> 1700000000 +0000";
    let padded = raw(&repo, "tree", &entry("040000", "web1", &host));
    let tree = repo.id("prod^{tree}");
    for odd in [
        commit(&padded, ada),
        commit(&tree, "Ada <ada@example.org> 99999999999999999999 +0000"),
        commit(&tree, "Ada <ada@example.org> 1700000000 +51800"),
        commit(&tree, "Ada<ada@example.org> 01700000000 +0000"),
    ] {
        repo.git(&["push", "--force", "web1", &format!("{odd}:refs/heads/prod")]).ok();
        let other = sandbox.repo(&format!("other-{odd}"));
        other.add_root("web1");
        other.git(&["fetch", "web1"]).ok();
        assert_eq!(other.id("refs/remotes/web1/prod"), odd);
    }
    let before = repo.id("refs/remotes/web1/prod");
    for (root, why) in [
        ([entry("40000", "web1", &host), entry("40000", "a", &app)].concat(), "is not sorted"),
        ([entry("40000", "web1", &host), entry("40000", "web1", &host)].concat(), "has an entry twice"),
        ([entry("40000", ".git", &app), entry("40000", "web1", &host)].concat(), "has a name that Git does not allow"),
    ] {
        let odd = commit(&raw(&repo, "tree", &root), ada);
        repo.git(&["push", "--force", "web1", &format!("{odd}:refs/heads/prod")]).code(1).says(why);
    }
    assert_eq!(repo.id("refs/remotes/web1/prod"), before);
}
