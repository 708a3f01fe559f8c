//! The checkouts of the generation that runs, if nobody has changed them.

use std::{cell::OnceCell, path::PathBuf, sync::Arc};

use super::{Seen, differences, load_record, record, verify};
use crate::{
    host::state::layout::{Home, names},
    shared::{
        id::BlobId,
        name::AppName,
        path::TreePath,
        tree::{App, Entry, FileKind, HostTree},
    },
};

/// The checkouts of a generation that still are what was recorded: for each app, the name of its checkout. A map would add to
/// the size of the agent.
pub type Unchanged = Vec<(AppName, String)>;

/// The apps of generation `number`.
pub fn apps(home: &Home, number: u32) -> Vec<AppName> {
    let names = names(&home.generation(number)).unwrap_or_default();
    names.iter().filter_map(|name| AppName::parse(name.as_bytes()).ok()).collect()
}

/// The checkout of an app of generation `number`, if it is unchanged. Its record is read into `buffer`.
pub fn unchanged(home: &Home, number: u32, app: &AppName, buffer: &mut Vec<u8>) -> Option<(AppName, String)> {
    let tree = home.tree_of(number, app)?;
    verify(home, &tree, buffer)?;
    Some((app.clone(), tree))
}

/// The checkout of an earlier version of an app. Unchanged files keep their modification times.
pub struct Earlier<'a> {
    pub name: &'a AppName,
    pub directory: PathBuf,
    pub app: &'a App,
    home: &'a Home,
    /// The record. It is only needed if the app changes.
    seen: OnceCell<Seen>,
}

impl<'a> Earlier<'a> {
    /// The unchanged checkouts of the apps of `tree`.
    pub fn all(home: &'a Home, mut unchanged: Unchanged, tree: &'a HostTree) -> Vec<Earlier<'a>> {
        let of = |(name, app): (&'a AppName, &'a Arc<App>)| {
            let at = unchanged.iter().position(|(known, ..)| known == name)?;
            let (_, tree) = unchanged.swap_remove(at);
            Some(Earlier { name, directory: home.trees().join(tree), app, home, seen: OnceCell::new() })
        };
        tree.apps.iter().filter_map(of).collect()
    }

    /// Like [`Earlier::all`], but a checkout that was only touched, or whose record is lost, is recorded again. The caller holds
    /// the host lock.
    pub fn all_renewed(home: &'a Home, generation: u32, unchanged: Unchanged, tree: &'a HostTree) -> Vec<Earlier<'a>> {
        let mut unchanged = unchanged;
        for (name, app) in tree.apps.iter().filter(|(_, app)| app.manifest.files.is_empty()) {
            if !unchanged.iter().any(|(known, ..)| known == name)
                && let Some(tree) = home.tree_of(generation, name)
                && differences(home, &tree, app).is_empty()
                && record(home, &tree).is_ok()
                && let Some(checkout) = self::unchanged(home, generation, name, &mut Vec::new())
            {
                unchanged.push(checkout);
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
        let load = || self.tree_name().and_then(|name| load_record(self.home, &name)).unwrap_or_default();
        Some(self.seen.get_or_init(load).get(path)?.modified)
    }

    pub(super) fn tree_name(&self) -> Option<String> {
        Some(self.directory.file_name()?.to_str()?.to_owned())
    }
}
