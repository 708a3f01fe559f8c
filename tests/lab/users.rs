//! Units of users: they are copied to `/etc/systemd/user`, and the users' own service managers run them.

use std::time::Duration;

use deptool_tests::lab::{Base, Host};
use deptool_tests::process::{Going, poll};

use crate::{quadlets::ROOTFS, stage::Stage};

const WEB: &str = "\
[Service]
ExecStart=/bin/sh -c 'read word </var/lib/deptool/apps/web/current/word; echo \"$word\" >%t/word; exec sleep infinity'
[Install]
WantedBy=default.target
";
const MANIFEST: &str = r#"{"users": {"alice": {"units_enabled": ["web.service"]}}}"#;
const UNIT: &str = "web/user/alice/systemd/web.service";

/// A host with two users, of whom alice lingers.
fn with_alice(base: Base) -> Option<Stage> {
    let stage = Stage::of_one(base)?;
    stage.host().sh("useradd -m -s /bin/bash alice; useradd -m bob");
    loginctl(stage.host(), "enable-linger alice");
    await_manager(stage.host());
    Some(stage)
}

/// Over ssh: systemd-logind of Debian 13 does not listen to a process that is in no control group of its own.
fn loginctl(host: &Host, what: &str) {
    host.ssh(&["loginctl", what]).unwrap().ok();
}

fn await_manager(host: &Host) {
    let runs = || alice(host, "systemctl --user is-system-running").contains("running").then_some(());
    poll("alice's service manager", Duration::from_secs(30), runs).unwrap();
}

/// What a command of the user prints, whatever its exit status.
fn by(host: &Host, user: &str, command: &str) -> String {
    let id = host.sh(&format!("id -u {user}"));
    let environment = format!("XDG_RUNTIME_DIR=/run/user/{id} HOME=/home/{user}");
    let as_user = format!("setpriv --reuid {user} --regid {user} --init-groups env {environment}");
    host.sh(&format!("cd /home/{user}; {as_user} {command} || true"))
}

fn alice(host: &Host, command: &str) -> String {
    by(host, "alice", command)
}

fn property(host: &Host, unit: &str, name: &str) -> String {
    alice(host, &format!("systemctl --user show --value --property {name} {unit}"))
}

/// Whether it runs, and whether it is enabled.
fn state(host: &Host, user: &str, unit: &str) -> (String, String) {
    let ask = |what: &str| by(host, user, &format!("systemctl --user {what} {unit}"));
    (ask("is-active"), ask("is-enabled"))
}

fn word(host: &Host) -> String {
    host.sh("cat /run/user/$(id -u alice)/word")
}

#[track_caller]
fn assert_runs(host: &Host, unit: &str, enablement: &str) {
    assert_eq!(state(host, "alice", unit), ("active".into(), enablement.into()));
}

/// Puts alice's service on the host, which reads `word` at its start.
fn deploy(stage: &Stage) {
    stage.write("web/manifest.json", MANIFEST);
    stage.write(UNIT, WEB);
    stage.write("web/word", "one\n");
    stage.push("A service of alice's").ok();
}

