//! Deployments that wait for their verdict, their release or their confirmation, and connections that take them over.

use std::path::Path;

use deptool_agent::shared::{
    id::DeploymentId,
    outcome::{Attempt, AttemptResult, Outcome, Phase},
    wire::{DecidedBy, Deploy, Request, Response},
};
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::{
    seen::at_rest,
    talk::{Talk, recorded},
};

/// A host that runs the first of two commits, and the request for the second.
struct World<'a> {
    sandbox: &'a Sandbox,
    repo: Repo<'a>,
    commits: [String; 2],
    request: Deploy,
    /// The frames after the request.
    objects: Vec<Request>,
}

impl World<'_> {
    fn new(sandbox: &Sandbox) -> World<'_> {
        let repo = sandbox.repo("operator");
        repo.add_root("web1");
        repo.write("web1/web/file", "1\n");
        repo.write("web1/web/manifest.json", r#"{"symlinks": {"/etc/a": "file"}}"#);
        let one = repo.commit("One");
        repo.git(&["push", "web1", "prod"]).ok();
        repo.write("web1/web/file", "2\n");
        repo.write("web1/web/manifest.json", r#"{"symlinks": {"/etc/b": "file"}}"#);
        let two = repo.commit("Two");
        let (request, objects) = request(sandbox, &repo);
        World { sandbox, repo, commits: [one, two], request, objects }
    }

    /// An agent that was asked to deploy the second commit, and the deployment's id.
    fn deploy(&self, decided_by: DecidedBy, confirm: Option<u16>) -> (Talk, DeploymentId) {
        let id = DeploymentId::random().unwrap();
        let request = Deploy { id, decided_by, confirm, ..self.request.clone() };
        let mut talk = Talk::with(self.sandbox, "web1");
        talk.send(&Request::Deploy(Box::new(request)));
        talk.send_all(&self.objects);
        (talk, id)
    }

    fn attach(&self, id: DeploymentId) -> Talk {
        let mut talk = Talk::with(self.sandbox, "web1");
        talk.send(&Request::Attach(id));
        talk
    }

    /// The outcome of a deployment that has ended.
    #[track_caller]
    fn result(&self, id: DeploymentId) -> AttemptResult {
        match self.attach(id).next() {
            Some(Response::NotRunning(Some(attempt))) => {
                assert_eq!(attempt.id, id);
                attempt.result
            }
            other => panic!("{other:?}"),
        }
    }

    /// Asserts that exactly the commit with that number runs, and that the host is at rest.
    #[track_caller]
    fn runs(&self, number: usize) {
        // The next agent waits until the previous one has cleaned up.
        Talk::with(self.sandbox, "web1").end();
        at_rest(self.sandbox, "web1", Some(&self.commits[number]));
        let root = self.sandbox.root("web1");
        let has = |path: &str| root.join(path).is_symlink();
        assert_eq!([has("etc/a"), has("etc/b")], [number == 0, number == 1]);
        let doors = std::fs::read_dir(root.join("var/lib/deptool/state/run")).into_iter().flatten();
        let doors: Vec<_> = doors.map(|door| door.unwrap().file_name()).collect();
        assert!(doors.iter().all(|door| Path::new(door).extension().is_some()), "{doors:?}");
    }

    /// Goes back to the first commit.
    #[track_caller]
    fn again(&self) {
        self.repo.git(&["fetch", "-q", "web1"]).ok();
        self.repo.git(&["push", "-qf", "web1", "prod~1:prod"]).ok();
        self.runs(0);
    }
}

/// The messages of a helper.
fn request(sandbox: &Sandbox, repo: &Repo<'_>) -> (Deploy, Vec<Request>) {
    let mut requests = recorded(sandbox, repo).into_iter();
    match requests.next() {
        Some(Request::Deploy(request)) => (*request, requests.collect()),
        other => panic!("{other:?}"),
    }
}

fn done() -> Response {
    Response::Ended(Box::new(Outcome::Done { also_restarted: Vec::new(), also_stopped: Vec::new(), drift: Vec::new() }))
}

