//! What `git deptool` is told, and what it says: hosts and groups as arguments, going back, what is not the whole truth,
//! JSON on every path, and how it ends.

use deptool_tests::process::Run;
use deptool_tests::sandbox::Sandbox;
use deptool_tests::terminal::Terminal;
use serde_json::Value;

use crate::{
    cluster::{change, cluster, deptool},
    seen::{same, shown},
};

#[track_caller]
fn json(run: &Run) -> Value {
    let text = run.stdout();
    let document: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {run}"));
    assert_eq!(document["version"], 1, "{run}");
    document
}

fn conf(sandbox: &Sandbox, host: &str) -> Option<Vec<u8>> {
    let path = "/var/lib/deptool/apps/app/current/conf";
    sandbox.exists(host, path).then(|| sandbox.read(host, path))
}

/// The first lines of blocks: the hosts of a plan.
fn heads(run: &Run) -> Vec<String> {
    run.stdout().lines().filter(|line| !line.starts_with(' ')).map(str::to_owned).collect()
}

#[test]
fn hosts_and_groups_are_arguments_in_any_order() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    repo.git(&["branch", "staging"]).ok();
    let plan = |args: &[&str]| heads(&deptool(&repo, &[&["plan"], args].concat()).ok());
    assert_eq!(plan(&[]), ["db1", "web1", "web2"]);
    assert_eq!(plan(&["prod"]), ["db1", "web1", "web2"]);
    assert_eq!(plan(&["@all"]), ["db1", "web1", "web2"]);
    assert_eq!(plan(&["web1"]), ["web1"]);
    assert_eq!(plan(&["web2", "db1"]), ["web2", "db1"]);
    assert_eq!(plan(&["@web"]), ["web1", "web2"]);
    assert_eq!(plan(&["@web", "web1", "staging"]), ["web1", "web2"]);
    assert_eq!(plan(&["HEAD:prod", "web1"]), ["web1"]);
    assert_eq!(plan(&[":staging", "db1"]), ["db1"]);
    let error = |args: &[&str], code: i32, text: &str| {
        deptool(&repo, &[&["plan"], args].concat()).code(code).says(text);
    };
    error(&["web9"], 1, "the tree of 'prod' has no directory 'web9', and there is no branch 'web9'");
    error(&["@nobody"], 1, "there is no group 'nobody'");
    error(&["@a b"], 129, "can't be the name of a group");
    error(&["HEAD:prod", "HEAD:staging"], 129, "only one commit");
    error(&["prod", "staging"], 129, "only one cluster");
    error(&["--hosts", "web1"], 129, "--hosts");
    deptool(&repo, &["deploy", "--yes", "db1", "@web"]).ok().prints("Deployed to 3 hosts");
    assert_eq!(conf(&sandbox, "web2").unwrap(), b"one");
    // A name is a host before it is a branch.
    repo.git(&["branch", "web1"]).ok();
    change(&repo, &["web1", "web2"], "two");
    assert_eq!(plan(&["web1"]), ["web1"]);
}

#[test]
fn going_back_can_be_seen_first() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    deptool(&repo, &["deploy", "--yes"]).ok();
    change(&repo, &["web1"], "two");
    deptool(&repo, &["deploy", "--yes"]).ok();
    let spec = "prod~1:prod";
    deptool(&repo, &["plan", spec]).code(6).says("web1: the commit does not descend from what runs there");
    let plan = deptool(&repo, &["plan", "-f", "web1", spec]).ok();
    assert_eq!(plan.stdout(), "web1\n    update app\n        ~ conf\n");
    deptool(&repo, &["deploy", "--yes", spec]).code(6).says("nothing was deployed");
    let run = deptool(&repo, &["deploy", "--yes", "-f", "web1", spec]).ok();
    run.does_not_say("error").prints("Deployed to 1 host");
    assert_eq!(conf(&sandbox, "web1").unwrap(), b"one");
}

