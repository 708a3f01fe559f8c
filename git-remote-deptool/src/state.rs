//! The state that the repository keeps about hosts, all of it in the common directory.
//!
//! | where | what |
//! | --- | --- |
//! | `refs/remotes/<tracking name>/<cluster>` | the commit that the host runs, as far as that is known, or a projection of it |
//! | `refs/deptool/unsettled/<host>/<cluster>` | a deployment was sent, and its outcome is unknown |
//! | `refs/deptool/broken/<host>/<cluster>` | a failed rollback left something on the host that is not as before |
//! | `refs/deptool/projection/<real id>/<host>` | represents a commit of which the repository has only one host's part |
//! | `deptool/hosts/<tracking name>` | facts that save a round trip; all of them may be wrong |
//! | `deptool/hosts/<tracking name>.lock` | held by the process that is connected to the host |
//!
//! Guarantees:
//!
//! - A change of a ref is durable when the function that makes it returns.
//! - A tracking ref is only set to a commit that the host has reported and that is in the repository.
//! - The process that holds a [`HostLock`] is the only one of this repository that is connected to that host. So marks
//!   and tracking refs are written in the order of the host's answers. The locks of the refs alone could not ensure that.

mod facts;
mod lock;
pub mod pairs;
mod projection;
mod refs;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use deptool_agent::shared::{
    id::CommitId,
    name::{ClusterName, HostName},
    text::printable,
};
pub use facts::{FactsError, Failed, HostFacts, RequestPath, Timing};
pub use lock::{HostLock, LockError};
pub use projection::ProjectionError;
use refs::Refs;

use crate::{
    config::{HostRemote, Settings, Target, TrackingName},
    model::offer::{HostCheck, Knowledge},
    repo::Repo,
};

/// Reads and writes the refs.
#[derive(Debug)]
pub struct Tracking<'r> {
    repo: &'r Repo,
    refs: Refs,
}

/// Clusters and ids, grouped by the name under which they are kept.
type Grouped = HashMap<String, Vec<(ClusterName, CommitId)>>;

/// The state that a tracking ref records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracked {
    /// The commit of the ref: the deployed one, or the local projection of it.
    pub commit: CommitId,
    /// The commit that the host runs. It may be missing in this repository.
    pub real: CommitId,
}

/// The recorded state of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The clusters that the host runs. There is one, unless refs were changed by other programs.
    pub clusters: BTreeMap<ClusterName, Tracked>,
    /// The deployments whose outcome is unknown.
    pub unsettled: BTreeMap<ClusterName, Attempt>,
    /// A rollback failed on the host. Pushing the running commit again repairs it.
    pub broken: bool,
}

/// A deployment whose outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// A deployment of this commit.
    Deploy(CommitId),
    /// A removal.
    Remove,
    /// The mark is unreadable.
    Unreadable,
}

/// Why a ref can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TrackingError {
    /// It can't be read.
    #[error("could not read '{name}'")]
    Read {
        /// The ref, or the prefix of several refs.
        name: String,
        /// The cause.
        #[source]
        source: gix::Error,
    },
    /// It can't be written.
    #[error("could not update '{name}'")]
    Write {
        /// The ref.
        name: String,
        /// The cause.
        #[source]
        source: gix::Error,
    },
    /// It is locked by another process, or by one that died.
    #[error(
        "could not update '{name}': '{}' is in the way; if no git is at work in this repository, one that was killed has \
         left it: remove it",
        printable(lock.as_os_str().as_encoded_bytes())
    )]
    Locked {
        /// The ref.
        name: String,
        /// The lock file.
        lock: PathBuf,
    },
    /// It can't be synced.
    #[error("could not write '{name}' to disk")]
    Sync {
        /// The ref.
        name: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The commit is missing, so Git would consider the ref broken.
    #[error("'{name}' can't be set to commit {}, which is not in this repository", .id.short())]
    Missing {
        /// The ref.
        name: String,
        /// The commit.
        id: CommitId,
    },
}

