//! Damage to a host's own records, by a disk or by a person: the next push repairs them, or says what to do. It is
//! never reported that something is deployed if it is not, or the other way round.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use deptool_agent::shared::build::agent_file_name;
use deptool_tests::build;
use deptool_tests::is_quick;
use deptool_tests::process::Run;
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::{
    damages::{self, SAMPLE},
    seen::at_rest,
};

pub struct World {
    pub sandbox: Sandbox,
    two: String,
}

impl World {
    /// A host with two deployments. Each app has an external symlink, and one file that never changes.
    pub fn new() -> World {
        let sandbox = Sandbox::new();
        let ada = sandbox.repo("ada");
        ada.add_root("web1");
        ada.git(&["config", "deptool.cluster", "prod"]).ok();
        for app in ["web", "old"] {
            ada.write(format!("web1/{app}/file"), "1\n");
            ada.write(format!("web1/{app}/unchanged"), "the same\n");
            ada.write(format!("web1/{app}/manifest.json"), format!(r#"{{"symlinks": {{"/etc/{app}": "file"}}}}"#));
        }
        ada.commit("One");
        ada.git(&["push", "web1", "prod"]).ok();
        ada.write("web1/web/file", "2\n");
        let two = ada.commit("Two");
        ada.git(&["push", "web1", "prod"]).ok();
        drop(ada);
        World { sandbox, two }
    }

    pub fn ada(&self) -> Repo<'_> {
        self.sandbox.repo_at(self.sandbox.dir().join("ada"))
    }

    pub fn state(&self) -> PathBuf {
        self.sandbox.root("web1").join("var/lib/deptool")
    }

    pub fn files(&self, directory: &str, extension: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.state().join(directory)).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|end| end == extension)).collect()
    }

    /// Commits the removal of one of the apps.
    pub fn three(&self) -> String {
        let ada = self.ada();
        ada.write("web1/web/file", "3\n");
        ada.remove("web1/old");
        ada.commit("Three")
    }

    /// Asserts that this commit is deployed completely.
    #[track_caller]
    pub fn has(&self, three: &str, run: &Run) {
        assert_eq!(self.sandbox.read("web1", "/etc/web"), b"3\n", "{run}");
        assert!(!self.sandbox.root("web1").join("etc/old").is_symlink(), "what was given up goes: {run}");
        at_rest(&self.sandbox, "web1", Some(three));
        self.ada().git(&["deptool", "verify", "web1"]).ok().prints("as deployed");
        assert_eq!(self.ada().id("refs/remotes/web1/prod"), three);
    }
}

fn change(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut content = fs::read(path).unwrap();
    change(&mut content);
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, content).unwrap();
}

fn cut(path: &Path) {
    change(path, |content| content.truncate(content.len() / 2));
}

/// The length, the beginning and the end stay the same.
fn rot(path: &Path) {
    change(path, |content| {
        let end = content.len() - 20;
        content[20..end].iter_mut().for_each(|byte| *byte ^= 0x55);
    });
}

fn garbage(path: &Path) {
    fs::write(path, "garbage \u{1b}[31m\n").unwrap();
}

#[test]
fn a_store_that_lost_objects_is_sent_them_again() {
    if is_quick() {
        return;
    }
    type Damage = fn(&World);
    let damages: [(&str, Damage); 6] = [
        ("no packs", |world| {
            world.files("store/objects/pack", "pack").iter().for_each(|path| fs::remove_file(path).unwrap())
        }),
        ("no objects at all", |world| fs::remove_dir_all(world.state().join("store/objects")).unwrap()),
        ("packs cut short", |world| world.files("store/objects/pack", "pack").iter().for_each(|path| cut(path))),
        ("packs that rot", |world| world.files("store/objects/pack", "pack").iter().for_each(|path| rot(path))),
        ("indices cut short", |world| world.files("store/objects/pack", "idx").iter().for_each(|path| cut(path))),
        ("indices that rot", |world| world.files("store/objects/pack", "idx").iter().for_each(|path| rot(path))),
    ];
    for (damage, inflict) in damages {
        let world = World::new();
        inflict(&world);
        world.ada().git(&["deptool", "verify"]).code(1);
        let three = world.three();
        let run = world.ada().git(&["push", "web1", "prod"]).ok();
        let run = run.says("web1: the host's store had lost part of what is deployed: it was sent again");
        println!("{damage}");
        world.has(&three, &run);
        // Everything that is deployed can be fetched from the host again.
        let clone = world.sandbox.command("git").args(["clone", "--quiet", "-o", "web1", "-b", "prod"]);
        let url = format!("deptool::{}", world.sandbox.root("web1").display());
        clone.arg(url).arg("copy").run().unwrap().ok();
        assert_eq!(fs::read(world.sandbox.dir().join("copy/web1/web/unchanged")).unwrap(), b"the same\n");
    }
}

