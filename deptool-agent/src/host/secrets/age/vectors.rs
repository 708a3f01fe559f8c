//! The published test vectors of the age format.

use std::{collections::BTreeMap, fs, path::PathBuf};

use sha2::{Digest as _, Sha256};

use super::*;
use crate::shared::text::hex;

/// A vector: what is expected, under which conditions, and the file.
struct Vector {
    name: String,
    facts: BTreeMap<String, String>,
    file: Vec<u8>,
}

fn vectors() -> Vec<Vector> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/age");
    fs::read_dir(directory).unwrap().map(|entry| Vector::read(entry.unwrap().path())).collect()
}

impl Vector {
    fn read(path: PathBuf) -> Vector {
        let bytes = fs::read(&path).unwrap();
        let end = bytes.windows(2).position(|two| two == b"\n\n").unwrap();
        let text = std::str::from_utf8(&bytes[..end]).unwrap();
        let facts: BTreeMap<_, _> = text
            .lines()
            .map(|line| line.split_once(": ").unwrap())
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let mut file = bytes[end + 2..].to_vec();
        if facts.contains_key("compressed") {
            let mut plain = Vec::new();
            std::io::copy(&mut flate2::read::ZlibDecoder::new(&file[..]), &mut plain).unwrap();
            file = plain;
        }
        Vector { name: path.file_name().unwrap().to_str().unwrap().to_owned(), facts, file }
    }

    fn fact(&self, key: &str) -> Option<&str> {
        self.facts.get(key).map(String::as_str)
    }

    /// An X25519 identity: that of the vector, or any other.
    fn identity(&self) -> Identity {
        let own = self.fact("identity").and_then(Identity::parse);
        own.unwrap_or_else(|| {
            Identity::parse("AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0").unwrap()
        })
    }

    /// What this side must answer: it has no passphrases, no hybrid keys and no armor.
    fn expected(&self) -> &'static [AgeError] {
        let is_x25519 = self.fact("identity").is_none_or(|text| Identity::parse(text).is_some());
        match self.fact("expect").unwrap() {
            _ if self.fact("armored").is_some() => &[AgeError::Armored, AgeError::NotAge],
            "success" if is_x25519 && self.fact("passphrase").is_none() => &[],
            // Without the identity, nothing behind the header is reached.
            _ if !is_x25519 => &[AgeError::NotForUs, AgeError::Header],
            "success" | "no match" => &[AgeError::NotForUs],
            "header failure" if self.fact("passphrase").is_some() => &[AgeError::Header, AgeError::NotForUs],
            "header failure" => &[AgeError::Header, AgeError::NotAge],
            "HMAC failure" => &[AgeError::Mac],
            "payload failure" => &[AgeError::Payload],
            other => panic!("{other}"),
        }
    }
}

#[test]
fn the_published_vectors_are_opened_or_refused_for_the_right_reason() {
    let vectors = vectors();
    assert!(vectors.len() > 140, "{}", vectors.len());
    let mut opened = 0;
    for vector in &vectors {
        let (result, expected) = (open(&vector.identity(), &vector.file), vector.expected());
        match result {
            Ok(plain) => {
                assert!(expected.is_empty(), "{} was opened", vector.name);
                assert_eq!(vector.fact("payload"), Some(&*hex(&Sha256::digest(&*plain))), "{}", vector.name);
                opened += 1;
            }
            Err(why) => assert!(expected.contains(&why), "{}: {why:?}, not {expected:?}", vector.name),
        }
    }
    assert!(opened >= 10, "only {opened} were opened");
}

#[test]
fn a_file_that_was_changed_or_cut_off_is_refused() {
    let vector = vectors().into_iter().find(|vector| vector.name == "x25519_multiple_recipients").unwrap();
    let (identity, file) = (vector.identity(), &vector.file);
    open(&identity, file).unwrap();
    for at in (0..file.len()).step_by(5) {
        assert!(open(&identity, &file[..at]).is_err(), "cut at {at}");
        let mut changed = file.clone();
        changed[at] ^= 1;
        assert!(open(&identity, &changed).is_err(), "changed at {at}");
    }
}