impl<'r> Tracking<'r> {
    /// The refs of `repo`.
    pub fn new(repo: &'r Repo) -> Self {
        Tracking { repo, refs: Refs::new(repo) }
    }

    /// The recorded state of a cluster on a host.
    pub fn get(&self, host: &HostRemote, cluster: &ClusterName) -> Result<Option<Tracked>, TrackingError> {
        Ok(self.clusters(host)?.remove(cluster))
    }

    /// The recorded state of each of `hosts`, in their order. The refs are listed only once.
    pub fn known(&self, hosts: &[&HostRemote]) -> Result<Vec<Known>, TrackingError> {
        let marks = |kind: &str| match hosts {
            [host] => self.grouped(&format!("refs/deptool/{kind}/{}/", host.host), host.host.as_str()),
            _ => self.grouped(&format!("refs/deptool/{kind}/"), ""),
        };
        let tracking = match hosts {
            [host] => self.grouped(&format!("refs/remotes/{}/", host.tracking), host.tracking.as_str())?,
            _ => self.grouped("refs/remotes/", "")?,
        };
        let (unsettled, broken) = (marks("unsettled")?, marks("broken")?);
        let projections = self.projections()?;
        let mut peeled = HashMap::new();
        let mut of_host = |host: &&HostRemote| {
            let mut known = Known::default();
            for (cluster, id) in tracking.get(host.tracking.as_str()).into_iter().flatten() {
                // Other programs may have set the ref to a tag. If the object is missing, it is assumed to be a commit.
                let commit = *peeled.entry(*id).or_insert_with(|| self.repo.peeled(*id).unwrap_or(*id));
                let projection = projections.iter().find(|p| p.projected == commit && p.host == host.host);
                let real = projection.map_or(commit, |p| p.real);
                known.clusters.insert(cluster.clone(), Tracked { commit, real });
            }
            for (cluster, id) in unsettled.get(host.host.as_str()).into_iter().flatten() {
                known.unsettled.insert(cluster.clone(), attempt_of(*id));
            }
            known.broken = broken.contains_key(host.host.as_str());
            known
        };
        Ok(hosts.iter().map(&mut of_host).collect())
    }

    /// The refs below `prefix` whose last component is valid as the name of a cluster, grouped by the components before
    /// it. `above` is the name for refs directly below `prefix`.
    fn grouped(&self, prefix: &str, above: &str) -> Result<Grouped, TrackingError> {
        let mut grouped = Grouped::new();
        for (name, id) in self.refs.below(prefix)? {
            let (group, cluster) = match above {
                "" => name.rsplit_once('/').unwrap_or(("", &name)),
                _ => (above, name.as_str()),
            };
            if let Ok(cluster) = ClusterName::parse(cluster.as_bytes()) {
                grouped.entry(group.to_owned()).or_default().push((cluster, id));
            }
        }
        Ok(grouped)
    }

    /// All recorded clusters of a host. There is one, unless refs were changed by other programs.
    pub fn clusters(&self, host: &HostRemote) -> Result<BTreeMap<ClusterName, Tracked>, TrackingError> {
        Ok(self.known(&[host])?.pop().unwrap_or_default().clusters)
    }

    /// The commits of all tracking refs for a cluster, including those of remotes that are not hosts.
    pub fn of_cluster(&self, cluster: &ClusterName) -> Result<BTreeMap<TrackingName, CommitId>, TrackingError> {
        let end = format!("/{cluster}");
        let refs = self.refs.below("refs/remotes/")?.into_iter();
        let named = refs.filter_map(|(name, id)| Some((TrackingName::parse(name.strip_suffix(&end)?.into())?, id)));
        Ok(named.map(|(name, id)| (name, self.repo.peeled(id).unwrap_or(id))).collect())
    }

