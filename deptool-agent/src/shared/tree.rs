//! Reads a host's directory of the config tree from Git objects, and checks it.
//!
//! A tree that was loaded is safe to check out: no path and no symlink in it leaves its app's directory.

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
};

use gix_hash::ObjectId;
use gix_object::{Find, Kind, TreeRef, tree::EntryKind};

use crate::shared::{
    id::{BlobId, CommitId, TreeId},
    manifest::{Manifest, ManifestError},
    name::{AppName, HostName, NameError},
    path::{PathError, TreePath, check_symlink},
    secrets::name::check as check_secret,
    text::printable,
    unit_file::Facts,
};

/// How deep directories may be nested.
const MAX_DEPTH: usize = 64;
/// How many files and directories a host may have: as many as a pack may have objects. Without a limit, a few small
/// trees that contain each other many times over would expand to an endless number of files.
const MAX_ENTRIES: usize = 500_000;
/// The limit for the length of all paths together, in bytes.
const MAX_PATHS: usize = 64 << 20;
/// The directories of an app with files for systemd and for Podman's generator.
const UNITS: [&[u8]; 2] = [b"systemd/", b"quadlets/"];
/// The longest symlink target that Linux accepts, in bytes.
const MAX_LINK: usize = 4095;
/// The limit for the size of a manifest or a unit file, in bytes.
const MAX_TEXT: usize = 1 << 20;

/// Why a tree can't be deployed. Every message names the path or the object.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("object {id} is missing")]
    Missing { id: ObjectId },
    #[error("object {id} can't be read: {why}")]
    Unreadable { id: ObjectId, why: String },
    #[error("in the host's directory: {0}")]
    AppName(NameError),
    #[error("app '{app}' exists twice")]
    AppTwice { app: AppName },
    #[error("in app '{app}': {source}")]
    Path { app: AppName, source: PathError },
    #[error("{app}/manifest.json: {source}")]
    Manifest { app: AppName, source: ManifestError },
    #[error("'{app}/{path}' {why}")]
    Entry { app: AppName, path: TreePath, why: &'static str },
    #[error("in app '{app}': the host's directory has more than {limit} {unit}")]
    TooLarge { app: AppName, limit: usize, unit: &'static str },
}

/// A file or symlink of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub kind: FileKind,
    /// The blob with the content of the file, or with the target of the symlink.
    pub id: BlobId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    Regular,
    Executable,
    Symlink,
}

/// An app: all of its files and its manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    pub tree: TreeId,
    pub files: BTreeMap<TreePath, Entry>,
    pub manifest: Manifest,
    /// What is known of the files in `systemd/` and `quadlets/`.
    pub units: BTreeMap<TreePath, Facts>,
}

impl App {
    /// Whether there is a file or directory at `path`.
    pub fn has(&self, path: &TreePath) -> bool {
        self.files.contains_key(path) || self.below(path).next().is_some()
    }

    /// The files below a directory.
    pub fn below<'a>(&'a self, directory: &TreePath) -> impl Iterator<Item = (&'a TreePath, &'a Entry)> + use<'a> {
        let first = directory.below();
        self.files.range(&first..).take_while(move |(file, _)| file.as_bytes().starts_with(first.as_bytes()))
    }
}

/// The apps of a host. There are none if everything is to be removed from the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostTree {
    pub apps: BTreeMap<AppName, Arc<App>>,
    /// Entries of the host's directory that are not apps. The operator is told that they are not deployed.
    pub ignored: Vec<String>,
}

/// Apps that were read already. An app that several hosts or commits have in common is only read once.
pub type Apps = BTreeMap<TreeId, Arc<App>>;

impl HostTree {
    /// Read the host's directory `tree` and everything below it.
    ///
    /// Of the files, only manifests, units and symlinks are read.
    pub fn load(objects: &dyn Find, tree: TreeId) -> Result<HostTree, TreeError> {
        Self::load_sharing(objects, tree, &mut Apps::new())
    }

