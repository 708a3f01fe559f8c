//! Partial clones: objects that are not here because a remote has promised to give them.
//!
//! gix reads only what is here, so what will be read is fetched first, in the way that Git fetches single objects from
//! a promisor (`promisor-remote.c`), but many at a time. In a repository that is no partial clone nothing happens.

use std::{
    collections::HashSet,
    io::{self, Write},
    process::Stdio,
};

use deptool_agent::shared::{id::TreeId, text::printable};
use gix::{
    ObjectId,
    bstr::ByteSlice,
    objs::{TreeRefIter, tree::EntryKind},
};

use super::Repo;

/// Why a promised object could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PromisedError {
    /// No promisor has it.
    #[error("could not fetch what this partial clone lacks from '{remote}': {stderr}")]
    Fetch {
        remote: String,
        /// What Git said, safe to show.
        stderr: String,
    },
    #[error("could not run git")]
    Git(#[source] io::Error),
}

/// Which files of a host's directory have to be here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// All that are not in the other directory.
    Beyond(Option<TreeId>),
    /// Those that a plan is made from: manifests, units, targets of symlinks.
    Planned,
}

/// What a directory is, seen from the host's.
#[derive(Clone, Copy)]
enum Place {
    Host,
    App,
    /// `systemd/` or `quadlets/` of an app.
    Units,
    Below,
}

/// The remotes that have promised objects, that of the clone first. None: this is no partial clone.
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
    /// Whether objects may be missing that a remote has promised.
    pub fn is_partial(&self) -> bool {
        !promisors(&self.gix).is_empty()
    }

    /// Have these objects here, and all trees below those that are trees.
    pub fn need(&self, ids: impl IntoIterator<Item = ObjectId>) -> Result<(), PromisedError> {
        let missing: Vec<ObjectId> = ids.into_iter().filter(|id| !self.gix.has_object(*id)).collect();
        if missing.is_empty() { Ok(()) } else { self.fetch_promised(&missing) }
    }

    /// Have a host's directory here, with these of its files.
    pub fn need_host(&self, directory: TreeId, files: Files) -> Result<(), PromisedError> {
        if !self.is_partial() {
            return Ok(());
        }
        if let Files::Beyond(Some(base)) = files {
            self.need_host(base, Files::Planned)?;
        }
        // A tree comes with those below it, then files are known by name. What a promisor left out is asked for again.
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

    /// As Git's own `fetch_objects`.
    fn fetch_promised(&self, ids: &[ObjectId]) -> Result<(), PromisedError> {
        let wanted: String = ids.iter().map(|id| format!("{id}\n")).collect();
        let mut failed = None;
        for remote in promisors(&self.gix) {
            let mut git = self.git();
            git.args(["-c", "fetch.negotiationAlgorithm=noop", "-c", "gc.auto=0", "fetch", &remote]);
            git.args(["--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--no-prune"]);
            git.args(["--recurse-submodules=no", "--filter=blob:none", "--refmap=", "--stdin"]);
            git.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut child = git.spawn().map_err(PromisedError::Git)?;
            if let Some(mut stdin) = child.stdin.take() {
                // A git that ends early says why.
                let _ = stdin.write_all(wanted.as_bytes());
            }
            let output = child.wait_with_output().map_err(PromisedError::Git)?;
            if output.status.success() {
                return Ok(());
            }
            let stderr = output.stderr.trim().lines().next_back().map(printable).unwrap_or_default();
            failed.get_or_insert(PromisedError::Fetch { remote, stderr });
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Looks for what is missing below a host's directory.
struct Walk<'a> {
    repo: &'a Repo,
    files: Files,
    seen: HashSet<ObjectId>,
    missing: Vec<ObjectId>,
}

impl Walk<'_> {
    /// Take everything below `tree` for had already.
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

    /// Nothing of what can't be read: whoever reads it next says why.
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
