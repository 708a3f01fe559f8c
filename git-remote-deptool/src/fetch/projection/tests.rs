//! What comes home is complete; what is not complete stays out.

use std::{fs, io::Cursor, path::Path};

use deptool_agent::shared::{
    id::TreeId,
    store::pack::{LARGE_BLOB, PackWriter},
};
use gix_object::Kind;

use super::*;
use crate::{
    repo::pack::testing::{Host, Operator, fsck, gits, run},
    state::pairs::REFS,
};

mod hostile;

/// The store of a host as its agent would offer it, counting what was given.
struct Offer<'a> {
    host: &'a Host,
    large: Option<Vec<u8>>,
    given: u32,
}

impl<'a> Offer<'a> {
    fn of(host: &'a Host) -> Self {
        Offer { host, large: None, given: 0 }
    }
}

impl HostObjects for Offer<'_> {
    fn pack(&mut self, want: CommitId, have: &[CommitId]) -> io::Result<Box<dyn BufRead + '_>> {
        let mut pack = Vec::new();
        let given = self.host.store.export_pack(&want, have, &self.host.name, &mut pack);
        self.given = given.map_err(io::Error::other)?.objects;
        Ok(Box::new(Cursor::new(pack)))
    }

    fn large_blob(&mut self, _: BlobId) -> io::Result<Option<(u64, Box<dyn Read + '_>)>> {
        Ok(self.large.as_ref().map(|content| (content.len() as u64, Box::new(&content[..]) as Box<dyn Read>)))
    }
}

/// A host that gives these bytes for a pack, or must not be asked.
struct Bytes(Option<Vec<u8>>);

impl HostObjects for Bytes {
    fn pack(&mut self, _: CommitId, _: &[CommitId]) -> io::Result<Box<dyn BufRead + '_>> {
        Ok(Box::new(self.0.as_deref().expect("the host is not asked")))
    }

    fn large_blob(&mut self, _: BlobId) -> io::Result<Option<(u64, Box<dyn Read + '_>)>> {
        Ok(None)
    }
}

/// Alice's repository with two hosts, and bob's clone of it, without a remote.
fn alice_and_bob() -> (Operator, Operator) {
    let alice = Operator::new();
    alice.write("web1/app/file", "one\n");
    alice.write("web2/app/file", "first secret\n");
    alice.commit("first");
    let bob = alice.colleague();
    bob.git(&["remote", "remove", "origin"]);
    (alice, bob)
}

fn bring(operator: &Operator, id: CommitId, source: &mut dyn HostObjects) -> Result<CommitSource, ResolveError> {
    let (repo, host) = (operator.repo(), HostName::parse(b"web1").unwrap());
    let wanted = Wanted { commit: id, host: &host, directory: &host, pairs: &pairs(operator) };
    let elsewhere = Elsewhere::new(std::time::Duration::from_secs(30), Default::default());
    match find(&repo, &wanted, &elsewhere)? {
        Some(found) => Ok(found),
        None => get(&repo, &wanted, source, &Default::default()),
    }
}

fn pairs(operator: &Operator) -> Vec<Pair> {
    let refs = operator.git(&["for-each-ref", "--format=%(refname) %(objectname)", REFS]);
    let pair = |line: &str| {
        let (name, id) = line.strip_prefix(REFS)?.split_once(' ')?;
        Pair::parse(name, id.parse().ok()?)
    };
    refs.lines().filter_map(pair).collect()
}

fn projection(found: CommitSource) -> Projection {
    match found {
        CommitSource::Projection(projection) => projection,
        other => panic!("{other:?}"),
    }
}

fn record(operator: &Operator, projection: &Projection) {
    for pair in &projection.made {
        operator.git(&["update-ref", &pair.ref_name(), &pair.projected.to_string()]);
    }
    operator.git(&["update-ref", "refs/remotes/web1/prod", &projection.tip.projected.to_string()]);
}

fn has(operator: &Operator, id: &str) -> bool {
    run(gits()[0], &operator.dir, &["cat-file", "-e", id]).status.success()
}

