//! Reads and hashes files.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use sha2::{Digest as _, Sha256};

use crate::{
    host::state::error::{Context, HostError},
    shared::text::hex,
};

/// The SHA-256 of the content of the file at `path`, in hex.
pub fn digest_of(path: &Path) -> Result<String, HostError> {
    File::open(path).and_then(|mut file| digest(&mut file)).during("read", path)
}

/// The SHA-256 of everything in `from`, in hex.
pub fn digest(from: &mut dyn Read) -> io::Result<String> {
    let mut digest = Sha256::new();
    copy(from, &mut |bytes| {
        digest.update(bytes);
        Ok(())
    })?;
    Ok(hex(&digest.finalize()))
}

/// Read all of `from`, in chunks.
pub fn copy(from: &mut dyn Read, to: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => to(&buffer[..n])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
