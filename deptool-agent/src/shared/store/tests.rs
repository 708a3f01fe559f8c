//! The promises of the store, checked with stock Git.

mod refs;

use std::{
    fs::{self, File},
    io::{BufReader, Write},
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use gix_object::Kind;

use crate::shared::{
    name::{ClusterName, HostName},
    store::{
        pack::{Limits, PackError, PackWriter, Summary},
        *,
    },
    tree::{entries, host_directory},
};

/// An operator's repository in memory.
#[derive(Default)]
struct Objects(Vec<(ObjectId, Kind, Vec<u8>)>);

impl Objects {
    fn add(&mut self, kind: Kind, data: Vec<u8>) -> ObjectId {
        let id = gix_object::compute_hash(HashKind::Sha1, kind, &data).unwrap();
        if !self.0.iter().any(|(other, ..)| *other == id) {
            self.0.push((id, kind, data));
        }
        id
    }

    fn tree(&mut self, entries: &[(&str, &str, ObjectId)]) -> ObjectId {
        let mut data = Vec::new();
        for (mode, name, id) in entries {
            data.extend_from_slice(format!("{mode} {name}\0").as_bytes());
            data.extend_from_slice(id.as_slice());
        }
        self.add(Kind::Tree, data)
    }

    fn commit(&mut self, tree: ObjectId, parents: &[CommitId], n: usize) -> CommitId {
        let mut text = format!("tree {tree}\n");
        parents.iter().for_each(|parent| text.push_str(&format!("parent {parent}\n")));
        let who = format!("A <a@b> {} +0000", 1_700_000_000 + n);
        text.push_str(&format!("author {who}\ncommitter {who}\n\ncommit {n}\n"));
        CommitId(self.add(Kind::Commit, text.into_bytes()))
    }

    /// A commit in which `web1/app/file` has this content. Host `web2` has a file, too.
    fn deployment(&mut self, content: &str, parents: &[CommitId], n: usize) -> CommitId {
        let file = self.add(Kind::Blob, content.as_bytes().to_vec());
        let same = self.add(Kind::Blob, b"unchanged\n".to_vec());
        let app = self.tree(&[("100644", "file", file), ("100644", "same", same)]);
        let web1 = self.tree(&[("40000", "app", app)]);
        let secret = self.add(Kind::Blob, b"secret of web2\n".to_vec());
        let other = self.tree(&[("100644", "secret", secret)]);
        let web2 = self.tree(&[("40000", "other", other)]);
        let root = self.tree(&[("40000", "web1", web1), ("40000", "web2", web2)]);
        self.commit(root, parents, n)
    }

    /// A pack of all objects from number `from` on, without those of web2.
    fn pack(&self, from: usize) -> Vec<u8> {
        let mine: Vec<_> = self.0[from..].iter().filter(|object| !is_web2(&object.2)).collect();
        let mut writer = PackWriter::new(Vec::new(), mine.len() as u32).unwrap();
        for (_, kind, data) in mine {
            writer.stored(*kind, data).unwrap();
        }
        writer.finish().unwrap().0
    }
}

fn is_web2(data: &[u8]) -> bool {
    let has = |needle: &[u8]| data.windows(needle.len()).any(|window| window == needle);
    has(b"secret") || has(b"40000 other\0")
}

struct Host {
    _temporary: tempfile::TempDir,
    objects: Objects,
    store: Store,
}

impl Host {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let store = Store::open_or_init(&temporary.path().join("store")).unwrap();
        Host { _temporary: temporary, objects: Objects::default(), store }
    }

    /// Add a commit to the store as a push does: only new objects, and only those of web1.
    fn send(&mut self, content: &str, parents: &[CommitId], n: usize) -> CommitId {
        let from = self.objects.0.len();
        let commit = self.objects.deployment(content, parents, n);
        let pack = self.objects.pack(from);
        add(&mut self.store, &pack).unwrap();
        commit
    }

    fn deploy(&mut self, content: &str, parents: &[CommitId], n: usize) -> CommitId {
        let commit = self.send(content, parents, n);
        let expected = self.store.deployed().unwrap().map_or(Expected::Absent, |(_, id)| Expected::At(id));
        self.store.set_deployed(&prod(), expected, &commit, log(n as i64)).unwrap();
        commit
    }

    fn git(&self, args: &[&str]) -> String {
        let mut outputs: Vec<String> = Vec::new();
        for git in ["/usr/bin/git", "/usr/local/bin/git"].iter().filter(|git| Path::new(git).exists()) {
            let output = run_git(git, self.store.path(), args);
            assert!(output.status.success(), "{git} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
            outputs.push(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        outputs.pop().expect("git is installed")
    }

    fn fsck(&self) {
        let said = self.git(&["fsck", "--full", "--strict"]);
        assert!(!said.contains("missing") && !said.contains("error"), "{said}");
    }

    fn reopen(self) -> Self {
        let Host { _temporary, objects, store } = self;
        let dir = store.path().to_owned();
        drop(store);
        Host { _temporary, objects, store: Store::open_or_init(&dir).unwrap() }
    }
}

fn run_git(git: &str, dir: &Path, args: &[&str]) -> Output {
    Command::new(git)
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap()
}

fn add(store: &mut Store, pack: &[u8]) -> Result<Summary> {
    // The buffer is small, so that entries span several reads.
    store.add_pack(&mut BufReader::with_capacity(7, pack), &Limits::default())
}

fn prod() -> ClusterName {
    ClusterName::parse(b"prod").unwrap()
}

fn web1() -> HostName {
    HostName::parse(b"web1").unwrap()
}

fn log(seconds: i64) -> LogEntry<'static> {
    LogEntry { name: "Carol <evil>", email: "carol@example.org", seconds, message: "deploy\nprod" }
}

/// The objects that a checkout of web1's directory in `commit` needs and that are not in the store.
fn missing(store: &Store, commit: &CommitId) -> Vec<ObjectId> {
    let mut missing = Vec::new();
    if !store.has(&commit.0) {
        return vec![commit.0];
    }
    let root = store.commit(commit).unwrap().tree;
    let mut todo: Vec<ObjectId> = host_directory(store, root, &web1()).unwrap().into_iter().map(|id| id.0).collect();
    while let Some(id) = todo.pop() {
        match store.has(&id) {
            false => missing.push(id),
            true => todo.extend(entries(store, id).into_iter().flatten().map(|(_, _, id)| id)),
        }
    }
    missing
}

/// The names of all files in the directory of packs.
fn pack_files(store: &Store) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(store.pack_dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_new_store_is_a_repository_to_git_and_closed_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new();
    host.fsck();
    assert_eq!(host.git(&["rev-parse", "--is-bare-repository"]).trim(), "true");
    assert_eq!(fs::metadata(host.store.path()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(host.store.deployed().unwrap(), None);
}

#[test]
fn a_half_made_store_is_completed() {
    let host = Host::new();
    for path in ["HEAD", "config"] {
        fs::remove_file(host.store.path().join(path)).unwrap();
    }
    fs::write(host.store.path().join("config.lock"), "half").unwrap();
    fs::remove_dir_all(host.store.path().join("objects/pack")).unwrap();
    let host = host.reopen();
    host.fsck();
    assert!(!host.store.path().join("config.lock").exists());
}

#[test]
fn opening_to_read_creates_and_changes_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("store");
    assert!(Store::open_to_read(&dir).unwrap().is_none());
    assert!(!dir.exists());
    let mut store = Store::open_or_init(&dir).unwrap();
    let commit = { Objects::default().deployment("a\n", &[], 0) };
    fs::write(dir.join("objects/pack/tmp_pack_1_1"), "in the making").unwrap();
    assert!(!Store::open_to_read(&dir).unwrap().unwrap().has(&commit.0));
    assert!(dir.join("objects/pack/tmp_pack_1_1").exists());
    store.sync().unwrap();
    store.set_target(&commit).unwrap();
    assert_eq!(fs::read_to_string(dir.join("refs/deptool/target")).unwrap(), format!("{commit}\n"));
}

#[test]
fn stock_git_reads_each_deployment_back() {
    let mut host = Host::new();
    let first = host.deploy("one\n", &[], 1);
    host.fsck();
    let second = host.deploy("two\n", &[first], 2);
    host.fsck();
    let patch = host.git(&["log", "-p", "prod", "--", "web1"]);
    assert!(patch.contains("-one") && patch.contains("+two"), "{patch}");
    assert_eq!(host.git(&["rev-parse", "HEAD"]).trim(), second.to_string());
    assert_eq!(host.git(&["rev-parse", "prod@{1}"]).trim(), first.to_string());
    let reflog = host.git(&["reflog", "show", "--format=%gn %ge %gs", "prod"]);
    assert_eq!(reflog.lines().next(), Some("Carol evil carol@example.org deployprod"));
    let all = host.git(&["rev-list", "--objects", "--missing=allow-any", "--all"]);
    for (id, _, data) in host.objects.0.iter().filter(|object| is_web2(&object.2)) {
        assert!(!host.store.has(id), "{id} {}", String::from_utf8_lossy(data));
    }
    assert!(all.contains(&first.to_string()));
}

#[test]
fn going_back_and_forth_and_merging_keeps_history_whole() {
    let mut host = Host::new();
    let first = host.deploy("one\n", &[], 1);
    let left = host.deploy("left\n", &[first], 2);
    host.store.set_deployed(&prod(), Expected::At(left), &first, log(3)).unwrap();
    let right = host.deploy("right\n", &[first], 4);
    let merge = host.deploy("both\n", &[left, right], 5);
    host.fsck();
    assert!(host.store.shallow().unwrap().is_empty());
    assert_eq!(host.git(&["rev-list", "--count", "prod"]).trim(), "4");
    assert_eq!(host.store.deployed().unwrap(), Some((prod(), merge)));
}

#[test]
fn history_ends_where_a_parent_is_missing_until_it_comes() {
    let mut host = Host::new();
    let first = host.objects.deployment("one\n", &[], 1);
    let second = host.objects.deployment("two\n", &[first], 2);
    let own = host.objects.0.len();
    let third = host.deploy("three\n", &[second], 3);
    // The blob that `third` shares with its parents was not sent yet.
    assert_eq!(missing(&host.store, &third).len(), 1, "the unchanged blob");
    assert_eq!(host.store.shallow().unwrap().into_iter().collect::<Vec<_>>(), [third.0]);
    assert_eq!(host.git(&["rev-list", "--count", "prod"]).trim(), "1");
    let early = Objects(host.objects.0[..own].to_vec());
    add(&mut host.store, &early.pack(0)).unwrap();
    assert!(host.store.shallow().unwrap().is_empty());
    assert!(!host.store.path().join("shallow").exists());
    assert!(missing(&host.store, &third).is_empty());
    host.fsck();
    assert_eq!(host.git(&["rev-list", "--count", "prod"]).trim(), "3");
}

#[test]
fn an_id_is_checked_against_what_it_names() {
    let mut host = Host::new();
    let commit = host.send("one\n", &[], 1);
    let tree = host.store.commit(&commit).unwrap().tree;
    assert!(matches!(host.store.commit(&CommitId(tree.0)), Err(StoreError::Kind { .. })));
    assert!(matches!(host.store.tree(&TreeId(commit.0)), Err(StoreError::Kind { .. })));
    let nowhere = TreeId(ObjectId::null(HashKind::Sha1));
    assert!(matches!(host.store.tree(&nowhere), Err(StoreError::Missing(_))));
}

#[test]
fn a_pack_that_is_cut_off_anywhere_leaves_nothing() {
    let mut host = Host::new();
    host.objects.deployment("one\n", &[], 1);
    let pack = host.objects.pack(0);
    for end in 0..pack.len() {
        assert!(add(&mut host.store, &pack[..end]).is_err(), "{end}");
    }
    assert!(pack_files(&host.store).is_empty());
    add(&mut host.store, &pack).unwrap();
    assert_eq!(pack_files(&host.store).len(), 3);
    add(&mut host.store, &pack).unwrap();
    assert_eq!(pack_files(&host.store).len(), 3, "the same pack again");
}

#[test]
fn a_flipped_bit_is_refused_and_leaves_nothing() {
    let mut host = Host::new();
    host.objects.deployment("one\n", &[], 1);
    let pack = host.objects.pack(0);
    for at in 0..pack.len() {
        let mut bad = pack.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(matches!(add(&mut host.store, &bad), Err(StoreError::Pack(_))), "{at}");
    }
    assert!(pack_files(&host.store).is_empty());
}

/// A pack with one entry and without a checksum.
fn one_entry(header: &[u8], zlib: &[u8]) -> Vec<u8> {
    [b"PACK\0\0\0\x02\0\0\0\x01", header, zlib].concat()
}

#[test]
fn deltas_and_bombs_are_refused() {
    let mut host = Host::new();
    let refused = |store: &mut Store, pack: &[u8]| match add(store, pack) {
        Err(StoreError::Pack(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused(&mut host.store, &one_entry(&[0x61, 1], b"")), PackError::Delta));
    assert!(matches!(refused(&mut host.store, &one_entry(&[0x71; 21], b"")), PackError::Delta));
    assert!(matches!(refused(&mut host.store, &one_entry(&[0x51], b"")), PackError::Type(5)));
    let endless = refused(&mut host.store, &one_entry(&[0xff; 30], b""));
    assert!(matches!(endless, PackError::Delta | PackError::ObjectTooLarge { .. }), "{endless:?}");
    let endless = refused(&mut host.store, &one_entry(&[0xbf; 30], b""));
    assert!(matches!(endless, PackError::ObjectTooLarge { .. }), "{endless:?}");
    let mut writer = PackWriter::new(Vec::new(), 1).unwrap();
    writer.stored(Kind::Blob, &vec![0; 5 << 20]).unwrap();
    let large = writer.finish().unwrap().0;
    assert!(matches!(refused(&mut host.store, &large), PackError::ObjectTooLarge { .. }));
    let many = b"PACK\0\0\0\x02\xff\xff\xff\xff".to_vec();
    assert!(matches!(refused(&mut host.store, &many), PackError::TooLarge { .. }));
    let mut twice = PackWriter::new(Vec::new(), 2).unwrap();
    twice.stored(Kind::Blob, b"x").unwrap();
    twice.stored(Kind::Blob, b"x").unwrap();
    assert!(matches!(refused(&mut host.store, &twice.finish().unwrap().0), PackError::Twice(_)));
    assert!(pack_files(&host.store).is_empty());
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(entries in proptest::collection::vec(proptest::num::u8::ANY, 0..200), n in 0..9u8) {
        let pack = [b"PACK\0\0\0\x02\0\0\0", &[n][..], &entries].concat();
        let read = pack::read(&mut &pack[..], &Limits::default(), &mut std::io::sink(), &mut |_| Ok(()));
        proptest::prop_assert!(read.is_err());
    }
}

#[test]
fn an_empty_pack_adds_nothing() {
    let mut host = Host::new();
    let added = add(&mut host.store, &host.objects.pack(0)).unwrap();
    assert_eq!(added.objects, 0);
    assert!(pack_files(&host.store).is_empty());
}

#[test]
fn leftovers_of_a_crash_are_removed() {
    let mut host = Host::new();
    let commit = host.deploy("one\n", &[], 1);
    let second = host.deploy("two\n", &[commit], 2);
    let dir = host.store.path().to_owned();
    let packs = host.store.pack_dir();
    for name in ["tmp_pack_1_2", "pack-00.pack", "pack-11.idx", "pack-22.promisor"] {
        fs::write(packs.join(name), "left").unwrap();
    }
    fs::write(dir.join("refs/heads/prod.lock"), "left").unwrap();
    let reflog = dir.join("logs/refs/heads/prod");
    let whole = fs::read(&reflog).unwrap();
    fs::write(&reflog, [&whole[..], b"1234 torn"].concat()).unwrap();
    let host = host.reopen();
    assert_eq!(pack_files(&host.store).len(), 6);
    assert!(!dir.join("refs/heads/prod.lock").exists());
    assert_eq!(fs::read(&reflog).unwrap(), whole);
    host.fsck();
    // A truncated pack, as after a power cut.
    let last = host.store.packs.indices().last().unwrap().with_extension("pack");
    let content = fs::read(&last).unwrap();
    fs::remove_file(&last).unwrap();
    fs::write(&last, &content[..content.len() / 2]).unwrap();
    let host = host.reopen();
    assert_eq!(pack_files(&host.store).len(), 3);
    // Whichever of the two packs was truncated, `second` needs an object from it.
    assert!(!missing(&host.store, &second).is_empty());
}

#[test]
fn a_pack_that_was_cut_off_long_after_it_was_deployed_counts_as_missing_until_it_is_dropped() {
    let mut host = Host::new();
    let commit = host.deploy("one\n", &[], 1);
    let pack = host.store.packs.indices().next().unwrap().with_extension("pack");
    let (content, before) = (fs::read(&pack).unwrap(), fs::metadata(&pack).unwrap().modified().unwrap());
    fs::remove_file(&pack).unwrap();
    let mut file = File::create(&pack).unwrap();
    file.write_all(&content[..content.len() - 1]).unwrap();
    // Older than the branch, so nobody expects that it was cut off.
    file.set_modified(before - Duration::from_secs(1)).unwrap();
    let mut host = host.reopen();
    assert!(pack.exists() && !host.store.has(&commit.0));
    host.store.drop_damaged().unwrap();
    assert!(!pack.exists());
}

#[test]
fn an_exported_pack_has_what_is_asked_for_and_no_more() {
    let mut host = Host::new();
    let first = host.deploy("one\n", &[], 1);
    let second = host.deploy("two\n", &[first], 2);
    let mut other = Host::new();
    let mut pack = Vec::new();
    let all = host.store.export_pack(&second, &[], &web1(), &mut pack).unwrap();
    add(&mut other.store, &pack).unwrap();
    assert!(missing(&other.store, &second).is_empty());
    assert!(missing(&other.store, &first).is_empty());
    assert_eq!(all.objects, 11);
    pack.clear();
    let some = host.store.export_pack(&second, &[first], &web1(), &mut pack).unwrap();
    assert_eq!(some.objects, 5, "commit, root, host, app, file");
    pack.clear();
    assert_eq!(host.store.export_pack(&first, &[second], &web1(), &mut pack).unwrap().objects, 0);
}

#[test]
fn repacking_keeps_what_refs_and_logs_reach_and_drops_the_rest() {
    let mut host = Host::new();
    let mut tip = host.deploy("0\n", &[], 0);
    for n in 1..12 {
        tip = host.deploy(&format!("{n}\n"), &[tip], n);
    }
    // Only the reflog names `away`, only `refs/deptool/target` names `target`, nothing names `lost`.
    let away = host.deploy("away\n", &[tip], 20);
    host.store.set_deployed(&prod(), Expected::At(away), &tip, log(21)).unwrap();
    let target = host.send("target\n", &[tip], 22);
    host.store.set_target(&target).unwrap();
    let lost = host.send("lost\n", &[tip], 23);
    assert!(!host.store.repack_if_many(20).unwrap());
    assert!(host.store.repack_if_many(10).unwrap());
    assert_eq!(pack_files(&host.store).len(), 3);
    let mut host = host.reopen();
    host.fsck();
    for commit in [tip, away, target] {
        assert!(missing(&host.store, &commit).is_empty());
    }
    assert!(!host.store.has(&lost.0));
    assert_eq!(host.git(&["rev-list", "--count", "prod"]).trim(), "12");
    assert!(host.store.repack_if_many(0).unwrap(), "again: the same pack");
    host.reopen().fsck();
}

#[test]
fn a_store_that_git_has_repacked_with_deltas_still_works() {
    let mut host = Host::new();
    let text: String = (0..400).map(|n| format!("line {n} of a file that is worth a delta\n")).collect();
    let first = host.deploy(&text, &[], 1);
    let second = host.deploy(&format!("{text}more\n"), &[first], 2);
    run_git("git", host.store.path(), &["repack", "-a", "-d", "-f"]);
    let mut host = host.reopen();
    assert_eq!(host.store.pack_count(), 1);
    assert!(missing(&host.store, &second).is_empty());
    let mut pack = Vec::new();
    host.store.export_pack(&second, &[], &web1(), &mut pack).unwrap();
    let mut other = Host::new();
    add(&mut other.store, &pack).unwrap();
    assert!(host.store.repack_if_many(0).unwrap());
    host.fsck();
}
