//! Drift: every deployment looks at all that is deployed, puts right what it is responsible for, and says the rest. A
//! repair puts right everything.

use std::fs;

use deptool_tests::is_quick;
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::seen::at_rest;

fn deployed(sandbox: &Sandbox) -> (Repo<'_>, String) {
    let ada = sandbox.repo("ada");
    ada.add_root("web1");
    ada.git(&["config", "deptool.cluster", "prod"]).ok();
    for app in ["web", "other"] {
        ada.write(format!("web1/{app}/file"), "1\n");
        ada.write(format!("web1/{app}/tmpfiles/{app}.conf"), "# ours\n");
        ada.write(format!("web1/{app}/manifest.json"), format!(r#"{{"symlinks": {{"/etc/{app}": "file"}}}}"#));
    }
    let commit = ada.commit("One");
    ada.git(&["push", "web1", "prod"]).ok();
    (ada, commit)
}

fn damage(sandbox: &Sandbox, app: &str) {
    let root = sandbox.root("web1");
    fs::remove_file(root.join("etc").join(app)).unwrap();
    fs::create_dir(root.join("etc").join(app)).unwrap();
    fs::write(root.join(format!("etc/tmpfiles.d/{app}.conf")), "# by hand\n").unwrap();
    fs::write(root.join(format!("var/lib/deptool/current/{app}/file")), "by hand\n").unwrap();
}

#[test]
fn a_push_puts_right_the_apps_that_it_changes_and_says_the_rest() {
    let sandbox = Sandbox::new();
    let (ada, _) = deployed(&sandbox);
    damage(&sandbox, "web");
    damage(&sandbox, "other");
    ada.write("web1/web/file", "2\n");
    ada.commit("Two");
    let run = ada.git(&["push", "web1", "prod"]).ok();
    let run = run.says("'/etc/web' was replaced by a directory: what was there is kept as");
    run.says("not as deployed, and left so: ").says("; 'git deptool repair web1' puts that right");
    assert_eq!(sandbox.read("web1", "/etc/web"), b"2\n");
    assert_eq!(sandbox.read("web1", "/etc/tmpfiles.d/other.conf"), b"# by hand\n");
    ada.git(&["deptool", "verify"]).code(2).prints("'/etc/other' was replaced by a directory");
}

#[test]
fn a_repair_puts_right_everything_and_is_in_the_log() {
    let sandbox = Sandbox::new();
    let (ada, one) = deployed(&sandbox);
    ada.git(&["deptool", "repair", "-y", "web1"]).ok().prints("Nothing to repair.");
    damage(&sandbox, "web");
    damage(&sandbox, "other");
    let run = ada.git(&["deptool", "repair", "-y"]).ok();
    run.prints("web1: '/etc/web' was replaced by a directory");
    at_rest(&sandbox, "web1", Some(&one));
    ada.git(&["deptool", "verify"]).ok().prints("web1: as deployed");
    assert_eq!(sandbox.read("web1", "/etc/web"), b"1\n");
    let kept = sandbox.root("web1").join("var/lib/deptool/state/kept/2");
    assert_eq!(fs::read(kept.join("root/etc/tmpfiles.d/web.conf")).unwrap(), b"# by hand\n");
    assert_eq!(fs::read(kept.join("apps/other/file")).unwrap(), b"by hand\n");
    ada.git(&["deptool", "log"]).ok().prints("Mended: '/etc/tmpfiles.d/other.conf' was edited; kept as '");
}

#[test]
fn a_push_with_the_option_repairs_a_host_that_runs_the_commit_already() {
    let sandbox = Sandbox::new();
    let (ada, one) = deployed(&sandbox);
    for args in
        [&["push", "-o", "repair", "web1", "prod"][..], &["-c", "push.pushOption=repair", "push", "web1", "prod"]]
    {
        damage(&sandbox, "web");
        ada.git(args).ok().says("'/etc/web' was replaced by a directory: what was there is kept as");
        ada.git(&["deptool", "verify"]).ok();
        at_rest(&sandbox, "web1", Some(&one));
    }
}

#[test]
fn known_drift_is_said_wherever_all_would_be_up_to_date() {
    let sandbox = Sandbox::new();
    let (ada, _) = deployed(&sandbox);
    ada.add_remote("cluster", "deptool::@all");
    let up_to_date = "Everything is up to date.";
    ada.git(&["deptool", "deploy", "-y"]).ok().prints(up_to_date);
    damage(&sandbox, "other");
    ada.write("web1/web/file", "2\n");
    ada.commit("Two");
    ada.git(&["push", "web1", "prod"]).ok();
    let told = "not as deployed; 'git deptool repair web1' puts them right";
    for args in [&["push", "web1", "prod"][..], &["push", "cluster", "prod"]] {
        ada.git(args).ok().says(told).says("Everything up-to-date");
    }
    for args in [&["deptool", "deploy", "-y"][..], &["deptool", "plan"]] {
        let run = ada.git(args).ok();
        assert!((run.stdout() + &run.stderr()).contains(told), "{run}");
        assert!(!run.stdout().contains(up_to_date), "{run}");
    }
    ada.git(&["deptool", "status"]).ok().prints(told);
    ada.git(&["deptool", "status", "--exit-code"]).code(2);
    ada.git(&["deptool", "status", "--json"]).ok().prints("\"drift\":3");
    // Once a check or a repair has found the host in order, the note about drift is gone.
    ada.git(&["deptool", "repair", "-y"]).ok();
    ada.git(&["deptool", "deploy", "-y"]).ok().prints(up_to_date);
    ada.git(&["deptool", "status", "--exit-code"]).ok();
    damage(&sandbox, "web");
    ada.git(&["deptool", "verify"]).code(2);
    ada.git(&["push", "web1", "prod"]).ok().says(told);
}

#[test]
fn verify_tells_prometheus_and_that_a_hosts_state_is_gone() {
    let sandbox = Sandbox::new();
    let (ada, one) = deployed(&sandbox);
    damage(&sandbox, "web");
    ada.add_remote("web2", "deptool::/nowhere/web2");
    ada.write("web2/web/file", "1\n");
    ada.commit("Two");
    let run = ada.git(&["deptool", "verify", "--prometheus"]);
    let stable = |line: &&str| !line.starts_with('#') && !line.contains("_timestamp_seconds{");
    let text = run.stdout();
    let samples: Vec<&str> = text.lines().filter(stable).collect();
    let commit = format!("deptool_deployed_info{{host=\"web1\",cluster=\"prod\",commit=\"{one}\"}} 1");
    let expected = [
        "deptool_reachable{host=\"web1\"} 1",
        "deptool_reachable{host=\"web2\"} 0",
        "deptool_drift{host=\"web1\"} 3",
        &commit,
        "deptool_last_attempt_success{host=\"web1\"} 1",
    ];
    assert_eq!(samples, expected, "{run}");
    assert_eq!(text.lines().filter(|line| line.contains("_timestamp_seconds{host=\"web1\"} 1")).count(), 2, "{run}");
    assert_eq!(text.lines().filter(|line| line.starts_with("# TYPE deptool_")).count(), 6);
    // A host that runs nothing any more is not as deployed.
    fs::remove_dir_all(sandbox.root("web1").join("var/lib/deptool")).unwrap();
    ada.git(&["deptool", "verify", "web1"]).code(2).prints("web1: nothing is deployed any more");
    // Nor is it when it is asked again, as a cron job does.
    ada.git(&["deptool", "verify", "web1"]).code(2).prints("web1: nothing is deployed");
    ada.git(&["deptool", "verify", "--prometheus", "web1"]).code(2).prints("deptool_drift{host=\"web1\"} 1");
}

#[test]
fn a_repair_shows_what_was_edited_if_asked_to() {
    let sandbox = Sandbox::new();
    let (ada, _) = deployed(&sandbox);
    damage(&sandbox, "web");
    let root = sandbox.root("web1");
    fs::write(root.join("etc/tmpfiles.d/other.conf"), "# by \u{1b}[31mhand\n").unwrap();
    fs::write(root.join("var/lib/deptool/current/other/file"), [0, 1, 2]).unwrap();
    let run = ada.git(&["deptool", "repair", "-p", "-y"]).ok();
    let diff =
        "--- deployed/etc/tmpfiles.d/web.conf\n+++ edited/etc/tmpfiles.d/web.conf\n@@ -1 +1 @@\n-# ours\n+# by hand\n";
    let run = run.prints(diff).prints("+# by \\x1b[31mhand\n");
    let run = run.prints("--- deployed/var/lib/deptool/apps/web/current/file\n");
    assert!(!run.stdout().contains("deployed/var/lib/deptool/apps/other/current/file"), "not text: {run}");
    ada.git(&["deptool", "verify"]).ok();
}

#[test]
fn an_answer_of_any_length_arrives_and_is_repaired() {
    if is_quick() {
        return;
    }
    let sandbox = Sandbox::new();
    let (ada, _) = deployed(&sandbox);
    let files: Vec<String> = (0..16_000).map(|number| format!("{}{number}", "name".repeat(20))).collect();
    for file in &files {
        ada.write(format!("web1/many/{file}"), "1\n");
    }
    ada.commit("Many files");
    ada.git(&["push", "web1", "prod"]).ok();
    let running = sandbox.root("web1").join("var/lib/deptool/current/many");
    files.iter().for_each(|file| fs::write(running.join(file), "by hand\n").unwrap());
    let run = ada.git(&["deptool", "verify"]).code(2);
    assert_eq!(run.stdout().lines().count(), files.len());
    ada.git(&["deptool", "repair", "-y"]).ok().says("more notes");
    ada.git(&["deptool", "verify"]).ok().prints("as deployed");
}
