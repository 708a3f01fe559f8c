//! Whole deployments on a root directory. The service manager is in memory, and fails where the test wants it to.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use gix_object::Kind;

use crate::{
    host::{
        connection::{heartbeat::Heartbeat, peer::Peer},
        deploy::deploy,
        recover::{Recovery, at_boot, recover},
        state::{attempts, failed_units, journal::Journal, layout::Home},
    },
    shared::{
        frame::{FrameReader, encode},
        id::{CommitId, DeploymentId},
        manifest::SETTLE_TIMEOUT,
        name::{ClusterName, HostName},
        outcome::{AttemptResult, Goal, Outcome},
        plan::HostPlan,
        store::pack::PackWriter,
        tree::{HostTree, memory::Objects},
        wire::{Activation, Bytes, DecidedBy, Deploy, InTheWay, Lease, Repair, Request, Response},
    },
    system::{
        Active, Manager, System,
        fake::{Behaviour, Fake, unit},
    },
};

mod checks;
mod drift;
mod places;
mod properties;

type Files<'a> = &'a [(&'a str, &'a str)];

/// A host that has nothing but a user database.
struct World {
    root: tempfile::TempDir,
    objects: Objects,
    fake: Fake,
    deployed: Option<(CommitId, HostTree)>,
    repair: Repair,
    /// Whether calls of the service manager wait until something is sent meanwhile.
    is_slow: bool,
}

impl World {
    fn new() -> World {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        let mut fake = Fake::default();
        fake.root = Some(root.path().to_owned());
        World { root, objects: Objects::default(), fake, deployed: None, repair: Repair::Changed, is_slow: false }
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.root.path().join(&path[1..])
    }

    /// Deploy a tree. Returns the outcome and the notes.
    fn deploy(&mut self, files: Files<'_>) -> (Outcome, Vec<String>) {
        let host = self.objects.directory(files);
        let root = self.objects.tree(&[(b"web1", gix_object::tree::EntryKind::Tree, host.0)]);
        let text = format!("tree {root}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nm\n");
        let commit = CommitId(self.objects.put(Kind::Commit, text.into_bytes()));
        let new = HostTree::load(&self.objects, host).unwrap();
        let none = HostTree::default();
        let old = self.deployed.as_ref().map_or(&none, |(_, tree)| tree);
        let request = Deploy {
            id: DeploymentId::random().unwrap(),
            host: HostName::parse(b"web1").unwrap(),
            hostname: None,
            recipient: None,
            cluster: ClusterName::parse(b"prod").unwrap(),
            lease: self.deployed.as_ref().map_or(Lease::Absent, |(id, _)| Lease::At(*id)),
            goal: Goal::Commit(commit),
            plan: HostPlan::between(old, &new).unwrap().digest(),
            operator: "Carol <c@d>".into(),
            activation: Activation::AtOnce,
            decided_by: DecidedBy::Host,
            repair: self.repair,
            renamed_from: None,
            in_the_way: InTheWay::Refused,
            confirm: None,
        };
        let (input, mut to_agent) = pipe();
        let (from_agent, output) = pipe();
        for request in [Request::Data(Bytes(self.pack())), Request::PackEnd, Request::ObjectsEnd] {
            to_agent.write_all(&encode(&request).unwrap()).unwrap();
        }
        let home = Home::new(self.root.path());
        // Mostly without heartbeats: the tests make thousands of deployments.
        let heartbeat = if self.is_slow { home.heartbeat().clone() } else { Heartbeat::default() };
        self.fake.listener = self.is_slow.then(|| from_agent.try_clone().unwrap());
        let mut peer = Peer::new(input.into(), output.into(), Vec::new(), &heartbeat).unwrap();
        deploy(&home, &request, &mut peer, &mut self.fake);
        drop(peer);
        let (outcome, notes) = said(from_agent);
        if matches!(outcome, Outcome::Done { .. }) {
            self.deployed = Some((commit, new));
        }
        (outcome, notes)
    }

    fn pack(&self) -> Vec<u8> {
        let all = self.objects.all();
        let mut pack = PackWriter::new(Vec::new(), all.len() as u32).unwrap();
        for (kind, bytes) in all {
            pack.stored(kind, &bytes).unwrap();
        }
        pack.finish().unwrap().0
    }

    #[track_caller]
    fn deploys(&mut self, files: Files<'_>) -> Vec<String> {
        let (outcome, notes) = self.deploy(files);
        assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
        notes
    }

