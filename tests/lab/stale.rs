//! A reload that a service's processes did not take.

use deptool_tests::lab::Base;

use crate::{net::dns_a, stage::Stage};

/// nsd changes into this directory when it starts, and stays in it.
const CONF: &str = "\
server:
    database: \"\"
    zonesdir: ZONES
zone:
    name: example.org
    zonefile: example.org.zone
";
const CURRENT: &str = "/var/lib/deptool/apps/nsd/current/zones";

fn zone(address: &str) -> String {
    format!("$TTL 60\n@ SOA ns.example.org. a.example.org. 1 60 60 60 60\n@ NS ns\nns A 127.0.0.1\nwww A {address}\n")
}

#[test]
fn a_server_that_stays_in_its_old_directory_is_restarted_or_named() {
    let Some(stage) = Stage::of_one(Base::Bookworm) else { return };
    let host = stage.host();
    let manifest = |on_change: &str| {
        let units = r#""units_enabled": ["nsd.service"]"#;
        let on_change = format!(r#""on_change": {{"nsd.service": "{on_change}"}}"#);
        let links = r#""symlinks": {"/etc/nsd/nsd.conf.d/zones.conf": "nsd.conf"}"#;
        stage.write("nsd/manifest.json", &format!(r#"{{"systemd": {{{units}, {on_change}}}, {links}}}"#));
    };
    let served = || dns_a(&host.ip, "www.example.org").map(|ip| ip.to_string()).unwrap_or_default();
    stage.write("nsd/nsd.conf", &CONF.replace("ZONES", CURRENT));
    stage.write("nsd/zones/example.org.zone", &zone("192.0.2.1"));
    manifest("reload");
    stage.push("A zone").ok();
    assert_eq!(served(), "192.0.2.1");

    let pid = host.unit_property("nsd.service", "MainPID");
    stage.write("nsd/zones/example.org.zone", &zone("192.0.2.2"));
    let told = stage.push("Another address").ok().says("'nsd.service' still uses old files: process");
    told.says("still works in").says("set 'on_change' to 'restart' or 'reload-or-restart'");
    assert_eq!(host.unit_property("nsd.service", "MainPID"), pid);

    manifest("reload-or-restart");
    stage.write("nsd/zones/example.org.zone", &zone("192.0.2.3"));
    stage.push("It may be restarted").ok().does_not_say("did not take");
    assert_eq!(served(), "192.0.2.3");

    // With an absolute path a reload is enough.
    stage.write(
        "nsd/nsd.conf",
        &CONF.replace("ZONES", "/var/lib/nsd").replace("zonefile: ", &format!("zonefile: {CURRENT}/")),
    );
    stage.push("Absolute paths").ok();
    stage.write("nsd/zones/example.org.zone", &zone("192.0.2.4"));
    let pid = host.unit_property("nsd.service", "MainPID");
    stage.push("A reload takes it").ok().does_not_say("did not take");
    assert_eq!(served(), "192.0.2.4");
    assert_eq!(host.unit_property("nsd.service", "MainPID"), pid);
}

#[test]
fn a_service_of_the_host_that_has_the_old_tree_mounted_is_restarted_or_named() {
    let Some(stage) = Stage::of_one(Base::Bookworm) else { return };
    let host = stage.host();
    host.sh("printf '[Service]\nBindReadOnlyPaths=/var/lib/deptool/apps/app/current:/srv\n\
        ExecStart=sleep infinity\nExecReload=true\n[Install]\nWantedBy=multi-user.target\n' >/etc/systemd/system/bound.service; \
        systemctl daemon-reload");
    let push = |on_change: &str, word: &str| {
        let units = format!(r#""units_enabled": ["bound.service"], "on_change": {{"bound.service": "{on_change}"}}"#);
        stage.write("app/manifest.json", &format!(r#"{{"systemd": {{{units}}}}}"#));
        stage.write("app/word", word);
        stage.push(word).ok()
    };
    let word = || host.sh("cat /proc/$(systemctl show --property MainPID --value bound.service)/root/srv/word");
    push("reload", "one");
    assert_eq!(word(), "one");
    push("reload", "two").says("'bound.service' still uses old files: process").says("/trees/").says("' mounted");
    assert_eq!(word(), "one");
    push("reload-or-restart", "three");
    assert_eq!(word(), "three");
}
