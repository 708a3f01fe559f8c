//! Names from a tree, an operator or a host. They are parsed once, where they come in.
//!
//! A value of one of these types is safe in a path, on a terminal and in a unit name.

use std::{borrow::Borrow, fmt};

use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} '{shown}': {why}")]
pub struct NameError {
    kind: &'static str,
    /// The refused bytes, escaped for a terminal.
    shown: String,
    why: &'static str,
}

impl NameError {
    fn new(kind: &'static str, bytes: &[u8], why: &'static str) -> Self {
        NameError { kind, shown: crate::shared::text::printable(bytes), why }
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:path) => {
        name_type! { $(#[$doc])* $name, $kind, $check, $name::parse }
    };
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:path, $stored:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Check that `bytes` are a valid name.
            pub fn parse(bytes: &[u8]) -> Result<Self, NameError> {
                match (std::str::from_utf8(bytes), $check(bytes)) {
                    (_, Err(why)) => Err(NameError::new($kind, bytes, why)),
                    (Err(_), _) => Err(NameError::new($kind, bytes, "not UTF-8")),
                    (Ok(text), Ok(())) => Ok(Self(text.to_owned())),
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                $stored(text.as_bytes())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name_type! {
    /// A host: a directory at the root of the config tree, and the name under which `ssh` reaches the host.
    HostName, "host name", check_host
}
name_type! {
    /// An app: a directory in a host's directory.
    AppName, "app name", check_app
}
name_type! {
    /// A systemd unit with its suffix: `web.service`, `backup@daily.timer`. A unit of a user's service manager has the user in
    /// front: `alice/web.service`. [`UnitName::parse`] accepts no user, because what a manager or a unit file names is of the
    /// same manager.
    UnitName, "unit name", check_unit, UnitName::stored
}
name_type! {
    /// A cluster: the short name of the branch that holds its configuration (`prod` for `refs/heads/prod`).
    ClusterName, "cluster name", check_cluster
}

fn check_host(bytes: &[u8]) -> Result<(), &'static str> {
    check_length(bytes, 253)?;
    if !bytes.iter().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(b)) {
        return Err("only letters, digits, '.', '-' and '_' are allowed");
    }
    if bytes.starts_with(b".") || bytes.starts_with(b"-") {
        return Err("it may not begin with '.' or '-'");
    }
    // A host's tracking refs are `refs/remotes/<host>/…`: see git-check-ref-format(1).
    if bytes.windows(2).any(|w| w == b"..") || bytes.ends_with(b".") || bytes.ends_with(b".lock") {
        return Err("Git could not name a ref after it ('..', a final '.' or '.lock')");
    }
    Ok(())
}

fn check_app(bytes: &[u8]) -> Result<(), &'static str> {
    check_length(bytes, 255)?;
    check_component(bytes)?;
    if bytes == b"current" || bytes == b"previous" {
        return Err("the name is reserved");
    }
    if bytes.starts_with(b".") || bytes.starts_with(b"-") {
        return Err("it may not begin with '.' or '-'");
    }
    Ok(())
}

/// The rules of systemd.unit(5): a name, perhaps `@` and an instance, and a type's suffix; 255 bytes at most.
fn check_unit(bytes: &[u8]) -> Result<(), &'static str> {
    check_length(bytes, 255)?;
    if !bytes.iter().all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(b)) {
        return Err("only letters, digits and ':-_.\\@' are allowed");
    }
    let dot = bytes.iter().rposition(|b| *b == b'.').ok_or("it has no suffix such as '.service'")?;
    let (stem, suffix) = (&bytes[..dot], &bytes[dot + 1..]);
    if stem.is_empty() || stem.starts_with(b"@") || stem.starts_with(b".") || stem.starts_with(b"-") {
        return Err("it needs a name before the suffix");
    }
    const SUFFIXES: [&[u8]; 9] =
        [b"service", b"socket", b"timer", b"path", b"mount", b"automount", b"target", b"swap", b"slice"];
    if !SUFFIXES.contains(&suffix) {
        return Err("units with this suffix can't be deployed");
    }
    Ok(())
}

/// What kind of unit a name is one of: its suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnitType {
    Service,
    Socket,
    Timer,
    Path,
    Mount,
    Automount,
    Swap,
    Slice,
    Target,
}

impl UnitType {
    pub fn of(unit: &UnitName) -> UnitType {
        let suffix = unit.as_str().rsplit_once('.').map_or("", |(_, suffix)| suffix);
        // A unit's name has no other suffix.
        UnitType::of_suffix(suffix).unwrap_or(UnitType::Service)
    }

    /// `socket` -> [`UnitType::Socket`].
    pub fn of_suffix(suffix: &str) -> Option<UnitType> {
        Some(match suffix {
            "service" => UnitType::Service,
            "socket" => UnitType::Socket,
            "timer" => UnitType::Timer,
            "path" => UnitType::Path,
            "mount" => UnitType::Mount,
            "automount" => UnitType::Automount,
            "swap" => UnitType::Swap,
            "slice" => UnitType::Slice,
            "target" => UnitType::Target,
            _ => return None,
        })
    }
}

/// The user in front of a unit's name or of a pattern, and the rest.
pub fn split_user(text: &str) -> (Option<&str>, &str) {
    text.split_once('/').map_or((None, text), |(user, rest)| (Some(user), rest))
}

impl UnitName {
    /// Parse a name that may have a user in front.
    fn stored(bytes: &[u8]) -> Result<UnitName, NameError> {
        let Some(at) = bytes.iter().position(|byte| *byte == b'/') else { return UnitName::parse(bytes) };
        let user = String::from_utf8_lossy(&bytes[..at]).into_owned();
        let user = Account::try_from(user).map_err(|why| NameError::new("user name", &bytes[..at], why))?;
        Ok(UnitName::parse(&bytes[at + 1..])?.of(Some(&user)))
    }