    /// Like [`HostTree::load`], but take apps from `known` where they are there, and add the others to it.
    pub fn load_sharing(objects: &dyn Find, tree: TreeId, known: &mut Apps) -> Result<HostTree, TreeError> {
        Self::load_within(Budget { entries: MAX_ENTRIES, paths: MAX_PATHS }, objects, tree, known)
    }

    fn load_within(
        mut budget: Budget,
        objects: &dyn Find,
        tree: TreeId,
        known: &mut Apps,
    ) -> Result<HostTree, TreeError> {
        let mut host = HostTree::default();
        for (name, kind, id) in entries(objects, tree.0)? {
            if kind != EntryKind::Tree {
                host.ignored.push(printable(&name));
                continue;
            }
            let name = AppName::parse(&name).map_err(TreeError::AppName)?;
            let app = match known.get(&TreeId(id)) {
                Some(app) => {
                    app.files.keys().try_for_each(|path| budget.spend(&name, path))?;
                    app.clone()
                }
                None => {
                    let app = Arc::new(load_app(objects, &name, TreeId(id), &mut budget)?);
                    known.insert(TreeId(id), app.clone());
                    app
                }
            };
            if host.apps.insert(name.clone(), app).is_some() {
                return Err(TreeError::AppTwice { app: name });
            }
        }
        Ok(host)
    }
}

/// The root tree of `commit`.
pub fn root_of(objects: &dyn Find, commit: CommitId) -> Result<TreeId, TreeError> {
    let mut buffer = Vec::new();
    read(objects, commit.0, Kind::Commit, &mut buffer)?;
    let commit_ref = gix_object::CommitRef::from_bytes(&buffer, gix_hash::Kind::Sha1)
        .map_err(|error| TreeError::Unreadable { id: commit.0, why: error.to_string() })?;
    Ok(TreeId(commit_ref.tree()))
}

/// The directory of `host` in the root tree `root`, or `None` if there is no such directory.
pub fn host_directory(objects: &dyn Find, root: TreeId, host: &HostName) -> Result<Option<TreeId>, TreeError> {
    let found = entries(objects, root.0)?.into_iter().find(|(name, _, _)| name == host.as_str().as_bytes());
    Ok(found.filter(|(_, kind, _)| *kind == EntryKind::Tree).map(|(_, _, id)| TreeId(id)))
}

/// The content of a blob.
pub fn read_blob(objects: &dyn Find, id: BlobId) -> Result<Vec<u8>, TreeError> {
    let mut buffer = Vec::new();
    read(objects, id.0, Kind::Blob, &mut buffer)?;
    Ok(buffer)
}

/// The entries of one tree object: name, kind, id.
pub fn entries(objects: &dyn Find, tree: ObjectId) -> Result<Vec<(Vec<u8>, EntryKind, ObjectId)>, TreeError> {
    let mut buffer = Vec::new();
    let parsed = read_tree(objects, tree, &mut buffer)?;
    Ok(parsed.entries.iter().map(|e| (e.filename.to_vec(), e.mode.kind(), e.oid.to_owned())).collect())
}

fn read_tree<'a>(objects: &dyn Find, tree: ObjectId, buffer: &'a mut Vec<u8>) -> Result<TreeRef<'a>, TreeError> {
    read(objects, tree, Kind::Tree, buffer)?;
    TreeRef::from_bytes(buffer, gix_hash::Kind::Sha1)
        .map_err(|error| TreeError::Unreadable { id: tree, why: error.to_string() })
}

fn read(objects: &dyn Find, id: ObjectId, expected: Kind, buffer: &mut Vec<u8>) -> Result<(), TreeError> {
    // `try_find` may use only the beginning of the buffer.
    let (kind, length) = match objects.try_find(&id, buffer) {
        Ok(Some(data)) => (data.kind, data.data.len()),
        Ok(None) => return Err(TreeError::Missing { id }),
        Err(error) => return Err(TreeError::Unreadable { id, why: printable(error.to_string().as_bytes()) }),
    };
    buffer.truncate(length);
    if kind == expected {
        Ok(())
    } else {
        Err(TreeError::Unreadable { id, why: format!("it is a {kind}, not a {expected}") })
    }
}

/// How much more the host's directory may have.
struct Budget {
    entries: usize,
    paths: usize,
}

