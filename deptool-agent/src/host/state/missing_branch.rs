//! The store may lose the branch that says what runs, to a disk or to a person. The generation that runs says it, too:
//! nobody may take such a host for an empty one, on which nothing would be stopped or removed.

use crate::{
    host::state::{durable, error::HostError, generations::Note, layout::Home},
    shared::{
        id::CommitId,
        name::ClusterName,
        outcome::Goal,
        store::{Expected, LogEntry, Store, StoreError},
        time::now,
    },
};

/// A branch that has to be written anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    cluster: ClusterName,
    commit: CommitId,
}

/// Whether that may be so. Somebody who is at work may be the reason.
pub fn is_suspected(home: &Home) -> bool {
    match (Store::deployed_at(&home.store()), running(home)) {
        (Ok(Some((_, commit))), Some((running, _))) => commit != running,
        (Ok(Some(_)), None) => false,
        (Ok(None), running) => running.is_some(),
        (Err(_), _) => true,
    }
}

/// What runs, if the store does not say so; `None` where all is well. The caller holds the host's lock, and nothing is
/// under way.
pub fn find(home: &Home) -> Result<Option<Lost>, HostError> {
    let running = running(home);
    let damage = match (Store::deployed_at(&home.store()), &running) {
        // A branch that names a commit which nobody has sent was changed since.
        (Ok(Some((_, commit))), Some((other, _))) if commit != *other && !has(home, commit) && has(home, *other) => {
            None
        }
        (Ok(Some(_)), _) => return Ok(None),
        (Ok(None), _) => None,
        (Err(error @ StoreError::BadRef { .. }), _) => Some(error),
        (Err(error), _) => return Err(error.into()),
    };
    match (running, damage) {
        (Some((commit, cluster)), _) => Ok(Some(Lost { cluster, commit })),
        (None, Some(damage)) => Err(HostError::refused(format!(
            "{damage}, and no generation says what runs: if nothing does, remove that file of '{}'",
            home.store().display()
        ))),
        (None, None) => Ok(None),
    }
}

/// The commit of the generation that runs, and its cluster, as that is noted there.
fn running(home: &Home) -> Option<(CommitId, ClusterName)> {
    match Note::current(home)? {
        Note { commit: Goal::Commit(commit), cluster, .. } => Some((commit, cluster)),
        Note { commit: Goal::Nothing, .. } => None,
    }
}

fn has(home: &Home, commit: CommitId) -> bool {
    matches!(Store::open_to_read(&home.store()), Ok(Some(store)) if store.commit(&commit).is_ok())
}

impl Lost {
    /// Write the branch anew. Returns what is to be said of that.
    pub fn restore(&self, home: &Home) -> Result<String, HostError> {
        let Lost { cluster, commit } = self;
        // What HEAD says is of use only if it is the name of a branch.
        let head = home.store().join("HEAD");
        if Store::deployed_at(&home.store()).is_err() {
            durable::remove(&head)?;
        }
        let log = LogEntry { name: "deptool-agent", email: "", seconds: now(), message: "deptool: restored" };
        Store::open_or_init(&home.store())?.set_deployed(cluster, Expected::Any, commit, log)?;
        home.sync_own()?;
        let short = commit.short();
        Ok(format!(
            "the store had lost what runs; by the generation that runs it is {short} of '{cluster}', as noted now"
        ))
    }
}
