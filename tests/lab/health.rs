//! Health probes, which must succeed before a deployment is accepted.

use deptool_tests::lab::{Base, HostSpec, start_or_skip};
use deptool_tests::sandbox::Sandbox;

use crate::{net::http_get, stage::Stage};

const NGINX_CONF: &str = "\
user www-data;
pid /run/nginx.pid;
events {}
http { server { listen 80; location / { return 200 'PAGE'; } location /healthz { return STATUS ''; } } }
";
/// It starts to listen three seconds after its start, when its settling time is over.
const LATE: &str = "\
[Service]
Type=simple
ExecStartPre=
ExecStart=
ExecStart=/bin/sh -c 'sleep 3; exec /usr/sbin/nginx -c /var/lib/deptool/apps/nginx/current/nginx.conf -g \"daemon off;\"'
";
const DROP_IN: &str = "\
[Service]
ExecStartPre=
ExecStart=
ExecStart=/usr/sbin/nginx -c /var/lib/deptool/apps/nginx/current/nginx.conf
";

#[test]
fn what_does_not_answer_as_it_should_is_rolled_back() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1")]) else { return };
    let sandbox = Sandbox::for_lab(&lab);
    let (host, operator) = (lab.host("web1"), sandbox.repo("operator"));
    operator.add_remote("web1", "deptool::web1");
    let write = |path: &str, content: &str| operator.write(format!("web1/nginx/{path}"), content);
    let manifest = |health: &str| {
        write(
            "manifest.json",
            &format!(r#"{{"systemd": {{"units_enabled": ["nginx.service"]}}, "health": {health}}}"#),
        );
    };
    let conf = |page: &str, status: &str| {
        write("nginx.conf", &NGINX_CONF.replace("PAGE", page).replace("STATUS", status));
    };
    let push = |what: &str| {
        operator.commit(what);
        operator.git(&["push", "web1", "prod"])
    };
    let page = || http_get(&host.ip, "/").unwrap_or_default();
    let http = r#"{"http": "http://localhost/healthz", "status": 204, "within": "1s"}"#;

    conf("first", "204");
    write("systemd/nginx.service.d/deptool.conf", DROP_IN);
    manifest(&format!(r#"[{http}, {{"tcp": "127.0.0.1:80"}}]"#));
    push("Healthy").ok();
    assert!(page().ends_with("first"));

    conf("second", "503");
    let sick = "rolled back: http://localhost/healthz of 'nginx' is not healthy after 1.0 s: status 503, not 204";
    push("Sick").fails().says(sick);
    assert!(page().ends_with("first"));

    conf("third", "204");
    manifest(r#"[{"tcp": "127.0.0.1:5353", "within": "200ms"}]"#);
    push("Nobody there").fails().says("rolled back: tcp 127.0.0.1:5353 of 'nginx' is not healthy after 0.2 s: nothing");
    assert!(page().ends_with("first"));

    // A slow service that does not announce its readiness.
    conf("fourth", "204");
    write("systemd/nginx.service.d/deptool.conf", LATE);
    manifest(&format!("[{}]", http.replace("1s", "20s")));
    push("Late").ok();
    assert!(page().ends_with("fourth"));

    // An unhealthy app does not affect other apps: only apps that change are probed.
    host.sh("systemctl stop nginx.service");
    operator.write("web1/other/file", "1");
    push("Another app").ok();
}

#[test]
fn a_oneshot_of_the_tree_asks_until_it_is_answered_and_leaves_nothing_behind() {
    let Some(stage) = Stage::of_one(Base::Bookworm) else { return };
    let host = stage.host();
    let manifest = |within: &str| {
        let health = format!(r#""health": [{{"unit": "db-ready.service", "within": "{within}"}}]"#);
        stage.write("db/manifest.json", &format!(r#"{{"systemd": {{"units_enabled": ["db.service"]}}, {health}}}"#));
    };
    let service = |seconds: u8| {
        format!(
            "[Service]\nExecStartPre=/bin/rm -f /run/db.ready\n\
                 ExecStart=/bin/sh -c 'sleep {seconds}; touch /run/db.ready; exec sleep infinity'\n\
                 [Install]\nWantedBy=multi-user.target\n"
        )
    };
    // Each run that fails is counted.
    let probe = "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'test -e /run/db.ready && exit; \
                 echo x >>/run/db.asked; echo the database sleeps; exit 2'\n";
    stage.write("db/systemd/db.service", &service(3));
    stage.write("db/systemd/db-ready.service", probe);
    manifest("20s");
    stage.operator().commit("A slow database");
    let push = stage.operator().git(&["push", "--verbose", "web1", "prod"]).ok();
    push.says("web1: settling").says("web1: waiting for db-ready.service");
    assert_ne!(host.sh("wc -l </run/db.asked"), "1", "it was asked until it answered");
    assert_eq!(
        (host.unit_state("db.service"), host.unit_state("db-ready.service")),
        ("active".into(), "inactive".into())
    );

    stage.write("db/systemd/db.service", &service(60));
    manifest("2s");
    let failed = stage.push_fails("Too slow").says("rolled back: db-ready.service of 'db' does not succeed after");
    failed.says("exited with status 2").says("the database sleeps");
    assert_eq!(host.sh("systemctl list-units --failed --all --no-legend --plain"), "");
    assert_eq!(host.unit_state("db.service"), "active");

    // The probe hangs: its time is limited, and none of its processes remain.
    stage.write("db/systemd/db.service", &service(0));
    stage.write("db/systemd/db-ready.service", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'sleep 1111; exit 0'\n");
    stage.push_fails("It hangs").says("db-ready.service of 'db' does not succeed after").says("does not end");
    assert_eq!(host.sh("pgrep -f '[s]leep 1111' || true"), "");
    assert_eq!(host.unit_state("db-ready.service"), "inactive");
}
