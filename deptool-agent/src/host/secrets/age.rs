//! Opens files that age has encrypted: <https://age-encryption.org/v1>.
//!
//! ```text
//! age-encryption.org/v1          ─┐
//! -> X25519 <share>               │ header: for each recipient, the file key, wrapped
//! <wrapped file key>              │
//! --- <HMAC of the header>       ─┘
//! <nonce><chunks of 64 KiB>        payload
//! ```
//!
//! Only X25519 recipients can be opened; others are skipped. Nothing of a file is released before all of it was authenticated.

use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit, Tag};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::host::secrets::identity::Identity;

const VERSION: &str = "age-encryption.org/v1";
const ARMOR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
/// The lengths of the lines of a stanza's body.
const COLUMNS: usize = 64;
const CHUNK: usize = 64 << 10;
const TAG: usize = 16;
const NONCE: usize = 16;
const FILE_KEY: usize = 16;

/// Why a file can't be opened. No message has anything of the file in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AgeError {
    #[error("is not encrypted with age")]
    NotAge,
    #[error("is armored: only the binary format of age is read")]
    Armored,
    #[error("has a damaged header")]
    Header,
    #[error("is not encrypted to this host: rekey it")]
    NotForUs,
    #[error("has a header that was changed")]
    Mac,
    #[error("is damaged, or was cut off")]
    Payload,
}

/// The plain text of `file`.
pub fn open(identity: &Identity, file: &[u8]) -> Result<Zeroizing<Vec<u8>>, AgeError> {
    let header = Header::parse(file)?;
    let key = header.file_key(identity)?;
    header.authenticate(&key)?;
    payload(&key, header.payload)
}

/// Whether `file` begins with a header. It may still have been changed.
pub fn has_header(file: &[u8]) -> Result<(), AgeError> {
    Header::parse(file).map(drop)
}

/// Use HKDF to derive a key.
fn derive(secret: &[u8], salt: &[u8], info: &str) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    // This only fails for keys of more than 255 blocks.
    let _ = Hkdf::<Sha256>::new(Some(salt), secret).expand(info.as_bytes(), &mut *key);
    key
}

/// Decrypt `bytes` in place.
fn decrypt(key: &[u8; 32], nonce: &[u8; 12], bytes: &mut [u8], tag: [u8; TAG]) -> Option<()> {
    let cipher = ChaCha20Poly1305::new(&(*key).into());
    cipher.decrypt_inout_detached(&(*nonce).into(), &[], bytes.into(), &Tag::from(tag)).ok()
}

struct Header<'a> {
    stanzas: Vec<Stanza<'a>>,
    /// Everything up to the dashes before the MAC.
    authenticated: &'a [u8],
    mac: [u8; 32],
    payload: &'a [u8],
}

/// The file key, wrapped for one recipient.
struct Stanza<'a> {
    arguments: Vec<&'a str>,
    body: Vec<u8>,
}

/// What is left to parse of a header.
struct Lines<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<&'a str, AgeError> {
        let rest = &self.file[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or(AgeError::Header)?;
        self.at += end + 1;
        let line = &rest[..end];
        let is_plain = line.iter().all(|byte| (b' '..=b'~').contains(byte));
        std::str::from_utf8(line).ok().filter(|_| is_plain).ok_or(AgeError::Header)
    }
}

impl<'a> Header<'a> {
    fn parse(file: &'a [u8]) -> Result<Header<'a>, AgeError> {
        if file.starts_with(ARMOR) {
            return Err(AgeError::Armored);
        }
        let mut lines = Lines { file, at: 0 };
        if lines.next().ok() != Some(VERSION) {
            return Err(AgeError::NotAge);
        }
        let mut stanzas = Vec::new();
        loop {
            let begun = lines.at;
            let line = lines.next()?;
            if let Some(mac) = line.strip_prefix("--- ") {
                let mac = base64(mac).and_then(|mac| mac.try_into().ok()).ok_or(AgeError::Header)?;
                let (authenticated, payload) = (&file[..begun + "---".len()], &file[lines.at..]);
                let header = Header { stanzas, authenticated, mac, payload };
                return header.is_plausible().then_some(header).ok_or(AgeError::Header);
            }
            stanzas.push(Stanza::parse(line, &mut lines)?);
        }
    }

    /// Whether there are recipients. A passphrase must be the only one: it would not protect from who knows the other.
    fn is_plausible(&self) -> bool {
        let has_passphrase = self.stanzas.iter().any(|stanza| stanza.arguments[0] == "scrypt");
        !self.stanzas.is_empty() && (!has_passphrase || self.stanzas.len() == 1)
    }

    fn file_key(&self, identity: &Identity) -> Result<Zeroizing<[u8; FILE_KEY]>, AgeError> {
        let mut found = None;
        for stanza in &self.stanzas {
            let key = stanza.unwrap(identity)?;
            found = found.or(key);
        }
        found.ok_or(AgeError::NotForUs)
    }

    fn authenticate(&self, key: &[u8; FILE_KEY]) -> Result<(), AgeError> {
        let key = derive(key, &[], "header");
        // An HMAC takes keys of any length.
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&*key).map_err(|_| AgeError::Mac)?;
        mac.update(self.authenticated);
        mac.verify_slice(&self.mac).map_err(|_| AgeError::Mac)
    }
}

