//! External paths: symlinks, files that were there before, and what others do to them.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use deptool_tests::sandbox::{Repo, Sandbox};

use crate::seen::{at_rest, unchanged, visible};

/// An operator and the root of `web1`.
pub struct World<'a> {
    sandbox: &'a Sandbox,
    pub repo: Repo<'a>,
    root: PathBuf,
}

impl World<'_> {
    pub fn new(sandbox: &Sandbox) -> World<'_> {
        let repo = sandbox.repo("operator");
        repo.add_root("web1");
        repo.write("web1/web/file", "1\n");
        std::fs::create_dir_all(sandbox.root("web1").join("etc")).unwrap();
        World { sandbox, repo, root: sandbox.root("web1") }
    }

    /// The app `web` with links from these paths to its `file`.
    pub fn links(&self, paths: &[&str]) -> &Self {
        let links: Vec<String> = paths.iter().map(|path| format!("\"{path}\": \"file\"")).collect();
        let manifest = format!("{{\"symlinks\": {{{}}}}}", links.join(", "));
        self.repo.write("web1/web/manifest.json", manifest);
        self
    }

    #[track_caller]
    pub fn push(&self) -> String {
        let commit = self.repo.commit("Next");
        let run = self.repo.git(&["push", "web1", "prod"]).ok();
        at_rest(self.sandbox, "web1", Some(&commit));
        run.stderr()
    }

    /// A push that the host refuses, without changing anything. Returns the message.
    #[track_caller]
    pub fn refused(&self) -> String {
        self.repo.commit("Next");
        let before = visible(&self.root);
        let run = self.repo.git(&["push", "web1", "prod"]).code(1);
        unchanged(&visible(&self.root), &before);
        run.stderr()
    }

    #[track_caller]
    pub fn remove_everything(&self) -> String {
        let run = self.repo.git(&["push", "web1", ":prod"]).ok();
        at_rest(self.sandbox, "web1", None);
        run.stderr()
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub fn link_of(&self, path: &str) -> Option<String> {
        std::fs::read_link(self.at(path)).ok().map(|target| target.to_str().unwrap().to_owned())
    }
}

/// systemd refuses to enable it: a service can't be a timer.
const BAD_UNIT: &str = "[Service]\nExecStart=/bin/true\n[Install]\nAlias=%p.timer\n";

pub const OURS: &str = "/var/lib/deptool/apps/web/current/file";

#[test]
fn links_are_made_and_go_with_the_directories_that_were_made_for_them() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    world.links(&["/etc/a.conf", "/etc/made/deep/b.conf"]).push();
    assert_eq!(world.link_of("etc/a.conf").unwrap(), OURS);
    assert_eq!(world.link_of("etc/made/deep/b.conf").unwrap(), OURS);
    world.links(&["/etc/a.conf"]).push();
    assert!(!world.at("etc/made").exists());
    world.links(&["/etc/made/b.conf"]).push();
    std::fs::write(world.at("etc/made/not-ours"), "x").unwrap();
    world.remove_everything();
    assert!(world.at("etc/made/not-ours").exists(), "a directory that others use stays");
    assert!(!world.at("etc/made/b.conf").is_symlink() && !world.at("etc/a.conf").is_symlink());
    assert!(world.at("etc").exists(), "it was there before");
}

#[test]
fn a_link_that_moves_to_another_app_is_never_gone() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    world.links(&["/etc/a.conf"]).push();
    world.repo.remove("web1/web");
    world.repo.write("web1/other/file", "other\n");
    world.repo.write("web1/other/manifest.json", r#"{"symlinks": {"/etc/a.conf": "file"}}"#);
    world.push();
    assert_eq!(sandbox.read("web1", "/etc/a.conf"), b"other\n");
    world.repo.git(&["push", "-f", "web1", "prod~1:prod"]).ok();
    assert_eq!(sandbox.read("web1", "/etc/a.conf"), b"1\n");
}

