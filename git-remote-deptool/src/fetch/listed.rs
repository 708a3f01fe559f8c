//! Refs that are listed to Git in addition to those of the hosts.

use std::collections::{BTreeMap, BTreeSet};

use deptool_agent::shared::{id::CommitId, name::ClusterName};

use super::{Running, projection::CommitSource};
use crate::{
    fleet::remote::{Remote, RemoteError},
    model::advertised::Advertised,
};

/// The tags of this repository, unchanged. Hosts have no tags, so with `fetch.pruneTags` Git would delete all of them.
pub(super) fn tags(remote: &Remote) -> Result<Vec<Advertised>, RemoteError> {
    // Git would try to fetch the target of a dangling tag.
    let tags = remote.tracking().tags()?.into_iter().filter(|(_, id)| remote.repo.gix().has_object(id.0));
    Ok(tags.map(|(name, id)| Advertised::at(format!("refs/tags/{name}"), id)).collect())
}

/// The branch of a group, which `git pull` merges. This is the newest commit that a host runs, if the other hosts run
/// commits of its history.
pub(super) fn branches(remote: &Remote, running: &[Option<Running>], is_clone: bool) -> Vec<Advertised> {
    let mut clusters: BTreeMap<&ClusterName, Option<BTreeSet<CommitId>>> = BTreeMap::new();
    for Running { deployed, found } in running.iter().flatten() {
        let known = clusters.entry(&deployed.cluster).or_insert_with(|| Some(BTreeSet::new()));
        match found {
            // A projection contains only one host's part of the commit.
            CommitSource::Projection(_) => *known = None,
            CommitSource::Here | CommitSource::FromRemote(_) | CommitSource::FromHost => {
                known.iter_mut().for_each(|known| known.extend([deployed.commit]));
            }
        }
    }
    let newest = |commits: BTreeSet<CommitId>| {
        let descends = |new: CommitId| commits.iter().all(|old| remote.repo.is_ancestor(*old, new).unwrap_or(false));
        commits.iter().copied().find(|commit| descends(*commit))
    };
    let found: Vec<_> =
        clusters.into_iter().filter_map(|(cluster, commits)| Some((cluster, newest(commits?)?))).collect();
    let mut refs = Vec::new();
    if let (true, [(cluster, _)]) = (is_clone, &found[..]) {
        refs.push(Advertised::Head(format!("refs/heads/{cluster}").into()));
    }
    let branch = |(cluster, commit)| Advertised::at(format!("refs/heads/{cluster}"), commit);
    refs.extend(found.into_iter().map(branch));
    refs
}
