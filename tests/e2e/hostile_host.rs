//! A hostile host, whatever it sends and for however long, can only make a push or a fetch fail with a message. See
//! `wire.rs` for malformed messages, and the helper's `projection/tests/hostile.rs` for packs.

use std::time::Duration;

use deptool_agent::shared::{
    build::{BUILD_ID, VERSION},
    frame::encode,
    id::CommitId,
    outcome::{Attempt, AttemptResult, Deployed, Drift, Edit, Goal, Holder, Outcome, Phase, Rollback, Subject},
    path::ExternalPath,
    wire::{Bytes, Candidate, Entry, Hello, Response, UnitNow, Why},
};
use deptool_tests::is_quick;
use deptool_tests::process::Run;
use deptool_tests::sandbox::{Repo, Sandbox};
use deptool_tests::watch;

use crate::{
    seen::{at_rest, refs},
    stand_in::with_stand_in,
};

/// The limit for the helper's memory, in KiB, however much a host sends.
const MOST_MEMORY: u64 = 64 << 10;
const EVIL: &str = "\x1b[2J\x1b]0;x\x07\r\nok refs/heads/prod\n\u{202e}\u{9b}31m";

/// A repository with a commit that runs on `web1`, and another one to push.
struct Scene<'a> {
    sandbox: &'a Sandbox,
    repo: Repo<'a>,
    one: String,
    two: String,
}

impl Scene<'_> {
    fn new(sandbox: &Sandbox) -> Scene<'_> {
        let repo = sandbox.repo("operator");
        repo.write("web1/web/file", "1\n");
        repo.add_root("web1");
        let one = repo.commit("One");
        repo.git(&["push", "web1", "prod"]).ok();
        repo.write("web1/web/file", "2\n");
        let two = repo.commit("Two");
        Scene { sandbox, repo, one, two }
    }

    /// Runs Git with these arguments and a host that sends `first` once and then `again` forever. Asserts that the
    /// output is harmless, and that the helper's memory is limited.
    #[track_caller]
    fn git(&self, args: &[&str], first: &[Response], again: &[Response]) -> Run {
        let roots = self.sandbox.dir().join("roots");
        std::fs::write(roots.join("first"), bytes(first)).unwrap();
        std::fs::write(roots.join("again"), bytes(again)).unwrap();
        let script = format!(
            r#"printf 'deptool-agent {VERSION} {BUILD_ID}\n'; cd "$DEPTOOL_ROOT/.."
               cat first && while [ -s again ] && cat again again again again 2>/dev/null; do :; done"#
        );
        let git = with_stand_in(self.sandbox, &self.repo, args, &script).timeout(Duration::from_secs(60));
        let (run, peak) = watch::run(git).unwrap_or_else(|error| panic!("{first:?}: {error:#}"));
        harmless(&run);
        assert!(peak.helper < MOST_MEMORY, "the helper needs {} KiB: {run}", peak.helper);
        run
    }

    /// Asserts that no ref has changed, except for a mark that the host is in doubt.
    #[track_caller]
    fn knows(&self, before: &str, run: &Run) {
        let now = refs(&self.repo);
        let now: String = now.split_inclusive('\n').filter(|line| !line.contains("unsettled")).collect();
        assert_eq!(now, before, "{run}");
    }

    /// The host is no longer hostile: everything is as if nothing had happened.
    #[track_caller]
    fn recovers(&self) {
        self.repo.git(&["fsck", "--strict", "--no-dangling"]).ok();
        self.repo.git(&["fetch", "web1"]).ok();
        self.repo.git(&["push", "web1", "prod"]).ok();
        at_rest(self.sandbox, "web1", Some(&self.two));
        assert_eq!(self.repo.id("web1/prod"), self.two);
    }
}

fn bytes(responses: &[Response]) -> Vec<u8> {
    responses.iter().flat_map(|response| encode(response).unwrap()).collect()
}

/// The output neither contains escape sequences nor floods the terminal, and nothing has panicked.
#[track_caller]
fn harmless(run: &Run) {
    let said = format!("{}{}", run.stdout(), run.stderr());
    let bad = |c: char| c.is_control() && c != '\n' && c != '\t' || c == '\u{202e}';
    assert!(!said.contains(bad), "{run}");
    assert!(said.len() < 300_000, "{} bytes", said.len());
    assert!(!said.contains("panicked") && !said.contains("RUST_BACKTRACE"), "{run}");
}

fn deployed(commit: &str) -> Deployed {
    Deployed {
        host: "web1".to_owned().try_into().unwrap(),
        cluster: "prod".to_owned().try_into().unwrap(),
        commit: commit.parse().unwrap(),
        by: EVIL.into(),
        when: i64::MIN,
    }
}

