//! An agent that is killed on a real host: units and files are in the old state or in the new one.
//!
//! The agent's system calls are traced from outside of the container (see `deptool_tests::trace`). The helper does not
//! use ssh, which must not be traced, but enters the container.

use std::process::Stdio;
use std::time::Duration;

use deptool_tests::lab::{Host, HostSpec, Lab, start_or_skip};
use deptool_tests::process::poll;
use deptool_tests::sandbox::{Repo, Sandbox};
use deptool_tests::sweep::state::fsck;
use deptool_tests::trace::{self, Call, Deed, Watched};

use crate::state::State;

const AGENT: Watched = Watched::From { from: "deptool-agent", but: "git" };
/// A unit of the host's own, which is restarted along with one of the tree.
const BESIDE: &str = "[Unit]\nRequires=stays.service\nAfter=stays.service\n[Service]\nExecStart=/bin/sleep infinity\n";
/// One that conflicts with one of the tree, and is given back.
const OLD: &str = "[Service]\nExecStart=/bin/sleep infinity\n";
const WEB: &str = "[Unit]\nDescription=1\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n\
                   [Install]\nWantedBy=multi-user.target\n";
/// The files of the apps, independently of Git and the agent.
const FILES: &str = "cd /var/lib/deptool/apps && find -L . -type f -exec sha256sum {} + | LC_ALL=C sort -k 2";

struct Stage {
    lab: Lab,
    sandbox: Sandbox,
    new: State,
    new_files: String,
}

impl Stage {
    /// A host that runs the first of two commits.
    fn new() -> Option<Stage> {
        let lab = start_or_skip(&[HostSpec::new("web1")])?;
        let mut sandbox = Sandbox::for_lab(&lab);
        let init = lab.host("web1").init().unwrap().as_raw_nonzero();
        let enter = format!(
            "f() {{ shift; exec nsenter -t {init} -m -u -i -n -p --root --wd=/ -- env -i HOME=/root PATH=\"$PATH\" sh -c \"$*\"; }}; f"
        );
        sandbox.set_env("GIT_SSH_COMMAND", &enter);
        sandbox.set_env("GIT_SSH_VARIANT", "simple");
        let operator = sandbox.repo("operator");
        operator.add_remote("web1", "deptool::web1");
        let host = lab.host("web1");
        std::fs::write(host.path("/etc/systemd/system/beside.service"), BESIDE).unwrap();
        std::fs::write(host.path("/etc/systemd/system/old.service"), OLD).unwrap();
        host.sh("systemctl daemon-reload; systemctl start old.service");
        commits(&operator, &|| drop(host.sh("systemctl start beside.service talk.service")));
        operator.git(&["push", "web1", "prod"]).ok();
        fetch(&operator);
        let (new, new_files) = (State::of(host), host.sh(FILES));
        operator.git(&["push", "-f", "web1", "prod~1:prod"]).ok();
        Some(Stage { sandbox, new, new_files, lab })
    }

    fn operator(&self) -> Repo<'_> {
        self.sandbox.repo_at(self.sandbox.dir().join("operator"))
    }

    fn host(&self) -> &Host {
        self.lab.host("web1")
    }

    /// Pushes. `lead` decides about each call of the agent that changes something. Returns whether Git reported
    /// success.
    fn push(&self, lead: &mut dyn FnMut(&Call) -> Deed) -> bool {
        let status = self.sandbox.dir().join("tmp/status");
        let script = "git push web1 prod >/dev/null 2>&1; echo $? >\"$STATUS\"";
        let command = self.sandbox.command("sh").args(["-c", script]).dir(self.sandbox.dir().join("operator"));
        let mut command = command.env("STATUS", &status).into_inner();
        command.stdin(Stdio::null());
        trace::run(command, AGENT, lead).unwrap();
        std::fs::read_to_string(status).unwrap().trim() == "0"
    }

    /// Kills the agent before or after its call with that number. Returns whether the new commit runs then.
    #[track_caller]
    fn kill_at(&self, number: usize, deed: Deed) -> bool {
        let (operator, host) = (self.operator(), self.host());
        fetch(&operator);
        let (before, files) = (State::of(host), host.sh(FILES));
        let (mut count, mut point) = (0, "its end".to_owned());
        let is_ok = self.push(&mut |call| {
            count += 1;
            if count != number {
                return Deed::Go;
            }
            point = format!("{deed:?} at {number}, {call}");
            deed
        });
        fetch(&operator);
        let (known, new) = (operator.id("refs/remotes/web1/prod"), operator.id("prod"));
        let branch = host.sh("cat /var/lib/deptool/store/refs/heads/prod");
        assert_eq!(known, branch, "{point}: the tracking ref is what the host runs");
        let is_new = known == new;
        assert!(is_new || !is_ok, "{point}: it was said to be done");
        let now = State::of(host);
        if is_new {
            assert_eq!((&now.etc, &now.units), (&self.new.etc, &self.new.units), "{point}");
            assert_eq!(host.sh(FILES), self.new_files, "{point}");
            operator.git(&["push", "-f", "web1", "prod~1:prod"]).ok();
        } else {
            before.assert_same(host, &point);
            assert_eq!(host.sh(FILES), files, "{point}");
        }
        let store = host.path("/var/lib/deptool/store");
        assert_eq!(fsck(self.sandbox.command("git"), &store), None, "{point}");
        is_new
    }
}