/// Nothing of ours, and nothing partial, is left among the objects.
fn tidy(operator: &Operator) {
    fsck(&operator.dir);
    for dir in [".git/objects", ".git/objects/pack"] {
        for entry in fs::read_dir(operator.dir.join(dir)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.starts_with("tmp_") && !name.ends_with(".promisor"), "{name}");
        }
    }
}

#[test]
fn what_is_here_is_not_asked_for() {
    let (_, bob) = alice_and_bob();
    assert_eq!(bring(&bob, bob.id("HEAD"), &mut Bytes(None)).unwrap(), CommitSource::Here);
    // Reachable from nothing, but complete.
    bob.write("web1/app/file", "two\n");
    let lost = bob.commit("second");
    bob.git(&["update-ref", "refs/heads/prod", "HEAD~1"]);
    bob.git(&["reflog", "expire", "--expire=now", "--all"]);
    assert_eq!(bring(&bob, lost, &mut Bytes(None)).unwrap(), CommitSource::Here);
}

#[test]
fn another_remote_has_it_and_no_ref_moves() {
    let (alice, _) = alice_and_bob();
    let bob = alice.colleague();
    bob.git(&["remote", "add", "web1", "deptool::web1"]);
    bob.git(&["remote", "add", "gone", "/nonexistent"]);
    let before = bob.git(&["for-each-ref"]);
    alice.write("web2/app/file", "two\n");
    let second = alice.commit("second");
    let found = bring(&bob, second, &mut Bytes(None)).unwrap();
    assert_eq!(found, CommitSource::FromRemote("origin".to_owned()));
    assert_eq!(bob.git(&["for-each-ref"]), before);
    assert!(!bob.dir.join(".git/FETCH_HEAD").exists());
    tidy(&bob);
}

#[test]
fn the_host_has_all_that_is_missing() {
    let (alice, bob) = alice_and_bob();
    let mut host = Host::new("web1");
    for n in [1, 300] {
        for n in 0..n {
            alice.write(&format!("web1/app/dir/file{n}"), format!("{n} of {n}\n"));
        }
        let target = alice.commit("only web1 changes");
        host.deploy(&alice.repo(), target);
        assert_eq!(bring(&bob, target, &mut Offer::of(&host)).unwrap(), CommitSource::FromHost);
        tidy(&bob);
        bob.git(&["update-ref", "refs/remotes/web1/prod", &target.to_string()]);
        bob.git(&["gc", "-q", "--prune=now"]);
        assert_eq!(bring(&bob, target, &mut Bytes(None)).unwrap(), CommitSource::Here);
        fsck(&bob.dir);
    }
}

#[test]
fn what_the_host_can_not_complete_is_projected() {
    let (alice, bob) = alice_and_bob();
    let first = alice.id("HEAD");
    alice.write("web1/app/file", "two\n");
    alice.write("web2/app/file", "secret\n");
    let second = alice.commit("second\n\nwith a body");
    let mut host = Host::new("web1");
    host.deploy(&alice.repo(), second);
    let made = projection(bring(&bob, second, &mut Offer::of(&host)).unwrap());
    tidy(&bob);
    assert_eq!(made.tip.real, second);
    assert_eq!(made.made, std::slice::from_ref(&made.tip));
    record(&bob, &made);
    let log = ["log", "-1", "--format=%P %an %ae %at %cn %ce %ct %B"];
    let of = |operator: &Operator, id: &CommitId| operator.git(&[&log[..], &[&id.to_string()]].concat());
    assert_eq!(of(&bob, &made.tip.projected), of(&alice, &second));
    assert_eq!(bob.id("web1/prod~1"), first, "the real parent is here");
    assert_eq!(bob.git(&["ls-tree", "--name-only", "web1/prod"]), "web1");
    assert_eq!(bob.git(&["show", "web1/prod:web1/app/file"]), "two");
    assert!(bob.git(&["diff", "web1/prod", "prod", "--", "web1"]).contains("-two\n+one"));
    let root = alice.git(&["rev-parse", "HEAD^{tree}"]);
    assert!(!has(&bob, &second.to_string()) && !has(&bob, &root), "nothing partial");
    bob.git(&["gc", "-q", "--prune=now"]);
    fsck(&bob.dir);
    // Known from now on, without asking the host.
    let again = projection(bring(&bob, second, &mut Bytes(None)).unwrap());
    assert_eq!((again.tip, again.made.len()), (made.tip, 0));
}

