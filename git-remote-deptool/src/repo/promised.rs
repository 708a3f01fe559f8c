//! Partial clones: fetches objects that a remote has promised.
//!
//! gix only reads local objects. So the objects that will be read are fetched first, as Git fetches single objects from
//! a promisor (`promisor-remote.c`), but many at a time. In other repositories this does nothing.

use std::{collections::HashSet, fs::File, process::Command, time::Duration};

use deptool_agent::shared::id::TreeId;
use gix::{
    ObjectId,
    bstr::ByteSlice,
    objs::{TreeRefIter, tree::EntryKind},
};

use super::{
    Repo,
    git::{Git, GitError},
};

/// The time limit for one fetch. Large files take minutes over a slow link.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Why a promised object could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum PromisedError {
    /// No promisor sent it.
    #[error("could not fetch what this partial clone lacks from '{remote}': {why}")]
    Fetch {
        remote: String,
        /// The end of Git's stderr, safe to show, or that it took too long.
        why: String,
    },
    #[error(transparent)]
    Git(#[from] GitError),
}

/// Which files of a host's directory are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// All that are not in the other directory.
    Beyond(Option<TreeId>),
    /// The files that a plan depends on: manifests, units, targets of symlinks.
    Planned,
}

/// The meaning of a directory in a host's tree.
#[derive(Clone, Copy)]
enum Place {
    Host,
    App,
    /// `systemd/` or `quadlets/` of an app.
    Units,
    Below,
}

/// The promisor remotes, beginning with the one of the clone. Empty if this is not a partial clone.
pub fn promisors(repo: &gix::Repository) -> Vec<String> {
    let config = repo.config_snapshot();
    let mut names: Vec<String> =
        config.string("extensions.partialClone").into_iter().map(|name| name.to_string()).collect();
    for name in repo.remote_names() {
        let is_promisor = config.boolean(format!("remote.{name}.promisor").as_str()) == Some(true);
        if is_promisor && names.iter().all(|known| known.as_bytes() != name.as_bytes()) {
            names.push(name.to_string());
        }
    }
    names.retain(|name| !name.is_empty() && !name.starts_with('-'));
    names
}

impl Repo {
    /// Whether promised objects may be missing.
    pub fn is_partial(&self) -> bool {
        !promisors(&self.gix).is_empty()
    }

    /// Fetch those of the objects that are missing, and everything below those that are trees.
    pub fn need(&self, ids: impl IntoIterator<Item = ObjectId>) -> Result<(), PromisedError> {
        let missing: Vec<ObjectId> = ids.into_iter().filter(|id| !self.gix.has_object(*id)).collect();
        if missing.is_empty() { Ok(()) } else { self.fetch_promised(&missing) }
    }

    /// Fetch the missing objects of a host's directory, with the given files.
    pub fn need_host(&self, directory: TreeId, files: Files) -> Result<(), PromisedError> {
        if !self.is_partial() {
            return Ok(());
        }
        if let Files::Beyond(Some(base)) = files {
            self.need_host(base, Files::Planned)?;
        }
        // A tree is fetched with the trees below it; then the names of files are known. An object that a promisor did
        // not send is not requested again.
        let mut asked = HashSet::new();
        loop {
            let mut walk = Walk { repo: self, files, seen: HashSet::new(), missing: Vec::new() };
            if let Files::Beyond(Some(base)) = files {
                walk.exclude(base.0);
            }
            walk.tree(directory.0, Place::Host);
            walk.missing.retain(|id| asked.insert(*id));
            if walk.missing.is_empty() {
                return Ok(());
            }
            self.fetch_promised(&walk.missing)?;
        }
    }

    /// A `git` that may fetch from a promisor, which may need a password.
    pub(super) fn git_with_promisor(&self, command: Command, name: &'static str) -> Git {
        let can_ask = File::open("/dev/tty").is_ok();
        Git::new(command, name, self.environment.interrupt().clone()).within(PATIENCE).uses_terminal(can_ask)
    }

    /// Like Git's `fetch_objects`.
    fn fetch_promised(&self, ids: &[ObjectId]) -> Result<(), PromisedError> {
        let wanted: String = ids.iter().map(|id| format!("{id}\n")).collect();
        let mut failed = None;
        for remote in promisors(&self.gix) {
            let mut git = self.git();
            git.args(["-c", "fetch.negotiationAlgorithm=noop", "-c", "gc.auto=0"]);
            let fetched = self
                .git_with_promisor(git, "fetch")
                .args([&remote, "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--no-prune"])
                .args(["--recurse-submodules=no", "--filter=blob:none", "--refmap=", "--stdin"])
                .run(wanted.as_bytes());
            let why = match fetched {
                Ok(_) => return Ok(()),
                Err(GitError::Failed { stderr, .. }) => stderr.lines().next_back().unwrap_or_default().to_owned(),
                Err(error @ GitError::TooSlow { .. }) => error.to_string(),
                Err(error @ (GitError::Start { .. } | GitError::Interrupted)) => return Err(error.into()),
            };
            failed.get_or_insert(PromisedError::Fetch { remote, why });
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Searches for missing objects below a host's directory.
struct Walk<'a> {
    repo: &'a Repo,
    files: Files,
    seen: HashSet<ObjectId>,
    missing: Vec<ObjectId>,
}

impl Walk<'_> {
    /// Assume that everything below `tree` is there.
    fn exclude(&mut self, tree: ObjectId) {
        for (_, kind, id) in self.entries(tree) {
            self.seen.insert(id);
            if kind == EntryKind::Tree {
                self.exclude(id);
            }
        }
        self.seen.insert(tree);
    }

    fn tree(&mut self, tree: ObjectId, place: Place) {
        if !self.seen.insert(tree) {
            return;
        }
        if !self.repo.gix.has_object(tree) {
            self.missing.push(tree);
            return;
        }
        for (name, kind, id) in self.entries(tree) {
            match kind {
                EntryKind::Tree => self.tree(id, place.below(&name)),
                EntryKind::Blob | EntryKind::BlobExecutable | EntryKind::Link => {
                    let is_read = kind == EntryKind::Link || place.is_read(&name) || self.files != Files::Planned;
                    if is_read && self.seen.insert(id) && !self.repo.gix.has_object(id) {
                        self.missing.push(id);
                    }
                }
                EntryKind::Commit => {}
            }
        }
    }

    /// Nothing for an unreadable tree: the code that reads it next reports the error.
    fn entries(&self, tree: ObjectId) -> Vec<(Vec<u8>, EntryKind, ObjectId)> {
        let Ok(object) = self.repo.gix.find_object(tree) else { return Vec::new() };
        let entries = TreeRefIter::from_bytes(&object.data, gix::hash::Kind::Sha1).filter_map(Result::ok);
        entries.map(|entry| (entry.filename.to_vec(), entry.mode.kind(), entry.oid.to_owned())).collect()
    }
}

impl Place {
    fn below(self, name: &[u8]) -> Place {
        match self {
            Place::Host => Place::App,
            Place::App if matches!(name, b"systemd" | b"quadlets") => Place::Units,
            Place::Units => Place::Units,
            Place::App | Place::Below => Place::Below,
        }
    }

    fn is_read(self, name: &[u8]) -> bool {
        match self {
            Place::App => name == b"manifest.json",
            Place::Units => true,
            Place::Host | Place::Below => false,
        }
    }
}
