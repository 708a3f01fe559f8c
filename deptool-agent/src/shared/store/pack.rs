//! Reads and writes the packs that travel between helper and agent. Packs that are read are not trusted.
//!
//! The format is Git's, gitformat-pack(5), version 2. Deltas are refused: neither side sends any, and a hostile delta
//! can expand a few bytes to gigabytes. Reader and writer hold one object in memory at a time.

use std::io::{self, BufRead, Write};

use gix_hash::{Hasher, Kind as HashKind, ObjectId, hasher};
use gix_object::Kind;
use gix_zlib::{Decompress, FlushDecompress, Status};

/// Blobs of this size and more, in bytes, travel outside of packs, and are never in a host's store.
pub const LARGE_BLOB: u64 = 4 << 20;

/// Limits for a pack that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The size of one object, in bytes.
    pub object: u64,
    /// The number of objects.
    pub objects: u32,
    /// The size of the pack, in bytes.
    pub pack: u64,
    /// The size of all objects together, in bytes.
    pub inflated: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { object: LARGE_BLOB, objects: 500_000, pack: 2 << 30, inflated: 8 << 30 }
    }
}

/// Why a pack was refused.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("could not read the pack")]
    Read(#[source] io::Error),
    /// The copy of the pack could not be written.
    #[error("could not store the pack")]
    Write(#[source] io::Error),
    #[error("the pack is cut off")]
    CutOff,
    #[error("not a pack of version 2")]
    NotAPack,
    #[error("the pack is too large: more than {limit} {unit}")]
    TooLarge {
        limit: u64,
        /// What is limited: `objects`, `bytes` …
        unit: &'static str,
    },
    #[error("an object of {size} bytes is too large for a pack (limit: {limit})")]
    ObjectTooLarge {
        /// The size in bytes that the entry announces.
        size: u64,
        limit: u64,
    },
    #[error("the pack has a delta, which is not allowed")]
    Delta,
    #[error("the pack has an object of the unknown type {0}")]
    Type(u8),
    /// The data of an object are not a zlib stream of the announced size.
    #[error("the pack has an object with corrupt data")]
    Corrupt,
    #[error("the pack has object {0} twice")]
    Twice(ObjectId),
    /// The checksum does not match, or a SHA-1 collision attack was detected.
    #[error("the checksum of the pack is wrong")]
    Checksum,
}

/// One object of a pack that is being read.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The id, computed from kind and data.
    pub id: ObjectId,
    pub kind: Kind,
    pub data: &'a [u8],
    /// The position of the entry in the pack, in bytes.
    pub offset: u64,
    /// The CRC-32 of the entry in the pack.
    pub crc32: u32,
}

/// A pack that was read or written as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The last 20 bytes of the pack: the SHA-1 of everything before them.
    pub checksum: ObjectId,
    /// The number of objects.
    pub objects: u32,
    /// The size of the pack, in bytes.
    pub bytes: u64,
}

