//! The refs that Git is told about before a push.

use std::collections::{BTreeMap, BTreeSet};

use deptool_agent::shared::{id::CommitId, name::ClusterName};

/// A ref that Git may push to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The cluster.
    pub cluster: ClusterName,
    /// The commit there, as far as it is known.
    pub state: State,
}

/// The known state of a cluster at a remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The real id of the commit. Git does not push a ref that already has it.
    At(CommitId),
    /// Not known, so Git always pushes.
    Unknown,
}

/// Which hosts a push asks what they run before it makes the plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HostCheck {
    /// Those in doubt.
    #[default]
    WhenInDoubt,
    /// All of them.
    Always,
}

/// What the repository knows of a remote when Git asks for its refs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Knowledge {
    /// Whether this knowledge is sufficient.
    pub host_check: HostCheck,
    /// For each cluster, the real commit that the remote's host runs. Empty for a group, because its hosts may run
    /// different commits.
    pub tracked: BTreeMap<ClusterName, CommitId>,
    /// Clusters of hosts that are in doubt, or that a failed rollback has left broken.
    pub unsettled: BTreeSet<ClusterName>,
    /// `deptool.cluster`, and the short names of local branches and of `refs/remotes/*/*`. Git accepts `HEAD:prod` from
    /// a detached checkout only if the ref is listed.
    pub names: BTreeSet<ClusterName>,
}

/// The refs to offer for a push: all known names, with the commit where it is certain.
///
/// A host whose state is certain belongs to one cluster. Others are offered anyway, so that the helper can refuse them
/// with a better reason than Git's.
pub fn offers(knowledge: &Knowledge) -> Vec<Offer> {
    let mut states: BTreeMap<&ClusterName, State> = BTreeMap::new();
    states.extend(knowledge.names.iter().map(|name| (name, State::Unknown)));
    let state = |id: &CommitId| match knowledge.host_check {
        HostCheck::WhenInDoubt => State::At(*id),
        HostCheck::Always => State::Unknown,
    };
    states.extend(knowledge.tracked.iter().map(|(name, id)| (name, state(id))));
    states.extend(knowledge.unsettled.iter().map(|name| (name, State::Unknown)));
    states.into_iter().map(|(cluster, state)| Offer { cluster: cluster.clone(), state }).collect()
}
