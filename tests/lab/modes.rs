//! Modes and owners of files, users and temporary files. Secrets are protected from the first moment.

use std::time::Duration;

use deptool_tests::lab::{HostSpec, start_or_skip};
use deptool_tests::process::{Signal, poll};
use deptool_tests::sandbox::Sandbox;

/// Repeatedly reads everything that it can in our directory, as an unprivileged user, and records where it found the
/// secret.
const SPY: &str = "\
>/tmp/seen
while :; do
    grep -rls 'TOP''SECRET' /var/lib/deptool/trees /var/lib/deptool/generations /var/lib/deptool/apps \
        /var/lib/deptool/store /var/lib/deptool/state/incoming /etc/keys 2>/dev/null >>/tmp/seen
done";

#[test]
fn files_have_the_owners_that_come_with_them_and_secrets_are_never_open() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1")]) else { return };
    let (sandbox, host) = (Sandbox::for_lab(&lab), lab.host("web1"));
    let operator = sandbox.repo("operator");
    operator.add_remote("web1", "deptool::web1");
    operator.write("web1/vault/sysusers/vault.conf", "g vaults -\nu vault - \"Keeps keys\" /var/lib/vault\n");
    operator
        .write("web1/vault/tmpfiles/vault.conf", "d /var/lib/vault 0700 vault vault\nd /run/vault 0755 vault vaults\n");
    operator.write("web1/vault/key.pem", "TOPSECRET\n");
    operator.write("web1/vault/shared.pem", "TOPSECRET\n");
    operator.write("web1/vault/large.pem", format!("TOPSECRET\n{}", "x".repeat(5 << 20)));
    operator.write("web1/vault/run", "#!/bin/sh\nexit 0\n");
    operator.write("web1/vault/open", "open\n");
    operator.git(&["config", "core.fileMode", "true"]).ok();
    let service = "\
[Service]
User=vault
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -ec 'cat /etc/keys/key.pem >/dev/null; touch /var/lib/vault/it-was-there /run/vault/too'

[Install]
WantedBy=multi-user.target
";
    operator.write("web1/vault/systemd/vault.service", service);
    operator.write(
        "web1/vault/manifest.json",
        r#"{"systemd": {"units_enabled": ["vault.service"]},
            "symlinks": {"/etc/keys/key.pem": "key.pem"},
            "files": {"key.pem": {"mode": "0400", "owner": "vault"},
                      "large.pem": {"mode": "0600"},
                      "run": {"mode": "0750", "group": "vaults"},
                      "shared.pem": {"mode": "0640", "group": "vaults"}}}"#,
    );
    operator.commit("A vault");
    let ours = |file: &str| format!("/var/lib/deptool/apps/vault/current/{file}");
    let as_plain = ["setpriv", "--reuid=plain", "--regid=plain", "--clear-groups", "sh", "-c", SPY];
    let spy = host.command_in(&as_plain).unwrap().start().unwrap();
    let spies = || host.run_in(&["test", "-e", "/tmp/seen"]).is_ok_and(|run| run.success()).then_some(());
    poll("the spy", Duration::from_secs(30), spies).unwrap();
    operator.git(&["push", "web1", "prod"]).ok();
    let modes = |files: &[&str]| {
        let paths: Vec<String> = files.iter().map(|file| ours(file)).collect();
        host.sh(&format!("stat -L -c '%a %U %G' {}", paths.join(" ")))
    };
    let all = ["key.pem", "large.pem", "run", "shared.pem", "open"];
    let expected = "400 vault root\n600 root root\n750 root vaults\n640 root vaults\n644 root root";
    assert_eq!(modes(&all), expected);
    assert_eq!(host.unit_state("vault.service"), "active");
    host.sh("test -e /var/lib/vault/it-was-there -a -e /run/vault/too");

    // A change of another file, of a secret, of a mode alone.
    operator.write("web1/vault/open", "still open\n");
    operator.commit("Change what is open");
    operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!(modes(&all), expected);
    operator.write("web1/vault/key.pem", "TOPSECRET too\n");
    operator.commit("Change the key");
    operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!(modes(&all), expected);
    assert_eq!(host.sh("cat /etc/keys/key.pem"), "TOPSECRET too");
    let manifest = std::fs::read_to_string(operator.dir.join("web1/vault/manifest.json")).unwrap();
    operator.write("web1/vault/manifest.json", manifest.replace("0640", "0660"));
    operator.commit("Change a mode");
    operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!(modes(&["shared.pem"]), "660 root vaults");

    // A failed deployment does not expose them either, and restored files have their modes.
    operator.write("web1/vault/key.pem", "TOPSECRET three\n");
    operator.write("web1/vault/systemd/vault.service", service.replace("cat /etc", "cat /no/etc"));
    operator.commit("Break it");
    operator.git(&["push", "web1", "prod"]).fails().says("rolled back: vault.service");
    assert_eq!(host.sh("cat /etc/keys/key.pem"), "TOPSECRET too");
    assert_eq!(modes(&["key.pem", "shared.pem"]), "400 vault root\n660 root vaults");

    // It does find what it may read.
    host.sh("mkdir /etc/keys/left; echo TOPSECRET >/etc/keys/left/open");
    let seen = || Some(host.sh("sort -u /tmp/seen")).filter(|seen| !seen.is_empty());
    let seen = poll("the spy's finding", Duration::from_secs(30), seen).unwrap();
    spy.signal_group(Signal::KILL).unwrap();
    assert_eq!(seen, "/etc/keys/left/open");
}

#[test]
fn a_name_service_that_hangs_refuses_the_deployment_and_is_named() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1")]) else { return };
    let (sandbox, host) = (Sandbox::for_lab(&lab), lab.host("web1"));
    let operator = sandbox.repo("operator");
    operator.add_remote("web1", "deptool::web1");
    operator.write("web1/vault/key.pem", "TOPSECRET\n");
    operator.write("web1/vault/manifest.json", r#"{"files": {"key.pem": {"mode": "0400", "owner": "www-data"}}}"#);
    operator.commit("A vault");
    let getent = "/usr/local/sbin/getent";
    host.sh(&format!("printf '#!/bin/sh\nexec sleep 1000\n' >{getent}; chmod 755 {getent}"));
    let push = operator.command(&["push", "web1", "prod"]).timeout(Duration::from_secs(120)).run().unwrap();
    push.code(1).says("'getent passwd www-data' did not answer within 30 seconds").does_not_say("unknown");
    assert_eq!(host.sh("find /var/lib/deptool/generations /var/lib/deptool/apps -mindepth 1"), "", "nothing was made");
    assert_eq!(host.sh("pgrep -xc sleep || true"), "0", "no program is left behind");
    host.sh(&format!("rm {getent}"));
    operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!(host.sh("stat -c %U:%a /var/lib/deptool/apps/vault/current/key.pem"), "www-data:400");
}
