//! The branch that records what is deployed. It is named after the cluster, and HEAD points to it.

use crate::shared::{
    id::CommitId,
    name::ClusterName,
    store::{
        Store,
        error::{Result, StoreError},
        ref_files::{RefFiles, Target},
    },
};

/// How many removed branches are kept under `refs/deptool/removed`.
const KEPT_REMOVED: usize = 10;
const TARGET: &str = "refs/deptool/target";

/// What a change expects to be deployed. If it is not, the change fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Anything. Only for recovery, where the journal decides.
    Any,
    /// Nothing is deployed.
    Absent,
    /// This commit is deployed.
    At(CommitId),
}

/// An entry for the reflog, without the object ids. Characters that would break the line are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEntry<'a> {
    /// The operator's name.
    pub name: &'a str,
    /// The operator's address.
    pub email: &'a str,
    /// Seconds since 1970.
    pub seconds: i64,
    /// One line.
    pub message: &'a str,
}

impl RefFiles {
    /// The full name of the branch that HEAD names.
    pub(super) fn branch(&self) -> Option<String> {
        match self.read("HEAD") {
            Ok(Some(Target::Symbolic(branch))) if branch.starts_with("refs/heads/") && !branch.contains("..") => {
                Some(branch)
            }
            _ => None,
        }
    }

    /// The branch that HEAD names and its commit, if the branch exists.
    pub(super) fn deployed(&self) -> Result<Option<(ClusterName, CommitId)>> {
        let Some(Target::Symbolic(branch)) = self.read("HEAD")? else { return Ok(None) };
        let Some(short) = branch.strip_prefix("refs/heads/") else { return Ok(None) };
        let Ok(cluster) = ClusterName::parse(short.as_bytes()) else { return Ok(None) };
        Ok(match self.read(&branch)? {
            Some(Target::Object(id)) => Some((cluster, CommitId(id))),
            Some(Target::Symbolic(_)) | None => None,
        })
    }
}

impl Store {
    /// The commit that is deployed, and its cluster.
    pub fn deployed(&self) -> Result<Option<(ClusterName, CommitId)>> {
        self.refs.deployed()
    }

    /// Record that `new` is deployed as `cluster`, if `expected` is what is deployed now: a compare-and-swap.
    ///
    /// A host belongs to one cluster. While another cluster is deployed, this fails with [`StoreError::Stale`], too.
    pub fn set_deployed(
        &mut self,
        cluster: &ClusterName,
        expected: Expected,
        new: &CommitId,
        log: LogEntry<'_>,
    ) -> Result<()> {
        let branch = branch_name(cluster);
        let lock = self.refs.lock(&branch)?;
        let actual = self.deployed_under_lock(expected)?;
        check(cluster, expected, &actual)?;
        if actual.is_none() {
            // HEAD first: it has no effect until the branch exists, so creating the branch is the atomic step.
            self.refs.lock("HEAD")?.set(&Target::Symbolic(branch.clone()), None)?;
        }
        lock.set(&Target::Object(new.0), Some(&log.line()))
    }

    /// Record that nothing is deployed any more. The last commit and the reflog stay under
    /// `refs/deptool/removed/<cluster>/<seconds>`. Returns the name of that ref.
    ///
    /// This is idempotent: it can be repeated with the same `log` after a crash.
    pub fn remove(&mut self, cluster: &ClusterName, expected: Expected, log: LogEntry<'_>) -> Result<Option<String>> {
        let branch = branch_name(cluster);
        let lock = self.refs.lock(&branch)?;
        let actual = self.deployed_under_lock(expected)?;
        check(cluster, expected, &actual)?;
        let Some((_, tip)) = actual else { return Ok(None) };
        let kept = self.name_for_removed(cluster, &tip, log.seconds)?;
        self.refs.copy_log(&branch, &kept)?;
        self.refs.lock(&kept)?.set(&Target::Object(tip.0), Some(&log.line()))?;
        // Without the branch, recovery could not write it again.
        self.refs.sync(&kept)?;
        lock.remove()?;
        self.forget_removed(cluster)?;
        Ok(Some(kept))
    }

    /// Delete the oldest removed branches of `cluster`, but keep the last few.
    fn forget_removed(&mut self, cluster: &ClusterName) -> Result<()> {
        let prefix = format!("refs/deptool/removed/{cluster}");
        // `<seconds>` and `<seconds>-<n>`.
        let age = |name: &String| name.split('-').map(|n| n.parse::<u64>().ok()).collect::<Option<Vec<u64>>>();
        let mut names: Vec<_> = self.refs.names_in(&prefix)?.into_iter().filter_map(|n| Some((age(&n)?, n))).collect();
        while names.len() > KEPT_REMOVED
            && let Some(oldest) = (0..names.len()).min_by_key(|at| &names[*at])
        {
            let (_, name) = names.swap_remove(oldest);
            self.refs.lock(&format!("{prefix}/{name}"))?.remove()?;
        }
        Ok(())
    }

    /// Record the commit of an attempt that begins, for people, and so that Git keeps its objects if it fails.
    pub fn set_target(&mut self, commit: &CommitId) -> Result<()> {
        self.refs.lock(TARGET)?.set(&Target::Object(commit.0), None)
    }

    /// What is deployed. With [`Expected::Any`], a branch that can't be read counts as absent, so that recovery can
    /// replace it.
    fn deployed_under_lock(&self, expected: Expected) -> Result<Option<(ClusterName, CommitId)>> {
        match (self.deployed(), expected) {
            (Err(StoreError::BadRef { .. }), Expected::Any) => Ok(None),
            (result, _) => result,
        }
    }

    /// A ref name that is free, or that an interrupted run of the same removal already used.
    fn name_for_removed(&self, cluster: &ClusterName, tip: &CommitId, seconds: i64) -> Result<String> {
        let base = format!("refs/deptool/removed/{cluster}/{seconds}");
        let mut name = base.clone();
        for n in 2.. {
            match self.refs.read(&name)? {
                None => break,
                Some(Target::Object(id)) if id == tip.0 => break,
                Some(Target::Object(_) | Target::Symbolic(_)) => name = format!("{base}-{n}"),
            }
        }
        Ok(name)
    }
}

fn check(cluster: &ClusterName, expected: Expected, actual: &Option<(ClusterName, CommitId)>) -> Result<()> {
    let met = match (expected, actual) {
        (_, Some((other, _))) if other != cluster => false,
        (Expected::Any, _) => true,
        (Expected::Absent, actual) => actual.is_none(),
        (Expected::At(id), actual) => matches!(actual, Some((_, there)) if *there == id),
    };
    if met { Ok(()) } else { Err(StoreError::Stale { actual: actual.clone() }) }
}

impl LogEntry<'_> {
    /// The line in the reflog, without the two ids at its beginning.
    fn line(self) -> String {
        let (name, email) = (without(self.name, "<>"), without(self.email, "<>"));
        format!("{} <{}> {} +0000\t{}", name.trim(), email.trim(), self.seconds, without(self.message, ""))
    }
}

/// `text` without control characters and without the characters in `also`.
fn without(text: &str, also: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !also.contains(*c)).collect()
}

fn branch_name(cluster: &ClusterName) -> String {
    format!("refs/heads/{cluster}")
}