impl<'a> Stanza<'a> {
    /// Parse the stanza that begins with `line`.
    fn parse(line: &'a str, lines: &mut Lines<'a>) -> Result<Stanza<'a>, AgeError> {
        let arguments: Vec<&str> = line.strip_prefix("-> ").ok_or(AgeError::Header)?.split(' ').collect();
        if arguments.iter().any(|argument| argument.is_empty()) {
            return Err(AgeError::Header);
        }
        let mut body = Vec::new();
        loop {
            let line = lines.next()?;
            body.extend(base64(line).filter(|_| line.len() <= COLUMNS).ok_or(AgeError::Header)?);
            // A shorter line, which may be empty, is the last one.
            if line.len() < COLUMNS {
                return Ok(Stanza { arguments, body });
            }
        }
    }

    /// The file key, if this stanza is for `identity`.
    fn unwrap(&self, identity: &Identity) -> Result<Option<Zeroizing<[u8; FILE_KEY]>>, AgeError> {
        let ["X25519", arguments @ ..] = &self.arguments[..] else { return Ok(None) };
        let [share] = arguments else { return Err(AgeError::Header) };
        let share: [u8; 32] = base64(share).and_then(|share| share.try_into().ok()).ok_or(AgeError::Header)?;
        let (wrapped, tag) = self.body.split_last_chunk::<TAG>().ok_or(AgeError::Header)?;
        let mut key = Zeroizing::new(<[u8; FILE_KEY]>::try_from(wrapped).map_err(|_| AgeError::Header)?);
        // A share of low order makes the same secret for everybody.
        let shared = identity.shared_secret(share).ok_or(AgeError::Header)?;
        let salt = [share, identity.public()].concat();
        let wrap_key = derive(&*shared, &salt, "age-encryption.org/v1/X25519");
        Ok(decrypt(&wrap_key, &[0; 12], &mut *key, *tag).map(|()| key))
    }
}

/// Decrypt the payload: chunks, each with a tag. The nonce has the number of the chunk, and whether it is the last.
fn payload(key: &[u8; FILE_KEY], payload: &[u8]) -> Result<Zeroizing<Vec<u8>>, AgeError> {
    let (nonce, sealed) = payload.split_first_chunk::<NONCE>().ok_or(AgeError::Header)?;
    let key = derive(key, nonce, "payload");
    let mut plain = Zeroizing::new(Vec::with_capacity(sealed.len()));
    let mut chunks = sealed.chunks(CHUNK + TAG).enumerate().peekable();
    if sealed.is_empty() {
        return Err(AgeError::Payload);
    }
    while let Some((number, chunk)) = chunks.next() {
        let (chunk, tag) = chunk.split_last_chunk::<TAG>().ok_or(AgeError::Payload)?;
        let is_last = chunks.peek().is_none();
        // Only a file without content has an empty chunk.
        if chunk.is_empty() && number > 0 {
            return Err(AgeError::Payload);
        }
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&(number as u64).to_be_bytes());
        nonce[11] = u8::from(is_last);
        let from = plain.len();
        plain.extend_from_slice(chunk);
        decrypt(&key, &nonce, &mut plain[from..], *tag).ok_or(AgeError::Payload)?;
    }
    Ok(plain)
}

/// Decode Base64 without padding. Only the canonical encoding is accepted.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    // Fewer than six bits are left over, and they are zero.
    (count < 6 && bits == 0).then_some(out)
}

#[cfg(test)]
mod vectors;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_canonical_base64_is_accepted() {
        assert_eq!(base64("").as_deref(), Some(&b""[..]));
        assert_eq!(base64("TQ").as_deref(), Some(&b"M"[..]));
        assert_eq!(base64("TWE").as_deref(), Some(&b"Ma"[..]));
        assert_eq!(base64("TWFu").as_deref(), Some(&b"Man"[..]));
        for bad in ["T", "TQ==", "TR", "TWF", "TW-u", "TQ\n"] {
            assert_eq!(base64(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(bytes: Vec<u8>, header in "(age-encryption.org/v1\n)?(-> (X25519 )?[A-Za-z0-9+/ ]{0,50}\n[A-Za-z0-9+/]{0,70}\n){0,3}(--- [A-Za-z0-9+/]{42,44}\n)?") {
            let _ = has_header(&bytes);
            let _ = has_header(&[header.as_bytes(), &bytes].concat());
        }
    }
}
