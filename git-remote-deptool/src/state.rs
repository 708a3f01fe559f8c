//! What the operator's side remembers about hosts. All of it is in the repository's common directory.
//!
//! | where | what |
//! | --- | --- |
//! | `refs/remotes/<tracking name>/<cluster>` | the commit that the host runs as far as is known, or a projection of it |
//! | `refs/deptool/unsettled/<host>/<cluster>` | a deployment was sent, and how it ended is not known |
//! | `refs/deptool/broken/<host>/<cluster>` | a failed deployment left something on the host that is not as before |
//! | `refs/deptool/projection/<real id>/<host>` | a local stand-in for a commit of which only one host's part is here |
//! | `deptool/hosts/<tracking name>` | facts that save a round trip, none of which may be relied on |
//! | `deptool/hosts/<tracking name>.lock` | held by the process that talks to the host |
//!
//! What may be relied on:
//!
//! - A change of a ref is durable when the function that makes it returns.
//! - A tracking ref is moved only to what the host reports, and never to a commit that is not here.
//! - The process that holds a [`HostLock`] is the only one that talks to that host from this repository, so marks and
//!   tracking refs are written in the order in which the host answered. Ref locks alone could not give that.

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

/// The refs of the operator's side.
#[derive(Debug)]
pub struct Tracking<'r> {
    repo: &'r Repo,
    refs: Refs,
}

/// Clusters and ids by the name that they are kept under.
type Grouped = HashMap<String, Vec<(ClusterName, CommitId)>>;

/// What a tracking ref says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracked {
    /// What the ref names: the deployed commit, or the projection that stands for it here.
    pub commit: CommitId,
    /// The commit that the host runs, by which it is known to everyone. May not be here.
    pub real: CommitId,
}

/// All that is known of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The clusters that it runs as far as is known: one, unless refs were changed by other means.
    pub clusters: BTreeMap<ClusterName, Tracked>,
    /// The deployments of which it is not known how they ended.
    pub unsettled: BTreeMap<ClusterName, Attempt>,
    /// It does not run what its deployment says, and a push of what is there repairs it.
    pub broken: bool,
}

/// A deployment of which it is not known how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// This commit was to be put there.
    Deploy(CommitId),
    /// Everything was to be removed.
    Remove,
    /// The mark can't be read.
    Unreadable,
}

