//! However Git keeps a blob, it is read whole or not at all.

use std::fs;

use super::{
    super::pack::testing::{Operator, git},
    *,
};

/// Content that can't be compressed, so that it spans many blocks.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    std::iter::repeat_with(next).take(size).collect()
}

/// A repository with one large file of this content, and its id.
fn with_blob(content: &[u8]) -> (Operator, BlobId) {
    let operator = Operator::new();
    operator.write("web1/app/large", content);
    operator.commit("large");
    let id = operator.git(&["rev-parse", "HEAD:web1/app/large"]).parse().unwrap();
    (operator, id)
}

fn read(blobs: &Blobs, id: &BlobId) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    blobs.open(id)?.read_to_end(&mut content).map(|_| content)
}

/// The place in which the blob is found in one piece.
fn found(blobs: &Blobs, id: &BlobId) -> (bool, bool) {
    let is_in = |find: fn(&Path, &BlobId) -> Option<Content>| blobs.objects.iter().any(|at| find(at, id).is_some());
    (is_in(loose), is_in(packed))
}

#[test]
fn a_blob_is_read_from_its_own_file_and_from_a_pack() {
    let content = noise(1 << 20);
    let (operator, id) = with_blob(&content);
    let blobs = Blobs::of(&operator.repo());
    assert_eq!(found(&blobs, &id), (true, false));
    assert!(read(&blobs, &id).unwrap() == content);
    operator.git(&["repack", "-adq"]);
    assert_eq!(found(&blobs, &id), (false, true));
    assert!(read(&blobs, &id).unwrap() == content);
}

#[test]
fn a_delta_is_read_by_git() {
    let (mut content, other) = (noise(1 << 20), noise(1 << 10));
    let (operator, first) = with_blob(&content);
    content.extend(other);
    operator.write("web1/app/large", &content);
    operator.commit("longer");
    operator.git(&["repack", "-adfq"]);
    let blobs = Blobs::of(&operator.repo());
    let second = operator.git(&["rev-parse", "HEAD:web1/app/large"]).parse().unwrap();
    // The longer one is the base.
    assert_eq!([first, second].map(|id| found(&blobs, &id)), [(false, false), (false, true)]);
    assert!(read(&blobs, &first).unwrap() == content[..1 << 20]);
    assert!(read(&blobs, &second).unwrap() == content);
}

#[test]
fn a_blob_that_is_borrowed_from_another_repository_is_read_there() {
    let content = noise(1 << 20);
    let (operator, id) = with_blob(&content);
    let clone = tempfile::tempdir().unwrap();
    let path = operator.repo().git_dir().to_owned();
    git(clone.path(), &["clone", "-q", "--shared", path.to_str().unwrap(), "."]);
    let repo = gix::open(clone.path()).unwrap();
    let blobs = Blobs::of(&repo);
    assert_eq!(found(&blobs, &id), (true, false));
    assert!(read(&blobs, &id).unwrap() == content);
}

#[test]
fn a_blob_that_can_not_be_read_is_an_error_not_an_end() {
    let (operator, id) = with_blob(&noise(1 << 20));
    let blobs = Blobs::of(&operator.repo());
    let commit = BlobId(operator.id("HEAD").0);
    let error = read(&blobs, &commit).unwrap_err();
    assert!(error.to_string().contains("cat-file failed"), "{error}");
    let name = id.to_string();
    let file = blobs.objects[0].join(&name[..2]).join(&name[2..]);
    let whole = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    for damaged in [&whole[..whole.len() / 2], &whole[..whole.len() - 1], &whole[..1], &[]] {
        fs::write(&file, damaged).unwrap();
        read(&blobs, &id).unwrap_err();
    }
    let mut flipped = whole;
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&file, flipped).unwrap();
    read(&blobs, &id).unwrap_err();
}
