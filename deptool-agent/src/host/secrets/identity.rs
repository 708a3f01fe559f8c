//! The age identity of this host: the key that its secrets are encrypted to.
//!
//! The agent makes it at the first contact, and never sends it anywhere. Helpers get the recipient, which is public. The file
//! is as `age-keygen` writes it, so that root can use it with `age -d -i`.
//!
//! A damaged identity is never replaced: whatever is left of it may be all that can open the secrets.

use bech32::{Bech32, Hrp, primitives::decode::CheckedHrpstring};
use x25519_dalek::{PublicKey, StaticSecret, X25519_BASEPOINT_BYTES};
use zeroize::Zeroizing;

use crate::{
    host::state::{
        durable::{self, NOTE},
        error::{Context, Damage, HostError},
        identity::create_once,
        layout::Home,
    },
    shared::id::random_bytes,
};

const IDENTITY: &str = "AGE-SECRET-KEY-";
const RECIPIENT: &str = "age";
const ADVICE: &str =
    "restore it from a backup, or remove it, push once, and encrypt this host's secrets to its new recipient";

/// An X25519 identity of age.
pub struct Identity(StaticSecret);

impl Identity {
    /// A new random identity.
    fn random() -> std::io::Result<Identity> {
        Ok(Identity(StaticSecret::from(*Zeroizing::new(random_bytes::<32>()?))))
    }

    /// Parse the text that [`Identity::text`] or age-keygen has written: comments, and one key.
    pub fn parse(text: &str) -> Option<Identity> {
        let mut keys = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let (key, None) = (keys.next()?, keys.next()) else { return None };
        // Bech32 may be written in either case, but age writes identities in this one.
        if !key.starts_with(IDENTITY) {
            return None;
        }
        let key = CheckedHrpstring::new::<Bech32>(key).ok()?;
        if !key.hrp().as_str().eq_ignore_ascii_case(IDENTITY) {
            return None;
        }
        let bytes = Zeroizing::new(key.byte_iter().collect::<Vec<u8>>());
        // Bech32 has groups of five bits, and two of them make no byte.
        let bytes = Zeroizing::new(<[u8; 32]>::try_from(bytes.as_slice()).ok()?);
        Some(Identity(StaticSecret::from(*bytes)))
    }

    /// The file for this identity.
    fn text(&self) -> Zeroizing<String> {
        let key = Zeroizing::new(bech32(IDENTITY, self.0.as_bytes()));
        let key = Zeroizing::new(key.to_ascii_uppercase());
        Zeroizing::new(format!("# public key: {}\n{}\n", self.recipient(), *key))
    }

    /// The recipient that files are encrypted to: `age1…`.
    pub fn recipient(&self) -> String {
        bech32(RECIPIENT, &self.public())
    }

