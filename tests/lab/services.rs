//! Real services on two hosts: nginx (Type=forking, Debian's unit with a drop-in), nsd (Type=notify, two zones), a small
//! service (Type=simple) and a timer.

use deptool_tests::lab::{Host, HostSpec};
use deptool_tests::sandbox::Repo;

use crate::{
    net::{dns_a, http_get},
    stage::Stage,
};

const HOSTS: [&str; 2] = ["web1", "web2"];

const NGINX_CONF: &str = "\
user www-data;
pid /run/nginx.pid;
events {}
http { server { listen 80; root /var/lib/deptool/apps/nginx/current/html; } }
";
const NGINX_DROP_IN: &str = "\
[Service]
ExecStartPre=
ExecStartPre=/usr/sbin/nginx -t -q -c /var/lib/deptool/apps/nginx/current/nginx.conf
ExecStart=
ExecStart=/usr/sbin/nginx -c /var/lib/deptool/apps/nginx/current/nginx.conf
";
const NSD_CONF: &str = "\
server:
    database: \"\"
zone:
    name: example.org
    zonefile: /var/lib/deptool/apps/nsd/current/zones/example.org.zone
zone:
    name: example.net
    zonefile: /var/lib/deptool/apps/nsd/current/zones/example.net.zone
";
const HELLO_SERVICE: &str = "\
[Service]
Type=simple
ExecStart=/bin/sh -c 'read word </var/lib/deptool/apps/hello/current/word; exec sleep infinity'

[Install]
WantedBy=multi-user.target
";
const BEAT_SERVICE: &str = "\
[Service]
Type=oneshot
ExecStart=/bin/true
";
const BEAT_TIMER: &str = "\
[Timer]
OnCalendar=hourly

[Install]
WantedBy=timers.target
";

/// Two hosts, and an operator who has deployed to both. None without a lab.
fn deployed() -> Option<Stage> {
    let stage = Stage::with(&HOSTS.map(HostSpec::new))?;
    let operator = stage.operator();
    for (index, host) in HOSTS.iter().enumerate() {
        write_host(&operator, host, index + 1);
        operator.add_remote(host, &format!("deptool::{host}"));
    }
    operator.commit("Services of every kind");
    for host in HOSTS {
        operator.git(&["push", host, "prod"]).ok();
    }
    Some(stage)
}