#[test]
fn projections_are_deterministic_and_build_upon_each_other() {
    let (alice, bob) = alice_and_bob();
    let carol = alice.colleague();
    carol.git(&["remote", "remove", "origin"]);
    let mut host = Host::new("web1");
    let mut before = alice.id("HEAD");
    for n in 0..3 {
        alice.write("web1/app/file", format!("{n}\n"));
        alice.write("web2/app/file", format!("secret {n}\n"));
        let target = alice.commit("next");
        host.deploy(&alice.repo(), target);
        let mut offer = Offer::of(&host);
        let of_bob = projection(bring(&bob, target, &mut offer).unwrap());
        assert_eq!(offer.given, 5, "commit, root, host, app, file");
        let of_carol = projection(bring(&carol, target, &mut Offer::of(&host)).unwrap());
        assert_eq!(of_bob, of_carol);
        record(&bob, &of_bob);
        record(&carol, &of_carol);
        assert_eq!(bob.id("web1/prod~1"), before);
        before = of_bob.tip.projected;
        tidy(&bob);
    }
    assert_eq!(bob.git(&["log", "--format=%H", "web1/prod"]).lines().count(), 4);
}

#[test]
fn a_projection_gives_way_to_the_real_commit() {
    let (alice, bob) = alice_and_bob();
    alice.write("web1/app/file", "two\n");
    alice.write("web2/app/file", "secret\n");
    let second = alice.commit("second");
    let mut host = Host::new("web1");
    host.deploy(&alice.repo(), second);
    record(&bob, &projection(bring(&bob, second, &mut Offer::of(&host)).unwrap()));
    bob.git(&["remote", "add", "origin", alice.dir.to_str().unwrap()]);
    let found = bring(&bob, second, &mut Bytes(None)).unwrap();
    assert_eq!(found, CommitSource::FromRemote("origin".to_owned()));
    tidy(&bob);
}

#[test]
fn into_an_empty_repository_comes_all_that_the_host_has() {
    let (alice, _) = alice_and_bob();
    let mut host = Host::new("web1");
    host.deploy(&alice.repo(), alice.id("HEAD"));
    alice.write("web1/app/file", "two\n");
    alice.write("web1/app/more", "more\n");
    alice.commit("second");
    alice.git(&["rm", "-rq", "web1"]);
    alice.commit("third");
    alice.write("web1/app/file", "again\n");
    let last = alice.commit("fourth");
    host.deploy(&alice.repo(), last);
    let new = Operator::new();
    let made = projection(bring(&new, last, &mut Offer::of(&host)).unwrap());
    record(&new, &made);
    assert_eq!(made.made.len(), 4);
    tidy(&new);
    assert_eq!(new.git(&["log", "--format=%s", "web1/prod"]), "fourth\nthird\nsecond\nfirst");
    let pairs = pairs(&new);
    assert!(pairs.contains(&made.tip));
    assert_eq!(pairs.len(), 4);
}

#[test]
fn what_was_not_asked_for_stays_out() {
    let (alice, bob) = alice_and_bob();
    alice.write("web1/app/file", "two\n");
    let second = alice.commit("second");
    let mut host = Host::new("web1");
    host.deploy(&alice.repo(), second);
    let all = Objects::of(&alice.repo());
    let entries = [second.0, alice.git(&["rev-parse", "HEAD^{tree}"]).parse::<TreeId>().unwrap().0];
    let paths = ["web1", "web1/app", "web1/app/file"];
    let below = paths.map(|path| alice.git(&["rev-parse", &format!("HEAD:{path}")]).parse::<TreeId>().unwrap().0);
    let mut writer = PackWriter::new(Vec::new(), 6).unwrap();
    for id in entries.iter().chain(&below) {
        let mut data = Vec::new();
        let kind = all.read(id, &mut data).unwrap();
        writer.stored(kind, &data).unwrap();
    }
    writer.stored(Kind::Blob, b"not asked for").unwrap();
    let pack = writer.finish().unwrap().0;
    assert_eq!(bring(&bob, second, &mut Bytes(Some(pack))).unwrap(), CommitSource::FromHost);
    let extra = gix_object::compute_hash(gix_hash::Kind::Sha1, Kind::Blob, b"not asked for").unwrap();
    assert!(has(&bob, &second.to_string()) && !has(&bob, &extra.to_string()));
    tidy(&bob);
}

