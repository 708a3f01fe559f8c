//! Secrets on a real host: in memory that is never swapped, for services in each way, after failures and reboots.

use std::fs;

use deptool_tests::lab::Base;
use deptool_tests::secrets::{encrypt, found_in, recipient};

use crate::stage::Stage;

const UNIT: &str = "/etc/systemd/system/deptool-secrets.service";
const PLAIN: [&str; 2] = ["correct-horse-battery-staple-1", "correct-horse-battery-staple-2"];

/// What each service got, in a directory of its own.
const SERVICES: [(&str, &str); 3] = [
    (
        "credential",
        "LoadCredential=key:/run/deptool/secrets/web/key\nExecStart=/bin/sh -c 'cat \"$$CREDENTIALS_DIRECTORY/key\" >/run/credential/got; exec sleep infinity'",
    ),
    (
        "environment",
        "EnvironmentFile=/run/deptool/secrets/web/settings.env\nExecStart=/bin/sh -c 'printf %%s \"$$KEY\" >/run/environment/got; exec sleep infinity'",
    ),
    (
        "path",
        "User=www-data\nExecStart=/bin/sh -c 'cat /run/deptool/secrets/web/mine >/run/path/got; exec sleep infinity'",
    ),
];

impl Stage {
    fn set_secrets(&self, plain: &str) {
        let host = recipient(&self.host().path("/"));
        for (name, content) in [("key", plain), ("settings.env", &format!("KEY={plain}")), ("mine", plain)] {
            self.operator().write(format!("web1/web/secrets/{name}.age"), encrypt(&host, content));
        }
    }

    #[track_caller]
    fn services_have(&self, plain: &str) {
        for (name, _) in SERVICES {
            self.wait_until(&format!("cat /run/{name}/got"), plain);
        }
    }

    #[track_caller]
    fn wait_until(&self, command: &str, shown: &str) {
        let is_so = || (self.host().sh(&format!("{command} 2>/dev/null || true")).trim() == shown).then_some(());
        deptool_tests::process::poll(command, std::time::Duration::from_secs(20), is_so).unwrap_or_else(|error| {
            panic!("{error:#}: {}", self.host().sh(&format!("{command} 2>&1; systemctl --failed")))
        });
    }

    /// Asserts that the disk of the host and all of the operator's files have no plain text.
    #[track_caller]
    fn is_plain_nowhere(&self) {
        let root = self.host().path("/");
        for plain in PLAIN {
            let places = ["etc", "var", "root", "home", "tmp"].map(|name| root.join(name));
            let found: Vec<_> = places.iter().flat_map(|place| found_in(place, &root, plain)).collect();
            assert_eq!(found, [""; 0]);
            assert_eq!(found_in(self.sandbox.dir(), &root, plain), [""; 0]);
        }
    }
}

#[test]
fn services_get_secrets_in_each_way_and_have_them_again_after_a_reboot() {
    let Some(stage) = Stage::of_one(Base::Bookworm) else { return };
    let host = stage.host();
    stage.write("web/file", "1\n");
    stage.push("Without secrets").ok();
    assert!(!host.path(UNIT).exists());
    stage.operator().git(&["fetch", "web1"]).ok();

    stage.set_secrets(PLAIN[0]);
    for (name, service) in SERVICES {
        let text = format!("[Service]\nRuntimeDirectory={name}\n{service}\n[Install]\nWantedBy=multi-user.target\n");
        stage.write(&format!("web/systemd/{name}.service"), &text);
    }
    let names = SERVICES.map(|(name, _)| format!("\"{name}.service\"")).join(", ");
    let manifest = format!(
        r#"{{"systemd": {{"units_enabled": [{names}]}}, "files": {{"secrets/mine": {{"owner": "www-data"}}}}}}"#
    );
    stage.write("web/manifest.json", &manifest);
    stage.push("With secrets").ok();
    stage.services_have(PLAIN[0]);
    assert!(host.path(UNIT).exists());
    let mount = host.sh("grep ' /run/deptool/secrets ' /proc/mounts");
    assert!(mount.contains("noswap") || mount.contains("ramfs"), "{mount}");
    assert_eq!(host.sh("stat -L -c '%a %U' /run/deptool/secrets/web/*").trim(), "400 root\n400 www-data\n400 root");
    assert!(!host.sh("runuser -u www-data -- cat /run/deptool/secrets/web/key 2>&1 || true").contains(PLAIN[0]));

    // A changed secret restarts what uses it, and a failure brings the old one back.
    stage.set_secrets(PLAIN[1]);
    stage.push("Other secrets").ok();
    stage.services_have(PLAIN[1]);
    stage.set_secrets(PLAIN[0]);
    stage.write("web/systemd/fails.service", "[Service]\nExecStart=/bin/false\n");
    stage.write("web/manifest.json", &manifest.replace("[\"", "[\"fails.service\", \""));
    stage.push_fails("It fails").says("rolled back");
    stage.services_have(PLAIN[1]);
    assert_eq!(host.sh("ls /run/deptool/secrets | grep -c '^[0-9]'").trim(), "1");
    stage.is_plain_nowhere();
    stage.operator().remove("web1/web/systemd/fails.service");
    stage.write("web/manifest.json", &manifest);
    stage.set_secrets(PLAIN[1]);

    // Nobody connects after the reboot.
    host.reboot().unwrap();
    stage.services_have(PLAIN[1]);
    assert_eq!(host.unit_state("deptool-secrets.service"), "active");
    assert!(!host.sh("journalctl -b --no-pager").contains("ordering cycle"));
    stage.operator().git(&["deptool", "verify", "web1"]).ok();
    host.kill();
    host.boot().unwrap();
    stage.services_have(PLAIN[1]);
    stage.is_plain_nowhere();

    stage.operator().git(&["push", "web1", ":prod"]).ok();
    assert!(!host.path(UNIT).exists());
    assert_eq!(host.sh("grep -c ' /run/deptool/secrets ' /proc/mounts || true").trim(), "0");
    let identity = fs::read_to_string(host.path("/var/lib/deptool/state/identity")).unwrap();
    assert!(identity.contains("AGE-SECRET-KEY-1"), "it stays, for the next deployment");
}
