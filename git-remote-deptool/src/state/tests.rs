use std::collections::BTreeSet;

use super::{pairs::Pair, *};
use crate::{
    config::{
        Via,
        url::{SshAddress, SshHost},
    },
    model::{
        interrupt::Interrupt,
        offer::{self, State},
    },
    repo::testing::Scratch,
};

fn host(name: &str) -> HostName {
    HostName::parse(name.as_bytes()).unwrap()
}

fn prod() -> ClusterName {
    ClusterName::parse(b"prod").unwrap()
}

fn settings(config: &str) -> Settings {
    Settings::read(&gix::config::File::try_from(config).unwrap(), std::path::Path::new("/")).unwrap()
}

/// The host `web1`, tracked as `tracking`.
fn web1(tracking: &str) -> HostRemote {
    let via = Via::Ssh(SshAddress { user: None, host: SshHost::Name(host("web1")), port: None });
    HostRemote { host: host("web1"), tracking: TrackingName::parse(tracking.into()).unwrap(), via }
}

#[test]
fn a_tracking_ref_is_one_that_git_knows_with_a_reflog() {
    let scratch = Scratch::with_commits(2);
    let repo = scratch.open();
    let tracking = Tracking::new(&repo);
    let (old, new) = (scratch.id("HEAD~1"), scratch.id("HEAD"));
    tracking.set(&web1("w"), &prod(), old, "deploy\nx").unwrap();
    tracking.set(&web1("w"), &prod(), new, "deploy").unwrap();
    tracking.set(&web1("w"), &prod(), new, "not again").unwrap();
    assert_eq!(scratch.id("refs/remotes/w/prod"), new);
    assert_eq!(tracking.get(&web1("w"), &prod()).unwrap(), Some(Tracked { commit: new, real: new }));
    assert_eq!(scratch.git(&["log", "-g", "--format=%gs", "w/prod"]), "deploy\ndeploy x");
    assert_eq!(scratch.id("w/prod@{1}"), old);
}

#[test]
fn a_bare_repository_keeps_reflogs_too() {
    let scratch = Scratch::with_commits(1);
    scratch.git(&["config", "core.bare", "true"]);
    let repo = scratch.open();
    Tracking::new(&repo).set(&web1("w"), &prod(), scratch.id("HEAD"), "deploy").unwrap();
    assert_eq!(scratch.git(&["log", "-g", "--format=%gs", "w/prod"]), "deploy");
}

#[test]
fn a_commit_that_is_not_here_is_never_tracked() {
    let scratch = Scratch::with_commits(1);
    let repo = scratch.open();
    let missing = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
    let tracking = Tracking::new(&repo);
    assert!(matches!(tracking.set(&web1("w"), &prod(), missing, "x"), Err(TrackingError::Missing { .. })));
    let attempt = Attempt::Deploy(missing);
    assert!(matches!(tracking.unsettle(&[&host("web1")], &prod(), attempt), Err(TrackingError::Missing { .. })));
    assert_eq!(scratch.git(&["for-each-ref", "refs/remotes", "refs/deptool"]), "");
}

#[test]
fn refs_that_git_packed_are_read_changed_and_removed() {
    let scratch = Scratch::with_commits(2);
    let repo = scratch.open();
    let tracking = Tracking::new(&repo);
    let (old, new) = (scratch.id("HEAD~1"), scratch.id("HEAD"));
    tracking.set(&web1("w"), &prod(), old, "x").unwrap();
    tracking.unsettle(&[&host("web1")], &prod(), Attempt::Remove).unwrap();
    scratch.git(&["pack-refs", "--all"]);
    assert_eq!(tracking.get(&web1("w"), &prod()).unwrap().unwrap().commit, old);
    tracking.set(&web1("w"), &prod(), new, "x").unwrap();
    assert_eq!(scratch.id("w/prod"), new);
    tracking.remove(&web1("w"), &prod()).unwrap();
    tracking.settle(&host("web1"), &prod()).unwrap();
    tracking.settle(&host("web1"), &prod()).unwrap();
    assert_eq!(scratch.git(&["for-each-ref", "refs/remotes", "refs/deptool"]), "");
}