    /// Record that the host runs `commit`, or the commit that is represented by the projection `commit`.
    ///
    /// If the ref changes, its reflog gets an entry with `message`.
    pub fn set(
        &self,
        host: &HostRemote,
        cluster: &ClusterName,
        commit: CommitId,
        message: &str,
    ) -> Result<(), TrackingError> {
        self.set_all(&[host], cluster, commit, message)
    }

    /// Like [`Self::set`], for several hosts. That is faster than one after another.
    pub fn set_all(
        &self,
        hosts: &[&HostRemote],
        cluster: &ClusterName,
        commit: CommitId,
        message: &str,
    ) -> Result<(), TrackingError> {
        let names: Vec<String> = hosts.iter().map(|host| tracking_ref(&host.tracking, cluster)).collect();
        if !self.repo.has_commit(commit) {
            return Err(TrackingError::Missing { name: names.join(" "), id: commit });
        }
        self.refs.set_all(&names, commit.0, message)
    }

    /// Record that the host does not run `cluster`.
    pub fn remove(&self, host: &HostRemote, cluster: &ClusterName) -> Result<(), TrackingError> {
        self.refs.delete(&tracking_ref(&host.tracking, cluster))
    }

    /// Give the tracking refs of a host, with their reflogs, another name, and keep the old ones.
    pub fn copy(&self, from: &TrackingName, to: &TrackingName) -> Result<(), TrackingError> {
        for (cluster, id) in self.refs.below(&format!("refs/remotes/{from}/"))? {
            self.refs.copy(&format!("refs/remotes/{from}/{cluster}"), &format!("refs/remotes/{to}/{cluster}"), id.0)?;
        }
        Ok(())
    }

    /// Delete the tracking refs of a host.
    pub fn forget(&self, tracking: &TrackingName) -> Result<(), TrackingError> {
        let refs = self.refs.below(&format!("refs/remotes/{tracking}/"))?;
        refs.iter().try_for_each(|(cluster, _)| self.refs.delete(&format!("refs/remotes/{tracking}/{cluster}")))
    }

    /// Record that `attempt` will be sent to these hosts. They are *in doubt* until [`Self::settle`] is called.
    pub fn unsettle(&self, hosts: &[&HostName], cluster: &ClusterName, attempt: Attempt) -> Result<(), TrackingError> {
        let names: Vec<String> = hosts.iter().map(|host| unsettled_ref(host, cluster)).collect();
        let id = match attempt {
            Attempt::Deploy(id) if !self.repo.has_commit(id) => {
                return Err(TrackingError::Missing { name: names.join(" "), id });
            }
            Attempt::Deploy(id) => id.0,
            Attempt::Remove | Attempt::Unreadable => self.refs.need_empty_tree(&names.join(" "))?,
        };
        self.refs.set_all(&names, id, "")
    }

    /// Record that the host gave a definite answer.
    pub fn settle(&self, host: &HostName, cluster: &ClusterName) -> Result<(), TrackingError> {
        self.refs.delete(&unsettled_ref(host, cluster))
    }

    /// Record that a rollback failed on the host, so it may not run exactly what was deployed.
    pub fn mark_broken(&self, host: &HostName, cluster: &ClusterName) -> Result<(), TrackingError> {
        let name = broken_ref(host, cluster);
        let mark = self.refs.need_empty_tree(&name)?;
        self.refs.set(&name, mark, "")
    }

    /// Record that the host runs what was deployed.
    pub fn mark_whole(&self, host: &HostName) -> Result<(), TrackingError> {
        let marks = self.refs.below(&format!("refs/deptool/broken/{host}/"))?;
        marks.iter().try_for_each(|(cluster, _)| self.refs.delete(&format!("refs/deptool/broken/{host}/{cluster}")))
    }

    /// Delete lock files of the host's refs that killed processes have left.
    pub fn clear_locks(&self, host: &HostRemote) {
        for prefix in [format!("refs/deptool/unsettled/{}", host.host), format!("refs/remotes/{}", host.tracking)] {
            self.refs.clear_locks(&prefix);
        }
    }

