//! Paths inside an app, and external paths: those on the host outside of `/var/lib/deptool`.

use std::{ffi::OsStr, fmt, os::unix::ffi::OsStrExt, path::Path};

use serde::{Deserialize, Serialize};

use crate::shared::{
    name::{Account, LONGEST_NAME, check_component},
    text::printable,
};

/// The directory on a host that belongs to deptool.
pub const STATE_DIR: &str = "/var/lib/deptool";

/// The limit for the length of a path in an app, in bytes.
const LONGEST: usize = 4000;

/// Why a path was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid path '{shown}': {why}")]
pub struct PathError {
    shown: String,
    why: &'static str,
}

fn bad(bytes: &[u8], why: &'static str) -> PathError {
    PathError { shown: printable(bytes), why }
}

/// The path of a file in an app. [`check_component`] accepts each of its components.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(Vec<u8>);

impl TreePath {
    /// Parse a path that is relative to an app's directory.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.len() > LONGEST {
            return Err(bad(&bytes[..80], "it is too long"));
        }
        if bytes.starts_with(b"/") {
            return Err(bad(bytes, "it is not relative to the app"));
        }
        for component in bytes.split(|b| *b == b'/') {
            check_component(component).map_err(|why| bad(bytes, why))?;
        }
        Ok(TreePath(bytes.to_vec()))
    }

    /// The path of the file or directory `name` in the directory `above`. None is the app's own directory.
    pub fn child(above: Option<&TreePath>, name: &[u8]) -> Result<Self, PathError> {
        // A forged name with a slash in it would pass as a longer path.
        let shown = if name.len() > LONGEST_NAME { &name[..80] } else { name };
        check_component(name).map_err(|why| bad(shown, why))?;
        let Some(above) = above else { return Ok(TreePath(name.to_vec())) };
        let path = [above.as_bytes(), b"/", name].concat();
        if path.len() > LONGEST { Err(bad(&path[..80], "it is too long")) } else { Ok(TreePath(path)) }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The components of the path. There is at least one.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/')
    }

    /// The user whose manager this file is for: that of `user/alice/systemd/web.service`. An error if that is not a valid name.
    pub fn user(&self) -> Option<Result<Account, &'static str>> {
        let mut components = self.components();
        let ends = (components.next()?, components.next()?, components.next()?, components.next()?);
        let (b"user", user, b"systemd" | b"quadlets", _) = ends else { return None };
        Some(Account::try_from(String::from_utf8_lossy(user).into_owned()))
    }

    /// A directory of an app that has this name.
    pub fn directory(name: &'static str) -> TreePath {
        TreePath(name.into())
    }

    /// The beginning of all paths below this directory.
    pub fn below(&self) -> TreePath {
        TreePath([&self.0, &b"/"[..]].concat())
    }

    /// Whether this path is `directory` or lies below it.
    pub fn is_within(&self, directory: &TreePath) -> bool {
        self.0.strip_prefix(directory.0.as_slice()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TreePath({self})")
    }
}

impl Serialize for TreePath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) if serializer.is_human_readable() => serializer.serialize_str(text),
            _ => serializer.serialize_bytes(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for TreePath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> serde::de::Visitor<'de> for Bytes {
            type Value = TreePath;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path in the app")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<TreePath, E> {
                TreePath::parse(text.as_bytes()).map_err(E::custom)
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<TreePath, E> {
                TreePath::parse(bytes).map_err(E::custom)
            }
        }
        match deserializer.is_human_readable() {
            true => deserializer.deserialize_any(Bytes),
            false => deserializer.deserialize_bytes(Bytes),
        }
    }
}

/// An absolute path on the host, spelled as in the config tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExternalPath(String);

/// Directories in which a manifest must not put a link, and the reason or what to use instead.
const OFF_LIMITS: [(&str, &str); 7] = [
    (STATE_DIR, "it is deptool's own directory"),
    ("/etc/systemd/system", "put the file into the app's 'systemd/' directory instead"),
    ("/etc/sysusers.d", "put the file into the app's 'sysusers/' directory instead"),
    ("/proc", "it is not a place for configuration"),
    ("/sys", "it is not a place for configuration"),
    ("/dev", "it is not a place for configuration"),
    ("/run", "it would not survive a reboot"),
];

