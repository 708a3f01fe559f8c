//! Checks: errors in a configuration are found before anything changes.

use deptool_tests::lab::{Base, Host, HostSpec, Lab, start_or_skip};
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::{net::http_get, stage::Stage};

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

/// Asserts that a check has left no trace: no unit, no file, no symlink with the app's name.
#[track_caller]
fn assert_no_trace(host: &Host) {
    assert_eq!(
        host.sh("systemctl list-units --all --no-legend 'deptool-check-*' nginx-check.service app-check.service"),
        ""
    );
    assert_eq!(host.sh("ls /run/systemd/system | grep deptool-check || true"), "");
    assert_eq!(host.sh("ls -A /var/lib/deptool/generations/*/ | grep '^[.]apps' || true"), "");
    assert_eq!(host.sh("systemctl --failed --no-legend"), "");
}

#[test]
fn a_typo_in_an_included_file_never_reaches_the_service() {
    let Some((lab, sandbox)) = with_nginx() else { return };
    let (host, operator) = (lab.host("web1"), operator(&sandbox));
    // The first time, apps/nginx/current has nothing except the staged files.
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
    let Some(lab) = start_or_skip(&[HostSpec { base: Base::Trixie, ..HostSpec::new("web1") }]) else { return };
    let sandbox = Sandbox::for_lab(&lab);
    let (host, operator) = (lab.host("web1"), sandbox.repo("operator"));
    operator.add_remote("web1", "deptool::web1");
    let check = |text: &str| operator.write("web1/app/systemd/app-check.service", format!("[Service]\n{text}\n"));
    let push = |what: &str| {
        operator.commit(what);
        operator.git(&["push", "web1", "prod"])
    };

    // Its user is created by the deployment itself.
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
    // It does not run if only another app changes.
    operator.git(&["reset", "--quiet", "--hard", "HEAD^"]).ok();
    operator.write("web1/other/file", "1");
    push("Another app").ok();

    // Several commands, though it does not say that it is a oneshot. What they print is shown, and no more.
    check("ExecStart=/bin/echo one is well\nExecStart=/bin/sh -c 'echo two is not; exit 4'");
    let failed = push("The second command fails").fails().says("failed: exited with status 4");
    failed.says("one is well").says("two is not").does_not_say("Main process exited").does_not_say("Starting");
    check("ExecStart=/bin/sh -c 'echo before the end; exec sleep 1000'\nTimeoutStartSec=1s");
    push("Takes too long").fails().says("check 'app-check.service' of 'app' failed: timed out").says("before the end");
    check("ExecStart=/nowhere/check");
    push("No program").fails().says("app-check.service");
    check("User=nobody-such\nExecStart=/bin/true");
    push("No user").fails().says("'app/systemd/app-check.service': User=nobody-such: there is no user 'nobody-such'");
    assert_no_trace(host);
}

#[test]
fn a_unit_file_with_a_mistake_in_it_is_refused() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1")]) else { return };
    let sandbox = Sandbox::for_lab(&lab);
    let (host, operator) = (lab.host("web1"), sandbox.repo("operator"));
    operator.add_remote("web1", "deptool::web1");
    let unit = |text: &str| operator.write("web1/app/systemd/app.service", format!("[Service]\n{text}\n"));
    let push = |what: &str| {
        operator.commit(what);
        operator.git(&["push", "web1", "prod"])
    };
    // A program that is part of the deployment, behind a symlink that does not exist yet; and one with a mode that it
    // does not have yet.
    operator.write("web1/app/bin/run", "#!/bin/sh\nexec sleep 1000\n");
    operator.write("web1/app/bin/pre", "#!/bin/sh\n");
    let links = r#""symlinks": {"/usr/local/libexec/app": "bin"}, "files": {"bin/pre": {"mode": "0755"}}"#;
    let manifest = format!(r#"{{"systemd": {{"units_enabled": ["app.service"]}}, {links}}}"#);
    operator.write("web1/app/manifest.json", manifest);
    sandbox.command("chmod").args(["755", "operator/web1/app/bin/run"]).run().unwrap().ok();
    let good = "ExecStartPre=/usr/local/libexec/app/pre\nExecStart=/var/lib/deptool/apps/app/current/bin/run\n\
                [Install]\nWantedBy=multi-user.target";
    for (bad, expected) in [
        ("ExecStart=/usr/bin/no-such", "app.service: Command /usr/bin/no-such is not executable"),
        ("ExecStart=/var/lib/deptool/apps/app/current/bin/no-such", "/apps/app/current/bin/no-such is not executable"),
        ("ExecStart=/bin/true\nRestart=sometimes", "'app/systemd/app.service': line 3: Failed to parse"),
        ("Type=oneshot", "app.service: Service has no ExecStart="),
        ("[Service", "'app/systemd/app.service': line 2: Invalid section header"),
    ] {
        unit(bad);
        push("Wrong").fails().says(expected);
        assert!(!host.path("/etc/systemd/system/app.service").exists());
    }
    unit(&format!("Colour=blue\n{good}"));
    push("Unknown to systemd, which goes on").ok().says("'app/systemd/app.service': line 2: Unknown");
    assert_eq!(host.unit_state("app.service"), "active");

    // A drop-in is verified together with its unit of the host, and without a drop-in that is removed.
    operator.write("web1/app/systemd/nginx.service.d/one.conf", "[Service]\nExecStart=/usr/bin/no-such\n");
    push("A drop-in").fails().says("nginx.service: Service has more than one ExecStart=");
    operator.write("web1/app/systemd/nginx.service.d/one.conf", "[Service]\nExecStart=\n");
    operator.write("web1/app/systemd/nginx.service.d/two.conf", "[Service]\nExecStart=/usr/sbin/nginx\n");
    push("Both").ok();
    operator.remove("web1/app/systemd/nginx.service.d/two.conf");
    push("One without the other").fails().says("nginx.service: Service has no ExecStart=");
    assert_eq!(host.sh("ls -A /var/lib/deptool/generations/*/ | grep '^[.]verify' || true"), "");

    let verify = "systemd-analyze verify --man=no /etc/systemd/system/app.service >/dev/null 2>&1 || true";
    let began = std::time::Instant::now();
    host.sh(&format!("{verify}; {verify}; {verify}; {verify}; {verify}"));
    println!("systemd-analyze verify takes {:?}", began.elapsed() / 5);
}