    /// Everything that is visible of the host: paths, modes and contents of external and deployed files, and the units.
    fn visible(&self) -> BTreeMap<String, String> {
        let mut seen = BTreeMap::new();
        walk(self.root.path(), self.root.path(), &mut seen);
        seen.retain(|path, _| {
            let state = path.strip_prefix("var/lib/deptool/");
            state.is_none_or(|path| {
                ["current", "previous", "apps", "state/claims"].iter().any(|ours| path.starts_with(ours))
            })
        });
        for (name, unit) in &self.fake.units {
            let (is_up, is_enabled) = (unit.detail.active == Active::Active, self.fake.is_enabled(name));
            if is_up || is_enabled {
                seen.insert(format!("unit {name}"), format!("{is_up} {is_enabled}"));
            }
        }
        seen
    }
}

fn pipe() -> (File, File) {
    let (read, write) = rustix::pipe::pipe().unwrap();
    // Writer and reader take turns, so everything has to fit into the pipe.
    rustix::pipe::fcntl_setpipe_size(&write, 1 << 20).unwrap();
    (File::from(read), File::from(write))
}

/// Read all messages of the agent. Returns the outcome and the notes.
fn said(from_agent: impl Read) -> (Outcome, Vec<String>) {
    let mut reader = FrameReader::new(from_agent);
    let (mut outcome, mut notes) = (None, Vec::new());
    while let Some(response) = reader.receive::<Response>().unwrap() {
        match response {
            Response::Note(note) => notes.push(note),
            Response::Ended(ended) => assert!(outcome.replace(*ended).is_none(), "it ended twice"),
            _ => {}
        }
    }
    (outcome.expect("it ended"), notes)
}

fn walk(root: &Path, directory: &Path, seen: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let content = if meta.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display())
        } else if meta.is_dir() {
            walk(root, &path, seen);
            "directory".into()
        } else if !meta.is_file() {
            "special".into()
        } else {
            format!("{:o} {}", meta.permissions().mode(), String::from_utf8_lossy(&fs::read(&path).unwrap()))
        };
        seen.insert(name, content);
    }
}

const WEB: (&str, &str) = (
    "web/manifest.json",
    r#"{"systemd": {"units_enabled": ["web.service", "web.timer"], "on_change": {"host.service": "reload"}},
        "symlinks": {"/etc/web/web.conf": "conf"}, "files": {"key": {"mode": "0600"}},
        "checks": ["web-check.service"]}"#,
);
const UNIT: (&str, &str) = ("web/systemd/web.service", "[Service]\nExecStart=/bin/web\n");
const TIMER: (&str, &str) = ("web/systemd/web.timer", "[Timer]\nOnCalendar=daily\n");
const CHECK: (&str, &str) = ("web/systemd/web-check.service", "[Unit]\nX=y\n[Service]\nExecStart=/bin/check\n");
const OLD: (&str, &str) = ("old/systemd/old.service", "[Service]\nExecStart=/bin/old\n");
const OLD_MANIFEST: (&str, &str) =
    ("old/manifest.json", r#"{"systemd": {"units_enabled": ["old.service"]}, "symlinks": {"/etc/old/x": "systemd"}}"#);

/// The two trees of most tests. From the first to the second, one app is removed, one changes in every way, one is added.
const BEFORE: Files<'_> = &[
    WEB,
    UNIT,
    TIMER,
    CHECK,
    OLD,
    OLD_MANIFEST,
    ("web/conf", "1"),
    ("web/key", "k"),
    ("web/tmpfiles/web.conf", "d /run/1"),
];
const AFTER: Files<'_> = &[
    WEB,
    ("web/systemd/web.service", "[Service]\nExecStart=/bin/web --new\n"),
    TIMER,
    CHECK,
    ("web/systemd/host.service.d/x.conf", "[Service]\nNice=1\n"),
    ("web/conf", "2"),
    ("web/key", "l"),
    ("web/tmpfiles/web.conf", "d /run/2"),
    ("web/sysusers/web.conf", "u web"),
    ("new/systemd/new.service", "[Service]\nExecStart=/bin/new\n"),
    ("new/manifest.json", r#"{"systemd": {"units_enabled": ["new.service"]}, "symlinks": {"/etc/new/x": "systemd"}}"#),
];

/// A host on which [`BEFORE`] is deployed.
fn before() -> World {
    let mut world = World::new();
    world.fake.running("host.service");
    world.deploys(BEFORE);
    world.fake.calls.clear();
    world
}

#[test]
fn a_deployment_changes_a_host_in_the_order_that_is_promised() {
    let mut world = before();
    world.deploys(AFTER);
    let root = world.root.path().to_str().unwrap();
    let calls: Vec<String> = world.fake.changes().iter().map(|call| call.replace(root, "")).collect();
    assert_eq!(
        calls,
        [
            "add-transient 1",
            "jobs start deptool-check-1.service",
            "remove-transient deptool-check-1.service",
            "leave-session",
            "jobs stop old.service",
            "reset-failed old.service",
            "disable old.service",
            "create-users /etc/sysusers.d/web.conf",
            "create-tmpfiles /etc/tmpfiles.d/web.conf",
            "enable new.service",
            "daemon-reload",
            "reset-failed host.service new.service web.service",
            "jobs stop host.service, stop web.service",
            "jobs start host.service, restart new.service, start web.service",
        ]
    );
}

