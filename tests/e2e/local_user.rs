//! Another user of a host can't use a deployment to write where they may not, even by racing it. These tests need root.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use deptool_tests::sandbox::{Repo, Sandbox};

use crate::seen::{at_rest, state_of, unchanged};

/// A user id that owns nothing else.
const MALLORY: u32 = 64_999;

/// A host on which Mallory has a home directory, and a repository whose app links into it.
struct World<'a> {
    sandbox: &'a Sandbox,
    repo: Repo<'a>,
}

impl World<'_> {
    fn new(sandbox: &Sandbox) -> Option<World<'_>> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let world = World { sandbox, repo: sandbox.repo("operator") };
        for directory in [sandbox.dir().to_owned(), sandbox.dir().join("roots"), world.at("")] {
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        for path in ["etc", "home/mallory/d", "tmp"] {
            std::fs::create_dir_all(world.at(path)).unwrap();
        }
        std::fs::write(world.at("etc/secret"), "root only").unwrap();
        std::fs::set_permissions(world.at("etc/secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::set_permissions(world.at("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
        for path in ["home/mallory", "home/mallory/d"] {
            chown(world.at(path), Some(MALLORY), Some(MALLORY)).unwrap();
        }
        world.repo.add_root("web1");
        Some(world)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.sandbox.root("web1").join(path)
    }

    fn links(&self, content: &str, paths: &[&str]) -> String {
        let links: Vec<String> = paths.iter().map(|path| format!("\"{path}\": \"file\"")).collect();
        self.repo.write("web1/app/manifest.json", format!("{{\"symlinks\": {{{}}}}}", links.join(", ")));
        self.repo.write("web1/app/file", content);
        self.repo.commit(content)
    }

    /// Mallory's shell, which repeats these commands until this is dropped.
    fn racing(&self, directory: &Path, commands: &str) -> Racing {
        let stop = self.sandbox.dir().join("stop");
        let script = format!("until [ -e '{}' ]; do {commands}; done", stop.display());
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).current_dir(directory).uid(MALLORY).gid(MALLORY);
        let shell = shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Racing { shell, stop }
    }
}

struct Racing {
    shell: Child,
    stop: PathBuf,
}

impl Drop for Racing {
    fn drop(&mut self) {
        // If the shell was killed, its last command would go on for a moment.
        match std::fs::write(&self.stop, "") {
            Ok(()) => drop(self.shell.wait()),
            Err(_) => drop(self.shell.kill()),
        }
    }
}

/// Asserts that Mallory has gained no rights.
#[track_caller]
fn nothing_gained(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap() {
        // The file may have been removed in the meantime.
        let Ok(entry) = entry else { continue };
        let Ok(meta) = entry.path().symlink_metadata() else { continue };
        assert!(meta.is_symlink() || meta.mode() & 0o6000 == 0, "{entry:?}");
        assert!(meta.uid() == MALLORY || meta.is_symlink() || meta.mode() & 0o022 == 0, "{entry:?}");
    }
}

#[test]
fn a_race_for_the_place_of_a_link_gains_nothing() {
    let sandbox = Sandbox::new();
    let Some(world) = World::new(&sandbox) else { return };
    let etc = state_of(&world.at("etc"));
    let home = world.at("home/mallory");
    // The path, our temporary files next to it, and the directory itself change constantly.
    let commands = "
        ln -s ../../../etc/secret d/app.conf; ln ../../etc/secret d/x; mkfifo d/x; mv -f d/x d/app.conf
        ln -sf ../../../etc/secret d/.app.conf.deptool-new; mkdir d/.app.conf.deptool-undo
        mv d e; ln -s ../../etc d; rm -f d; mv e d
        rm -f d/app.conf d/.app.conf.deptool-new d/.app.conf.deptool-before; rmdir d/.app.conf.deptool-undo d/app.conf
        mkdir d/app.conf; rmdir d/app.conf";
    let racing = world.racing(&home, commands);
    let mut done = 0;
    for round in 0..8 {
        let paths: &[&str] = if round % 2 == 0 { &["/home/mallory/d/app.conf"] } else { &[] };
        world.links(&format!("{round}\n"), paths);
        let run = world.repo.git(&["push", "--force", "web1", "prod"]);
        assert!(run.success() || run.stderr().contains("remote rejected"), "{run}");
        assert!(!run.stderr().contains("panicked"), "{run}");
        done += u32::from(run.success());
        unchanged(&state_of(&world.at("etc")), &etc);
        nothing_gained(&home);
    }
    drop(racing);
    assert!(done > 0, "some deployments get through");
    for name in ["home/mallory/d", "home/mallory/e"] {
        let _ = std::fs::remove_dir_all(world.at(name));
        let _ = std::fs::remove_file(world.at(name));
    }
    std::fs::create_dir(world.at("home/mallory/d")).unwrap();
    world.repo.git(&["fetch", "web1"]).ok();
    let last = world.links("last\n", &["/home/mallory/d/app.conf"]);
    world.repo.git(&["push", "web1", "prod"]).ok();
    at_rest(&sandbox, "web1", Some(&last));
    unchanged(&state_of(&world.at("etc")), &etc);
}

