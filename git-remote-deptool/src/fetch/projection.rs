//! Gets the commit that a host runs into the operator's repository.
//!
//! The repository may lack the commit because another operator deployed it. Whatever is added is complete:
//! `git fsck` passes, `git gc` loses nothing, and partial objects never get into the repository. [`find`] tries the first
//! three possibilities, in this order, and [`get`] the others:
//!
//! 1. The commit is in the repository, with everything that it reaches.
//! 2. Another remote has it: Git fetches it from there.
//! 3. A projection of it exists already.
//! 4. The host sends the missing objects, and the commit is complete with them.
//! 5. A **projection** is made from the objects that the host has. It is a commit with the same author, committer,
//!    dates and message. Its tree has that host's directory only. Each parent is represented by the real commit if that
//!    is complete, or else by its projection; a parent that has neither is omitted.
//!
//! A projection depends on nothing but the host's name, the real commit, and which of its ancestors are complete or
//! projected here. It does not depend on time, configuration or the operator: the same input results in the same id.
//! Signatures are omitted because they would be invalid.
//!
//! `refs/deptool/projection/<real id>/<host>` records which real commit a projection represents ([`Pair`]); the caller
//! writes it. The host's name is part of the ref because several hosts may run the same unknown commit.

mod complete;
mod elsewhere;
mod import;
mod make;
mod remote;
#[cfg(test)]
mod tests;

use std::{
    io::{self, BufRead, Read},
    rc::Rc,
};

use deptool_agent::shared::{
    id::{BlobId, CommitId},
    name::HostName,
};

use self::{complete::Completeness, import::Quarantine, make::Projector};
pub use self::{elsewhere::Elsewhere, import::ImportError};
use crate::{
    model::interrupt::Interrupt,
    repo::history::{HistoryError, Objects},
    state::pairs::Pair,
};

/// A host that can be asked for objects.
pub trait HostObjects {
    /// A pack with `want` and its history down to `have`, without deltas: commits, their root trees, and of these only
    /// what is the host's own.
    fn pack(&mut self, want: CommitId, have: &[CommitId]) -> io::Result<Box<dyn BufRead + '_>>;

    /// The size and the content of a blob that is too large for a pack; `None` if the host can't give it.
    fn large_blob(&mut self, blob: BlobId) -> io::Result<Option<(u64, Box<dyn Read + '_>)>>;
}

/// How the commit that a host runs came to be here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitSource {
    /// It was here.
    Here,
    /// The remote of this name had it.
    FromRemote(String),
    /// The host had what was missing.
    FromHost,
    /// A projection stands for it.
    Projection(Projection),
}

/// A projection, complete and written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// What the host runs, and what stands for it.
    pub tip: Pair,
    /// What was projected just now, oldest first, the tip among it; empty if the tip was known already.
    ///
    /// The caller writes a ref for each of these, so that what is built upon one of them is recognised.
    pub made: Vec<Pair>,
}

/// Why the commit could not be brought home.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// An object here could not be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// This repository's refs could not be read.
    #[error("could not read the refs of this repository")]
    Refs(#[source] gix_error::Error),
    /// The host did not answer.
    #[error("could not ask the host for commit {commit}")]
    Host {
        /// What was asked for.
        commit: CommitId,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// What the host gave was refused, or could not be stored.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// What the host gave is not all of its own directory.
    #[error("the host did not give all of commit {commit}: object {missing} is missing")]
    Incomplete {
        /// What was asked for.
        commit: CommitId,
        /// The first object that is missing.
        missing: gix_hash::ObjectId,
    },
}

/// The commit that a host runs.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub commit: CommitId,
    /// The host's name here.
    pub host: &'a HostName,
    /// The host's directory in the commit. It has another name than the host if that was renamed since.
    pub directory: &'a HostName,
    /// The projections in this repository.
    pub pairs: &'a [Pair],
}

impl Wanted<'_> {
    /// The projection of a commit for this host, if there is one.
    fn projection_of(&self, real: CommitId) -> Option<&Pair> {
        self.pairs.iter().find(|pair| pair.real == real && pair.host == *self.host)
    }
}

/// Find the commit that a host runs, or what stands for it, without asking the host. This may take long: other remotes
/// are asked.
///
/// Nothing but objects is written.
pub fn find(
    repo: &gix::Repository,
    wanted: &Wanted<'_>,
    elsewhere: &Elsewhere,
) -> Result<Option<CommitSource>, ResolveError> {
    let id = wanted.commit;
    if Completeness::of(repo, Rc::new(Objects::of(repo)))?.holds(id)? {
        return Ok(Some(CommitSource::Here));
    }
    if let Some(found) = elsewhere.bring(repo, id)? {
        return Ok(Some(found));
    }
    let known = wanted.projection_of(id);
    Ok(known.map(|tip| CommitSource::Projection(Projection { tip: tip.clone(), made: Vec::new() })))
}

/// Get the commit from the host that runs it, or make what stands for it.
///
/// Nothing but objects is written.
pub fn get(
    repo: &gix::Repository,
    wanted: &Wanted<'_>,
    source: &mut dyn HostObjects,
    interrupt: &Interrupt,
) -> Result<CommitSource, ResolveError> {
    let (id, complete) = (wanted.commit, |objects| Completeness::of(repo, objects));
    let have = haves(&complete(Rc::new(Objects::of(repo)))?, wanted);
    let pack = source.pack(id, &have).map_err(|source| ResolveError::Host { commit: id, source });
    let quarantine = Quarantine::receive(repo, &mut *pack?)?;
    let objects = Rc::new(Objects::with_quarantine(repo, quarantine.store()));
    if let Some(needed) = complete(objects.clone())?.needed(id)? {
        import::write(repo, &objects, &needed, &[], interrupt)?;
        return Ok(CommitSource::FromHost);
    }
    import_large(repo, &objects, wanted.directory, id, source)?;
    let completeness = complete(objects.clone())?;
    let projector = Projector { objects: &objects, wanted, complete: &completeness };
    let work = projector.project(id)?;
    import::write(repo, &objects, &work.needed, &work.objects, interrupt)?;
    Ok(CommitSource::Projection(Projection { tip: work.tip, made: work.pairs }))
}

/// What the host need not send: what our refs name, and what of this host was projected before.
fn haves(complete: &Completeness, wanted: &Wanted<'_>) -> Vec<CommitId> {
    /// More would be a long request, and of little use.
    const MOST: usize = 1000;
    let projected = wanted.pairs.iter().filter(|pair| pair.host == *wanted.host).map(|pair| pair.real);
    projected.chain(complete.tips().iter().copied()).take(MOST).collect()
}

/// Blobs that the host's own directory needs and no pack has: one by one from the host.
fn import_large(
    repo: &gix::Repository,
    objects: &Objects,
    directory: &HostName,
    id: CommitId,
    source: &mut dyn HostObjects,
) -> Result<(), ResolveError> {
    for missing in make::missing_of_host(objects, directory, id)? {
        let failed = |source| ResolveError::Host { commit: id, source };
        let (size, mut content) = source
            .large_blob(BlobId(missing))
            .map_err(failed)?
            .ok_or(ResolveError::Incomplete { commit: id, missing })?;
        import::write_large(repo, missing, size, &mut content)?;
    }
    Ok(())
}