#[test]
fn whatever_call_fails_the_host_is_as_it_was() {
    let mut world = before();
    let expected = world.visible();
    world.deploys(AFTER);
    let count = world.fake.calls.len();
    assert!(count > 30, "{:?}", world.fake.calls);
    let mut kinds = BTreeMap::new();
    for n in 1..=count {
        let mut world = before();
        world.fake.fails_at = Some(n);
        let (outcome, _) = world.deploy(AFTER);
        let call = world.fake.calls[n - 1].clone();
        match outcome {
            Outcome::Refused { why, .. } => {
                assert_eq!(world.visible(), expected, "{call}: {why}");
                *kinds.entry("refused").or_insert(0) += 1;
            }
            Outcome::RolledBack(failure) => {
                assert!(failure.rollback_errors.is_empty(), "{call}: {failure:?}");
                assert_eq!(world.visible(), expected, "{call}: {}", failure.why);
                *kinds.entry("rolled back").or_insert(0) += 1;
            }
            Outcome::Done { .. } => *kinds.entry("done").or_insert(0) += 1,
            other => panic!("{call}: {other:?}"),
        }
        world.fake.fails_at = None;
        if world.deployed.as_ref().is_some_and(|(_, tree)| !tree.apps.contains_key("new")) {
            world.deploys(AFTER);
        }
    }
    // The calls `is-stopping` and `other-jobs`, and calls that are retried, never make a deployment fail.
    assert!(kinds["refused"] >= 8 && kinds["rolled back"] >= 12, "{kinds:?}");
}

#[test]
fn whatever_unit_fails_the_host_is_as_it_was() {
    for (name, behaviour) in [
        ("new.service", Behaviour::FailsAtStart),
        ("web.service", Behaviour::DiesAfterLooks(1)),
        ("web.service", Behaviour::NeverReady),
        ("host.service", Behaviour::Loops),
    ] {
        let mut world = before();
        let expected = world.visible();
        world.fake.behave(name, behaviour.clone());
        let (outcome, _) = world.deploy(AFTER);
        let Outcome::RolledBack(failure) = outcome else { panic!("{name}: {outcome:?}") };
        assert!(failure.why.starts_with(name), "{failure:?}");
        if behaviour == Behaviour::FailsAtStart {
            assert_eq!(failure.rollback_errors, [""; 0]);
            assert_eq!(world.visible(), expected, "{name}");
        }
    }
}

#[test]
fn a_unit_that_can_not_be_reloaded_is_restarted_by_the_rollback() {
    const RELOADED: (&str, &str) = (
        "web/manifest.json",
        r#"{"systemd": {"units_enabled": ["web.service"], "on_change": {"web.service": "reload"}}}"#,
    );
    let mut world = World::new();
    world.deploys(&[RELOADED, UNIT, ("web/conf", "1")]);
    world.fake.calls.clear();
    world.fake.behave("web.service", Behaviour::ReloadFails);
    let (outcome, _) = world.deploy(&[RELOADED, UNIT, ("web/conf", "2")]);
    let Outcome::RolledBack(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.rollback_errors, [""; 0]);
    let jobs: Vec<_> = world.fake.changes().into_iter().filter(|call| call.starts_with("jobs ")).collect();
    assert_eq!(jobs, ["jobs reload web.service", "jobs reload web.service", "jobs restart web.service"]);
}