#[test]
fn a_rollback_says_where_it_goes_and_goes_further_back_each_time() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    for text in ["two", "three"] {
        deptool(&repo, &["deploy", "--yes", "web1"]).ok();
        change(&repo, &["web1"], text);
    }
    let two = repo.id("prod~1");
    deptool(&repo, &["deploy", "--yes", "web1"]).ok();
    let mut terminal = Terminal::start(repo.command(&["deptool", "rollback", "web1"])).unwrap();
    terminal.wait_for("[y/N/d] ").unwrap();
    let seen = terminal.text();
    let step = format!("(three) back to {} (two), deployed ", &two[..10]);
    assert!(seen.contains("web1: from ") && seen.contains(&step), "{seen}");
    terminal.type_in("y\n").unwrap();
    terminal.end().unwrap().ok();
    assert_eq!(conf(&sandbox, "web1").unwrap(), b"two");
    deptool(&repo, &["rollback", "--yes", "web1"]).ok();
    assert_eq!(conf(&sandbox, "web1").unwrap(), b"one");
    deptool(&repo, &["rollback", "--yes", "web1"]).code(1).says("nothing ran on 'web1' before");
    deptool(&repo, &["deploy", "--yes", "web1"]).ok();
    assert_eq!(conf(&sandbox, "web1").unwrap(), b"three");
}

#[test]
fn a_removal_can_be_undone() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    deptool(&repo, &["deploy", "--yes"]).ok();
    for host in ["web1", "web2"] {
        repo.git(&["push", host, ":prod"]).ok();
    }
    assert_eq!(conf(&sandbox, "web1"), None);
    deptool(&repo, &["rollback", "--yes", "@web"]).ok().prints("web1: from nothing back to ");
    assert_eq!(conf(&sandbox, "web2").unwrap(), b"one");
    assert_eq!(repo.id("refs/remotes/web1/prod"), repo.id("prod"));
}

#[test]
fn everything_is_up_to_date_is_said_only_if_it_is() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    deptool(&repo, &["deploy", "--yes"]).ok();
    let all = |text: &str| {
        let plan = deptool(&repo, &["plan"]).ok();
        assert_eq!(plan.stdout(), "nothing to deploy, as far as this repository knows\n");
        same(plan.stderr().trim_end(), &format!("note: {text}"));
        let deploy = deptool(&repo, &["deploy", "--yes"]).ok();
        assert_eq!(deploy.stdout(), "Nothing to deploy.\n");
        same(deploy.stderr().trim_end(), &format!("note: {text}"));
        let document = json(&deptool(&repo, &["deploy", "--yes", "--json"]).ok());
        assert_eq!(document["notes"], serde_json::json!([text]));
        assert_eq!(deptool(&repo, &["deploy", "--yes", "-q"]).ok().stderr(), "");
    };
    assert_eq!(deptool(&repo, &["deploy", "--yes"]).ok().stdout(), "Everything is up to date.\n");
    repo.write("web1/app/conf", "edited");
    all("the work tree has changes that are not committed");
    repo.git(&["checkout", "--quiet", "."]).ok();
    repo.write("web1/app/new", "untracked");
    all("the work tree has changes that are not committed");
    repo.remove("web1/app/new");
    repo.git(&["checkout", "--quiet", "-b", "topic"]).ok();
    all("branch 'topic' is checked out; this is about 'prod'");
    repo.git(&["checkout", "--quiet", "prod"]).ok();
    repo.write("a b/app/x", "");
    repo.write("README.md", "");
    repo.write(".hidden/x", "");
    repo.commit("Not a host's");
    all("directory 'a b' is ignored: its name is not valid for a host");
    repo.remove("a b");
    repo.remove("web2");
    repo.commit("One host less");
    all("web2 runs 'prod' but is not in the tree any more: nothing changes there; \
         'git push web2 :prod' removes everything from a host");
}