#[test]
fn a_check_can_not_change_what_it_inspects() {
    let Some((lab, sandbox)) = with_nginx() else { return };
    let (host, operator) = (lab.host("web1"), operator(&sandbox));
    operator.git(&["push", "web1", "prod"]).ok();
    let check = |command: &str| {
        let text = format!("[Service]\nExecStart=/bin/sh -c '{command}'\n");
        operator.write("web1/nginx/systemd/nginx-check.service", text);
        operator.commit("A check that writes");
        operator.git(&["push", "web1", "prod"]).fails()
    };
    let tree = "/var/lib/deptool/apps/nginx/current";
    for path in [tree, "/var/lib/deptool/current/nginx", "$(readlink -f /var/lib/deptool/apps/nginx/current)"] {
        check(&format!("echo x >{path}/nginx.conf")).says("Read-only file system");
        check(&format!("echo x >{path}/new")).says("Read-only file system");
    }
    // Root finds a way around every mount.
    check("echo x >/proc/1/root$(readlink -f /var/lib/deptool/apps/nginx/current)/new")
        .says("was added while the checks");
    assert_no_trace(host);
    operator.git(&["deptool", "verify", "web1"]).ok();
}

#[test]
fn a_unit_with_a_root_of_its_own_may_have_its_program_there_and_its_check_sees_the_new_files() {
    let Some(stage) = Stage::of_one(Base::Bookworm) else { return };
    // As an image: nothing can be made in it.
    stage.host().sh(
        "mkdir /srv/image; mount -t tmpfs image /srv/image; cd /srv/image; mkdir usr conf opt dev proc sys tmp var run; \
         ln -s usr/bin usr/lib usr/lib64 .; printf '#!/bin/sh\nexec sleep infinity\n' >opt/run; chmod +x opt/run; \
         mount -o remount,ro image",
    );
    let current = "/var/lib/deptool/apps/app/current";
    let image = format!("[Service]\nRootDirectory=/srv/image\nBindReadOnlyPaths=/usr {current}:/conf\n");
    stage.write(
        "app/manifest.json",
        r#"{"systemd": {"units_enabled": ["app.service"]}, "checks": ["a.service", "b.service"]}"#,
    );
    let install = "[Install]\nWantedBy=multi-user.target\n";
    stage.write("app/systemd/app.service", &format!("{image}ExecStart=/opt/run\n{install}"));
    for version in ["1", "2"] {
        let check = format!(
            "EnvironmentFile={current}/env\nExecStart=/bin/sh -c 'test \"$(cat /conf/word)$ENV\" = {version}{version}'\n"
        );
        stage.write("app/systemd/a.service", &format!("{image}{check}"));
        stage.write("app/systemd/b.service", &format!("[Service]\nBindReadOnlyPaths={current}:/conf\n{check}"));
        stage.write("app/word", version);
        stage.write("app/env", &format!("ENV={version}\n"));
        stage.push("A new word").ok();
    }
    stage.host().sh("systemctl is-active app.service");
    assert_no_trace(stage.host());
}
