//! A host gets what is its own, all of it, and nothing else.

use std::time::Instant;

use deptool_agent::shared::{id::CommitId, name::HostName, store::Store};
use proptest::prelude::*;

use super::{
    testing::{Host, Operator, fsck, gits, run},
    *,
};

fn web1() -> HostName {
    HostName::parse(b"web1").unwrap()
}

/// Two hosts with one app each.
fn two_hosts() -> (Operator, CommitId) {
    let operator = Operator::new();
    operator.write("web1/nginx/nginx.conf", "one\n");
    operator.write("web1/nginx/conf.d/site", "site of web1\n");
    operator.write("web2/nginx/nginx.conf", "secret of web2\n");
    operator.write("README", "for people\n");
    let first = operator.commit("first");
    (operator, first)
}

/// The ids of all objects in the store, as stock Git finds them.
fn objects_of(store: &Store) -> String {
    let all = ["cat-file", "--batch-check=%(objectname)", "--batch-all-objects", "--unordered"];
    String::from_utf8(run(gits()[0], store.path(), &all).stdout).unwrap()
}

#[test]
fn a_host_never_gets_what_is_another_hosts() {
    let (operator, first) = two_hosts();
    let mut host = Host::new("web1");
    host.deploy(&operator.repo(), first);
    operator.write("web2/nginx/nginx.conf", "another secret of web2\n");
    operator.write("web1/nginx/nginx.conf", "two\n");
    let second = operator.commit("second");
    host.deploy(&operator.repo(), second);
    let there = objects_of(&host.store);
    for commit in [first, second] {
        for path in ["web2", "web2/nginx", "web2/nginx/nginx.conf", "README"] {
            let id = operator.git(&["rev-parse", &format!("{commit}:{path}")]);
            assert!(!there.contains(&id), "{path} of {commit}");
        }
        for path in ["", "web1", "web1/nginx", "web1/nginx/nginx.conf", "web1/nginx/conf.d/site"] {
            let id = operator.git(&["rev-parse", &format!("{commit}:{path}")]);
            assert!(there.contains(&id), "{path} of {commit}");
        }
    }
    fsck(host.store.path());
    let walked = host.git(&["rev-list", "--objects", "--missing=allow-promisor", "prod"]);
    assert!(walked.lines().count() >= 10, "{walked}");
    let patch = host.git(&["log", "-p", "prod", "--", "web1"]);
    assert!(patch.contains("-one\n+two") && patch.contains("+site of web1"), "{patch}");
}

#[test]
fn a_second_deployment_sends_only_what_is_new() {
    let (operator, first) = two_hosts();
    let mut host = Host::new("web1");
    assert_eq!(host.deploy(&operator.repo(), first).objects.len(), 7);
    operator.write("web1/nginx/nginx.conf", "two\n");
    let second = operator.commit("second");
    let selection = host.deploy(&operator.repo(), second);
    assert_eq!(selection.objects.len(), 5, "commit, root, host, app, file");
    operator.write("web2/nginx/nginx.conf", "not for web1\n");
    let third = operator.commit("third");
    assert_eq!(host.deploy(&operator.repo(), third).objects.len(), 2, "commit, root");
    assert_eq!(host.missing(third), 0);
}

#[test]
fn every_way_through_history_leaves_a_whole_store() {
    let (operator, first) = two_hosts();
    let mut host = Host::new("web1");
    operator.git(&["checkout", "-q", "-b", "left"]);
    operator.write("web1/nginx/left", "left\n");
    let left = operator.commit("left");
    operator.git(&["checkout", "-q", "prod"]);
    operator.write("web1/other/right", "right\n");
    operator.commit("right");
    operator.git(&["merge", "-q", "--no-ff", "-m", "merge", "left"]);
    let merge = operator.id("HEAD");
    operator.git(&["rm", "-q", "-r", "web1"]);
    let without = operator.commit("no web1 for a while");
    operator.write("web1/nginx/nginx.conf", "again\n");
    let again = operator.commit("again");
    // Beginning in the middle, back before the beginning, and forth over a merge and a gap.
    for target in [left, first, merge, left, again, without, merge, again] {
        host.deploy(&operator.repo(), target);
        assert_eq!(host.missing(target), 0, "{target}");
        fsck(host.store.path());
        for version in gits() {
            let log = run(version, host.store.path(), &["log", "-p", "prod", "--", "web1"]);
            assert!(log.status.success(), "{version}: {}", String::from_utf8_lossy(&log.stderr));
        }
    }
    assert!(host.store.shallow().unwrap().is_empty());
    assert_eq!(host.git(&["rev-list", "--count", "prod"]), operator.git(&["rev-list", "--count", "HEAD"]));
}

