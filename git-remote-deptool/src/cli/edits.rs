//! Files that were edited on a host, as a `git diff` from the deployed content to the current one.

use std::{
    fs,
    path::{Component, Path, PathBuf},
    process::Stdio,
};

use deptool_agent::shared::{
    id::CommitId,
    name::HostName,
    outcome::{Drift, Subject},
    text::printable_lines,
};

use super::CliError;
use crate::repo::Repo;

/// The names of the two compared directories in the diff.
const SIDES: [&str; 2] = ["deployed", "edited"];

/// A diff of all files for which the host sent the content; empty if there are none.
pub(super) fn show(repo: &Repo, host: &HostName, runs: CommitId, drift: &[Drift]) -> Result<String, CliError> {
    let directory = tempfile::tempdir()?;
    for side in SIDES {
        fs::create_dir(directory.path().join(side))?;
    }
    for one in drift {
        let (Some(edit), Subject::Path(path)) = (&one.edit, &one.subject) else { continue };
        let Some(path) = below(path) else { continue };
        let blob = format!("{runs}:{host}/{}", edit.deployed);
        let deployed = repo.git().args(["cat-file", "blob", &blob]).stderr(Stdio::null()).output()?;
        if deployed.status.success() {
            let contents = [printable_lines(&deployed.stdout), edit.now.clone()];
            for (side, content) in SIDES.iter().zip(contents) {
                let file = directory.path().join(side).join(&path);
                fs::create_dir_all(file.parent().unwrap_or(directory.path()))?;
                fs::write(file, content)?;
            }
        }
    }
    let mut git = repo.git();
    git.current_dir(directory.path()).args(["diff", "--no-index", "--no-ext-diff", "--no-color", "--no-prefix", "--"]);
    let diff = git.args(SIDES).stdin(Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&diff.stdout).into_owned())
}

/// An absolute path on the host as a relative path without `..`.
fn below(path: &str) -> Option<PathBuf> {
    let path = Path::new(path.strip_prefix('/')?);
    path.components().all(|component| matches!(component, Component::Normal(_))).then(|| path.to_owned())
}
