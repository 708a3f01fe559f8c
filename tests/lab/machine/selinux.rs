//! What is deployed on a machine with SELinux enforcing: servers that the policy confines, an own program, a timer, a
//! check; and the labels, by which all this works.

use deptool_tests::lab::vm::{NAME, Vm};
use deptool_tests::process::Run;
use deptool_tests::sandbox::{Repo, Sandbox};
use deptool_tests::secrets::encrypt;

use super::{http, long};

const NGINX: &str = r#"{"systemd": {"units_enabled": ["nginx.service"]}, "checks": ["nginx-check.service"],
    "symlinks": {"/etc/nginx/conf.d/site.conf": "site.conf"}}"#;
const SITE: &str = "server { listen 8080; root /var/lib/deptool/apps/nginx/current/www; }\n";
const CHECK: &str = "[Service]\nType=oneshot\nExecStart=/usr/sbin/nginx -t\n";
const NSD: &str = r#"{"systemd": {"units_enabled": ["nsd.service"]},
    "symlinks": {"/etc/nsd/nsd.conf.d/zone.conf": "zone.conf"}}"#;
const ZONE_CONF: &str = "server:\n  ip-address: 127.0.0.1\n  xfrdir: /var/lib/nsd\nremote-control:\n  control-enable: no\n\
    zone:\n  name: example.org\n  zonefile: /var/lib/deptool/apps/nsd/current/zone\n";
const ZONE: &str = "$TTL 60\n@ SOA ns admin 1 60 60 60 60\n@ NS ns\nns A 127.0.0.1\n";
const OWN: &str = r#"{"systemd": {"units_enabled": ["own.service", "own.timer"]}}"#;
const PROGRAM: &str = "#!/bin/sh\ncat \"$(dirname \"$0\")/../word\" >\"/run/$1\"\nexec sleep \"$2\"\n";
const RUN: &str = "/var/lib/deptool/apps/own/current/bin/own";
/// Types below deptool's directory, by what `stat` says of them.
const LABELS: [(&str, &str); 9] = [
    ("/var/lib/deptool", "etc_t"),
    ("/var/lib/deptool/state", "var_lib_t"),
    ("/var/lib/deptool/store", "var_lib_t"),
    ("/var/lib/deptool/bin/deptool-agent-*", "bin_t"),
    ("/var/lib/deptool/current", "etc_t"),
    ("/var/lib/deptool/apps/own/current", "etc_t"),
    ("/var/lib/deptool/apps/own/current/", "etc_t"),
    ("/var/lib/deptool/apps/own/current/word", "etc_t"),
    (RUN, "bin_t"),
];
/// What is put elsewhere: as the policy says.
const OUTSIDE: [&str; 4] = [
    "/etc/nginx/conf.d/site.conf",
    "/etc/nsd/nsd.conf.d/zone.conf",
    "/etc/systemd/system/own.service",
    "/etc/systemd/system/own.timer",
];

/// Deploys servers, an own program, a timer and a check, and asserts that they work and have their labels.
pub fn what_is_deployed_works(vm: &Vm, sandbox: &Sandbox) {
    let operator = sandbox.repo("selinux");
    operator.add_remote(NAME, &format!("deptool::{NAME}"));
    assert_eq!(vm.sh("getenforce"), "Enforcing");
    write(&operator, 1);
    push(&operator);
    works(vm, 1);
    has_labels(vm);

    // Another label is drift; a relabelling of what is ours, or of the whole host, is put right by each contact.
    vm.sh("chcon -t etc_t /etc/systemd/system/own.service; restorecon -RF /var/lib/deptool");
    assert_eq!(label(vm, RUN), "var_lib_t");
    git(&operator, &["deptool", "verify", NAME])
        .code(2)
        .prints("'/etc/systemd/system/own.service' has another SELinux label");
    assert_eq!(label(vm, RUN), "bin_t");
    let recipient = vm.sh("sed -n 's/^# public key: //p' /var/lib/deptool/state/identity");
    operator.write(format!("{NAME}/own/secrets/key.age"), encrypt(&recipient, "secret"));
    write(&operator, 2);
    push(&operator);
    works(vm, 2);
    has_labels(vm);
    has_secret(vm);
    git(&operator, &["deptool", "verify", NAME]).ok();
}

