//! `git deptool` with real hosts: over ssh, with units, as a user with sudo.

use deptool_tests::lab::{HostSpec, start_or_skip};
use deptool_tests::process::Run;
use deptool_tests::sandbox::{Repo, Sandbox};
use serde_json::Value;

const SERVICE: &str = "\
[Service]
Type=notify
NotifyAccess=all
ExecStart=/bin/sh -c 'systemd-notify --ready; exec sleep infinity'

[Install]
WantedBy=multi-user.target
";

fn deptool(repo: &Repo<'_>, args: &[&str]) -> Run {
    repo.git(&[&["deptool"], args].concat())
}

fn json(run: Run) -> Value {
    serde_json::from_str(&run.stdout()).unwrap_or_else(|error| panic!("{error}: {run}"))
}

#[test]
fn every_command_works_on_a_real_host() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1")]) else { return };
    let (sandbox, host) = (Sandbox::for_lab(&lab), lab.host("web1"));
    let repo = sandbox.repo("operator");
    repo.write("web1/web/systemd/web.service", SERVICE);
    repo.write("web1/web/word", "one\n");
    repo.write(
        "web1/web/manifest.json",
        r#"{"systemd": {"units_enabled": ["web.service"]}, "symlinks": {"/etc/word": "word"}}"#,
    );
    let one = repo.commit("One");
    deptool(&repo, &["init"]).ok();
    deptool(&repo, &["add-host", "--user", "core", "web1"]).ok();
    assert_eq!(repo.git(&["remote", "get-url", "web1"]).ok().line(), "deptool::core@web1");

    // A plan does not connect. A deployment does what it shows, over one ssh connection per host.
    let plan = deptool(&repo, &["plan", "--exit-code"]).code(2).prints("start unit web.service");
    assert!(!host.path("/var/lib/deptool").exists(), "{plan}");
    deptool(&repo, &["deploy", "-y"]).ok().prints("web1: done").prints("Deployed to 1 host in ");
    assert_eq!(host.unit_state("web.service"), "active");
    assert_eq!(repo.id("refs/remotes/web1/prod"), one);
    deptool(&repo, &["plan", "--exit-code"]).ok();

    repo.write("web1/web/word", "two\n");
    let two = repo.commit("Two");
    deptool(&repo, &["status"]).ok().prints("1 app, 1 file to deploy");
    deptool(&repo, &["deploy", "-y"]).ok();
    let status = json(deptool(&repo, &["status", "--live", "--json"]).ok());
    let live = &status["hosts"][0];
    assert_eq!((&live["state"], &live["live"]["deployed"]["commit"]), (&"up-to-date".into(), &two.clone().into()));

    deptool(&repo, &["verify"]).ok().prints("web1: as deployed");
    host.sh("systemctl stop web.service; systemctl disable --quiet web.service; ln -sf /dev/null /etc/word");
    let drift = deptool(&repo, &["verify"]).code(2).prints("web1: '/etc/word' ");
    let drift = drift.prints("web1: web.service ");
    assert!(!drift.stdout().contains("as deployed"), "{drift}");
    host.sh("systemctl enable --quiet web.service; ln -sfn /var/lib/deptool/apps/web/current/word /etc/word");

    let log = deptool(&repo, &["log", "--oneline"]).ok().stdout();
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains(&two[..10]) && lines[1].contains(&one[..10]), "{log}");
    let times = json(deptool(&repo, &["ping", "-n", "3", "--json"]).ok());
    assert!(times["hosts"][0]["p50"].as_f64().is_some_and(|time| time > 0.0), "{times}");

    // The unit is still stopped, but what ran before runs again.
    deptool(&repo, &["rollback", "-y", "web1"]).ok().prints("web1: done");
    assert_eq!(
        host.sh("cat /etc/word; systemctl is-active web.service; systemctl is-enabled web.service"),
        "one\nactive\nenabled"
    );
    assert_eq!(repo.id("refs/remotes/web1/prod"), one);
    deptool(&repo, &["verify"]).ok();
    deptool(&repo, &["status", "--exit-code"]).code(2).prints("1 app, 1 file to deploy");
    // Each command reports an unreachable host, except those that do not connect.
    host.sh("systemctl stop ssh.service");
    for command in
        [&["verify"][..], &["log"], &["ping"], &["status", "--live"], &["deploy", "-y"], &["rollback", "-y", "web1"]]
    {
        let run = deptool(&repo, command).code(4);
        assert!(format!("{}{}", run.stdout(), run.stderr()).contains("web1"), "{run}");
    }
    deptool(&repo, &["plan"]).ok();
    deptool(&repo, &["status"]).ok();
    assert_eq!(repo.id("refs/remotes/web1/prod"), one);
}
