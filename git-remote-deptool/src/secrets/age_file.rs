//! Files in the format of age, version 1, binary: <https://age-encryption.org/v1>.

use std::io::{self, Read as _, Write as _};

use age::{DecryptError, Decryptor, EncryptError, Encryptor, Identity};
use zeroize::Zeroizing;

/// How each file begins.
pub const MAGIC: &[u8] = b"age-encryption.org/v1\n";
/// How a file begins that was made with `age --armor`.
pub const ARMOR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
/// The most bytes of a header that are looked at.
const LONGEST_HEADER: usize = 1024 * 1024;
/// The payload: a nonce, then chunks of this size, each with a tag.
const NONCE: usize = 16;
const CHUNK: usize = 64 * 1024;
const TAG: usize = 16;

/// What a file says about one of its recipients.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stanza {
    /// `X25519`, `ssh-ed25519`, `ssh-rsa`, or another word.
    pub kind: String,
    /// For ssh keys: four bytes of the key's hash, encoded.
    pub tag: Option<String>,
}

impl Stanza {
    /// That of an age key.
    pub fn x25519() -> Self {
        Stanza { kind: "X25519".into(), tag: None }
    }
}

/// Encrypt `plain` to all of `recipients`.
pub fn encrypt<'a>(
    plain: &[u8],
    recipients: impl Iterator<Item = &'a dyn age::Recipient>,
) -> Result<Vec<u8>, EncryptError> {
    let mut file = Vec::new();
    let mut writer = Encryptor::with_recipients(recipients)?.wrap_output(&mut file)?;
    writer.write_all(plain)?;
    writer.finish()?;
    Ok(file)
}

/// Decrypt a file with one of `identities`.
pub fn decrypt<'a>(
    file: &[u8],
    identities: impl Iterator<Item = &'a dyn Identity>,
) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
    let mut reader = Decryptor::new_buffered(file)?.decrypt(identities)?;
    // A buffer that does not grow leaves no copy behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(file.len()));
    reader.read_to_end(&mut plain)?;
    Ok(plain)
}

/// Whether `identity` opens the file.
pub fn opens(file: &[u8], identity: &dyn Identity) -> bool {
    Decryptor::new_buffered(file).is_ok_and(|decryptor| decryptor.decrypt(std::iter::once(identity)).is_ok())
}

/// What a file says about its recipients, in order. `None` if it is not an age file. Stanzas that mean nothing, which age adds so
/// that readers get used to new ones, are left out.
pub fn stanzas(file: &[u8]) -> Option<Vec<Stanza>> {
    let (header, _) = header(file)?;
    let lines = header.lines().filter_map(|line| line.strip_prefix("-> "));
    let mut stanzas = Vec::new();
    for line in lines {
        let mut words = line.split(' ');
        let kind = words.next().unwrap_or_default();
        let tag = words.next().filter(|_| kind.starts_with("ssh-"));
        if !kind.ends_with("-grease") {
            stanzas.push(Stanza { kind: kind.to_owned(), tag: tag.map(ToOwned::to_owned) });
        }
    }
    Some(stanzas)
}

/// How many bytes a file holds in plain text. Everybody who has the file knows that.
pub fn plain_size(file: &[u8]) -> Option<usize> {
    let (_, payload) = header(file)?;
    let encrypted = payload.len().checked_sub(NONCE)?;
    let chunks = encrypted.div_ceil(CHUNK + TAG);
    encrypted.checked_sub(chunks * TAG)
}

/// What a file that is encrypted to a single recipient says about it.
pub(super) fn stanza_for(recipient: &dyn age::Recipient) -> Option<Stanza> {
    let file = encrypt(b"", std::iter::once(recipient)).ok()?;
    stanzas(&file)?.into_iter().next()
}

/// The lines before the MAC, and what follows it.
fn header(file: &[u8]) -> Option<(&str, &[u8])> {
    let rest = file.strip_prefix(MAGIC)?;
    let searched = &rest[..rest.len().min(LONGEST_HEADER)];
    let end = searched.windows(5).position(|window| window == b"\n--- ")? + 1;
    let mac = rest[end..].iter().position(|byte| *byte == b'\n')?;
    let text = std::str::from_utf8(&rest[..end]).ok().filter(|text| text.is_ascii())?;
    Some((text, &rest[end + mac + 1..]))
}

/// A damaged file, in words; the crate's own texts are made for another program.
pub fn why(error: &DecryptError) -> String {
    match error {
        DecryptError::NoMatchingKeys => "it is not encrypted to any of your keys".into(),
        DecryptError::KeyDecryptionFailed => "the passphrase of the key is wrong".into(),
        DecryptError::Io(error) if error.kind() != io::ErrorKind::InvalidData => format!("it is damaged: {error}"),
        DecryptError::UnknownFormat => "it is encrypted by a newer version of age".into(),
        _ => "it is damaged, or not an age file".into(),
    }
}

#[cfg(test)]
mod vectors;

#[cfg(test)]
mod tests {
    use super::{super::recipient::Recipient, *};

    #[test]
    fn a_file_tells_how_much_it_holds_and_nothing_else() {
        let identity = age::x25519::Identity::generate();
        let recipient = Recipient::parse(&identity.to_public().to_string()).unwrap();
        for size in [0, 1, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let plain = vec![b'x'; size];
            let file = encrypt(&plain, std::iter::once(recipient.key())).unwrap();
            assert_eq!(plain_size(&file), Some(size));
            assert_eq!(*decrypt(&file, std::iter::once(&identity as _)).unwrap(), plain);
            assert!(opens(&file, &identity) && !opens(&file, &age::x25519::Identity::generate()));
        }
    }

    #[test]
    fn what_is_no_age_file_has_no_recipients() {
        for bytes in [&b""[..], b"x", MAGIC, b"age-encryption.org/v1\n-> X25519 a\n", b"age-encryption.org/v1\n\n--- "]
        {
            assert_eq!((stanzas(bytes), plain_size(bytes)), (None, None));
        }
        let hostile = [MAGIC, b"-> \x1b[31m x\n-> ssh-rsa \xff\n--- x\n"].concat();
        assert_eq!(stanzas(&hostile), None);
    }

    #[test]
    fn a_changed_file_is_not_opened() {
        let identity = age::x25519::Identity::generate();
        let recipient = Recipient::parse(&identity.to_public().to_string()).unwrap();
        let file = encrypt(b"secret", std::iter::once(recipient.key())).unwrap();
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert!(decrypt(&changed, std::iter::once(&identity as _)).is_err(), "byte {at}");
        }
        assert!(decrypt(&file[..file.len() - 1], std::iter::once(&identity as _)).is_err());
    }
}
