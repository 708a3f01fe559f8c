//! Refs that are listed to Git in addition to those of the hosts.

use std::collections::{BTreeMap, BTreeSet};

use deptool_agent::shared::{id::CommitId, name::ClusterName};
use gix::bstr::BString;
use gix_protocol::handshake::Ref;

use super::{Running, projection::CommitSource};
use crate::fleet::remote::{Remote, RemoteError};

/// The tags of this repository, unchanged. Hosts have no tags, so with `fetch.pruneTags` Git would delete all of them.
pub(super) fn tags(remote: &Remote) -> Result<Vec<Ref>, RemoteError> {
    // Git would try to fetch the target of a dangling tag.
    let tags = remote.tracking().tags()?.into_iter().filter(|(_, id)| remote.repo.gix().has_object(id.0));
    let listed = |(name, id): (String, CommitId)| Ref::Direct {
        full_ref_name: BString::from(format!("refs/tags/{name}")),
        object: id.0,
    };
    Ok(tags.map(listed).collect())
}

/// The branch of a group, which `git pull` merges. This is the newest commit that a host runs, if the other hosts run
/// commits of its history.
pub(super) fn branches(remote: &Remote, running: &[Option<Running>], is_clone: bool) -> Vec<Ref> {
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