#[test]
fn an_equal_file_is_taken_over_and_given_back_as_it_was() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    std::fs::write(world.at("etc/a.conf"), "1\n").unwrap();
    std::fs::set_permissions(world.at("etc/a.conf"), std::fs::Permissions::from_mode(0o640)).unwrap();
    symlink(OURS, world.at("etc/b.conf")).unwrap();
    let before = world.at("etc/a.conf").metadata().unwrap();
    let said = world.links(&["/etc/a.conf", "/etc/b.conf"]).push();
    assert!(said.contains("web1: '/etc/a.conf' exists with the same content and is taken over\n"), "{said}");
    assert_eq!(world.link_of("etc/a.conf").unwrap(), OURS);
    // It does not matter how often it has changed in the meantime.
    world.repo.write("web1/web/file", "2\n");
    world.push();
    world.links(&["/etc/b.conf"]).push();
    let after = world.at("etc/a.conf").symlink_metadata().unwrap();
    assert_eq!(std::fs::read(world.at("etc/a.conf")).unwrap(), b"1\n");
    assert_eq!((after.mode(), after.mtime_nsec()), (before.mode(), before.mtime_nsec()));
    world.remove_everything();
    assert_eq!(world.link_of("etc/b.conf").unwrap(), OURS, "somebody else's link is given back, too");
    let names: Vec<_> = std::fs::read_dir(world.at("etc")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "no backup is left: {names:?}");
}

#[test]
fn a_conflict_is_refused_with_nothing_changed() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    world.links(&["/etc/first"]).push();
    std::fs::write(world.at("etc/file"), "differs").unwrap();
    symlink("/elsewhere", world.at("etc/link")).unwrap();
    std::fs::create_dir(world.at("etc/dir")).unwrap();
    let fifo = sandbox.command("mkfifo").arg(world.at("etc/fifo")).run().unwrap();
    fifo.ok();
    let said = world.links(&["/etc/file", "/etc/link", "/etc/dir", "/etc/fifo", "/etc/file/below", "/etc/new/x"]);
    // One of them lies below another.
    assert!(said.refused().contains("'/etc/file' and '/etc/file/below' are both claimed"));
    let said = world.links(&["/etc/file", "/etc/link", "/etc/dir", "/etc/fifo", "/etc/new/x"]).refused();
    let expected = "('/etc/dir' is a directory on the host: remove it there; \
                    '/etc/fifo' is a special file on the host: remove it there; \
                    '/etc/file' exists and differs from 'web/file': make the two equal, or take it over with '-o take-over'; \
                    '/etc/link' exists and differs from 'web/file': make the two equal, or take it over with '-o take-over')";
    assert!(said.contains(expected), "{said}");
    let said = world.links(&["/etc/file/below"]).refused();
    assert!(said.contains("'/etc/file/below' can't be reached: '/etc/file' is not a directory"), "{said}");
}

/// The changes that a person may make to a file: bytes or target, mode, owner and times.
fn seen(path: &Path) -> (Vec<u8>, u32, u32, u32, i64, i64) {
    let stat = path.symlink_metadata().unwrap();
    let content = match std::fs::read_link(path) {
        Ok(target) => target.into_os_string().into_encoded_bytes(),
        Err(_) => std::fs::read(path).unwrap(),
    };
    (content, stat.mode(), stat.uid(), stat.gid(), stat.mtime(), stat.mtime_nsec())
}