/// Asks what runs, until the working agent has exited.
#[track_caller]
fn fetch(operator: &Repo<'_>) {
    let fetch = || {
        let run = operator.git(&["fetch", "web1"]);
        (run.success() && !run.stderr().contains("has been")).then_some(())
    };
    poll("a fetch heals", Duration::from_secs(60), fetch).unwrap();
}

/// Two commits; `between` is called once the first one runs. A socket changes while its service runs, a unit comes that
/// conflicts with one of the host's own and enables more than itself.
fn commits(operator: &Repo<'_>, between: &dyn Fn()) {
    let socket = |port: u16| {
        operator.write("web1/talk/systemd/talk.socket", format!("[Socket]\nListenStream=127.0.0.1:{port}\n"));
    };
    operator.write("web1/talk/systemd/talk.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    operator.write("web1/talk/manifest.json", r#"{"systemd": {"units_enabled": ["talk.socket"]}}"#);
    socket(7001);
    let units = |stays: &str, changes: &str| {
        operator.write("web1/web/systemd/stays.service", WEB);
        operator.write(format!("web1/web/systemd/{changes}.service"), WEB);
        operator.write("web1/web/systemd/changes.service", WEB.replace("Description=1", stays));
        let enabled = format!(r#"["stays.service", "changes.service", "{changes}.service"]"#);
        let links = format!(r#"{{"/etc/stays": "file", "/etc/{changes}": "file"}}"#);
        operator.write(
            "web1/web/manifest.json",
            format!(r#"{{"symlinks": {links}, "systemd": {{"units_enabled": {enabled}}}}}"#),
        );
    };
    operator.write("web1/web/file", "1\n");
    operator.write("web1/web/tmpfiles/web.conf", "d /run/web 0755\n");
    operator.write("web1/gone/file", "x");
    units("Description=1", "goes");
    operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    between();
    socket(7002);
    let takes_over = "[Unit]\nConflicts=old.service\n[Service]\nExecStart=/bin/sleep infinity\n\
                      [Install]\nWantedBy=multi-user.target\nAlias=front.service\nAlso=side.socket\n";
    operator.write("web1/takes/systemd/takes.service", takes_over);
    operator.write(
        "web1/takes/systemd/side.socket",
        "[Socket]\nListenStream=127.0.0.1:7003\nService=talk.service\n[Install]\nWantedBy=sockets.target\n",
    );
    operator.write("web1/takes/manifest.json", r#"{"systemd": {"units_enabled": ["takes.service"]}}"#);
    operator.write("web1/web/file", "2\n");
    operator.write("web1/web/tmpfiles/web.conf", "d /run/web 0750\n");
    operator.remove("web1/gone");
    operator.remove("web1/web/systemd/goes.service");
    operator.write("web1/new/file", "y");
    units("Description=2", "comes");
    operator.commit("Two");
}

/// Kills the agent at this many points, from the first call of a deployment to the last.
fn kill_at_some(points: usize) {
    if let Some(why) = trace::unable() {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "skipped, which is a failure in CI: {why}");
        eprintln!("skipped: {why}");
        return;
    }
    let Some(stage) = Stage::new() else { return };
    let mut calls = 0;
    let count = &mut |_: &Call| {
        calls += 1;
        Deed::Go
    };
    assert!(stage.push(count));
    stage.operator().git(&["push", "-f", "web1", "prod~1:prod"]).ok();
    let new = (0..points).filter(|point| {
        let deed = [Deed::KillBefore, Deed::KillAfter][point % 2];
        stage.kill_at(1 + calls * (2 * point + 1) / (2 * points), deed)
    });
    let new = new.count();
    println!("killed at {points} of {calls} calls; {new} ended in the new state");
    assert!(new > 0 && new < points, "{new} of {points}");
}

#[test]
fn an_agent_that_is_killed_while_units_change_leaves_the_old_or_the_new() {
    kill_at_some(10);
}

#[test]
#[ignore = "as the one before, at many more points: minutes"]
fn an_agent_that_is_killed_at_many_points_while_units_change_leaves_the_old_or_the_new() {
    kill_at_some(150);
}
