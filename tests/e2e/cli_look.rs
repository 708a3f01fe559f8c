//! `git deptool status`, `verify`, `log` and `ping`, on terminals and in pipes.

use deptool_tests::process::Run;
use deptool_tests::sandbox::{Repo, Sandbox};
use serde_json::Value;

fn cluster(sandbox: &Sandbox) -> Repo<'_> {
    let repo = sandbox.repo("operator");
    for host in ["web1", "web2"] {
        repo.write(format!("{host}/app/conf"), "one");
        repo.write(format!("{host}/app/manifest.json"), r#"{"symlinks": {"/etc/app.conf": "conf"}}"#);
        repo.add_root(host);
    }
    repo.git(&["config", "deptool.cluster", "prod"]).ok();
    repo.commit("One");
    repo
}

fn deptool(repo: &Repo<'_>, args: &[&str]) -> Run {
    repo.git(&[&["deptool"], args].concat())
}

fn json(run: Run) -> Value {
    serde_json::from_str(&run.stdout()).unwrap_or_else(|error| panic!("{error}: {}", run.stdout()))
}

#[test]
fn the_status_says_what_runs_since_when_and_what_is_to_be_deployed() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    deptool(&repo, &["deploy", "--yes", "web1"]).ok();
    let one = repo.id("prod");
    repo.write("web1/app/conf", "two");
    let two = repo.commit("Two");
    let run = deptool(&repo, &["status"]).ok();
    let shown = crate::seen::shown(&sandbox, &run, &[("one", &one), ("two", &two)]);
    crate::seen::same(
        &shown,
        "cluster 'prod' is at <two>\n\
         web1  1 app, 1 file to deploy  <one>  N s ago  Ada Operator\n\
         web2  not asked yet",
    );
    deptool(&repo, &["status", "--exit-code"]).code(2);
    let status = json(deptool(&repo, &["status", "--json"]).ok());
    let (first, second) = (&status["hosts"][0], &status["hosts"][1]);
    assert_eq!((&first["state"], &second["state"]), (&"undeployed".into(), &"not-asked".into()));
    assert_eq!(first["deployed"]["commit"], one);
    assert_eq!(first["deployed"]["by"], "Ada Operator <ada@example.org>");
    assert_eq!(first["undeployed"], serde_json::json!({"apps": 1, "files": 1, "paths": 0, "units": 0}));
}

#[test]
fn what_somebody_else_has_deployed_is_seen_live() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    deptool(&repo, &["deploy", "--yes"]).ok();
    let other = sandbox.clone_of(&repo, "other");
    other.add_root("web1");
    other.git(&["fetch", "--quiet", "web1"]).ok();
    other.write("web1/app/conf", "theirs");
    let theirs = other.commit("Theirs");
    other.git(&["push", "web1", "prod"]).ok();
    let before = repo.id("refs/remotes/web1/prod");
    deptool(&repo, &["status"]).ok().prints("web1  up to date");
    let run = deptool(&repo, &["status", "--live", "--exit-code"]).code(2);
    run.prints("web1  changed meanwhile").prints(&format!("    runs {}, deployed by Ada Operator", &theirs[..10]));
    assert_eq!(repo.id("refs/remotes/web1/prod"), before, "who looks changes nothing");
    let live = json(deptool(&repo, &["status", "--live", "--json"]).ok());
    assert_eq!(live["hosts"][0]["live"]["deployed"]["commit"], theirs);
}

#[test]
fn a_host_that_the_tree_has_lost_is_still_named() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    deptool(&repo, &["deploy", "--yes"]).ok();
    repo.remove("web2");
    repo.commit("Two");
    deptool(&repo, &["status"]).ok().prints("web2  not in the tree");
    assert_eq!(deptool(&repo, &["status", "web1"]).ok().stdout().lines().count(), 2);
}

#[test]
fn a_host_in_doubt_is_known_as_such_and_asked_before_a_deployment() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    deptool(&repo, &["deploy", "--yes"]).ok();
    repo.git(&["update-ref", "refs/deptool/unsettled/web1/prod", "HEAD"]).ok();
    deptool(&repo, &["status", "--exit-code"]).code(2).prints("    in doubt: it is not known how the deployment of");
    deptool(&repo, &["plan"]).ok().says("web1: it is not known how the deployment of");
    deptool(&repo, &["deploy", "--yes"]).ok().prints("Everything is up to date.");
    deptool(&repo, &["status", "--exit-code"]).ok();
}

#[test]
fn what_has_drifted_is_found_and_is_the_exit_status() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    deptool(&repo, &["deploy", "--yes"]).ok();
    assert_eq!(deptool(&repo, &["verify"]).ok().stdout(), "web1: as deployed\nweb2: as deployed\n");
    let link = sandbox.root("web1").join("etc/app.conf");
    std::fs::remove_file(&link).unwrap();
    std::fs::write(&link, "by hand").unwrap();
    let run = deptool(&repo, &["verify", "--quiet"]).code(2);
    assert_eq!(run.stdout(), "web1: '/etc/app.conf' was replaced by a file\n");
    let found = json(deptool(&repo, &["verify", "--json"]).code(2));
    let expected = serde_json::json!({"path": "/etc/app.conf", "what": "was replaced by a file"});
    assert_eq!(found["hosts"][0]["drift"][0], expected);
}

