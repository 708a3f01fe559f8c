//! A change that locks the operator out is undone by the host itself.

use deptool_tests::lab::HostSpec;

use crate::{stage::Stage, state::State};

fn deployed() -> Option<Stage> {
    let stage = Stage::with(&[HostSpec::new("web1")])?;
    let operator = stage.operator();
    operator.add_remote("web1", "deptool::web1");
    operator.write("web1/web/file", "1\n");
    operator.commit("What came before");
    operator.git(&["push", "web1", "prod"]).ok();
    Some(stage)
}

impl Stage {
    /// Pushes the work tree. Asserts that the host undoes it and can be reached as before.
    #[track_caller]
    fn is_taken_back(&self, case: &str) {
        self.is_taken_back_after(case, &["-o", "confirm=4s"], 4);
    }

    /// The same, with this many seconds for the confirmation, as requested by these options or by the tree.
    #[track_caller]
    fn is_taken_back_after(&self, case: &str, options: &[&str], seconds: u16) {
        let (operator, host) = (self.operator(), self.host());
        let good = operator.id("refs/remotes/web1/prod");
        let before = State::of(host);
        operator.commit(case);
        let push = operator.git(&[&["push"], options, &["web1", "prod"]].concat()).fails();
        let push = push.says(&format!("rolled back: not confirmed over a new connection within {seconds} s"));
        assert_eq!(operator.id("refs/remotes/web1/prod"), good, "{push}");
        host.ssh(&["true"]).unwrap().ok();
        before.assert_same(host, case);
    }
}

#[test]
fn an_sshd_that_lets_nobody_in_is_taken_back() {
    let Some(stage) = deployed() else { return };
    let operator = stage.operator();
    let manifest = r#"{"systemd": {"units_enabled": ["ssh.service"], "on_change": {"ssh.service": "reload"}},
        "symlinks": {"/etc/ssh/sshd_config.d/lock.conf": "lock.conf"}, "confirm": true}"#;
    operator.write("web1/sshd/manifest.json", manifest);
    operator.write("web1/sshd/lock.conf", "AllowUsers nobody\n");
    stage.is_taken_back("Nobody gets in");
    // A change that lets the operator in is kept.
    operator.write("web1/sshd/lock.conf", "AllowUsers root core\n");
    operator.commit("The operator gets in");
    operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!(stage.host().sh("cat /etc/ssh/sshd_config.d/lock.conf"), "AllowUsers root core");
}

#[test]
fn a_network_without_a_way_back_to_the_operator_is_taken_back() {
    let Some(stage) = deployed() else { return };
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

/// A firewall that lets in `RULES`, and no other new connections.
const FIREWALL: &str = "\
#!/usr/sbin/nft -f
flush ruleset
table inet filter {
    chain input {
        type filter hook input priority 0; policy drop;
        iifname lo accept
        ct state established,related accept
        RULES
    }
}
";

/// A firewall that drops new connections does not affect the one that deploys it: only a new connection shows the
/// problem.
#[test]
fn a_firewall_that_lets_only_established_connections_in_is_taken_back() {
    let Some(stage) = deployed() else { return };
    let (operator, host) = (stage.operator(), stage.host());
    // As if an operator had put the distribution's file under version control.
    host.sh("rm /etc/nftables.conf");
    let manifest = |on_change: &str, confirm: bool| {
        format!(
            r#"{{"systemd": {{"units_enabled": ["nftables.service"], "on_change": {{"nftables.service": "{on_change}"}}}},
            "symlinks": {{"/etc/nftables.conf": "nftables.conf"}}, "confirm": {confirm}}}"#
        )
    };
    let open = FIREWALL.replace("RULES", "tcp dport 22 accept");
    operator.write("web1/firewall/nftables.conf", &open);
    operator.write("web1/firewall/manifest.json", manifest("restart", false));
    operator.commit("A firewall");
    operator.git(&["push", "-o", "confirm=30s", "web1", "prod"]).ok();
    let rules = host.sh("nft list ruleset");
    assert!(rules.contains("dport 22 accept"), "{rules}");
    // Restarted (with a short outage) or reloaded; requested by the operator or by the tree.
    let cases: [(_, _, &[&str], _); 2] = [("restart", false, &["-o", "confirm=4s"], 4), ("reload", true, &[], 30)];
    for (on_change, in_tree, options, seconds) in cases {
        operator.write("web1/firewall/nftables.conf", FIREWALL.replace("RULES", "tcp dport 80 accept"));
        operator.write("web1/firewall/manifest.json", manifest(on_change, in_tree));
        stage.is_taken_back_after(on_change, options, seconds);
        assert_eq!(host.sh("nft list ruleset"), rules, "{on_change}");
        operator.git(&["fetch", "web1"]).ok();
        operator.write("web1/firewall/nftables.conf", &open);
        operator.write("web1/web/file", on_change);
        operator.commit("As it was, and one that works");
        operator.git(&["push", "web1", "prod"]).ok();
    }
}