#[test]
fn a_unit_that_stays_down_after_a_rollback_is_started_by_the_next_deployment() {
    let mut world = before();
    let home = Home::new(world.root.path());
    world.fake.behave("web.service", Behaviour::FailsAtStart);
    let (outcome, _) = world.deploy(AFTER);
    let Outcome::RolledBack(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.rollback_errors, ["cannot start 'web.service' again: failed"]);
    // Everything else was undone, so another deployment is possible.
    assert!(matches!(Journal::find(&home).unwrap(), Journal::AtRest));
    let last = attempts::latest(&home, 1).unwrap().remove(0);
    assert!(matches!(last.result, AttemptResult::RolledBack { errors, .. } if errors == failure.rollback_errors));
    let down = |home: &Home| {
        failed_units::load(home).unwrap().into_iter().map(|down| down.unit.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(down(&home), ["web.service"]);

    // Deploying the same tree again still tries to start the unit.
    let (outcome, _) = world.deploy(BEFORE);
    assert!(matches!(outcome, Outcome::RolledBack(_)), "{outcome:?}");
    assert_eq!(down(&home), ["web.service"]);
    let recovery = recover(&home, &mut world.fake, &mut |_| ()).unwrap();
    assert!(matches!(recovery, Recovery::Nothing));
    assert_eq!(down(&home), ["web.service"]);

    world.fake.behave("web.service", Behaviour::Works);
    world.fake.calls.clear();
    let (outcome, notes) = world.deploy(BEFORE);
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    assert_eq!(notes, ["'web.service' is started: it has been down since a deployment that failed"]);
    assert!(world.fake.calls.contains(&"jobs start web.service".to_owned()), "{:?}", world.fake.calls);
    assert_eq!(down(&home), [""; 0]);
}

#[test]
fn the_helper_hears_of_a_host_whose_service_manager_takes_long() {
    let mut world = before();
    world.is_slow = true;
    let quadlet = [AFTER, &[("web/quadlets/box.container", "[Container]\nImage=x\n")]].concat();
    world.fake.behave("new.service", Behaviour::FailsAtStart);
    assert!(matches!(world.deploy(&quadlet).0, Outcome::RolledBack(_)));
    assert_eq!(world.fake.silent, [""; 0]);
    let called = |what: &str| world.fake.calls.iter().filter(|call| call.starts_with(what)).count();
    assert!(called("daemon-reload") == 2 && called("verify") == 1 && called("convert-quadlets") == 1);
}

#[test]
fn a_unit_that_stays_down_after_a_rollback_is_started_at_the_next_contact() {
    let mut world = before();
    let home = Home::new(world.root.path());
    world.fake.behave("web.service", Behaviour::FailsAtStart);
    assert!(matches!(world.deploy(AFTER).0, Outcome::RolledBack(_)));
    world.fake.behave("web.service", Behaviour::Works);
    let Recovery::Done(what) = recover(&home, &mut world.fake, &mut |_| ()).unwrap() else { panic!() };
    assert_eq!(what, "started again: 'web.service'");
    assert!(failed_units::load(&home).unwrap().is_empty());
    assert!(matches!(recover(&home, &mut world.fake, &mut |_| ()).unwrap(), Recovery::Nothing));
}

#[test]
fn a_unit_that_stays_down_after_a_rollback_is_not_forgotten_at_boot() {
    let mut world = before();
    let home = Home::new(world.root.path());
    world.fake.behave("web.service", Behaviour::FailsAtStart);
    assert!(matches!(world.deploy(AFTER).0, Outcome::RolledBack(_)));
    world.fake.only_queues = true;
    assert_eq!(at_boot(&home, &mut world.fake).unwrap(), None);
    assert_eq!(world.fake.calls.last().unwrap(), "jobs start web.service");
    assert_eq!(failed_units::load(&home).unwrap().len(), 1);
}

#[test]
fn an_unhealthy_app_is_rolled_back_and_only_changed_apps_are_probed() {
    let mut world = before();
    let expected = world.visible();
    let sick = [("sick/manifest.json", r#"{"health": [{"tcp": "127.0.0.1:1", "within": "300ms"}]}"#)];
    let (outcome, _) = world.deploy(&[BEFORE, &sick].concat());
    let Outcome::RolledBack(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.why, "tcp 127.0.0.1:1 of 'sick' is not healthy after 0.3 s: nothing listens");
    assert_eq!(world.visible(), expected);
    // An app that was healthy when it was deployed is not probed by later deployments.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let json = format!(r#"{{"health": [{{"tcp": "{}", "within": "0s"}}]}}"#, listener.local_addr().unwrap());
    let app = [("once/manifest.json", json.as_str())];
    world.deploys(&[BEFORE, &app].concat());
    drop(listener);
    world.deploys(&[BEFORE, &app, &[("other/x", "1")]].concat());
}

#[test]
fn starting_and_settling_have_one_deadline() {
    let mut world = World::new();
    world.fake.behave("slow.service", Behaviour::NeverReady);
    let manifest = |timeout: &str| format!(r#"{{"systemd": {{"units_enabled": ["slow.service"]}}{timeout}}}"#);
    let unit_file = ("slow/systemd/slow.service", "[Service]\nExecStart=/x\n");
    for (timeout, seconds) in [("", SETTLE_TIMEOUT.as_secs()), (r#", "settle_timeout": "7s""#, 7)] {
        let began = world.fake.clock();
        let (outcome, _) = world.deploy(&[("slow/manifest.json", &manifest(timeout)), unit_file]);
        assert!(matches!(outcome, Outcome::RolledBack(_)), "{outcome:?}");
        let took = world.fake.clock() - began;
        assert_eq!(took.as_secs(), seconds);
    }
}
