//! Commits a rendered directory to the cluster's branch, without touching the index or the work tree.
//!
//! ```text
//! walk    checks that everything can be deployed
//! index   has Git make a tree of the files
//! branch  finds the changes and the parents, and makes the commit
//! ```
//!
//! The tree contains the bytes of the files unchanged: attributes, filters and ignore files do not apply.

mod branch;
mod index;
mod source;
mod walk;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use branch::Branch;
use deptool_agent::shared::{
    id::{CommitId, TreeId},
    name::{ClusterName, HostName},
    text::printable,
};
use gix::bstr::{BString, ByteSlice};
use index::Index;
pub use source::Source;

use crate::{
    config::{ClusterError, Settings},
    model::interrupt::Interrupt,
    repo::{AncestryError, ReadError, Repo, git::GitError},
    state::TrackingError,
};

/// What to commit, and where.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The directory, with one directory per host.
    pub directory: &'a Path,
    pub cluster: &'a ClusterName,
    /// The commit message; by default it names the source.
    pub message: Option<&'a [u8]>,
    pub run: Run,
    pub interrupt: &'a Interrupt,
}

/// Whether this is a dry run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    Real,
    Dry,
}

/// The result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub tree: TreeId,
    /// The number of files and symlinks.
    pub files: usize,
    /// The hosts whose directories differ from those on the branch.
    pub hosts: BTreeMap<HostName, Change>,
    /// The parents of the new commit. If they are not just the tip of the branch, a commit is made even if no file has
    /// changed.
    pub parents: Vec<CommitId>,
    /// The commit that the directory was rendered from.
    pub source: Option<Source>,
    pub result: Committed,
    /// Messages for the operator.
    pub warnings: Vec<String>,
}

/// What happened to the branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// It already has this tree, and descends from the commits that all hosts run.
    Unchanged,
    /// It would have changed.
    Would,
    /// The new commit.
    Commit(CommitId),
}

/// How a host's directory differs from that on the branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    Added,
    Changed,
    Removed,
}

/// Why no snapshot was made. The branch is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file or directory can't be read.
    #[error("could not read '{}'", printable(path.as_os_str().as_encoded_bytes()))]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A name that can't be deployed.
    #[error("'{}' can't be deployed: {why}", printable(path))]
    Name { path: BString, why: String },
    /// An empty directory, which is probably a mistake.
    #[error("there is nothing in '{}'", printable(.0.as_os_str().as_encoded_bytes()))]
    Empty(PathBuf),
    #[error("could not hash a name")]
    Object(#[source] gix::Error),
    /// The branch can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The tracking refs can't be read.
    #[error(transparent)]
    Tracking(#[from] TrackingError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Ancestry(#[from] AncestryError),
    #[error(transparent)]
    Git(#[from] GitError),
}

/// Commit a directory, unless the branch already has its content. `source` is only called if there is something to
/// commit.
pub fn take(
    repo: &Repo,
    settings: &Settings,
    request: &Request<'_>,
    source: &dyn Fn() -> Option<Source>,
) -> Result<Snapshot, SnapshotError> {
    let tops = walk::walk(request.directory)?;
    let files = walk::total(&tops);
    if files == 0 {
        return Err(SnapshotError::Empty(request.directory.to_owned()));
    }
    let index = Index::open(repo, request.directory, request.run, request.interrupt)?;
    let tree = index.tree(&tops)?;
    let new = index.hosts(tree)?;
    index.keep();

    let branch = Branch::of(repo, request.cluster, request.interrupt)?;
    let (old_tree, old) = branch.content()?;
    let parents = branch.parents(settings, &old.keys().chain(new.keys()).collect())?;

    let mut snapshot = Snapshot {
        tree,
        files,
        hosts: branch::changes(&old, &new),
        parents: parents.commits,
        source: None,
        result: Committed::Unchanged,
        warnings: parents.warnings,
    };
    if old_tree == Some(snapshot.tree) && branch.tip.as_slice() == snapshot.parents {
        return Ok(snapshot);
    }
    snapshot.source = source();
    snapshot.result = match request.run {
        Run::Dry => Committed::Would,
        Run::Real => {
            let message = message(request, snapshot.source.as_ref());
            Committed::Commit(branch.commit(tree, &snapshot.parents, &message)?)
        }
    };
    if let Some(place) = branch.checked_out() {
        snapshot.warnings.push(format!(
            "'{}' is checked out in '{}', where index and files are as before; \
             'git reset --hard' there updates them, and discards uncommitted changes",
            request.cluster,
            printable(place.as_os_str().as_encoded_bytes())
        ));
    }
    Ok(snapshot)
}

/// The given message, or one that names the source; with the source in a trailer.
fn message(request: &Request<'_>, source: Option<&Source>) -> Vec<u8> {
    let given = request.message.map(<[u8]>::trim_ascii_end).filter(|message| !message.is_empty());
    let mut message = match (given, source) {
        (Some(message), _) => message.to_owned(),
        (None, Some(source)) => format!("Snapshot of {}: {}", source.commit.short(), source.subject).into_bytes(),
        (None, None) => b"Snapshot".to_vec(),
    };
    if let Some(source) = source {
        // Add the trailer to existing ones at the end of the message.
        let last = message.rsplit_once_str("\n\n").map(|(_, last)| last);
        let has_trailers = last.is_some_and(|last| last.lines().all(is_trailer));
        message.extend_from_slice(if has_trailers { b"\n" } else { b"\n\n" });
        message.extend_from_slice(format!("Source: {source}").as_bytes());
    }
    message.push(b'\n');
    message
}

/// `Signed-off-by: somebody`
fn is_trailer(line: &[u8]) -> bool {
    let token = line.split_once_str(": ").map(|(token, _)| token);
    token.is_some_and(|token| !token.is_empty() && token.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message for what was typed, with a source or without.
    fn message_of(typed: Option<&str>, has_source: bool) -> String {
        let cluster = ClusterName::parse(b"prod").unwrap();
        let request = Request {
            directory: Path::new("."),
            cluster: &cluster,
            message: typed.map(str::as_bytes),
            run: Run::Real,
            interrupt: &Interrupt::default(),
        };
        let commit = CommitId(gix::ObjectId::empty_tree(gix::hash::Kind::Sha1));
        let source = Source { commit, subject: "Add".into(), is_dirty: true };
        let message = message(&request, has_source.then_some(&source));
        String::from_utf8(message).unwrap().replace(&commit.to_string(), "<id>").replace(&commit.short(), "<short>")
    }

    #[test]
    fn the_source_is_the_last_trailer() {
        assert_eq!(message_of(None, true), "Snapshot of <short>: Add\n\nSource: <id>-dirty\n");
        assert_eq!(message_of(Some("Mine\n"), true), "Mine\n\nSource: <id>-dirty\n");
        assert_eq!(message_of(Some("Mine\n\nRef: 1\nX-Y: 2"), true), "Mine\n\nRef: 1\nX-Y: 2\nSource: <id>-dirty\n");
        assert_eq!(message_of(Some("Fix: it\n\nA: text"), false), "Fix: it\n\nA: text\n");
        assert_eq!(message_of(Some(" \n"), false), "Snapshot\n");
    }
}