    /// The unit of this name that this user's manager has, or the system's if there is no user.
    pub fn of(&self, user: Option<&Account>) -> UnitName {
        match user {
            Some(user) => UnitName(format!("{user}/{}", self.name())),
            None => UnitName(self.name().to_owned()),
        }
    }

    /// Another unit of the same manager.
    pub fn beside(&self, name: &str) -> Option<UnitName> {
        UnitName::parse(name.as_bytes()).ok().map(|unit| unit.of(self.user().as_ref()))
    }

    /// The user whose manager it belongs to. `None` for a unit of the system.
    pub fn user(&self) -> Option<Account> {
        split_user(&self.0).0.map(|user| Account(user.to_owned()))
    }

    /// What its manager calls it.
    pub fn name(&self) -> &str {
        split_user(&self.0).1
    }

    /// Whether it is a template, of which only instances can run: `web@.service`.
    pub fn is_template(&self) -> bool {
        self.as_str().contains("@.")
    }
}

/// The name of a user or group on the host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Account(String);

impl Account {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Account {
    type Error = &'static str;
    /// The strict rule of systemd's "User/Group Name Syntax", with `.` allowed inside.
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
        if first && rest && text.len() <= 31 { Ok(Account(text)) } else { Err("it is not a valid user or group name") }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Account> for String {
    fn from(account: Account) -> String {
        account.0
    }
}

/// A branch name without slashes: it is one component of `refs/remotes/<host>/<cluster>`.
fn check_cluster(bytes: &[u8]) -> Result<(), &'static str> {
    check_length(bytes, 200)?;
    if !bytes.iter().all(|b| b.is_ascii_alphanumeric() || b".-_+".contains(b)) {
        return Err("only letters, digits and '.-_+' are allowed");
    }
    if bytes.starts_with(b".") || bytes.starts_with(b"-") {
        return Err("it may not begin with '.' or '-'");
    }
    if bytes == b"HEAD" || bytes.windows(2).any(|w| w == b"..") || bytes.ends_with(b".") || bytes.ends_with(b".lock") {
        return Err("Git does not allow it as a branch name");
    }
    Ok(())
}

fn check_length(bytes: &[u8], limit: usize) -> Result<(), &'static str> {
    match bytes.len() {
        0 => Err("it is empty"),
        n if n > limit => Err("it is too long"),
        _ => Ok(()),
    }
}

/// The longest name that Linux file systems have, in bytes.
pub const LONGEST_NAME: usize = 255;

/// Check one component of a path in a tree. It may have any bytes but those that leave the directory, break a line or
/// control a terminal. The error says what is wrong.
pub fn check_component(bytes: &[u8]) -> Result<(), &'static str> {
    if bytes.is_empty() {
        return Err("it is empty");
    }
    if bytes == b"." || bytes == b".." {
        return Err("'.' and '..' are not allowed");
    }
    if bytes.len() > LONGEST_NAME {
        return Err("a name in it is longer than 255 bytes");
    }
    if bytes.eq_ignore_ascii_case(b".git") {
        return Err("'.git' is not allowed");
    }
    if bytes.contains(&b'/') {
        return Err("'/' is not allowed");
    }
    if bytes.iter().any(|b| b.is_ascii_control()) {
        return Err("control characters are not allowed");
    }
    // C1 control characters in UTF-8. Some terminals obey them, too.
    if bytes.windows(2).any(|w| w[0] == 0xc2 && (0x80..0xa0).contains(&w[1])) {
        return Err("control characters are not allowed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_what_ssh_and_git_both_take() {
        for good in ["web1", "ns1.example.org", "a", "A_b-c.9"] {
            assert!(HostName::parse(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["", ".x", "-x", "a b", "a/b", "a..b", "x.lock", "x.", "a\n", "ü", &"x".repeat(254)] {
            assert!(HostName::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn app_names_can_not_leave_their_directory() {
        for good in ["nginx", "my app", "zürich"] {
            assert!(AppName::parse(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["current", "previous", ".", "..", ".git", ".hidden", "-x", "a/b", "a\0", "a\nb", "\u{1b}[2J"] {
            assert!(AppName::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn unit_names_have_a_stem_and_a_known_suffix() {
        for good in ["web.service", "backup@daily.timer", "t@.service", "dev-sda\\x2d1.mount", "a.b.socket"] {
            assert!(UnitName::parse(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["web", ".service", "@x.service", "a b.service", "x.conf", "x.device", "x.service/y", "-.mount"] {
            assert!(UnitName::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_unit_of_a_user_is_told_from_that_of_the_system() {
        let of_alice = UnitName::try_from("alice/web@a.service".to_owned()).unwrap();
        assert_eq!((of_alice.user().unwrap().as_str(), of_alice.name()), ("alice", "web@a.service"));
        assert_eq!(of_alice.beside("db.socket").unwrap().as_str(), "alice/db.socket");
        assert_eq!(of_alice.of(None).as_str(), "web@a.service");
        assert_eq!(of_alice.of(None).of(of_alice.user().as_ref()), of_alice);
        // A manager or a unit file can't name a unit of another manager.
        assert!(UnitName::parse(b"alice/web.service").is_err());
        assert_eq!(of_alice.beside("bob/web.service"), None);
        for bad in ["/web.service", "a b/web.service", "alice/web", "alice//web.service", "alice/../web.service"] {
            assert!(UnitName::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_shows_no_control_character() {
        let error = AppName::parse(b"\x1b[2Jx\n").unwrap_err().to_string();
        assert!(!error.chars().any(char::is_control), "{error:?}");
    }
}
