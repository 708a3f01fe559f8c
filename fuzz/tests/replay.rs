//! Runs every input of the corpus, and for a few seconds random changes of these inputs. An input that fails is saved
//! beside the test programs and named in the failure. Add it to the corpus.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use deptool_fuzz::{TARGETS, Target, corpus};

/// How long each target runs on changed inputs.
const TIME: Duration = Duration::from_millis(700);

fn seeds(target: &Target) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(corpus(target)).unwrap_or_else(|error| panic!("{}: {error}", target.name));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn run(target: &Target, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("failed-{}", target.name));
        fs::write(&path, input).unwrap();
        panic!("target '{}' fails; its input is {}", target.name, path.display());
    }
}

#[test]
fn every_target_has_a_corpus_and_survives_it() {
    for target in &TARGETS {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{} has no corpus", target.name);
        seeds.iter().for_each(|input| run(target, input));
    }
    let directories = fs::read_dir(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).unwrap();
    assert_eq!(directories.count(), TARGETS.len(), "every directory of inputs has a target");
}

#[test]
fn every_target_survives_random_changes_of_its_corpus() {
    // `cargo xtask test --quick` sets this.
    if std::env::var_os("DEPTOOL_TEST_QUICK").is_some() {
        return;
    }
    for target in &TARGETS {
        let seeds = seeds(target);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let end = Instant::now() + TIME;
        while Instant::now() < end {
            run(target, &mutate(&seeds, &mut random));
        }
    }
}

/// Marsaglia's xorshift with a fixed seed, so that failures are reproducible.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// A random input of the corpus with a few changes: bytes are flipped, set, removed, repeated or taken from another
/// input.
fn mutate(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const INTERESTING: [u8; 16] =
        [0, 1, 0x1b, 0x7f, 0x80, 0xff, b'/', b'.', b'\n', b'"', b'{', 0xc0, 0xdf, 0xc6, 0xdd, 0x9b];
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len());
        let length = random.below(input.len().saturating_sub(at).min(32) + 1);
        match random.below(6) {
            0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
            1 if !input.is_empty() => input[at] = INTERESTING[random.below(INTERESTING.len())],
            2 => drop(input.drain(at..at + length)),
            3 => {
                let again = input[at..at + length].to_vec();
                drop(input.splice(at..at, again));
            }
            4 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                let piece = other[from..(from + 1 + random.below(64)).min(other.len())].to_vec();
                drop(input.splice(at..at + length, piece));
            }
            _ => input.insert(at, random.next() as u8),
        }
    }
    input
}