#[test]
fn links_fifos_and_files_of_others_in_a_files_place_are_refused() {
    let sandbox = Sandbox::new();
    let Some(world) = World::new(&sandbox) else { return };
    world.links("1\n", &[]);
    world.repo.git(&["push", "web1", "prod"]).ok();
    let etc = state_of(&world.at("etc"));
    let place = world.at("home/mallory/d/app.conf");
    type Put<'a> = &'a dyn Fn(&Path);
    let cases: [(&str, Put<'_>); 4] = [
        ("a link", &|place| symlink("../../../etc/secret", place).unwrap()),
        ("a FIFO", &|place| {
            let status = Command::new("mkfifo").arg(place).status().unwrap();
            assert!(status.success());
        }),
        ("another name of a file", &|place| std::fs::hard_link(world.at("etc/secret"), place).unwrap()),
        ("a file that is too large to read", &|place| {
            std::fs::File::create(place).unwrap().set_len(1 << 20).unwrap();
        }),
    ];
    for (what, put) in cases {
        put(&place);
        let before = state_of(&world.at("home"));
        world.links(what, &["/home/mallory/d/app.conf"]);
        let run = world.repo.git(&["push", "web1", "prod"]).fails();
        assert!(run.stderr().contains("/home/mallory/d/app.conf"), "{what}: {run}");
        unchanged(&state_of(&world.at("home")), &before);
        std::fs::remove_file(&place).unwrap();
        // A second hard link to the secret is removed again.
        unchanged(&state_of(&world.at("etc")), &etc);
    }
}

#[test]
fn a_file_that_its_owner_changes_is_not_copied_into_other_apps() {
    let sandbox = Sandbox::new();
    let Some(world) = World::new(&sandbox) else { return };
    std::fs::write(world.at("etc/passwd"), format!("mallory:x:{MALLORY}:{MALLORY}::/:/bin/sh\n")).unwrap();
    let large = vec![b'a'; 5 << 20];
    world.repo.write("web1/theirs/data", &large);
    world.repo.write("web1/theirs/manifest.json", r#"{"files": {"data": {"mode": "0644", "owner": "mallory"}}}"#);
    world.repo.commit("Theirs");
    world.repo.git(&["push", "web1", "prod"]).ok();
    let theirs = std::fs::canonicalize(world.at("var/lib/deptool/current")).unwrap().join("theirs/data");
    assert_eq!(std::fs::metadata(&theirs).unwrap().uid(), MALLORY);
    let commands = format!("printf b >>'{0}'; : >'{0}'; head -c 5242880 /dev/zero >'{0}'", theirs.display());
    let racing = world.racing(Path::new("/"), &commands);
    world.repo.write("web1/ours/program", &large);
    let two = world.repo.commit("Ours");
    let run = world.repo.git(&["push", "web1", "prod"]);
    drop(racing);
    assert!(run.success() || run.stderr().contains("remote rejected"), "{run}");
    if run.success() {
        assert_eq!(std::fs::read(world.at("var/lib/deptool/current/ours/program")).unwrap(), large);
    }
    world.repo.git(&["push", "web1", "prod"]).ok();
    assert_eq!(std::fs::read(world.at("var/lib/deptool/current/ours/program")).unwrap(), large);
    assert_eq!(world.repo.id("web1/prod"), two);
}

#[test]
fn a_state_directory_that_others_can_write_to_is_refused() {
    let sandbox = Sandbox::new();
    let Some(world) = World::new(&sandbox) else { return };
    world.links("1\n", &[]);
    let state = world.at("var/lib/deptool");
    std::fs::create_dir_all(&state).unwrap();
    let refused = || {
        let before = state_of(&state);
        for args in [&["push", "web1", "prod"][..], &["fetch", "web1"]] {
            world.repo.git(args).fails().says("users other than root can write to");
        }
        unchanged(&state_of(&state), &before);
    };
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o1777)).unwrap();
    refused();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).unwrap();
    chown(&state, Some(MALLORY), None).unwrap();
    refused();
    chown(&state, Some(0), None).unwrap();
    std::fs::rename(&state, world.at("var/lib/real")).unwrap();
    symlink("real", &state).unwrap();
    std::os::unix::fs::lchown(&state, Some(MALLORY), None).unwrap();
    refused();
    // Root may have it elsewhere.
    std::os::unix::fs::lchown(&state, Some(0), None).unwrap();
    world.repo.git(&["push", "web1", "prod"]).ok();
}
