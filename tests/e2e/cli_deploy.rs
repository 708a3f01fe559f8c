//! `git deptool plan`, `deploy` and `rollback`, and their output for scripts.

use deptool_tests::process::{Run, write_program};
use deptool_tests::sandbox::{Repo, Sandbox};
use serde_json::Value;

use crate::cluster::{change, cluster, deptool};

/// A commit that every host refuses.
fn break_manifest(repo: &Repo<'_>, host: &str) {
    repo.write(format!("{host}/app/manifest.json"), "{");
    repo.commit("Broken");
}

fn json(run: Run) -> Value {
    serde_json::from_str(&run.stdout()).unwrap_or_else(|error| panic!("{error}: {}", run.stdout()))
}

#[test]
fn a_plan_is_made_anywhere_in_the_repository_and_connects_to_nothing() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    repo.write("web1/app/sub/x", "");
    repo.commit("Two");
    let deep = sandbox.repo_at(repo.dir.join("web1/app/sub"));
    let plan = deptool(&deep, &["plan", "web1"]).ok().stdout();
    assert_eq!(plan, "web1\n    add app\n        + conf\n        + sub/x\n");
    assert!(!sandbox.exists("web1", "/var"), "nothing was connected to");
    deptool(&deep, &["plan", "--exit-code"]).code(2);
    deptool(&deep, &["deploy", "--yes"]).ok();
    assert_eq!(
        deptool(&deep, &["plan", "--exit-code"]).ok().stdout(),
        "everything is up to date, as far as this repository knows\n"
    );
}

#[test]
fn the_diff_of_a_plan_is_that_of_git_for_the_hosts_that_change() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    deptool(&repo, &["deploy", "--yes", "web1", "db1"]).ok();
    change(&repo, &["web1", "web2"], "two");
    let deep = sandbox.repo_at(repo.dir.join("db1/app"));
    let run = deptool(&deep, &["plan", "-p"]).ok();
    assert_eq!(run.stderr(), "");
    let patch = run.stdout();
    assert!(patch.contains("a/web1/app/conf b/web1/app/conf") && patch.contains("-one"), "{patch}");
    assert!(patch.contains("b/web2/app/conf\nnew file mode"), "{patch}");
    assert!(!patch.contains("a/db1"), "{patch}");
    let stat = deptool(&deep, &["plan", "--stat", "web1"]).ok().stdout();
    assert!(stat.contains(" web1/app/conf | 2 +-"), "{stat}");
}

#[test]
fn a_deployment_is_shown_and_told_for_each_host() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    let run = deptool(&repo, &["deploy", "--yes", "web1", "web2"]).ok();
    let shown = crate::seen::shown(&sandbox, &run, &[]);
    crate::seen::same(&shown, DEPLOYED);
    assert_eq!(sandbox.read("web2", "/var/lib/deptool/apps/app/current/conf"), b"one");
    assert!(!sandbox.exists("db1", "/var"), "it was not asked for");
    let again = deptool(&repo, &["deploy", "--yes", "web1", "web2"]).ok();
    assert_eq!(again.stdout(), "Everything is up to date.\n");
    let left = std::fs::read_dir(repo.dir.join(".git/deptool")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["hosts"], "no report is left");
}

const DEPLOYED: &str = "\
web1
    add app
        + conf
web2
    add app
        + conf

A host that fails is rolled back automatically.

  web1: done
  web2: done

Deployed to 2 hosts in N s.";

#[test]
fn without_a_terminal_and_without_yes_nothing_is_deployed() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    // A session of its own has no terminal.
    let run = sandbox.command("setsid").dir(&repo.dir).args(["--wait", "git", "deptool", "deploy"]).run().unwrap();
    run.code(8).says("there is no terminal to ask at; use --yes");
    assert!(!sandbox.exists("web1", "/var"));
}

/// Types at the terminal on which `git deptool deploy` asks. Returns the output.
fn typed(sandbox: &Sandbox, repo: &Repo<'_>, keys: &str) -> Run {
    let command = sandbox.command("script").dir(&repo.dir).env("GIT_PAGER", "cat").env("TERM", "dumb");
    let command = command.args(["--quiet", "--return", "--command", "git deptool deploy", "/dev/null"]);
    command.input(keys).run().unwrap()
}

#[test]
fn the_question_can_show_the_changes_and_be_declined_or_accepted() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    let run = typed(&sandbox, &repo, "d\nn\n").code(8);
    let seen = run.stdout();
    assert_eq!(seen.matches("Apply to 3 hosts in cluster 'prod'? [y/N/d]").count(), 2, "{seen}");
    assert!(seen.contains("+one") && seen.contains("Nothing was deployed."), "{seen}");
    assert!(!sandbox.exists("web1", "/var"));
    typed(&sandbox, &repo, "\n").code(8);
    let seen = typed(&sandbox, &repo, "y\n").ok().stdout();
    assert!(seen.contains("Deployed to 3 hosts in"), "{seen}");
    assert!(sandbox.exists("web1", "/var/lib/deptool/apps/app/current/conf"));
}

