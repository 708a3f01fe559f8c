//! The refs of the store, as Git sees them.

use crate::shared::store::tests::*;

#[test]
fn deploying_is_a_compare_and_swap() {
    let mut host = Host::new();
    let first = host.send("one\n", &[], 1);
    let second = host.send("two\n", &[first], 2);
    let stale = |result: Result<()>| match result {
        Err(StoreError::Stale { actual }) => actual.map(|(_, id)| id),
        other => panic!("{other:?}"),
    };
    assert_eq!(stale(host.store.set_deployed(&prod(), Expected::At(first), &second, log(1))), None);
    host.store.set_deployed(&prod(), Expected::Absent, &first, log(1)).unwrap();
    assert_eq!(stale(host.store.set_deployed(&prod(), Expected::Absent, &second, log(2))), Some(first));
    assert_eq!(stale(host.store.set_deployed(&prod(), Expected::At(second), &second, log(2))), Some(first));
    let other = ClusterName::parse(b"staging").unwrap();
    assert_eq!(stale(host.store.set_deployed(&other, Expected::Any, &second, log(2))), Some(first));
    host.store.set_deployed(&prod(), Expected::At(first), &second, log(3)).unwrap();
    assert_eq!(host.store.deployed().unwrap(), Some((prod(), second)));
    assert_eq!(host.git(&["for-each-ref", "--format=%(refname)", "refs/heads"]).trim(), "refs/heads/prod");
}

#[test]
fn removal_keeps_the_tip_and_its_log_and_frees_the_host() {
    let mut host = Host::new();
    let first = host.deploy("one\n", &[], 1);
    let second = host.deploy("two\n", &[first], 2);
    let kept = host.store.remove(&prod(), Expected::At(second), log(77)).unwrap().unwrap();
    assert_eq!(kept, "refs/deptool/removed/prod/77");
    assert_eq!(host.store.deployed().unwrap(), None);
    assert_eq!(host.git(&["rev-parse", &kept]).trim(), second.to_string());
    assert_eq!(host.git(&["reflog", "show", "--format=%H", &kept]).lines().count(), 3);
    assert_eq!(host.store.remove(&prod(), Expected::Absent, log(77)).unwrap(), None);
    let staging = ClusterName::parse(b"staging").unwrap();
    host.store.set_deployed(&staging, Expected::Absent, &first, log(78)).unwrap();
    assert_eq!(host.git(&["symbolic-ref", "HEAD"]).trim(), "refs/heads/staging");
    host.store.remove(&staging, Expected::Any, log(77)).unwrap();
    host.fsck();
}

#[test]
fn refs_that_git_has_packed_are_found_changed_and_removed() {
    let mut host = Host::new();
    let first = host.deploy("one\n", &[], 1);
    let second = host.send("two\n", &[first], 2);
    host.store.set_target(&second).unwrap();
    for step in 0..2 {
        host.git(&["pack-refs", "--all"]);
        assert!(!host.store.path().join("refs/heads/prod").exists());
        assert!(host.store.repack_if_many(0).unwrap());
        assert!(host.store.has(&second.0), "{step}");
        let expected = if step == 0 { first } else { second };
        host = host.reopen();
        assert_eq!(host.store.deployed().unwrap(), Some((prod(), expected)));
        host.store.set_deployed(&prod(), Expected::At(expected), &second, log(3)).unwrap();
    }
    host.git(&["pack-refs", "--all"]);
    host.store.remove(&prod(), Expected::At(second), log(4)).unwrap();
    assert_eq!(host.store.deployed().unwrap(), None);
    let left = host.git(&["for-each-ref", "--format=%(refname)"]);
    assert_eq!(left, "refs/deptool/removed/prod/4\nrefs/deptool/target\n");
    host.fsck();
}

#[test]
fn a_ref_that_a_power_cut_has_emptied_is_an_error_until_recovery_sets_it() {
    let mut host = Host::new();
    let first = host.deploy("one\n", &[], 1);
    fs::write(host.store.path().join("refs/heads/prod"), "").unwrap();
    assert!(matches!(host.store.deployed(), Err(StoreError::BadRef { .. })));
    let refused = host.store.set_deployed(&prod(), Expected::Absent, &first, log(2));
    assert!(matches!(refused, Err(StoreError::BadRef { .. })));
    host.store.set_deployed(&prod(), Expected::Any, &first, log(2)).unwrap();
    assert_eq!(host.store.deployed().unwrap(), Some((prod(), first)));
    host.fsck();
}

#[test]
fn a_ref_that_git_has_locked_is_left_alone() {
    let mut host = Host::new();
    let first = host.deploy("one\n", &[], 1);
    let second = host.send("two\n", &[first], 2);
    let lock = host.store.path().join("refs/heads/prod.lock");
    fs::write(&lock, "").unwrap();
    assert!(host.store.set_deployed(&prod(), Expected::At(first), &second, log(2)).is_err());
    assert!(host.store.remove(&prod(), Expected::At(first), log(2)).is_err());
    assert!(lock.exists());
    assert_eq!(host.store.deployed().unwrap(), Some((prod(), first)));
}

#[test]
fn only_the_last_removals_are_kept() {
    let mut host = Host::new();
    let commit = host.send("one\n", &[], 1);
    for second in 1..=30 {
        host.store.set_deployed(&prod(), Expected::Absent, &commit, log(second)).unwrap();
        host.store.remove(&prod(), Expected::At(commit), log(second)).unwrap();
    }
    let kept = host.git(&["for-each-ref", "--format=%(refname:lstrip=4)", "refs/deptool/removed"]);
    let mut kept: Vec<i64> = kept.lines().map(|second| second.parse().unwrap()).collect();
    kept.sort();
    assert_eq!(kept, (21..=30).collect::<Vec<_>>());
    host.fsck();
}

#[test]
fn a_reflog_does_not_grow_for_ever() {
    let mut host = Host::new();
    let commits = [host.send("one\n", &[], 1), host.send("two\n", &[], 2)];
    let path = host.store.path().join("logs/refs/heads/prod");
    host.store.set_deployed(&prod(), Expected::Absent, &commits[0], log(0)).unwrap();
    host.store.set_deployed(&prod(), Expected::Any, &commits[1], log(1)).unwrap();
    let line = std::fs::read_to_string(&path).unwrap().lines().last().unwrap().to_owned() + "\n";
    std::fs::write(&path, line.repeat(300_000 / line.len())).unwrap();
    host.store.set_deployed(&prod(), Expected::Any, &commits[0], log(2)).unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < 160_000);
    let entries = host.git(&["reflog", "show", "--format=%H", "prod"]);
    assert!(entries.lines().count() > 500);
    assert_eq!(entries.lines().next(), Some(commits[0].to_string().as_str()));
    host.fsck();
}