/// The reason that the agent gives for its rollback.
#[track_caller]
fn rolled_back(talk: &mut Talk) -> String {
    match talk.next() {
        Some(Response::Ended(outcome)) => match *outcome {
            Outcome::RolledBack(failure) => {
                assert!(failure.rollback_errors.is_empty(), "{failure:?}");
                failure.why
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_kept_deployment_is_done_when_it_is_released_and_undone_when_it_is_revoked() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    let (mut talk, id) = world.deploy(DecidedBy::Helper, None);
    talk.says(&Response::Healthy).send(&Request::Keep);
    talk.says(&Response::Kept);
    // Others are told whose deployment it is, and what it waits for.
    let holder = Talk::with(&sandbox, "web1").hello.busy.unwrap();
    assert_eq!((holder.id, holder.phase), (Some(id), Phase::AwaitingRelease));
    talk.send(&Request::Release);
    talk.says(&done());
    world.runs(1);
    assert_eq!(world.result(id), AttemptResult::Done);
    world.again();

    let (mut talk, id) = world.deploy(DecidedBy::Helper, None);
    talk.says(&Response::Healthy).send(&Request::Keep);
    talk.says(&Response::Kept).send(&Request::Revert);
    let why = rolled_back(&mut talk);
    assert_eq!(why, "not kept, because another host failed");
    world.runs(0);
    assert_eq!(world.result(id), AttemptResult::RolledBack { why, errors: vec![] });
}

#[test]
fn without_a_verdict_the_host_goes_back_at_once() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    let (mut talk, id) = world.deploy(DecidedBy::Helper, None);
    talk.says(&Response::Healthy);
    talk.end();
    world.runs(0);
    let why = "the connection was lost before the verdict".into();
    assert_eq!(world.result(id), AttemptResult::RolledBack { why, errors: vec![] });

    // If it is killed while it waits, the next agent undoes it.
    let (mut talk, id) = world.deploy(DecidedBy::Helper, None);
    talk.says(&Response::Healthy);
    talk.kill();
    assert_eq!(world.result(id), AttemptResult::Interrupted);
    world.runs(0);
}

#[test]
fn a_connection_that_was_lost_is_taken_over_by_the_next() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    for order in [Request::Release, Request::Revert] {
        let (mut first, id) = world.deploy(DecidedBy::Helper, None);
        first.says(&Response::Healthy);
        let mut second = world.attach(id);
        second.says(&Response::Attached).says(&Response::Healthy).send(&Request::Keep);
        second.says(&Response::Kept);
        // The first connection is ignored from now on.
        first.send(&Request::Revert);
        second.hang_up();
        let mut third = world.attach(id);
        third.says(&Response::Attached).says(&Response::Kept).send(&Request::Keep);
        third.says(&Response::Kept).send(&order);
        if order == Request::Release {
            third.says(&done());
            world.runs(1);
            assert_eq!(world.result(id), AttemptResult::Done);
            world.again();
        } else {
            rolled_back(&mut third);
            world.runs(0);
        }
    }
}

#[test]
fn an_agent_that_is_killed_after_the_verdict_goes_forward() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    let (mut talk, id) = world.deploy(DecidedBy::Helper, None);
    talk.says(&Response::Healthy).send(&Request::Keep);
    talk.says(&Response::Kept);
    talk.kill();
    let hello = Talk::with(&sandbox, "web1").hello;
    assert_eq!(hello.notes, ["an interrupted deployment was good, and was finished"]);
    let last: Attempt = hello.last_attempt.unwrap();
    assert_eq!((last.id, last.result), (id, AttemptResult::Done));
    world.runs(1);
}