    /// The secret that this identity shares with the owner of `share`. `None` if it does not depend on this identity.
    pub fn shared_secret(&self, share: [u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
        let secret = self.0.diffie_hellman(&PublicKey::from(share));
        secret.was_contributory().then(|| Zeroizing::new(secret.to_bytes()))
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        // Not `PublicKey::from`: that multiplies on another curve, which is as much code again.
        self.0.diffie_hellman(&PublicKey::from(X25519_BASEPOINT_BYTES)).to_bytes()
    }
}

fn bech32(prefix: &str, data: &[u8; 32]) -> String {
    let prefix = Hrp::parse_unchecked(prefix);
    // A buffer that does not grow leaves no copy behind.
    let mut text = String::with_capacity(128);
    // This only fails if the text is longer than Bech32 permits.
    let _ = bech32::encode_lower_to_fmt::<Bech32, _>(&mut text, prefix, data);
    text
}

/// The identity of this host. `None` if none was made yet.
pub fn load(home: &Home) -> Result<Option<Identity>, HostError> {
    let path = home.age_identity();
    let with_advice = |error| match error {
        HostError::Damaged(damage) => HostError::Damaged(damage.with_advice(ADVICE)),
        error => error,
    };
    // An empty file is damaged: an identity is written before it gets its name.
    let Some(bytes) = durable::read_even_if_empty(&path, NOTE).map_err(with_advice)? else { return Ok(None) };
    let bytes = Zeroizing::new(bytes);
    let identity = std::str::from_utf8(&bytes).ok().and_then(Identity::parse);
    let damage = || Damage::of(&path, "does not hold an age identity").with_advice(ADVICE);
    identity.map(Some).ok_or_else(|| damage().into())
}

/// The identity of this host. If there is none, it is made. A damaged one is an error.
pub fn load_or_make(home: &Home) -> Result<Identity, HostError> {
    if let Some(identity) = load(home)? {
        return Ok(identity);
    }
    home.create_state()?;
    let path = home.age_identity();
    let identity = Identity::random().during("read", std::path::Path::new("/dev/urandom"))?;
    create_once(home, &path, identity.text().as_bytes())?;
    // Another agent may have been first.
    let gone = || Damage::of(&path, "was removed while it was made").into();
    load(home)?.ok_or_else(gone)
}

/// The recipient for this host's secrets. `None` if there is no state directory yet, as on a root directory to which nothing was
/// ever deployed.
pub fn recipient(home: &Home) -> Result<Option<String>, HostError> {
    match home.directory().exists() {
        true => Ok(Some(load_or_make(home)?.recipient())),
        false => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    /// A pair that age-keygen 1.1.1 made.
    const KEY: &str = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0";
    const PUBLIC: &str = "age1xmwwc06ly3ee5rytxm9mflaz2u56jjj36s0mypdrwsvlul66mv4q47ryef";

    fn home() -> (tempfile::TempDir, Home) {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        fs::create_dir_all(home.directory()).unwrap();
        (directory, home)
    }

    #[test]
    fn an_identity_is_written_and_read_as_age_does() {
        let text = format!("# created: 2026-11-29\n# public key: {PUBLIC}\n\n{KEY}\n");
        let identity = Identity::parse(&text).unwrap();
        assert_eq!(identity.recipient(), PUBLIC);
        assert_eq!(*identity.text(), format!("# public key: {PUBLIC}\n{KEY}\n"));
    }

    #[test]
    fn what_is_not_exactly_one_identity_is_not_taken_for_one() {
        let flipped = KEY.replace("LM0", "LM8");
        let lower = KEY.to_ascii_lowercase();
        for text in
            ["", "# nothing", PUBLIC, &KEY[..70], &flipped, &lower, &format!("{KEY}\n{KEY}"), &format!("{KEY}Q")]
        {
            assert!(Identity::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn the_identity_is_made_once_and_only_its_owner_can_read_it() {
        let (_directory, home) = home();
        let first = recipient(&home).unwrap();
        assert!(first.as_ref().is_some_and(|text| text.starts_with("age1") && text.len() == 62));
        assert_eq!(recipient(&home).unwrap(), first);
        assert_eq!(fs::metadata(home.age_identity()).unwrap().permissions().mode() & 0o7777, 0o600);
        fs::remove_file(home.age_identity()).unwrap();
        assert_ne!(recipient(&home).unwrap(), first, "a lost identity is replaced");
    }

    #[test]
    fn a_root_directory_without_state_gets_no_identity() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(recipient(&Home::new(directory.path())).unwrap(), None);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_identity_is_said_and_never_overwritten() {
        let (_directory, home) = home();
        home.create_state().unwrap();
        for damaged in ["", "garbage", &KEY[..70]] {
            fs::write(home.age_identity(), damaged).unwrap();
            let error = recipient(&home).unwrap_err().to_string();
            assert!(error.contains("does not hold an age identity: restore it"), "{error}");
            assert_eq!(fs::read_to_string(home.age_identity()).unwrap(), damaged);
        }
    }

    #[test]
    fn the_file_of_an_agent_that_was_killed_goes() {
        let (_directory, home) = home();
        home.create_state().unwrap();
        let left = home.state().join("identity.999999999");
        fs::write(&left, "").unwrap();
        recipient(&home).unwrap();
        assert!(!left.exists());
    }
}
