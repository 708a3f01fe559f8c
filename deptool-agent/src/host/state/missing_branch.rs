//! Restores the store's branch if it was lost, through a disk error or because somebody deleted it.
//!
//! The note of the current generation has the commit and the cluster, too. Without the branch the host would count as empty,
//! and a deployment would not stop or remove anything.

use crate::{
    host::state::{durable, error::HostError, generations::Note, layout::Home},
    shared::{
        id::CommitId,
        name::ClusterName,
        store::{Expected, LogEntry, Store, StoreError},
        time::now,
    },
};

/// A branch that has to be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    cluster: ClusterName,
    commit: CommitId,
}

/// Whether the branch may be lost, according to its commit and to the note of the current generation. A deployment in
/// progress looks the same.
pub fn is_suspected(branch: Option<CommitId>, note: Option<&Note>) -> bool {
    match (branch, note.and_then(running)) {
        (Some(commit), Some((running, _))) => commit != running,
        (Some(_), None) => false,
        (None, running) => running.is_some(),
    }
}

/// Find out whether the branch is lost. The caller holds the host lock, and no deployment is under way.
pub fn find(home: &Home) -> Result<Option<Lost>, HostError> {
    let running = Note::current(home).as_ref().and_then(running);
    let damage = match (Store::deployed_at(&home.store()), &running) {
        // The branch points to a commit that is not in the store, so it was changed.
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

/// Commit and cluster according to the note.
fn running(note: &Note) -> Option<(CommitId, ClusterName)> {
    Some((note.commit.commit()?, note.cluster.clone()))
}

fn has(home: &Home, commit: CommitId) -> bool {
    matches!(Store::open_to_read(&home.store()), Ok(Some(store)) if store.commit(&commit).is_ok())
}

/// Set the branch to what it was before a deployment that was undone, if it was damaged.
pub fn put_back(home: &Home, cluster: &ClusterName, before: Option<CommitId>) -> Result<(), HostError> {
    let now = Store::deployed_at(&home.store());
    match (before, now) {
        (Some(commit), Ok(Some((its, now)))) if its == *cluster && now == commit => Ok(()),
        (Some(commit), _) => Lost { cluster: cluster.clone(), commit }.restore(home).map(drop),
        (None, Err(_)) => durable::remove(&home.store().join("HEAD")),
        (None, Ok(_)) => Ok(()),
    }
}

impl Lost {
    /// Restore the branch. Returns a sentence about that.
    pub fn restore(&self, home: &Home) -> Result<String, HostError> {
        let Lost { cluster, commit } = self;
        // HEAD itself may be damaged. It is written anew.
        let head = home.store().join("HEAD");
        if Store::deployed_at(&home.store()).is_err() {
            durable::remove(&head)?;
        }
        let log = LogEntry { name: "deptool-agent", email: "", seconds: now(), message: "deptool: restored" };
        Store::open_or_init(&home.store())?.set_deployed(cluster, Expected::Any, commit, log)?;
        home.sync_own()?;
        let short = commit.short();
        Ok(format!(
            "the store had lost its branch; it was restored from the running generation: {short} of '{cluster}'"
        ))
    }
}
