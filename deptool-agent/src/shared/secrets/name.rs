//! Names of secrets, and the paths of their files.

use crate::shared::path::TreePath;

/// The directory of an app for its secrets.
pub const DIRECTORY: &str = "secrets";
/// How the name of an encrypted file ends.
pub const SUFFIX: &str = ".age";

/// The part of a path that names the secret. `None` if it is no path of a secret.
fn stem(path: &TreePath) -> Option<&[u8]> {
    within(path)?.strip_suffix(SUFFIX.as_bytes())
}

/// The rest of a path in the directory for secrets.
fn within(path: &TreePath) -> Option<&[u8]> {
    path.as_bytes().strip_prefix(DIRECTORY.as_bytes())?.strip_prefix(b"/")
}

/// The name of the secret that the file at `path` is, if it is one.
pub fn name_of(path: &TreePath) -> Option<&str> {
    std::str::from_utf8(stem(path)?).ok().filter(|name| is_name(name))
}

/// Whether names of secrets may have this byte in them.
pub fn is_in_names(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-@".contains(&byte)
}

/// Whether systemd takes the name for a credential, too.
fn is_name(name: &str) -> bool {
    name.bytes().all(is_in_names) && !name.is_empty() && !name.starts_with(['.', '-'])
}

/// Check that a file of a tree may be a secret, if it looks like one. Returns what is wrong, after the path.
pub fn check(path: &TreePath, is_regular: bool) -> Result<(), &'static str> {
    let Some(stem) = stem(path) else { return Ok(()) };
    if stem.contains(&b'/') {
        Err("is a secret in a directory; 'secrets/' has no directories")
    } else if !is_regular {
        Err("is a secret, and must be a regular file that is not executable")
    } else if name_of(path).is_none() {
        Err("is a secret, and its name must be of letters, digits, '.', '_', '-' and '@'")
    } else {
        Ok(())
    }
}

/// The encrypted file that a key of the manifest's `files` stands for, if it names a decrypted one.
pub fn encrypted(key: &TreePath) -> Option<TreePath> {
    within(key)?;
    TreePath::parse(&[key.as_bytes(), SUFFIX.as_bytes()].concat()).ok()
}
