//! A host in the wrong hands can make a fetch fail, and nothing else.

use std::io::Write as _;

use flate2::{Compression, write::ZlibEncoder};
use gix_hash::ObjectId;

use super::*;

const COMMIT: &str = "author A <a@b> 1700000000 +0000\ncommitter C <c@d> 1700000000 +0000\n\nEvil\n";
const HIGH_MODE: u8 = b'4';

/// Objects of the host's own making.
#[derive(Default)]
struct Evil(Vec<(Kind, Vec<u8>)>);

impl Evil {
    fn add(&mut self, kind: Kind, data: impl Into<Vec<u8>>) -> ObjectId {
        let data = data.into();
        let id = gix_object::compute_hash(gix_hash::Kind::Sha1, kind, &data).unwrap();
        if !self.0.iter().any(|(_, known)| *known == data) {
            self.0.push((kind, data));
        }
        id
    }

    fn tree(&mut self, entries: &[(&str, &[u8], ObjectId)]) -> ObjectId {
        let entry =
            |(mode, name, id): &(&str, &[u8], ObjectId)| [mode.as_bytes(), b" ", *name, b"\0", id.as_slice()].concat();
        self.add(Kind::Tree, entries.iter().flat_map(entry).collect::<Vec<u8>>())
    }

    /// A commit whose app `app` of host `web1` is this tree.
    fn commit_of_app(&mut self, app: ObjectId) -> CommitId {
        let host = self.tree(&[("40000", b"app", app)]);
        let root = self.tree(&[("40000", b"web1", host)]);
        self.commit(format!("tree {root}\n{COMMIT}"))
    }

    fn commit(&mut self, text: impl Into<Vec<u8>>) -> CommitId {
        CommitId(self.add(Kind::Commit, text))
    }

    fn pack(&self) -> Vec<u8> {
        let mut writer = PackWriter::new(Vec::new(), self.0.len() as u32).unwrap();
        for (kind, data) in &self.0 {
            writer.stored(*kind, data).unwrap();
        }
        writer.finish().unwrap().0
    }
}

fn bob() -> Operator {
    let bob = Operator::new();
    bob.write("web1/app/file", "one\n");
    bob.commit("first");
    bob
}

/// Asserts that this is refused, and that nothing comes of it but objects that are in order.
#[track_caller]
fn refused(bob: &Operator, what: &str, id: CommitId, pack: Vec<u8>) {
    let beside_objects = || count_files(&bob.dir.join(".git")) - count_files(&bob.dir.join(".git/objects"));
    let before = (beside_objects(), bob.git(&["for-each-ref"]));
    let error = bring(bob, id, &mut Bytes(Some(pack))).map(|found| panic!("{what}: {found:?}")).unwrap_err();
    let text = crate::model::error::chain(&error);
    assert!(!text.chars().any(char::is_control) && text.len() < 1000, "{what}: {text:?}");
    assert_eq!((beside_objects(), bob.git(&["for-each-ref"])), before, "{what}: {text}");
}

/// What is odd and harmless is let in: old tools wrote it, and a push would deploy it. See [`crate::repo::fsck`].
#[test]
fn trees_that_git_would_complain_of_stay_out() {
    let bob = bob();
    let null = ObjectId::null(gix_hash::Kind::Sha1);
    for (what, entries) in [
        (".git", &[("100644", &b".git"[..])][..]),
        (".GIT", &[("100644", b".GIT")]),
        ("..", &[("100644", b"..")]),
        (".", &[("100644", b".")]),
        ("a slash", &[("100644", b"../../hooks/pre-push")]),
        ("no name", &[("100644", b"")]),
        ("a name twice", &[("100644", b"x"), ("100644", b"x")]),
        ("a wrong order", &[("100644", b"y"), ("100644", b"x")]),
        ("a file that is called a directory", &[("40000", b"x")]),
    ] {
        let mut evil = Evil::default();
        let file = evil.add(Kind::Blob, "content");
        let entries: Vec<_> = entries.iter().map(|(mode, name)| (*mode, *name, file)).collect();
        let app = evil.tree(&entries);
        let id = evil.commit_of_app(app);
        refused(&bob, what, id, evil.pack());
    }
    for bytes in [&b"100644 x"[..], b"100644 x\0short", b"100644", b"\0\0\0", &[HIGH_MODE; 3000]] {
        let mut evil = Evil::default();
        let app = evil.add(Kind::Tree, bytes);
        let id = evil.commit_of_app(app);
        refused(&bob, &format!("{bytes:?}"), id, evil.pack());
    }
    let mut evil = Evil::default();
    let app = evil.tree(&[("100644", b"x", null)]);
    let id = evil.commit_of_app(app);
    refused(&bob, "a null id", id, evil.pack());
    tidy(&bob);
}

