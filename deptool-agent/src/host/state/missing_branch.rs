//! The store may lose the branch that says what runs, to a disk or to a person. The generation that runs says it, too:
//! nobody may take such a host for an empty one, on which nothing would be stopped or removed.

use std::fs;

use crate::{
    host::state::{
        attempts,
        error::{Context, HostError},
        layout::{Home, read_if_there},
    },
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
    match Store::deployed_at(&home.store()) {
        Ok(deployed) => deployed.is_none() && running(home).is_ok_and(|commit| commit.is_some()),
        Err(_) => true,
    }
}

/// What runs, if the store does not say so; `None` where all is well. The caller holds the host's lock, and nothing is
/// under way.
pub fn find(home: &Home) -> Result<Option<Lost>, HostError> {
    let damage = match Store::deployed_at(&home.store()) {
        Ok(Some(_)) => return Ok(None),
        Ok(None) => None,
        Err(error @ StoreError::BadRef { .. }) => Some(error),
        Err(error) => return Err(error.into()),
    };
    match (running(home)?, damage) {
        (Some(commit), _) => {
            let cluster = cluster_of(home, commit)?.ok_or_else(|| unknown(home, commit))?;
            Ok(Some(Lost { cluster, commit }))
        }
        (None, Some(damage)) => Err(HostError::Unfit(format!(
            "{damage}, and no generation says what runs: if nothing does, remove that file of '{}'",
            home.store().display()
        ))),
        (None, None) => Ok(None),
    }
}

/// The commit of the generation that runs.
fn running(home: &Home) -> Result<Option<CommitId>, HostError> {
    let Ok(Some(number)) = home.linked_generation(&home.current()) else { return Ok(None) };
    let noted = read_if_there(&home.generation(number).join(".commit"))?.unwrap_or_default();
    Ok(std::str::from_utf8(&noted).ok().and_then(|text| text.trim_end().parse().ok()))
}

/// The cluster that a commit was deployed as: as the log has it, or else the name of the branch, whatever is in that.
fn cluster_of(home: &Home, commit: CommitId) -> Result<Option<ClusterName>, HostError> {
    match attempts::last_done(home)?.filter(|attempt| attempt.to == Goal::Commit(commit)) {
        Some(done) => Ok(Some(done.cluster)),
        None => Ok(Store::only_branch_at(&home.store())?),
    }
}

fn unknown(home: &Home, commit: CommitId) -> HostError {
    let branch = home.store().join("refs/heads/<cluster>");
    HostError::Unfit(format!(
        "neither the store nor 'attempts' says as which cluster {commit} runs: write that id into '{}'",
        branch.display()
    ))
}

impl Lost {
    /// Write the branch anew. Returns what is to be said of that.
    pub fn restore(&self, home: &Home) -> Result<String, HostError> {
        let Lost { cluster, commit } = self;
        // What HEAD says is of use only if it is the name of a branch.
        let head = home.store().join("HEAD");
        if Store::deployed_at(&home.store()).is_err() && head.exists() {
            fs::remove_file(&head).during("remove", &head)?;
        }
        let log = LogEntry { name: "deptool-agent", email: "", seconds: now(), message: "deptool: restored" };
        Store::open_or_init(&home.store())?.set_deployed(cluster, Expected::Any, commit, log)?;
        home.sync_state()?;
        let short = commit.short();
        Ok(format!(
            "the store had lost what runs; by the generation that runs it is {short} of '{cluster}', as noted now"
        ))
    }
}
