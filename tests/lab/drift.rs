//! Drift: changes by hand are reported on request, and kept when a deployment replaces them.

use deptool_agent::shared::{
    build::BUILD_ID,
    frame::{FrameReader, encode},
    wire::{Request, Response},
};
use deptool_tests::lab::{Host, HostSpec, Link, start_or_skip};
use deptool_tests::sandbox::Sandbox;

const APP_SERVICE: &str = "\
[Service]
ExecStart=sleep infinity
[Install]
WantedBy=multi-user.target
";
const MANIFEST: &str = r#"{
  "systemd": {"units_enabled": ["app.service", "nsd.service", "once.service", "masked.service"]},
  "symlinks": {"/etc/app/conf": "conf", "/etc/app/other": "other"},
  "files": {"key": {"mode": "0600"}}
}"#;

/// The agent's report about the host, one line per item.
fn drift(host: &Host) -> Vec<String> {
    let hello = format!("deptool-hello {BUILD_ID}\n").into_bytes();
    let input = [hello, encode(&Request::Verify).unwrap()].concat();
    let agent = format!("/var/lib/deptool/bin/deptool-agent-*-{BUILD_ID}");
    let run = host.ssh_command(Link::Plain, "root", &[&agent]).input(input).run().unwrap().ok();
    let end = run.stdout.iter().position(|byte| *byte == b'\n').unwrap();
    let mut reader = FrameReader::new(&run.stdout[end + 1..]);
    let mut answers = std::iter::from_fn(|| reader.receive::<Response>().unwrap());
    let mut all = Vec::new();
    loop {
        match answers.next() {
            Some(Response::Hello(_)) => {}
            Some(Response::Drift(found)) => all.extend(found.iter().map(ToString::to_string)),
            Some(Response::End) => return all,
            _ => panic!("{run}"),
        }
    }
}

#[test]
fn what_somebody_changed_is_told_and_kept() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1")]) else { return };
    let sandbox = Sandbox::for_lab(&lab);
    let (host, operator) = (lab.host("web1"), sandbox.repo("operator"));
    operator.add_remote("web1", "deptool::web1");
    let write = |path: &str, content: &str| operator.write(format!("web1/app/{path}"), content);
    write("manifest.json", MANIFEST);
    for file in ["conf", "other", "key", "same", "gone", "mode"] {
        write(file, &format!("{file}\n"));
    }
    write("systemd/app.service", APP_SERVICE);
    write("systemd/masked.service", APP_SERVICE);
    write("systemd/once.service", "[Service]\nType=oneshot\nExecStart=/bin/true\n");
    write("systemd/nsd.service.d/app.conf", "[Unit]\nDescription=The name server\n");
    write("tmpfiles/app.conf", "d /run/app\n");
    operator.commit("An app");
    operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!(drift(host), [""; 0]);

    host.sh("cd /var/lib/deptool/apps/app/current
        echo edited >conf; touch same; rm gone; chmod 644 key; chown www-data mode; echo new >added
        cd /etc
        rm app/conf; echo file >app/conf; ln -sfn /etc/passwd app/other; chmod 600 tmpfiles.d/app.conf
        echo '[Unit]' >>systemd/system/nsd.service.d/app.conf
        mkdir systemd/system/app.service.d; echo '[Service]' >systemd/system/app.service.d/hand.conf
        cp /lib/systemd/system/nsd.service systemd/system/nsd.service
        systemctl daemon-reload
        systemctl disable app.service; systemctl stop nsd.service
        rm systemd/system/masked.service; systemctl mask masked.service");
    let app = "/var/lib/deptool/apps/app/current";
    let expected = [
        &format!("'{app}/conf' was edited"),
        &format!("'{app}/gone' is missing"),
        &format!("'{app}/key' has another mode or owner"),
        &format!("'{app}/mode' has another mode or owner"),
        &format!("'{app}/added' was added"),
        "'/etc/app/conf' was replaced by a file",
        "'/etc/app/other' leads to '/etc/passwd'",
        "'/etc/systemd/system/masked.service' was replaced by a symlink",
        "'/etc/systemd/system/nsd.service.d/app.conf' was edited",
        "'/etc/tmpfiles.d/app.conf' has another mode or owner",
        "app.service was disabled",
        "masked.service was masked",
        "nsd.service was stopped",
        "app.service has the drop-in '/etc/systemd/system/app.service.d/hand.conf', which was not deployed",
        "nsd.service is overridden by '/etc/systemd/system/nsd.service'",
    ];
    assert_eq!(drift(host), expected);
    // Asking changes nothing.
    assert_eq!(drift(host), expected);

    // A deployment that replaces changed files says so, and keeps them.
    host.sh("systemctl unmask masked.service; rm /etc/systemd/system/nsd.service /etc/systemd/system/app.service.d/*");
    write("systemd/nsd.service.d/app.conf", "[Unit]\nDescription=The name server, again\n");
    write("systemd/masked.service", &APP_SERVICE.replace("infinity", "1000000"));
    write("conf", "new\n");
    operator.commit("Once more");
    let push = operator.git(&["push", "web1", "prod"]).ok();
    let push = push.says(&format!("'{app}/conf' was edited: what was there is kept as"));
    let push = push.says("'/etc/systemd/system/nsd.service.d/app.conf' was edited: what was there is kept as");
    push.says("'/etc/systemd/system/masked.service' is missing: put right");
    assert_eq!(host.sh("cat /var/lib/deptool/state/kept/2/apps/app/conf"), "edited");
    let kept = host.sh("tail -n 1 /var/lib/deptool/state/kept/2/root/etc/systemd/system/nsd.service.d/app.conf");
    assert_eq!(kept, "[Unit]");
    assert_eq!(host.sh("cat /var/lib/deptool/apps/app/current/conf"), "new");

    // All of it belonged to the app that has changed.
    assert_eq!(drift(host), [""; 0]);
}
