//! The official test vectors of the format, of <https://github.com/C2SP/CCTV>: those for X25519, the header and the payload.

use std::{fs, io::Read as _, path::PathBuf};

use sha2::{Digest as _, Sha256};

use super::*;

/// The crate opens these, because beta versions of it wrote such files: a stanza that ends with a full line, without an empty
/// one after it. A host refuses them.
const LENIENT: [&str; 2] = ["stanza_missing_body", "stanza_missing_final_line"];

/// What the lines before a file say about it.
#[derive(Default)]
struct Vector {
    expect: String,
    payload: String,
    identities: Vec<age::x25519::Identity>,
    is_ours: bool,
    file: Vec<u8>,
}

fn read(bytes: &[u8]) -> Vector {
    let end = bytes.windows(2).position(|window| window == b"\n\n").unwrap();
    let mut vector = Vector { is_ours: true, ..Vector::default() };
    let mut is_compressed = false;
    for line in std::str::from_utf8(&bytes[..end]).unwrap().lines() {
        let (key, value) = line.split_once(": ").unwrap();
        match key {
            "expect" => vector.expect = value.into(),
            "payload" => vector.payload = value.into(),
            "identity" => match value.parse() {
                Ok(identity) => vector.identities.push(identity),
                Err(_) => vector.is_ours = false,
            },
            "passphrase" | "armored" => vector.is_ours = false,
            "compressed" => is_compressed = true,
            _ => {}
        }
    }
    vector.file = bytes[end + 2..].to_vec();
    if is_compressed {
        let mut inflated = Vec::new();
        flate2::read::ZlibDecoder::new(&vector.file[..]).read_to_end(&mut inflated).unwrap();
        vector.file = inflated;
    }
    vector
}

#[test]
fn the_official_vectors_are_opened_or_refused_as_they_say() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deptool-agent/testdata/age");
    let (mut ours, mut lenient) = (0, Vec::new());
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with(".md") {
            continue;
        }
        let vector = read(&fs::read(&path).unwrap());
        if !vector.is_ours || vector.identities.is_empty() {
            continue;
        }
        ours += 1;
        let identities = vector.identities.iter().map(|identity| identity as &dyn Identity);
        let opened = decrypt(&vector.file, identities);
        match (vector.expect.as_str(), opened) {
            ("success", Ok(plain)) => {
                assert_eq!(deptool_agent::shared::text::hex(&Sha256::digest(&*plain)), vector.payload, "{name}");
                assert_eq!(plain_size(&vector.file), Some(plain.len()), "{name}");
            }
            ("no match", Err(DecryptError::NoMatchingKeys)) => {}
            ("success" | "no match", opened) => panic!("{name}: {:?}", opened.err()),
            (_, Ok(_)) => lenient.push(name.to_owned()),
            (_, Err(_)) => {}
        }
    }
    lenient.sort();
    assert_eq!(lenient, LENIENT);
    assert!(ours > 40, "{ours}");
}
