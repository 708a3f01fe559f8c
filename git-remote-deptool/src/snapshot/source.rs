//! Finds the commit that a directory was rendered from.

use std::{ffi::OsString, fmt, path::Path, process::Stdio};

use deptool_agent::shared::{id::CommitId, name::ClusterName};

use crate::repo::{Environment, Repo};

/// The checked-out commit of a repository, which is assumed to be the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub commit: CommitId,
    /// The first line of its message.
    pub subject: String,
    /// Whether tracked files have uncommitted changes.
    pub is_dirty: bool,
}

/// The commit's id, with `-dirty` as in git-describe(1).
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.commit, if self.is_dirty { "-dirty" } else { "" })
    }
}

impl Source {
    /// The commit that is checked out in the first of `places` that is in a repository, unless it is on the cluster's
    /// branch itself.
    pub fn around(
        places: &[&Path],
        variables: &[(OsString, OsString)],
        cluster: &ClusterName,
        target: &Repo,
    ) -> Option<Source> {
        places.iter().find_map(|place| {
            // The cluster's repository is not of interest here.
            let variables = variables.iter().filter(|(name, _)| name != "GIT_DIR").cloned();
            let repo = Repo::open(Environment::new(place.canonicalize().ok()?, variables)).ok()?;
            let head = repo.gix().head_name().ok()?;
            let is_cluster = head.is_some_and(|head| head.as_bstr() == format!("refs/heads/{cluster}"));
            let is_target = repo.common_dir().canonicalize().ok() == target.common_dir().canonicalize().ok();
            if is_cluster && is_target {
                return None;
            }
            let commit = repo.gix().head_commit().ok()?;
            let subject = String::from_utf8_lossy(commit.message().ok()?.summary().as_ref()).into_owned();
            Some(Source { commit: CommitId(commit.id), subject, is_dirty: is_dirty(&repo) })
        })
    }
}

/// Whether `git status` reports changes. It must not write to that repository, which others may be using.
fn is_dirty(repo: &Repo) -> bool {
    let mut command = repo.git();
    command.args(["--no-optional-locks", "status", "--porcelain", "--untracked-files=no"]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output();
    output.is_ok_and(|output| !output.stdout.is_empty())
}