#[test]
fn the_log_has_the_deployments_of_all_hosts_newest_first() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    deptool(&repo, &["deploy", "--yes"]).ok();
    let one = repo.id("prod");
    repo.write("web2/app/conf", "two");
    let two = repo.commit("Two");
    deptool(&repo, &["deploy", "--yes"]).ok();
    let log = json(deptool(&repo, &["log", "--json"]).ok());
    let mut entries: Vec<_> = log["deployments"].as_array().unwrap().iter().collect();
    assert!(entries.is_sorted_by_key(|entry| -entry["when"].as_i64().unwrap()));
    entries.sort_by_key(|entry| (entry["host"].to_string(), entry["from"].is_null()));
    let seen: Vec<_> = entries.iter().map(|entry| (&entry["host"], &entry["from"], &entry["to"])).collect();
    let (web1, web2, nothing) = ("web1".into(), "web2".into(), Value::Null);
    let (one, two) = (Value::from(one), Value::from(two));
    assert_eq!(seen, [(&web1, &nothing, &one), (&web2, &one, &two), (&web2, &nothing, &one)]);
    assert_eq!(deptool(&repo, &["log", "--oneline", "-n", "1"]).ok().stdout().lines().count(), 1);
    deptool(&repo, &["log"]).ok().prints("Result: done\n\n    Two\n");
    let times = json(deptool(&repo, &["ping", "-n", "3", "--json"]).ok());
    let (min, p95) = (times["hosts"][0]["min"].as_f64().unwrap(), times["hosts"][0]["p95"].as_f64().unwrap());
    assert!(0.0 < min && min <= p95, "{times}");
}

/// Prints ssh's messages.
const NO_ROUTE: &str = "sh -c 'echo ssh: connect to host web1 port 22: No route to host >&2; exit 255' ssh";

#[test]
fn a_host_that_is_not_there_is_told_and_the_others_answer() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    deptool(&repo, &["deploy", "--yes"]).ok();
    repo.git(&["remote", "set-url", "web1", "deptool::web1"]).ok();
    for args in [&["log"][..], &["verify"], &["ping"], &["status", "--live"]] {
        let command = repo.command(&[&["deptool"], args].concat()).env("GIT_SSH_COMMAND", NO_ROUTE);
        let run = command.run().unwrap().code(4);
        assert!(run.stdout().contains("web2") || run.stdout().contains("Result"), "{}", run.stdout());
    }
}

#[test]
fn a_reader_that_stops_early_is_no_error() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    for number in 0..3000 {
        repo.write(format!("web1/app/{number}"), "");
    }
    repo.commit("Many");
    let shell = |line: &str| sandbox.command("bash").dir(&repo.dir).args(["-o", "pipefail", "-c", line]).run().unwrap();
    let run = shell("git deptool plan --full | head -n 1").ok();
    assert_eq!((run.stdout(), run.stderr()), ("web1\n".into(), String::new()));
    let run = shell("git deptool plan --json | head -c 1; exec git deptool plan -p | head -n 1").ok();
    assert_eq!(run.stderr(), "");
}

#[test]
fn colour_is_for_terminals_and_for_those_who_ask() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    let plan = |args: &[&str]| deptool(&repo, &[&["plan", "web1"], args].concat()).ok().stdout();
    assert!(!plan(&[]).contains('\x1b'));
    assert!(plan(&["--color", "always"]).contains("\x1b[32m        + conf\x1b[m"));
    let terminal = |no_colour: &str| {
        let command = sandbox.command("script").dir(&repo.dir).env("TERM", "xterm").env("NO_COLOR", no_colour);
        let line = "git deptool plan";
        command.args(["--quiet", "--return", "--command", line, "/dev/null"]).run().unwrap().ok().stdout()
    };
    assert!(terminal("").contains("\x1b[32m"));
    assert!(!terminal("1").contains('\x1b'));
}

#[test]
fn names_can_neither_move_the_cursor_nor_break_a_locale_without_unicode() {
    let sandbox = Sandbox::new();
    let repo = cluster(&sandbox);
    deptool(&repo, &["deploy", "--yes"]).ok();
    repo.git(&["config", "user.name", "Zo\u{eb} \u{202e}\u{1b}[2J"]).ok();
    repo.write("web1/app/\u{fc}\u{202e}", "");
    repo.commit("Odd");
    let plan = |locale: &str| {
        let command = repo.command(&["deptool", "plan"]).env("LC_ALL", locale);
        command.run().unwrap().ok().stdout()
    };
    assert!(plan("C.UTF-8").contains("+ \u{fc}\\u{202e}\n"), "{}", plan("C.UTF-8"));
    assert!(plan("C").contains("+ \\u{fc}\\u{202e}\n"), "{}", plan("C"));
    deptool(&repo, &["deploy", "--yes"]).ok();
    let status = deptool(&repo, &["status"]).ok().stdout();
    assert!(status.contains("Zo\u{eb} ") && !status.contains('\x1b') && !status.contains('\u{202e}'), "{status}");
    assert!(repo.command(&["deptool", "status"]).env("LC_ALL", "C").run().unwrap().ok().stdout().is_ascii());
}
