//! A deployment that fails leaves the host as it was, byte for byte and unit for unit, and reports what failed.

use deptool_tests::lab::{HostSpec, start_or_skip};
use deptool_tests::process::Run;
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::{stage::Stage, state::State};

const KEEPER: &str = "\
[Service]
ExecStart=/bin/sh -c 'read word </var/lib/deptool/apps/keeper/current/word; exec sleep infinity'

[Install]
WantedBy=multi-user.target
";

/// One host, and an operator who has deployed a service that works.
fn deployed() -> Option<Stage> {
    let stage = Stage::with(&[HostSpec::new("web1")])?;
    let operator = stage.operator();
    operator.add_remote("web1", "deptool::web1");
    write_unit(&operator, "keeper", "keeper.service", KEEPER);
    operator.write("web1/keeper/word", "one\n");
    operator.commit("A service that works");
    operator.git(&["push", "web1", "prod"]).ok();
    Some(stage)
}

impl Stage {
    /// Commits the work tree and pushes it. Asserts that this fails and that nothing has changed on the host.
    /// Afterwards, the work tree is that of the good commit again.
    #[track_caller]
    fn fails(&self, case: &str, says: &[&str]) -> Run {
        let (operator, host) = (self.operator(), self.host());
        let good = operator.id("prod");
        let before = State::of(host);
        operator.commit(case);
        let mut push = operator.git(&["push", "web1", "prod"]).fails();
        for text in says {
            push = push.says(text);
        }
        assert_eq!(operator.id("refs/remotes/web1/prod"), good, "{push}");
        before.assert_same(host, case);
        operator.git(&["reset", "--quiet", "--hard", &good]).ok();
        operator.git(&["fetch", "--quiet", "web1"]).ok();
        assert_eq!(operator.id("refs/remotes/web1/prod"), good);
        push
    }
}

