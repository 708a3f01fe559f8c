//! The examples in deptool-manifest(5), on hosts: what the manual shows works as it is written.

use std::time::Duration;

use deptool_tests::lab::{Base, Host};
use deptool_tests::process::poll;

use crate::{
    net::{dns_a, http_get},
    stage::Stage,
};

const MANUAL: &str = include_str!("../../man/deptool-manifest.5");
/// What the manual leaves to the reader.
const NGINX_CONF: &str = "\
user www-data;
pid /run/nginx.pid;
events {}
http { server { listen 80; location / { return 200 'PAGE'; } } }
";

impl Stage {
    /// Write the files of the example that has `file`, for web1. A file of which the manual shows only the name is left out.
    #[track_caller]
    fn write_example(&self, file: &str) {
        let (_, examples) = MANUAL.split_once(".Sh EXAMPLES").expect("the manual has examples");
        let block = examples.split(".Bd -literal -offset indent\n").find(|block| {
            let block = block.split("\n.Ed").next().unwrap_or_default();
            block.lines().any(|line| line.split_whitespace().next() == Some(file))
        });
        let block =
            block.and_then(|block| block.split("\n.Ed").next()).unwrap_or_else(|| panic!("no example has '{file}'"));
        let mut files: Vec<(String, String)> = Vec::new();
        for line in block.replace("\\e", "\\").lines() {
            match (line.strip_prefix("    "), files.last_mut()) {
                (Some(content), Some((_, text))) => text.push_str(&format!("{content}\n")),
                _ => {
                    let (path, content) = line.split_once("  ").unwrap_or((line, ""));
                    let (_, path) = path.split_once('/').expect("a path begins with a host's name");
                    let content = content.trim();
                    files.push((
                        path.to_owned(),
                        if content.is_empty() { String::new() } else { format!("{content}\n") },
                    ));
                }
            }
        }
        for (path, text) in files.iter().filter(|(_, text)| !text.is_empty()) {
            self.write(path, text);
        }
    }