/// The configuration of the host with that number. Pages and zones differ between the hosts.
fn write_host(repo: &Repo<'_>, host: &str, number: usize) {
    let write = |path: &str, content: &str| repo.write(format!("{host}/{path}"), content);
    write("nginx/nginx.conf", NGINX_CONF);
    write("nginx/html/index.html", &format!("page of {host}\n"));
    write("nginx/systemd/nginx.service.d/deptool.conf", NGINX_DROP_IN);
    write("nginx/manifest.json", r#"{"systemd": {"units_enabled": ["nginx.service"]}}"#);

    write("nsd/nsd.conf", NSD_CONF);
    write("nsd/zones/example.org.zone", &zone("example.org", 1, &format!("192.0.2.{number}")));
    write("nsd/zones/example.net.zone", &zone("example.net", 1, &format!("198.51.100.{number}")));
    let links = r#""symlinks": {"/etc/nsd/nsd.conf.d/deptool.conf": "nsd.conf"}"#;
    write("nsd/manifest.json", &format!(r#"{{"systemd": {{"units_enabled": ["nsd.service"]}}, {links}}}"#));

    write("hello/word", "hello\n");
    write("hello/systemd/hello.service", HELLO_SERVICE);
    write("hello/manifest.json", r#"{"systemd": {"units_enabled": ["hello.service"]}}"#);

    write("beat/systemd/beat.service", BEAT_SERVICE);
    write("beat/systemd/beat.timer", BEAT_TIMER);
    write("beat/manifest.json", r#"{"systemd": {"units_enabled": ["beat.timer"]}}"#);
}

fn zone(name: &str, serial: u32, address: &str) -> String {
    format!(
        "$ORIGIN {name}.\n$TTL 60\n@ SOA ns hostmaster {serial} 3600 600 86400 60\n@ NS ns\nns A {address}\n@ A {address}\n"
    )
}

/// Asserts that all services of the host with that number answer with the first deployment.
#[track_caller]
fn assert_all_up(host: &Host, number: usize) {
    for unit in ["nginx.service", "nsd.service", "hello.service", "beat.timer"] {
        assert_eq!(host.unit_state(unit), "active", "{unit}");
        assert_eq!(host.unit_file_state(unit), "enabled", "{unit}");
    }
    assert_page(host, &format!("page of {}", host.name));
    assert_address(host, "example.org", &format!("192.0.2.{number}"));
    assert_address(host, "example.net", &format!("198.51.100.{number}"));
}

#[track_caller]
fn assert_page(host: &Host, text: &str) {
    let page = http_get(&host.ip, "/").unwrap_or_default();
    assert!(page.contains(text), "'{}' serves '{page}'", host.name);
}

#[track_caller]
fn assert_address(host: &Host, name: &str, address: &str) {
    assert_eq!(dns_a(&host.ip, name).map(|ip| ip.to_string()).as_deref(), Some(address), "{name} on '{}'", host.name);
}

/// The main process of a unit. It stays the same if the unit is not restarted.
#[track_caller]
fn main_pid(host: &Host, unit: &str) -> String {
    host.unit_property(unit, "MainPID")
}

#[test]
fn services_of_every_kind_run_on_two_hosts_and_come_back_after_a_reboot() {
    let Some(stage) = deployed() else { return };
    for (index, name) in HOSTS.iter().enumerate() {
        assert_all_up(stage.lab.host(name), index + 1);
    }
    stage.host().reboot().unwrap();
    assert_all_up(stage.host(), 1);
    stage.host().kill();
    stage.host().boot().unwrap();
    assert_all_up(stage.host(), 1);
}

#[test]
fn a_change_of_one_zone_restarts_nothing_but_nsd() {
    let Some(stage) = deployed() else { return };
    let (operator, host) = (stage.operator(), stage.host());
    let before = ["nginx.service", "hello.service"].map(|unit| main_pid(host, unit));
    let nsd = main_pid(host, "nsd.service");
    operator.write("web1/nsd/zones/example.org.zone", zone("example.org", 2, "192.0.2.77"));
    operator.commit("Move example.org");
    operator.git(&["push", "web1", "prod"]).ok();
    assert_address(host, "example.org", "192.0.2.77");
    assert_address(host, "example.net", "198.51.100.1");
    assert_ne!(main_pid(host, "nsd.service"), nsd);
    assert_eq!(["nginx.service", "hello.service"].map(|unit| main_pid(host, unit)), before);
    assert_address(stage.lab.host("web2"), "example.org", "192.0.2.2");
}

#[test]
fn nginx_with_a_broken_configuration_comes_back_with_the_old_one() {
    let Some(stage) = deployed() else { return };
    let (operator, host) = (stage.operator(), stage.host());
    let good = operator.id("prod");
    let nsd = main_pid(host, "nsd.service");
    operator.write("web1/nginx/nginx.conf", "this is no configuration\n");
    operator.write("web1/nginx/html/index.html", "never seen\n");
    operator.commit("Break nginx");
    let push = operator.git(&["push", "web1", "prod"]).fails().says("rolled back").says("nginx.service");
    assert_eq!(operator.id("refs/remotes/web1/prod"), good, "{push}");
    assert_all_up(host, 1);
    assert_eq!(main_pid(host, "nsd.service"), nsd);
    // A rollback leaves nothing behind that a reboot would start.
    host.reboot().unwrap();
    assert_all_up(host, 1);
    // And it does not prevent a good change.
    operator.write("web1/nginx/nginx.conf", NGINX_CONF);
    operator.write("web1/nginx/html/index.html", "mended\n");
    operator.commit("Mend nginx");
    operator.git(&["push", "web1", "prod"]).ok();
    assert_page(host, "mended");
}

#[test]
fn a_removed_app_takes_its_units_with_it_and_the_others_stay() {
    let Some(stage) = deployed() else { return };
    let (operator, host) = (stage.operator(), stage.host());
    let nsd = main_pid(host, "nsd.service");
    operator.remove("web1/hello");
    operator.remove("web1/nginx");
    operator.commit("Do without hello and nginx");
    operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!(host.unit_property("hello.service", "LoadState"), "not-found");
    assert!(!host.path("/etc/systemd/system/hello.service").exists());
    assert!(!host.path("/etc/systemd/system/nginx.service.d").exists());
    // As in Debian.
    assert_eq!(host.unit_state("nginx.service"), "inactive");
    assert_eq!(host.unit_file_state("nginx.service"), "disabled");
    assert_eq!(http_get(&host.ip, "/"), None);
    assert_eq!(main_pid(host, "nsd.service"), nsd);
    host.reboot().unwrap();
    assert_eq!(host.unit_state("nginx.service"), "inactive");
    assert_eq!(host.unit_state("beat.timer"), "active");
    assert_address(host, "example.org", "192.0.2.1");
}

#[test]
fn a_host_whose_deployment_is_removed_is_as_it_was_before() {
    let Some(stage) = deployed() else { return };
    let (operator, host) = (stage.operator(), stage.host());
    operator.git(&["push", "web1", ":prod"]).ok();
    assert_eq!(operator.id_if_any("refs/remotes/web1/prod"), None);
    for unit in ["nginx.service", "nsd.service"] {
        assert_eq!((host.unit_state(unit).as_str(), host.unit_file_state(unit).as_str()), ("inactive", "disabled"));
    }
    for unit in ["hello.service", "beat.timer", "beat.service"] {
        assert_eq!(host.unit_property(unit, "LoadState"), "not-found", "{unit}");
    }
    assert!(!host.path("/etc/nsd/nsd.conf.d/deptool.conf").is_symlink());
    assert_all_up(stage.lab.host("web2"), 2);
}