#[test]
fn a_unit_of_a_user_is_deployed_changed_rolled_back_and_removed() {
    let Some(stage) = with_alice(Base::Bookworm) else { return };
    let host = stage.host();
    deploy(&stage);
    assert_runs(host, "web.service", "enabled");
    assert_eq!(property(host, "web.service", "DropInPaths"), "");
    assert_eq!(host.unit_property("web.service", "LoadState"), "not-found", "it is not the system's");
    assert_eq!(word(host), "one");

    stage.write("web/word", "two\n");
    stage.push("Another word").ok();
    assert_eq!(word(host), "two");
    stage.write(UNIT, &WEB.replace("[Service]", "[Service]\nNice=3"));
    stage.push("Another priority").ok();
    assert_eq!(property(host, "web.service", "Nice"), "3");

    let good = stage.operator().id("prod");
    for (broken, why) in [
        (WEB.replace("exec sleep infinity", "echo last words; sleep 0.5; exit 3"), "exited with status 3"),
        // journald may not learn whose words they are.
        (WEB.replace("exec sleep infinity", "echo quick words; exit 3"), "exited with status 3"),
        (WEB.replace("/bin/sh", "/no/such/shell"), "exited with status 203/EXEC"),
    ] {
        stage.write(UNIT, &broken);
        stage.write("web/word", "never\n");
        let failed = stage.push("Break it").fails().says("rolled back: alice/web.service").says(why);
        if broken.contains("last words") {
            failed.says("last words");
        }
        stage.operator().git(&["reset", "--quiet", "--hard", &good]).ok();
        assert_runs(host, "web.service", "enabled");
        assert_eq!(word(host), "two");
        assert_eq!(property(host, "web.service", "Nice"), "3");
    }

    // A new unit that fails leaves nothing behind, and what was not enabled is not enabled.
    stage.write(
        "web/user/alice/systemd/bad.service",
        "[Service]\nExecStart=/bin/false\n[Install]\nWantedBy=default.target\n",
    );
    stage.write("web/manifest.json", &MANIFEST.replace("[\"web", "[\"bad.service\", \"web"));
    stage.push("Another service").fails().says("rolled back: alice/bad.service");
    assert_eq!(alice(host, "find .config -name bad.service"), "");
    assert_eq!(property(host, "bad.service", "LoadState"), "not-found");
    assert_eq!(alice(host, "systemctl --user --failed --plain --no-legend"), "");
    stage.operator().git(&["reset", "--quiet", "--hard", &good]).ok();

    host.reboot().unwrap();
    await_manager(host);
    assert_runs(host, "web.service", "enabled");
    stage.operator().git(&["push", "web1", ":prod"]).ok();
    assert_eq!(property(host, "web.service", "LoadState"), "not-found");
    assert_eq!(host.sh("find /etc/systemd/user /home/alice/.config -name 'web.service*'"), "");
}

#[test]
fn what_is_changed_by_hand_is_told_and_repaired() {
    let Some(stage) = with_alice(Base::Bookworm) else { return };
    let (host, operator) = (stage.host(), stage.operator());
    deploy(&stage);
    operator.git(&["deptool", "verify", "web1"]).ok();
    for (by_hand, what) in [
        ("systemctl --user stop web.service", "alice/web.service was stopped"),
        ("systemctl --user disable web.service", "alice/web.service was disabled"),
        ("systemctl --user mask --now web.service", "alice/web.service was masked"),
    ] {
        alice(host, by_hand);
        operator.git(&["deptool", "verify", "web1"]).fails().prints(what);
        if by_hand.contains("mask") {
            alice(host, "systemctl --user unmask web.service");
        }
        operator.git(&["deptool", "repair", "--yes", "web1"]).ok();
        operator.git(&["deptool", "verify", "web1"]).ok();
        assert_runs(host, "web.service", "enabled");
    }
    host.sh("echo '[Unit]' >>/etc/systemd/user/web.service");
    host.sh("mkdir /etc/systemd/user/web.service.d; echo '[Service]' >/etc/systemd/user/web.service.d/x.conf");
    let told =
        operator.git(&["deptool", "verify", "web1"]).fails().prints("'/etc/systemd/user/web.service' was edited");
    told.prints("alice/web.service has the drop-in '/etc/systemd/user/web.service.d/x.conf'");
    operator.git(&["deptool", "repair", "--yes", "web1"]).ok();
    operator.git(&["deptool", "verify", "web1"]).ok();

    // A unit file of the user's own is the user's business, but what was deployed does not run then.
    alice(host, "mkdir -p .config/systemd/user");
    host.sh("cp /etc/systemd/user/web.service /home/alice/.config/systemd/user");
    alice(host, "systemctl --user daemon-reload");
    let overridden = "overridden by '/home/alice/.config/systemd/user/web.service'";
    operator.git(&["deptool", "verify", "web1"]).fails().prints(overridden);
    operator.git(&["deptool", "repair", "--yes", "web1"]).fails().prints(overridden);
}

