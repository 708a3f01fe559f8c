//! A change that locks the operator out is taken back by the host itself.

use deptool_tests::lab::{Host, HostSpec, Lab, start_or_skip};
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::state::State;

struct Stage {
    lab: Lab,
    sandbox: Sandbox,
}

impl Stage {
    fn deployed() -> Option<Stage> {
        let lab = start_or_skip(&[HostSpec::new("web1")])?;
        let stage = Stage { sandbox: Sandbox::for_lab(&lab), lab };
        let operator = stage.sandbox.repo("operator");
        operator.add_remote("web1", "deptool::web1");
        operator.write("web1/web/file", "1\n");
        operator.commit("What came before");
        operator.git(&["push", "web1", "prod"]).ok();
        Some(stage)
    }

    fn operator(&self) -> Repo<'_> {
        self.sandbox.repo_at(self.sandbox.dir().join("operator"))
    }

    fn host(&self) -> &Host {
        self.lab.host("web1")
    }

    /// Pushes what is in the work tree. The host goes back, and can be reached as before.
    #[track_caller]
    fn is_taken_back(&self, case: &str) {
        let (operator, host) = (self.operator(), self.host());
        let good = operator.id("refs/remotes/web1/prod");
        let before = State::of(host);
        operator.commit(case);
        let push = operator.git(&["push", "-o", "confirm=4s", "web1", "prod"]).fails();
        let push = push.says("rolled back: not confirmed over a new connection within 4 s");
        assert_eq!(operator.id("refs/remotes/web1/prod"), good, "{push}");
        host.ssh(&["true"]).unwrap().ok();
        before.assert_same(host, case);
    }
}

#[test]
fn an_sshd_that_lets_nobody_in_is_taken_back() {
    let Some(stage) = Stage::deployed() else { return };
    let operator = stage.operator();
    let manifest = r#"{"systemd": {"units_enabled": ["ssh.service"], "on_change": {"ssh.service": "reload"}},
        "symlinks": {"/etc/ssh/sshd_config.d/lock.conf": "lock.conf"}, "confirm": true}"#;
    operator.write("web1/sshd/manifest.json", manifest);
    operator.write("web1/sshd/lock.conf", "AllowUsers nobody\n");
    stage.is_taken_back("Nobody gets in");
    // One that lets the operator in is kept.
    operator.write("web1/sshd/lock.conf", "AllowUsers root core\n");
    operator.commit("The operator gets in");
    operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!(stage.host().sh("cat /etc/ssh/sshd_config.d/lock.conf"), "AllowUsers root core");
}

#[test]
fn a_network_without_a_way_back_to_the_operator_is_taken_back() {
    let Some(stage) = Stage::deployed() else { return };
    let operator = stage.operator();
    let unit = "\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'ip rule add to 10.0.0.0/8 pref 100 blackhole'
ExecStop=/bin/sh -c 'ip rule del pref 100'

[Install]
WantedBy=multi-user.target
";
    operator.write("web1/net/systemd/net.service", unit);
    operator.write("web1/net/manifest.json", r#"{"systemd": {"units_enabled": ["net.service"]}}"#);
    stage.is_taken_back("No way back");
}