/// Asserts that a boot sets labels that a relabelling has reset.
pub fn a_boot_labels_again(vm: &Vm) {
    vm.sh("restorecon -RF /var/lib/deptool; sync");
    vm.cut_power();
    vm.boot().unwrap();
    works(vm, 2);
    has_labels(vm);
    has_secret(vm);
}

/// Asserts that the kernel has denied nothing since the machine was made.
pub fn nothing_was_denied(vm: &Vm) {
    let denied = vm.sh("ausearch --message avc,user_avc,selinux_err --interpret 2>&1 || true");
    assert_eq!(denied, "<no matches>");
}

fn write(operator: &Repo<'_>, version: u32) {
    let write = |path: &str, content: &str| operator.write(format!("{NAME}/{path}"), content);
    write("nginx/manifest.json", NGINX);
    write("nginx/site.conf", &format!("# {version}\n{SITE}"));
    write("nginx/www/index.html", &format!("web {version}"));
    write("nginx/systemd/nginx-check.service", CHECK);
    write("nsd/manifest.json", NSD);
    write("nsd/zone.conf", ZONE_CONF);
    write("nsd/zone", &format!("{ZONE}v{version} A 127.0.0.1\n"));
    write("own/manifest.json", OWN);
    write("own/word", &version.to_string());
    write("own/bin/own", PROGRAM);
    let program = operator.dir.join(format!("{NAME}/own/bin/own"));
    std::fs::set_permissions(program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let install = "[Install]\nWantedBy=multi-user.target\n";
    write("own/systemd/own.service", &format!("[Service]\nExecStart={RUN} own infinity\n{install}# {version}\n"));
    write("own/systemd/timed.service", &format!("[Service]\nType=oneshot\nExecStart={RUN} timed 0\n"));
    write(
        "own/systemd/own.timer",
        "[Timer]\nUnit=timed.service\nOnActiveSec=1\nOnUnitActiveSec=3\nAccuracySec=1\n[Install]\nWantedBy=timers.target\n",
    );
    operator.commit(&format!("Version {version}"));
}

fn git(operator: &Repo<'_>, args: &[&str]) -> Run {
    long(operator, args).run().unwrap()
}

#[track_caller]
fn push(operator: &Repo<'_>) {
    git(operator, &["push", NAME, "prod"]).ok();
}

#[track_caller]
fn works(vm: &Vm, version: u32) {
    assert_eq!(http(vm), format!("web {version}"));
    vm.sh("systemctl is-active nginx.service nsd.service own.service own.timer");
    assert_eq!(vm.sh("cat /run/own"), version.to_string());
    vm.sh(&format!("timeout 30 sh -c 'until grep -q {version} /run/timed; do sleep 1; done'"));
    // They are confined, or all this would prove nothing.
    let domains =
        vm.sh("ps -eo label,comm | sed -n 's/^[^:]*:[^:]*:\\([^:]*\\):[^ ]* *\\(nginx\\|nsd\\).*/\\1/p' | sort -u");
    assert_eq!(domains, "httpd_t\nnsd_t");
}

/// This kernel is too old for tmpfs, so memory can't have labels but for those of its mount.
#[track_caller]
fn has_secret(vm: &Vm) {
    assert_eq!(
        vm.sh("cat /run/deptool/secrets/own/key; grep -c ' /run/deptool/secrets ramfs ' /proc/mounts"),
        "secret1"
    );
    assert_eq!(label(vm, "-L /run/deptool/secrets/own/key"), "etc_t");
}

fn label(vm: &Vm, path: &str) -> String {
    vm.sh(&format!("stat -c %C {path} | cut -d: -f3"))
}

#[track_caller]
fn has_labels(vm: &Vm) {
    let paths = LABELS.map(|(path, _)| path).join(" ");
    let found = vm.sh(&format!("stat -c '%C' {paths} | cut -d: -f3"));
    assert_eq!(found.lines().collect::<Vec<_>>(), LABELS.map(|(_, label)| label));
    let outside = OUTSIDE.join(" ");
    assert_eq!(vm.sh(&format!("matchpathcon -V {outside} | grep -v ' verified.$' || true")), "");
}