#[test]
fn files_in_the_way_are_shown_as_a_diff_and_taken_over_if_asked_for() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    world.repo.write("web1/web/systemd/own.service", "[Service]\nExecStart=/bin/true\n");
    let unit = "etc/systemd/system/own.service";
    std::fs::create_dir_all(world.at("etc/systemd/system")).unwrap();
    std::fs::write(world.at(unit), "[Service]\nExecStart=/bin/false\n").unwrap();
    let long: String = (0..200).map(|line| format!("line {line}\n")).collect();
    for (name, content) in [("a", "theirs\n"), ("long", &long)] {
        std::fs::write(world.at(&format!("etc/{name}.conf")), content).unwrap();
        let mode = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(world.at(&format!("etc/{name}.conf")), mode).unwrap();
    }
    symlink("/elsewhere", world.at("etc/link.conf")).unwrap();
    let paths = ["etc/a.conf", "etc/long.conf", "etc/link.conf", unit];
    let before: Vec<_> = paths.iter().map(|path| seen(&world.at(path))).collect();
    let given_back = || paths.iter().zip(&before).for_each(|(path, before)| assert_eq!(seen(&world.at(path)), *before));

    let said = world.links(&["/etc/a.conf", "/etc/long.conf", "/etc/link.conf"]).refused();
    for line in ["--- host/etc/a.conf", "+++ tree/etc/a.conf", "-theirs", "+1", "-ExecStart=/bin/false", "more lines)"]
    {
        assert!(said.contains(&format!("web1:   {line}")) || said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("line 199"), "a long diff is cut: {said}");
    assert!(said.contains("make the two equal, or take it over with '-o take-over'"), "{said}");

    let take_over = ["push", "-o", "take-over", "web1", "prod"];
    let said = world.repo.git(&take_over).ok();
    said.says("web1: '/etc/a.conf' was there and differs from 'web/file': it is taken over, and put back");
    for path in ["etc/a.conf", "etc/long.conf", "etc/link.conf"] {
        assert_eq!(world.link_of(path).unwrap(), OURS);
    }
    // One is given up by a later deployment, which needs no option.
    world.links(&["/etc/long.conf", "/etc/link.conf"]).push();
    assert_eq!(seen(&world.at("etc/a.conf")), before[0]);
    world.remove_everything();
    given_back();
    let names = std::fs::read_dir(world.at("etc")).unwrap().count();
    assert_eq!(names, 4, "no backup is left");

    // On a host that was emptied, or reinstalled, the same deployment works again.
    world.links(&["/etc/a.conf", "/etc/long.conf", "/etc/link.conf"]).refused();
    world.repo.git(&take_over).ok();
    assert_eq!(world.link_of("etc/a.conf").unwrap(), OURS);
    std::fs::remove_dir_all(world.at("var/lib/deptool")).unwrap();
    std::fs::remove_file(world.at("etc/a.conf")).unwrap();
    std::fs::write(world.at("etc/a.conf"), "of the new system\n").unwrap();
    world.repo.git(&["fetch", "web1"]).ok();
    world.repo.git(&take_over).ok();
    world.remove_everything();
    assert_eq!(std::fs::read(world.at("etc/a.conf")).unwrap(), b"of the new system\n");
}

