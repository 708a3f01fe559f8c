//! Whatever systemd touches along with a deployment's units is in the verdict, is named, and is brought back.

use deptool_tests::lab::{Host, HostSpec};
use deptool_tests::process::Run;

use crate::stage::Stage;
use crate::state::State;

fn stage() -> Option<Stage> {
    let stage = Stage::with(&[HostSpec::new("web1")])?;
    stage.operator().add_remote("web1", "deptool::web1");
    Some(stage)
}

fn write(stage: &Stage, path: &str, text: &str) {
    stage.operator().write(format!("web1/{path}"), text);
}

fn push(stage: &Stage, what: &str) -> Run {
    let operator = stage.operator();
    operator.commit(what);
    operator.git(&["push", "web1", "prod"])
}

/// Write unit files of the host's own, and start them.
fn own_units(host: &Host, units: &[(&str, &str)], start: &str) {
    for (unit, text) in units {
        std::fs::write(host.path(&format!("/etc/systemd/system/{unit}")), text).unwrap();
    }
    host.sh(&format!("systemctl daemon-reload; systemctl start {start}"));
}

const ENABLED: &str = "\n[Install]\nWantedBy=multi-user.target\n";

#[test]
fn what_requires_a_unit_or_is_a_part_of_it_has_to_be_well_afterwards() {
    let Some(stage) = stage() else { return };
    let host = stage.host();
    write(&stage, "db/schema", "good\n");
    write(&stage, "db/systemd/db.service", &format!("[Service]\nExecStart=/bin/sleep infinity\n{ENABLED}"));
    write(&stage, "db/manifest.json", r#"{"systemd": {"units_enabled": ["db.service"]}}"#);
    push(&stage, "A database").ok();
    let reads = "grep -q good /var/lib/deptool/apps/db/current/schema";
    own_units(
        host,
        &[
            (
                "api.service",
                &format!(
                    "[Unit]\nRequires=db.service\nAfter=db.service\n[Service]\nType=notify\nNotifyAccess=all\nExecStart=/bin/sh -c '{reads} && systemd-notify --ready && exec sleep infinity; echo no schema; sleep 0.2; exit 3'\n"
                ),
            ),
            // As Debian packages PostgreSQL and postfix: an empty unit, and parts that do the work.
            (
                "umb.service",
                "[Unit]\nWants=umb@main.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n",
            ),
            (
                "umb@.service",
                &format!(
                    "[Unit]\nPartOf=umb.service\nAfter=umb.service\n[Service]\nExecStart=/bin/sh -c '{reads} && exec sleep infinity; exit 3'\n"
                ),
            ),
        ],
        "api.service umb.service",
    );
    write(&stage, "db/schema", "also good\n");
    push(&stage, "A schema").ok().says("also restarted api.service").does_not_say("also restarted umb");
    write(&stage, "db/schema", "broken\n");
    let before = State::of(host);
    push(&stage, "A broken one")
        .fails()
        .says("rolled back")
        .says("api.service")
        .says("along with 'db.service'")
        .says("no schema");
    before.assert_same(host, "a dependent that fails");
    stage.operator().git(&["reset", "--quiet", "--hard", "HEAD~1"]).ok();
    stage.operator().git(&["fetch", "--quiet", "web1"]).ok();

    write(&stage, "umb/manifest.json", r#"{"systemd": {"on_change": {"umb.service": "restart"}}}"#);
    write(&stage, "umb/x", "1\n");
    push(&stage, "The wrapper's configuration").ok().says("also restarted umb@main.service");
    // The wrapper's own job is done whatever becomes of its parts.
    host.sh("sed -i 's/grep -q good/grep -q better/' /etc/systemd/system/umb@.service; systemctl daemon-reload");
    write(&stage, "umb/x", "2\n");
    let failed = push(&stage, "A part that does not come up").fails();
    failed.says("umb@main.service").says("exited with status 3").says("along with 'umb.service'");
    stage.operator().git(&["reset", "--quiet", "--hard", "HEAD~1"]).ok();
}

#[test]
fn a_dependent_that_ends_badly_when_it_is_stopped_is_judged_by_its_next_run() {
    let Some(stage) = stage() else { return };
    let host = stage.host();
    let base = |note: &str| {
        format!(
            "[Service]\nType=oneshot\nRemainAfterExit=yes\nEnvironment=NOTE={note}\nExecStart=/bin/sleep 1\n{ENABLED}"
        )
    };
    write(&stage, "lan/systemd/lan.service", &base("one"));
    write(&stage, "lan/manifest.json", r#"{"systemd": {"units_enabled": ["lan.service"]}}"#);
    push(&stage, "A network").ok();
    // As a container that is killed after its StopTimeout=.
    let ends_badly = "[Unit]\nRequires=lan.service\nAfter=lan.service\n[Service]\n\
                      ExecStart=/bin/sh -c 'trap \"exit 137\" TERM; while :; do sleep 0.05; done'\n";
    own_units(host, &[("box.service", ends_badly)], "box.service");
    write(&stage, "lan/systemd/lan.service", &base("two").replace("sleep 1", "sleep 3"));
    stage.operator().commit("Another network");
    let pushed = stage.operator().git(&["push", "--verbose", "web1", "prod"]).ok();
    pushed.says("web1: waiting for lan.service").says("also restarted box.service");
    assert_eq!(host.unit_state("box.service"), "active");
}

#[test]
fn a_unit_that_fails_because_of_another_is_reported_with_that_one_and_leaves_nothing_behind() {
    let Some(stage) = stage() else { return };
    let host = stage.host();
    write(
        &stage,
        "shop/systemd/shop.service",
        &format!(
            "[Unit]\nRequires=outer.service\nAfter=outer.service\n[Service]\nExecStart=/bin/sleep infinity\n{ENABLED}"
        ),
    );
    write(
        &stage,
        "shop/systemd/outer.service",
        "[Unit]\nRequires=migrate.service\nAfter=migrate.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n",
    );
    write(
        &stage,
        "shop/systemd/migrate.service",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo column already exists >&2; sleep 0.2; exit 3'\n",
    );
    write(&stage, "shop/manifest.json", r#"{"systemd": {"units_enabled": ["shop.service"]}}"#);
    push(&stage, "A migration that fails")
        .fails()
        .says("migrate.service exited with status 3")
        .says("column already exists")
        .says("shop.service");
    assert_eq!(host.sh("systemctl list-units --failed --all --no-legend --plain | wc -l"), "0");
    // One that is only wanted is a part of the tree, too.
    write(
        &stage,
        "shop/systemd/shop.service",
        &format!("[Unit]\nWants=migrate.service\n[Service]\nExecStart=/bin/sleep infinity\n{ENABLED}"),
    );
    push(&stage, "A migration that is only wanted").fails().says("migrate.service").says("started by 'shop.service'");
    assert_eq!(host.sh("systemctl list-units --failed --all --no-legend --plain | wc -l"), "0");
}

#[test]
fn a_rollback_touches_nothing_that_the_deployment_had_not_touched() {
    let Some(stage) = stage() else { return };
    let host = stage.host();
    let service = format!("[Service]\nExecStart=/bin/sleep infinity\n{ENABLED}");
    write(&stage, "a/systemd/a.service", &service);
    write(&stage, "a/manifest.json", r#"{"systemd": {"units_enabled": ["a.service"]}}"#);
    write(&stage, "a/x", "1\n");
    push(&stage, "A service").ok();
    own_units(host, &[("own.service", "[Service]\nExecStart=/bin/sleep infinity\n")], "own.service");
    let run = |unit: &str| host.unit_property(unit, "InvocationID");
    let before = (run("a.service"), run("own.service"), run("dbus.service"));
    // Fails before any unit is touched: a directory is in the way of a file that tmpfiles is to make.
    host.sh("mkdir -p /srv/taken/x");
    write(&stage, "a/tmpfiles/a.conf", "f /srv/taken - - - -\n");
    write(&stage, "a/x", "2\n");
    push(&stage, "tmpfiles fails").fails();
    assert_eq!((run("a.service"), run("own.service"), run("dbus.service")), before);
}

#[test]
fn what_conflicts_is_stopped_said_and_brought_back_by_the_removal() {
    let Some(stage) = stage() else { return };
    let host = stage.host();
    own_units(host, &[("old.service", "[Service]\nExecStart=/bin/sleep infinity\n")], "old.service");
    write(
        &stage,
        "n/systemd/new.service",
        &format!("[Unit]\nConflicts=old.service\n[Service]\nExecStart=/bin/sleep infinity\n{ENABLED}"),
    );
    write(&stage, "n/manifest.json", r#"{"systemd": {"units_enabled": ["new.service"]}}"#);
    push(&stage, "In place of the old one").ok().says("also stopped old.service");
    assert_eq!((host.unit_state("new.service"), host.unit_state("old.service")), ("active".into(), "inactive".into()));
    stage.operator().git(&["push", "web1", ":prod"]).ok();
    assert_eq!((host.unit_state("new.service"), host.unit_state("old.service")), ("inactive".into(), "active".into()));
}

#[test]
fn enablement_is_put_back_unit_file_by_unit_file() {
    let Some(stage) = stage() else { return };
    let host = stage.host();
    own_units(
        host,
        &[
            ("side.socket", "[Socket]\nListenStream=127.0.0.1:7100\n[Install]\nWantedBy=sockets.target\n"),
            ("side.service", "[Service]\nExecStart=/bin/sleep infinity\n"),
        ],
        "side.socket",
    );
    // A unit that is linked, and not enabled.
    host.sh(
        "systemctl enable --quiet side.socket
         mkdir -p /opt/linked; printf '[Service]\\nExecStart=/bin/sleep infinity\\n[Install]\\nWantedBy=multi-user.target\\n' >/opt/linked/linked.service
         systemctl link --quiet /opt/linked/linked.service",
    );
    let before = State::of(host);
    let unit = |exec: &str| {
        format!(
            "[Service]\nExecStart={exec}\n[Install]\nWantedBy=multi-user.target\nAlias=front.service\nAlso=side.socket\n"
        )
    };
    write(&stage, "w/systemd/w.service", &unit("/bin/sh -c 'exit 3'"));
    write(&stage, "w/manifest.json", r#"{"systemd": {"units_enabled": ["w.service", "linked.service"]}}"#);
    push(&stage, "One that fails").fails().says("rolled back");
    let after = State::of(host);
    assert_eq!((&after.etc, &after.units), (&before.etc, &before.units), "after the rollback");
    write(&stage, "w/systemd/w.service", &unit("/bin/sleep infinity"));
    push(&stage, "One that works").ok();
    assert_eq!(host.unit_file_state("linked.service"), "enabled");
    assert_eq!(host.sh("systemctl is-enabled side.socket front.service"), "enabled\nalias");
    stage.operator().git(&["push", "web1", ":prod"]).ok();
    assert_eq!(host.unit_file_state("side.socket"), "enabled", "the host's own stays");
    assert_eq!(host.unit_file_state("linked.service"), "linked");
    assert_eq!(before.etc, State::of(host).etc);
}

#[test]
fn what_is_given_back_and_does_not_start_is_said_and_the_removal_stands() {
    let Some(stage) = stage() else { return };
    let host = stage.host();
    host.sh("systemctl enable --quiet --now nsd.service; mv /etc/nsd/nsd.conf /etc/nsd/nsd.conf.away");
    write(&stage, "nsd/nsd.conf", "server:\n    database: \"\"\n    ip-address: 127.0.0.1@5399\n");
    write(
        &stage,
        "nsd/manifest.json",
        r#"{"systemd": {"units_enabled": ["nsd.service"]}, "symlinks": {"/etc/nsd/nsd.conf": "nsd.conf"}}"#,
    );
    push(&stage, "nsd").ok();
    host.sh("printf 'server:\\n  nonsense: yes\\n' >/etc/nsd/nsd.conf.d/broken.conf");
    let removed = stage.operator().git(&["push", "web1", ":prod"]).ok();
    removed.says("'nsd.service' was released but does not run");
    assert!(!host.path("/etc/nsd/nsd.conf").is_symlink());
    assert_eq!(host.unit_file_state("nsd.service"), "enabled");
}
