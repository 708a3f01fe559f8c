//! Units, drop-ins, users, temporary files and quadlets on a local root: installed, enabled for the next boot, removed.

use deptool_tests::sandbox::{Repo, Sandbox};

use crate::seen::at_rest;

const SERVICE: &str = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants/web.service";

fn operator(sandbox: &Sandbox) -> Repo<'_> {
    let operator = sandbox.repo("operator");
    operator.add_root("web1");
    operator.write("web1/web/file", "1\n");
    operator
}

pub fn has_systemctl(sandbox: &Sandbox) -> bool {
    let has = sandbox.command("systemctl").arg("--version").run().is_ok_and(|run| run.success());
    if !has {
        eprintln!("skipped: no systemctl here");
    }
    has
}

#[test]
fn a_unit_is_enabled_for_the_next_boot_and_disabled_when_it_goes() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    if !has_systemctl(&sandbox) {
        return;
    }
    operator.write("web1/web/systemd/web.service", SERVICE);
    operator.write("web1/web/manifest.json", r#"{"systemd": {"units_enabled": ["web.service"]}}"#);
    operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    let placed = sandbox.root("web1").join("etc/systemd/system/web.service");
    assert!(placed.symlink_metadata().unwrap().is_file(), "a copy, so that it exists before /var is mounted");
    assert_eq!(sandbox.read("web1", WANTS), SERVICE.as_bytes());

    operator.write("web1/web/manifest.json", "{}");
    operator.commit("Available, not enabled");
    operator.git(&["push", "web1", "prod"]).ok();
    assert!(placed.exists() && !sandbox.exists("web1", WANTS));

    operator.git(&["push", "-f", "web1", "prod~1:prod"]).ok();
    assert!(sandbox.exists("web1", WANTS));
    operator.git(&["push", "web1", ":prod"]).ok();
    at_rest(&sandbox, "web1", None);
    assert!(!sandbox.exists("web1", "/etc"), "{}", sandbox.tree("web1"));
}

#[test]
fn a_unit_that_moves_to_another_app_stays_enabled() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    if !has_systemctl(&sandbox) {
        return;
    }
    operator.write("web1/web/systemd/web.service", SERVICE);
    operator.write("web1/web/manifest.json", r#"{"systemd": {"units_enabled": ["web.service"]}}"#);
    operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    let link = sandbox.root("web1").join(&WANTS[1..]);
    let inode = || std::os::unix::fs::MetadataExt::ino(&link.symlink_metadata().unwrap());
    let before = inode();
    operator.git(&["mv", "web1/web", "web1/other"]).ok();
    let two = operator.commit("Two");
    operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!(inode(), before);
    at_rest(&sandbox, "web1", Some(&two));
}

#[test]
fn a_unit_of_the_host_is_given_back_as_it_was() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    if !has_systemctl(&sandbox) {
        return;
    }
    let root = sandbox.root("web1");
    std::fs::create_dir_all(root.join("usr/lib/systemd/system")).unwrap();
    for unit in ["was-on", "was-off"] {
        std::fs::write(root.join(format!("usr/lib/systemd/system/{unit}.service")), SERVICE).unwrap();
    }
    let enable = format!("--root={}", root.display());
    sandbox.command("systemctl").args([&enable, "enable", "was-on.service"]).run().unwrap().ok();
    let before = sandbox.tree("web1");
    operator
        .write("web1/web/manifest.json", r#"{"systemd": {"units_enabled": ["was-on.service", "was-off.service"]}}"#);
    operator.write("web1/web/systemd/was-on.service.d/override.conf", "[Service]\nNice=1\n");
    operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    let wants = "/etc/systemd/system/multi-user.target.wants";
    assert!(sandbox.exists("web1", &format!("{wants}/was-off.service")));
    assert!(sandbox.exists("web1", "/etc/systemd/system/was-on.service.d/override.conf"));
    operator.git(&["push", "web1", ":prod"]).ok();
    let after = sandbox.tree("web1");
    let not_ours = |tree: &str| -> Vec<String> {
        tree.lines().filter(|line| !line.starts_with("var")).map(str::to_owned).collect()
    };
    assert_eq!(not_ours(&after), not_ours(&before));
}