#[test]
fn a_mark_survives_the_process_and_git_gc() {
    let scratch = Scratch::with_commits(2);
    let new = scratch.id("HEAD");
    let staging = ClusterName::parse(b"staging").unwrap();
    {
        let repo = scratch.open();
        let tracking = Tracking::new(&repo);
        tracking.unsettle(&[&host("web1")], &prod(), Attempt::Deploy(new)).unwrap();
        tracking.unsettle(&[&host("web1")], &staging, Attempt::Remove).unwrap();
    }
    scratch.git(&["gc", "-q", "--prune=now"]);
    scratch.git(&["fsck", "--strict"]);
    let repo = scratch.open();
    let marks = Tracking::new(&repo).unsettled(&host("web1")).unwrap();
    assert_eq!(marks, [(prod(), Attempt::Deploy(new)), (staging, Attempt::Remove)].into());
    assert!(Tracking::new(&repo).unsettled(&host("web2")).unwrap().is_empty());
}

#[test]
fn a_projection_is_listed_by_its_real_id() {
    let scratch = Scratch::with_commits(2);
    let repo = scratch.open();
    let tracking = Tracking::new(&repo);
    let real: CommitId = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
    let (commit, child) = (scratch.id("HEAD~1"), scratch.id("HEAD"));
    let projection = Pair { real, host: host("web1"), projected: commit };
    tracking.add_projection(&projection).unwrap();
    tracking.set(&web1("w"), &prod(), commit, "fetch").unwrap();
    assert_eq!(tracking.get(&web1("w"), &prod()).unwrap(), Some(Tracked { commit, real }));
    assert_eq!(tracking.projection(real, &host("web1")).unwrap(), Some(commit));
    assert_eq!(tracking.projection(real, &host("web2")).unwrap(), None);
    assert_eq!(tracking.projections_in(child).unwrap(), std::slice::from_ref(&projection));
    let knowledge = tracking.knowledge(&Target::Host(web1("w")), &settings("")).unwrap();
    assert_eq!(offer::offers(&knowledge)[0].state, State::At(real));
    tracking.remove_projection(real, &host("web1")).unwrap();
    assert_eq!(tracking.get(&web1("w"), &prod()).unwrap(), Some(Tracked { commit, real: commit }));
    assert!(tracking.projections_in(child).unwrap().is_empty());
}

#[test]
fn what_can_be_pushed_to_has_the_names_of_all_branches() {
    let scratch = Scratch::with_commits(1);
    for name in ["refs/heads/main", "refs/heads/feature/x", "refs/remotes/origin/staging", "refs/remotes/w/prod"] {
        scratch.git(&["update-ref", name, "HEAD"]);
    }
    scratch.git(&["symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/staging"]);
    let repo = scratch.open();
    let tracking = Tracking::new(&repo);
    let settings = settings("[deptool]\ncluster = qa");
    let knowledge = tracking.knowledge(&Target::All, &settings).unwrap();
    let names: BTreeSet<_> = knowledge.names.iter().map(ClusterName::as_str).collect();
    assert_eq!(names, ["main", "prod", "qa", "staging"].into());
    assert!(knowledge.tracked.is_empty());
    let knowledge = tracking.knowledge(&Target::Host(web1("w")), &settings).unwrap();
    assert_eq!(knowledge.tracked, [(prod(), scratch.id("HEAD"))].into());
}