#[test]
fn replace_refs_are_ignored() {
    let (operator, first) = two_hosts();
    operator.write("web1/nginx/nginx.conf", "replaced\n");
    let second = operator.commit("second");
    operator.git(&["replace", &first.to_string(), &second.to_string()]);
    let mut host = Host::new("web1");
    host.deploy(&operator.repo(), first);
    assert_eq!(host.missing(first), 0);
    assert_eq!(host.git(&["show", "prod:web1/nginx/nginx.conf"]), "one");
}

#[test]
fn a_submodule_of_the_target_is_refused_and_named() {
    let (operator, first) = two_hosts();
    let entry = format!("160000,{first},web1/nginx/module");
    operator.git(&["update-index", "--add", "--cacheinfo", &entry]);
    operator.git(&["commit", "-q", "-m", "submodule"]);
    let with = operator.id("HEAD");
    let refused = select(&Objects::of(&operator.repo()), &web1(), Base::Nothing, None, with).unwrap_err();
    assert!(refused.to_string().starts_with("'web1/nginx/module' is a submodule"), "{refused}");
    operator.git(&["rm", "-q", "--cached", "web1/nginx/module"]);
    operator.git(&["commit", "-q", "-m", "none"]);
    let mut host = Host::new("web1");
    host.deploy(&operator.repo(), first);
    host.deploy(&operator.repo(), operator.id("HEAD"));
    fsck(host.store.path());
}

#[test]
fn large_blobs_are_listed_for_the_target_only() {
    let (operator, first) = two_hosts();
    let size = LARGE_BLOB as usize;
    operator.write("web1/data/past", vec![1; size]);
    operator.write("web1/data/just-fits", vec![2; size - 1]);
    operator.commit("large");
    operator.git(&["rm", "-q", "web1/data/past"]);
    operator.write("web1/data/now", vec![3; size]);
    operator.write("web2/data/not-ours", vec![4; size]);
    let target = operator.commit("another");
    let repo = operator.repo();
    let selection = select(&Objects::of(&repo), &web1(), Base::HostSubtreeOf(first), Some(first), target).unwrap();
    let now = operator.git(&["rev-parse", "HEAD:web1/data/now"]).parse().unwrap();
    assert_eq!(selection.large, [(now, LARGE_BLOB)]);
    let again = select(&Objects::of(&repo), &web1(), Base::HostSubtreeOf(target), Some(target), target).unwrap();
    assert!(again.large.is_empty());
    assert_eq!(again.objects.len(), 2, "the target itself is always sent");
    let mut host = Host::new("web1");
    host.receive(&repo, &selection).unwrap();
}

#[test]
fn of_a_long_history_the_newest_commits_are_sent() {
    let operator = Operator::new();
    operator.import((0..1200).map(|n| vec![("web1/a/f".to_owned(), n.to_string())]));
    let (first, last) = (operator.id("prod~1199"), operator.id("prod"));
    let mut host = Host::new("web1");
    host.deploy(&operator.repo(), first);
    let selection = host.deploy(&operator.repo(), last);
    let history = operator.git(&["rev-list", "prod"]);
    let (sent, left): (Vec<&str>, Vec<&str>) =
        history.lines().partition(|id| selection.objects.contains(&id.parse::<CommitId>().unwrap().0));
    assert_eq!((sent.len(), left.len()), (COMMITS, 200));
    assert_eq!(history, [sent, left].concat().join("\n"));
    assert_eq!(host.store.shallow().unwrap().len(), 1);
    assert_eq!(host.git(&["rev-list", "--count", "prod"]), COMMITS.to_string());
    fsck(host.store.path());
}