#[test]
fn exactly_the_accepted_plan_is_deployed_or_nothing() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    // A Git hook runs after the question: somebody else deploys, and this repository learns about it.
    let other = sandbox.clone_of(&repo, "other");
    other.git(&["remote", "add", "web1", &format!("deptool::{}", sandbox.root("web1").display())]).ok();
    repo.git(&["config", "alias.other", &format!("!git -C '{}' push -q web1 prod", other.dir.display())]).ok();
    let hook = repo.dir.join(".git/hooks/pre-push");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    write_program(&hook, "#!/bin/sh\nunset GIT_DIR\nrm \"$0\"\ngit other && git fetch -q web1\n").unwrap();
    deptool(&repo, &["deploy", "--yes"]).code(6).says("has changed since the plan was made; nothing was changed");
    assert!(!sandbox.exists("web2", "/var"), "nor on hosts of which nothing new is known");
    deptool(&repo, &["deploy", "--yes"]).ok().prints("Deployed to 2 hosts");
}

#[test]
fn json_and_the_exit_status_tell_scripts_the_outcome() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    let commit = repo.id("prod");
    let done = json(deptool(&repo, &["deploy", "--yes", "--json", "web1"]).ok());
    assert_eq!((&done["version"], &done["cluster"]), (&1.into(), &"prod".into()));
    assert_eq!((&done["hosts"][0]["outcome"], &done["hosts"][0]["to"]), (&"done".into(), &commit.into()));
    let nothing = json(deptool(&repo, &["deploy", "--yes", "--json", "web1"]).ok());
    assert_eq!(nothing["hosts"], serde_json::json!([]));
    // A host that can't exist.
    repo.git(&["remote", "set-url", "web2", "deptool::/proc/nowhere/web2"]).ok();
    let run = deptool(&repo, &["deploy", "--yes", "--json", "web1", "web2"]);
    assert!(!run.success());
    break_manifest(&repo, "db1");
    deptool(&repo, &["deploy", "--yes", "db1"]).code(1).says("db1: app/manifest.json");
    for option in ["--waves=0", "--waves=foo", "--confirm=soon", "--lock-wait=x"] {
        deptool(&repo, &["deploy", "--yes", "web1", option]).code(129).says("is written as");
    }
    deptool(&repo, &["deploy", "--nonsense"]).code(129);
    repo.git(&["deptool", "deploy", "--json"]).code(129);
}