/// Read one pack from `input`, and not a byte more. Copy its bytes to `copy`, and call `each` with every object.
///
/// The copy and the objects are only valid if this returns `Ok`.
pub fn read(
    input: &mut dyn BufRead,
    limits: &Limits,
    copy: &mut dyn Write,
    each: &mut dyn FnMut(Entry<'_>) -> Result<(), PackError>,
) -> Result<Summary, PackError> {
    let mut tap = Tap::new(input, copy, limits.pack);
    let objects = read_header(&mut tap, limits)?;
    let mut inflate = Inflate { state: Decompress::new(), data: Vec::new() };
    let mut budget = limits.inflated;
    for _ in 0..objects {
        let offset = tap.bytes;
        tap.crc = 0;
        let (kind, size) = read_entry_header(&mut tap)?;
        if size > limits.object {
            return Err(PackError::ObjectTooLarge { size, limit: limits.object });
        }
        budget = budget
            .checked_sub(size)
            .ok_or(PackError::TooLarge { limit: limits.inflated, unit: "bytes when inflated" })?;
        inflate.entry(&mut tap, size)?;
        let id = gix_object::compute_hash(HashKind::Sha1, kind, &inflate.data).map_err(|_| PackError::Checksum)?;
        each(Entry { id, kind, data: &inflate.data, offset, crc32: tap.crc })?;
    }
    tap.trailer(objects)
}

fn read_header(tap: &mut Tap<'_>, limits: &Limits) -> Result<u32, PackError> {
    let mut header = [0u8; 12];
    for byte in &mut header {
        *byte = tap.byte()?;
    }
    let [b'P', b'A', b'C', b'K', 0, 0, 0, 2, count @ ..] = header else { return Err(PackError::NotAPack) };
    let objects = u32::from_be_bytes(count);
    if objects > limits.objects {
        return Err(PackError::TooLarge { limit: limits.objects.into(), unit: "objects" });
    }
    Ok(objects)
}

/// Read the kind and the size of the next entry.
fn read_entry_header(tap: &mut Tap<'_>) -> Result<(Kind, u64), PackError> {
    let mut byte = tap.byte()?;
    let kind = match (byte >> 4) & 7 {
        1 => Kind::Commit,
        2 => Kind::Tree,
        3 => Kind::Blob,
        4 => Kind::Tag,
        6 | 7 => return Err(PackError::Delta),
        other => return Err(PackError::Type(other)),
    };
    let mut size = u64::from(byte & 15);
    let mut shift = 4;
    while byte & 0x80 != 0 {
        byte = tap.byte()?;
        // No object within the limits needs more than 50 bits.
        if shift > 50 {
            return Err(PackError::ObjectTooLarge { size: u64::MAX, limit: 1 << shift });
        }
        size |= u64::from(byte & 0x7f) << shift;
        shift += 7;
    }
    Ok((kind, size))
}

/// Inflates one entry after another into the same memory.
struct Inflate {
    state: Decompress,
    data: Vec<u8>,
}

impl Inflate {
    /// Inflate one entry of exactly `size` bytes. Memory grows with the data that arrive, not with the announced size.
    fn entry(&mut self, tap: &mut Tap<'_>, size: u64) -> Result<(), PackError> {
        let mut chunk = [0u8; 16 << 10];
        self.state.reset();
        self.data.clear();
        loop {
            let input = tap.input.fill_buf().map_err(PackError::Read)?;
            if input.is_empty() {
                return Err(PackError::CutOff);
            }
            let (taken, made) = (self.state.total_in(), self.state.total_out());
            let status = self.state.decompress(input, &mut chunk, FlushDecompress::None);
            let taken = (self.state.total_in() - taken) as usize;
            let made = (self.state.total_out() - made) as usize;
            self.data.extend_from_slice(&chunk[..made]);
            tap.consume(taken)?;
            if self.data.len() as u64 > size {
                return Err(PackError::Corrupt);
            }
            match status {
                Ok(Status::StreamEnd) => break,
                Ok(_) if taken > 0 || made > 0 => {}
                Ok(_) | Err(_) => return Err(PackError::Corrupt),
            }
        }
        if self.data.len() as u64 == size { Ok(()) } else { Err(PackError::Corrupt) }
    }
}

/// Counts, hashes and copies whatever is read from `input`.
struct Tap<'a> {
    input: &'a mut dyn BufRead,
    copy: &'a mut dyn Write,
    hash: Hasher,
    crc: u32,
    bytes: u64,
    limit: u64,
}

impl<'a> Tap<'a> {
    fn new(input: &'a mut dyn BufRead, copy: &'a mut dyn Write, limit: u64) -> Self {
        Tap { input, copy, hash: hasher(HashKind::Sha1), crc: 0, bytes: 0, limit }
    }

    fn byte(&mut self) -> Result<u8, PackError> {
        let byte = *self.input.fill_buf().map_err(PackError::Read)?.first().ok_or(PackError::CutOff)?;
        self.consume(1)?;
        Ok(byte)
    }

    /// Consume `n` of the bytes that the last `fill_buf` returned.
    fn consume(&mut self, n: usize) -> Result<(), PackError> {
        self.bytes += n as u64;
        if self.bytes > self.limit {
            return Err(PackError::TooLarge { limit: self.limit, unit: "bytes" });
        }
        let taken = self.input.fill_buf().map_err(PackError::Read)?.get(..n).ok_or(PackError::CutOff)?;
        self.hash.update(taken);
        self.crc = crc32(self.crc, taken);
        self.copy.write_all(taken).map_err(PackError::Write)?;
        self.input.consume(n);
        Ok(())
    }

