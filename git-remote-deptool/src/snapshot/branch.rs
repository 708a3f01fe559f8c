//! The cluster's branch: its content, the parents of a new commit, and the commit itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use deptool_agent::shared::{
    id::{CommitId, TreeId},
    name::{ClusterName, HostName},
    text::printable_lines,
};
use gix::{ObjectId, bstr::ByteSlice};

use super::{Change, SnapshotError};
use crate::{
    config::{Settings, TrackingName},
    model::interrupt::Interrupt,
    repo::{
        ReadError, Repo,
        git::{Git, GitError},
    },
    state::Tracking,
};

/// A cluster's branch.
pub(super) struct Branch<'a> {
    repo: &'a Repo,
    cluster: &'a ClusterName,
    interrupt: &'a Interrupt,
    pub tip: Option<CommitId>,
}

/// The hosts' directories in a root tree.
pub(super) type Hosts = BTreeMap<HostName, TreeId>;

/// The parents that make a commit a fast-forward for every host.
pub(super) struct Parents {
    pub commits: Vec<CommitId>,
    /// Hosts for which that is not possible.
    pub warnings: Vec<String>,
}

impl<'a> Branch<'a> {
    pub fn of(repo: &'a Repo, cluster: &'a ClusterName, interrupt: &'a Interrupt) -> Result<Self, SnapshotError> {
        let name = format!("refs/heads/{cluster}");
        let failed = |error| ReadError::new(format!("'{name}'"), error);
        let found = repo.gix().try_find_reference(&*name).map_err(failed)?;
        let tip = found.map(|mut reference| reference.peel_to_id()).transpose().map_err(failed)?;
        Ok(Branch { repo, cluster, interrupt, tip: tip.map(|id| CommitId(id.detach())) })
    }

    /// The tree at the tip, and the hosts in it.
    pub fn content(&self) -> Result<(Option<TreeId>, Hosts), SnapshotError> {
        let Some(tip) = self.tip else { return Ok((None, Hosts::new())) };
        Ok((Some(self.repo.tree_of(tip)?), self.repo.host_trees(tip)?.into_iter().collect()))
    }

    /// The tip, and the commits that hosts run and that are not in its history. `hosts` are those of the branch and of
    /// the new tree.
    pub fn parents(&self, settings: &Settings, hosts: &BTreeSet<&HostName>) -> Result<Parents, SnapshotError> {
        let tracking = Tracking::new(self.repo);
        let mut names: BTreeMap<TrackingName, HostName> = BTreeMap::new();
        for known in settings.known_hosts()? {
            names.insert(known.tracking, known.host);
        }
        // Some names may not be valid here, such as that of an unrelated remote. A push reports that.
        for remote in hosts.iter().filter_map(|host| settings.host(host).ok()) {
            names.insert(remote.tracking, remote.host);
        }
        let projections: BTreeSet<CommitId> = tracking.projections()?.into_iter().map(|pair| pair.projected).collect();
        let (mut run, mut warnings) = (BTreeSet::new(), Vec::new());
        for (name, commit) in tracking.of_cluster(self.cluster)? {
            let Some(host) = names.get(&name) else { continue };
            match projections.contains(&commit) {
                false => drop(run.insert(commit)),
                true => warnings.push(format!(
                    "'{host}' runs a commit that is not in this repository: get it from the operator who made it, then run \
                     'git fetch {name}'"
                )),
            }
        }
        Ok(Parents { commits: self.newest(&run)?, warnings })
    }

    /// The tip, and those of `commits` that are no ancestors of the tip or of each other.
    fn newest(&self, commits: &BTreeSet<CommitId>) -> Result<Vec<CommitId>, SnapshotError> {
        let mut newest: Vec<CommitId> = self.tip.into_iter().collect();
        for commit in commits {
            let others = commits.iter().filter(|other| *other != commit).chain(&self.tip);
            let mut is_old = false;
            for other in others {
                is_old = is_old || self.repo.is_ancestor(*commit, *other)?;
            }
            if !is_old {
                newest.push(*commit);
            }
        }
        Ok(newest)
    }

    /// Commit `tree` and update the branch, unless another process has updated it meanwhile.
    pub fn commit(&self, tree: TreeId, parents: &[CommitId], message: &[u8]) -> Result<CommitId, SnapshotError> {
        let signs = self.repo.gix().config_snapshot().boolean("commit.gpgSign") == Some(true);
        let printed = self
            .git("commit-tree")
            .with(|git| {
                git.args(["-F", "-"]);
                for parent in parents {
                    git.args(["-p", &parent.to_string()]);
                }
                // commit-tree does not read commit.gpgSign.
                git.args(signs.then_some("-S")).arg(tree.to_string());
            })
            // gpg may have to ask for a passphrase.
            .uses_terminal(signs)
            .run(message)?;
        let id: CommitId = String::from_utf8_lossy(&printed)
            .trim()
            .parse()
            .map_err(|_| GitError::Failed { command: "commit-tree", stderr: printable_lines(&printed) })?;
        let subject = String::from_utf8_lossy(message).lines().next().unwrap_or_default().to_owned();
        let old = self.tip.map_or_else(|| ObjectId::null(gix::hash::Kind::Sha1).to_string(), |tip| tip.to_string());
        self.git("update-ref")
            .with(|git| {
                git.args(["--create-reflog", "-m", &format!("snapshot: {subject}")]);
                git.args([format!("refs/heads/{}", self.cluster), id.to_string(), old]);
            })
            .run(b"")?;
        Ok(id)
    }

    fn git(&self, name: &'static str) -> Git {
        Git::new(self.repo.git(), name, self.interrupt.clone())
    }

    /// The work tree in which the branch is checked out. Git does not expect the branch to change there.
    pub fn checked_out(&self) -> Option<PathBuf> {
        let name = format!("refs/heads/{}", self.cluster);
        let trees = self.repo.gix().worktrees_including_main().ok()?;
        let mut trees = trees.filter_map(Result::ok).filter(|tree| !tree.is_bare());
        let found = trees.find(|tree| tree.head_name().ok().flatten().is_some_and(|head| head.as_bstr() == name))?;
        found.workdir().map(ToOwned::to_owned)
    }
}

/// The hosts in the output of `git ls-tree -d -z`.
pub(super) fn listed_hosts(printed: &[u8]) -> Hosts {
    let parse = |line: &[u8]| {
        let (head, name) = line.split_once_str("\t")?;
        let id = TreeId(ObjectId::from_hex(head.rsplit_once_str(" ")?.1).ok()?);
        Some((HostName::parse(name).ok()?, id))
    };
    printed.split(|byte| *byte == 0).filter_map(parse).collect()
}

/// How the hosts' directories differ.
pub(super) fn changes(old: &Hosts, new: &Hosts) -> BTreeMap<HostName, Change> {
    let removed = old.keys().filter(|host| !new.contains_key(*host)).map(|host| (host.clone(), Change::Removed));
    let others = new.iter().filter_map(|(host, tree)| match old.get(host) {
        None => Some((host.clone(), Change::Added)),
        Some(before) if before != tree => Some((host.clone(), Change::Changed)),
        Some(_) => None,
    });
    others.chain(removed).collect()
}
