//! A host that a failed rollback has left incomplete is known as such, and not up to date until it is complete.

use deptool_tests::lab::{HostSpec, start_or_skip};
use deptool_tests::sandbox::Sandbox;

/// Starts only while a file exists that is not deployed.
const FRAIL: &str = "\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'read word </run/word'

[Install]
WantedBy=multi-user.target
";

#[test]
fn a_host_on_which_something_did_not_start_again_is_not_up_to_date_until_it_runs() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1")]) else { return };
    let sandbox = Sandbox::for_lab(&lab);
    let (operator, host) = (sandbox.repo("operator"), lab.host("web1"));
    operator.add_remote("web1", "deptool::web1");
    operator.write("web1/frail/systemd/frail.service", FRAIL);
    operator.write("web1/frail/manifest.json", r#"{"systemd": {"units_enabled": ["frail.service"]}}"#);
    let good = operator.commit("It works");
    host.sh("echo word >/run/word");
    operator.git(&["push", "web1", "prod"]).ok();
    operator.git(&["push", "web1", "prod"]).ok().says("Everything up-to-date");

    host.sh("rm /run/word");
    operator
        .write("web1/frail/systemd/frail.service", FRAIL.replace("[Service]\n", "[Service]\nEnvironment=CHANGED=1\n"));
    operator.commit("It does not");
    operator
        .git(&["push", "web1", "prod"])
        .fails()
        .says("while rolling back: cannot start 'frail.service' again")
        .says("rolled back, not completely: frail.service");
    assert_eq!(operator.id("refs/remotes/web1/prod"), good);
    // The files are complete.
    assert_eq!(host.sh("head -n 1 /etc/systemd/system/frail.service"), "[Service]");

    // Deploying the running commit reports the problem each time.
    operator.git(&["reset", "-q", "--hard", &good]).ok();
    for _ in 0..2 {
        operator.git(&["push", "web1", "prod"]).fails().says("rolled back").says("frail.service");
    }
    operator.git(&["fetch", "web1"]).ok().says("web1: not in order: cannot start 'frail.service'");

    host.sh("echo word >/run/word");
    operator.git(&["push", "web1", "prod"]).ok().says("web1: started again: 'frail.service'");
    assert_eq!(host.unit_state("frail.service"), "active");
    operator.git(&["push", "web1", "prod"]).ok().says("Everything up-to-date");
}