#[test]
fn a_member_of_a_group_that_is_not_in_the_tree_is_told_of_and_asked() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    deptool(&repo, &["deploy", "--yes"]).ok();
    repo.remove("web2");
    repo.commit("One host less");
    let note = "web2 runs 'prod' but is not in the tree any more";
    deptool(&repo, &["plan", "@web"]).ok().says(note).prints("nothing to deploy");
    deptool(&repo, &["deploy", "--yes", "@web"]).ok().says(note).prints("Nothing to deploy.");
    deptool(&repo, &["status", "--exit-code", "@web"]).code(2).prints("web2  not in the tree");
    deptool(&repo, &["verify", "@web"]).ok().prints("web2: as deployed");
    let file = sandbox.root("web2").join("var/lib/deptool/current/app/conf");
    std::fs::write(file, "edited").unwrap();
    deptool(&repo, &["verify", "@web"]).code(2);

    repo.git(&["config", "deptool.group.web", "web1 wbe2"]).ok();
    let mistake = "group 'web' has a host 'wbe2', which is not in the tree";
    for command in ["plan", "status", "verify", "deploy"] {
        deptool(&repo, &[command, "@web"]).code(1).says(mistake);
    }
    repo.git(&["push", "deptool::@web", "prod"]).code(1).says(mistake);
}

#[test]
fn what_was_never_asked_is_not_called_empty() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    deptool(&repo, &["deploy", "--yes"]).ok();
    let clone = sandbox.clone_of(&repo, "clone");
    for host in ["db1", "web1", "web2"] {
        clone.add_root(host);
    }
    deptool(&clone, &["status"]).ok().prints("web1  not asked yet");
    deptool(&clone, &["status", "--live"]).ok().prints("web1  changed meanwhile");
    clone.git(&["fetch", "--quiet", "web1"]).ok();
    deptool(&clone, &["status", "web1"]).ok().prints("web1  up to date");
}

#[test]
fn a_failure_that_was_made_good_is_forgotten() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    deptool(&repo, &["deploy", "--yes"]).ok();
    // The facts about a deployment that was rolled back.
    let facts = repo.dir.join(".git/deptool/hosts/web1");
    let mut document: Value = serde_json::from_slice(&std::fs::read(&facts).unwrap()).unwrap();
    let failed =
        serde_json::json!({"when": 1, "by": "Ben <ben@example.org>", "to": null, "why": "rolled back: x failed"});
    document["failed"] = failed;
    std::fs::write(&facts, document.to_string()).unwrap();
    change(&repo, &["web1"], "two");
    deptool(&repo, &["status"]).ok().prints("last attempt failed");
    repo.git(&["reset", "--quiet", "--hard", "HEAD~1"]).ok();
    let status = deptool(&repo, &["status", "--exit-code"]).ok().stdout();
    assert!(!status.contains("last attempt failed"), "{status}");
}

#[test]
fn the_plan_shows_what_watches_over_a_deployment() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    repo.write("web1/app/systemd/check.service", "[Service]\nType=oneshot\nExecStart=/bin/true\n");
    repo.write(
        "web1/app/manifest.json",
        r#"{"checks": ["check.service"], "health": [{"http": "http://127.0.0.1/", "within": "3s"}], "confirm": true}"#,
    );
    repo.commit("Watched");
    let plan = deptool(&repo, &["plan", "--waves=1,100%", "--confirm=9s", "web1", "db1"]).ok();
    same(plan.stdout().trim_end(), WATCHED);
    let document = json(&deptool(&repo, &["plan", "--json", "--waves=1,100%"]).ok());
    assert_eq!(document["waves"], serde_json::json!([["db1"], ["web1", "web2"]]));
    let web1 = &document["hosts"][1];
    assert_eq!((&web1["checks"], &web1["confirm"]), (&serde_json::json!(["check.service"]), &true.into()));
    assert_eq!(web1["health"], serde_json::json!(["http://127.0.0.1/ within 3 s"]));
}

const WATCHED: &str = "\
web1
    add app
        + conf
        + manifest.json
        + systemd/check.service
        install /etc/systemd/system/check.service
    check with check.service
    wait for http://127.0.0.1/ within 3 s
    roll back unless the host can be reached again
db1
    add app
        + conf
wave 1: web1 (1 host)
wave 2: db1 (1 host)
confirm: a host is rolled back unless it can be reached again within 9 s";

