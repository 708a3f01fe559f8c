//! Refs that are on the disk when they are said to be.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use deptool_agent::id::CommitId;
use gix::{
    ObjectId,
    bstr::ByteSlice,
    refs::{
        FullName, Target,
        transaction::{LogChange, PreviousValue, RefEdit, RefLog},
    },
};

use super::TrackingError;
use crate::git::Repo;

#[derive(Debug)]
pub(super) struct Refs {
    gix: gix::Repository,
}

impl Refs {
    pub fn new(repo: &Repo) -> Self {
        let mut gix = repo.gix().clone();
        // As `git update-ref --create-reflog` does: `git log -g web1/prod` works in a bare repository, too.
        gix.refs.write_reflog = gix::refs::store::WriteReflog::Normal;
        Refs { gix }
    }

    pub fn get(&self, name: &str) -> Result<Option<CommitId>, TrackingError> {
        let failed = |source| TrackingError::Read { name: name.to_owned(), source };
        let found = self.gix.try_find_reference(&full(name)?).map_err(failed)?;
        // gix also looks for refs/tags/refs/…, and the like.
        let found = found.filter(|reference| reference.name().as_bstr() == name);
        Ok(found.and_then(|reference| reference.try_id().map(|id| CommitId(id.detach()))))
    }

    /// All refs whose names begin with `prefix`, without it. A symbolic ref (`HEAD`) says nothing of its own.
    pub fn below(&self, prefix: &str) -> Result<Vec<(String, CommitId)>, TrackingError> {
        let failed = |source| TrackingError::Read { name: prefix.to_owned(), source };
        let platform = self.gix.references().map_err(failed)?;
        let mut out = Vec::new();
        for reference in platform.prefixed(prefix.as_bytes()).map_err(failed)? {
            let reference = reference.map_err(failed)?;
            let short = reference.name().as_bstr().strip_prefix(prefix.as_bytes()).and_then(|name| name.to_str().ok());
            if let (Some(short), Some(id)) = (short, reference.try_id()) {
                out.push((short.to_owned(), CommitId(id.detach())));
            }
        }
        Ok(out)
    }

    pub fn set(&self, name: &str, id: ObjectId, message: &str) -> Result<(), TrackingError> {
        if self.get(name)?.is_some_and(|known| known.0 == id) {
            return Ok(());
        }
        let path = self.gix.common_dir().join(name);
        let existing = deepest_existing(&path);
        let log = LogChange {
            mode: RefLog::AndReference,
            force_create_reflog: !message.is_empty(),
            message: one_line(message),
        };
        let edit = RefEdit::update_with_log(full(name)?, Target::Object(id), PreviousValue::Any, log);
        self.edit(name, edit)?;
        match sync(&path, &existing) {
            // Packed in the meantime, which Git does durably.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.get(name)? == Some(CommitId(id)) => Ok(()),
            synced => synced.map_err(|source| TrackingError::Sync { name: name.to_owned(), source }),
        }
    }

    /// The deletion may be lost with the power: what comes back is asked about once more.
    pub fn delete(&self, name: &str) -> Result<(), TrackingError> {
        if self.get(name)?.is_none() {
            return Ok(());
        }
        self.edit(name, RefEdit::delete(full(name)?, PreviousValue::Any))
    }

    fn edit(&self, name: &str, edit: RefEdit) -> Result<(), TrackingError> {
        let failed = |source| TrackingError::Write { name: name.to_owned(), source };
        let now = gix::date::Time::now_local_or_utc().to_string();
        // Git makes up a name where none is configured; a reflog is no reason to fail.
        let nobody = gix::actor::SignatureRef { name: "unknown".into(), email: "unknown".into(), time: &now };
        let who = self.gix.committer().transpose().map_err(failed)?.unwrap_or(nobody);
        self.gix.edit_references_as([edit], Some(who)).map_err(failed)?;
        Ok(())
    }
}

fn full(name: &str) -> Result<FullName, TrackingError> {
    FullName::try_from(name).map_err(|error| TrackingError::Read {
        name: deptool_agent::text::printable(name.as_bytes()),
        source: gix::Error::from_error(error),
    })
}

/// A reflog's entry is one line.
fn one_line(message: &str) -> gix::bstr::BString {
    message.split(['\n', '\r']).collect::<Vec<_>>().join(" ").into()
}

fn deepest_existing(path: &Path) -> PathBuf {
    path.ancestors().skip(1).find(|dir| dir.is_dir()).unwrap_or(path).to_owned()
}

/// Write out a file, its directory, and the directories up to the one that was there before.
fn sync(path: &Path, existing: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    for dir in path.ancestors().skip(1) {
        File::open(dir)?.sync_all()?;
        if dir == existing {
            break;
        }
    }
    Ok(())
}