impl ExternalPath {
    /// Parse an absolute path. It has no `.`, no `..`, no empty components and no control characters.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let bytes = text.as_bytes();
        let rest = text.strip_prefix('/').ok_or_else(|| bad(bytes, "it is not absolute"))?;
        if text.len() > 4000 {
            return Err(bad(&bytes[..80], "it is too long"));
        }
        for component in rest.split('/') {
            check_component(component.as_bytes()).map_err(|why| bad(bytes, why))?;
        }
        Ok(ExternalPath(text.to_owned()))
    }

    /// Like [`ExternalPath::parse`], for a link that a manifest asks for: some places are off limits.
    pub fn parse_link(text: &str) -> Result<Self, PathError> {
        let path = Self::parse(text)?;
        // Temporary files and backups beside deployed paths are named like this.
        let name = text.rsplit('/').next().unwrap_or_default();
        if name.starts_with('.') && name.contains(".deptool-") {
            return Err(bad(text.as_bytes(), "the name is reserved for backups"));
        }
        let real = path.normalized();
        for (directory, why) in OFF_LIMITS {
            // A link *above* the state directory would replace that directory.
            if is_within(&real, directory) || is_within(STATE_DIR, &real) {
                return Err(bad(text.as_bytes(), why));
            }
        }
        Ok(path)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path without its leading slash, for joining to a root directory.
    pub fn relative(&self) -> &Path {
        Path::new(&self.0[1..])
    }

    /// The same place on a system with a merged `/usr` and with `/var/run` in `/run`. Two claims to one place are
    /// found by comparing these.
    pub fn normalized(&self) -> String {
        const ALIASES: [(&str, &str); 6] = [
            ("/bin", "/usr/bin"),
            ("/sbin", "/usr/sbin"),
            ("/lib", "/usr/lib"),
            ("/lib64", "/usr/lib64"),
            ("/var/run", "/run"),
            ("/var/lock", "/run/lock"),
        ];
        for (alias, real) in ALIASES {
            if is_within(&self.0, alias) {
                return format!("{real}{}", &self.0[alias.len()..]);
            }
        }
        self.0.clone()
    }
}

/// Whether the absolute path `path` is `directory` or lies below it.
pub fn is_within(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl fmt::Display for ExternalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(self.0.as_bytes()))
    }
}

impl TryFrom<String> for ExternalPath {
    type Error = PathError;
    fn try_from(text: String) -> Result<Self, PathError> {
        Self::parse(&text)
    }
}

impl From<ExternalPath> for String {
    fn from(path: ExternalPath) -> String {
        path.0
    }
}

/// Check that the symlink at `link` with this `target` stays inside its app.
///
/// `..` is only allowed at the beginning of the target. After a name it could follow another symlink, and then the
/// kernel would end up in a different place than this check.
pub fn check_symlink(link: &TreePath, target: &[u8]) -> Result<(), PathError> {
    let shown = || [link.as_bytes(), b" -> ", target].concat();
    if target.is_empty() || target.contains(&0) {
        return Err(bad(&shown(), "the link has no usable target"));
    }
    if target.starts_with(b"/") {
        return Err(bad(&shown(), "the link leaves its app (its target is absolute)"));
    }
    let mut depth = link.components().count() - 1;
    let mut below_name = false;
    for component in target.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." if below_name => return Err(bad(&shown(), "'..' may only begin a link's target")),
            b".." if depth == 0 => return Err(bad(&shown(), "the link leaves its app")),
            b".." => depth -= 1,
            name => {
                check_component(name).map_err(|why| bad(&shown(), why))?;
                below_name = true;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::encoding;

    #[test]
    fn a_manifest_can_not_link_into_directories_that_are_managed() {
        for bad in [
            "/var/lib/deptool/x",
            "/var/lib/deptool",
            "/var/lib",
            "/var",
            "/etc/systemd/system/x.service",
            "/etc/sysusers.d/x.conf",
            "/var/run/x",
            "/proc/x",
            "etc/x",
            "/",
            "/etc//x",
            "/etc/../x",
            "/etc/x/",
            "/etc/a\nb",
            "/etc/.x.deptool-before",
        ] {
            assert!(ExternalPath::parse_link(bad).is_err(), "{bad}");
        }
        for good in ["/etc/web.conf", "/etc/systemd/journald.conf.d/x.conf", "/usr/lib/x", "/etc/tmpfiles.d/x.conf"] {
            assert!(ExternalPath::parse_link(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn an_alias_of_a_directory_is_recognised() {
        assert_eq!(ExternalPath::parse("/lib/systemd/x").unwrap().normalized(), "/usr/lib/systemd/x");
        assert_eq!(ExternalPath::parse("/library/x").unwrap().normalized(), "/library/x");
    }

    #[test]
    fn a_symlink_can_not_leave_its_app() {
        let link = TreePath::parse(b"a/b/link").unwrap();
        for good in ["x", "../x", "../../x/y", "./x", "../c/./d"] {
            assert!(check_symlink(&link, good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["/etc/passwd", "../../../x", "x/../../..", "x/..", "", "..//../.."] {
            assert!(check_symlink(&link, bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_name_may_have_any_bytes_but_those_that_control_terminals() {
        for good in [&b"a b"[..], b"-x", b"\xff\xfe", "ü/\"'".as_bytes(), b"..x"] {
            let path = TreePath::parse(good).unwrap();
            let wire = encoding::to_vec(&path).unwrap();
            assert_eq!(encoding::from_slice::<TreePath>(&wire).unwrap(), path);
        }
        for bad in [&b""[..], b"/x", b"a/", b"a//b", b"a/../b", b"a\nb", b".git/x", b"a/.GIT"] {
            assert!(TreePath::parse(bad).is_err(), "{bad:?}");
        }
    }
}