#[test]
fn ten_thousand_files_are_selected_quickly() {
    let operator = Operator::new();
    let path = |n| format!("web1/app{}/dir{}/file{n}", n % 10, n % 100);
    let many = (0..10_000).map(|n| (path(n), format!("content {n}"))).collect();
    operator.import([many, vec![(path(1), "changed".to_owned())]]);
    let (first, second) = (operator.id("prod~1"), operator.id("prod"));
    let repo = operator.repo();
    let start = Instant::now();
    let all = select(&Objects::of(&repo), &web1(), Base::Nothing, None, first).unwrap();
    let selected = start.elapsed();
    let mut pack = Vec::new();
    write(&Objects::of(&repo), &all.objects, &mut pack).unwrap();
    let written = start.elapsed() - selected;
    let mut host = Host::new("web1");
    let start = Instant::now();
    host.receive(&repo, &all).unwrap();
    let received = start.elapsed();
    let start = Instant::now();
    assert_eq!(host.missing(first), 0);
    println!("nothing missing: {:?}", start.elapsed());
    let start = Instant::now();
    let one = select(&Objects::of(&repo), &web1(), Base::HostSubtreeOf(first), Some(first), second).unwrap();
    let again = start.elapsed();
    assert_eq!(one.objects.len(), 6);
    println!("{} objects, {} bytes: select {selected:?}, write {written:?}", all.objects.len(), pack.len());
    println!("write and receive {received:?}; select after a change of one file {again:?}");
}

/// Host, app, file; its new content, or none.
type Change = (u8, u8, u8, Option<u8>);

/// A history of random trees for two hosts: each step writes or removes files; content repeats across hosts.
fn histories() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let change = (0..2u8, 0..3u8, 0..4u8, proptest::option::weighted(0.8, 0..6u8));
    proptest::collection::vec(proptest::collection::vec(change, 1..8), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_selected_is_complete(history in histories(), picks in proptest::collection::vec(0..5usize, 1..5)) {
        let operator = Operator::new();
        let mut commits = Vec::new();
        for step in &history {
            for (host, app, file, content) in step {
                let path = format!("web{host}/app{app}/file{file}");
                match content {
                    Some(content) => operator.write(&path, [*content]),
                    None => drop(std::fs::remove_file(operator.dir.join(path))),
                }
            }
            commits.push(operator.commit("step"));
        }
        let mut host = Host::new("web1");
        let repo = operator.repo();
        for pick in picks {
            let target = commits[pick % commits.len()];
            host.deploy(&repo, target);
            prop_assert_eq!(host.missing(target), 0);
        }
        fsck(host.store.path());
    }
}

#[test]
fn a_large_file_is_not_in_the_store_and_git_says_where_it_is() {
    let (operator, first) = two_hosts();
    operator.write("web1/data/large", vec![3; LARGE_BLOB as usize]);
    let second = operator.commit("large");
    let mut host = Host::new("web1");
    host.deploy(&operator.repo(), first);
    host.deploy(&operator.repo(), second);
    assert_eq!(host.missing(second), 1);
    fsck(host.store.path());
    let names = host.git(&["log", "--format=%s", "--name-status", "prod", "--", "web1/data"]);
    assert_eq!(names, "large\n\nA\tweb1/data/large");
    for version in gits() {
        let patch = run(version, host.store.path(), &["log", "-p", "prod", "--", "web1"]);
        let said = String::from_utf8_lossy(&patch.stderr).into_owned();
        assert!(said.contains("only-operators-have-files-of-other-hosts-and-those-of-4-MiB-and-more"), "{said}");
    }
}