#[test]
fn what_is_not_confirmed_over_a_new_connection_is_undone() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    let question = |seconds| Response::AwaitsConfirmation { seconds };

    let (mut talk, id) = world.deploy(DecidedBy::Host, Some(600));
    talk.says(&question(600));
    let holder = Talk::with(&sandbox, "web1").hello.busy.unwrap();
    assert_eq!((holder.id, holder.phase), (Some(id), Phase::AwaitingConfirmation));
    // A confirmation over the existing connection proves nothing.
    talk.send(&Request::Confirm);
    assert_eq!(rolled_back(&mut talk), "not confirmed: a message came out of order");
    world.runs(0);

    let (mut talk, _) = world.deploy(DecidedBy::Host, Some(600));
    talk.says(&question(600)).send(&Request::Revert);
    assert_eq!(rolled_back(&mut talk), "not confirmed");
    world.runs(0);

    let (mut talk, id) = world.deploy(DecidedBy::Host, Some(1));
    talk.says(&question(1));
    let why = rolled_back(&mut talk);
    assert_eq!(why, "not confirmed over a new connection within 1 s");
    world.runs(0);
    assert_eq!(world.result(id), AttemptResult::RolledBack { why, errors: vec![] });

    // The change may have cut the connection.
    let (mut talk, id) = world.deploy(DecidedBy::Host, Some(600));
    talk.says(&question(600));
    talk.hang_up();
    let mut other = world.attach(id);
    other.says(&Response::Attached).says(&question(600)).send(&Request::Confirm);
    other.says(&done());
    world.runs(1);
    world.again();

    // If it is killed while it waits, it is undone.
    let (mut talk, id) = world.deploy(DecidedBy::Host, Some(600));
    talk.says(&question(600));
    talk.kill();
    assert_eq!(world.result(id), AttemptResult::Interrupted);
    world.runs(0);
}

#[test]
fn a_confirmed_deployment_still_waits_for_the_common_verdict() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    let (mut talk, id) = world.deploy(DecidedBy::Helper, Some(600));
    talk.says(&Response::AwaitsConfirmation { seconds: 600 });
    let mut other = world.attach(id);
    other.says(&Response::Attached).says(&Response::AwaitsConfirmation { seconds: 600 }).send(&Request::Confirm);
    other.says(&Response::Healthy).send(&Request::Keep);
    other.says(&Response::Kept).send(&Request::Release);
    other.says(&done());
    world.runs(1);
}

#[test]
fn an_app_can_ask_to_be_confirmed() {
    let sandbox = Sandbox::new();
    let mut world = World::new(&sandbox);
    world.repo.write("web1/web/manifest.json", r#"{"symlinks": {"/etc/b": "file"}, "confirm": true}"#);
    let bold = world.repo.commit("Bold");
    let (request, objects) = request(&sandbox, &world.repo);
    (world.request, world.objects) = (request, objects);
    let (mut talk, id) = world.deploy(DecidedBy::Host, None);
    talk.says(&Response::AwaitsConfirmation { seconds: 30 });
    let mut other = world.attach(id);
    other.says(&Response::Attached).says(&Response::AwaitsConfirmation { seconds: 30 }).send(&Request::Confirm);
    other.says(&done());
    world.commits[1] = bold;
    world.runs(1);
    // Removing the app needs a confirmation, too.
    world.repo.git(&["fetch", "-q", "web1"]).ok();
    world.repo.remove("web1/web");
    world.repo.write("web1/other/file", "1\n");
    world.repo.commit("Gone");
    (world.request, world.objects) = self::request(&sandbox, &world.repo);
    let (mut talk, _) = world.deploy(DecidedBy::Host, Some(1));
    talk.says(&Response::AwaitsConfirmation { seconds: 1 });
    rolled_back(&mut talk);
    world.runs(1);
    let (mut talk, _) = world.deploy(DecidedBy::Host, None);
    talk.says(&Response::AwaitsConfirmation { seconds: 30 }).send(&Request::Revert);
    rolled_back(&mut talk);
    world.runs(1);
}

#[test]
fn a_deployment_that_is_declared_not_to_be_under_way_does_not_begin_afterwards() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    let id = DeploymentId::random().unwrap();
    world.attach(id).says(&Response::NotRunning(None));
    let mut talk = Talk::with(&sandbox, "web1");
    talk.send(&Request::Deploy(Box::new(Deploy { id, ..world.request.clone() })));
    talk.says(&Response::Ended(Box::new(Outcome::Cancelled)));
    world.runs(0);
    // Other apps do not.
    let (mut talk, _) = world.deploy(DecidedBy::Host, None);
    talk.says(&done());
    world.runs(1);
}