#[test]
fn what_is_taken_over_comes_back_if_the_deployment_fails() {
    let sandbox = Sandbox::new();
    if !crate::units::has_systemctl(&sandbox) {
        return;
    }
    let world = World::new(&sandbox);
    std::fs::write(world.at("etc/a.conf"), "theirs\n").unwrap();
    std::fs::set_permissions(world.at("etc/a.conf"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let before = seen(&world.at("etc/a.conf"));
    world.repo.write("web1/web/systemd/bad.service", BAD_UNIT);
    let manifest = r#"{"symlinks": {"/etc/a.conf": "file"}, "systemd": {"units_enabled": ["bad.service"]}}"#;
    world.repo.write("web1/web/manifest.json", manifest);
    world.repo.commit("Bad");
    world.repo.git(&["push", "-o", "take-over", "web1", "prod"]).fails().says("rolled back");
    assert_eq!(seen(&world.at("etc/a.conf")), before);
    at_rest(&sandbox, "web1", None);
}

#[test]
fn directories_and_special_files_are_never_taken_over() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    std::fs::create_dir(world.at("etc/dir")).unwrap();
    world.links(&["/etc/dir"]);
    world.repo.commit("Next");
    let run = world.repo.git(&["push", "-o", "take-over", "web1", "prod"]).fails();
    run.says("'/etc/dir' is a directory on the host: remove it there");
    world.repo.git(&["push", "-o", "take-over=yes", "web1", "prod"]).fails().says("takes no value");
}

#[test]
fn what_was_changed_by_hand_is_kept_and_named() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    world.links(&["/etc/a.conf", "/etc/b.conf", "/etc/c.conf"]).push();
    for name in ["a", "b", "c"] {
        let path = world.at(&format!("etc/{name}.conf"));
        std::fs::remove_file(&path).unwrap();
        if name != "c" {
            std::fs::write(&path, format!("by hand {name}\n")).unwrap();
        }
    }
    // `a` and `c` go, `b` becomes another link.
    world.repo.write("web1/web/other", "other\n");
    world.repo.write("web1/web/manifest.json", r#"{"symlinks": {"/etc/b.conf": "other"}}"#);
    let said = world.push();
    let kept = |name: &str| world.at(&format!("var/lib/deptool/state/kept/2/root/etc/{name}.conf"));
    for name in ["a", "b"] {
        let at = kept(name);
        let note =
            format!("web1: '/etc/{name}.conf' was replaced by a file: what was there is kept as '{}'", at.display());
        assert!(said.contains(&note), "{said}");
    }
    assert!(!world.at("etc/a.conf").exists());
    assert_eq!(std::fs::read(kept("a")).unwrap(), b"by hand a\n");
    assert_eq!(std::fs::read(kept("b")).unwrap(), b"by hand b\n");
    assert_eq!(sandbox.read("web1", "/etc/b.conf"), b"other\n");
    world.remove_everything();
}

#[test]
fn a_link_that_somebody_replaced_by_a_directory_is_given_up_and_the_directory_kept() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    world.links(&["/etc/a.conf"]).push();
    std::fs::remove_file(world.at("etc/a.conf")).unwrap();
    std::fs::create_dir(world.at("etc/a.conf")).unwrap();
    std::fs::write(world.at("etc/a.conf/inner"), "theirs").unwrap();
    let said = world.links(&[]).push();
    assert!(said.contains("'/etc/a.conf' was replaced by a directory: what was there is kept as "), "{said}");
    assert!(!world.at("etc/a.conf").exists());
    assert!(world.at("var/lib/deptool/state/kept/2/root/etc/a.conf/inner").exists());
}

#[test]
fn what_was_removed_by_hand_with_its_directory_can_still_be_released() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    std::fs::create_dir_all(world.at("etc/theirs")).unwrap();
    std::fs::write(world.at("etc/theirs/a.conf"), "1\n").unwrap();
    std::fs::write(world.at("etc/b.conf"), "1\n").unwrap();
    world.links(&["/etc/theirs/a.conf", "/etc/made/x", "/etc/b.conf"]).push();
    std::fs::remove_dir_all(world.at("etc/theirs")).unwrap();
    std::fs::remove_dir_all(world.at("etc/made")).unwrap();
    std::fs::remove_file(world.at("var/lib/deptool/state/backups/etc%2Fb.conf")).unwrap();
    let said = world.remove_everything();
    assert!(
        said.contains("what was at '/etc/theirs/a.conf' before can't be put back, because its directory is gone"),
        "{said}"
    );
    assert!(said.contains("what was at '/etc/b.conf' before can't be put back: its backup is gone"), "{said}");
    assert_eq!(world.sandbox.tree("web1").lines().filter(|line| line.starts_with("etc")).count(), 1);
}

#[test]
fn a_directory_that_was_removed_by_hand_is_made_again() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    world.links(&["/etc/made/a"]).push();
    std::fs::remove_dir_all(world.at("etc/made")).unwrap();
    world.repo.write("web1/web/other", "other\n");
    world.repo.write("web1/web/manifest.json", r#"{"symlinks": {"/etc/made/a": "other"}}"#);
    world.push();
    assert_eq!(sandbox.read("web1", "/etc/made/a"), b"other\n");
}

#[test]
fn a_file_in_the_place_of_a_directory_is_told_of_without_naming_the_path_twice() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    world.links(&["/etc/made/a"]).push();
    std::fs::remove_dir_all(world.at("etc/made")).unwrap();
    std::fs::write(world.at("etc/made"), "theirs").unwrap();
    let run = world.repo.git(&["deptool", "verify"]).code(2);
    assert!(run.stdout().ends_with("web1: '/etc/made/a' can't be reached: '/etc/made' is not a directory\n"), "{run}");
}

