//! The host's store: a bare Git repository with the configuration that this host was given, and nothing of other hosts.
//!
//! Guarantees:
//! - All objects are in packs with a `.promisor` file, never loose. Stock Git takes the store for a partial clone of an
//!   operator's repository: `git fsck` passes and `git log -p <cluster> -- <host>` works although the trees of other
//!   hosts are missing.
//! - A commit with a missing parent is in Git's `shallow` file, so history ends there without an error.
//! - A pack is added whole or not at all. Every object in it has been hashed.
//! - HEAD names the cluster's branch. The branch exists exactly while something is deployed.
//! - No Git configuration is read: neither the host's, nor root's, nor the store's own.
//!
//! Changing the store needs the host lock. Reading does not ([`Store::open_to_read`]): a reader has its packs mapped,
//! and can still read them after a repack has removed the files.
//!
//! ```text
//! pack              the pack format, shared with the helper      receive, index   add a received pack
//! packs             look up objects                              walk, shallow    which objects of a commit are here
//! refs, ref_files   which commit is deployed                     export, repack   write packs
//! layout, damage    the files of the store; recovery after a crash or a disk error
//! ```

mod damage;
mod error;
mod export;
mod index;
mod layout;
pub mod pack;
mod packs;
mod receive;
mod ref_files;
mod refs;
mod repack;
mod shallow;
#[cfg(test)]
mod tests;
mod walk;

use std::{
    fs::File,
    ops::Deref,
    path::{Path, PathBuf},
};

use gix_hash::{Kind as HashKind, ObjectId, oid};
use gix_object::{CommitRef, Data, Kind, Tree, TreeRef};

use self::{error::At, packs::Packs, ref_files::RefFiles};
pub use self::{
    error::{Result, StoreError},
    layout::copy_and_hash,
    refs::{Expected, LogEntry},
};
use crate::shared::{
    id::{CommitId, TreeId},
    name::ClusterName,
};

/// The store of one host. Its owner holds the host lock.
pub struct Store {
    dir: PathBuf,
    packs: Packs,
    refs: RefFiles,
    /// The indices of the packs that were added since the store was opened.
    added: Vec<PathBuf>,
    /// An object that should be here was missing or could not be read.
    is_suspect: bool,
}

/// A store that can only be read, because another agent may hold the host lock.
pub struct ReadStore(Store);

impl Deref for ReadStore {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.0
    }
}

/// The parts of a commit that a host needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The root tree, with the directories of all hosts.
    pub tree: TreeId,
    /// The parents. They need not be here.
    pub parents: Vec<CommitId>,
}

impl Store {
    /// Open the store at `dir`. Create whatever is missing, and remove whatever a crash left.
    ///
    /// The caller holds the host lock.
    pub fn open_or_init(dir: &Path) -> Result<Self> {
        layout::complete(dir)?;
        Self::sweep(dir)?;
        let store = Self::with(dir, Packs::list(&pack_dir(dir))?);
        store.repair_shallow()?;
        Ok(store)
    }

    /// Remove whatever a crash left in the store at `dir`, if there is a store. The caller holds the host lock.
    pub fn sweep(dir: &Path) -> Result<()> {
        layout::sweep(dir, RefFiles::at(dir).branch().as_deref())
    }

    /// Remove the lock files and temporary files of the store at `dir`. The caller holds the host lock.
    pub fn sweep_temporary_files(dir: &Path) -> Result<()> {
        layout::sweep_temporary_files(dir)
    }

    /// Remove the packs that were added since the store was opened. Nothing that is deployed needs them.
    pub fn remove_added_packs(&mut self) -> Result<()> {
        for index in std::mem::take(&mut self.added) {
            self.packs.forget(&index);
            layout::remove_pack(&index)?;
        }
        self.update_shallow(std::iter::empty())
    }

    /// Open the store at `dir` without the host lock, for reading. `None` if there is no store.
    pub fn open_to_read(dir: &Path) -> Result<Option<ReadStore>> {
        let head = dir.join("HEAD");
        if !head.try_exists().at("look at", &head)? {
            return Ok(None);
        }
        Ok(Some(ReadStore(Self::with(dir, Packs::open_all(&pack_dir(dir))?))))
    }

    /// Paths in the store at `dir` that neither Git nor an agent can have made: links, directories in place of files,
    /// files that are far too long. The store works once they are moved away.
    pub fn strange(dir: &Path) -> Result<Vec<PathBuf>> {
        let branch = RefFiles::at(dir).branch();
        layout::strange(dir, branch.as_deref())
    }

    fn with(dir: &Path, packs: Packs) -> Self {
        Store { dir: dir.to_owned(), packs, refs: RefFiles::at(dir), added: Vec::new(), is_suspect: false }
    }

    /// What is deployed according to the store at `dir`. Like [`Store::deployed`], without opening any pack.
    pub fn deployed_at(dir: &Path) -> Result<Option<(ClusterName, CommitId)>> {
        RefFiles::at(dir).deployed()
    }

    /// The directory of the store.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    fn pack_dir(&self) -> PathBuf {
        pack_dir(&self.dir)
    }

    /// The files that were written since the store was opened. They are not synced yet.
    pub fn written(&self) -> impl Iterator<Item = PathBuf> {
        let packs = self.added.iter().flat_map(|index| layout::PACK_FILES.map(|end| index.with_extension(end)));
        packs.chain([self.dir.join("shallow")]).filter(|path| path.exists())
    }

    /// Make durable whatever was added so far, along with everything else on the same file system.
    pub fn sync(&self) -> Result<()> {
        let dir = File::open(&self.dir).at("open", &self.dir)?;
        #[cfg(target_os = "linux")]
        rustix::fs::syncfs(&dir).map_err(Into::into).at("sync", &self.dir)?;
        #[cfg(not(target_os = "linux"))]
        {
            let _ = dir;
            rustix::fs::sync();
        }
        Ok(())
    }

    /// Whether the object is here, whatever its kind.
    pub fn has(&self, id: &oid) -> bool {
        self.packs.has(id)
    }

    pub fn commit(&self, id: &CommitId) -> Result<Commit> {
        let data = self.packs.expect(&id.0, Kind::Commit)?;
        let parse = || -> gix_error::Result<Commit> {
            let commit = CommitRef::from_bytes(&data, HashKind::Sha1)?;
            Ok(Commit { tree: TreeId(commit.tree()), parents: commit.parents().map(CommitId).collect() })
        };
        parse().map_err(|source| StoreError::Corrupt { id: id.0, source })
    }

    pub(super) fn tree(&self, id: &TreeId) -> Result<Tree> {
        let data = self.packs.expect(&id.0, Kind::Tree)?;
        let tree = TreeRef::from_bytes(&data, HashKind::Sha1);
        tree.map(Tree::from).map_err(|source| StoreError::Corrupt { id: id.0, source })
    }

    /// The number of packs. Many packs are a reason to repack.
    pub fn pack_count(&self) -> usize {
        self.packs.len()
    }
}

fn pack_dir(store: &Path) -> PathBuf {
    store.join("objects/pack")
}

impl gix_object::Find for Store {
    fn try_find<'a>(&self, id: &oid, buffer: &'a mut Vec<u8>) -> gix_error::Result<Option<Data<'a>>> {
        self.packs.read(id, buffer)
    }
}

type IdSet = std::collections::HashSet<ObjectId>;
