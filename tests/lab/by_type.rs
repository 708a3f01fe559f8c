//! What a change of an app does to a unit depends on the unit's type: real sockets, timers, paths, mounts, slices, targets.

use deptool_tests::lab::{Base, Host};

use crate::stage::Stage;

fn stage() -> Option<Stage> {
    Stage::of_one(Base::Bookworm)
}

fn pid(host: &Host, unit: &str) -> String {
    host.unit_property(unit, "MainPID")
}

const SLEEP: &str = "[Service]\nExecStart=/bin/sleep infinity\n";

#[test]
fn a_socket_goes_on_listening_while_its_service_is_restarted_and_changes_with_it() {
    let Some(stage) = stage() else { return };
    let host = stage.host();
    let socket = |port: u16| format!("[Socket]\nListenStream=127.0.0.1:{port}\n[Install]\nWantedBy=sockets.target\n");
    let seen = "cp /var/lib/deptool/apps/greet/current/text /run/greet.seen; exec sleep infinity";
    stage.write("greet/systemd/greet.socket", &socket(7030));
    stage.write("greet/systemd/greet.service", &format!("[Service]\nExecStart=/bin/sh -c '{seen}'\n"));
    stage.write("greet/text", "one\n");
    stage.write("greet/manifest.json", r#"{"systemd": {"units_enabled": ["greet.socket"]}}"#);
    stage.push("A socket").ok();
    assert_eq!(host.unit_state("greet.service"), "inactive");
    let listening = host.unit_property("greet.socket", "InvocationID");

    // The service does not run: nothing has to be done.
    stage.write("greet/text", "two\n");
    stage.push("Another file").ok();
    host.sh("systemctl start greet.service; sleep 0.2");
    stage.write("greet/text", "three\n");
    stage.push("Another file, while the service runs").ok().does_not_say("also restarted");
    assert_eq!(host.sh("cat /run/greet.seen"), "three");
    assert_eq!(host.unit_property("greet.socket", "InvocationID"), listening, "the socket was not touched");

    // Its own file: the service is stopped in between, and runs again.
    stage.write("greet/systemd/greet.socket", &socket(7031));
    stage.push("Another port").ok();
    assert_eq!(host.sh("ss -ltnH 'sport = :7031' | wc -l; ss -ltnH 'sport = :7030' | wc -l"), "1\n0");
    assert_eq!((host.unit_state("greet.socket"), host.unit_state("greet.service")), ("active".into(), "active".into()));
    // Both at once, and then back, because the service does not come up.
    stage.write("greet/systemd/greet.socket", &socket(7032));
    stage.write("greet/systemd/greet.service", "[Service]\nExecStart=/bin/sh -c 'exit 3'\n");
    stage.push("A service that fails").fails().says("greet.service").says("rolled back");
    assert_eq!(host.sh("ss -ltnH 'sport = :7031' | wc -l; ss -ltnH 'sport = :7032' | wc -l"), "1\n0");
    assert_eq!((host.unit_state("greet.socket"), host.unit_state("greet.service")), ("active".into(), "active".into()));
    assert_eq!(host.sh("systemctl list-units --failed --no-legend --plain | wc -l"), "0");
}

#[test]
fn a_service_that_gets_a_socket_and_a_socket_of_the_hosts_own_that_gets_a_drop_in() {
    let Some(stage) = stage() else { return };
    let host = stage.host();
    stage.write("echo/systemd/echo.service", &format!("{SLEEP}[Install]\nWantedBy=multi-user.target\n"));
    stage.write("echo/manifest.json", r#"{"systemd": {"units_enabled": ["echo.service"]}}"#);
    stage.push("A service").ok();
    stage.write("echo/systemd/echo.socket", "[Socket]\nListenStream=127.0.0.1:7001\n");
    stage.write("echo/manifest.json", r#"{"systemd": {"units_enabled": ["echo.service", "echo.socket"]}}"#);
    stage.push("And its socket").ok();
    assert_eq!((host.unit_state("echo.socket"), host.unit_state("echo.service")), ("active".into(), "active".into()));

    host.sh("printf '[Socket]\\nListenStream=127.0.0.1:7020\\n' >/etc/systemd/system/own.socket
         printf '[Service]\\nExecStart=/bin/sleep infinity\\n' >/etc/systemd/system/own.service
         systemctl daemon-reload; systemctl start own.socket own.service");
    stage.write("limit/systemd/own.socket.d/backlog.conf", "[Socket]\nBacklog=77\n");
    stage.push("A drop-in").ok();
    assert_eq!((host.unit_state("own.socket"), host.unit_state("own.service")), ("active".into(), "active".into()));
    assert_eq!(host.sh("ss -ltnH 'sport = :7020' | tr -s ' ' | cut -d ' ' -f 3"), "77");
    stage.operator().remove("web1/limit");
    stage.push("Without it").ok();
    assert_eq!((host.unit_state("own.socket"), host.unit_state("own.service")), ("active".into(), "active".into()));
}

#[test]
fn timers_paths_mounts_and_slices_are_left_in_peace() {
    let Some(stage) = stage() else { return };
    let host = stage.host();
    let timer = |when: &str| format!("[Timer]\nOnCalendar={when}\nOnActiveSec=1h\n[Install]\nWantedBy=timers.target\n");
    stage.write("all/systemd/job.timer", &timer("*-01-01 00:00:00"));
    stage
        .write("all/systemd/job.service", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo ran >>/run/job.runs'\n");
    let mount = |options: &str, note: &str| {
        format!("# {note}\n[Mount]\nWhat=tmpfs\nWhere=/srv/scratch\nType=tmpfs\nOptions={options}\n")
    };
    stage.write("all/systemd/srv-scratch.mount", &mount("size=1m", "one"));
    stage.write("all/systemd/tenant.slice", "[Slice]\nMemoryMax=200M\n");
    stage.write("all/systemd/tenant.service", "[Service]\nSlice=tenant.slice\nExecStart=/bin/sleep infinity\n");
    stage.write("all/note", "one\n");
    let units = r#"["job.timer", "srv-scratch.mount", "tenant.service"]"#;
    let on_change = r#""on_change": {"tenant.service": "none"}"#;
    stage.write("all/manifest.json", &format!(r#"{{"systemd": {{"units_enabled": {units}, {on_change}}}}}"#));
    stage.push("One of each").ok();
    host.sh("touch /srv/scratch/kept");
    let tenant = pid(host, "tenant.service");
    let timer_run = host.unit_property("job.timer", "InvocationID");

    stage.write("all/note", "two\n");
    stage.push("A note").ok();
    stage.write("all/systemd/srv-scratch.mount", &mount("size=1m", "two"));
    stage.push("A comment").ok();
    stage.write("all/systemd/srv-scratch.mount", &mount("size=2m", "two"));
    stage.push("An option").ok();
    assert_eq!(host.sh("ls /srv/scratch"), "kept", "it was not mounted anew");
    assert!(host.sh("grep /srv/scratch /proc/mounts").contains("size=2048k"));

    stage.write("all/systemd/job.timer", &timer("*-02-02 00:00:00"));
    stage.push("Another time").ok();
    assert_eq!(host.unit_property("job.timer", "InvocationID"), timer_run, "it counts on from when it was started");
    assert!(host.unit_property("job.timer", "TimersCalendar").contains("02-02"));
    assert_eq!(host.sh("cat /run/job.runs 2>/dev/null | wc -l"), "0", "no run off its schedule");

    stage.write("all/systemd/tenant.slice", "[Slice]\nMemoryMax=300M\n");
    stage.push("Another limit").ok();
    assert_eq!(host.unit_property("tenant.slice", "MemoryMax"), "314572800");
    let dbus = pid(host, "dbus.service");
    stage.write("all/systemd/system.slice.d/weight.conf", "[Slice]\nCPUWeight=200\n");
    stage.push("A limit of all of the system").ok();
    assert_eq!((pid(host, "dbus.service"), pid(host, "tenant.service")), (dbus, tenant));
    let operator = stage.operator();
    operator.git(&["push", "web1", ":prod"]).ok();
    assert_eq!(host.unit_state("tenant.slice"), "inactive", "nothing is left in it");
}

#[test]
fn the_members_of_a_target_follow_its_app() {
    let Some(stage) = stage() else { return };
    let host = stage.host();
    stage.write(
        "stack/systemd/stack.target",
        "[Unit]\nWants=web.service worker@1.service\n[Install]\nWantedBy=multi-user.target\n",
    );
    let member = "[Unit]\nPartOf=stack.target\n[Service]\n\
                  ExecStart=/bin/sh -c 'grep -q ok /var/lib/deptool/apps/stack/current/conf || exit 4; exec sleep infinity'\n";
    stage.write("stack/systemd/web.service", member);
    stage.write("stack/systemd/worker@.service", member);
    stage.write("stack/conf", "ok 1\n");
    stage.write("stack/manifest.json", r#"{"systemd": {"units_enabled": ["stack.target"]}}"#);
    stage.push("A target").ok();
    let (web, worker) = (pid(host, "web.service"), pid(host, "worker@1.service"));
    stage.write("stack/conf", "ok 2\n");
    let plan = stage.operator();
    plan.commit("Another file");
    plan.git(&["push", "--dry-run", "web1", "prod"])
        .ok()
        .says("restart what unit stack.target groups, if it runs: web.service, worker@1.service");
    plan.git(&["push", "web1", "prod"]).ok();
    assert_ne!((pid(host, "web.service"), pid(host, "worker@1.service")), (web, worker));
    stage.write("stack/conf", "bad\n");
    stage.push("A file that they can't work with").fails().says("rolled back").says("exited with status 4");
    assert_eq!(
        (host.unit_state("web.service"), host.unit_state("worker@1.service")),
        ("active".into(), "active".into())
    );
    plan.git(&["push", "web1", ":prod"]).ok();
    assert_eq!(
        (host.unit_state("web.service"), host.unit_state("worker@1.service")),
        ("inactive".into(), "inactive".into())
    );
}

#[test]
fn running_instances_take_a_drop_in_for_all_of_them_or_are_named() {
    let Some(stage) = stage() else { return };
    let host = stage.host();
    host.sh(
        "for unit in tun@ app-one; do printf '[Service]\\nExecStart=/bin/sleep infinity\\n' >/etc/systemd/system/$unit.service; done
         systemctl daemon-reload; systemctl start tun@a tun@b app-one",
    );
    let nice = |unit: &str| host.sh(&format!("ps -o ni= -p {}", pid(host, unit)));
    stage.write("t/systemd/tun@.service.d/nice.conf", "[Service]\nNice=4\n");
    stage.push("For a template").ok();
    assert_eq!((nice("tun@a.service").as_str(), nice("tun@b.service").as_str()), ("4", "4"));
    stage.write("t/systemd/app-.service.d/nice.conf", "[Service]\nNice=5\n");
    stage.push("For a prefix").ok();
    assert_eq!(nice("app-one.service"), "5");
    let dbus = pid(host, "dbus.service");
    stage.write("t/systemd/service.d/abort.conf", "[Service]\nTimeoutStopFailureMode=abort\n");
    stage
        .push("For all services")
        .ok()
        .says("keep their settings until they are restarted ('service')")
        .says("app-one.service");
    assert_eq!(pid(host, "dbus.service"), dbus);
    // If a template is removed, its instances stop.
    stage.write("t/systemd/w@.service", SLEEP);
    stage.push("A template").ok();
    host.sh("systemctl start w@byhand");
    stage.operator().remove("web1/t/systemd/w@.service");
    stage.push("Without it").ok();
    assert_eq!(host.unit_state("w@byhand.service"), "inactive");
}