#[test]
fn a_backup_that_nobody_knows_is_not_overwritten() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    std::fs::write(world.at("etc/a.conf"), "1\n").unwrap();
    let backup = world.at("etc/.a.conf.deptool-undo");
    std::fs::write(&backup, "whose?").unwrap();
    let said = world.links(&["/etc/a.conf"]).refused();
    assert!(said.contains("there is an unknown backup next to '/etc/a.conf'"), "{said}");
    std::fs::remove_file(&backup).unwrap();
    world.push();
}

#[test]
fn a_deployment_that_fails_half_way_is_rolled_back_to_what_was_there() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    if !sandbox.command("systemctl").arg("--version").run().is_ok_and(|run| run.success()) {
        return eprintln!("skipped: no systemctl here");
    }
    std::fs::write(world.at("etc/taken"), "1\n").unwrap();
    world.links(&["/etc/a.conf", "/etc/drift", "/etc/gone/x"]).push();
    std::fs::remove_file(world.at("etc/drift")).unwrap();
    std::fs::write(world.at("etc/drift"), "by hand").unwrap();
    let one = world.repo.id("prod");
    // Symlinks are created, changed, removed, taken over, and have drifted; directories are created and removed. Then a
    // unit is missing.
    world.repo.write("web1/web/other", "other\n");
    world.repo.write("web1/new/file", "new\n");
    world.repo.write(
        "web1/web/manifest.json",
        r#"{"symlinks": {"/etc/a.conf": "other", "/etc/taken": "file", "/etc/new/dir/x": "file", "/etc/drift": "other"},
            "systemd": {"units_enabled": ["bad.service"]}}"#,
    );
    world.repo.write("web1/web/systemd/bad.service", BAD_UNIT);
    world.repo.commit("Two");
    let not_logged = |state: Vec<String>| -> Vec<String> {
        state.into_iter().filter(|line| !line.starts_with("\"var/lib/deptool/state/attempts\"")).collect()
    };
    let before = not_logged(visible(&world.root));
    let run = world.repo.git(&["push", "web1", "prod"]).code(1);
    run.says(" ! [remote rejected] prod -> prod (rolled back: can't enable 'bad.service': ");
    unchanged(&not_logged(visible(&world.root)), &before);
    at_rest(&sandbox, "web1", Some(&one));
    assert_eq!(world.repo.id("web1/prod"), one);
    assert_eq!(world.repo.git(&["for-each-ref", "refs/deptool"]).ok().stdout(), "", "nothing is in doubt");
    let attempts = std::fs::read_to_string(world.at("var/lib/deptool/state/attempts")).unwrap();
    assert!(attempts.lines().last().unwrap().contains("rolled-back"), "{attempts}");
    // After a failure, the cause can be fixed.
    world.repo.write("web1/web/systemd/bad.service", "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=x.target\n");
    world.push();
}

#[test]
fn a_first_deployment_that_fails_half_way_leaves_nothing() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    if !sandbox.command("systemctl").arg("--version").run().is_ok_and(|run| run.success()) {
        return eprintln!("skipped: no systemctl here");
    }
    let manifest = r#"{"symlinks": {"/opt/x/y": "file"}, "systemd": {"units_enabled": ["bad.service"]}}"#;
    world.repo.write("web1/web/systemd/bad.service", BAD_UNIT);
    world.repo.write("web1/web/manifest.json", manifest);
    world.repo.commit("One");
    world.repo.git(&["push", "web1", "prod"]).code(1).says("rolled back: can't enable 'bad.service'");
    at_rest(&sandbox, "web1", None);
    assert!(!world.at("opt").exists() && !world.at("var/lib/deptool/current").is_symlink());
    assert!(!world.at("var/lib/deptool/apps/web").exists());
    assert_eq!(world.repo.id_if_any("refs/remotes/web1/prod"), None);
    assert_eq!(world.repo.git(&["ls-remote", "web1"]).ok().stdout(), "");
}
