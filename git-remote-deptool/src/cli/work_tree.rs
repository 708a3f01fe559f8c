//! The work tree, and paths in it that are written to.

use std::path::PathBuf;

use deptool_agent::shared::text::printable;

use super::CliError;
use crate::repo::Repo;

/// The work tree.
pub(super) struct WorkTree(pub(super) PathBuf);

impl WorkTree {
    pub fn of(repo: &Repo) -> Result<WorkTree, CliError> {
        match repo.gix().workdir() {
            Some(top) => Ok(WorkTree(top.to_owned())),
            None => Err(CliError::Text("a bare repository has no work tree".into())),
        }
    }

    /// A path in the work tree. What a symlink leads to is no part of it: nothing there is written to.
    pub fn below(&self, path: &str) -> Result<PathBuf, CliError> {
        let mut whole = self.0.clone();
        for part in path.split('/') {
            whole.push(part);
            if whole.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
                let shown = whole.strip_prefix(&self.0).unwrap_or(&whole).as_os_str().as_encoded_bytes();
                return Err(CliError::Text(format!("'{}' is a symlink", printable(shown))));
            }
        }
        Ok(whole)
    }
}