#[test]
fn bad_packs_leave_nothing() {
    let (alice, bob) = alice_and_bob();
    alice.write("web1/app/file", "two\n");
    let second = alice.commit("second");
    let mut host = Host::new("web1");
    host.deploy(&alice.repo(), second);
    let mut good = Vec::new();
    host.store.export_pack(&second, &[], &host.name, &mut good).unwrap();
    let flipped = [&good[..40], &[good[40] ^ 1], &good[41..]].concat();
    let delta = b"PACK\0\0\0\x02\0\0\0\x01\x71".to_vec();
    let empty = PackWriter::new(Vec::new(), 0).unwrap().finish().unwrap().0;
    let objects = count_files(&bob.dir.join(".git/objects"));
    for bad in [&good[..good.len() - 30], &flipped, &delta, &empty, b"", b"nonsense that is no pack"] {
        bring(&bob, second, &mut Bytes(Some(bad.to_vec()))).unwrap_err();
        assert!(!has(&bob, &second.to_string()));
        assert_eq!(count_files(&bob.dir.join(".git/objects")), objects);
    }
    tidy(&bob);
}

fn count_files(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { count_files(&path) } else { 1 }).sum()
}

#[test]
fn large_files_are_asked_for_one_by_one() {
    let (alice, bob) = alice_and_bob();
    let content = vec![7; LARGE_BLOB as usize];
    alice.write("web1/app/large", &content);
    alice.write("web2/app/file", "secret\n");
    let target = alice.commit("large");
    let mut host = Host::new("web1");
    host.deploy(&alice.repo(), target);
    let missing = bring(&bob, target, &mut Offer::of(&host)).unwrap_err();
    assert!(matches!(missing, ResolveError::Incomplete { .. }), "{missing}");
    let wrong = bring(&bob, target, &mut Offer { large: Some(vec![8; 5]), ..Offer::of(&host) }).unwrap_err();
    assert!(matches!(wrong, ResolveError::Import(ImportError::Blob { .. })), "{wrong}");
    assert!(!has(&bob, &Operator::blob_id(&[8; 5])), "what was not asked for is not kept");
    let mut offer = Offer { large: Some(content), ..Offer::of(&host) };
    record(&bob, &projection(bring(&bob, target, &mut offer).unwrap()));
    tidy(&bob);
    assert_eq!(bob.git(&["cat-file", "-s", "web1/prod:web1/app/large"]), LARGE_BLOB.to_string());
}

#[test]
fn a_shallow_repository_is_complete_as_far_as_it_goes() {
    let (alice, _) = alice_and_bob();
    alice.write("web1/app/file", "two\n");
    alice.commit("second");
    let url = format!("file://{}", alice.dir.display());
    let bob = Operator::new();
    bob.git(&["fetch", "-q", "--depth=1", &url, "prod"]);
    bob.git(&["update-ref", "--no-deref", "HEAD", "FETCH_HEAD"]);
    assert_eq!(bring(&bob, alice.id("HEAD"), &mut Bytes(None)).unwrap(), CommitSource::Here);
    // Unreferenced, the walk itself has to mind the end of history.
    bob.git(&["symbolic-ref", "HEAD", "refs/heads/none"]);
    assert_eq!(bring(&bob, alice.id("HEAD"), &mut Bytes(None)).unwrap(), CommitSource::Here);
}