#[test]
fn a_removal_and_a_push_of_what_runs_mend_a_store_too() {
    for is_removed in [true, false] {
        let world = World::new();
        let ada = world.ada();
        fs::remove_dir_all(world.state().join("store/objects")).unwrap();
        if is_removed {
            ada.git(&["push", "web1", ":prod"]).ok();
            at_rest(&world.sandbox, "web1", None);
            assert_eq!(fs::read_dir(world.sandbox.root("web1").join("etc")).map_or(0, Iterator::count), 0);
        } else {
            ada.git(&["-c", "push.pushOption=check", "push", "-f", "web1", "prod"]).ok();
            at_rest(&world.sandbox, "web1", Some(&world.two));
            ada.git(&["deptool", "verify"]).ok();
        }
    }
}

#[test]
fn a_store_is_mended_only_by_whoever_has_what_it_lost() {
    let world = World::new();
    let ada = world.ada();
    ada.write("web1/web/file", "2, once more\n");
    ada.write("web2/web/secret", "of another host\n");
    let real = ada.commit("Of two hosts");
    ada.git(&["push", "web1", "prod"]).ok();
    // Ben knows only as much of that commit as the host has.
    let ben = world.sandbox.repo("ben");
    ben.add_root("web1");
    ben.git(&["fetch", "web1"]).ok().says("is not in this repository");
    ben.git(&["checkout", "--quiet", "-b", "prod", "web1/prod"]).ok();
    ben.write("web1/web/file", "Ben's\n");
    ben.commit("Of Ben");
    fs::remove_dir_all(world.state().join("store/objects")).unwrap();
    let run = ben.git(&["push", "web1", "prod"]).code(1);
    run.says(&format!("the host's store has lost what is deployed; push from a repository that has {real}"));
    let three = world.three();
    let run = ada.git(&["push", "web1", "prod"]).ok();
    world.has(&three, &run);
}

#[test]
fn a_host_that_lost_the_record_of_what_runs_is_not_taken_for_an_empty_one() {
    if is_quick() {
        return;
    }
    type Damage = fn(&Path);
    let damages: [Damage; 9] = [
        |state| fs::write(state.join("store/refs/heads/prod"), "").unwrap(),
        |state| garbage(&state.join("store/refs/heads/prod")),
        |state| fs::remove_file(state.join("store/refs/heads/prod")).unwrap(),
        |state| fs::write(state.join("store/HEAD"), "").unwrap(),
        |state| garbage(&state.join("store/HEAD")),
        |state| fs::remove_file(state.join("store/HEAD")).unwrap(),
        |state| fs::remove_dir_all(state.join("store")).unwrap(),
        |state| fs::remove_dir_all(state.join("store/refs")).unwrap(),
        |state| {
            fs::remove_file(state.join("state/attempts")).unwrap();
            garbage(&state.join("store/refs/heads/prod"));
        },
    ];
    for (number, inflict) in damages.into_iter().enumerate() {
        let world = World::new();
        let ada = world.ada();
        inflict(&world.state());
        if number % 2 == 0 {
            ada.git(&["fetch", "web1"]).ok().says("web1: the store had lost its branch");
            assert_eq!(ada.id("refs/remotes/web1/prod"), world.two, "{number}");
        }
        let three = world.three();
        let run = ada.git(&["push", "web1", "prod"]).ok();
        world.has(&three, &run);
    }
}