#[test]
fn a_user_who_does_not_linger_is_refused_with_the_command_that_changes_it() {
    let Some(stage) = with_alice(Base::Bookworm) else { return };
    let host = stage.host();
    stage.write("web/manifest.json", &MANIFEST.replace("alice", "bob"));
    stage.write("web/user/bob/systemd/web.service", WEB);
    stage.write("web/word", "one\n");
    stage.push("Units of bob's").fails().says("'loginctl enable-linger bob'").does_not_say("rolled back");
    assert!(!host.path("/etc/systemd/user/web.service").exists());
    loginctl(host, "enable-linger bob");
    host.sh("until [ -S /run/user/$(id -u bob)/systemd/private ]; do sleep 0.1; done");
    stage.operator().git(&["push", "web1", "prod"]).ok();

    // The system's socket in the place of the user's: nothing of the system's is touched.
    host.sh("cd /run/user/$(id -u bob)/systemd; mv private real; ln -s /run/systemd/private private");
    stage.write("web/word", "two\n");
    stage.push_fails("Another word").says("the service manager of user 'bob' can't be reached");
    host.sh("cd /run/user/$(id -u bob)/systemd; mv real private");

    // Removal does not wait for a manager that is gone.
    loginctl(host, "disable-linger bob");
    host.sh("systemctl stop user@$(id -u bob).service");
    stage.operator().git(&["deptool", "verify", "web1"]).fails().prints("bob/web.service is unknown");
    stage.push_fails("Another word").says("'loginctl enable-linger bob'");
    stage.operator().git(&["push", "web1", ":prod"]).ok().says("the service manager of user 'bob' can't be reached");
    assert!(!host.path("/etc/systemd/user/web.service").exists());

    stage.write("web/manifest.json", &MANIFEST.replace("alice", "carol"));
    stage.push_fails("Units of carol's").says("there is no user 'carol' on the host");
}

#[test]
fn two_users_can_have_the_same_unit() {
    let Some(stage) = with_alice(Base::Bookworm) else { return };
    let host = stage.host();
    loginctl(host, "enable-linger bob");
    host.sh("until [ -S /run/user/$(id -u bob)/systemd/private ]; do sleep 0.1; done");
    let manifest =
        r#"{"users": {"alice": {"units_enabled": ["web.service"]}, "bob": {"units_enabled": ["web.service"]}}}"#;
    stage.write("web/manifest.json", manifest);
    stage.write("web/word", "one\n");
    let of_bob = UNIT.replace("alice", "bob");
    let write = |text: &str| {
        stage.write(UNIT, text);
        stage.write(&of_bob, text);
    };
    write(WEB);
    stage.push("A service of two users").ok();
    let priority = |user| by(host, user, "systemctl --user show --value --property Nice web.service");
    let states = || ["alice", "bob"].map(|user| (state(host, user, "web.service"), priority(user)));
    let both = |priority: &str| [(); 2].map(|()| (("active".into(), "enabled".into()), priority.into()));
    assert_eq!(states(), both("0"));
    write(&WEB.replace("[Service]", "[Service]\nNice=3"));
    stage.push("Another priority").ok();
    assert_eq!(states(), both("3"));

    // One of them fails: both are as before.
    let fails = WEB.replace("[Service]", "[Service]\nNice=4\nExecStartPre=/bin/sh -c 'test $(id -un) = alice'");
    write(&fails);
    stage.push_fails("Not for bob").says("rolled back: bob/web.service");
    assert_eq!(states(), both("3"));

    write(&WEB.replace("[Service]", "[Service]\nNice=3"));
    stage.operator().remove(format!("web1/{of_bob}"));
    stage.write("web/manifest.json", MANIFEST);
    stage.push("No longer bob's").ok();
    assert_runs(host, "web.service", "enabled");
    assert_eq!(state(host, "bob", "web.service"), ("inactive".into(), "disabled".into()));
}

/// Deploys web.service, and then another unit in its place, which takes its time. Returns when that is starting.
fn in_the_middle(stage: &Stage) -> Going {
    let host = stage.host();
    deploy(stage);
    stage.write("web/manifest.json", &MANIFEST.replace("web.service", "other.service"));
    stage.operator().remove(format!("web1/{UNIT}"));
    let slow = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo >%t/slow; exec sleep 60'\n[Install]\nWantedBy=default.target\n";
    stage.write("web/user/alice/systemd/other.service", slow);
    stage.operator().commit("Another service");
    let push = stage.operator().command(&["push", "web1", "prod"]).start().unwrap();
    let is_slow =
        || host.run_in(&["sh", "-c", "test -e /run/user/$(id -u alice)/slow"]).unwrap().success().then_some(());
    poll("the slow unit", Duration::from_secs(60), is_slow).unwrap();
    assert_eq!(property(host, "web.service", "LoadState"), "not-found");
    push
}

