//! Checks: what is wrong with a configuration is found before anything is changed.

use deptool_tests::lab::{Host, HostSpec, Lab, start_or_skip};
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::net::http_get;

const NGINX_CONF: &str = "\
user www-data;
pid /run/nginx.pid;
events {}
http { include /var/lib/deptool/apps/nginx/current/sites/*.conf; }
";
const SITE: &str = "server { listen 80; location / { return 200 'first'; } }\n";
const DROP_IN: &str = "\
[Service]
ExecStartPre=
ExecStart=
ExecStart=/usr/sbin/nginx -c /var/lib/deptool/apps/nginx/current/nginx.conf
";
const CHECK: &str = "\
[Unit]
Description=Never started as such
Requires=no-such.service

[Service]
Type=oneshot
ExecStart=/usr/sbin/nginx -t \\
    -c /var/lib/deptool/apps/nginx/current/nginx.conf
ExecStart=/bin/sh -c 'test -e $DEPTOOL_STAGED/nginx.conf'
ProtectSystem=strict
ReadWritePaths=/run /var/log/nginx /var/lib/nginx
PrivateTmp=yes
";

fn with_nginx() -> Option<(Lab, Sandbox)> {
    let lab = start_or_skip(&[HostSpec::new("web1")])?;
    let sandbox = Sandbox::for_lab(&lab);
    let operator = sandbox.repo("operator");
    let write = |path: &str, content: &str| operator.write(format!("web1/nginx/{path}"), content);
    write("nginx.conf", NGINX_CONF);
    write("sites/default.conf", SITE);
    write("systemd/nginx.service.d/deptool.conf", DROP_IN);
    write("systemd/nginx-check.service", CHECK);
    write("manifest.json", r#"{"systemd": {"units_enabled": ["nginx.service"]}, "checks": ["nginx-check.service"]}"#);
    operator.add_remote("web1", "deptool::web1");
    operator.commit("nginx with a check");
    Some((lab, sandbox))
}

fn operator(sandbox: &Sandbox) -> Repo<'_> {
    sandbox.repo_at(sandbox.dir().join("operator"))
}

/// No trace of a check: no unit, no file, no link of the app's own name.
#[track_caller]
fn assert_no_trace(host: &Host) {
    assert_eq!(host.sh("systemctl list-units --all --no-legend 'deptool-check-*' '*-check.service'"), "");
    assert_eq!(host.sh("ls /run/systemd/system | grep check || true"), "");
    assert_eq!(host.sh("ls -A /var/lib/deptool/generations/*/ | grep '^[.]apps' || true"), "");
    assert_eq!(host.sh("systemctl --failed --no-legend"), "");
}

#[test]
fn a_typo_in_an_included_file_never_reaches_the_service() {
    let Some((lab, sandbox)) = with_nginx() else { return };
    let (host, operator) = (lab.host("web1"), operator(&sandbox));
    // The first time, nothing is below apps/nginx/current but what is staged.
    operator.write("web1/nginx/sites/default.conf", "server { listne 80; }\n");
    operator.commit("A typo");
    let refused = operator.git(&["push", "web1", "prod"]).fails();
    refused.says("check 'nginx-check.service' of 'nginx' failed").says("unknown directive \"listne\"");
    assert!(!host.path("/var/lib/deptool/current").is_symlink());
    assert!(!host.path("/etc/systemd/system/nginx.service.d").exists());
    assert_no_trace(host);

    operator.write("web1/nginx/sites/default.conf", SITE);
    operator.commit("Mended");
    operator.git(&["push", "web1", "prod"]).ok();
    assert!(http_get(&host.ip, "/").unwrap_or_default().ends_with("first"));
    let before = (host.unit_property("nginx.service", "InvocationID"), host.sh("readlink /var/lib/deptool/current"));

    operator.write("web1/nginx/sites/default.conf", SITE.replace("return", "retrun"));
    operator.commit("Another typo");
    operator.git(&["push", "web1", "prod"]).fails().says("unknown directive \"retrun\"");
    let after = (host.unit_property("nginx.service", "InvocationID"), host.sh("readlink /var/lib/deptool/current"));
    assert_eq!(after, before);
    assert_no_trace(host);

    operator.write("web1/nginx/sites/default.conf", SITE.replace("first", "second"));
    operator.commit("Right again");
    operator.git(&["push", "web1", "prod"]).ok();
    assert!(http_get(&host.ip, "/").unwrap_or_default().ends_with("second"));
    assert_no_trace(host);
}

#[test]
fn checks_run_when_and_as_whom_they_should() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1")]) else { return };
    let sandbox = Sandbox::for_lab(&lab);
    let (host, operator) = (lab.host("web1"), sandbox.repo("operator"));
    operator.add_remote("web1", "deptool::web1");
    let check = |text: &str| operator.write("web1/app/systemd/app-check.service", format!("[Service]\n{text}\n"));
    let push = |what: &str| {
        operator.commit(what);
        operator.git(&["push", "web1", "prod"])
    };

    // Its user is made by the deployment itself.
    operator.write("web1/app/manifest.json", r#"{"checks": ["app-check.service"]}"#);
    operator.write("web1/app/sysusers/app.conf", "u app - \"The app\"\n");
    check("User=app\nExecStart=/bin/sh -c 'test ! -e /run/refuse && test $(id -un) = app'");
    push("A user")
        .ok()
        .says("check 'app-check.service' of 'app' was not run: 'app' is only created by this deployment");
    operator.write("web1/app/file", "1");
    assert!(!push("Now it is there").ok().stderr().contains("was not run"));
    host.sh("touch /run/refuse");
    operator.write("web1/app/file", "2");
    push("Refused").fails().says("check 'app-check.service' of 'app' failed: exited with status 1");
    // Another app's change is none of its business.
    operator.git(&["reset", "--quiet", "--hard", "HEAD^"]).ok();
    operator.write("web1/other/file", "1");
    push("Another app").ok();

    check("ExecStart=/bin/sh -c 'echo before the end; exec sleep 1000'\nTimeoutStartSec=1s");
    push("Takes too long").fails().says("check 'app-check.service' of 'app' failed: timed out").says("before the end");
    check("ExecStart=/nowhere/check");
    push("No program").fails().says("app-check.service");
    check("User=nobody-such\nExecStart=/bin/true");
    push("No user").fails().says("check 'app-check.service' of 'app' failed: exited with status 217/USER");
    assert_no_trace(host);
}
