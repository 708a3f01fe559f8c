//! A host whose root is a read-only image, with an overlay for `/etc`, and a server that has an image of its own and gets its
//! configuration by a bind mount.

use std::time::Duration;

use deptool_tests::lab::vm::{NAME, Vm};
use deptool_tests::process::{Run, poll};
use deptool_tests::sandbox::{Repo, Sandbox};
use deptool_tests::secrets::encrypt;

use super::{http, long};

const WEB: &str = r#"{"systemd": {"units_enabled": ["web.service"], "on_change": {"web.service": "reload"}},
    "checks": ["web-check.service"], "symlinks": {"/opt/web/www": "www", "/etc/motd": "motd"}}"#;
const IMAGE: &str = "[Service]\nRootImage=/var/lib/images/web.raw\nMountAPIVFS=yes\n\
    BindReadOnlyPaths=/var/lib/deptool/apps/web/current:/etc/nginx\n\
    TemporaryFileSystem=/run /var/lib/nginx /var/log/nginx\n";
const SERVER: &str = "Type=forking\nExecStart=/usr/sbin/nginx -c /etc/nginx/nginx.conf\nExecReload=/usr/sbin/nginx -s reload\n\
    [Install]\nWantedBy=multi-user.target\n";
const CHECK: &str = "ExecStart=/usr/sbin/nginx -t -c /etc/nginx/nginx.conf\n";
const CONF: &str = "user www-data;\nevents {}\nhttp { server { listen 8080; root /etc/nginx/www; } }\n";
const OWN: &str =
    "[Service]\nUser=own\nExecStart=/var/lib/deptool/apps/own/current/run\n[Install]\nWantedBy=multi-user.target\n";

/// An operator who deploys to it.
pub struct Image<'a> {
    vm: &'a Vm,
    operator: Repo<'a>,
    motd: String,
}