#[test]
fn what_else_is_damaged_of_the_hosts_records_is_mended() {
    if is_quick() {
        return;
    }
    type Damage = fn(&World);
    let damages: [Damage; 16] = [
        |world| {
            let stamps = world.state().join("state/stamps");
            let _ = fs::remove_file(&stamps);
            fs::create_dir(stamps).unwrap();
        },
        |world| garbage(&world.state().join("store/shallow")),
        |world| garbage(&world.state().join("store/refs/deptool/target")),
        |world| garbage(&world.state().join("state/journal")),
        |world| garbage(&world.state().join("state/attempts")),
        |world| garbage(&world.state().join("state/lock")),
        |world| garbage(&world.state().join("state/host")),
        |world| garbage(&world.state().join("state/instance")),
        |world| garbage(&world.state().join("state/failed-units")),
        |world| fs::remove_file(world.state().join("current")).unwrap(),
        |world| {
            fs::remove_file(world.state().join("current")).unwrap();
            symlink("/somewhere/else", world.state().join("current")).unwrap();
        },
        |world| {
            fs::remove_file(world.state().join("store/refs/heads/prod")).unwrap();
            fs::remove_file(world.state().join("state/attempts")).unwrap();
        },
        |world| fs::remove_dir_all(world.state().join("generations")).unwrap(),
        |world| fs::remove_dir_all(world.state().join("trees")).unwrap(),
        |world| world.files("trees", "files").iter().for_each(|path| garbage(path)),
        |world| {
            fs::remove_dir_all(world.state().join("apps")).unwrap();
            world.ada().git(&["deptool", "verify"]).code(2).prints("'/var/lib/deptool/apps/web/current'");
        },
    ];
    for inflict in damages {
        let world = World::new();
        inflict(&world);
        let three = world.three();
        let run = world.ada().git(&["push", "web1", "prod"]).ok();
        world.has(&three, &run);
    }
}

#[test]
fn a_host_that_accepts_no_deployment_is_not_in_order() {
    let world = World::new();
    let (ada, kept) = (world.ada(), world.state().join("state/kept"));
    fs::write(&kept, "foreign").unwrap();
    let link = world.sandbox.root("web1").join("etc/web");
    fs::remove_file(&link).unwrap();
    fs::write(&link, "by hand").unwrap();
    let three = world.three();
    ada.git(&["push", "web1", "prod"]).ok().says("deployed, but not cleaned up");
    let run = ada.git(&["deptool", "verify"]).code(2).says("web1: not in order: ");
    assert_eq!(run.stdout(), "", "{run}");
    ada.git(&["deptool", "verify", "--json"]).code(2).prints("\"what\":\"not in order: ");
    ada.git(&["deptool", "verify", "--prometheus"]).code(2).prints("deptool_drift{host=\"web1\"} 1");
    fs::remove_file(&kept).unwrap();
    let run = ada.git(&["fetch", "web1"]).ok().does_not_say("not in order");
    world.has(&three, &run);
    assert_eq!(fs::read(kept.join("3/root/etc/web")).unwrap(), b"by hand");
}

#[test]
fn what_can_not_be_mended_says_what_to_do() {
    type Damage = fn(&Path);
    let damages: [(Damage, &str, Damage); 1] = [(
        |state| {
            garbage(&state.join("state/host"));
            fs::remove_dir_all(state.join("generations")).unwrap();
        },
        "write the name of this host's directory in the tree into it",
        |state| fs::write(state.join("state/host"), "web1").unwrap(),
    )];
    for (inflict, advice, follow) in damages {
        let world = World::new();
        let ada = world.ada();
        inflict(&world.state());
        let three = world.three();
        // The push is refused and the host is not in doubt, because it is certain that nothing has happened.
        for _ in 0..2 {
            let run = ada.git(&["push", "web1", "prod"]).code(1).says(advice).does_not_say("unknown");
            assert!(!run.stderr().contains('\u{1b}'), "{run}");
            assert_eq!(ada.git(&["for-each-ref", "refs/deptool/unsettled"]).ok().line(), "", "{run}");
        }
        follow(&world.state());
        let run = ada.git(&["push", "web1", "prod"]).ok();
        world.has(&three, &run);
    }
}

