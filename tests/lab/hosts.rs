//! Tests of the lab itself: hosts are as the other tests expect.

use std::time::Duration;

use deptool_tests::lab::{Base, HostSpec, Link, State, start_or_skip};

#[test]
fn a_host_boots_answers_ssh_and_has_neither_git_nor_python() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1"), HostSpec::new("web2")]) else { return };
    for name in ["web1", "web2"] {
        let host = lab.host(name);
        assert_eq!(host.ssh(&["cat", "/etc/hostname"]).unwrap().ok().line(), name);
        assert_eq!(host.ssh(&["cat", "/proc/1/comm"]).unwrap().ok().line(), "systemd");
        for program in ["git", "python3"] {
            host.ssh(&["command", "-v", program]).unwrap().fails();
        }
        for unit in ["nginx.service", "nsd.service"] {
            assert_eq!(host.unit_file_state(unit), "disabled");
            assert_eq!(host.unit_state(unit), "inactive");
        }
        assert_eq!(host.unit_state("ssh.service"), "active");
        assert_eq!(host.sh("systemctl --failed --plain --no-legend"), "");
    }
    assert_ne!(lab.host("web1").sh("cat /etc/machine-id"), lab.host("web2").sh("cat /etc/machine-id"));
}

#[test]
fn users_differ_in_what_sudo_lets_them_do() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1")]) else { return };
    let host = lab.host("web1");
    assert_eq!(host.ssh_as("core", &["sudo", "-n", "id", "-u"]).unwrap().ok().line(), "0");
    host.ssh_as("asks", &["sudo", "-n", "true"]).unwrap().fails().says("password");
    host.ssh_as("plain", &["sudo", "-n", "true"]).unwrap().fails();
    assert_eq!(host.ssh_as("plain", &["id", "-un"]).unwrap().ok().line(), "plain");
}

#[test]
fn what_a_login_leaves_running_is_killed() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1")]) else { return };
    let host = lab.host("web1");
    host.ssh_as("core", &["setsid sleep 1234 </dev/null >/dev/null 2>&1 &"]).unwrap().ok();
    let gone =
        || host.run_in(&["sh", "-c", "grep -lz 123[4] /proc/[0-9]*/cmdline"]).is_ok_and(|run| run.stdout.is_empty());
    deptool_tests::process::poll("the end of a left process", Duration::from_secs(30), || gone().then_some(()))
        .unwrap();
}

#[test]
fn a_reboot_keeps_files_and_starts_what_is_enabled() {
    let Some(lab) = start_or_skip(&[HostSpec { var_is_mount: true, ..HostSpec::new("web1") }]) else { return };
    let host = lab.host("web1");
    host.sh("systemctl enable nsd.service; echo here >/var/lib/file");
    assert_eq!(std::fs::read(host.path("/var/lib/file")).unwrap(), b"here\n");
    let boot = host.sh("cat /proc/1/stat");
    host.reboot().unwrap();
    assert_ne!(host.sh("cat /proc/1/stat"), boot);
    assert_eq!(host.ssh(&["cat", "/var/lib/file"]).unwrap().ok().line(), "here");
    assert_eq!(host.unit_state("nsd.service"), "active");
    assert_eq!(host.unit_state("var.mount"), "active");
    host.kill();
    host.ssh_command(Link::Plain, "root", &["true"]).run().unwrap().fails();
    host.boot().unwrap();
    assert_eq!(host.unit_state("nsd.service"), "active");
}

#[test]
fn the_state_directory_can_be_full_read_only_or_noexec() {
    let spec = |name, state| HostSpec { state, ..HostSpec::new(name) };
    let specs = [spec("full", State::Disk { mib: 4 }), spec("ro", State::ReadOnly), spec("noexec", State::NoExec)];
    let Some(lab) = start_or_skip(&specs) else { return };
    let write = ["dd", "if=/dev/zero", "of=/var/lib/deptool/file", "bs=1M", "count=8"];
    lab.host("full").ssh(&write).unwrap().fails().says("No space left");
    lab.host("ro").ssh(&write).unwrap().fails().says("Read-only");
    let copy_and_run = "cp /bin/true /var/lib/deptool/ && exec /var/lib/deptool/true";
    lab.host("noexec").ssh(&[copy_and_run]).unwrap().code(126).says("Permission denied");
}

#[test]
fn links_can_be_shared_or_slow() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1")]) else { return };
    let host = lab.host("web1");
    for link in [Link::Shared, Link::Delayed(Duration::from_millis(100))] {
        lab.ssh_config(link).unwrap();
    }
    host.ssh_command(Link::Shared, "root", &["true"]).run().unwrap().ok();
    let shared = host.ssh_command(Link::Shared, "root", &["true"]).run().unwrap().ok();
    let slow = host.ssh_command(Link::Delayed(Duration::from_millis(100)), "root", &["cat"]).input("x").run().unwrap();
    let slow = slow.ok().prints("x");
    // A handshake takes several round trips of 0.2 s, a shared connection none.
    assert!(slow.took > shared.took + Duration::from_millis(600), "{:?} {:?}", slow.took, shared.took);
}

#[test]
fn a_trixie_host_makes_units_of_quadlets() {
    let Some(lab) = start_or_skip(&[HostSpec { base: Base::Trixie, ..HostSpec::new("web1") }]) else { return };
    let host = lab.host("web1");
    host.sh("mkdir -p /etc/containers/systemd; printf '[Container]\\nImage=localhost/x\\n' >/etc/containers/systemd/x.container");
    host.sh("systemctl daemon-reload");
    assert_eq!(host.unit_file_state("x.service"), "generated");
    host.ssh(&["command", "-v", "git", "python3"]).unwrap().fails();
}