/// Writes a unit into an app that enables it.
fn write_unit(operator: &Repo<'_>, app: &str, unit: &str, text: &str) {
    operator.write(format!("web1/{app}/systemd/{unit}"), text);
    let manifest = format!(r#"{{"systemd": {{"units_enabled": ["{unit}"]}}}}"#);
    operator.write(format!("web1/{app}/manifest.json"), manifest);
}

const INSTALL: &str = "\n[Install]\nWantedBy=multi-user.target\n";

#[test]
fn a_new_unit_of_any_kind_that_fails_is_taken_back_and_shown() {
    let Some(stage) = deployed() else { return };
    let operator = stage.operator();
    let died = "trial.service exited with status 3";
    let cases: &[(&str, &str, &[&str])] = &[
        // Missing programs and parse errors are refused before anything changes; see checks.rs.
        (
            "simple, can't be executed",
            "ExecStart=/var/lib/deptool/apps/trial/current/run",
            &["203/EXEC", "trial/current/run"],
        ),
        ("exec, can't be executed", "Type=exec\nExecStart=/var/lib/deptool/apps/trial/current/run", &["203/EXEC"]),
        ("dies after 50 ms", "ExecStart=/bin/sh -c 'echo giving up; sleep 0.05; exit 3'", &[died, "giving up"]),
        (
            "crash loop",
            "Restart=always\nRestartSec=50ms\nExecStart=/bin/sh -c 'echo once more; sleep 0.2; exit 3'",
            &[died, "once more"],
        ),
        ("ends at once", "ExecStart=/bin/true", &["trial.service exited with status 0"]),
        ("killed", "ExecStart=/bin/sh -c 'kill -SEGV $$$$'", &["signal 11"]),
        (
            "notify, never ready",
            "Type=notify\nTimeoutStartSec=1\nExecStart=/bin/sh -c 'echo wait for it; exec sleep infinity'",
            &["timed out starting", "wait for it"],
        ),
        (
            "dbus, never ready",
            "Type=dbus\nBusName=org.example.T\nTimeoutStartSec=1\nExecStart=/bin/sleep 60",
            &["timed out"],
        ),
        ("forking, fails", "Type=forking\nExecStart=/bin/sh -c 'exit 3'", &[died]),
        // journald looks up the unit of a line when it reads it. If the process is gone by then, it can't.
        ("oneshot, fails", "Type=oneshot\nExecStart=/bin/sh -c 'echo oh no; sleep 0.3; exit 3'", &[died, "oh no"]),
        (
            "before it",
            "ExecStartPre=/bin/sh -c 'exit 3'\nExecStart=/bin/sleep 60",
            &["ExecStartPre exited with status 3"],
        ),
        (
            "after it",
            "ExecStartPost=/bin/sh -c 'exit 3'\nExecStart=/bin/sleep 60",
            &["ExecStartPost exited with status 3"],
        ),
    ];
    for (case, service, says) in cases {
        write_unit(&operator, "trial", "trial.service", &format!("[Service]\n{service}\n{INSTALL}"));
        operator.write("web1/trial/run", "#!/no/such/interpreter\n");
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(operator.dir.join("web1/trial/run"), executable).unwrap();
        let says = [&["web1", "rolled back", "trial.service"], *says].concat();
        stage.fails(case, &says);
    }
    // Not services.
    write_unit(&operator, "trial", "trial.socket", "[Socket]\nListenStream=22\n\n[Install]\nWantedBy=sockets.target\n");
    operator.write("web1/trial/systemd/trial.service", "[Service]\nExecStart=/bin/sleep 60\n");
    stage.fails("a socket whose port is taken", &["rolled back", "trial.socket"]);
    write_unit(&operator, "trial", "srv.mount", "[Mount]\nWhat=none\nWhere=/srv\nType=nosuchfs\n");
    stage.fails("a mount", &["rolled back", "srv.mount"]);
    let failed = "[Unit]\nRequires=trial.service\nAfter=trial.service\n[Service]\nExecStart=/bin/sleep 60\n";
    write_unit(&operator, "needs", "needs.service", failed);
    write_unit(&operator, "trial", "trial.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n");
    stage.fails("a unit that another one needs", &["trial.service exited with status 1", "needs.service"]);
}

#[test]
fn what_could_not_work_is_refused_before_anything_is_changed() {
    let Some(stage) = deployed() else { return };
    let (operator, host) = (stage.operator(), stage.host());
    host.sh("systemctl mask --quiet nsd.service; printf '#!/bin/sh\\n' >/etc/mine.conf; mkdir /etc/mine.d");
    let wants = |unit: &str| format!(r#"{{"systemd": {{"units_enabled": ["{unit}"]}}}}"#);
    let link = |path: &str| format!(r#"{{"symlinks": {{"{path}": "word"}}}}"#);
    let manifests = [
        (wants("nsd.service"), "unit 'nsd.service' is masked on the host: 'systemctl unmask' it there"),
        (wants("ghost.service"), "unit 'ghost.service' is neither in the tree nor on the host"),
        (link("/etc/mine.conf"), "'/etc/mine.conf' exists and differs from 'trial/word'"),
        (link("/etc/mine.d"), "'/etc/mine.d' is a directory on the host"),
        (r#"{"files": {"word": {"owner": "nobody-knows"}}}"#.to_owned(), "there is no user 'nobody-knows' on the host"),
    ];
    for (manifest, why) in &manifests {
        operator.write("web1/trial/manifest.json", manifest);
        operator.write("web1/trial/word", "two\n");
        stage.fails(why, &["web1", why]).does_not_say("rolled back");
    }
    let sleep = "[Service]\nExecStart=/bin/sleep 60\n";
    let units = [
        (format!("{sleep}User=nobody-knows\n"), "User=nobody-knows: there is no user 'nobody-knows' on the host"),
        (
            format!("{sleep}[Install]\nWantedBy=multi-user\n"),
            "WantedBy=multi-user: 'multi-user' is not a valid unit name",
        ),
        (format!("{sleep}[Install]\nAlso=ghost.socket\n"), "'ghost.socket' is neither in the tree nor on the host"),
        (format!("[Unit]\nRefuseManualStart=yes\n{sleep}{INSTALL}"), "can't be started by hand (RefuseManualStart=)"),
        (String::new(), "'trial/systemd/trial.service' is empty: systemd would take 'trial.service' for masked"),
    ];
    for (unit, why) in &units {
        write_unit(&operator, "trial", "trial.service", unit);
        stage.fails(why, &["web1", why]).does_not_say("rolled back");
    }
    operator.write("web1/trial/tmpfiles/trial.conf", "d /run/trial 0755 nobody-knows root\nthis is no line\n");
    stage.fails("tmpfiles", &["there is no user 'nobody-knows'", "line 2 can't be parsed: this is no line"]);
    operator.write("web1/trial/quadlets/trial.container", "[Container]\nImage=x\n");
    stage.fails("no podman", &["podman is not installed on the host"]).does_not_say("rolled back");
}

#[test]
fn units_that_are_well_are_kept_and_a_removed_deployment_leaves_nothing() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1")]) else { return };
    let (sandbox, host) = (Sandbox::for_lab(&lab), lab.host("web1"));
    let operator = sandbox.repo("operator");
    operator.add_remote("web1", "deptool::web1");
    // The host has some of it already: a running service, and an equal file with another mode and owner.
    host.sh("systemctl enable --quiet --now nginx.service");
    host.sh("printf 'taken over\\n' >/etc/motd.tail; chown www-data:games /etc/motd.tail; chmod 640 /etc/motd.tail");
    host.sh("printf '[Service]\\nExecStart=/bin/sleep infinity\\n' >/etc/systemd/system/own.service");
    host.sh("chmod 664 /etc/systemd/system/own.service; systemctl daemon-reload; systemctl start own.service");
    let before = State::of(host);

    let units: &[(&str, &str)] = &[
        ("once.service", "[Service]\nType=oneshot\nExecStart=/bin/true\n"),
        ("stays.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"),
        ("unmet.service", "[Unit]\nConditionPathExists=/no/such\n[Service]\nExecStart=/bin/false\n"),
        ("unmet2.service", "[Service]\nExecCondition=/bin/false\nExecStart=/bin/false\n"),
        ("plain.service", "[Service]\nExecStart=/bin/sleep infinity\n"),
        ("idle.service", "[Service]\nType=idle\nExecStart=/bin/sleep infinity\n"),
        ("again.service", "[Service]\nRestart=always\nExecStart=/bin/sleep infinity\n"),
        ("ends-badly.service", "[Service]\nExecStart=/bin/sh -c 'trap \"exit 9\" TERM; while :; do sleep 0.1; done'\n"),
        (
            "note.service",
            "[Service]\nType=notify\nNotifyAccess=all\nExecStart=/bin/sh -c 'systemd-notify --ready; sleep infinity'\n",
        ),
        ("fork.service", "[Service]\nType=forking\nExecStart=/bin/sh -c 'sleep infinity & exit 0'\n"),
        ("tick.timer", "[Timer]\nOnCalendar=hourly\n"),
        ("door.socket", "[Socket]\nListenStream=/run/door.socket\n"),
        ("look.path", "[Path]\nPathExists=/no/such\nUnit=door.service\n"),
        ("all.target", "[Unit]\nWants=plain.service\n"),
        ("many@one.service", ""),
        ("srv.mount", "[Mount]\nWhat=/opt\nWhere=/srv\nType=none\nOptions=bind\n"),
    ];
    for (unit, text) in units.iter().filter(|(_, text)| !text.is_empty()) {
        operator.write(format!("web1/zoo/systemd/{unit}"), format!("{text}{INSTALL}"));
    }
    operator.write("web1/zoo/systemd/tick.service", "[Service]\nType=oneshot\nExecStart=/bin/true\n");
    operator.write("web1/zoo/systemd/door.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    operator.write("web1/zoo/systemd/many@.service", format!("[Service]\nExecStart=/bin/sleep infinity\n{INSTALL}"));
    let names: Vec<String> = units.iter().map(|(unit, _)| format!("\"{unit}\"")).collect();
    let manifest = format!(r#"{{"systemd": {{"units_enabled": [{}]}}}}"#, names.join(", "));
    operator.write("web1/zoo/manifest.json", manifest);
    operator.write("web1/host/motd", "taken over\n");
    operator.write("web1/host/deep", "link\n");
    operator.write("web1/host/systemd/own.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    operator.write("web1/host/systemd/nginx.service.d/x.conf", "[Service]\nEnvironment=X=1\n");
    operator.write(
        "web1/host/manifest.json",
        r#"{"systemd": {"units_enabled": ["nginx.service", "own.service"]},
            "symlinks": {"/etc/motd.tail": "motd", "/etc/made/by/us": "deep"}}"#,
    );
    operator.commit("Units of every kind that are well");
    let nginx = host.unit_property("nginx.service", "MainPID");
    operator.git(&["push", "web1", "prod"]).ok();
    for unit in [
        "stays.service",
        "plain.service",
        "note.service",
        "fork.service",
        "tick.timer",
        "door.socket",
        "srv.mount",
        "many@one.service",
        "all.target",
    ] {
        assert_eq!(host.unit_state(unit), "active", "{unit}");
    }
    assert_ne!(host.unit_property("nginx.service", "MainPID"), nginx);
    assert_eq!(host.sh("cat /etc/motd.tail /etc/made/by/us"), "taken over\nlink");
    host.reboot().unwrap();
    for unit in ["plain.service", "tick.timer", "door.socket", "srv.mount", "many@one.service"] {
        assert_eq!(
            (host.unit_state(unit).as_str(), host.unit_file_state(unit).as_str()),
            ("active", "enabled"),
            "{unit}"
        );
    }

    // A service that was not enabled, but started by a socket of ours, is removed with its unit file.
    host.sh("systemctl start door.service own.service");
    operator.git(&["push", "web1", ":prod"]).ok();
    let removed = State::of(host);
    let before = State { deptool: removed.deptool, ..before };
    before.assert_same(host, "removed");
    assert_eq!(host.sh("stat -c '%a %U %G' /etc/motd.tail"), "640 www-data games");
    assert_eq!(host.sh("cd /var/lib/deptool; ls apps"), "");
    assert_eq!(host.unit_state("nginx.service"), "active");
}

#[test]
fn everything_that_a_deployment_can_do_is_undone() {
    let Some(stage) = deployed() else { return };
    let (operator, host) = (stage.operator(), stage.host());
    // Units of the host: nginx runs; `follow` requires `lead`, and both run; `rest` does not run.
    host.sh(
        "systemctl enable --quiet --now nginx.service; printf 'equal\\n' >/etc/equal.conf; chmod 600 /etc/equal.conf",
    );
    let service = "[Service]\\nExecStart=/bin/sleep infinity\\n";
    host.sh(&format!(
        "cd /etc/systemd/system
         printf '{service}' >lead.service
         printf '[Unit]\\nRequires=lead.service\\nAfter=lead.service\\n{service}' >follow.service
         printf '[Unit]\\nPartOf=lead.service\\nAfter=lead.service\\n{service}' >part.service
         printf '{service}' >rest.service
         systemctl daemon-reload; systemctl start follow.service part.service"
    ));
    write_unit(&operator, "leaves", "leaves.service", &format!("[Service]\nExecStart=/bin/sleep infinity\n{INSTALL}"));
    operator.write("web1/links/a", "a\n");
    operator.write("web1/links/manifest.json", r#"{"symlinks": {"/etc/links/a": "a", "/etc/links/b": "a"}}"#);
    operator.write("web1/drop/systemd/nginx.service.d/x.conf", "[Service]\nEnvironment=X=1\n");
    operator.commit("More of it");
    operator.git(&["push", "web1", "prod"]).ok();

    // Everything at once: a symlink, a unit and an app are removed, others are added, a file is taken over, a drop-in
    // changes, users and temporary files are created, and running services are restarted with a new file. The failing
    // unit comes last.
    let change = |operator: &Repo<'_>| {
        operator.remove("web1/leaves");
        operator.write(
            "web1/links/manifest.json",
            r#"{"symlinks": {"/etc/links/b": "a", "/etc/new/dir/c": "a", "/etc/equal.conf": "equal"}}"#,
        );
        operator.write("web1/links/equal", "equal\n");
        operator.write("web1/drop/systemd/nginx.service.d/x.conf", "[Service]\nEnvironment=X=2\n");
        operator.write("web1/drop/systemd/nginx.service.d/y.conf", "[Service]\nEnvironment=Y=2\n");
        operator.write("web1/drop/systemd/lead.service.d/y.conf", "[Service]\nEnvironment=Y=2\n");
        operator.write("web1/keeper/word", "two\n");
        operator.write("web1/users/sysusers/trial.conf", "u trial - \"A trial\"\n");
        operator.write("web1/users/tmpfiles/trial.conf", "d /run/trial 0750 trial trial\n");
        let text = "[Unit]\nAfter=nginx.service keeper.service lead.service\nWants=rest.service\n[Service]\nType=oneshot\nExecStart=/bin/false\n";
        write_unit(operator, "zz", "zz.service", &format!("{text}{INSTALL}"));
    };
    change(&operator);
    let push = stage.fails("everything at once", &["rolled back: zz.service exited with status 1"]);
    push.does_not_say("while rolling back");
    assert_eq!(host.unit_state("leaves.service"), "active");
    for unit in ["lead.service", "follow.service", "part.service", "nginx.service", "keeper.service"] {
        assert_eq!(host.unit_state(unit), "active", "{unit}");
    }
    assert_eq!(host.unit_property("nginx.service", "Environment"), "X=1");
    // Users remain.
    host.sh("getent passwd trial");

    // The unit that systemd restarted together with the failing one is up again, too.
    operator.write("web1/drop/systemd/lead.service.d/y.conf", "[Service]\nExecStart=\nExecStart=/bin/false\n");
    stage.fails("a broken drop-in of the host's unit", &["rolled back", "lead.service"]);

    // The same deployment without the failure succeeds.
    change(&operator);
    write_unit(&operator, "zz", "zz.service", &format!("[Service]\nType=oneshot\nExecStart=/bin/true\n{INSTALL}"));
    operator.commit("Everything, and well");
    operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!(host.unit_property("leaves.service", "LoadState"), "not-found");
    assert_eq!(host.unit_property("nginx.service", "Environment"), "X=2 Y=2");
    host.reboot().unwrap();
    assert_eq!(host.unit_state("nginx.service"), "active");
    assert_eq!(host.unit_state("keeper.service"), "active");
}
