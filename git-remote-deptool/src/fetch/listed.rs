//! What Git is shown beside the hosts' own refs.

use std::collections::{BTreeMap, BTreeSet};

use deptool_agent::shared::{id::CommitId, name::ClusterName};
use gix::bstr::BString;
use gix_protocol::handshake::Ref;

use super::{Running, projection::CommitSource};
use crate::fleet::remote::{Remote, RemoteError};

/// The tags of this repository, as they are. A host has none: with `fetch.pruneTags` Git would delete them all.
pub(super) fn tags(remote: &Remote) -> Result<Vec<Ref>, RemoteError> {
    // Of one that names nothing Git would expect that it is sent.
    let tags = remote.tracking().tags()?.into_iter().filter(|(_, id)| remote.repo.gix().has_object(id.0));
    let listed = |(name, id): (String, CommitId)| Ref::Direct {
        full_ref_name: BString::from(format!("refs/tags/{name}")),
        object: id.0,
    };
    Ok(tags.map(listed).collect())
}

/// The branch of a group, which `git pull` merges: the newest commit that one of its hosts runs, if all that the others
/// run is part of its history.
pub(super) fn branches(remote: &Remote, running: &[Option<Running>], is_clone: bool) -> Vec<Ref> {
    let mut clusters: BTreeMap<&ClusterName, Option<BTreeSet<CommitId>>> = BTreeMap::new();
    for Running { deployed, found } in running.iter().flatten() {
        let known = clusters.entry(&deployed.cluster).or_insert_with(|| Some(BTreeSet::new()));
        match found {
            // Only one host's part of the commit is here.
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
    if let (true, [(cluster, commit)]) = (is_clone, &found[..]) {
        let target = BString::from(format!("refs/heads/{cluster}"));
        refs.push(Ref::Symbolic { full_ref_name: "HEAD".into(), target, tag: None, object: commit.0 });
    }
    refs.extend(found.into_iter().map(|(cluster, commit)| Ref::Direct {
        full_ref_name: BString::from(format!("refs/heads/{cluster}")),
        object: commit.0,
    }));
    refs
}
