//! Secrets of an app: files `secrets/<name>.age` in the tree, which are encrypted with age.
//!
//! They are checked out like any other file. On the host, the agent decrypts them into memory. Other files in `secrets/` are
//! not secrets.

use crate::shared::{
    id::BlobId,
    manifest::{FileAttributes, Mode},
    path::TreePath,
    tree::{App, FileKind},
};

/// The directory of an app for its secrets.
pub const DIRECTORY: &str = "secrets";
/// How the name of an encrypted file ends.
pub const SUFFIX: &str = ".age";
/// The default mode of a decrypted file.
const MODE: Mode = Mode(0o400);

/// A secret of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret<'a> {
    /// The name of the decrypted file.
    pub name: &'a str,
    /// The encrypted file.
    pub file: &'a TreePath,
    pub content: BlobId,
    /// Mode and owner of the decrypted file. The mode is always set.
    pub attributes: FileAttributes,
}

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
pub fn check(path: &TreePath, kind: FileKind) -> Result<(), &'static str> {
    match (stem(path), kind) {
        (None, _) => Ok(()),
        (Some(stem), _) if stem.contains(&b'/') => Err("is a secret in a directory; 'secrets/' has no directories"),
        (Some(_), FileKind::Symlink | FileKind::Executable) => {
            Err("is a secret, and must be a regular file that is not executable")
        }
        (Some(_), FileKind::Regular) if name_of(path).is_none() => {
            Err("is a secret, and its name must be of letters, digits, '.', '_', '-' and '@'")
        }
        (Some(_), FileKind::Regular) => Ok(()),
    }
}

/// The encrypted file that a key of the manifest's `files` stands for, if it names a decrypted one.
pub fn encrypted(key: &TreePath) -> Option<TreePath> {
    within(key)?;
    TreePath::parse(&[key.as_bytes(), SUFFIX.as_bytes()].concat()).ok()
}

/// The secrets of an app.
pub fn of(app: &App) -> impl Iterator<Item = Secret<'_>> {
    app.below(&TreePath::directory(DIRECTORY)).filter_map(|(file, entry)| {
        let name = name_of(file)?;
        let key = TreePath::parse(format!("{DIRECTORY}/{name}").as_bytes()).ok()?;
        let none = FileAttributes { mode: None, owner: None, group: None };
        let mut attributes = app.manifest.files.get(&key).cloned().unwrap_or(none);
        attributes.mode.get_or_insert(MODE);
        Some(Secret { name, file, content: entry.id, attributes })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::{desired::Desired, tree::memory::Objects};

    #[test]
    fn a_secret_has_the_attributes_that_the_manifest_gives_to_its_decrypted_file() {
        let manifest = r#"{"files": {"secrets/b": {"mode": "0440", "group": "www-data"}}}"#;
        let files = [
            ("web/manifest.json", manifest),
            ("web/secrets/a.age", ""),
            ("web/secrets/b.age", ""),
            ("web/secrets/c", ""),
        ];
        let host = Objects::default().host(&files).unwrap();
        Desired::of(&host).unwrap();
        let shown: Vec<_> = of(&host.apps["web"])
            .map(|secret| (secret.name, secret.attributes.mode.unwrap().0, secret.attributes.group.is_some()))
            .collect();
        assert_eq!(shown, [("a", 0o400, false), ("b", 0o440, true)]);
    }

    #[test]
    fn what_can_not_be_a_secret_is_refused_by_name() {
        for (path, why) in [
            ("web/secrets/a/b.age", "'web/secrets/a/b.age' is a secret in a directory"),
            ("web/secrets/a.age*", "'web/secrets/a.age' is a secret, and must be a regular file"),
            ("web/secrets/a.age@", "'web/secrets/a.age' is a secret, and must be a regular file"),
            ("web/secrets/a b.age", "'web/secrets/a b.age' is a secret, and its name must"),
            ("web/secrets/.age", "'web/secrets/.age' is a secret, and its name must"),
        ] {
            let error = Objects::default().host(&[(path, "x")]).unwrap_err().to_string();
            assert!(error.starts_with(why), "{error}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let files = |key: &str| format!(r#"{{"files": {{"{key}": {{"mode": "0440"}}}}}}"#);
        for (app, key, also, why) in [
            ("web", "secrets/b", "x", "web/manifest.json: files: 'secrets/b' is not in the app"),
            ("web", "secrets/a.age", "x", "'web/secrets/a.age': it is encrypted; its decrypted file is 'secrets/a'"),
            ("web", "secrets/a", "secrets/a", "'web/secrets/a': there is also a secret of this name"),
            ("12", "secrets/a", "x", "'12/secrets/a.age': an app with secrets can't have a number as its name"),
        ] {
            let of_app = |path: &str| format!("{app}/{path}");
            let (manifest, content) = (of_app("manifest.json"), files(key));
            let (secret, also) = (of_app("secrets/a.age"), of_app(also));
            let host = Objects::default().host(&[(&manifest, &content), (&secret, ""), (&also, "")]).unwrap();
            let error = Desired::of(&host).unwrap_err().to_string();
            assert!(error.starts_with(why), "{error}");
        }
    }
}
