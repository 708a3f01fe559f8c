//! `git deptool adopt`: what is on a host comes into the work tree, and the first deployment changes nothing but links.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use deptool_tests::process::Run;
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::{cluster::deptool, seen::at_rest};

/// A host with files of its own, and a repository that knows it and has no tree yet.
fn begin(sandbox: &Sandbox) -> (Repo<'_>, PathBuf) {
    let repo = sandbox.repo("operator");
    repo.add_root("web1");
    repo.git(&["config", "deptool.cluster", "prod"]).ok();
    let root = sandbox.root("web1");
    let write = |path: &str, content: &str, mode: u32| {
        let file = root.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, content).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write("etc/nginx/nginx.conf", "events {}\n", 0o644);
    write("etc/nginx/conf.d/a b.conf", "listen 80;\n", 0o640);
    write("etc/nginx/reload", "#!/bin/sh\n", 0o755);
    write("etc/nginx/key.pem", "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEA\n", 0o600);
    write("etc/outside/secret", "elsewhere\n", 0o644);
    symlink("../outside", root.join("etc/nginx/linked")).unwrap();
    write("etc/systemd/system/nginx.service.d/limits.conf", "[Service]\nLimitNOFILE=4096\n", 0o644);
    write("etc/tmpfiles.d/nginx.conf", "d /run/nginx 0755\n", 0o644);
    (repo, root)
}

#[track_caller]
fn adopt(repo: &Repo<'_>, words: &[&str]) -> Run {
    deptool(repo, &[&["adopt", "web1", "--yes"], words].concat())
}

/// Bytes or target, mode, owner and times of everything below a directory.
fn seen(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let stat = path.symlink_metadata().unwrap();
        if stat.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            lines.push(format!("{} {:o}", path.display(), stat.mode()));
            continue;
        }
        let content = match std::fs::read_link(&path) {
            Ok(target) => target.display().to_string(),
            Err(_) => String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned(),
        };
        let times = (stat.mtime(), stat.mtime_nsec());
        lines.push(format!("{} {:o} {} {} {times:?} {content:?}", path.display(), stat.mode(), stat.uid(), stat.gid()));
    }
    lines.sort();
    lines
}

#[test]
fn files_directories_and_drop_ins_are_adopted_deployed_and_given_back_byte_for_byte() {
    let sandbox = Sandbox::new();
    let (repo, root) = begin(&sandbox);
    let before = seen(&root.join("etc"));
    let words = ["/etc/nginx", "/etc/systemd/system/nginx.service.d", "/etc/tmpfiles.d/nginx.conf"];
    let said = adopt(&repo, &words).ok();
    said.prints("+ etc/nginx/nginx.conf from /etc/nginx/nginx.conf")
        .says("'/etc/nginx/key.pem' is left out: it has a private key in it; --secrets adopts it");
    assert_eq!(seen(&root.join("etc")), before, "nothing has changed on the host");
    let file = |path: &str| std::fs::read_to_string(repo.dir.join("web1/nginx").join(path)).unwrap();
    assert_eq!(file("etc/nginx/conf.d/a b.conf"), "listen 80;\n");
    assert_eq!(file("systemd/nginx.service.d/limits.conf"), "[Service]\nLimitNOFILE=4096\n");
    assert_eq!(file("tmpfiles/nginx.conf"), "d /run/nginx 0755\n");
    assert!(!repo.dir.join("web1/nginx/etc/nginx/key.pem").exists());
    assert!(!repo.dir.join("web1/nginx/etc/nginx/linked").exists(), "links out of a directory are not followed");
    let manifest: serde_json::Value = serde_json::from_str(&file("manifest.json")).unwrap();
    assert_eq!(manifest["files"], serde_json::json!({"etc/nginx/conf.d/a b.conf": {"mode": "0640"}}));
    assert_eq!(manifest["symlinks"]["/etc/nginx/reload"], "etc/nginx/reload");
    assert_eq!(manifest["symlinks"].as_object().unwrap().len(), 3);

    let commit = repo.commit("Adopt nginx");
    repo.git(&["push", "web1", "prod"]).ok().says("is taken over");
    at_rest(&sandbox, "web1", Some(&commit));
    for path in ["etc/nginx/nginx.conf", "etc/nginx/conf.d/a b.conf", "etc/nginx/reload"] {
        assert!(root.join(path).is_symlink(), "{path}");
        let stat = std::fs::metadata(root.join("var/lib/deptool/apps/nginx/current").join(path)).unwrap();
        let mode = if path.ends_with("reload") {
            0o755
        } else if path.ends_with("a b.conf") {
            0o640
        } else {
            0o644
        };
        assert_eq!(stat.mode() & 0o777, mode, "{path}");
    }
    // What is deployed is not adopted again.
    adopt(&repo, &["/etc/nginx"]).fails().says("'/etc/nginx/nginx.conf' is left out: it is deployed already");
    repo.git(&["push", "web1", ":prod"]).ok();
    assert_eq!(seen(&root.join("etc")), before, "everything is given back");
}