#[test]
fn drop_ins_users_temporary_files_and_quadlets_go_where_the_system_looks() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    let files = [
        ("systemd/nginx.service.d/web.conf", "etc/systemd/system/nginx.service.d/web.conf", "[Service]\nNice=1\n"),
        ("systemd/web.timer", "etc/systemd/system/web.timer", "[Timer]\nOnCalendar=daily\n"),
        ("sysusers/web.conf", "etc/sysusers.d/web.conf", "u deptool-e2e - \"Web\"\n"),
        ("tmpfiles/web.conf", "etc/tmpfiles.d/web.conf", "d /var/cache/deptool-e2e 0755 - - -\n"),
        ("quadlets/db.container", "etc/containers/systemd/db.container", "[Container]\nImage=x\n"),
        ("quadlets/db.container.d/x.conf", "etc/containers/systemd/db.container.d/x.conf", "[Container]\nImage=y\n"),
        ("quadlets/env", "etc/containers/systemd/env", "A=1\n"),
    ];
    for (file, _, content) in files {
        operator.write(format!("web1/web/{file}"), content);
    }
    operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    for (_, placed, content) in files {
        assert_eq!(std::fs::read_to_string(sandbox.root("web1").join(placed)).unwrap(), content, "{placed}");
    }
    // New content replaces the old one.
    operator.write("web1/web/systemd/web.timer", "[Timer]\nOnCalendar=weekly\n");
    operator.remove("web1/web/quadlets/db.container.d");
    let two = operator.commit("Two");
    operator.git(&["push", "web1", "prod"]).ok();
    at_rest(&sandbox, "web1", Some(&two));
    assert_eq!(sandbox.read("web1", "/etc/systemd/system/web.timer"), b"[Timer]\nOnCalendar=weekly\n");
    assert!(!sandbox.exists("web1", "/etc/containers/systemd/db.container.d"));
    operator.git(&["push", "web1", ":prod"]).ok();
    for (_, placed, _) in files {
        assert!(!sandbox.root("web1").join(placed).exists(), "{placed}");
    }
}

#[test]
fn a_unit_file_that_was_edited_on_the_host_is_kept_when_it_is_replaced() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    operator.write("web1/web/systemd/web.service", SERVICE);
    operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    let dir = sandbox.root("web1").join("etc/systemd/system");
    std::fs::write(dir.join("web.service"), "edited\n").unwrap();
    operator.write("web1/web/systemd/web.service", format!("{SERVICE}# 2\n"));
    operator.commit("Two");
    let run = operator.git(&["push", "web1", "prod"]).ok();
    run.says("web1: '/etc/systemd/system/web.service' was edited: what was there is kept as ");
    assert_eq!(
        std::fs::read(sandbox.root("web1").join("var/lib/deptool/state/kept/2/root/etc/systemd/system/web.service"))
            .unwrap(),
        b"edited\n"
    );
    assert_eq!(std::fs::read(dir.join("web.service")).unwrap(), format!("{SERVICE}# 2\n").as_bytes());
}

#[test]
fn an_unknown_unit_is_refused() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    if !has_systemctl(&sandbox) {
        return;
    }
    operator.write("web1/web/manifest.json", r#"{"systemd": {"units_enabled": ["nowhere.service"]}}"#);
    operator.commit("One");
    let before = crate::seen::visible(&sandbox.root("web1"));
    let run = operator.git(&["push", "web1", "prod"]).code(1);
    run.says("(unit 'nowhere.service' is neither in the tree nor on the host)");
    crate::seen::unchanged(&crate::seen::visible(&sandbox.root("web1")), &before);
}

#[test]
fn owners_are_those_of_the_root_not_of_this_machine() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: needs root");
    }
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    let etc = sandbox.root("web1").join("etc");
    std::fs::create_dir_all(&etc).unwrap();
    std::fs::write(etc.join("passwd"), "root:x:0:0::/:/bin/sh\nkeeper:x:4711:4712::/:/bin/sh\n").unwrap();
    std::fs::write(etc.join("group"), "root:x:0:\nkeepers:x:4712:\n").unwrap();
    operator.write("web1/web/key", "secret");
    let manifest = r#"{"files": {"key": {"mode": "0640", "owner": "keeper", "group": "keepers"}}}"#;
    operator.write("web1/web/manifest.json", manifest);
    operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    use std::os::unix::fs::MetadataExt as _;
    let meta = sandbox.root("web1").join("var/lib/deptool/current/web/key").metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (4711, 4712, 0o640));
    let before = crate::seen::visible(&sandbox.root("web1"));
    operator.write("web1/web/manifest.json", r#"{"files": {"key": {"owner": "nobody-there"}}}"#);
    operator.commit("Two");
    let run = operator.git(&["push", "web1", "prod"]).code(1);
    run.says("web/manifest.json: there is no user 'nobody-there' on the host");
    crate::seen::unchanged(&crate::seen::visible(&sandbox.root("web1")), &before);
}
