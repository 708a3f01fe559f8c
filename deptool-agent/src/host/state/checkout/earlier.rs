//! The checkouts of the generation that runs, if nobody has changed them.

use std::{
    cell::OnceCell,
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
};

use super::{Record, Seen, differences, record, verify};
use crate::{
    host::state::{generations::names, layout::Home},
    shared::{
        encoding,
        id::BlobId,
        name::AppName,
        path::TreePath,
        tree::{App, Entry, FileKind, HostTree},
    },
};

/// The checkouts of a generation that still are what was recorded: for each app, the name of its checkout and the record. A map
/// would add to the size of the agent.
pub type Unchanged = Vec<(AppName, String, Vec<u8>)>;

/// Find the unchanged checkouts of generation `number`.
pub fn unchanged(home: &Home, number: u32) -> Unchanged {
    let mut unchanged = Vec::new();
    let names = names(&home.generation(number)).unwrap_or_default();
    for app in names.iter().filter_map(|name| AppName::parse(name.as_bytes()).ok()) {
        if let Some(tree) = home.tree_of(number, &app)
            && let Some(record) = verify(home, &tree)
        {
            unchanged.push((app, tree, record));
        }
    }
    unchanged
}

/// Find the unchanged checkouts in another thread. Looking at ten thousand files takes as long as reading their tree from the
/// store, which this thread does meanwhile.
pub struct Looking(Option<JoinHandle<Unchanged>>, Home, Option<u32>);

impl Looking {
    pub fn begin(home: &Home, generation: Option<u32>) -> Looking {
        let its = home.clone();
        let look = move || generation.map(|number| unchanged(&its, number)).unwrap_or_default();
        Looking(thread::Builder::new().spawn(look).ok(), home.clone(), generation)
    }

    /// The result. Without another thread, this looks now.
    pub fn end(self) -> Unchanged {
        let Looking(looking, home, generation) = self;
        let found = looking.and_then(|looking| looking.join().ok());
        found.or_else(|| generation.map(|number| unchanged(&home, number))).unwrap_or_default()
    }
}

/// The checkout of an earlier version of an app. Unchanged files keep their modification times.
pub struct Earlier<'a> {
    pub name: &'a AppName,
    pub directory: PathBuf,
    pub app: &'a App,
    record: Vec<u8>,
    /// The decoded record. It is only needed if the app changes.
    seen: OnceCell<Vec<Seen>>,
}

impl<'a> Earlier<'a> {
    /// The unchanged checkouts of the apps of `tree`.
    pub fn all(home: &Home, mut unchanged: Unchanged, tree: &'a HostTree) -> Vec<Earlier<'a>> {
        let of = |(name, app): (&'a AppName, &'a Arc<App>)| {
            let at = unchanged.iter().position(|(known, ..)| known == name)?;
            let (_, tree, record) = unchanged.swap_remove(at);
            Some(Earlier { name, directory: home.trees().join(tree), app, record, seen: OnceCell::new() })
        };
        tree.apps.iter().filter_map(of).collect()
    }

    /// Like [`Earlier::all`], but a checkout that was only touched, or whose record is lost, is recorded again. The caller holds
    /// the host lock.
    pub fn all_renewed(home: &Home, generation: u32, unchanged: Unchanged, tree: &'a HostTree) -> Vec<Earlier<'a>> {
        let mut unchanged = unchanged;
        for (name, app) in tree.apps.iter().filter(|(_, app)| app.manifest.files.is_empty()) {
            if !unchanged.iter().any(|(known, ..)| known == name)
                && let Some(tree) = home.tree_of(generation, name)
                && differences(home, &tree, app).is_empty()
                && record(home, &tree).is_ok()
                && let Some(record) = verify(home, &tree)
            {
                unchanged.push((name.clone(), tree, record));
            }
        }
        Self::all(home, unchanged, tree)
    }

    /// A file of the checkout with this content, if there is one.
    pub fn file_with(&self, id: BlobId) -> Option<PathBuf> {
        let (path, _) = self.app.files.iter().find(|(_, entry)| entry.id == id && entry.kind != FileKind::Symlink)?;
        Some(self.directory.join(path.as_path()))
    }

    /// The modification time of `path` in this checkout, if its content is that of `entry`.
    pub(super) fn time_of(&self, path: &TreePath, entry: &Entry) -> Option<(i64, i64)> {
        if self.app.files.get(path)?.id != entry.id {
            return None;
        }
        let decode = || encoding::from_slice::<Record>(&self.record).map_or_else(|_| Vec::new(), |record| record.seen);
        let seen = self.seen.get_or_init(decode);
        // The record is sorted by path.
        let at = seen.binary_search_by(|seen| seen.path.cmp(path)).ok()?;
        Some(seen[at].stamp.modified)
    }

    pub(super) fn tree_name(&self) -> Option<String> {
        Some(self.directory.file_name()?.to_str()?.to_owned())
    }
}