fn hello(deployed: Option<Deployed>) -> Hello {
    let instance = "0123".into();
    Hello {
        instance,
        recipient: None,
        deployed,
        last_attempt: None,
        notes: vec![],
        failures: vec![],
        busy: None,
        is_roots_login: true,
    }
}

fn greeting(hello: Hello) -> Response {
    Response::Hello(Box::new(hello))
}

fn ended(outcome: Outcome) -> Response {
    Response::Ended(Box::new(outcome))
}

#[test]
fn nothing_is_adopted_that_was_not_asked_for() {
    let sandbox = Sandbox::new();
    let scene = Scene::new(&sandbox);
    let owner = || Some("root".to_owned());
    let file = |path: &str| Response::Entry {
        path: ExternalPath::parse(path).unwrap(),
        entry: Entry::File { mode: 0o755, owner: owner(), group: owner(), size: 1 },
    };
    let data = || Response::Data(Bytes(b"x".to_vec()));
    let args = ["deptool", "adopt", "web1", "--yes", "/etc/app"];
    let first = [greeting(hello(None)), file("/etc/app/asked"), data(), file("/etc/apple"), data(), Response::End];
    scene.git(&args, &first, &[]).fails();
    assert!(!scene.repo.dir.join("web1/app").exists());
    let first = [greeting(hello(None)), file("/etc/app/asked"), data(), Response::End];
    scene.git(&args, &first, &[]).ok();
    assert!(scene.repo.dir.join("web1/app/etc/app/asked").exists());
}

#[test]
fn the_last_output_of_a_host_is_shown_without_control_characters() {
    let sandbox = Sandbox::new();
    let scene = Scene::new(&sandbox);
    let before = refs(&scene.repo);
    let huge = EVIL.repeat(10_000);
    let holder = Holder { by: huge.clone(), phase: Phase::Settling, since: i64::MIN, id: None };
    let failure = Rollback { why: huge.clone(), details: huge.clone(), rollback_errors: vec![EVIL.into(); 5_000] };
    let at_one = || greeting(hello(Some(deployed(&scene.one))));
    for last in [
        ended(Outcome::Busy(holder)),
        ended(Outcome::Stale { actual: None }),
        ended(Outcome::Refused { why: huge.clone(), details: huge.clone(), in_the_way: vec![] }),
        ended(Outcome::Cancelled),
        Response::Error(huge.clone()),
    ] {
        let run = scene.git(&["push", "web1", "prod"], &[at_one(), last], &[]).fails();
        // A stale host is asked again immediately.
        scene.knows(&before, &run);
    }
    let failed = ended(Outcome::RolledBack(Rollback { rollback_errors: vec![], why: EVIL.into(), ..failure }));
    let run = scene.git(&["push", "web1", "prod"], &[at_one(), failed], &[]).fails().says("rolled back");
    scene.knows(&before, &run);
    scene.recovers();
}

