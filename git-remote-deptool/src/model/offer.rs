//! What may be pushed to, as far as the operator's side knows it.

use std::collections::{BTreeMap, BTreeSet};

use deptool_agent::shared::{id::CommitId, name::ClusterName};

/// A ref that Git may push to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Which cluster.
    pub cluster: ClusterName,
    /// What is there.
    pub state: State,
}

/// What is known about a cluster at a remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// This commit, by its real id. Git compares with it, and does not even push what is there already.
    At(CommitId),
    /// It has to be asked, so Git always pushes.
    Unknown,
}

/// Whether a push asks hosts first what they run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HostCheck {
    /// Only those of which it is not known.
    #[default]
    WhenInDoubt,
    /// All of them.
    Always,
}

/// What the operator's side knows when Git asks what it may push to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Knowledge {
    /// Whether that is good enough.
    pub host_check: HostCheck,
    /// The real commit of each cluster that the remote's host runs, as far as is known. Empty for a group: its hosts may
    /// run different commits.
    pub tracked: BTreeMap<ClusterName, CommitId>,
    /// Clusters that a deployment to one of the remote's hosts may have changed without our learning of it, or has left
    /// a host of which broken.
    pub unsettled: BTreeSet<ClusterName>,
    /// `deptool.cluster`, and the short names of local branches and of `refs/remotes/*/*`: Git takes `HEAD:prod`
    /// from a detached checkout only for a ref that is listed.
    pub names: BTreeSet<ClusterName>,
}

/// What to offer for a push: everything that is known to have a name, and its commit where that is certain.
///
/// A host with a settled deployment belongs to that cluster alone, but others are still offered, to be refused with a
/// reason that Git does not have.
pub fn offers(knowledge: &Knowledge) -> Vec<Offer> {
    let mut states: BTreeMap<&ClusterName, State> = BTreeMap::new();
    states.extend(knowledge.names.iter().map(|name| (name, State::Unknown)));
    let heard = |id: &CommitId| match knowledge.host_check {
        HostCheck::WhenInDoubt => State::At(*id),
        HostCheck::Always => State::Unknown,
    };
    states.extend(knowledge.tracked.iter().map(|(name, id)| (name, heard(id))));
    states.extend(knowledge.unsettled.iter().map(|name| (name, State::Unknown)));
    states.into_iter().map(|(cluster, state)| Offer { cluster: cluster.clone(), state }).collect()
}