#[test]
fn json_is_there_on_every_path() {
    let sandbox = Sandbox::new();
    let repo = sandbox.repo("operator");
    repo.write("web1/app/conf", "one");
    repo.commit("One");
    let error = |args: &[&str], code: i32, text: &str| {
        let run = deptool(&repo, args).code(code);
        let document = json(&run);
        assert!(document["error"].as_str().is_some_and(|error| error.contains(text)), "{run}");
    };
    error(&["add-host", "--json", "web1"], 1, "run 'git deptool init'");
    error(&["init", "--json", "a..b"], 129, "invalid cluster name");
    json(&deptool(&repo, &["init", "--json"]).ok());
    let url = format!("deptool::{}", sandbox.root("web1").display());
    json(&deptool(&repo, &["add-host", "--json", "--url", &url, "web1"]).ok());
    json(&deptool(&repo, &["snapshot", "--json", "-n", "."]).ok());
    error(&["snapshot", "--json", "nowhere"], 1, "could not read 'nowhere'");
    for command in ["plan", "status", "verify", "log", "ping"] {
        error(&[command, "--json", "nobody"], 1, "no directory 'nobody'");
        error(&[command, "--json", "--nonsense"], 129, "--nonsense");
    }
    error(&["deploy", "--json"], 129, "--yes");
    error(&["deploy", "--json", "--yes", "--waves=foo"], 129, "--waves");
    error(&["rollback", "--json", "--yes", "web1"], 1, "nothing was ever deployed");
    let nothing = json(&deptool(&repo, &["repair", "--json", "--yes"]).ok());
    assert_eq!((&nothing["hosts"], nothing.get("error")), (&serde_json::json!([]), None));
    repo.write("web1/app/manifest.json", "{");
    repo.commit("Broken");
    let document = json(&deptool(&repo, &["deploy", "--json", "--yes"]).code(1));
    assert_eq!(document["hosts"][0]["outcome"], "refused");
    assert_eq!(document["error"], "nothing was deployed");
}

#[test]
fn nothing_is_published_before_the_options_are_checked() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    sandbox.command("git").args(["init", "--quiet", "--bare", "shared"]).run().unwrap().ok();
    repo.add_remote("origin", &sandbox.dir().join("shared").display().to_string());
    repo.git(&["config", "deptool.publish", "origin"]).ok();
    for bad in [&["--waves=foo"][..], &["--confirm=x"], &["--atomic", "--skip-unreachable"], &["web9"]] {
        deptool(&repo, &[&["deploy", "--yes"], bad].concat()).fails();
    }
    assert_eq!(sandbox.repo_at(sandbox.dir().join("shared")).id_if_any("refs/heads/prod"), None);
}

/// Says what ssh says.
const NO_ROUTE: &str = "sh -c 'echo ssh: connect to host web1 port 22: No route to host >&2; exit 255' ssh";

#[test]
fn the_worst_host_is_the_exit_status_and_quiet_is_quiet() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    assert_eq!(shown(&sandbox, &deptool(&repo, &["deploy", "--yes", "-q"]).ok(), &[]), "");
    std::fs::remove_file(sandbox.root("web2").join("var/lib/deptool/current")).unwrap();
    repo.git(&["remote", "set-url", "web1", "deptool::web1"]).ok();
    let with =
        |args: &[&str]| repo.command(&[&["deptool"], args].concat()).env("GIT_SSH_COMMAND", NO_ROUTE).run().unwrap();
    with(&["verify"]).code(4);
    // There is something to repair on web2.
    let document = json(&with(&["repair", "--json", "--yes"]).code(4));
    assert!(document["notes"][0].as_str().unwrap().contains("No route to host"), "{document}");
    assert_eq!(document["hosts"][0]["host"], "web2");
    with(&["repair", "--yes"]).code(4).says("No route to host").does_not_say("Nothing to repair");
    change(&repo, &["db1", "web1"], "two");
    let run = with(&["deploy", "--yes", "-q"]).code(4);
    assert_eq!(run.stdout(), "");
    run.says("web1: unreachable: connect to host web1 port 22: No route to host").does_not_say("failed to push");
}
