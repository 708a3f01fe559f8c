//! Commits from the operator's other remotes.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use deptool_agent::shared::id::CommitId;

use super::{
    CommitSource, ResolveError,
    complete::Completeness,
    remote::{self, Fetched},
};
use crate::repo::history::Objects;

/// The other remotes, each of them asked once for each commit, however many hosts run it; those that did not answer in
/// time, never again.
#[derive(Debug)]
pub struct Elsewhere {
    patience: Duration,
    asked: Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    /// Whether one of them had it.
    commits: HashMap<CommitId, bool>,
    silent: HashSet<String>,
}

impl Elsewhere {
    /// Nobody was asked yet. `patience` is how long each may take.
    pub fn new(patience: Duration) -> Self {
        Elsewhere { patience, asked: Mutex::default() }
    }

    /// Have `id` brought here by whoever has it, complete. Whoever wants something else meanwhile waits.
    pub(super) fn bring(&self, repo: &gix::Repository, id: CommitId) -> Result<Option<CommitSource>, ResolveError> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(is_here) = asked.commits.get(&id) {
            return Ok(is_here.then_some(CommitSource::Here));
        }
        for remote in remote::names(repo) {
            if asked.silent.contains(&remote) {
                continue;
            }
            match remote::fetch(repo, &remote, id, self.patience) {
                Fetched::Yes if Completeness::of(repo, Rc::new(Objects::of(repo)))?.holds(id)? => {
                    asked.commits.insert(id, true);
                    return Ok(Some(CommitSource::FromRemote(remote)));
                }
                Fetched::Yes | Fetched::No => {}
                Fetched::Silent => {
                    asked.silent.insert(remote);
                }
            }
        }
        asked.commits.insert(id, false);
        Ok(None)
    }
}
