//! Hosts with overlays, as image-based ones have: a read-only image below, and all changes above.

use std::path::Path;

use anyhow::Result;
use deptool_tests::process::Cmd;
use deptool_tests::sandbox::{Repo, Sandbox};
use deptool_tests::sweep::disk::in_own_namespace;

use crate::seen::{at_rest, state_of};

const MANIFEST: &str = r#"{"systemd": {"units_enabled": ["web.service"]},
    "symlinks": {"/etc/taken": "same", "/etc/link": "same", "/etc/old/x": "file", "/etc/new/x": "file"}}"#;
const UNIT: &str = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";

/// An EROFS image, mounted, and an overlay over it.
struct Overlay<'a> {
    dir: &'a Path,
    at: &'a Path,
}

impl Overlay<'_> {
    fn mount(&self) -> Result<()> {
        let in_dir = |name: &str| self.dir.join(name).display().to_string();
        let (lower, upper, work) = (in_dir("lower"), in_dir("upper"), in_dir("work"));
        for made in [&upper, &work] {
            std::fs::create_dir_all(made)?;
        }
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        Cmd::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(self.at).check()?;
        Ok(())
    }

    /// As after a boot: nothing is cached, inodes may have other numbers.
    fn mount_again(&self) -> Result<()> {
        Cmd::new("umount").arg(self.at).check()?;
        self.mount()
    }

    /// Brings back what the image has.
    fn reset(&self) -> Result<()> {
        Cmd::new("umount").arg(self.at).check()?;
        std::fs::remove_dir_all(self.dir.join("upper"))?;
        self.mount()
    }
}

/// Runs a test with the directory `at` of a local root as an overlay. Its image has some files in `etc`.
fn on_overlay(at: &str, test: impl FnOnce(&Sandbox, &Overlay<'_>, &Repo<'_>) -> Result<()> + Send) {
    let sandbox = Sandbox::new();
    let root = sandbox.root("web1");
    let dir = sandbox.dir().join("overlay");
    let etc = dir.join("image").join(if at.is_empty() { "etc" } else { "" });
    for made in [root.join(at), dir.join("lower"), etc.join("old"), etc.join("systemd/system")] {
        std::fs::create_dir_all(made).unwrap();
    }
    std::fs::write(etc.join("taken"), "same\n").unwrap();
    std::os::unix::fs::symlink("taken", etc.join("link")).unwrap();
    let mut is_possible = false;
    let run = in_own_namespace(|| {
        let (image, at) = (dir.join("image.img"), root.join(at));
        Cmd::new("mkfs.erofs").arg("--quiet").arg(&image).arg(dir.join("image")).check()?;
        Cmd::new("mount").args(["-t", "erofs", "-o", "loop,ro"]).arg(&image).arg(dir.join("lower")).check()?;
        let overlay = Overlay { dir: &dir, at: &at };
        overlay.mount()?;
        is_possible = true;
        let operator = sandbox.repo("operator");
        operator.add_root("web1");
        operator.git(&["config", "deptool.cluster", "prod"]).ok();
        operator.write("web1/web/manifest.json", MANIFEST);
        operator.write("web1/web/same", "same\n");
        operator.write("web1/web/systemd/web.service", UNIT);
        test(&sandbox, &overlay, &operator)
    });
    if let Err(error) = run {
        let is_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
        assert!(!is_possible && !is_ci, "{error:#}");
        eprintln!("skipped: {error:#}");
    }
}

fn push(sandbox: &Sandbox, operator: &Repo<'_>, version: u32) {
    operator.write("web1/web/file", format!("{version}\n"));
    operator.write("web1/web/systemd/web.service", format!("{UNIT}# {version}\n"));
    let commit = operator.commit("Next");
    operator.git(&["push", "-o", "take-over", "web1", "prod"]).ok();
    at_rest(sandbox, "web1", Some(&commit));
    is_deployed(sandbox, operator, version);
}

#[track_caller]
fn is_deployed(sandbox: &Sandbox, operator: &Repo<'_>, version: u32) {
    for path in ["/etc/old/x", "/etc/new/x"] {
        assert_eq!(sandbox.read("web1", path), format!("{version}\n").as_bytes());
    }
    assert!(sandbox.root("web1").join("etc/taken").is_symlink());
    operator.git(&["deptool", "verify"]).ok().prints("web1: as deployed");
}

#[test]
fn what_an_image_has_in_etc_is_taken_over_and_is_back_after_the_removal() {
    for at in ["etc", ""] {
        on_overlay(at, |sandbox, overlay, operator| {
            let etc = sandbox.root("web1").join("etc");
            let before = state_of(&etc);
            push(sandbox, operator, 1);
            push(sandbox, operator, 2);
            overlay.mount_again()?;
            is_deployed(sandbox, operator, 2);
            push(sandbox, operator, 3);
            overlay.mount_again()?;
            operator.git(&["push", "web1", ":prod"]).ok();
            crate::seen::unchanged(&state_of(&etc), &before);
            Ok(())
        });
    }
}

#[test]
fn what_a_reset_of_etc_removes_is_drift_and_is_repaired() {
    on_overlay("etc", |sandbox, overlay, operator| {
        push(sandbox, operator, 1);
        overlay.reset()?;
        let mut drift = operator.git(&["deptool", "verify"]).code(2);
        for path in ["/etc/taken", "/etc/link", "/etc/old/x", "/etc/new/x", "/etc/systemd/system/web.service"] {
            drift = drift.prints(&format!("'{path}'"));
        }
        operator.git(&["deptool", "repair", "-y", "web1"]).ok();
        is_deployed(sandbox, operator, 1);
        overlay.mount_again()?;
        is_deployed(sandbox, operator, 1);
        Ok(())
    });
}
