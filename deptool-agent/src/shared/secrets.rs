//! Secrets of an app: files `secrets/<name>.age` in the tree, which are encrypted with age.
//!
//! They are checked out like any other file. On the host, the agent decrypts them into memory. Other files in `secrets/` are
//! not secrets.

use crate::shared::{
    id::BlobId,
    manifest::{FileAttributes, Mode},
    path::TreePath,
    tree::App,
};

pub mod name;

pub use name::{DIRECTORY, SUFFIX, encrypted, is_in_names, name_of};

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