#[test]
fn what_can_not_be_managed_is_refused_and_nothing_is_written() {
    let sandbox = Sandbox::new();
    let (repo, root) = begin(&sandbox);
    sandbox.command("mkfifo").arg(root.join("etc/nginx/fifo")).run().unwrap().ok();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("etc/s")).unwrap();
    symlink("nginx/nginx.conf", root.join("etc/link.conf")).unwrap();
    for (path, why) in [
        ("/etc/nginx/fifo", "'/etc/nginx/fifo' is a named pipe"),
        ("/etc/s", "'/etc/s' is a socket"),
        ("/etc/nothing", "'/etc/nothing' does not exist"),
        ("/etc/link.conf", "'/etc/link.conf' is a symlink to 'nginx/nginx.conf': name that"),
        ("/proc/self/environ", "nothing below '/proc' can be managed"),
        ("/dev/null", "nothing below '/dev' can be managed"),
        ("/var/lib/deptool/state", "nothing below '/var/lib/deptool' can be managed"),
    ] {
        adopt(&repo, &[path, "--app", "x"]).fails().says(why);
    }
    adopt(&repo, &["/etc/../x", "--app", "x"]).code(129).says("invalid path");
    adopt(&repo, &["nobody.service"]).fails().says("there is no unit 'nobody.service' on the host");
    assert!(!repo.dir.join("web1").exists());
    // In a directory they are named, and the rest is adopted.
    adopt(&repo, &["/etc/nginx"]).ok().says("'/etc/nginx/fifo' is left out: it is a named pipe");
    // A file in the work tree is not overwritten.
    repo.write("web1/nginx/etc/nginx/nginx.conf", "mine\n");
    adopt(&repo, &["/etc/nginx"]).fails().says("'web1/nginx/etc/nginx/nginx.conf' is there already, and differs");
    assert_eq!(std::fs::read(repo.dir.join("web1/nginx/etc/nginx/nginx.conf")).unwrap(), b"mine\n");
}

#[test]
fn nothing_is_written_where_a_symlink_of_the_work_tree_leads() {
    let sandbox = Sandbox::new();
    let (repo, _) = begin(&sandbox);
    for (link, target) in [("web1/nginx/etc", "../../.git/hooks"), ("web1/nginx", "../.git/hooks")] {
        let link_path = repo.dir.join(link);
        std::fs::create_dir_all(link_path.parent().unwrap()).unwrap();
        symlink(target, link_path).unwrap();
        adopt(&repo, &["/etc/nginx"]).fails().says(&format!("'{link}' is a symlink"));
        let hooks = repo.dir.join(".git/hooks");
        assert!(!hooks.join("nginx").exists() && !hooks.join("etc").exists() && !hooks.join("manifest.json").exists());
        repo.remove("web1");
    }
}

#[test]
fn secrets_and_many_files_are_adopted_only_if_asked_for() {
    let sandbox = Sandbox::new();
    let (repo, root) = begin(&sandbox);
    adopt(&repo, &["/etc/nginx/key.pem"]).fails().says("--secrets adopts it").says("there is nothing to adopt");
    adopt(&repo, &["/etc/nginx/key.pem", "--secrets"]).ok().prints("(0600)");
    let manifest = std::fs::read_to_string(repo.dir.join("web1/nginx/manifest.json")).unwrap();
    assert!(manifest.contains("\"0600\""), "{manifest}");
    let big = std::fs::File::create(root.join("etc/nginx/big")).unwrap();
    big.set_len(65 << 20).unwrap();
    adopt(&repo, &["/etc/nginx"])
        .fails()
        .says("there are more files, or larger ones, than are adopted without --force");
    assert!(!repo.dir.join("web1/nginx/etc/nginx/nginx.conf").exists());
}

#[test]
fn without_a_terminal_nothing_is_written_unless_yes_is_given_and_json_tells_what_was() {
    let sandbox = Sandbox::new();
    let (repo, _root) = begin(&sandbox);
    deptool(&repo, &["adopt", "web1", "/etc/nginx"]).fails().says("use --yes to write without being asked");
    assert!(!repo.dir.join("web1").exists());
    let json = adopt(&repo, &["/etc/nginx/nginx.conf", "--json"]).ok().stdout();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["app"], "nginx");
    assert_eq!(json["written"], serde_json::json!(["web1/nginx/etc/nginx/nginx.conf", "web1/nginx/manifest.json"]));
}

