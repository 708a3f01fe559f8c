//! What systemd or Podman would refuse, ignore or fail at later is refused before anything changes.

use deptool_tests::lab::Base;

use crate::stage::Stage;
use crate::state::State;

const SERVICE: &str = "[Service]\nExecStart=/bin/sleep infinity\n";

#[test]
fn what_can_be_known_before_is_refused_before() {
    let Some(stage) = Stage::of_one(Base::Bookworm) else { return };
    let host = stage.host();
    stage.write("keep/file", "1\n");
    stage.push("Something that stays").ok();
    host.sh("systemctl mask --quiet nsd.service
         printf '[Unit]\\nRefuseManualStart=yes\\n[Service]\\nExecStart=/bin/sleep infinity\\n' >/etc/systemd/system/by-itself.service
         systemctl daemon-reload");
    let before = State::of(host);
    let install = |line: &str| format!("{SERVICE}[Install]\n{line}\n");
    let enables = |unit: &str| format!("{{\"systemd\": {{\"units_enabled\": [\"{unit}\"]}}}}");
    let with = |line: &str| format!("{SERVICE}{line}\n");
    for (file, text, says) in [
        (
            "systemd/a.service",
            install("WantedBy=multi-user"),
            "'app/systemd/a.service': WantedBy=multi-user: 'multi-user' is not a valid unit name",
        ),
        (
            "systemd/a.service",
            install("Alias=front.socket"),
            "'app/systemd/a.service': Alias=front.socket: 'front.socket' is of another type",
        ),
        ("systemd/a.service", install("Also=other.socket"), "'other.socket' is neither in the tree nor on the host"),
        (
            "systemd/a.service",
            String::new(),
            "'app/systemd/a.service' is empty: systemd would take 'a.service' for masked",
        ),
        (
            "systemd/a.service",
            with("User=nobody-such"),
            "'app/systemd/a.service': User=nobody-such: there is no user 'nobody-such'",
        ),
        ("systemd/a.service", with("Group=none-such"), "Group=none-such: there is no group 'none-such' on the host"),
        ("systemd/a.service", with("SupplementaryGroups=adm none-such"), "there is no group 'none-such' on the host"),
        (
            "systemd/a.socket",
            "[Socket]\nListenStream=/run/a\nSocketUser=nobody-such\n".into(),
            "SocketUser=nobody-such: there is no user",
        ),
        (
            "systemd/nginx.service.d/x.conf",
            "[Service]\nUser=nobody-such\n".into(),
            "'app/systemd/nginx.service.d/x.conf': User=nobody-such",
        ),
        (
            "tmpfiles/a.conf",
            "d /srv/a 0750 nobody-such root\n".into(),
            "'app/tmpfiles/a.conf': line 1: there is no user 'nobody-such'",
        ),
        (
            "tmpfiles/a.conf",
            "d /srv/a\nthis is no line\n".into(),
            "'app/tmpfiles/a.conf': line 2 can't be parsed: this is no line",
        ),
        ("sysusers/a.conf", "x someone\n".into(), "'app/sysusers/a.conf': line 1 can't be parsed: x someone"),
        ("quadlets/a.container", "[Container]\nImage=example.org/a\n".into(), "podman is not installed on the host"),
        (
            "manifest.json",
            enables("nsd.service"),
            "unit 'nsd.service' is masked on the host: 'systemctl unmask' it there",
        ),
        ("manifest.json", enables("no-such.service"), "unit 'no-such.service' is neither in the tree nor on the host"),
        ("manifest.json", enables("by-itself.service"), "unit 'by-itself.service' can't be started by hand"),
    ] {
        stage.write(&format!("app/{file}"), &text);
        stage.push_fails(file).says(says).does_not_say("rolled back");
        before.assert_same(host, &text);
        stage.operator().remove("web1/app");
    }
    // All that is wrong is said at once.
    stage.write("app/systemd/a.service", &with("User=nobody-such\n[Install]\nWantedBy=nothing"));
    stage.push_fails("Both").says("there is no user 'nobody-such'").says("'nothing' is not a valid unit name");
    stage.operator().remove("web1/app");
    // What the deployment itself creates counts as existing.
    stage.write("app/sysusers/a.conf", "u daemon-a - \"A daemon\"\ng readers-a -\nm daemon-a readers-a\n");
    stage.write("app/tmpfiles/a.conf", "d /srv/a 0750 daemon-a readers-a\n");
    stage.write(
        "app/systemd/a.service",
        &install("WantedBy=multi-user.target\nAlso=a.socket\nAlias=front.service")
            .replace("[Install]", "User=daemon-a\n[Install]"),
    );
    stage.write(
        "app/systemd/a.socket",
        "[Socket]\nListenStream=/run/a\nSocketGroup=readers-a\n[Install]\nWantedBy=sockets.target\n",
    );
    stage.write("app/manifest.json", &enables("a.service"));
    stage.push("All of it").ok();
    assert_eq!(host.unit_state("a.service"), "active");
    assert_eq!(host.sh("stat -c '%U %G' /srv/a"), "daemon-a readers-a");
}

#[test]
fn what_refuses_to_be_stopped_by_hand_is_left_for_the_next_boot_or_refused() {
    let Some(stage) = Stage::of_one(Base::Bookworm) else { return };
    let host = stage.host();
    host.sh("printf '[Unit]\\nRefuseManualStop=yes\\n[Service]\\nExecStart=/bin/sleep infinity\\n' >/etc/systemd/system/guard.service
         systemctl daemon-reload; systemctl start guard.service");
    let pid = host.unit_property("guard.service", "MainPID");
    stage.write("audit/rules", "1\n");
    stage.write("audit/systemd/guard.service.d/nice.conf", "[Service]\nNice=3\n");
    stage
        .push("A drop-in")
        .ok()
        .says("'guard.service' refuses to be stopped by hand: the change takes effect at the next boot");
    stage.write("audit/rules", "2\n");
    stage.write("audit/manifest.json", r#"{"systemd": {"on_change": {"guard.service": "restart"}}}"#);
    stage.push_fails("A restart that is asked for").says("unit 'guard.service' refuses to be stopped by hand");
    assert_eq!(host.unit_property("guard.service", "MainPID"), pid);
}