    fn write_program(&self, path: &str, text: &str) {
        self.write(path, text);
        let file = self.sandbox.dir().join("operator/web1").join(path);
        std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
}

fn run(host: &Host, unit: &str) -> String {
    host.unit_property(unit, "InvocationID")
}

#[test]
fn nginx_a_timer_and_a_socket_work_as_the_manual_shows() {
    let Some(stage) = Stage::of_one(Base::Bookworm) else { return };
    let host = stage.host();
    stage.write_example("web1/nginx/nginx.conf");
    stage.write("nginx/nginx.conf", &NGINX_CONF.replace("PAGE", "one"));
    stage.push("nginx").ok();
    assert!(http_get(&host.ip, "/").unwrap_or_default().ends_with("one"));
    stage.write_example("web1/nginx/systemd/nginx-check.service");
    stage.push("With a check and a probe").ok();
    let before = run(host, "nginx.service");
    stage.write("nginx/nginx.conf", &NGINX_CONF.replace("PAGE", "two"));
    stage.push("Another page").ok();
    // Its old processes may answer a moment longer.
    let serves = || http_get(&host.ip, "/").unwrap_or_default().ends_with("two").then_some(());
    poll("the new page", Duration::from_secs(10), serves).unwrap();
    assert_eq!(run(host, "nginx.service"), before, "it was reloaded");
    stage.write("nginx/nginx.conf", "nonsense\n");
    stage.push_fails("Nonsense").says("check 'nginx-check.service' of 'nginx' failed");
    stage.write("nginx/nginx.conf", &NGINX_CONF.replace("PAGE", "two"));

    stage.write_example("web1/backup/run");
    stage.write_program("backup/run", "#!/bin/sh\necho one >>/run/backups\n");
    stage.push("A timer").ok();
    let timer = run(host, "backup.timer");
    stage.write_program("backup/run", "#!/bin/sh\necho two >>/run/backups\n");
    stage.push("Another script").ok();
    assert_eq!((run(host, "backup.timer"), host.sh("cat /run/backups 2>/dev/null || true")), (timer, String::new()));
    host.sh("systemctl start backup.service");
    assert_eq!(host.sh("cat /run/backups"), "two");

    stage.write_example("web1/echo/systemd/echo.socket");
    stage.write_program("echo/echo", "#!/bin/sh\nexec sleep infinity\n");
    stage.push("A socket").ok();
    host.sh("systemctl start echo.service");
    let (socket, service) = (run(host, "echo.socket"), run(host, "echo.service"));
    stage.write_program("echo/echo", "#!/bin/sh\nexec sleep 100000\n");
    stage.push("Another program").ok();
    assert_eq!(run(host, "echo.socket"), socket, "it goes on listening");
    assert_ne!(run(host, "echo.service"), service);
}

#[test]
fn a_name_server_and_a_database_work_as_the_manual_shows() {
    let Some(stage) = Stage::of_one(Base::Servers) else { return };
    let host = stage.host();
    let zone = |address: &str| format!("$TTL 60\n@ SOA ns a 1 60 60 60 60\n@ NS ns\n@ A {address}\nns A 127.0.0.1\n");
    stage.write_example("ns1/nsd/nsd.conf");
    stage.write("nsd/zones/example.org.zone", &zone("192.0.2.1"));
    stage.push("A name server").ok();
    let before = run(host, "nsd.service");
    stage.write("nsd/zones/example.org.zone", &zone("192.0.2.2"));
    stage.push("Another address").ok().does_not_say("did not take");
    let serves = || dns_a(&host.ip, "example.org").filter(|ip| ip.to_string() == "192.0.2.2").map(drop);
    poll("the new address", Duration::from_secs(10), serves).unwrap();
    assert_eq!(run(host, "nsd.service"), before, "it was reloaded");

    stage.write_example("db1/pg/ours.conf");
    stage.write("pg/ours.conf", "work_mem = 5MB\n");
    stage.push("A database").ok();
    let work_mem = || host.sh("cd /; su postgres -c 'psql -tAc \"show work_mem\"'");
    assert_eq!(work_mem(), "5MB");
    stage.write("pg/ours.conf", "work_mem = 6MB\n");
    stage.push("Another setting").ok();
    assert_eq!(work_mem(), "6MB");
    stage.write("pg/ours.conf", "no_such_setting = 1\n");
    stage.push_fails("A setting that there is not").says("rolled back").says("postgresql@15-main.service");
    assert_eq!((work_mem().as_str(), host.unit_state("postgresql@15-main.service").as_str()), ("6MB", "active"));
    assert_eq!(host.sh("systemctl list-units --failed --all --no-legend --plain"), "");
}

/// The images of the manual can't be had here: a root directory takes their place.
#[test]
fn a_set_of_containers_works_as_the_manual_shows() {
    let Some(stage) = Stage::of_one(Base::Trixie) else { return };
    let host = stage.host();
    host.sh(crate::quadlets::ROOTFS);
    stage.write_example("web1/shop/quadlets/lan.network");
    let file = stage.sandbox.dir().join("operator/web1/shop/quadlets/shop.container");
    let text = std::fs::read_to_string(&file).unwrap();
    let image = text.lines().find(|line| line.starts_with("Image=")).expect("a container has an image");
    let rootfs = "Rootfs=/srv/box\nVolume=/usr:/usr:ro\nExec=/usr/bin/sleep infinity\nStopTimeout=1";
    std::fs::write(&file, text.replace(image, rootfs)).unwrap();
    stage.write("shop/shop.env", "GREETING=one\n");
    stage.push("A shop").ok();
    assert_eq!(
        (host.unit_state("shop.service"), host.unit_state("lan-network.service")),
        ("active".into(), "active".into())
    );
    let greeting = || host.sh("podman exec systemd-shop /usr/bin/env | grep GREETING");
    assert_eq!(greeting(), "GREETING=one");
    let network = run(host, "lan-network.service");
    stage.write("shop/shop.env", "GREETING=two\n");
    stage.push("Another greeting").ok();
    assert_eq!((greeting(), run(host, "lan-network.service")), ("GREETING=two".into(), network));
    stage.operator().git(&["push", "web1", ":prod"]).ok();
    assert_eq!(host.sh("podman ps --all --quiet; systemctl list-units --failed --all --no-legend --plain"), "");
}
