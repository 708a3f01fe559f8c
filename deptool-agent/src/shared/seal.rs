//! The seal of an agent's file: its length and CRC-32, so that a damaged agent is noticed before it does anything.
//!
//! A disk, a power cut or a person may damage the file of an agent so that it still starts. So the agent first compares its
//! file with its seal. The seal is a static variable, whose value is written into the file after the agent was built. If it
//! were appended to the file, a file that was cut short would look like one that was never sealed.
//!
//! A checksum detects damage, not attacks: only root can write the agent's file.

use std::{hint::black_box, io};

/// The code of `deptool-error` that a damaged agent prints in place of its first line.
pub const DAMAGED: &str = "damaged";

/// Marks the seal in the agent's file. It occurs there once.
const MAGIC: [u8; 16] = *b"\x7fdeptool-sealed:";
/// After the magic: the length of the file, the offset of the magic in it, and the CRC-32 of the file with zeros in place of
/// these three numbers. 32 bits each, little endian.
const NUMBERS: usize = 12;
const SIZE: usize = MAGIC.len() + NUMBERS;
/// How much of a file is read at once, in bytes.
const PART: usize = 64 << 10;

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
        // Reading from memory does not fail.
        Some(seal) => compare(seal, agent).unwrap_or(Seal::Broken),
        None => Seal::Absent,
    }
}

/// Compare a file with the seal of this program.
pub fn check_own(file: impl io::Read) -> io::Result<Seal> {
    // The compiler must not take the value for what it is in the source.
    compare(black_box(&SEAL), file)
}

/// Compare a file with a seal. It is read in parts: filling fresh memory would take most of the time.
fn compare(seal: &[u8; SIZE], mut file: impl io::Read) -> io::Result<Seal> {
    let [length, offset, crc] = numbers(seal);
    let (length, offset) = (length as usize, offset as usize);
    if length == 0 {
        return Ok(Seal::Absent);
    }
    let begin = offset.saturating_add(MAGIC.len());
    let (mut hasher, mut total, mut buffer) = (crc32fast::Hasher::new(), 0, vec![0; PART]);
    loop {
        let count = file.read(&mut buffer)?;
        let part = &mut buffer[..count];
        if part.is_empty() {
            break;
        }
        let [from, to] = [begin, begin.saturating_add(NUMBERS)].map(|at| at.saturating_sub(total).min(count));
        part[from..to].fill(0);
        hasher.update(part);
        total += count;
    }
    let is_intact = total == length && hasher.finalize() == crc;
    Ok(if is_intact { Seal::Intact } else { Seal::Broken })
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
            assert_eq!(compare(&seal, &flipped[..]).unwrap(), Seal::Broken, "bit {bit}");
        }
        for length in 0..whole.len() {
            assert_eq!(compare(&seal, &whole[..length]).unwrap(), Seal::Broken, "{length} bytes");
        }
        assert_eq!(compare(&seal, &[&whole[..], b"x"].concat()[..]).unwrap(), Seal::Broken);
    }

    #[test]
    fn a_seal_across_two_parts_of_a_file_is_intact() {
        for before in PART - SIZE..=PART {
            let mut agent = [vec![1; before], agent()].concat();
            seal(&mut agent).unwrap();
            assert_eq!(check(&agent), Seal::Intact, "{before} bytes before it");
        }
    }

    #[test]
    fn what_was_never_sealed_or_is_no_agent_is_told_apart() {
        assert_eq!(check_own(&b"anything"[..]).unwrap(), Seal::Absent);
        assert_eq!(check(b"a script"), Seal::Absent);
        assert_eq!(seal(&mut b"a script".to_vec()), Err(NoPlace));
        assert_eq!(seal(&mut [agent(), agent()].concat()), Err(NoPlace));
    }
}
