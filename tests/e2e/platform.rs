//! The agents as they are shipped, including those for other processors.

use deptool_tests::build::{self, Platform};
use deptool_tests::is_quick;
use deptool_tests::process::{Run, find_program};
use deptool_tests::sandbox::{BRANCH, Repo, Sandbox};
use deptool_tests::stand_in::with_stand_in;

/// In bytes. Why it matters, and what keeps it small: doc/measurements.md.
const LARGEST: u64 = 1_600_000;

/// A script that runs this platform's agent instead of the one for this machine; None if there is no emulator.
fn emulated(platform: Platform) -> Option<String> {
    if is_quick() {
        return None;
    }
    let emulator = platform.emulator();
    if find_program(emulator).is_none() {
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "skipped, which is a failure in CI: no {emulator}"
        );
        eprintln!("skipped: no {emulator}");
        return None;
    }
    let agent = build::agent(platform).unwrap();
    Some(format!("exec {emulator} '{}'", agent.display()))
}

fn git(sandbox: &Sandbox, repo: &Repo<'_>, args: &[&str], script: &str) -> Run {
    with_stand_in(sandbox, repo, args, script).run().unwrap()
}

#[test]
fn the_agent_for_aarch64_deploys_changes_rolls_back_and_removes() {
    works(Platform::Aarch64);
}

#[test]
#[ignore = "needs cargo-zigbuild and zig, and builds Rust's standard library"]
fn agents_for_armv7_and_riscv64_deploy_change_roll_back_and_remove() {
    works(Platform::Armv7);
    works(Platform::Riscv64);
}

#[track_caller]
fn works(platform: Platform) {
    let Some(script) = emulated(platform) else { return };
    let sandbox = Sandbox::new();
    let repo = sandbox.repo("operator");
    repo.add_root("web1");
    repo.write("web1/app/file", "one");
    repo.write("web1/app/dir/large", "x".repeat(5 << 20));
    repo.write("web1/app/secret", "s");
    repo.write("web1/app/systemd/app.service", "[Service]\nExecStart=/bin/true\n");
    let manifest = r#"{"symlinks": {"/etc/app.conf": "file"}, "files": {"secret": {"mode": "0600"}}}"#;
    repo.write("web1/app/manifest.json", manifest);
    let first = repo.commit("One");
    git(&sandbox, &repo, &["push", "web1", BRANCH], &script).ok();
    assert_eq!(sandbox.read("web1", "/etc/app.conf"), b"one");
    assert!(sandbox.exists("web1", "/etc/systemd/system/app.service"));

    repo.write("web1/app/file", "two");
    repo.commit("Two");
    git(&sandbox, &repo, &["push", "web1", BRANCH], &script).ok();
    assert_eq!(sandbox.read("web1", "/etc/app.conf"), b"two");
    let large = sandbox.read("web1", "/var/lib/deptool/apps/app/current/dir/large");
    assert_eq!(large.len(), 5 << 20);

    // The agent itself detects files that are in the way.
    std::fs::write(sandbox.root("web1").join("etc/taken"), "foreign").unwrap();
    repo.write("web1/app/manifest.json", r#"{"symlinks": {"/etc/app.conf": "file", "/etc/taken": "secret"}}"#);
    repo.commit("Three");
    git(&sandbox, &repo, &["push", "web1", BRANCH], &script).fails().says("/etc/taken");
    assert_eq!(sandbox.read("web1", "/etc/taken"), b"foreign");

    git(&sandbox, &repo, &["push", "-f", "web1", &format!("{first}:{BRANCH}")], &script).ok();
    assert_eq!(sandbox.read("web1", "/etc/app.conf"), b"one");
    git(&sandbox, &repo, &["fetch", "web1"], &script).ok();
    assert_eq!(repo.id("web1/prod"), first);
    git(&sandbox, &repo, &["push", "web1", &format!(":{BRANCH}")], &script).ok();
    assert!(!sandbox.exists("web1", "/etc/app.conf"));
}

#[test]
fn agents_are_small_enough_to_be_sent_to_every_host() {
    if is_quick() {
        return;
    }
    for platform in Platform::USUAL {
        let size = std::fs::metadata(build::agent(platform).unwrap()).unwrap().len();
        assert!(size <= LARGEST, "the agent for {} has {size} bytes, more than {LARGEST}", platform.name());
    }
}