#[test]
fn facts_are_kept_by_tracking_name_and_damage_is_no_error() {
    let scratch = Scratch::with_commits(1);
    let repo = scratch.open();
    let facts = HostFacts {
        host: host("web1"),
        instance: Some("1f".into()),
        agent: None,
        deployed: None,
        failed: None,
        drift: 0,
        is_roots_login: true,
        late: 0,
        socket: None,
    };
    let name = |text: &str| TrackingName::parse(text.into()).unwrap();
    assert_eq!(HostFacts::load(&repo, &name("a/b")), None);
    facts.store(&repo, &name("a/b")).unwrap();
    facts.store(&repo, &name("a%2fb")).unwrap();
    assert_eq!(HostFacts::load(&repo, &name("a/b")), Some(facts.clone()));
    let _lock = HostLock::try_acquire(&repo, &name("a/b")).unwrap();
    assert_eq!(HostFacts::all(&repo), [(name("a%2fb"), facts.clone()), (name("a/b"), facts)]);
    std::fs::write(scratch.path().join(".git/deptool/hosts/a%2fb"), "{").unwrap();
    assert_eq!(HostFacts::load(&repo, &name("a/b")), None);
    HostFacts::forget(&repo, &name("a/b")).unwrap();
    HostFacts::forget(&repo, &name("a/b")).unwrap();
    assert_eq!(HostFacts::all(&repo).len(), 1);
}

#[test]
fn one_process_talks_to_a_host_at_a_time() {
    let scratch = Scratch::with_commits(1);
    let repo = scratch.open();
    let name = |text: &str| TrackingName::parse(text.into()).unwrap();
    let lock = HostLock::try_acquire(&repo, &name("w")).unwrap();
    assert!(matches!(HostLock::try_acquire(&repo, &name("w")), Err(LockError::Held(_))));
    let interrupt = Interrupt::default();
    let _other = HostLock::acquire(&repo, &name("x"), &interrupt).unwrap();
    interrupt.set();
    assert!(matches!(HostLock::acquire(&repo, &name("w"), &interrupt), Err(LockError::Interrupted)));
    drop(lock);
    // For a moment, a program that another test starts may hold it, too.
    let _again = HostLock::acquire(&repo, &name("w"), &Interrupt::default()).unwrap();
}

#[test]
fn a_linked_worktree_sees_the_same_state() {
    let scratch = Scratch::with_commits(1);
    scratch.git(&["worktree", "add", "-q", "--detach", "linked"]);
    let git_dir = scratch.path().join(".git/worktrees/linked");
    let variables = scratch.variables().into_iter().chain([("GIT_DIR".into(), git_dir.into())]);
    let linked = Repo::open(crate::repo::Environment::new(scratch.path().join("linked"), variables)).unwrap();
    let head = scratch.id("HEAD");
    Tracking::new(&linked).set(&web1("w"), &prod(), head, "deploy").unwrap();
    Tracking::new(&linked).unsettle(&[&host("web1")], &prod(), Attempt::Deploy(head)).unwrap();
    let repo = scratch.open();
    assert!(Tracking::new(&repo).get(&web1("w"), &prod()).unwrap().is_some());
    assert_eq!(Tracking::new(&repo).unsettled(&host("web1")).unwrap().len(), 1);
    let _lock = HostLock::try_acquire(&linked, &web1("w").tracking).unwrap();
    assert!(HostLock::try_acquire(&repo, &web1("w").tracking).is_err());
}

#[test]
fn a_tag_that_something_else_has_put_there_is_its_commit() {
    let scratch = Scratch::with_commits(1);
    scratch.git(&["tag", "-a", "-m", "x", "v1"]);
    scratch.git(&["update-ref", "refs/remotes/w/prod", "v1"]);
    let repo = scratch.open();
    let head = scratch.id("HEAD");
    assert_eq!(Tracking::new(&repo).get(&web1("w"), &prod()).unwrap(), Some(Tracked { commit: head, real: head }));
}

#[test]
fn many_hosts_are_marked_at_once() {
    let scratch = Scratch::with_commits(1);
    let repo = scratch.open();
    let (tracking, id) = (Tracking::new(&repo), scratch.id("HEAD"));
    let hosts: Vec<HostName> = (0..40).map(|at| host(&format!("web{at}"))).collect();
    let all: Vec<&HostName> = hosts.iter().collect();
    tracking.unsettle(&all[..3], &prod(), Attempt::Deploy(id)).unwrap();
    tracking.unsettle(&all, &prod(), Attempt::Deploy(id)).unwrap();
    for host in hosts {
        assert_eq!(tracking.unsettled(&host).unwrap(), [(prod(), Attempt::Deploy(id))].into());
    }
}
