//! Writes the index of a pack in Git's format (gitformat-pack(5), version 2).

use std::io::{self, Write};

use gix_hash::{Kind as HashKind, ObjectId};

/// The position of one object in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct IndexEntry {
    pub id: ObjectId,
    pub offset: u64,
    pub crc32: u32,
}

/// Sort `entries` by id. The error is an id that occurs twice.
pub(super) fn sort(entries: &mut [IndexEntry]) -> Result<(), ObjectId> {
    entries.sort_unstable();
    match entries.windows(2).find(|pair| pair[0].id == pair[1].id) {
        Some(pair) => Err(pair[0].id),
        None => Ok(()),
    }
}

/// Write the index of the pack whose checksum is `checksum`. `entries` must be sorted.
pub(super) fn write(out: &mut dyn Write, entries: &[IndexEntry], checksum: &ObjectId) -> io::Result<()> {
    let mut out = gix_hash::io::Write::new(out, HashKind::Sha1);
    out.write_all(b"\xfftOc\0\0\0\x02")?;
    let mut before = 0u32;
    for first in 0..=255u8 {
        before += entries[before as usize..].partition_point(|entry| entry.id.as_slice()[0] <= first) as u32;
        out.write_all(&before.to_be_bytes())?;
    }
    for entry in entries {
        out.write_all(entry.id.as_slice())?;
    }
    for entry in entries {
        out.write_all(&entry.crc32.to_be_bytes())?;
    }
    const FAR: u32 = 1 << 31;
    let mut far = Vec::new();
    for entry in entries {
        let offset = match u32::try_from(entry.offset) {
            Ok(near) if near < FAR => near,
            _ => {
                far.push(entry.offset);
                FAR | (far.len() - 1) as u32
            }
        };
        out.write_all(&offset.to_be_bytes())?;
    }
    for offset in far {
        out.write_all(&offset.to_be_bytes())?;
    }
    out.write_all(checksum.as_slice())?;
    let gix_hash::io::Write { inner: out, hash } = out;
    out.write_all(hash.try_finalize().map_err(io::Error::other)?.as_slice())?;
    out.flush()
}