impl Budget {
    fn spend(&mut self, app: &AppName, path: &TreePath) -> Result<(), TreeError> {
        let too_large = |limit, unit| TreeError::TooLarge { app: app.clone(), limit, unit };
        let entries = self.entries.checked_sub(1);
        self.entries = entries.ok_or_else(|| too_large(MAX_ENTRIES, "files and directories"))?;
        let paths = self.paths.checked_sub(path.as_bytes().len());
        self.paths = paths.ok_or_else(|| too_large(MAX_PATHS, "bytes of paths"))?;
        Ok(())
    }
}

fn load_app(objects: &dyn Find, name: &AppName, tree: TreeId, budget: &mut Budget) -> Result<App, TreeError> {
    let mut walk = Walk { objects, app: name, budget, files: BTreeMap::new() };
    walk.directory(tree.0, 0, None)?;
    let files = walk.files;
    check_no_file_is_a_directory(name, &files)?;
    let (mut manifest, mut units) = (Manifest::default(), BTreeMap::new());
    for (path, entry) in &files {
        let refuse = |why| TreeError::Entry { app: name.clone(), path: path.clone(), why };
        let is_manifest = path.as_bytes() == b"manifest.json";
        let is_unit = path.user().is_some() || UNITS.iter().any(|directory| path.as_bytes().starts_with(directory));
        let is_text = is_manifest || is_unit;
        if !is_text {
            continue;
        }
        if entry.kind == FileKind::Symlink {
            return Err(refuse("must be a regular file"));
        }
        let bytes = read_blob(objects, entry.id)?;
        if bytes.len() > MAX_TEXT {
            return Err(refuse("is larger than 1 MiB"));
        }
        if is_manifest {
            manifest = Manifest::parse(&bytes).map_err(|source| TreeError::Manifest { app: name.clone(), source })?;
        } else {
            units.insert(path.clone(), Facts::of(&String::from_utf8_lossy(&bytes)));
        }
    }
    Ok(App { tree, files, manifest, units })
}

/// Refuse a file and a directory of the same name. Git never writes such a tree, but somebody else could.
fn check_no_file_is_a_directory(app: &AppName, files: &BTreeMap<TreePath, Entry>) -> Result<(), TreeError> {
    let mut checked: &[u8] = b"";
    for path in files.keys().map(TreePath::as_bytes) {
        let directory = path.iter().rposition(|byte| *byte == b'/').map_or(&path[..0], |at| &path[..at]);
        // Paths are sorted, so the one before was mostly in the same directory.
        if directory == std::mem::replace(&mut checked, directory) {
            continue;
        }
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            if let Ok(above) = TreePath::parse(&path[..at])
                && files.contains_key(&above)
            {
                return Err(TreeError::Entry { app: app.clone(), path: above, why: "exists twice" });
            }
        }
    }
    Ok(())
}

/// A walk over the directory of an app.
struct Walk<'a> {
    objects: &'a dyn Find,
    app: &'a AppName,
    budget: &'a mut Budget,
    files: BTreeMap<TreePath, Entry>,
}

impl Walk<'_> {
    /// Add everything in the directory `tree`. Its path is `above`, which is `depth` levels below the app's directory.
    fn directory(&mut self, tree: ObjectId, depth: usize, above: Option<&TreePath>) -> Result<(), TreeError> {
        let app = self.app;
        let in_app = |source| TreeError::Path { app: app.clone(), source };
        let mut buffer = Vec::new();
        for entry in read_tree(self.objects, tree, &mut buffer)?.entries {
            let (id, path) = (entry.oid.to_owned(), TreePath::child(above, entry.filename).map_err(in_app)?);
            self.budget.spend(app, &path)?;
            let refuse = |why| TreeError::Entry { app: app.clone(), path: path.clone(), why };
            let kind = match entry.mode.kind() {
                EntryKind::Tree if depth + 1 >= MAX_DEPTH => return Err(refuse("is nested too deeply")),
                EntryKind::Tree => {
                    self.directory(id, depth + 1, Some(&path))?;
                    continue;
                }
                EntryKind::Commit => return Err(refuse("is a submodule; commit its files instead")),
                EntryKind::Blob => FileKind::Regular,
                EntryKind::BlobExecutable => FileKind::Executable,
                EntryKind::Link => {
                    let target = read_blob(self.objects, BlobId(id))?;
                    if target.len() > MAX_LINK {
                        return Err(refuse("is a symlink with too long a target"));
                    }
                    check_symlink(&path, &target).map_err(in_app)?;
                    FileKind::Symlink
                }
            };
            check_secret(&path, kind == FileKind::Regular).map_err(refuse)?;
            match self.files.entry(path) {
                btree_map::Entry::Vacant(place) => place.insert(Entry { kind, id: BlobId(id) }),
                btree_map::Entry::Occupied(first) => {
                    let path = first.key().clone();
                    return Err(TreeError::Entry { app: app.clone(), path, why: "exists twice" });
                }
            };
        }
        Ok(())
    }
}

