//! The operator's repository. It is read with gix, or with the `git` program for what gix can't do.
//!
//! Replace refs and grafts are ignored: hosts get exactly what the ids stand for.

mod ancestry;
pub mod blob;
mod config_file;
pub mod edits;
mod environment;
pub(crate) mod fsck;
pub mod git;
pub mod history;
pub(crate) mod identity;
pub mod pack;
mod parameters;
mod promised;
mod revision;

use std::path::{Path, PathBuf};

pub use ancestry::AncestryError;
pub use config_file::{ConfigError, Others, Renamed, Setting};
use deptool_agent::shared::{
    id::{CommitId, TreeId},
    json::JsonError,
    name::HostName,
    text::printable,
};
use environment::Configuration;
pub use environment::Environment;
use gix::bstr::ByteSlice;
pub use promised::{Files, PromisedError, promisors};
pub use revision::RevisionError;

use crate::config::cluster_file::{self, ClusterFile};

/// The operator's repository.
#[derive(Debug, Clone)]
pub struct Repo {
    gix: gix::Repository,
    environment: Environment,
}

/// Why a repository can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no repository.
    #[error("not a git repository (or any of the parent directories)")]
    NotARepository,
    /// It uses SHA-256 ids.
    #[error("repositories with SHA-256 object ids are not supported")]
    Sha256,
    /// It uses reftables, which gix does not read.
    #[error("repositories with reftables are not supported; see git refs migrate --ref-format=files")]
    Reftable,
    /// It can't be opened.
    #[error("could not open the repository")]
    Open(#[source] gix::Error),
}

/// A required object is missing or damaged.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("could not read {what}")]
    Object {
        what: String,
        #[source]
        source: gix::Error,
    },
    #[error(transparent)]
    Promised(#[from] PromisedError),
}

/// Why a `cluster.json` can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterFileError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("cluster.json is not a regular file")]
    NoFile,
    #[error("cluster.json is larger than 1 MiB")]
    TooLarge,
    #[error("cluster.json: {0}")]
    Json(#[from] JsonError),
}

impl ReadError {
    pub(crate) fn new(what: impl Into<String>, source: gix::Error) -> Self {
        ReadError::Object { what: what.into(), source }
    }
}

impl Repo {
    /// Open the repository that `environment` names, or else the one around its directory.
    ///
    /// Git has checked the owner of a repository that it names in the environment, so that is not checked again.
    pub fn open(environment: Environment) -> Result<Self, OpenError> {
        let overrides = environment.parameters().iter().cloned().chain(["core.useReplaceRefs=false".into()]);
        let base = match environment.configuration() {
            Configuration::Repository => gix::open::Options::isolated(),
            Configuration::User => gix::open::Options::default(),
        };
        let options = base.cli_overrides(overrides).lossy_config(true);
        let opened = match environment.git_dir() {
            Some(dir) => {
                gix::ThreadSafeRepository::open_opts(dir, options.open_path_as_is(true).with(gix::sec::Trust::Full))
            }
            None => {
                let options = options.bail_if_untrusted(true);
                let by_trust = gix::sec::trust::Mapping { full: options.clone(), reduced: options };
                gix::ThreadSafeRepository::discover_opts(environment.directory(), Default::default(), by_trust)
            }
        };
        let mut gix = opened.map_err(why_not)?.to_thread_local();
        let format = gix.config_snapshot().string("extensions.refStorage");
        if format.is_some_and(|format| format != "files") {
            return Err(OpenError::Reftable);
        }
        gix.object_cache_size_if_unset(4 * 1024 * 1024);
        let top = top(&gix, &environment);
        let environment = environment.at(top);
        Ok(Repo { gix, environment })
    }

    /// The environment that the repository was opened with. Other threads use it to open the repository again, because
    /// handles can't be sent between threads.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The gix handle, for what this type has no method for.
    pub fn gix(&self) -> &gix::Repository {
        &self.gix
    }

    /// The top of the work tree, or the directory of a bare repository. Git starts helpers there, and relative paths in
    /// its configuration are relative to it.
    pub fn top(&self) -> &Path {
        self.environment.directory()
    }

    /// The directory that linked worktrees share. It contains the refs and all of our own files.
    pub fn common_dir(&self) -> &Path {
        self.gix.common_dir()
    }

    /// The `git` program for this repository, without variables that Git has set for the helper.
    pub fn git(&self) -> std::process::Command {
        self.environment.git(self.gix.git_dir())
    }

    /// Whether the commit `id` is in the repository.
    pub fn has_commit(&self, id: CommitId) -> bool {
        self.gix.find_header(id.0).is_ok_and(|header| header.kind() == gix::objs::Kind::Commit)
    }

