//! Which commits stand for which.

use std::collections::{BTreeSet, HashSet};

use deptool_agent::{id::CommitId, name::HostName};

use super::ResolveError;
use crate::history::{HistoryError, Objects};

const PREFIX: &str = "refs/deptool/projection/";

/// A commit that a host runs, and the projection that stands for it here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Whose directory the projection has.
    pub host: HostName,
    /// What the host runs.
    pub real: CommitId,
    /// What is here.
    pub projected: CommitId,
}

impl Pair {
    /// The ref that keeps this pair and names `projected`: `refs/deptool/projection/<real id>/<host>`.
    pub fn ref_name(&self) -> String {
        format!("{PREFIX}{}/{}", self.real, self.host)
    }
}

/// All pairs that this repository has refs for.
#[derive(Debug, Clone, Default)]
pub struct Pairs(Vec<Pair>);

impl Pairs {
    /// Read them from the refs. What is no pair there is passed over.
    pub fn of(repo: &gix::Repository) -> Result<Self, ResolveError> {
        let mut pairs = Vec::new();
        let platform = repo.references().map_err(ResolveError::Refs)?;
        for reference in platform.prefixed(PREFIX).map_err(ResolveError::Refs)? {
            let reference = reference.map_err(ResolveError::Refs)?;
            let name = reference.name().as_bstr().to_vec();
            let rest = name.strip_prefix(PREFIX.as_bytes()).unwrap_or_default();
            let mut parts = rest.splitn(2, |byte| *byte == b'/');
            let real = parts.next().and_then(|hex| std::str::from_utf8(hex).ok()?.parse().ok());
            let host = parts.next().and_then(|name| HostName::parse(name).ok());
            if let (Some(real), Some(host), Some(id)) = (real, host, reference.try_id()) {
                pairs.push(Pair { host, real, projected: CommitId(id.detach()) });
            }
        }
        Ok(Pairs(pairs))
    }

    /// The pair of what `host` runs, if that has a projection.
    pub fn projection_of(&self, real: &CommitId, host: &HostName) -> Option<&Pair> {
        self.0.iter().find(|pair| pair.real == *real && pair.host == *host)
    }

    /// What a commit stands for, if it is a projection: leases use this id.
    pub fn real_of(&self, projected: &CommitId) -> Option<CommitId> {
        self.0.iter().find(|pair| pair.projected == *projected).map(|pair| pair.real)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Pair> {
        self.0.iter()
    }
}

impl FromIterator<Pair> for Pairs {
    fn from_iter<I: IntoIterator<Item = Pair>>(pairs: I) -> Self {
        Pairs(pairs.into_iter().collect())
    }
}

/// The hosts whose projections `commit` is or descends from. To any other host it must not be pushed: it lacks what
/// those have.
pub fn is_projection_related(
    repo: &gix::Repository,
    commit: CommitId,
    pairs: &Pairs,
) -> Result<BTreeSet<HostName>, HistoryError> {
    let mut hosts = BTreeSet::new();
    if pairs.0.is_empty() {
        return Ok(hosts);
    }
    let objects = Objects::of(repo);
    let mut seen = HashSet::new();
    let mut todo = vec![commit];
    while let Some(id) = todo.pop() {
        if objects.has(&id.0) && seen.insert(id) {
            todo.extend(objects.commit(&id)?.parents);
        }
    }
    hosts.extend(pairs.iter().filter(|pair| seen.contains(&pair.projected)).map(|pair| pair.host.clone()));
    Ok(hosts)
}
