//! Addresses of remotes: the part of a url after `deptool::`.
//!
//! Git strips `deptool::`, and passes a url that begins with `deptool://` unchanged. Both forms mean the same. The
//! second is for programs that only understand urls.

use std::{
    fmt,
    net::Ipv6Addr,
    path::{Path, PathBuf},
    str::FromStr,
};

use deptool_agent::shared::{
    name::{HostName, NameError},
    text::printable,
};
use gix::bstr::ByteSlice;
use serde::{Deserialize, Serialize};

/// What a url names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// One host, over OpenSSH.
    Ssh(SshAddress),
    /// A local root, absolute or relative to the directory that Git starts the helper in.
    Local(PathBuf),
    /// `@all`: every host of the tree that is pushed.
    All,
    /// `@group`: the hosts in `deptool.group.<group>`.
    Group(GroupName),
}

/// What OpenSSH connects to. `None` leaves the choice to `ssh_config(5)`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SshAddress {
    /// The login user.
    pub user: Option<User>,
    /// A name that `ssh` understands, or an IP address.
    pub host: SshHost,
    /// The port, 1 and more.
    pub port: Option<u16>,
}

/// The machine to connect to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SshHost {
    /// A name, an alias of `ssh_config(5)`, or an IPv4 address.
    Name(HostName),
    /// An IPv6 address, in brackets in the url. It is not valid as the name of a directory, so `deptoolHost` must be
    /// set.
    Ipv6(Ipv6Addr),
}

/// The name of a user: letters, digits, `._+@-`, no leading dash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct User(String);

/// The name of a group. It is part of a key in Git's configuration, so it consists of letters, digits and dashes, and
/// case is ignored. Not `all`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupName(String);

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid address '{shown}': {why}")]
pub struct UrlError {
    shown: String,
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Why {
    #[error("it is empty")]
    Empty,
    #[error("{0}")]
    Host(#[from] NameError),
    #[error("an IPv6 address is written as '[::1]'")]
    Ipv6,
    #[error("the user may only have letters, digits and '._+@-'")]
    User,
    #[error("the port is a number from 1 to 65535")]
    Port,
    #[error("a path after the host is not supported")]
    PathAfterHost,
    #[error("a group has only letters, digits and '-', and begins with a letter")]
    Group,
    #[error("a path may not have control characters")]
    Path,
}

impl SshHost {
    /// The address as the name of a directory, if it is valid as one.
    pub fn as_host_name(&self) -> Option<&HostName> {
        match self {
            SshHost::Name(name) => Some(name),
            SshHost::Ipv6(_) => None,
        }
    }
}

/// For `cluster.json`: an IPv6 address with or without brackets.
impl TryFrom<String> for SshHost {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(&text);
        match bare.parse() {
            Ok(address) => Ok(SshHost::Ipv6(address)),
            Err(_) => HostName::parse(text.as_bytes()).map(SshHost::Name),
        }
    }
}

impl From<SshHost> for String {
    fn from(host: SshHost) -> String {
        host.to_string()
    }
}

impl TryFrom<String> for User {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        User::parse(text.as_bytes()).map_err(|why| why.to_string())
    }
}

impl From<User> for String {
    fn from(user: User) -> String {
        user.0
    }
}

impl TryFrom<String> for GroupName {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        GroupName::parse(text.as_bytes()).ok_or_else(|| Why::Group.to_string())
    }
}

impl From<GroupName> for String {
    fn from(group: GroupName) -> String {
        group.0
    }
}

/// Without brackets, as `ssh` takes it.
impl fmt::Display for SshHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SshHost::Name(name) => name.fmt(f),
            SshHost::Ipv6(address) => address.fmt(f),
        }
    }
}

/// In the form of a url.
impl fmt::Display for SshAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{}@", user.0)?;
        }
        match &self.host {
            SshHost::Name(name) => name.fmt(f)?,
            SshHost::Ipv6(address) => write!(f, "[{address}]")?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// In the form of a url, without `deptool::`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ssh(ssh) => ssh.fmt(f),
            Address::Local(path) => f.write_str(&printable(path.as_os_str().as_encoded_bytes())),
            Address::All => f.write_str("@all"),
            Address::Group(group) => write!(f, "@{}", group.0),
        }
    }
}

