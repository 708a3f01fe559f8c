//! Features of systemd 257 and Podman that systemd 252 lacks: units generated from quadlets, Type=notify-reload.

use deptool_tests::lab::{Base, Host, HostSpec, Lab, start_or_skip};
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::state::State;

/// No image is available here, so the container runs the host's own programs.
const CONTAINER: &str = "\
[Container]
Rootfs=/srv/box
Network=host
Volume=/usr:/usr:ro
Volume=/var/lib/deptool/apps/box/current/data:/data:ro
Volume=kept.volume:/kept
Exec=/usr/bin/sh -c 'read word </data/word; echo it says $word; exec sleep infinity'

[Install]
WantedBy=multi-user.target
";
pub const ROOTFS: &str = "\
mkdir -p /srv/box
cd /srv/box
for dir in bin lib lib64 sbin; do ln -s usr/$dir $dir; done
mkdir usr proc dev sys etc run tmp data kept";

fn trixie() -> Option<Lab> {
    let lab = start_or_skip(&[HostSpec { base: Base::Trixie, ..HostSpec::new("web1") }])?;
    lab.host("web1").sh(ROOTFS);
    Some(lab)
}

fn word_in_container(host: &Host) -> String {
    host.sh("podman exec systemd-box /usr/bin/cat /data/word")
}

fn operator(sandbox: &Sandbox) -> Repo<'_> {
    let operator = sandbox.repo("operator");
    operator.add_remote("web1", "deptool::web1");
    operator
}

#[test]
fn a_quadlet_becomes_a_unit_that_runs_is_restarted_rolled_back_and_removed() {
    let Some(lab) = trixie() else { return };
    let (sandbox, host) = (Sandbox::for_lab(&lab), lab.host("web1"));
    let operator = operator(&sandbox);
    host.reboot().unwrap();
    let before = State::of(host);
    operator.write("web1/box/quadlets/box.container", CONTAINER);
    operator.write("web1/box/quadlets/kept.volume", "[Volume]\n");
    operator.write("web1/box/data/word", "one\n");
    operator.write("web1/box/manifest.json", r#"{"systemd": {"units_enabled": ["box.service"]}}"#);
    operator.commit("A container");
    let good = operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!(host.unit_state("box.service"), "active", "{good}");
    assert_eq!(host.unit_file_state("box.service"), "generated");
    assert_eq!(word_in_container(host), "one");

    operator.write("web1/box/data/word", "two\n");
    operator.commit("Another word");
    operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!(word_in_container(host), "two");
    // Podman keeps what it has created before.
    operator.write("web1/box/quadlets/kept.volume", "[Volume]\nLabel=a=b\n");
    operator.commit("Another volume");
    let kept = "'box/quadlets/kept.volume' has changed, but podman keeps the existing volume";
    operator.git(&["push", "web1", "prod"]).ok().says(kept);
    host.reboot().unwrap();
    assert_eq!(host.unit_state("box.service"), "active");
    assert_eq!(word_in_container(host), "two");

    // A quadlet that Podman can't convert is refused before anything changes.
    let running = State::of(host);
    let good = operator.id("prod");
    operator.write("web1/box/quadlets/box.container", CONTAINER.replace("Rootfs=", "Rotfs="));
    operator.commit("A key that there is not");
    let refused = operator.git(&["push", "web1", "prod"]).fails().does_not_say("rolled back");
    refused.says("'box/quadlets/box.container': podman makes no unit 'box.service' of it: unsupported key 'Rotfs'");
    running.assert_same(host, "refused");

    // One that can't be started: what ran before runs again.
    let broken = [
        (CONTAINER.replace("Rootfs=/srv/box", "Rootfs=/no/such/dir"), "box.service"),
        (CONTAINER.replace("/usr/bin/sh", "/no/such/sh"), "box.service"),
    ];
    for (text, says) in &broken {
        operator.write("web1/box/quadlets/box.container", text);
        operator.write("web1/box/data/word", "never read\n");
        operator.commit("Break it");
        let push = operator.git(&["push", "web1", "prod"]).fails().says("rolled back").says(says);
        running.assert_same(host, text);
        assert_eq!(word_in_container(host), "two", "{push}");
        operator.git(&["reset", "--quiet", "--hard", &good]).ok();
    }

    operator.git(&["push", "web1", ":prod"]).ok();
    assert_eq!(host.sh("systemctl --failed --plain --no-legend"), "");
    // At boot it has started the network's target, which stays.
    host.reboot().unwrap();
    let after = State::of(host);
    State { deptool: after.deptool, ..before }.assert_same(host, "removed");
    assert_eq!(host.sh("podman ps --all --quiet"), "");
    assert_eq!(host.unit_property("box.service", "LoadState"), "not-found");
}

#[test]
fn a_reload_that_systemd_can_observe_is_believed_and_one_that_fails_is_rolled_back() {
    let Some(lab) = trixie() else { return };
    let (sandbox, host) = (Sandbox::for_lab(&lab), lab.host("web1"));
    let operator = operator(&sandbox);
    // Reads a word at its start and at each reload. With an unknown word, it exits, or is never ready.
    operator.write(
        "web1/bell/bell.sh",
        "
read_word() {
    read word </var/lib/deptool/apps/bell/current/word
    case $word in bad) exit 3 ;; hang) return ;; esac
    echo $word >/run/bell
    systemd-notify --ready
}
trap 'systemd-notify --reloading; read_word' HUP
read_word
while :; do sleep 1000 & wait $!; done
",
    );
    operator.write(
        "web1/bell/systemd/bell.service",
        "[Service]\nType=notify-reload\nNotifyAccess=all\nTimeoutStartSec=3\nExecStart=/bin/sh /var/lib/deptool/apps/bell/current/bell.sh\n[Install]\nWantedBy=multi-user.target\n",
    );
    operator.write("web1/bell/word", "one\n");
    let manifest = r#"{"systemd": {"units_enabled": ["bell.service"], "on_change": {"bell.service": "reload"}}}"#;
    operator.write("web1/bell/manifest.json", manifest);
    operator.commit("A bell");
    operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!(host.sh("cat /run/bell"), "one");
    let pid = host.unit_property("bell.service", "MainPID");
    operator.write("web1/bell/word", "two\n");
    operator.commit("Another word");
    operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!((host.sh("cat /run/bell"), host.unit_property("bell.service", "MainPID")), ("two".into(), pid));

    let (good, running) = (operator.id("prod"), State::of(host));
    for word in ["bad", "hang"] {
        operator.write("web1/bell/word", format!("{word}\n"));
        operator.commit("A word that it does not know");
        operator.git(&["push", "web1", "prod"]).fails().says("rolled back: bell.service");
        running.assert_same(host, word);
        assert_eq!(host.sh("cat /run/bell"), "two");
        operator.git(&["reset", "--quiet", "--hard", &good]).ok();
    }
    // Its own unit file changes, so it is restarted anyway.
    let pid = host.unit_property("bell.service", "MainPID");
    operator.write("web1/bell/systemd/bell.service.d/x.conf", "[Service]\nEnvironment=X=1\n");
    operator.commit("A drop-in");
    operator.git(&["push", "web1", "prod"]).ok();
    assert_ne!(host.unit_property("bell.service", "MainPID"), pid);
}