#[test]
fn what_a_host_says_is_reported_even_if_it_can_not_be_recorded() {
    let mut sandbox = Sandbox::new();
    sandbox.set_env("GIT_DEPTOOL_REPORT", "../report");
    let scene = Scene::new(&sandbox);
    // A ref is in the way of the mark.
    scene.repo.git(&["update-ref", "refs/deptool/broken/web1", "HEAD"]).ok();
    let failure = Rollback { why: "b.service".into(), details: "".into(), rollback_errors: vec!["no space".into()] };
    let said = [greeting(hello(Some(deployed(&scene.one)))), ended(Outcome::RolledBack(failure))];
    scene.git(&["push", "web1", "prod"], &said, &[]).fails().says("rolled back, not completely: b.service");
    let report = std::fs::read_to_string(sandbox.dir().join("report")).unwrap();
    assert!(report.contains(r#""outcome":"rolled-back","why":"b.service""#) && report.contains("no space"), "{report}");
}

#[test]
fn absurd_greetings_do_no_harm() {
    let sandbox = Sandbox::new();
    let scene = Scene::new(&sandbox);
    let huge = EVIL.repeat(10_000);
    let at = |text: &str| -> CommitId { text.parse().unwrap() };
    let attempt = Attempt {
        when: i64::MAX,
        by: huge.clone(),
        cluster: "prod".to_owned().try_into().unwrap(),
        from: None,
        to: Goal::Nothing,
        result: AttemptResult::RolledBack { why: huge.clone(), errors: vec![EVIL.into(); 1000] },
        id: "0123456789abcdef".repeat(2).parse().unwrap(),
        mended: Vec::new(),
    };
    let busy = Holder { by: huge.clone(), phase: Phase::Settling, since: i64::MAX, id: None };
    let honest = || hello(Some(deployed(&scene.one)));
    for one in [
        Hello { instance: huge.clone(), ..honest() },
        Hello { recipient: Some(huge.clone()), ..honest() },
        Hello { notes: vec![huge.clone()], ..honest() },
        Hello { failures: vec![EVIL.into(); 1000], ..honest() },
        Hello { last_attempt: Some(attempt), ..honest() },
        Hello { busy: Some(busy), ..honest() },
    ] {
        scene.git(&["fetch", "web1"], &[greeting(one)], &[]).ok();
        assert_eq!(scene.repo.id("web1/prod"), scene.one);
    }
    let tree = scene.repo.id("HEAD^{tree}");
    let blob = scene.repo.id("HEAD:web1/web/file");
    let other = |change: &dyn Fn(&mut Deployed)| {
        let mut runs = deployed(&scene.one);
        change(&mut runs);
        greeting(hello(Some(runs)))
    };
    for (what, hello) in [
        ("a tree", other(&|runs| runs.commit = at(&tree))),
        ("a blob", other(&|runs| runs.commit = at(&blob))),
        ("an unknown commit", other(&|runs| runs.commit = at(&"1".repeat(40)))),
        ("the null id", other(&|runs| runs.commit = at(&"0".repeat(40)))),
        ("another host", other(&|runs| runs.host = "web2".to_owned().try_into().unwrap())),
    ] {
        let before = refs(&scene.repo);
        let run = scene.git(&["fetch", "web1"], &[hello], &[]).fails();
        assert_eq!(refs(&scene.repo), before, "{what}: {run}");
    }
    // It may claim to belong to another cluster. Then that is recorded for it, and no other ref changes.
    scene.repo.git(&["branch", "main"]).ok();
    scene.repo.git(&["update-ref", "refs/remotes/other/prod", &scene.one]).ok();
    let elsewhere = other(&|runs| runs.cluster = "main".to_owned().try_into().unwrap());
    let kept =
        |repo: &Repo<'_>| refs(repo).lines().filter(|line| !line.contains("/web1/")).collect::<Vec<_>>().join("\n");
    let before = kept(&scene.repo);
    scene.git(&["fetch", "web1"], &[elsewhere], &[]).ok();
    assert_eq!(kept(&scene.repo), before);
    scene.recovers();
}

#[test]
fn invalid_names_are_refused() {
    let sandbox = Sandbox::new();
    let scene = Scene::new(&sandbox);
    let before = refs(&scene.repo);
    // Our types can't express this message.
    let honest = encode(&greeting(hello(Some(deployed(&scene.one))))).unwrap();
    for (from, to) in [
        (&b"\x04prod"[..], &b"\x04HEAD"[..]),
        (b"\x04prod", b"\x04a/.."),
        (b"\x04prod", b"\x04-abc"),
        (b"\x04prod", b"\x04a\n b"),
        (b"\x04prod", b"\x04\xff\xfe\xfd\xfc"),
        (b"\x04web1", b"\x04../x"),
        (b"\x04web1", b"\x04\x1b[2J"),
    ] {
        let at = honest.windows(from.len()).position(|window| window == from).unwrap();
        let said = [&honest[..at], to, &honest[at + to.len()..]].concat();
        std::fs::write(sandbox.dir().join("roots/said"), said).unwrap();
        let script = format!(r#"printf 'deptool-agent {VERSION} {BUILD_ID}\n'; cat "$DEPTOOL_ROOT/../said""#);
        let run = with_stand_in(&sandbox, &scene.repo, &["fetch", "web1"], &script).run().unwrap().fails();
        harmless(&run);
        assert_eq!(refs(&scene.repo), before, "{run}");
    }
    scene.recovers();
}

#[test]
fn messages_out_of_order_end_the_push() {
    if is_quick() {
        return;
    }
    let sandbox = Sandbox::new();
    let scene = Scene::new(&sandbox);
    let before = refs(&scene.repo);
    let at_one = || greeting(hello(Some(deployed(&scene.one))));
    for (what, said) in [
        ("greeted twice", vec![at_one(), at_one()]),
        ("prepared, not told to wait", vec![at_one(), Response::Prepared]),
        ("healthy, not asked", vec![at_one(), Response::Healthy]),
        ("full packs without end", vec![at_one(), Response::NeedFull, Response::NeedFull]),
        ("data", vec![at_one(), Response::Data(Bytes(vec![0; 1000]))]),
        ("a list", vec![at_one(), Response::Attempts(vec![])]),
        ("nothing", vec![at_one()]),
    ] {
        let run = scene.git(&["push", "web1", "prod"], &said, &[]).fails();
        scene.knows(&before, &run);
        assert!(run.stderr().len() < 2000, "{what}: {run}");
    }
    scene.recovers();
}

#[test]
fn a_host_that_cancels_although_nobody_told_it_to_is_not_called_interrupted() {
    let sandbox = Sandbox::new();
    let scene = Scene::new(&sandbox);
    let before = refs(&scene.repo);
    let said = [greeting(hello(Some(deployed(&scene.one)))), ended(Outcome::Cancelled)];
    let run = scene.git(&["push", "web1", "prod"], &said, &[]).fails();
    scene.knows(&before, &run);
    run.says("unreachable: the host received the request, and nothing after it");
    scene.recovers();
}

#[test]
fn a_host_that_sends_without_end_is_cut_off() {
    if is_quick() {
        return;
    }
    let sandbox = Sandbox::new();
    let scene = Scene::new(&sandbox);
    let before = refs(&scene.repo);
    let at_one = || greeting(hello(Some(deployed(&scene.one))));
    for (what, again) in [
        ("notes", Response::Note(EVIL.repeat(1000))),
        ("progress", Response::Progress(Phase::Settling)),
        ("heartbeats", Response::Heartbeat),
        ("data", Response::Data(Bytes(vec![0; 64 << 10]))),
    ] {
        let run = scene.git(&["push", "web1", "prod"], &[at_one()], std::slice::from_ref(&again)).fails();
        scene.knows(&before, &run);
        assert!(run.stderr().contains("web1"), "{what}: {run}");
        // The same before the greeting.
        let run = scene.git(&["fetch", "web1"], &[], &[again]).fails();
        scene.knows(&before, &run);
        assert!(!run.stderr().is_empty(), "{what}: {run}");
    }
    let unknown = greeting(hello(Some(deployed(&"1".repeat(40)))));
    for (what, first, again) in [
        ("no pack", vec![unknown.clone()], Response::Data(Bytes(vec![0; 64 << 10]))),
        ("empty data", vec![unknown.clone()], Response::Data(Bytes(vec![]))),
        ("data after a pack", vec![unknown, empty_pack()], Response::Data(Bytes(vec![0; 64 << 10]))),
    ] {
        let run = scene.git(&["fetch", "web1"], &first, &[again]).fails();
        scene.knows(&before, &run);
        assert!(!run.stderr().is_empty(), "{what}: {run}");
    }
    let script = r#"i=0; while [ $i -lt 100000 ]; do echo "$i web1 is fine"; i=$((i+1)); done >&2"#;
    let run = with_stand_in(&sandbox, &scene.repo, &["fetch", "web1"], script).run().unwrap().fails();
    harmless(&run);
    let objects = scene.repo.dir.join(".git/objects");
    let left = std::fs::read_dir(objects).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(left.filter(|name| name.starts_with("tmp_")).collect::<Vec<_>>(), Vec::<String>::new());
    scene.recovers();
}

#[test]
fn a_host_that_answers_a_question_without_end_is_cut_off() {
    let sandbox = Sandbox::new();
    let scene = Scene::new(&sandbox);
    let path = ExternalPath::parse("/etc/file").unwrap();
    let edit = Some(Edit { deployed: EVIL.into(), now: "text ".repeat(3000) });
    let drift = Drift { subject: Subject::Path(EVIL.repeat(50)), what: EVIL.into(), edit };
    let file = Entry::File { mode: 0o644, owner: None, group: None, size: 0 };
    let unit = "a.service".to_owned().try_into().unwrap();
    let unit = UnitNow { unit, exists: true, enabled: true, runs: true };
    let candidate = Candidate { path: path.clone(), why: Why::Unowned, size: u64::MAX, modified: i64::MIN };
    let candidates = |list| Response::Candidates { packages: None, list };
    let (verify, list) = (["deptool", "verify", "web1"], ["deptool", "adopt", "--list", "web1"]);
    let adopt = ["deptool", "adopt", "--yes", "web1", "/etc/file"];
    for (args, again) in [
        (&verify[..], Response::Drift(vec![drift; 50])),
        (&verify, Response::Drift(Vec::new())),
        (&list, candidates(vec![candidate.clone(); 50])),
        (&list, candidates(Vec::new())),
        (&adopt, Response::Entry { path: path.clone(), entry: file }),
        (&adopt, Response::Entry { path, entry: Entry::Refused { why: EVIL.repeat(50) } }),
        (&adopt, Response::UnitNow(unit)),
        (&adopt, Response::Data(Bytes(Vec::new()))),
    ] {
        let run = scene.git(args, &[greeting(hello(Some(deployed(&scene.one))))], &[again]);
        run.fails().says("web1");
    }
    // No time overflows.
    let first =
        [greeting(hello(Some(deployed(&scene.one)))), candidates(vec![candidate]), Response::End, Response::End];
    scene.git(&list, &first, &[]).ok();
}

fn empty_pack() -> Response {
    let writer = deptool_agent::shared::store::pack::PackWriter::new(Vec::new(), 0).unwrap();
    Response::Data(Bytes(writer.finish().unwrap().0))
}