impl User {
    /// The user as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parse(bytes: &[u8]) -> Result<Self, Why> {
        let good = |b: &u8| b.is_ascii_alphanumeric() || b"._+@-".contains(b);
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.is_empty() && !text.starts_with('-') && bytes.iter().all(good) => Ok(User(text.into())),
            Ok(_) | Err(_) => Err(Why::User),
        }
    }
}

impl GroupName {
    /// The name in lower case, because the configuration ignores case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Parse the name of a group.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let letter = bytes.first().is_some_and(u8::is_ascii_alphabetic);
        let good = letter && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
        let name = bytes.to_str().ok().filter(|_| good)?.to_ascii_lowercase();
        (name != "all").then_some(GroupName(name))
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Address {
    /// Parse the address that Git passes to a helper.
    pub fn parse(address: &[u8]) -> Result<Self, UrlError> {
        parse(address).map_err(|why| UrlError { shown: printable(address), why })
    }

    /// The directory in the tree that the address names, if any.
    pub fn directory_name(&self) -> Option<HostName> {
        match self {
            Address::Ssh(ssh) => ssh.host.as_host_name().cloned(),
            Address::Local(path) => HostName::parse(path.file_name()?.as_encoded_bytes()).ok(),
            Address::All | Address::Group(_) => None,
        }
    }

    /// Parse a configured url. `None` if it is not one of ours.
    pub fn parse_url(url: &[u8]) -> Option<Result<Self, UrlError>> {
        match url.strip_prefix(b"deptool::") {
            Some(address) => Some(Self::parse(address)),
            None => url.starts_with(b"deptool://").then(|| Self::parse(url)),
        }
    }
}

fn parse(address: &[u8]) -> Result<Address, Why> {
    let rest = match address.strip_prefix(b"deptool://") {
        // A slash after the host is allowed. If nothing else follows, it is a path.
        Some(rest) if !rest.starts_with(b"/") => rest.strip_suffix(b"/").unwrap_or(rest),
        Some(path) => path,
        None => address,
    };
    match rest {
        b"" => Err(Why::Empty),
        b"@all" => Ok(Address::All),
        [b'@', group @ ..] => GroupName::parse(group).map(Address::Group).ok_or(Why::Group),
        _ if is_path(rest) => local(rest).map(Address::Local),
        _ => ssh(rest).map(Address::Ssh),
    }
}

fn is_path(rest: &[u8]) -> bool {
    rest.starts_with(b"/") || rest.starts_with(b"./") || rest.starts_with(b"../") || rest == b"." || rest == b".."
}

fn local(path: &[u8]) -> Result<PathBuf, Why> {
    if path.iter().any(u8::is_ascii_control) {
        return Err(Why::Path);
    }
    path.to_path().map(Path::to_owned).map_err(|_| Why::Path)
}

fn ssh(text: &[u8]) -> Result<SshAddress, Why> {
    // The user may contain an '@', the host can't.
    let (user, rest) = match text.rsplit_once_str("@") {
        Some((user, rest)) => (Some(User::parse(user)?), rest),
        None => (None, text),
    };
    if rest.contains(&b'/') {
        return Err(Why::PathAfterHost);
    }
    let (host, port) = match rest.strip_prefix(b"[") {
        Some(bracketed) => {
            let (address, port) = bracketed.split_once_str("]").ok_or(Why::Ipv6)?;
            (SshHost::Ipv6(number(address).ok_or(Why::Ipv6)?), port)
        }
        None => {
            let (name, port) = rest.split_at(rest.find_byte(b':').unwrap_or(rest.len()));
            if port.iter().filter(|b| **b == b':').count() > 1 {
                return Err(Why::Ipv6);
            }
            (SshHost::Name(HostName::parse(name)?), port)
        }
    };
    let port = match port {
        b"" => None,
        [b':', digits @ ..] if digits.iter().all(u8::is_ascii_digit) => {
            Some(number(digits).filter(|port| *port != 0).ok_or(Why::Port)?)
        }
        _ => return Err(Why::Port),
    };
    Ok(SshAddress { user, host, port })
}

fn number<T: FromStr>(bytes: &[u8]) -> Option<T> {
    bytes.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ssh_of(text: &str) -> SshAddress {
        match Address::parse(text.as_bytes()) {
            Ok(Address::Ssh(ssh)) => ssh,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn error(text: &str) -> String {
        Address::parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_host_may_have_a_user_and_a_port() {
        let all = ssh_of("root@web1.example.org:2222");
        assert_eq!(all.user.unwrap().as_str(), "root");
        assert_eq!(all.host.to_string(), "web1.example.org");
        assert_eq!(all.port, Some(2222));
        assert_eq!(ssh_of("web1"), ssh_of("deptool://web1/"));
        assert_eq!(ssh_of("web1"), ssh_of("deptool://web1"));
        assert_eq!(ssh_of("a@b@web1").user.unwrap().as_str(), "a@b");
    }

    #[test]
    fn an_ipv6_address_needs_brackets_and_can_not_be_a_directory() {
        let v6 = ssh_of("root@[::1]:22");
        assert_eq!(v6.host.to_string(), "::1");
        assert_eq!(v6.port, Some(22));
        assert!(v6.host.as_host_name().is_none());
        assert_eq!(v6.to_string(), "root@[::1]:22");
        assert_eq!(error("::1"), "invalid address '::1': an IPv6 address is written as '[::1]'");
        assert!(Address::parse(b"[web1]").is_err());
        assert!(Address::parse(b"[::1]22").is_err());
    }

    #[test]
    fn a_slash_or_a_dot_slash_begins_a_path() {
        for path in ["/", "/srv/root", "./root", "../root", ".", "/a b"] {
            assert_eq!(Address::parse(path.as_bytes()), Ok(Address::Local(path.into())));
        }
        assert_eq!(Address::parse(b"deptool:///srv/root"), Ok(Address::Local("/srv/root".into())));
    }

    #[test]
    fn an_at_sign_begins_a_group() {
        assert_eq!(Address::parse(b"@all"), Ok(Address::All));
        assert_eq!(Address::parse(b"deptool://@all"), Ok(Address::All));
        assert_eq!(Address::parse(b"@Web"), Ok(Address::Group(GroupName("web".into()))));
        for bad in ["@", "@-x", "@a b", "@a/b", "@ALL", "@9"] {
            assert!(error(bad).contains("a group has only"), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(error(""), "invalid address '': it is empty");
        assert_eq!(error("web1:/srv"), "invalid address 'web1:/srv': a path after the host is not supported");
        assert_eq!(
            error("deptool://web1/x"),
            "invalid address 'deptool://web1/x': a path after the host is not supported"
        );
        for port in ["web1:", "web1:0", "web1:65536", "web1:x", "web1:+1"] {
            assert!(error(port).contains("the port is a number"), "{port}");
        }
        assert!(error("/a\nb").contains("control characters"));
    }

    #[test]
    fn nothing_that_ssh_would_take_for_an_option_passes() {
        for bad in ["-oProxyCommand=x", "-l@web1", "root@-x", "@-x", "a;b@web1", "a b@web1", "$(x)@web1", "@web1:22"] {
            assert!(Address::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn urls_of_others_are_none_of_ours() {
        assert!(Address::parse_url(b"git@github.com:a/b").is_none());
        assert!(Address::parse_url(b"deptool.example.org:a/b").is_none());
        assert_eq!(Address::parse_url(b"deptool::@all"), Some(Ok(Address::All)));
        assert!(Address::parse_url(b"deptool://web1").unwrap().is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in any::<Vec<u8>>()) {
            let _ = Address::parse(&bytes);
        }

        #[test]
        fn what_is_parsed_is_shown_as_it_was_typed(
            text in "([a-z][a-z0-9._+-]{0,5}@)?[a-z][a-z0-9-]{0,8}(:[1-9][0-9]{0,3})?"
        ) {
            prop_assert_eq!(ssh_of(&text).to_string(), text);
        }
    }
}