    /// The commit `id`, or the one that the tag `id` points to, if it is in the repository.
    pub fn peeled(&self, id: CommitId) -> Option<CommitId> {
        if self.has_commit(id) {
            return Some(id);
        }
        let object = self.gix.find_object(id.0).ok()?.peel_tags_to_end().ok()?;
        (object.kind == gix::objs::Kind::Commit).then_some(CommitId(object.id))
    }

    /// The root tree of a commit.
    pub fn tree_of(&self, commit: CommitId) -> Result<TreeId, ReadError> {
        let tree = self.gix.find_commit(commit.0).and_then(|commit| commit.tree_id());
        let tree = tree.map_err(|error| ReadError::new(format!("commit {commit}"), error))?.detach();
        self.need([tree])?;
        Ok(TreeId(tree))
    }

    /// The hosts in a commit, by name: the directories at its root whose names are valid for hosts, unless its
    /// `cluster.json` lists them in `ignore`. Everything else is ignored.
    pub fn host_trees(&self, commit: CommitId) -> Result<Vec<(HostName, TreeId)>, ReadError> {
        let root = self.root_of(commit)?;
        // A plan has the file checked. Otherwise, a file that can't be used ignores nothing.
        let shared = self.cluster_file_in(&root).ok().flatten().unwrap_or_default();
        let directories = root.iter().filter_map(Result::ok).filter(|entry| entry.mode().is_tree());
        Ok(directories
            .filter(|entry| !shared.ignores(entry.filename()))
            .filter_map(|entry| Some((HostName::parse(entry.filename().as_bytes()).ok()?, TreeId(entry.object_id()))))
            .collect())
    }

    /// The names of the hosts in a commit. See [`Self::host_trees`].
    pub fn hosts(&self, commit: CommitId) -> Result<Vec<HostName>, ReadError> {
        Ok(self.host_trees(commit)?.into_iter().map(|(host, _)| host).collect())
    }

    /// The directories at the root of a commit whose names are not valid for hosts, safe to show. Names that begin with
    /// a dot are left out, because they are ignored on purpose.
    pub fn unusable_directories(&self, commit: CommitId) -> Result<Vec<String>, ReadError> {
        let root = self.root_of(commit)?;
        let directories = root.iter().filter_map(Result::ok).filter(|entry| entry.mode().is_tree());
        let names = directories.map(|entry| entry.filename().to_owned());
        let shared = self.cluster_file_in(&root).ok().flatten().unwrap_or_default();
        let names = names.filter(|name| !name.starts_with(b".") && !shared.ignores(name));
        let unusable = names.filter(|name| HostName::parse(name).is_err());
        Ok(unusable.map(|name| printable(&name)).collect())
    }

    /// What the operators of the cluster share in a commit, strictly checked; none if it has no such file.
    pub fn cluster_file(&self, commit: CommitId) -> Result<Option<ClusterFile>, ClusterFileError> {
        self.cluster_file_in(&self.root_of(commit)?)
    }

    fn cluster_file_in(&self, root: &gix::Tree<'_>) -> Result<Option<ClusterFile>, ClusterFileError> {
        let mut entries = root.iter().filter_map(Result::ok);
        let Some(entry) = entries.find(|entry| entry.filename() == cluster_file::NAME) else {
            return Ok(None);
        };
        if !entry.mode().is_blob() {
            return Err(ClusterFileError::NoFile);
        }
        self.need([entry.object_id()]).map_err(ReadError::from)?;
        let unreadable = |error| ReadError::new(cluster_file::NAME, error);
        if self.gix.find_header(entry.object_id()).map_err(unreadable)?.size() > cluster_file::MAX_SIZE {
            return Err(ClusterFileError::TooLarge);
        }
        let blob = self.gix.find_object(entry.object_id()).map_err(unreadable)?;
        Ok(Some(ClusterFile::parse(&blob.data)?))
    }

    fn root_of(&self, commit: CommitId) -> Result<gix::Tree<'_>, ReadError> {
        let tree = self.tree_of(commit)?;
        self.gix.find_tree(tree.0).map_err(|error| ReadError::new(format!("the tree of commit {commit}"), error))
    }
}

/// The directory in which Git starts a helper.
fn top(gix: &gix::Repository, environment: &Environment) -> PathBuf {
    let configured = gix.config_snapshot().string("core.worktree").is_some();
    match environment.git_dir() {
        // If the work tree is not configured, it is the current directory.
        Some(_) if !configured => environment.work_tree().unwrap_or(environment.directory()).to_owned(),
        Some(_) | None => gix.workdir().unwrap_or(gix.git_dir()).to_owned(),
    }
}

fn why_not(error: gix::Error) -> OpenError {
    if error.is_unsupported() {
        // Of the checks that gix makes when it opens a repository, only the one of the object format depends on how gix
        // was built.
        OpenError::Sha256
    } else if error.is_not_found() {
        OpenError::NotARepository
    } else {
        OpenError::Open(error)
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
