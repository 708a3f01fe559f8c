//! Once activation has begun, the host completes the deployment or rolls it back by itself, whatever happens to the
//! operator's side, the login session or the host. The next contact reports the truth.

use std::time::Duration;

use deptool_tests::lab::HostSpec;
use deptool_tests::process::{Going, Pid, Signal, poll};

use crate::{stage::Stage, state::State};

const LONG: Duration = Duration::from_secs(60);

/// Starts slowly, so that there is time to interfere, and succeeds or fails as the file says.
const SLOW: &str = "\
[Unit]
After=nginx.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'touch /run/slow.begun; while [ -e /run/slow.hold ]; do sleep 0.05; done; \
exec /bin/sh /var/lib/deptool/apps/slow/current/verdict'

[Install]
WantedBy=multi-user.target
";

/// A host with one earlier deployment. The login is one of the lab's users.
fn deployed(user: &str) -> Option<Stage> {
    deployed_to(&HostSpec::new("web1"), user)
}

fn deployed_to(spec: &HostSpec, user: &str) -> Option<Stage> {
    let stage = Stage::with(std::slice::from_ref(spec))?;
    let operator = stage.operator();
    operator.add_remote("web1", &format!("deptool::{user}@web1"));
    operator.write("web1/slow/verdict", "exit 0\n");
    operator.write("web1/slow/systemd/slow.service", SLOW);
    operator.write("web1/slow/manifest.json", r#"{"systemd": {"units_enabled": ["slow.service"]}}"#);
    operator.write("web1/old/systemd/old.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    operator.write("web1/old/manifest.json", r#"{"systemd": {"units_enabled": ["old.service"]}}"#);
    operator.write("web1/links/a", "a\n");
    operator.write("web1/links/manifest.json", r#"{"symlinks": {"/etc/link": "a"}}"#);
    operator.commit("What came before");
    stage.host().sh("systemctl start nginx.service");
    operator.git(&["push", "web1", "prod"]).ok();
    stage.host().sh("rm /run/slow.begun; touch /run/slow.hold");
    Some(stage)
}

impl Stage {
    /// Commits a change of everything whose service exits with that status, and pushes it until activation waits for
    /// us. Returns the push and the commit.
    fn under_way(&self, status: u8) -> (Going, String) {
        let operator = self.operator();
        operator.write("web1/slow/verdict", format!("# new\nexit {status}\n"));
        operator.remove("web1/old");
        operator.write(
            "web1/new/systemd/new.service",
            "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n",
        );
        operator.write("web1/new/systemd/nginx.service.d/new.conf", "[Service]\nEnvironment=NEW=1\n");
        operator.write("web1/new/manifest.json", r#"{"systemd": {"units_enabled": ["new.service"]}}"#);
        operator.write("web1/links/manifest.json", r#"{"symlinks": {"/etc/other/link": "a"}}"#);
        let commit = operator.commit("Change everything");
        let push = operator.command(&["push", "--verbose", "web1", "prod"]).start().unwrap();
        self.wait_for("activation", || self.host().path("/etc/systemd/system/new.service").exists());
        let begun = || self.host().run_in(&["test", "-e", "/run/slow.begun"]).is_ok_and(|run| run.success());
        self.wait_for("the slow start", begun);
        (push, commit)
    }

    fn wait_for(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        if let Err(error) = poll(what, LONG, || is_so().then_some(())) {
            panic!("{error}\n{}", self.host().sh("ps ax; ls -l /var/lib/deptool; journalctl -b --no-pager -n 25"));
        }
    }

    /// Waits until the host is at rest: no process holds the lock, and the journal is empty.
    fn wait_until_at_rest(&self) {
        let script = "[ -s /var/lib/deptool/state/journal ] || [ -s /var/lib/deptool/state/lock ] || echo rest";
        self.wait_for("the host at rest", || self.host().sh(script) == "rest");
    }

    /// Asserts that a fetch learns what the host runs, and that `git deptool status` agrees.
    #[track_caller]
    fn fetch_tells(&self, commit: &str) {
        let operator = self.operator();
        let fetch = operator.git(&["fetch", "web1"]).ok();
        assert_eq!(operator.id("refs/remotes/web1/prod"), commit, "{fetch}");
        assert_eq!(
            operator.git(&["ls-remote", "web1", "refs/heads/prod"]).ok().line(),
            format!("{commit}\trefs/heads/prod")
        );
        let on_host = self.host().sh("cat /var/lib/deptool/store/refs/heads/prod");
        assert_eq!(on_host, commit);
        let unsettled = operator.git(&["for-each-ref", "refs/deptool/unsettled/"]).ok().line();
        assert_eq!(unsettled, "");
    }

    /// Asserts that the change is complete.
    #[track_caller]
    fn assert_new(&self) {
        let host = self.host();
        for unit in ["new.service", "slow.service", "nginx.service"] {
            assert_eq!(host.unit_state(unit), "active", "{unit}");
        }
        assert_eq!(host.unit_property("old.service", "LoadState"), "not-found");
        assert_eq!(host.unit_property("nginx.service", "Environment"), "NEW=1");
        assert_eq!(host.sh("cat /etc/other/link; ls -d /etc/link 2>/dev/null || true"), "a");
    }
}

/// Kills the ssh of a push, as a broken network would.
fn kill_ssh(push: &Going) {
    let ssh = below(push.pid()).into_iter().find(|pid| name(*pid) == "ssh").expect("the push has an ssh");
    rustix::process::kill_process(ssh, Signal::KILL).unwrap();
}

fn kill_helper(push: &Going) {
    let helper = below(push.pid()).into_iter().find(|pid| name(*pid).starts_with("git-remote-dept")).expect("a helper");
    rustix::process::kill_process(helper, Signal::KILL).unwrap();
}

pub fn name(pid: Pid) -> String {
    std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default().trim().to_owned()
}

/// The descendants of a process.
pub fn below(parent: Pid) -> Vec<Pid> {
    let mut found = vec![parent];
    let mut at = 0;
    while at < found.len() {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", found[at].as_raw_nonzero())).into_iter().flatten();
        for task in tasks.flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
        }
        at += 1;
    }
    found
}

#[test]
fn a_deployment_whose_login_ends_goes_on() {
    let Some(stage) = deployed("core") else { return };
    let (operator, host) = (stage.operator(), stage.host());
    let (push, commit) = stage.under_way(0);
    // Another operator sees who is deploying.
    let other = stage.sandbox.clone_of(&operator, "other");
    let fetch = other.git(&["ls-remote", "deptool::web1"]).ok();
    fetch.says("web1: Ada Operator <ada@example.org> has been activating for");
    // A request from the same repository waits for the answer that the push will get.
    let mut waiting = operator.command(&["fetch", "web1"]).start().unwrap();
    waiting.wait_until_it_says("web1: waiting: another git process of this repository is talking to 'web1'").unwrap();
    kill_ssh(&push);
    host.sh("loginctl terminate-user core");
    let gone = || host.sh("loginctl list-sessions --no-legend | grep -c core || true") == "0";
    stage.wait_for("the end of the session", gone);
    host.sh("rm /run/slow.hold");
    // The helper asks again, and learns the outcome.
    push.wait().unwrap().ok().says("prod -> prod");
    waiting.wait().unwrap().ok();
    assert_eq!(operator.id("refs/remotes/web1/prod"), commit);
    stage.wait_until_at_rest();
    stage.assert_new();
    stage.fetch_tells(&commit);
    host.reboot().unwrap();
    host.sh("systemctl start nginx.service");
    stage.assert_new();
}

#[test]
fn a_deployment_that_fails_after_its_login_has_ended_is_undone() {
    for user in ["root", "core"] {
        let Some(stage) = deployed(user) else { return };
        let (operator, host) = (stage.operator(), stage.host());
        let good = operator.id("prod");
        let before = State::of(host);
        let (push, _) = stage.under_way(7);
        kill_ssh(&push);
        host.sh(&format!("loginctl terminate-user {user} || true"));
        host.sh("rm /run/slow.hold");
        let push = push.wait().unwrap().fails().says("rolled back");
        assert_eq!(operator.id("refs/remotes/web1/prod"), good, "{push}");
        stage.wait_until_at_rest();
        before.assert_same(host, user);
        stage.fetch_tells(&good);
    }
}

#[test]
fn a_helper_that_is_killed_leaves_the_host_in_doubt_until_it_is_asked() {
    let Some(stage) = deployed("root") else { return };
    let (operator, host) = (stage.operator(), stage.host());
    let (push, commit) = stage.under_way(0);
    kill_helper(&push);
    push.wait().unwrap().fails();
    // In the meantime, a second push is told who is deploying.
    operator.git(&["push", "web1", "prod"]).fails().says("Ada Operator").says("still under way");
    host.sh("rm /run/slow.hold");
    stage.wait_until_at_rest();
    stage.assert_new();
    let unsettled = operator.git(&["for-each-ref", "refs/deptool/unsettled/"]).ok().line();
    assert_ne!(unsettled, "");
    stage.fetch_tells(&commit);
    operator.git(&["push", "web1", "prod"]).ok().says("Everything up-to-date");
}

#[test]
fn a_host_that_loses_power_while_it_activates_is_wholly_old_when_it_is_up_again() {
    for var_is_mount in [false, true] {
        let spec = HostSpec { var_is_mount, ..HostSpec::new("web1") };
        let Some(stage) = deployed_to(&spec, "root") else { return };
        let (operator, host) = (stage.operator(), stage.host());
        let good = operator.id("prod");
        let before = State::of(host);
        let (push, commit) = stage.under_way(0);
        let unit = "/etc/systemd/system/deptool-recover.service";
        assert!(host.path(unit).exists(), "there is a unit that recovers at boot");
        host.kill();
        let push = push.wait().unwrap().fails().says("outcome unknown; run git fetch");
        assert_eq!(operator.id("refs/remotes/web1/prod"), good, "{push}");
        // Nobody connects to it. It is observed from outside.
        host.boot().unwrap();
        let said = host.sh("journalctl -b -u deptool-recover.service --no-pager -o cat");
        assert!(said.contains("an interrupted deployment by Ada Operator <ada@example.org> was undone"), "{said}");
        assert!(!host.sh("journalctl -b --no-pager").contains("ordering cycle"));
        stage.wait_for("the slow unit", || host.unit_state("slow.service") == "active");
        before.assert_same(host, "after a power cut");
        assert_eq!(host.sh("readlink -e /etc/link"), host.sh("readlink -e /var/lib/deptool/apps/links/current/a"));
        operator.git(&["fetch", "web1"]).ok().says("web1: the deployment of").says("was interrupted, and undone");
        stage.fetch_tells(&good);
        // The next push works.
        let push = operator.git(&["push", "web1", "prod"]).ok();
        assert_eq!(operator.id("refs/remotes/web1/prod"), commit, "{push}");
        stage.assert_new();
        stage.wait_until_at_rest();
        assert!(!host.path(unit).exists(), "the unit goes with the verdict");
    }
}

#[test]
fn a_check_is_not_waited_for_if_nobody_waits_for_the_deployment() {
    let Some(stage) = deployed("root") else { return };
    let (operator, host) = (stage.operator(), stage.host());
    let before = State::of(host);
    let check =
        "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'touch /run/check.begun; sleep 20; touch /run/check.ended'\n";
    operator.write("web1/slow/systemd/slow-check.service", check);
    let manifest = r#"{"systemd": {"units_enabled": ["slow.service"]}, "checks": ["slow-check.service"]}"#;
    operator.write("web1/slow/manifest.json", manifest);
    operator.commit("A check");
    let push = operator.command(&["push", "web1", "prod"]).start().unwrap();
    let begun = || host.run_in(&["test", "-e", "/run/check.begun"]).is_ok_and(|run| run.success());
    stage.wait_for("the check", begun);
    kill_helper(&push);
    push.wait().unwrap().fails();
    stage.wait_until_at_rest();
    assert_eq!(
        host.sh("ls /run/check.ended 2>/dev/null || true; systemctl list-units --no-legend 'deptool-check-*'"),
        ""
    );
    before.assert_same(host, "after a push that was given up");
}

#[test]
fn an_agent_that_is_killed_while_it_activates_is_cleaned_up_after() {
    let Some(stage) = deployed("root") else { return };
    let (operator, host) = (stage.operator(), stage.host());
    let good = operator.id("prod");
    let before = State::of(host);
    let (push, _) = stage.under_way(0);
    host.sh("for dir in /proc/[0-9]*; do case $(readlink $dir/exe) in */deptool-agent-*) kill -9 ${dir#/proc/};; esac; done");
    host.sh("rm /run/slow.hold");
    let push = push.wait().unwrap().fails().says("rolled back");
    assert_eq!(operator.id("refs/remotes/web1/prod"), good, "{push}");
    stage.fetch_tells(&good);
    before.assert_same(host, "after the agent was killed");
}

#[test]
fn a_host_that_shuts_down_while_it_activates_keeps_its_word() {
    let Some(stage) = deployed("root") else { return };
    let (operator, host) = (stage.operator(), stage.host());
    let good = operator.id("prod");
    let before = State::of(host);
    let (push, _) = stage.under_way(0);
    host.power_off();
    let push = push.wait().unwrap().fails();
    assert_eq!(operator.id("refs/remotes/web1/prod"), good, "{push}");
    host.boot().unwrap();
    operator.git(&["fetch", "web1"]).ok();
    stage.fetch_tells(&good);
    host.sh("systemctl start nginx.service");
    stage.wait_for("the slow unit", || host.unit_state("slow.service") == "active");
    before.assert_same(host, "after a shutdown");
}
