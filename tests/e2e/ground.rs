//! Tests of the sandbox itself.

use deptool_tests::build::{self, Version};
use deptool_tests::sandbox::{Sandbox, gits};

#[test]
fn nothing_of_the_users_configuration_is_read() {
    let sandbox = Sandbox::new();
    let repo = sandbox.repo("operator");
    let files = repo.git(&["config", "--list", "--show-origin"]).ok().stdout();
    for line in files.lines() {
        let file = line.strip_prefix("file:").and_then(|line| line.split('\t').next()).unwrap();
        assert!(sandbox.dir().join("operator").join(file).starts_with(sandbox.dir()), "{line}");
    }
}

#[test]
fn commits_have_the_same_ids_every_time() {
    let id = || {
        let sandbox = Sandbox::new();
        let repo = sandbox.repo("operator");
        repo.write("web1/app/file", "content");
        repo.commit("First");
        repo.commit("Second")
    };
    assert_eq!(id(), id());
}

#[test]
fn git_finds_the_binaries_of_the_present_sources() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let which =
            |name: &str| sandbox.command("sh").args(["-c", "command -v \"$1\"", "sh", name]).run().unwrap().line();
        assert_eq!(which("git-remote-deptool"), build::local().join("bin/git-remote-deptool").to_string_lossy());
        assert_eq!(which("git"), sandbox.dir().join("git/git").to_string_lossy());
    }
    let version = Version::of(&build::local().join("bin/git-remote-deptool")).unwrap();
    let agents = std::fs::read_dir(build::local().join("lib/deptool/agents")).unwrap();
    let agents: Vec<String> = agents.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let [agent] = &agents[..] else { panic!("{agents:?}") };
    assert!(agent.starts_with(&format!("deptool-agent-{}-{}-", version.version, version.build)), "{agent}");
}

#[test]
fn links_are_followed_inside_of_a_root() {
    let sandbox = Sandbox::new();
    let root = sandbox.root("web1");
    std::fs::create_dir_all(root.join("var/x")).unwrap();
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(root.join("var/x/file"), "there").unwrap();
    std::os::unix::fs::symlink("/var/y", root.join("etc/link")).unwrap();
    std::os::unix::fs::symlink("../var/x", root.join("var/y")).unwrap();
    assert_eq!(sandbox.read("web1", "/etc/link/file"), b"there");
    assert!(!sandbox.exists("web1", "/etc/link/none"));
    assert_eq!(sandbox.tree("web1"), "etc/\netc/link -> /var/y\nvar/\nvar/x/\nvar/x/file\nvar/y -> ../var/x");
}