/// What dpkg knows of the host: `nginx.conf` as it is there, `reload` with other content, and nothing else.
fn install_database(root: &Path) {
    let admin = root.join("var/lib/dpkg");
    std::fs::create_dir_all(admin.join("info")).unwrap();
    // "events {}\n"
    let conffiles = "Conffiles:\n /etc/nginx/nginx.conf b432de7e17df5e632caf61c5951bae4d\n \
                     /etc/nginx/reload 0123456789abcdef0123456789abcdef\n";
    let status = format!(
        "Package: nginx\nStatus: install ok installed\nMaintainer: A <a@example.org>\nArchitecture: all\nVersion: 1\n\
         Description: server\n{conffiles}\n"
    );
    std::fs::write(admin.join("status"), status).unwrap();
    std::fs::write(admin.join("info/format"), "1\n").unwrap();
    let owned = "/.\n/etc\n/etc/nginx\n/etc/nginx/nginx.conf\n/etc/nginx/reload\n/etc/nginx/conf.d/shipped\n";
    std::fs::write(admin.join("info/nginx.list"), owned).unwrap();
}

#[test]
fn what_could_be_adopted_is_listed_without_what_packages_machines_and_deployments_have_put_there() {
    if !Path::new("/usr/bin/dpkg-query").exists() {
        return;
    }
    let sandbox = Sandbox::new();
    let (repo, root) = begin(&sandbox);
    install_database(&root);
    for (path, content) in [
        ("etc/nginx/conf.d/shipped", "no conffile"),
        ("etc/machine-id", "0\n"),
        ("etc/shadow-", "root:x\n"),
        ("etc/ssl/certs/0a775a30.0", "hash\n"),
        ("etc/ssh/ssh_host_rsa_key", "key\n"),
        ("etc/sshd_config", "by ucf\n"),
        ("etc/systemd/system/own.timer", "[Timer]\nOnCalendar=yearly\n"),
    ] {
        std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        std::fs::write(root.join(path), content).unwrap();
    }
    std::fs::create_dir_all(root.join("var/lib/ucf")).unwrap();
    let digest = sandbox.command("md5sum").arg(root.join("etc/sshd_config")).run().unwrap().ok().stdout();
    std::fs::write(root.join("var/lib/ucf/hashfile"), format!("{}  /etc/sshd_config\n", &digest[..32])).unwrap();
    let before = seen(&root.join("etc"));
    let names = |text: &str| -> Vec<String> {
        let words = text.lines().map(|line| line.split("  ").map(str::trim).filter(|word| !word.is_empty()));
        words.map(|mut words| format!("{}: {}", words.next().unwrap(), words.next().unwrap())).collect()
    };
    let list = deptool(&repo, &["adopt", "web1", "--list"]).ok();
    assert_eq!(
        names(&list.stdout()),
        [
            "nginx.service: drop-ins",
            "own.timer: own unit",
            "/etc/nginx/conf.d/a b.conf: in no package",
            "/etc/nginx/key.pem: in no package",
            "/etc/nginx/reload: changed",
            "/etc/outside/secret: in no package",
            "/etc/tmpfiles.d/nginx.conf: in no package",
        ]
    );
    let _ = list.says("'git deptool adopt web1 <path or unit>...' copies what you choose");
    assert_eq!(seen(&root.join("etc")), before, "nothing has changed on the host");
    // What ucf has installed is listed once it is changed.
    std::fs::write(root.join("etc/sshd_config"), "by hand\n").unwrap();
    deptool(&repo, &["adopt", "web1", "--list"]).ok().prints("/etc/sshd_config");

    adopt(&repo, &["/etc/nginx", "nginx.service", "own.timer"]).ok();
    repo.commit("Adopt");
    repo.git(&["push", "web1", "prod"]).ok();
    let json = deptool(&repo, &["adopt", "web1", "--list", "--json"]).ok().stdout();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let paths: Vec<_> = json["files"].as_array().unwrap().iter().map(|file| &file["path"]).collect();
    assert_eq!(paths, ["/etc/nginx/key.pem", "/etc/outside/secret", "/etc/sshd_config", "/etc/tmpfiles.d/nginx.conf"]);
    assert_eq!(json["files"][0]["why"], "unowned");
    assert_eq!((&json["packages"], &json["units"]), (&"dpkg".into(), &serde_json::json!([])));
}

#[test]
fn on_a_host_without_packages_everything_in_etc_is_listed_and_that_is_said() {
    let sandbox = Sandbox::new();
    let (repo, _root) = begin(&sandbox);
    let list = deptool(&repo, &["adopt", "web1", "--list"]).ok();
    let list = list.says("the host has neither dpkg nor rpm to ask, so these are all files in /etc");
    let list = list.prints("/etc/nginx/nginx.conf").prints("/etc/nginx/reload");
    assert!(!list.stdout().contains("/etc/nginx/linked"), "a link can't be adopted");
    deptool(&repo, &["adopt", "web1", "--list", "/etc/nginx"]).code(129);
    deptool(&repo, &["adopt", "web1", "/etc/nginx", "--json"]).code(129);
    deptool(&repo, &["adopt", "web1"]).code(129);
}
