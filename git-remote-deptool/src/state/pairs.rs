//! Which commits stand for which.

use deptool_agent::shared::{id::CommitId, name::HostName};

/// The refs that keep pairs, which name the projections: `refs/deptool/projection/<real id>/<host>`.
pub const REFS: &str = "refs/deptool/projection/";

/// A commit that a host runs, and the local commit that stands for it here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Whose directory the projection has. Two hosts of one commit have different projections.
    pub host: HostName,
    /// What the host runs.
    pub real: CommitId,
    /// What is here.
    pub projected: CommitId,
}

impl Pair {
    /// The pair that a ref of this name below [`REFS`] keeps, if it is one.
    pub fn parse(name: &str, projected: CommitId) -> Option<Self> {
        let (real, host) = name.split_once('/')?;
        Some(Pair { host: HostName::parse(host.as_bytes()).ok()?, real: real.parse().ok()?, projected })
    }

    /// The ref that keeps this pair.
    pub fn ref_name(&self) -> String {
        ref_name(self.real, &self.host)
    }
}

/// The ref that keeps the pair of what `host` runs.
pub fn ref_name(real: CommitId, host: &HostName) -> String {
    format!("{REFS}{real}/{host}")
}

/// All pairs that this repository has refs for.
#[derive(Debug, Clone, Default)]
pub struct Pairs(Vec<Pair>);

impl Pairs {
    /// Read them from the refs. What is no pair there is passed over.
    pub fn of(repo: &gix::Repository) -> Result<Self, gix::Error> {
        let mut pairs = Vec::new();
        let platform = repo.references()?;
        for reference in platform.prefixed(REFS)? {
            // One that can't be read is none.
            let Ok(reference) = reference else { continue };
            let name = reference.name().as_bstr().to_string();
            if let (Some(name), Some(id)) = (name.strip_prefix(REFS), reference.try_id()) {
                pairs.extend(Pair::parse(name, CommitId(id.detach())));
            }
        }
        Ok(Pairs(pairs))
    }

    /// The pair of what `host` runs, if that has a projection.
    pub fn projection_of(&self, real: &CommitId, host: &HostName) -> Option<&Pair> {
        self.0.iter().find(|pair| pair.real == *real && pair.host == *host)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Pair> {
        self.0.iter()
    }
}
