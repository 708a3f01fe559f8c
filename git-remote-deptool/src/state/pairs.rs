//! Records which local commits represent which commits of hosts.

use deptool_agent::shared::{id::CommitId, name::HostName};

/// The prefix of the refs. Each points to a projection: `refs/deptool/projection/<real id>/<host>`.
pub const REFS: &str = "refs/deptool/projection/";

/// A commit that a host runs, and the local commit that represents it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The host whose directory the projection contains, by its name here. The directory has an older name if the host was
    /// renamed since. Two hosts with the same commit have different projections.
    pub host: HostName,
    /// The commit that the host runs.
    pub real: CommitId,
    /// The local commit.
    pub projected: CommitId,
}

impl Pair {
    /// The pair that the ref `name` below [`REFS`] records, if it is valid.
    pub fn parse(name: &str, projected: CommitId) -> Option<Self> {
        let (real, host) = name.split_once('/')?;
        Some(Pair { host: HostName::parse(host.as_bytes()).ok()?, real: real.parse().ok()?, projected })
    }

    /// The name of the ref that records this pair.
    pub fn ref_name(&self) -> String {
        ref_name(self.real, &self.host)
    }
}

/// The name of the ref for the commit `real` that `host` runs.
pub fn ref_name(real: CommitId, host: &HostName) -> String {
    format!("{REFS}{real}/{host}")
}
