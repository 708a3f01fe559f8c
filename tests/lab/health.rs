//! Health probes, which must succeed before a deployment is accepted.

use deptool_tests::lab::{HostSpec, start_or_skip};
use deptool_tests::sandbox::Sandbox;

use crate::net::http_get;

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