/// Asserts that [`in_the_middle`] was undone.
fn assert_undone(host: &Host) {
    assert_eq!(host.sh("cat /etc/systemd/user/web.service"), WEB.trim_end());
    assert_runs(host, "web.service", "enabled");
    assert_eq!(property(host, "other.service", "LoadState"), "not-found");
    assert_eq!(alice(host, "find .config -name other.service"), "");
    assert_eq!(host.sh("cat /var/lib/deptool/state/journal"), "");
}

#[test]
fn an_agent_that_is_killed_in_the_middle_is_recovered_from() {
    let Some(stage) = with_alice(Base::Bookworm) else { return };
    let (host, push) = (stage.host(), in_the_middle(&stage));
    host.sh(
        "for dir in /proc/[0-9]*; do case $(readlink $dir/exe) in */deptool-agent-*) kill -9 ${dir#/proc/};; esac; done",
    );
    push.wait().unwrap().fails();
    stage.operator().git(&["fetch", "web1"]).ok();
    assert_undone(host);
}

#[test]
fn after_a_power_cut_in_the_middle_the_next_connection_enables_what_was_enabled() {
    let Some(stage) = with_alice(Base::Bookworm) else { return };
    let (host, push) = (stage.host(), in_the_middle(&stage));
    host.kill();
    push.wait().unwrap().fails();
    host.boot().unwrap();
    await_manager(host);
    // The boot has put back the files; only the user's manager can enable.
    assert_eq!(host.sh("cat /etc/systemd/user/web.service"), WEB.trim_end());
    stage.operator().git(&["fetch", "web1"]).ok();
    assert_undone(host);
}

#[test]
fn a_users_quadlet_becomes_a_unit_of_the_user() {
    let Some(stage) = with_alice(Base::Trixie) else { return };
    let host = stage.host();
    // newuidmap, which ranges of ids would need, is not installed: root of the container is alice, and there is nobody else.
    host.sh(&format!("{ROOTFS}\nchown -R alice /srv/box; sed -i /alice/d /etc/subuid /etc/subgid"));
    let container = "[Container]\nRootfs=/srv/box\nNetwork=host\nVolume=/usr:/usr:ro\nExec=/usr/bin/sleep infinity\n[Install]\nWantedBy=default.target\n";
    let quadlet = "box/user/alice/quadlets/box.container";
    stage.write(quadlet, container);
    stage.write("box/manifest.json", r#"{"users": {"alice": {"units_enabled": ["box.service"]}}}"#);
    // Podman has rootless containers wait for the system's network.
    host.sh("systemctl start network-online.target");
    stage.push("A container of alice's").ok();
    assert_runs(host, "box.service", "generated");
    let place = format!("/etc/containers/systemd/users/{}", host.sh("id -u alice"));
    assert!(host.path(&format!("{place}/box.container")).exists());
    let pid = property(host, "box.service", "MainPID");
    stage.operator().git(&["deptool", "verify", "web1"]).ok();

    stage.write(quadlet, &container.replace("infinity", "1000000"));
    stage.push("Another time").ok();
    assert_ne!(property(host, "box.service", "MainPID"), pid);
    stage.write(quadlet, &container.replace("Rootfs=", "Rotfs="));
    stage.push_fails("A key that there is not").says("podman makes no unit 'alice/box.service' of it");
    stage.write(quadlet, &container.replace("/usr/bin/sleep", "/no/such/program"));
    stage.push_fails("A program that there is not").says("rolled back: alice/box.service");
    assert_runs(host, "box.service", "generated");

    host.reboot().unwrap();
    host.sh("systemctl start network-online.target");
    await_manager(host);
    assert_runs(host, "box.service", "generated");
    stage.operator().git(&["push", "web1", ":prod"]).ok();
    assert_eq!(property(host, "box.service", "LoadState"), "not-found");
    assert_eq!(alice(host, "podman ps --all --quiet"), "");
    assert!(!host.path(&place).exists());
}
