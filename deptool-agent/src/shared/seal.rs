//! The seal of an agent's file: its length and CRC-32, so that a damaged agent is noticed before it does anything.
//!
//! A disk, a power cut or a person may damage the file of an agent so that it still starts. So the agent first compares its
//! file with its seal. The seal is a static variable, whose value is written into the file after the agent was built. If it
//! were appended to the file, a file that was cut short would look like one that was never sealed.
//!
//! A checksum detects damage, not attacks: only root can write the agent's file.

use std::{
    hint::black_box,
    io::{self, Read as _},
};

/// The code of `deptool-error` that a damaged agent prints in place of its first line.
pub const DAMAGED: &str = "damaged";

/// Marks the seal in the agent's file. It occurs there once.
const MAGIC: [u8; 16] = *b"\x7fdeptool-sealed:";
/// After the magic: the length of the file, the offset of the magic in it, and the CRC-32 of the file with zeros in place of
/// these three numbers. 32 bits each, little endian.
const NUMBERS: usize = 12;
const SIZE: usize = MAGIC.len() + NUMBERS;
/// An agent is never longer than this, in bytes. Debug builds are ten times as long as the agent for hosts.
const LONGEST: u64 = 256 << 20;

/// The seal of this program. `cargo build` leaves the numbers 0.
static SEAL: [u8; SIZE] = *b"\x7fdeptool-sealed:\0\0\0\0\0\0\0\0\0\0\0\0";

/// The result of comparing a file with a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    /// The program was not sealed.
    Absent,
    Intact,
    Broken,
}

/// There is not exactly one place for a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not an agent: it has no place for a seal")]
pub struct NoPlace;

/// Seal an agent, the content of a file.
pub fn seal(agent: &mut [u8]) -> Result<(), NoPlace> {
    let at = place(agent).ok_or(NoPlace)?;
    let (length, offset) = (u32::try_from(agent.len()).map_err(|_| NoPlace)?, u32::try_from(at).map_err(|_| NoPlace)?);
    let numbers = &mut agent[at + MAGIC.len()..][..NUMBERS];
    numbers.fill(0);
    let crc = crc32fast::hash(agent);
    let numbers = [length, offset, crc].map(u32::to_le_bytes);
    agent[at + MAGIC.len()..][..NUMBERS].copy_from_slice(numbers.as_flattened());
    Ok(())
}

/// Compare an agent, the content of a file, with the seal in it.
pub fn check(agent: &[u8]) -> Seal {
    match place(agent).and_then(|at| agent[at..].first_chunk::<SIZE>()) {
        Some(seal) => compare(seal, &mut agent.to_vec()),
        None => Seal::Absent,
    }
}

/// Compare a file with the seal of this program.
pub fn check_own(file: impl io::Read) -> io::Result<Seal> {
    // The compiler must not take the value for what it is in the source.
    let seal = black_box(&SEAL);
    let [length, ..] = numbers(seal);
    let mut content = Vec::with_capacity(LONGEST.min(u64::from(length) + 1) as usize);
    file.take(LONGEST).read_to_end(&mut content)?;
    Ok(compare(seal, &mut content))
}

fn compare(seal: &[u8; SIZE], content: &mut [u8]) -> Seal {
    let [length, offset, crc] = numbers(seal);
    if length == 0 {
        return Seal::Absent;
    }
    let at = offset as usize + MAGIC.len();
    match content.get_mut(at..at + NUMBERS) {
        Some(numbers) => numbers.fill(0),
        None => return Seal::Broken,
    }
    match content.len() == length as usize && crc32fast::hash(content) == crc {
        true => Seal::Intact,
        false => Seal::Broken,
    }
}

/// The length, the offset and the CRC-32 in a seal.
fn numbers(seal: &[u8; SIZE]) -> [u32; 3] {
    let number = |at: usize| u32::from_le_bytes([seal[at], seal[at + 1], seal[at + 2], seal[at + 3]]);
    [16, 20, 24].map(number)
}

/// The offset of the seal, if there is exactly one.
fn place(agent: &[u8]) -> Option<usize> {
    let mut places = agent.windows(SIZE).enumerate().filter(|(_, part)| part.starts_with(&MAGIC));
    let (at, _) = places.next()?;
    places.next().is_none().then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> Vec<u8> {
        [&b"some code"[..], &MAGIC, &[7; NUMBERS], b"more code"].concat()
    }

    fn sealed() -> Vec<u8> {
        let mut agent = agent();
        seal(&mut agent).unwrap();
        agent
    }

    #[test]
    fn a_sealed_agent_is_intact_and_sealing_it_again_changes_nothing() {
        let mut agent = sealed();
        assert_eq!(check(&agent), Seal::Intact);
        let before = agent.clone();
        seal(&mut agent).unwrap();
        assert_eq!(agent, before);
    }

    #[test]
    fn every_flipped_bit_every_cut_and_every_longer_file_breaks_the_seal() {
        let whole = sealed();
        let seal: [u8; SIZE] = *whole[9..].first_chunk().unwrap();
        for bit in 0..8 * whole.len() {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // The agent reads its seal from the same file.
            let seal: [u8; SIZE] = *flipped[9..].first_chunk().unwrap();
            assert_eq!(compare(&seal, &mut flipped), Seal::Broken, "bit {bit}");
        }
        for length in 0..whole.len() {
            assert_eq!(compare(&seal, &mut whole[..length].to_vec()), Seal::Broken, "{length} bytes");
        }
        assert_eq!(compare(&seal, &mut [&whole[..], b"x"].concat()), Seal::Broken);
    }

    #[test]
    fn what_was_never_sealed_or_is_no_agent_is_told_apart() {
        assert_eq!(check_own(&b"anything"[..]).unwrap(), Seal::Absent);
        assert_eq!(check(b"a script"), Seal::Absent);
        assert_eq!(seal(&mut b"a script".to_vec()), Err(NoPlace));
        assert_eq!(seal(&mut [agent(), agent()].concat()), Err(NoPlace));
    }
}
