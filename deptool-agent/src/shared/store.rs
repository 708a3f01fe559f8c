//! The host's store: a bare Git repository with what this host was ever given, and nothing of other hosts.
//!
//! Guarantees:
//! - All objects are in packs with a `.promisor` mark, never loose: stock Git takes the store for a partial clone of
//!   an operator's repository, so that `git fsck` passes and `git log -p <cluster> -- <host>` works although the trees
//!   of other hosts are not there.
//! - A commit of which a parent is missing is in Git's `shallow` file: history ends there, and does not break.
//! - A pack is added whole or not at all, and every object in it has been hashed.
//! - HEAD names the cluster's branch. The branch is there exactly while something is deployed.
//! - No configuration is read: not the host's, not root's, not the store's own.
//!
//! Whoever changes the store holds the host lock. Who does not may read ([`Store::open_to_read`]); packs that a repack
//! removes meanwhile stay readable for him, as their files are mapped.
//!
//! ```text
//! pack              the stream format, shared with the helper     receive, index   taking a pack in
//! packs             looking objects up                             walk, shallow    what of a commit is here
//! refs, ref_files   what is deployed, since when, by whom          export, repack   giving packs out, tidying up
//! layout, damage    the files, and what a crash or a disk leaves of them
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
    export::Exported,
    receive::Added,
    refs::{Expected, LogEntry},
};
use crate::shared::{
    id::{BlobId, CommitId, TreeId},
    name::ClusterName,
};

/// The store of one host, opened by who holds the host lock.
pub struct Store {
    dir: PathBuf,
    packs: Packs,
    refs: RefFiles,
    /// The indices of packs that were added since.
    added: Vec<PathBuf>,
    /// Something that was here could not be read.
    is_doubted: bool,
}

/// A store that can only be read: somebody else may hold the host lock.
pub struct ReadStore(Store);

impl Deref for ReadStore {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.0
    }
}

/// What a commit says, as far as a host needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its root tree, with the directories of all hosts.
    pub tree: TreeId,
    /// Its parents, which need not be here.
    pub parents: Vec<CommitId>,
    /// When it was committed, in seconds since 1970.
    pub seconds: i64,
    /// The first line of its message, as the author wrote it: not safe for a terminal.
    pub summary: Vec<u8>,
}

impl Store {
    /// Open the store at `dir`, making it or what is missing of it, and removing what a crash has left.
    ///
    /// The caller holds the host lock.
    pub fn open_or_init(dir: &Path) -> Result<Self> {
        layout::complete(dir)?;
        layout::sweep(dir)?;
        let store = Self::with(dir, Packs::list(&pack_dir(dir))?);
        store.mend_shallow()?;
        Ok(store)
    }

    /// Remove what a crash has left in the store at `dir`, if there is one. The caller holds the host lock.
    pub fn sweep(dir: &Path) -> Result<()> {
        layout::sweep(dir)
    }

    /// Remove the locks and temporary files of the store at `dir` that could not be removed when they should have been.
    pub fn sweep_passing(dir: &Path) -> Result<()> {
        layout::sweep_passing(dir)
    }

    /// Take the packs away that were added since the store was opened: nothing that is deployed needs them.
    pub fn forget_added(&mut self) -> Result<()> {
        for index in std::mem::take(&mut self.added) {
            self.packs.forget(&index);
            layout::remove_pack(&index)?;
        }
        self.update_shallow(std::iter::empty())
    }

    /// Open the store at `dir` without the host lock and without changing anything; `None` if there is none.
    pub fn open_to_read(dir: &Path) -> Result<Option<ReadStore>> {
        let head = dir.join("HEAD");
        if !head.try_exists().at("look at", &head)? {
            return Ok(None);
        }
        Ok(Some(ReadStore(Self::with(dir, Packs::open_all(&pack_dir(dir))?))))
    }

    /// What there is in the store at `dir` that nobody can have made who works with it: links, directories in the place of
    /// files, files that are far too long. The store works once they are moved away.
    pub fn strange(dir: &Path) -> Result<Vec<PathBuf>> {
        let branch = RefFiles::at(dir).branch();
        layout::strange(dir, branch.as_deref())
    }

    fn with(dir: &Path, packs: Packs) -> Self {
        Store { dir: dir.to_owned(), packs, refs: RefFiles::at(dir), added: Vec::new(), is_doubted: false }
    }

    /// What is deployed by the store at `dir`, if there is one: [`Store::deployed`] without looking at any object.
    pub fn deployed_at(dir: &Path) -> Result<Option<(ClusterName, CommitId)>> {
        RefFiles::at(dir).deployed()
    }

    /// The one cluster that the store at `dir` has a branch for, readable or not.
    pub fn only_branch_at(dir: &Path) -> Result<Option<ClusterName>> {
        let names = RefFiles::at(dir).names_in("refs/heads")?;
        let mut clusters = names.iter().filter_map(|name| ClusterName::parse(name.as_bytes()).ok());
        Ok(clusters.next().filter(|_| clusters.next().is_none()))
    }

    /// Where the store is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    fn pack_dir(&self) -> PathBuf {
        pack_dir(&self.dir)
    }

    /// The files that were written since the store was opened.
    pub fn written(&self) -> impl Iterator<Item = PathBuf> {
        let packs = self.added.iter().flat_map(|index| layout::PACK_FILES.map(|end| index.with_extension(end)));
        packs.chain([self.dir.join("shallow")]).filter(|path| path.exists())
    }

    /// Make everything durable that was added so far, and all else on the same file system.
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

    /// Whether an object of any kind is here.
    pub fn has(&self, id: &oid) -> bool {
        self.packs.has(id)
    }

    /// Read a commit.
    pub fn commit(&self, id: &CommitId) -> Result<Commit> {
        let data = self.packs.expect(&id.0, Kind::Commit)?;
        let parse = || -> gix_error::Result<Commit> {
            let commit = CommitRef::from_bytes(&data, HashKind::Sha1)?;
            Ok(Commit {
                tree: TreeId(commit.tree()),
                parents: commit.parents().map(CommitId).collect(),
                seconds: commit.time()?.seconds,
                summary: commit.message.split(|byte| *byte == b'\n').next().unwrap_or_default().to_vec(),
            })
        };
        parse().map_err(|source| StoreError::Corrupt { id: id.0, source })
    }

    /// Read a tree.
    pub fn tree(&self, id: &TreeId) -> Result<Tree> {
        let data = self.packs.expect(&id.0, Kind::Tree)?;
        let tree = TreeRef::from_bytes(&data, HashKind::Sha1);
        tree.map(Tree::from).map_err(|source| StoreError::Corrupt { id: id.0, source })
    }

    /// Read a blob. None here is larger than [`pack::LARGE_BLOB`].
    pub fn blob(&self, id: &BlobId) -> Result<Vec<u8>> {
        self.packs.expect(&id.0, Kind::Blob)
    }

    /// How many packs there are: a reason to repack.
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

impl gix_object::Exists for Store {
    fn exists(&self, id: &oid) -> bool {
        self.packs.has(id)
    }
}

/// Ids of objects, each once.
type IdSet = std::collections::HashSet<ObjectId>;