/// Flips a bit in the constants or the code of a program.
fn flip(program: &Path, to: &Path) {
    let mut bytes = fs::read(program).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    // It may be running.
    let _ = fs::remove_file(to);
    fs::write(to, bytes).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_damaged_agent_deploys_nothing_and_a_damaged_copy_of_it_is_written_again() {
    let world = World::new();
    let three = world.three();
    let name = agent_file_name();
    let installed = fs::read_dir(build::local().join("lib/deptool/agents")).unwrap().next().unwrap().unwrap().path();
    let copy = world.state().join("bin").join(&name);
    let whole = fs::read(&copy).unwrap();
    flip(&installed, &copy);
    let run = world.ada().git(&["push", "web1", "prod"]).ok();
    world.has(&three, &run);
    assert!(fs::read(&copy).unwrap() == whole, "the copy is damaged");

    let agents = world.sandbox.dir().join("agents");
    fs::create_dir(&agents).unwrap();
    flip(&installed, &agents.join(installed.file_name().unwrap()));
    let ada = world.ada();
    ada.write("web1/web/file", "4\n");
    ada.commit("Four");
    let push = ada.command(&["push", "web1", "prod"]).env("DEPTOOL_AGENTS", &agents).run().unwrap();
    push.code(1).says("is damaged: install git-deptool again").does_not_say("unknown");
    world.has(&three, &run);
}

#[test]
fn whatever_becomes_of_any_record_a_host_can_be_read_and_is_mended_or_says_what_to_do() {
    damage_records(SAMPLE);
}

#[test]
#[ignore = "as the one before, every damage to every record: a minute"]
fn whatever_becomes_of_any_record_a_host_can_be_read_and_is_mended_or_says_what_to_do_each_time() {
    damage_records(1);
}

/// One damage in this many is tried.
fn damage_records(one_in: usize) {
    if is_quick() {
        return;
    }
    let world = World::new();
    let whole = world.sandbox.dir().join("whole");
    let copy = |from: &Path, to: &Path| {
        let _ = fs::remove_dir_all(to);
        world.sandbox.command("cp").arg("-a").arg(from).arg(to).check().unwrap();
    };
    let (root, repo) = (world.sandbox.root("web1"), world.sandbox.dir().join("ada"));
    fs::create_dir(&whole).unwrap();
    copy(&root, &whole.join("web1"));
    copy(&repo, &whole.join("ada"));
    let mut wrong = Vec::new();
    for (record, what, damage) in damages::to_records(&world.state(), one_in) {
        copy(&whole.join("web1"), &root);
        copy(&whole.join("ada"), &repo);
        damage(&world.state().join(&record));
        let fetch = world.ada().git(&["fetch", "web1"]);
        if !fetch.success() {
            wrong.push(format!("{what}: {fetch}"));
        }
        let three = world.three();
        let mut push = world.ada().git(&["push", "web1", "prod"]);
        if !push.success() {
            if !push.stderr().contains("repair") {
                wrong.push(format!("{what}: {push}"));
            }
            push = world.ada().git(&["push", "-o", "repair", "web1", "prod"]);
        }
        let verify = world.ada().git(&["deptool", "verify", "web1"]);
        let is_right =
            world.sandbox.read("web1", "/etc/web") == b"3\n" && world.ada().id("refs/remotes/web1/prod") == three;
        if !push.success() || !verify.success() || !is_right {
            wrong.push(format!("{what}: {push} {verify}"));
        }
    }
    assert!(wrong.is_empty(), "{}: {}", wrong.len(), wrong.join("\n"));
}
