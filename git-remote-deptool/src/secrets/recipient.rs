//! The public keys that secrets are encrypted to.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::age_file::{self, Stanza};

/// The longest text of a recipient: an RSA key of 16384 bits and a comment.
const LONGEST: usize = 4096;

/// A public key, as it is written in `cluster.json`: `age1…`, `ssh-ed25519 AAAA…` or `ssh-rsa AAAA…`, the latter two with or
/// without a comment.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Recipient {
    text: String,
    key: Key,
}

#[derive(Clone)]
enum Key {
    X25519(age::x25519::Recipient),
    Ssh(age::ssh::Recipient),
}

/// Why a text is not a recipient.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipientError {
    #[error("a recipient is written as 'age1...', 'ssh-ed25519 AAAA...' or 'ssh-rsa AAAA...'")]
    Unknown,
    #[error("the age recipient has a mistake in it")]
    Age,
    #[error("the ssh key has a mistake in it")]
    Ssh,
    #[error("ssh keys of the type '{0}' can't be encrypted to; use an ssh-ed25519, ssh-rsa or age key")]
    Type(String),
    #[error("an RSA key has from 2048 to 16384 bits")]
    RsaSize,
    #[error("this is a private key: it does not belong here")]
    Private,
}

impl Recipient {
    /// Parse the text of a public key.
    pub fn parse(text: &str) -> Result<Self, RecipientError> {
        if text.len() > LONGEST || text.chars().any(char::is_control) {
            return Err(RecipientError::Unknown);
        }
        if text.starts_with("AGE-SECRET-KEY-") {
            return Err(RecipientError::Private);
        }
        let key = if text.starts_with("age1") {
            Key::X25519(text.parse().map_err(|_| RecipientError::Age)?)
        } else {
            Key::Ssh(ssh_key(text)?)
        };
        Ok(Recipient { text: text.to_owned(), key })
    }

    /// The text that was parsed.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is an age key, as hosts have, and not an ssh key.
    pub fn is_x25519(&self) -> bool {
        matches!(self.key, Key::X25519(_))
    }

    /// The key, for encrypting.
    pub fn key(&self) -> &dyn age::Recipient {
        match &self.key {
            Key::X25519(key) => key,
            Key::Ssh(key) => key,
        }
    }

    /// What an encrypted file says of this recipient. A file names an ssh key by four bytes of its hash. All it says of an age
    /// key is that there is one.
    pub fn stanza(&self) -> Stanza {
        match &self.key {
            Key::X25519(_) => Stanza::x25519(),
            Key::Ssh(_) => age_file::stanza_for(self.key()).unwrap_or_else(Stanza::x25519),
        }
    }

    /// The public key without a comment.
    fn without_comment(&self) -> String {
        match &self.key {
            Key::X25519(key) => key.to_string(),
            Key::Ssh(key) => key.to_string(),
        }
    }
}

fn ssh_key(text: &str) -> Result<age::ssh::Recipient, RecipientError> {
    use age::ssh::ParseRecipientKeyError as Error;
    let mut words = text.split(' ');
    let (Some(kind), Some(key)) = (words.next(), words.next()) else { return Err(RecipientError::Unknown) };
    let is_ssh = ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| kind.starts_with(prefix));
    let is_name = kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-@.".contains(&byte));
    if !is_ssh || !is_name {
        return Err(RecipientError::Unknown);
    }
    if !matches!(kind, "ssh-ed25519" | "ssh-rsa") {
        return Err(RecipientError::Type(kind.to_owned()));
    }
    let parsed: age::ssh::Recipient = format!("{kind} {key}").parse().map_err(|error| match error {
        Error::RsaModulusTooLarge | Error::RsaModulusTooSmall => RecipientError::RsaSize,
        _ => RecipientError::Ssh,
    })?;
    // The parser ignores what follows the key.
    match parsed.to_string() == format!("{kind} {key}") {
        true => Ok(parsed),
        false => Err(RecipientError::Ssh),
    }
}

/// Two texts of one key are the same recipient, whatever their comments.
impl PartialEq for Recipient {
    fn eq(&self, other: &Self) -> bool {
        self.without_comment() == other.without_comment()
    }
}

impl Eq for Recipient {}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Recipient {
    type Error = RecipientError;
    fn try_from(text: String) -> Result<Self, RecipientError> {
        Recipient::parse(&text)
    }
}

impl From<Recipient> for String {
    fn from(recipient: Recipient) -> String {
        recipient.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";
    const SSH: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN";

    #[test]
    fn a_comment_is_kept_and_makes_no_difference() {
        let with = Recipient::parse(&format!("{SSH} anna@laptop")).unwrap();
        assert_eq!(with, Recipient::parse(SSH).unwrap());
        assert_eq!(with.as_str(), format!("{SSH} anna@laptop"));
        assert_ne!(with, Recipient::parse(AGE).unwrap());
    }

    #[test]
    fn what_is_no_public_key_is_refused_with_the_reason() {
        for (text, expected) in [
            ("", RecipientError::Unknown),
            ("anna", RecipientError::Unknown),
            ("ssh-ed25519", RecipientError::Unknown),
            (&format!("{AGE}\n"), RecipientError::Unknown),
            (&AGE.replace("zv", "vz"), RecipientError::Age),
            (&SSH[..60], RecipientError::Ssh),
            (&format!("{SSH}AAAA"), RecipientError::Ssh),
            ("ecdsa-sha2-nistp256 AAAA", RecipientError::Type("ecdsa-sha2-nistp256".into())),
            ("sk-ssh-ed25519@openssh.com AAAA", RecipientError::Type("sk-ssh-ed25519@openssh.com".into())),
            ("AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0", RecipientError::Private),
        ] {
            assert_eq!(Recipient::parse(text).err(), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_file_names_an_ssh_key_and_counts_age_keys() {
        let (age, ssh) = (Recipient::parse(AGE).unwrap(), Recipient::parse(SSH).unwrap());
        let file = age_file::encrypt(b"x", [&age, &ssh, &age].map(Recipient::key).into_iter()).unwrap();
        let stanzas = age_file::stanzas(&file).unwrap();
        assert_eq!(stanzas, [age.stanza(), ssh.stanza(), age.stanza()]);
        assert_ne!(age.stanza(), ssh.stanza());
    }
}
