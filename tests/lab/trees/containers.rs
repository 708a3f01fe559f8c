//! A reverse proxy, an app, and a database that a timer dumps, in Podman's containers.

use std::time::Duration;

use deptool_tests::lab::{Base, Host, HostSpec};
use deptool_tests::process::{Cmd, poll};

use super::{Example, run_of};
use crate::net::http_get;

const PATIENCE: Duration = Duration::from_secs(20);
const MAKE_IMAGE: &str = include_str!("image.sh");
/// What the container does depends on its environment.
const ENTRY: &str = include_str!("entry.sh");
const IMPORT: &str = r#"
podman import --quiet --change 'ENTRYPOINT ["/entry"]' --change 'ENV PATH=/usr/sbin:/usr/bin:/usr/lib/postgresql/15/bin' \
    /srv/image.tar lab
podman tag lab docker.io/library/postgres:17 docker.io/library/nginx:1.28 docker.io/miniflux/miniflux:2.2.6
"#;

/// Images can't be pulled: one with the PostgreSQL and the nginx of another base takes the place of all three.
fn make_images(host: &Host) {
    let image = Cmd::new("sh").args(["-c", MAKE_IMAGE, "image.sh"]).arg(Base::Servers.ensure().unwrap()).arg(ENTRY);
    let image = image.check().unwrap_or_else(|error| panic!("{error:#}"));
    std::fs::write(host.path("/srv/image.tar"), image.stdout).unwrap();
    host.sh(IMPORT);
    // Podman makes this for the first network, and keeps it.
    host.sh("mkdir -p /etc/containers/networks");
}

#[test]
fn containers_behind_a_proxy_do_what_their_readme_says() {
    let app1 = HostSpec { base: Base::Trixie, ..HostSpec::new("app1") };
    let Some(example) = Example::new("containers", &[app1]) else { return };
    let host = example.host("app1");
    make_images(host);
    host.sh(&example.commands("Secrets"));
    let before = example.before();
    example.try_it();

    let page = |path: &str| http_get(&host.ip, path).unwrap_or_default();
    let shows = |path: &str, text: &str| {
        poll(text, PATIENCE, || page(path).ends_with(text).then_some(())).unwrap();
    };
    let units = ["lan-network.service", "db-volume.service", "db.service", "miniflux.service", "proxy.service"];
    let runs = || units.map(|unit| run_of(host, unit));
    shows("/", "https://reader.example.org/\n");
    shows("/starts", "1\n");
    host.sh("systemctl start backup.service");
    let dump = host.sh("stat -c %a /var/backups/miniflux/*.gz; zcat /var/backups/miniflux/*.gz");
    assert!(dump.starts_with("600") && dump.contains("CREATE TABLE public.starts"), "{dump}");

    // Only what has changed is restarted. The proxy finds the app at its new address.
    let ran = runs();
    example.edit("app1/miniflux/miniflux.env", "reader.example.org", "feeds.example.org");
    example.push("Another name").ok();
    shows("/", "https://feeds.example.org/\n");
    shows("/starts", "2\n");
    assert_eq!((&runs()[..3], &runs()[4]), (&ran[..3], &ran[4]));
    assert_ne!(runs()[3], ran[3]);
    let ran = runs();
    example.edit("app1/proxy/nginx.conf", "listen 80;", "listen 80; location = /proxy { return 200 here; }");
    example.push("A page of the proxy's own").ok();
    shows("/proxy", "here");
    assert_eq!(runs()[..4], ran[..4]);

    example.edit(
        "app1/miniflux/quadlets/miniflux.container",
        "Image=docker.io/miniflux/miniflux",
        "Image=localhost/no",
    );
    example.push_fails("An image that there is not").says("rolled back: miniflux.service");
    shows("/", "https://feeds.example.org/\n");
    example.edit("app1/proxy/nginx.conf", "listen 80;", "listn 80;");
    example.push_fails("A typing error").says("rolled back: proxy.service").says("unknown directive \"listn\"");
    shows("/proxy", "here");

    example.give_back(before, &example.commands("Removal"));
    assert_eq!(host.sh("podman ps --all --quiet; podman volume ls --quiet"), "");
}