    /// Read, compare and copy the checksum at the end of the pack.
    fn trailer(self, objects: u32) -> Result<Summary, PackError> {
        let mut announced = [0u8; 20];
        self.input.read_exact(&mut announced).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => PackError::CutOff,
            _ => PackError::Read(error),
        })?;
        let checksum = self.hash.try_finalize().map_err(|_| PackError::Checksum)?;
        if checksum.as_slice() != announced {
            return Err(PackError::Checksum);
        }
        self.copy.write_all(&announced).map_err(PackError::Write)?;
        Ok(Summary { checksum, objects, bytes: self.bytes + 20 })
    }
}

/// Writes a pack. The number of objects must be known at the beginning.
pub struct PackWriter<W> {
    out: W,
    hash: Hasher,
    bytes: u64,
    objects: u32,
    left: u32,
}

impl<W: Write> PackWriter<W> {
    /// Begin a pack with exactly `objects` objects.
    pub fn new(out: W, objects: u32) -> io::Result<Self> {
        let mut writer = PackWriter { out, hash: hasher(HashKind::Sha1), bytes: 0, objects, left: objects };
        writer.put(b"PACK\0\0\0\x02")?;
        writer.put(&objects.to_be_bytes())?;
        Ok(writer)
    }

    /// Add an object that is already compressed. `size` is its size before compression.
    pub fn compressed(&mut self, kind: Kind, size: u64, zlib: &[u8]) -> io::Result<Written> {
        self.entry(kind, size, &[zlib])
    }

    /// Add an object in a zlib stream that does not compress. This way the agent needs no compressor.
    pub fn stored(&mut self, kind: Kind, data: &[u8]) -> io::Result<Written> {
        let mut parts: Vec<Vec<u8>> = vec![vec![0x78, 0x01]];
        let blocks = data.len().div_ceil(0xffff).max(1);
        for (n, block) in data.chunks(0xffff).chain(data.is_empty().then_some(&[][..])).enumerate() {
            let length = block.len() as u16;
            let mut part = vec![u8::from(n + 1 == blocks)];
            part.extend_from_slice(&length.to_le_bytes());
            part.extend_from_slice(&(!length).to_le_bytes());
            part.extend_from_slice(block);
            parts.push(part);
        }
        parts.push(adler32(data).to_be_bytes().to_vec());
        self.entry(kind, data.len() as u64, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    fn entry(&mut self, kind: Kind, size: u64, parts: &[&[u8]]) -> io::Result<Written> {
        self.left = self.left.checked_sub(1).ok_or_else(|| io::Error::other("more objects than announced"))?;
        let offset = self.bytes;
        let mut crc = 0;
        let header = entry_header(kind, size);
        for part in std::iter::once(&header[..]).chain(parts.iter().copied()) {
            crc = crc32(crc, part);
            self.put(part)?;
        }
        Ok(Written { offset, crc32: crc })
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
        self.out.write_all(bytes)
    }

    /// Write the checksum. It is an error if fewer objects were added than announced.
    pub fn finish(mut self) -> io::Result<(W, Summary)> {
        if self.left > 0 {
            return Err(io::Error::other("fewer objects than announced"));
        }
        let checksum = self.hash.try_finalize().map_err(io::Error::other)?;
        self.out.write_all(checksum.as_slice())?;
        self.out.flush()?;
        Ok((self.out, Summary { checksum, objects: self.objects, bytes: self.bytes + 20 }))
    }
}

/// An entry that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The position of the entry in the pack, in bytes.
    pub offset: u64,
    /// The CRC-32 of the entry.
    pub crc32: u32,
}

/// The CRC-32 of what has the CRC-32 `crc`, followed by `bytes`.
fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(crc);
    hasher.update(bytes);
    hasher.finalize()
}

fn entry_header(kind: Kind, size: u64) -> Vec<u8> {
    let kind = match kind {
        Kind::Commit => 1,
        Kind::Tree => 2,
        Kind::Blob => 3,
        Kind::Tag => 4,
    };
    let mut rest = size >> 4;
    let mut header = vec![kind << 4 | (size & 15) as u8];
    while rest > 0 {
        *header.last_mut().expect("never empty") |= 0x80;
        header.push((rest & 0x7f) as u8);
        rest >>= 7;
    }
    header
}

/// The checksum at the end of a zlib stream (RFC 1950).
fn adler32(data: &[u8]) -> u32 {
    let (mut a, mut b) = (1u32, 0u32);
    // The largest number of bytes for which the sums can't overflow.
    for chunk in data.chunks(5552) {
        for byte in chunk {
            a += u32::from(*byte);
            b += a;
        }
        (a, b) = (a % 65521, b % 65521);
    }
    b << 16 | a
}
