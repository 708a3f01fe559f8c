//! The private keys of an operator, which open secrets.

use std::{cell::RefCell, fmt::Write as _};

use age::{DecryptError, secrecy::SecretString, ssh};
use zeroize::Zeroizing;

use super::{
    age_file::{self, Stanza, stanzas},
    recipient::Recipient,
};

/// The most bytes of a file with a key.
pub const MAX_SIZE: u64 = 1024 * 1024;

/// A private key, and where it is from.
pub struct Identity {
    /// The file's name, safe to show.
    file: String,
    key: RefCell<Key>,
}

enum Key {
    X25519(Box<age::x25519::Identity>),
    Ssh(Box<ssh::Identity>),
    /// Opened with its passphrase when it is needed for the first time.
    Locked(Box<ssh::EncryptedKey>, Stanza),
}

/// Why a file has no key that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("'{file}': {why}")]
    Unusable { file: String, why: &'static str },
    #[error("'{file}': {why}")]
    NotOpened { file: String, why: String },
    #[error("'{0}' needs a passphrase, and there is no terminal to ask for it")]
    NoPassphrase(String),
}

const NO_KEY: &str = "it has no age key and no private ssh key in it";
const NOT_OPENSSH: &str = "the key is not in OpenSSH's own format; 'ssh-keygen -p -f' converts it";
const OLD_PEM: &str = "the key is encrypted in an old format; 'ssh-keygen -p -f' converts it";
const HARDWARE: &str = "keys on hardware tokens can't open secrets; use an ssh-ed25519, ssh-rsa or age key";
const OTHER_TYPE: &str = "only ssh-ed25519, ssh-rsa and age keys can open secrets";
const CIPHER: &str = "the key is encrypted with a cipher that is not supported; 'ssh-keygen -p -f' changes it";
const LOCKED_AGE: &str = "age keys that are encrypted with a passphrase are not supported; use an ssh key with one";
const PLUGIN: &str = "age plugins are not supported";

/// Asks for the passphrase of a file. `None` if that is not possible, or was declined.
pub type Ask<'a> = &'a dyn Fn(&str) -> Option<SecretString>;

impl Identity {
    /// The keys in a file's `bytes`. `file` is its name, safe to show.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Vec<Identity>, IdentityError> {
        let unusable = |why| IdentityError::Unusable { file: file.to_owned(), why };
        if bytes.starts_with(age_file::MAGIC) || bytes.starts_with(age_file::ARMOR) {
            return Err(unusable(LOCKED_AGE));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| unusable(NO_KEY))?;
        if let Some(at) = text.find("-----BEGIN ") {
            let key = ssh_key(&text[at..]).map_err(unusable)?;
            return Ok(vec![Identity { file: file.to_owned(), key: RefCell::new(key) }]);
        }
        let mut identities = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if line.starts_with("AGE-PLUGIN-") {
                return Err(unusable(PLUGIN));
            }
            let key = line.parse().map_err(|_| unusable(NO_KEY))?;
            identities.push(Identity { file: file.to_owned(), key: RefCell::new(Key::X25519(Box::new(key))) });
        }
        match identities.is_empty() {
            true => Err(unusable(NO_KEY)),
            false => Ok(identities),
        }
    }

    /// The public key, if it is known without a passphrase.
    pub fn recipient(&self) -> Option<Recipient> {
        let mut text = String::new();
        match &*self.key.borrow() {
            Key::X25519(key) => write!(text, "{}", key.to_public()),
            Key::Ssh(key) => write!(text, "{}", ssh::Recipient::try_from((**key).clone()).ok()?),
            Key::Locked(key, _) => {
                write!(text, "{}", ssh::Recipient::try_from(ssh::Identity::from((**key).clone())).ok()?)
            }
        }
        .ok()?;
        Recipient::parse(&text).ok()
    }

    /// Whether it opens `file`, as far as that can be told without a passphrase.
    pub fn opens(&self, file: &[u8]) -> bool {
        match &*self.key.borrow() {
            Key::X25519(key) => age_file::opens(file, &**key),
            Key::Ssh(key) => age_file::opens(file, &**key),
            Key::Locked(_, stanza) => stanzas(file).is_some_and(|stanzas| stanzas.contains(stanza)),
        }
    }

    fn decrypt(&self, file: &[u8]) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
        match &*self.key.borrow() {
            Key::X25519(key) => age_file::decrypt(file, std::iter::once(&**key as _)),
            Key::Ssh(key) => age_file::decrypt(file, std::iter::once(&**key as _)),
            Key::Locked(..) => Err(DecryptError::NoMatchingKeys),
        }
    }

    /// Open the key itself, if it has a passphrase.
    fn unlock(&self, ask: Ask<'_>) -> Result<(), IdentityError> {
        let opened = match &*self.key.borrow() {
            Key::X25519(_) | Key::Ssh(_) => return Ok(()),
            Key::Locked(key, _) => {
                let passphrase = ask(&self.file).ok_or_else(|| IdentityError::NoPassphrase(self.file.clone()))?;
                let not_opened =
                    |error| IdentityError::NotOpened { file: self.file.clone(), why: age_file::why(&error) };
                key.decrypt(passphrase).map_err(not_opened)?
            }
        };
        *self.key.borrow_mut() = Key::Ssh(Box::new(opened.into()));
        Ok(())
    }
}

fn ssh_key(text: &str) -> Result<Key, &'static str> {
    if text.starts_with("-----BEGIN PRIVATE KEY") || text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY") {
        return Err(NOT_OPENSSH);
    }
    let key = ssh::Identity::from_buffer(text.as_bytes(), None).map_err(|_| NO_KEY)?;
    match key {
        ssh::Identity::Unencrypted(_) => Ok(Key::Ssh(Box::new(key))),
        ssh::Identity::Encrypted(ref locked) => {
            let recipient = ssh::Recipient::try_from(key.clone()).map_err(|_| OTHER_TYPE)?;
            let stanza = age_file::stanza_for(&recipient).ok_or(OTHER_TYPE)?;
            Ok(Key::Locked(Box::new(locked.clone()), stanza))
        }
        ssh::Identity::Unsupported(ssh::UnsupportedKey::EncryptedPem) => Err(OLD_PEM),
        ssh::Identity::Unsupported(ssh::UnsupportedKey::EncryptedSsh(_)) => Err(CIPHER),
        ssh::Identity::Unsupported(ssh::UnsupportedKey::Hardware(_)) => Err(HARDWARE),
        ssh::Identity::Unsupported(ssh::UnsupportedKey::Type(_)) => Err(OTHER_TYPE),
    }
}

/// Decrypt `file` with one of `identities`. Asks for a passphrase only if a key that has one is needed.
pub fn decrypt(identities: &[Identity], file: &[u8], ask: Ask<'_>) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    for identity in identities {
        match identity.decrypt(file) {
            Err(DecryptError::NoMatchingKeys) => {}
            decrypted => return decrypted.map_err(|error| OpenError::File(age_file::why(&error))),
        }
    }
    for identity in identities.iter().filter(|identity| identity.opens(file)) {
        identity.unlock(ask)?;
        match identity.decrypt(file) {
            Err(DecryptError::NoMatchingKeys) => {}
            decrypted => return decrypted.map_err(|error| OpenError::File(age_file::why(&error))),
        }
    }
    Err(OpenError::File(age_file::why(&DecryptError::NoMatchingKeys)))
}

/// Why a secret could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A sentence about the file.
    #[error("{0}")]
    File(String),
}
