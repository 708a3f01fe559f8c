//! The service manager goes away for a moment; and what the host's journal says of deployments.

use std::time::Duration;

use deptool_tests::lab::Base;
use deptool_tests::process::poll;

use crate::stage::Stage;

/// Starts slowly, so that there is time to interfere.
fn slow(number: usize) -> String {
    format!(
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nEnvironment=NUMBER={number}\n\
         ExecStart=/bin/sh -c 'touch /run/slow.begun; sleep 3'\n[Install]\nWantedBy=multi-user.target\n"
    )
}

#[test]
fn what_restarts_the_service_manager_or_the_bus_in_the_middle_is_survived() {
    let Some(stage) = Stage::of_one(Base::Bookworm) else { return };
    let host = stage.host();
    stage.write("slow/systemd/slow.service", &slow(0));
    stage.write("slow/manifest.json", r#"{"systemd": {"units_enabled": ["slow.service"]}}"#);
    stage.push("A slow unit").ok();
    let events = [
        "systemctl daemon-reexec",
        "systemctl daemon-reload",
        "systemctl restart dbus.service",
        "systemctl restart systemd-journald.service",
    ];
    for (at, event) in events.into_iter().enumerate() {
        host.sh("rm /run/slow.begun");
        stage.write("slow/systemd/slow.service", &slow(at + 1));
        let operator = stage.operator();
        operator.commit(event);
        let push = operator.command(&["push", "web1", "prod"]).start().unwrap();
        let begun = || !host.sh("ls /run/slow.begun || true").is_empty();
        poll("the slow start", Duration::from_secs(60), || begun().then_some(())).unwrap();
        host.sh(event);
        push.wait().unwrap().ok();
        assert_eq!(host.unit_state("slow.service"), "active", "{event}");
        assert_eq!(host.unit_property("slow.service", "Environment"), format!("NUMBER={}", at + 1), "{event}");
    }
}

#[test]
fn the_hosts_journal_tells_who_deployed_what_and_how_it_ended() {
    let Some(stage) = Stage::of_one(Base::Bookworm) else { return };
    let (host, operator) = (stage.host(), stage.operator());
    let said = || host.sh("journalctl --sync; journalctl --boot --identifier=deptool --output=cat | tail -n 1");
    stage.write("app/systemd/app.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    stage.write("app/manifest.json", r#"{"systemd": {"units_enabled": ["app.service"]}}"#);
    stage.push("It works").ok();
    let commit = operator.id("prod");
    assert_eq!(said(), format!("commit {} of 'prod' by Ada Operator <ada@example.org>: deployed", &commit[..10]));
    let found = format!("journalctl --boot --quiet --output=cat DEPTOOL_COMMIT={commit} | wc -l");
    assert_eq!(host.sh(&found), "1");
    stage.write("app/systemd/app.service", "[Service]\nExecStart=/bin/sh -c 'sleep 0.2; exit 7'\n");
    stage.push_fails("It does not");
    assert!(said().contains("rolled back: app.service exited with status 7"), "{}", said());
    operator.git(&["push", "web1", ":prod"]).ok();
    assert!(said().starts_with("the removal of everything of 'prod' by Ada Operator"), "{}", said());
}
