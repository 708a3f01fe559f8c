//! Gets commits from the operator's other remotes.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use deptool_agent::shared::id::CommitId;

use super::{CommitSource, ResolveError, complete::Completeness, remote};
use crate::{
    model::interrupt::Interrupt,
    repo::{git::GitError, history::Objects},
};

/// The other remotes. Each is asked only once for each commit, however many hosts run it. A remote that did not answer
/// in time is not asked again.
#[derive(Debug)]
pub struct Elsewhere {
    patience: Duration,
    interrupt: Interrupt,
    asked: Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    /// Whether a remote had the commit.
    commits: HashMap<CommitId, bool>,
    silent: HashSet<String>,
}

impl Elsewhere {
    /// `patience` is the time limit for each remote.
    pub fn new(patience: Duration, interrupt: Interrupt) -> Self {
        Elsewhere { patience, interrupt, asked: Mutex::default() }
    }

    /// Fetch `id`, complete, from the first remote that has it. Other threads wait meanwhile.
    pub(super) fn bring(&self, repo: &gix::Repository, id: CommitId) -> Result<Option<CommitSource>, ResolveError> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(is_here) = asked.commits.get(&id) {
            return Ok(is_here.then_some(CommitSource::Here));
        }
        for remote in remote::names(repo) {
            if asked.silent.contains(&remote) {
                continue;
            }
            match remote::fetch(repo, &remote, id, self.patience, &self.interrupt) {
                Ok(()) if Completeness::of(repo, Rc::new(Objects::of(repo)))?.holds(id)? => {
                    asked.commits.insert(id, true);
                    return Ok(Some(CommitSource::FromRemote(remote)));
                }
                // Whatever the error is, try the next remote.
                Ok(()) | Err(GitError::Start { .. } | GitError::Failed { .. } | GitError::Interrupted) => {}
                Err(GitError::TooSlow { .. }) => {
                    asked.silent.insert(remote);
                }
            }
        }
        asked.commits.insert(id, false);
        Ok(None)
    }
}