#[test]
fn commits_that_git_would_complain_of_stay_out() {
    let bob = bob();
    let mut evil = Evil::default();
    let file = evil.add(Kind::Blob, "content");
    let app = evil.tree(&[("100644", b"file", file)]);
    let host = evil.tree(&[("40000", b"app", app)]);
    let root = evil.tree(&[("40000", b"web1", host)]);
    for text in [
        String::new(),
        format!("tree {root}\n"),
        format!("tree {root}\n\nno author\n"),
        format!("tree {root}\nauthor A a@b 1 +0000\ncommitter C <c@d> 1 +0000\n\n"),
        format!("tree {root}\nauthor A <a@b> 1 +0000\ncommitter \0C <c@d> 1 +0000\n\n"),
        format!("tree {root}\nparent x\n{COMMIT}"),
        format!("tree {file}\n{COMMIT}"),
        format!("tree {}\n{COMMIT}", "1".repeat(40)),
        format!("parent {file}\ntree {root}\n{COMMIT}"),
    ] {
        let mut evil = Evil(evil.0.clone());
        let id = evil.commit(text.as_str());
        refused(&bob, &text, id, evil.pack());
    }
    // What it says it runs is no commit at all.
    refused(&bob, "a blob", CommitId(file), evil.pack());
    refused(&bob, "a tree", CommitId(root), evil.pack());
    refused(&bob, "a tree that is here", CommitId(bob.id("HEAD^{tree}").0), evil.pack());
    refused(&bob, "another commit", "1".repeat(40).parse().unwrap(), evil.pack());
    tidy(&bob);
}

#[test]
fn compressed_data_that_lie_about_their_size_are_refused() {
    let bob = bob();
    let zlib = |data: &[u8]| {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    };
    let bomb = zlib(&vec![0; 64 << 20]);
    let id = "1".repeat(40).parse().unwrap();
    let cases = [(0, &bomb), (100, &bomb), (LARGE_BLOB, &bomb), (64 << 20, &bomb), (u64::MAX >> 8, &bomb)];
    for (size, data) in cases.into_iter().chain([(7, &zlib(b"short")), (4, &zlib(b"longer")), (4, &vec![0xff; 99])]) {
        let mut writer = PackWriter::new(Vec::new(), 1).unwrap();
        writer.compressed(Kind::Blob, size, data).unwrap();
        refused(&bob, &format!("{size} bytes"), id, writer.finish().unwrap().0);
    }
    for objects in [500_001, u32::MAX] {
        let header = [&b"PACK\0\0\0\x02"[..], &objects.to_be_bytes()].concat();
        refused(&bob, &format!("{objects} objects"), id, header);
    }
    tidy(&bob);
}

#[test]
fn directories_nested_without_end_are_refused_and_manifold_ones_cost_nothing() {
    let bob = bob();
    let mut evil = Evil::default();
    let file = evil.add(Kind::Blob, "content");
    let mut deep = evil.tree(&[("100644", b"file", file)]);
    for _ in 0..5000 {
        deep = evil.tree(&[("40000", b"d", deep)]);
    }
    let id = evil.commit_of_app(deep);
    refused(&bob, "nested", id, evil.pack());

    let mut evil = Evil::default();
    let file = evil.add(Kind::Blob, "content");
    let mut wide = evil.tree(&[("100644", b"file", file)]);
    for _ in 0..50 {
        wide = evil.tree(&[("40000", b"a", wide), ("40000", b"b", wide), ("40000", b"c", wide)]);
    }
    let id = evil.commit_of_app(wide);
    assert_eq!(bring(&bob, id, &mut Bytes(Some(evil.pack()))).unwrap(), CommitSource::FromHost);
    tidy(&bob);
}

/// Git prints a line for each of them while it still reads the others.
#[test]
fn thousands_of_unusual_trees_come_in() {
    let bob = bob();
    let mut evil = Evil::default();
    let file = evil.add(Kind::Blob, "content");
    let mut app = Vec::new();
    for name in (10_000..14_000).map(|n: u32| n.to_string()) {
        app.push((name.clone(), evil.tree(&[("120000", b".gitignore", file), ("100644", name.as_bytes(), file)])));
    }
    let app: Vec<_> = app.iter().map(|(name, tree)| ("40000", name.as_bytes(), *tree)).collect();
    let app = evil.tree(&app);
    let id = evil.commit_of_app(app);
    assert_eq!(bring(&bob, id, &mut Bytes(Some(evil.pack()))).unwrap(), CommitSource::FromHost);
}

#[test]
fn what_a_projection_says_can_be_shown() {
    let bob = bob();
    let mut evil = Evil::default();
    let file = evil.add(Kind::Blob, "content");
    let app = evil.tree(&[("100644", b"file", file)]);
    let host = evil.tree(&[("40000", b"app", app)]);
    let elsewhere = "2".repeat(40).parse().unwrap();
    let root = evil.tree(&[("40000", b"web1", host), ("40000", b"web2", elsewhere)]);
    let id = evil.commit(format!(
        "tree {root}\nauthor \x1b[2JA <a@b> 1700000000 +0000\ncommitter \u{9b}31mC <c@d> 1700000000 +0000\n\n\
         Zürich\x07\r\x1b]0;title\x07\r\n\ttext\n"
    ));
    let made = projection(bring(&bob, id, &mut Bytes(Some(evil.pack()))).unwrap());
    let shown = bob.git(&["log", "-1", "--format=%an|%cn|%B", &made.tip.projected.to_string()]);
    assert_eq!(shown, "?[2JA|?31mC|Zürich???]0;title?\r\n\ttext");
    record(&bob, &made);
    tidy(&bob);
}
