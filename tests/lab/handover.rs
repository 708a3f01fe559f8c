//! What starts anew waits until everything that is stopped or restarted has ended its old process.

use deptool_tests::lab::HostSpec;
use deptool_tests::process::Run;

use crate::stage::Stage;

/// A service that takes a lock, as others take a port, does not try again, and needs some time to end.
fn write(stage: &Stage, app: &str, lock: &str, ends_after: &str) {
    let operator = stage.operator();
    let script = format!(
        "exec 9>/run/lock-{lock}; flock -n 9 || {{ echo taken: {lock}; sleep 0.2; exit 5; }}; \
         trap \"sleep {ends_after}; exit 0\" TERM; while :; do sleep 0.05; done"
    );
    let unit = format!("[Service]\nExecStart=/bin/sh -c '{script}'\n[Install]\nWantedBy=multi-user.target\n");
    operator.write(format!("web1/{app}/systemd/{app}.service"), unit);
    operator.write(
        format!("web1/{app}/manifest.json"),
        format!(r#"{{"systemd": {{"units_enabled": ["{app}.service"]}}}}"#),
    );
}

fn push(stage: &Stage, what: &str) -> Run {
    let operator = stage.operator();
    operator.commit(what);
    operator.git(&["push", "web1", "prod"])
}

#[test]
fn a_port_or_a_file_is_handed_over_within_one_deployment() {
    let Some(stage) = Stage::with(&[HostSpec::new("web1")]) else { return };
    let host = stage.host();
    stage.operator().add_remote("web1", "deptool::web1");
    write(&stage, "web", "a", "0.8");
    push(&stage, "web has a").ok();
    write(&stage, "web", "b", "0.8");
    write(&stage, "proxy", "a", "0.1");
    push(&stage, "web moves to b, and a new proxy takes a").ok().does_not_say("also restarted");
    assert_eq!((host.unit_state("web.service"), host.unit_state("proxy.service")), ("active".into(), "active".into()));
    write(&stage, "web", "a", "0.1");
    write(&stage, "proxy", "b", "0.8");
    push(&stage, "They swap").ok();
    assert_eq!((host.unit_state("web.service"), host.unit_state("proxy.service")), ("active".into(), "active".into()));
    // So does a rollback.
    write(&stage, "web", "b", "0.1");
    write(&stage, "proxy", "a", "0.8");
    stage.operator().write("web1/last/systemd/last.service", "[Service]\nExecStart=/bin/sh -c 'sleep 0.3; exit 7'\n");
    stage.operator().write("web1/last/manifest.json", r#"{"systemd": {"units_enabled": ["last.service"]}}"#);
    push(&stage, "They swap back, and another one fails").fails().says("last.service").does_not_say("not completely");
    assert_eq!((host.unit_state("web.service"), host.unit_state("proxy.service")), ("active".into(), "active".into()));
}
