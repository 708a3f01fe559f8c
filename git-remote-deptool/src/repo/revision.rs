//! Resolves the left side of a refspec.

use deptool_agent::shared::{id::CommitId, text::printable};
use gix::{
    ObjectId,
    bstr::{BStr, ByteSlice},
    objs::Kind,
};

use super::{ReadError, Repo};

/// Why a text does not name a commit.
#[derive(Debug, thiserror::Error)]
pub enum RevisionError {
    /// There is no such object.
    #[error("'{0}' does not name an object")]
    Unknown(String),
    /// It names a tree or a blob.
    #[error("'{text}' is a {kind}; only a commit can be deployed")]
    NotACommit {
        /// The text.
        text: String,
        /// The type of the object.
        kind: Kind,
    },
    /// The object can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The `git` program could not be run.
    #[error("could not run git")]
    Git(#[source] std::io::Error),
}

impl Repo {
    /// The commit that `text` names: a branch, `HEAD`, `prod~3`, an id, or a tag, which is peeled.
    pub fn resolve(&self, text: &BStr) -> Result<CommitId, RevisionError> {
        let id = match self.gix.rev_parse_single(text) {
            Ok(id) => id.detach(),
            // Git knows more notations: `:/text`, `@{yesterday}`.
            Err(_) => self.ask_git(text)?,
        };
        self.peel(id, text)
    }

    fn peel(&self, id: ObjectId, text: &BStr) -> Result<CommitId, RevisionError> {
        let read = |error| ReadError::new(format!("object {id}"), error);
        let object = self.gix.find_object(id).map_err(read)?.peel_tags_to_end().map_err(read)?;
        match object.kind {
            Kind::Commit => Ok(CommitId(object.id)),
            kind @ (Kind::Tree | Kind::Blob | Kind::Tag) => {
                Err(RevisionError::NotACommit { text: printable(text), kind })
            }
        }
    }

    fn ask_git(&self, text: &BStr) -> Result<ObjectId, RevisionError> {
        let unknown = || RevisionError::Unknown(printable(text));
        let mut command = self.git();
        command.args(["rev-parse", "--verify", "--quiet", "--end-of-options"]);
        command.arg(text.to_os_str().map_err(|_| unknown())?);
        let output = command.stdin(std::process::Stdio::null()).output().map_err(RevisionError::Git)?;
        if !output.status.success() {
            return Err(unknown());
        }
        ObjectId::from_hex(output.stdout.trim_end()).map_err(|_| unknown())
    }
}