#[test]
fn a_plan_as_json_has_all_that_would_happen() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    deptool(&repo, &["deploy", "--yes", "db1", "web1"]).ok();
    let before = repo.id("prod");
    repo.write("web1/app/manifest.json", r#"{"symlinks": {"/etc/web.conf": "conf"}}"#);
    repo.write("web2/app/manifest.json", "{");
    let commit = repo.commit("Two");
    let plan = json(deptool(&repo, &["plan", "--json"]).code(1));
    assert_eq!(plan["commit"], commit);
    let hosts = plan["hosts"].as_array().unwrap();
    let states: Vec<_> = hosts.iter().map(|host| host["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["up-to-date", "affected", "refused"]);
    let expected = serde_json::json!({
        "host": "web1", "state": "affected", "from": before, "in_doubt": false, "update": "fast-forward",
        "apps": [{"app": "app", "change": "update", "files": [{"path": "manifest.json", "change": "add"}]}],
        "paths": [{"path": "/etc/web.conf", "change": "add", "kind": "link", "app": "app", "file": "conf"}],
        "units": [], "checks": [], "health": [], "confirm": false, "notes": [],
    });
    assert_eq!(hosts[1], expected);
    assert!(hosts[2]["why"].as_str().unwrap().starts_with("app/manifest.json"), "{}", hosts[2]);
}

#[test]
fn a_plan_in_markdown_shows_hosts_that_change_alike_once_and_text_of_the_tree_only_as_code() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    deptool(&repo, &["deploy", "--yes"]).ok();
    for host in ["web1", "web2"] {
        repo.write(format!("{host}/app/conf"), "```\n# two\n");
    }
    repo.write("db1/app/manifest.json", "{");
    let commit = repo.commit("Mention @everyone and `code`");
    let text = deptool(&repo, &["plan", "--format=markdown"]).code(1).stdout();
    let digest = json(deptool(&repo, &["plan", "--json"]).code(1))["digest"].as_str().unwrap().to_owned();
    let shown = text.replace(&commit[..10], "COMMIT").replace(&digest, "DIGEST");
    crate::seen::same(&shown, MARKDOWN);
    // The plan of a merge has another commit and the same digest; that of other content has not.
    let plan_of =
        |refspec: &str| json(deptool(&repo, &["plan", "--json", "web1", "web2", refspec]).ok())["digest"].clone();
    let reviewed = plan_of("HEAD:prod");
    let merge = repo.git(&["commit-tree", "-p", "HEAD", "-m", "Merge", "HEAD^{tree}"]).ok().line();
    assert_eq!(plan_of(&format!("{merge}:prod")), reviewed);
    change(&repo, &["web2"], "three");
    assert_ne!(plan_of("HEAD:prod"), reviewed);
    let digest = format!("--digest={}", reviewed.as_str().unwrap());
    let deploy = ["deploy", "--yes", &digest, "web1", "web2"];
    deptool(&repo, &deploy).code(6).says("the plan is not the one of this digest");
    assert_eq!(sandbox.read("web1", "/var/lib/deptool/apps/app/current/conf"), b"one");
    deptool(&repo, &[&deploy[..], &[&format!("{merge}:prod")]].concat()).ok().prints("Deployed to 2 hosts");
}

const MARKDOWN: &str = "\
### Deploying `COMMIT` (`` Mention @everyone and `code` ``), cluster `prod`: 2 hosts change

<details><summary><b>web1, web2</b>: 1 app, 1 file</summary>

```text
    update app
        ~ conf
```

<details><summary>Changed lines of <code>web1</code></summary>

````diff
diff --git a/web1/app/conf b/web1/app/conf
index 43dd47e..87883ae 100644
--- a/web1/app/conf
+++ b/web1/app/conf
@@ -1 +1,2 @@
-one
\\ No newline at end of file
+```
+# two
````

</details>

</details>

**The deployment would fail on 1 host:**

```text
db1: app/manifest.json: EOF while parsing an object at line 1 column 1
```

To deploy exactly this: `git deptool deploy --digest=DIGEST`
";

#[test]
fn a_rollback_puts_back_what_ran_before() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    deptool(&repo, &["deploy", "--yes"]).ok();
    let one = repo.id("prod");
    change(&repo, &["web1", "web2"], "two");
    deptool(&repo, &["deploy", "--yes"]).ok();
    deptool(&repo, &["rollback", "--yes", "web1", "web2"]).ok().prints("Deployed to 2 hosts");
    assert_eq!(sandbox.read("web1", "/var/lib/deptool/apps/app/current/conf"), b"one");
    assert_eq!(repo.id("refs/remotes/web2/prod"), one);
    deptool(&repo, &["rollback", "--yes", "web1"]).code(1).says("nothing ran on 'web1' before");
    deptool(&repo, &["rollback", "--yes", "db1"]).code(1).says("nothing ran on 'db1' before");
    deptool(&repo, &["deploy", "--yes"]).ok().prints("  web2: done");
}

#[test]
fn all_or_none_is_refused_where_hosts_go_to_different_commits() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    deptool(&repo, &["deploy", "--yes"]).ok();
    for host in ["web1", "web2"] {
        change(&repo, &["web1", "web2"], host);
        deptool(&repo, &["deploy", "--yes", host]).ok();
    }
    change(&repo, &["web1", "web2"], "three");
    deptool(&repo, &["deploy", "--yes"]).ok();
    let run = deptool(&repo, &["rollback", "--yes", "--atomic", "web1", "web2"]).code(1);
    run.says("is possible with one commit only").says("add --no-atomic").says("error: nothing was deployed");
    for host in ["web1", "web2"] {
        assert_eq!(sandbox.read(host, "/var/lib/deptool/apps/app/current/conf"), b"three");
    }
    repo.write("cluster.json", r#"{"defaults": {"atomic": true}}"#);
    repo.commit("All or none");
    deptool(&repo, &["rollback", "--yes", "web1", "web2"]).code(1).says("is possible with one commit only");
    deptool(&repo, &["rollback", "--yes", "--no-atomic", "web1", "web2"]).ok().prints("Deployed to 2 hosts");
    assert_eq!(sandbox.read("web1", "/var/lib/deptool/apps/app/current/conf"), b"web1");
    assert_eq!(sandbox.read("web2", "/var/lib/deptool/apps/app/current/conf"), b"web2");
}

#[test]
fn the_commit_is_published_before_it_is_deployed_or_nothing_happens() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    sandbox.command("git").args(["init", "--quiet", "--bare", "shared"]).run().unwrap().ok();
    repo.add_remote("origin", &sandbox.dir().join("shared").display().to_string());
    repo.git(&["config", "deptool.publish", "origin"]).ok();
    deptool(&repo, &["deploy", "--yes", "web1"]).ok();
    let shared = sandbox.repo_at(sandbox.dir().join("shared"));
    assert_eq!(shared.id("refs/heads/prod"), repo.id("prod"));
    change(&repo, &["web1"], "two");
    repo.git(&["remote", "set-url", "origin", "/nowhere"]).ok();
    deptool(&repo, &["deploy", "--yes"]).code(1).says("could not push 'prod' to 'origin'; nothing was deployed");
    assert_eq!(sandbox.read("web1", "/var/lib/deptool/apps/app/current/conf"), b"one");
}