/// An object database in memory, for tests.
#[cfg(test)]
pub mod memory {
    use super::*;
    use gix_object::{Data, WriteTo, tree};
    use std::cell::RefCell;

    #[derive(Default)]
    pub struct Objects(RefCell<BTreeMap<ObjectId, (Kind, Vec<u8>)>>);

    impl Find for Objects {
        fn try_find<'a>(
            &self,
            id: &gix_hash::oid,
            buffer: &'a mut Vec<u8>,
        ) -> Result<Option<Data<'a>>, gix_error::Error> {
            Ok(self.0.borrow().get(id).map(|(kind, bytes)| {
                buffer.clear();
                buffer.extend_from_slice(bytes);
                Data { kind: *kind, object_hash: gix_hash::Kind::Sha1, data: buffer }
            }))
        }
    }

    impl Objects {
        pub fn put(&self, kind: Kind, bytes: Vec<u8>) -> ObjectId {
            let id = gix_object::compute_hash(gix_hash::Kind::Sha1, kind, &bytes).unwrap();
            self.0.borrow_mut().insert(id, (kind, bytes));
            id
        }

        pub fn all(&self) -> Vec<(Kind, Vec<u8>)> {
            self.0.borrow().values().cloned().collect()
        }

        pub fn tree(&self, entries: &[(&[u8], EntryKind, ObjectId)]) -> ObjectId {
            let mut tree = gix_object::Tree::empty();
            for (name, kind, oid) in entries {
                tree.entries.push(tree::Entry { mode: (*kind).into(), filename: (*name).into(), oid: *oid });
            }
            tree.entries.sort();
            let mut bytes = Vec::new();
            tree.write_to(&mut bytes).unwrap();
            self.put(Kind::Tree, bytes)
        }

        /// The tree of `files`, each a path and its content. `*` at the end of a path makes the file executable, `@`
        /// makes it a symlink.
        pub fn directory(&self, files: &[(&str, &str)]) -> TreeId {
            let mut here: Vec<(Vec<u8>, EntryKind, ObjectId)> = Vec::new();
            let mut below: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
            for (path, content) in files {
                match path.split_once('/') {
                    Some((directory, rest)) => below.entry(directory).or_default().push((rest, content)),
                    None => {
                        let id = self.put(Kind::Blob, content.as_bytes().to_vec());
                        let (name, kind) = match path.as_bytes() {
                            [name @ .., b'*'] => (name, EntryKind::BlobExecutable),
                            [name @ .., b'@'] => (name, EntryKind::Link),
                            name => (name, EntryKind::Blob),
                        };
                        here.push((name.to_vec(), kind, id));
                    }
                }
            }
            for (directory, files) in below {
                here.push((directory.as_bytes().to_vec(), EntryKind::Tree, self.directory(&files).0));
            }
            let entries: Vec<_> = here.iter().map(|(n, k, i)| (n.as_slice(), *k, *i)).collect();
            TreeId(self.tree(&entries))
        }

        /// The host tree of `files`. Their paths begin with the name of the app.
        pub fn host(&self, files: &[(&str, &str)]) -> Result<HostTree, TreeError> {
            HostTree::load(self, self.directory(files))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{memory::Objects, *};

    #[test]
    fn apps_are_read_with_files_modes_links_and_manifest() {
        let objects = Objects::default();
        let host = objects
            .host(&[
                ("web/a/b.conf", "b"),
                ("web/run*", "#!"),
                ("web/l@", "a/b.conf"),
                ("web/manifest.json", "{}"),
                ("README", ""),
            ])
            .unwrap();
        let web = &host.apps["web"];
        let kinds: Vec<_> = web.files.iter().map(|(p, e)| (p.to_string(), e.kind)).collect();
        assert_eq!(
            kinds,
            [
                ("a/b.conf".into(), FileKind::Regular),
                ("l".into(), FileKind::Symlink),
                ("manifest.json".into(), FileKind::Regular),
                ("run".to_string(), FileKind::Executable),
            ]
        );
        assert_eq!(host.ignored, ["README"]);
    }

    #[test]
    fn a_tree_that_could_do_harm_is_refused_by_name() {
        let objects = Objects::default();
        for (files, expected) in [
            (&[("current/x", "")][..], "in the host's directory: invalid app name 'current'"),
            (&[("web/x@", "../y")], "in app 'web': invalid path 'x -> ../y': the link leaves its app"),
            (&[("web/x@", "/etc/passwd")], "in app 'web'"),
            (&[("web/.git/config", "")], "in app 'web': invalid path '.git'"),
            (&[("web/a\nb", "")], "in app 'web': invalid path 'a\\nb'"),
            (&[("web/manifest.json", "{\"x\":1}")], "web/manifest.json: x: unknown field"),
            (&[("web/manifest.json@", "x")], "'web/manifest.json' must be a regular file"),
        ] {
            let error = objects.host(files).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_name_with_dots_or_nul_in_a_hand_made_tree_is_refused() {
        let objects = Objects::default();
        let blob = objects.put(Kind::Blob, vec![]);
        for name in [&b".."[..], b".", b"a/b"] {
            let app = objects.tree(&[(name, EntryKind::Blob, blob)]);
            let host = objects.tree(&[(b"web", EntryKind::Tree, app)]);
            assert!(HostTree::load(&objects, TreeId(host)).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_submodule_is_refused() {
        let objects = Objects::default();
        let blob = objects.put(Kind::Blob, vec![]);
        let app = objects.tree(&[(b"sub", EntryKind::Commit, blob)]);
        let host = objects.tree(&[(b"web", EntryKind::Tree, app)]);
        let error = HostTree::load(&objects, TreeId(host)).unwrap_err().to_string();
        assert!(error.contains("'web/sub' is a submodule"), "{error}");
    }

    #[test]
    fn trees_that_contain_each_other_many_times_over_are_refused() {
        let objects = Objects::default();
        let file = objects.put(Kind::Blob, b"x".to_vec());
        for bottom in [objects.tree(&[]), objects.tree(&[(b"f", EntryKind::Blob, file)])] {
            let mut tree = bottom;
            for _ in 0..40 {
                tree = objects.tree(&[b"a", b"b", b"c", b"d"].map(|name| (name.as_slice(), EntryKind::Tree, tree)));
            }
            let host = TreeId(objects.tree(&[(b"web", EntryKind::Tree, tree)]));
            for budget in [Budget { entries: 1000, paths: usize::MAX }, Budget { entries: usize::MAX, paths: 10_000 }] {
                let error = HostTree::load_within(budget, &objects, host, &mut Apps::new()).unwrap_err();
                assert!(matches!(error, TreeError::TooLarge { .. }), "{error}");
            }
        }
    }

    #[test]
    fn a_missing_object_is_told_from_a_corrupt_one() {
        let objects = Objects::default();
        let nowhere: TreeId = "11".repeat(20).parse().unwrap();
        assert!(matches!(HostTree::load(&objects, nowhere), Err(TreeError::Missing { .. })));
        let blob = objects.put(Kind::Blob, b"x".to_vec());
        assert!(matches!(HostTree::load(&objects, TreeId(blob)), Err(TreeError::Unreadable { .. })));
    }
}