/// Why a ref can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TrackingError {
    /// Reading.
    #[error("could not read '{name}'")]
    Read {
        /// The ref, or where refs are looked for.
        name: String,
        /// Why not.
        #[source]
        source: gix::Error,
    },
    /// Writing.
    #[error("could not update '{name}'")]
    Write {
        /// The ref.
        name: String,
        /// Why not.
        #[source]
        source: gix::Error,
    },
    /// Writing, where somebody else is, or was.
    #[error(
        "could not update '{name}': '{}' is in the way; if no git is at work in this repository, one that was killed has \
         left it: remove it",
        printable(lock.as_os_str().as_encoded_bytes())
    )]
    Locked {
        /// The ref.
        name: String,
        /// The file that has to go.
        lock: PathBuf,
    },
    /// Making it durable.
    #[error("could not write '{name}' to disk")]
    Sync {
        /// The ref.
        name: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Git would call the repository broken.
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

    /// What is known of a cluster on a host.
    pub fn get(&self, host: &HostRemote, cluster: &ClusterName) -> Result<Option<Tracked>, TrackingError> {
        Ok(self.clusters(host)?.remove(cluster))
    }

    /// What is known of each of `hosts`, in their order. One look at the refs for all of them.
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
                // Other programs may have written a tag there. What is not here at all is taken at its word.
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

    /// The refs below `prefix` whose last component can be a cluster's name, by what is before that; `above` is what
    /// `prefix` says of it.
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

    /// All clusters that run on a host as far as is known: one, unless refs were changed by other means.
    pub fn clusters(&self, host: &HostRemote) -> Result<BTreeMap<ClusterName, Tracked>, TrackingError> {
        Ok(self.known(&[host])?.pop().unwrap_or_default().clusters)
    }

    /// What all tracking refs for a cluster name: those of hosts, and of other remotes.
    pub fn of_cluster(&self, cluster: &ClusterName) -> Result<BTreeMap<TrackingName, CommitId>, TrackingError> {
        let end = format!("/{cluster}");
        let refs = self.refs.below("refs/remotes/")?.into_iter();
        let named = refs.filter_map(|(name, id)| Some((TrackingName::parse(name.strip_suffix(&end)?.into())?, id)));
        Ok(named.map(|(name, id)| (name, self.repo.peeled(id).unwrap_or(id))).collect())
    }

    /// Record that the host runs `commit`, or the commit that the projection `commit` stands for.
    ///
    /// The reflog gets an entry with `message`, unless nothing has changed.
    pub fn set(
        &self,
        host: &HostRemote,
        cluster: &ClusterName,
        commit: CommitId,
        message: &str,
    ) -> Result<(), TrackingError> {
        let name = tracking_ref(&host.tracking, cluster);
        if !self.repo.has_commit(commit) {
            return Err(TrackingError::Missing { name, id: commit });
        }
        self.refs.set(&name, commit.0, message)
    }

    /// Record that the host runs nothing of `cluster`.
    pub fn remove(&self, host: &HostRemote, cluster: &ClusterName) -> Result<(), TrackingError> {
        self.refs.delete(&tracking_ref(&host.tracking, cluster))
    }

    /// Record that `attempt` is about to be sent to these hosts. From now on until [`Self::settle`] they are *in doubt*.
    pub fn unsettle(&self, hosts: &[&HostName], cluster: &ClusterName, attempt: Attempt) -> Result<(), TrackingError> {
        let names: Vec<String> = hosts.iter().map(|host| unsettled_ref(host, cluster)).collect();
        let id = match attempt {
            Attempt::Deploy(id) if !self.repo.has_commit(id) => {
                return Err(TrackingError::Missing { name: names.join(" "), id });
            }
            Attempt::Deploy(id) => id.0,
            Attempt::Remove | Attempt::Unreadable => self.refs.need_empty_tree(&names.join(" "))?,
        };
        self.refs.set_all(&names, id)
    }

    /// Record that the host gave a definite answer.
    pub fn settle(&self, host: &HostName, cluster: &ClusterName) -> Result<(), TrackingError> {
        self.refs.delete(&unsettled_ref(host, cluster))
    }

    /// Record that a rollback failed on the host: what it was given as `cluster` is not what it runs.
    pub fn mark_broken(&self, host: &HostName, cluster: &ClusterName) -> Result<(), TrackingError> {
        let name = broken_ref(host, cluster);
        let mark = self.refs.need_empty_tree(&name)?;
        self.refs.set(&name, mark, "")
    }

    /// Record that the host runs what its deployment says.
    pub fn mark_whole(&self, host: &HostName) -> Result<(), TrackingError> {
        let marks = self.refs.below(&format!("refs/deptool/broken/{host}/"))?;
        marks.iter().try_for_each(|(cluster, _)| self.refs.delete(&format!("refs/deptool/broken/{host}/{cluster}")))
    }

    /// Remove lock files that killed processes of ours have left beside a host's refs.
    pub fn clear_locks(&self, host: &HostRemote) {
        for prefix in [format!("refs/deptool/unsettled/{}", host.host), format!("refs/remotes/{}", host.tracking)] {
            self.refs.clear_locks(&prefix);
        }
    }

    /// The deployments to a host of which it is not known how they ended.
    pub fn unsettled(&self, host: &HostName) -> Result<BTreeMap<ClusterName, Attempt>, TrackingError> {
        let marks = self.refs.below(&format!("refs/deptool/unsettled/{host}/"))?;
        let parse = |(name, id): (String, CommitId)| Some((ClusterName::parse(name.as_bytes()).ok()?, attempt_of(id)));
        Ok(marks.into_iter().filter_map(parse).collect())
    }

    /// What there is to offer to a push to `target`.
    pub fn knowledge(&self, target: &Target, settings: &Settings) -> Result<Knowledge, TrackingError> {
        // Git knows too little of a shallow history to judge, and would say that it is behind.
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
            // Each host may have another commit: nothing can be said for all.
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

    /// Whether the repository has no branch of its own or of another one: it is being cloned, or was just made.
    pub fn is_unused(&self) -> Result<bool, TrackingError> {
        Ok(self.refs.below("refs/heads/")?.is_empty() && self.refs.below("refs/remotes/")?.is_empty())
    }

    /// The short names of local branches and of remotes' branches, as far as they can be clusters.
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
