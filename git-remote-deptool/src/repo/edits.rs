//! Files on a host that differ from those in the tree, as a `git diff`.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
    process::Stdio,
};

use deptool_agent::shared::{
    id::CommitId,
    name::HostName,
    outcome::{Drift, Subject},
    text::printable_lines,
};

use super::{Repo, git::GitError};

/// What is compared, and in which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// From what was deployed to what somebody made of it.
    Edited,
    /// From what is in the way to what would take its place.
    InTheWay,
}

/// A diff of all files for which the host sent the content; empty if there are none. `commit` has the tree's side.
pub fn diff(repo: &Repo, host: &HostName, commit: CommitId, drift: &[Drift], compared: Compared) -> io::Result<String> {
    // The names of the two directories, as the diff shows them.
    let sides = match compared {
        Compared::Edited => ["deployed", "edited"],
        Compared::InTheWay => ["host", "tree"],
    };
    let directory = tempfile::tempdir()?;
    for side in sides {
        fs::create_dir(directory.path().join(side))?;
    }
    for one in drift {
        let (Some(edit), Subject::Path(path)) = (&one.edit, &one.subject) else { continue };
        let Some(path) = below(path) else { continue };
        let blob = format!("{commit}:{host}/{}", edit.deployed);
        let deployed = match repo.git_with_promisor(repo.git(), "cat-file").args(["blob", &blob]).run(b"") {
            Ok(deployed) => printable_lines(&deployed),
            Err(GitError::Failed { .. }) => continue,
            Err(error) => return Err(io::Error::other(error)),
        };
        let mut contents = [deployed, edit.now.clone()];
        if compared == Compared::InTheWay {
            contents.reverse();
        }
        for (side, content) in sides.iter().zip(contents) {
            let file = directory.path().join(side).join(&path);
            fs::create_dir_all(file.parent().unwrap_or(directory.path()))?;
            fs::write(file, content)?;
        }
    }
    let mut git = repo.git();
    git.current_dir(directory.path()).args(["diff", "--no-index", "--no-ext-diff", "--no-color", "--no-prefix", "--"]);
    let diff = git.args(sides).stdin(Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&diff.stdout).into_owned())
}

/// An absolute path on the host as a relative path without `..`.
fn below(path: &str) -> Option<PathBuf> {
    let path = Path::new(path.strip_prefix('/')?);
    path.components().all(|component| matches!(component, Component::Normal(_))).then(|| path.to_owned())
}