    /// The deployments to a host whose outcome is unknown.
    pub fn unsettled(&self, host: &HostName) -> Result<BTreeMap<ClusterName, Attempt>, TrackingError> {
        let marks = self.refs.below(&format!("refs/deptool/unsettled/{host}/"))?;
        let parse = |(name, id): (String, CommitId)| Some((ClusterName::parse(name.as_bytes()).ok()?, attempt_of(id)));
        Ok(marks.into_iter().filter_map(parse).collect())
    }

    /// What to offer for a push to `target`.
    pub fn knowledge(&self, target: &Target, settings: &Settings) -> Result<Knowledge, TrackingError> {
        // In a shallow repository, Git can't determine ancestry, and would reject the push as non-fast-forward.
        let host_check =
            if self.repo.gix().is_shallow().unwrap_or(true) { HostCheck::Always } else { settings.host_check };
        let mut knowledge = Knowledge { host_check, names: self.names()?, ..Knowledge::default() };
        knowledge.names.extend(settings.cluster.clone());
        match target {
            Target::Host(host) => {
                let clusters = self.clusters(host)?;
                knowledge.tracked = clusters.into_iter().map(|(name, tracked)| (name, tracked.real)).collect();
                knowledge.unsettled = self.unsettled(&host.host)?.into_keys().collect();
                let broken = self.refs.below(&format!("refs/deptool/broken/{}/", host.host))?;
                knowledge
                    .unsettled
                    .extend(broken.iter().filter_map(|(name, _)| ClusterName::parse(name.as_bytes()).ok()));
            }
            // Hosts may run different commits, so there is no commit for all of them.
            Target::Group(..) | Target::All => (),
        }
        Ok(knowledge)
    }

    /// The commit of the local branch of a cluster, if there is one.
    pub fn branch(&self, cluster: &ClusterName) -> Result<Option<CommitId>, TrackingError> {
        self.refs.get(&format!("refs/heads/{cluster}"))
    }

    /// The tags, without `refs/tags/`.
    pub fn tags(&self) -> Result<Vec<(String, CommitId)>, TrackingError> {
        self.refs.below("refs/tags/")
    }

    /// Whether the repository has neither branches nor remote branches, because it is new or being cloned.
    pub fn is_unused(&self) -> Result<bool, TrackingError> {
        Ok(self.refs.below("refs/heads/")?.is_empty() && self.refs.below("refs/remotes/")?.is_empty())
    }

    /// The short names of local and remote branches that are valid as names of clusters.
    fn names(&self) -> Result<std::collections::BTreeSet<ClusterName>, TrackingError> {
        let local = self.refs.below("refs/heads/")?;
        let remote = self.refs.below("refs/remotes/")?;
        let short = |name: &str| name.rsplit_once('/').map(|(_, short)| ClusterName::parse(short.as_bytes()));
        let local = local.iter().map(|(name, _)| ClusterName::parse(name.as_bytes()));
        let remote = remote.iter().filter_map(|(name, _)| short(name));
        Ok(local.chain(remote).filter_map(Result::ok).collect())
    }
}

fn tracking_ref(tracking: &TrackingName, cluster: &ClusterName) -> String {
    format!("refs/remotes/{tracking}/{cluster}")
}

fn unsettled_ref(host: &HostName, cluster: &ClusterName) -> String {
    format!("refs/deptool/unsettled/{host}/{cluster}")
}

fn attempt_of(mark: CommitId) -> Attempt {
    match mark.0 {
        id if id == empty_tree() => Attempt::Remove,
        id if id.is_null() => Attempt::Unreadable,
        _ => Attempt::Deploy(mark),
    }
}

fn broken_ref(host: &HostName, cluster: &ClusterName) -> String {
    format!("refs/deptool/broken/{host}/{cluster}")
}

fn empty_tree() -> gix::ObjectId {
    gix::ObjectId::empty_tree(gix::hash::Kind::Sha1)
}

#[cfg(test)]
mod tests;