impl<'a> Image<'a> {
    /// A first version is deployed.
    pub fn begin(vm: &'a Vm, sandbox: &'a Sandbox) -> Image<'a> {
        for program in ["apt-get", "dpkg", "python3", "perl", "git", "nginx"] {
            assert_eq!(vm.sh(&format!("command -v {program} || true")), "");
        }
        assert_eq!(vm.sh("findmnt -no FSTYPE /; findmnt -no FSTYPE /etc"), "erofs\noverlay");
        let motd = vm.ssh(&["cat", "/etc/motd"]).unwrap().ok().stdout();
        let image = Image { vm, operator: sandbox.repo("image"), motd };
        image.operator.add_remote(NAME, &format!("deptool::{NAME}"));
        image.write("web/manifest.json", WEB);
        image.write("web/motd", &image.motd);
        image.write("web/systemd/web.service", &format!("{IMAGE}{SERVER}"));
        image.write("web/systemd/web-check.service", &format!("{IMAGE}{CHECK}"));
        image.write("own/sysusers/own.conf", "u own -\n");
        image.write("own/manifest.json", r#"{"systemd": {"units_enabled": ["own.service"]}}"#);
        image.write("own/systemd/own.service", OWN);
        image.write("own/run", "#!/bin/sh\nexec sleep infinity\n");
        let program = image.operator.dir.join(format!("{NAME}/own/run"));
        std::fs::set_permissions(program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        // The first contact makes the key for secrets.
        image.git(&["ls-remote", NAME]);
        let recipient = vm.sh("sed -n 's/^# public key: //p' /var/lib/deptool/state/identity");
        image.operator.write(format!("{NAME}/own/secrets/key.age"), encrypt(&recipient, "secret"));
        image.version(1, CONF);
        image.push().ok().says("'/etc/motd'");
        image.works(1);
        image
    }

    /// The server sees new files although they are bound, and is as before when they are wrong.
    pub fn what_is_bound_changes_and_is_rolled_back(&self) {
        let first = self.operator.id("HEAD");
        self.version(2, CONF);
        self.push().ok();
        self.works(2);
        self.version(3, &CONF.replace("listen", "listne"));
        self.push().fails().says("check 'web-check.service' of 'web' failed").says("unknown directive \"listne\"");
        self.works(2);
        // The check does not notice that the port is taken.
        self.version(3, &CONF.replace("8080", "22"));
        self.push().fails().says("rolled back: web.service").says("Address already in use");
        self.works(2);
        self.git(&["push", "--force", NAME, &format!("{first}:refs/heads/prod")]).ok();
        self.works(1);
    }

    /// After a power cut in a deployment the machine boots into what was deployed before.
    pub fn a_power_cut_is_rolled_back_at_boot(&self) {
        self.operator.git(&["reset", "--quiet", "--hard", &format!("{NAME}/prod")]).ok();
        self.write("own/systemd/own.service", &OWN.replace("[Service]", "[Service]\nExecStartPre=sleep 1000"));
        self.version(4, CONF);
        let going = long(&self.operator, &["push", NAME, "prod"]).start().unwrap();
        poll("a unit that takes long", Duration::from_secs(120), || {
            let state = self.vm.sh("systemctl show --property SubState --value own.service");
            (state == "start-pre").then_some(())
        })
        .unwrap();
        self.vm.cut_power();
        going.wait().unwrap().fails();
        self.vm.boot().unwrap();
        self.works(1);
        self.git(&["deptool", "verify", NAME]).ok();
        self.operator.git(&["reset", "--quiet", "--hard", &format!("{NAME}/prod")]).ok();
        self.push().ok();
    }

    /// `/etc` as the image has it: everything there is gone, and is put back by a repair.
    pub fn a_reset_of_etc_is_drift_and_is_repaired(&self) {
        self.vm.sh("touch /var/lib/overlay/etc/reset");
        self.vm.reboot().unwrap();
        assert_eq!(self.vm.sh("ls /etc/systemd/system | grep own || true; id own 2>&1 | cut -d: -f3"), "no such user");
        let mut drift = self.git(&["deptool", "verify", NAME]).code(2);
        for path in ["/etc/motd", "/etc/systemd/system/own.service", "/etc/systemd/system/web.service"] {
            drift = drift.prints(path);
        }
        self.git(&["deptool", "repair", "--yes", NAME]).ok();
        self.works(1);
        self.git(&["deptool", "verify", NAME]).ok();
        self.vm.sh("test -e /etc/systemd/system/deptool-secrets.service");
    }

    /// The image's files are there again, and nothing of ours.
    pub fn all_is_given_back(&self) {
        self.git(&["push", NAME, ":prod"]).ok();
        assert_eq!(self.vm.ssh(&["cat", "/etc/motd"]).unwrap().ok().stdout(), self.motd);
        assert_eq!(self.vm.sh("find /etc /opt/ -name '*deptool*' -o -name web.service -o -name own.service"), "");
        assert_eq!(self.vm.sh("systemctl --failed --no-legend"), "");
    }

    fn works(&self, version: u32) {
        assert_eq!(http(self.vm), format!("web {version}"));
        self.vm.sh("systemctl is-active web.service own.service; systemctl is-enabled web.service own.service");
        assert_eq!(self.vm.sh("cat /opt/web/www/index.html"), format!("web {version}"));
        assert_eq!(self.vm.ssh(&["cat", "/etc/motd"]).unwrap().ok().stdout(), self.motd);
        assert_eq!(self.vm.sh("cat /run/deptool/secrets/own/key"), "secret");
    }

    fn write(&self, path: &str, content: &str) {
        self.operator.write(format!("{NAME}/{path}"), content);
    }

    fn version(&self, version: u32, conf: &str) {
        self.write("web/nginx.conf", conf);
        self.write("web/www/index.html", &format!("web {version}"));
        self.operator.commit(&format!("Version {version}"));
    }

    fn push(&self) -> Run {
        self.git(&["push", NAME, "prod"])
    }

    fn git(&self, args: &[&str]) -> Run {
        long(&self.operator, args).run().unwrap()
    }
}
