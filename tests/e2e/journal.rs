//! A deployment that was interrupted, and a journal that is another build's, or damaged.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use deptool_agent::shared::build::{BUILD_ID, agent_file_name};
use deptool_agent::shared::seal::{self, Seal};
use deptool_tests::build;
use deptool_tests::process::Cmd;
use deptool_tests::sandbox::{Repo, USUAL_PATH};
use deptool_tests::sweep::world::{Knows, Runs, Scenario, World};
use deptool_tests::trace::Deed;

use crate::{
    damages::{self, DAMAGES, SAMPLE},
    sweep::world,
};

const OTHER_ID: &str = "0123456789abcdef";

/// A prefix with helper and agent of another build: the same programs, with another build id.
fn other_build(world: &World) -> PathBuf {
    let to = world.sandbox.dir().join("other");
    for dir in ["bin", "lib/deptool/agents"] {
        fs::create_dir_all(to.join(dir)).unwrap();
        for entry in fs::read_dir(build::local().join(dir)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().replace(BUILD_ID, OTHER_ID);
            let copy = to.join(dir).join(name);
            fs::write(&copy, with_other_id(&path)).unwrap();
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    to
}

fn with_other_id(program: &Path) -> Vec<u8> {
    let mut bytes = fs::read(program).unwrap();
    let mut changed = 0;
    while let Some(at) = bytes.windows(BUILD_ID.len()).position(|part| part == BUILD_ID.as_bytes()) {
        bytes[at..at + BUILD_ID.len()].copy_from_slice(OTHER_ID.as_bytes());
        changed += 1;
    }
    assert!(changed > 0, "{} does not have the build id", program.display());
    if seal::check(&bytes) != Seal::Absent {
        seal::seal(&mut bytes).unwrap();
    }
    bytes
}

/// Starts an update, and kills the agent right after the new generation became the current one.
fn interrupted() -> Option<(World, Scenario)> {
    let world = world()?;
    let mut scenario = world.an_update().unwrap();
    interrupt(&world, &mut scenario);
    Some((world, scenario))
}

fn interrupt(world: &World, scenario: &mut Scenario) {
    world.reset(scenario).unwrap();
    world.give_instance().unwrap();
    let mut is_killed = false;
    let said = world.deploy(&scenario.request, &mut |call| {
        is_killed |= call.name.starts_with("rename") && call.path.ends_with("var/lib/deptool/current");
        if is_killed { Deed::KillAfter } else { Deed::Go }
    });
    assert!(is_killed && said.unwrap().outcome().is_none());
    assert!(fs::metadata(journal(world)).unwrap().len() > 0);
}

fn journal(world: &World) -> PathBuf {
    world.root().join("var/lib/deptool/state/journal")
}

/// `git fetch` with the programs of the other build.
fn fetch(operator: &Repo<'_>, other: &Path) -> Cmd {
    operator.command(&["fetch", "web1"]).env("PATH", format!("{}:{USUAL_PATH}", other.join("bin").display()))
}

#[test]
fn whatever_becomes_of_the_journal_of_an_interrupted_deployment_is_told_and_repaired_on_demand() {
    let Some(world) = world() else { return };
    let mut scenario = world.an_update().unwrap();
    for (what, damage) in DAMAGES {
        interrupt(&world, &mut scenario);
        damage(&journal(&world));
        let operator = world.operator("operator-of-damage", Knows::BothCommits).unwrap();
        let before = operator.id("refs/remotes/web1/prod");
        let fetch = operator.git(&["fetch", "web1"]);
        assert!(fetch.stderr().contains("what runs is not what is deployed"), "{what}: {fetch}");
        assert_eq!(operator.id("refs/remotes/web1/prod"), before, "{what}");
        let push = operator.git(&["push", "web1", "prod"]);
        assert!(!push.success() && push.stderr().contains("git deptool repair"), "{what}: {push}");
        let push = operator.git(&["push", "-o", "repair", "-o", "take-over", "web1", "prod"]);
        assert!(push.success(), "{what}: {push}");
        let verify = operator.git(&["deptool", "verify", "web1"]);
        assert!(verify.success(), "{what}: {verify}");
        let runs = fs::read(world.root().join("var/lib/deptool/store/refs/heads/prod")).unwrap();
        assert_eq!(String::from_utf8_lossy(&runs).trim(), operator.id("prod"), "{what}");
    }
}

#[test]
fn whatever_becomes_of_any_record_while_a_deployment_is_interrupted_it_is_mended_or_says_what_to_do() {
    damage_records_while_interrupted(SAMPLE);
}

#[test]
#[ignore = "as the one before, every damage to every record: a minute"]
fn whatever_becomes_of_any_record_while_a_deployment_is_interrupted_it_is_mended_or_says_what_to_do_each_time() {
    damage_records_while_interrupted(1);
}

/// The host's key for secrets, in its state directory.
const KEY: &str = "state/identity";

/// One damage in this many is tried.
fn damage_records_while_interrupted(one_in: usize) {
    let Some((world, mut scenario)) = interrupted() else { return };
    let state = world.root().join("var/lib/deptool");
    let mut wrong = Vec::new();
    let all = damages::to_records(&state, one_in).into_iter();
    for (record, what, damage) in all.filter(|(record, ..)| !record.ends_with("state/journal")) {
        interrupt(&world, &mut scenario);
        // What was staged is not there in the same place each time.
        if !state.join(&record).exists() {
            continue;
        }
        let key = fs::read(state.join(KEY)).unwrap();
        damage(&state.join(&record));
        let operator = world.operator("operator-of-damage", Knows::BothCommits).unwrap();
        let fetch = operator.git(&["fetch", "web1"]);
        if !fetch.success() {
            wrong.push(format!("{what}: {fetch}"));
        }
        let mut push = operator.git(&["push", "-o", "take-over", "web1", "prod"]);
        if !push.success() && push.stderr().contains("repair") {
            push = operator.git(&["push", "-o", "repair", "-o", "take-over", "web1", "prod"]);
        }
        // Without the key that the secrets are encrypted to there are two ways out: encrypt them anew, or put it back.
        let is_refused = ["is not encrypted to this host: rekey it", "restore it from a backup"]
            .iter()
            .any(|why| push.stderr().contains(why));
        if !push.success() && record.ends_with(KEY) && is_refused {
            let _ = fs::remove_dir_all(state.join(KEY)).or_else(|_| fs::remove_file(state.join(KEY)));
            fs::write(state.join(KEY), key).unwrap();
            push = operator.git(&["push", "-o", "take-over", "web1", "prod"]);
        }
        // Without a ledger it is not known whether a directory was there before us.
        if !push.success() && push.stderr().contains("'/etc/shuts' is a directory on the host: remove it there") {
            fs::remove_dir_all(world.root().join("etc/shuts")).unwrap();
            push = operator.git(&["push", "-o", "take-over", "web1", "prod"]);
        }
        let verify = operator.git(&["deptool", "verify", "web1"]);
        let runs = fs::read_to_string(state.join("store/refs/heads/prod")).unwrap_or_default();
        if !push.success() || !verify.success() || runs.trim() != operator.id("prod") {
            wrong.push(format!("{what}: {fetch} {push} {verify}"));
        }
    }
    assert!(wrong.is_empty(), "{}: {}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_fetch_with_another_build_lets_the_agent_that_began_a_deployment_undo_it() {
    let Some((world, scenario)) = interrupted() else { return };
    let operator = world.operator("operator-of-another-build", Knows::BothCommits).unwrap();
    fetch(&operator, &other_build(&world))
        .run()
        .unwrap()
        .ok()
        .says("was finished or undone by the agent that began it");
    assert_eq!(fs::metadata(journal(&world)).unwrap().len(), 0);
    assert_eq!(world.judge(&scenario), Ok(Runs::Old));
}

#[test]
fn without_the_agent_that_began_a_deployment_its_journal_is_kept_and_the_way_out_is_named() {
    let Some((world, _)) = interrupted() else { return };
    let other = other_build(&world);
    let operator = world.operator("operator-of-another-build", Knows::BothCommits).unwrap();
    let agent = world.root().join("var/lib/deptool/bin").join(agent_file_name());
    let away = world.sandbox.dir().join("agent");
    fs::rename(&agent, &away).unwrap();
    let before = fs::read(journal(&world)).unwrap();
    for _ in 0..2 {
        let run = fetch(&operator, &other).run().unwrap();
        run.says("that agent is gone: the journal is kept; put the agent back as");
        assert_eq!(fs::read(journal(&world)).unwrap(), before);
    }
    fs::rename(&away, &agent).unwrap();
    fetch(&operator, &other).run().unwrap().ok();
    assert_eq!(fs::metadata(journal(&world)).unwrap().len(), 0);
}
