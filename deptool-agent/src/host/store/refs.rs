//! What is deployed: one branch, named after the cluster, to which HEAD points.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
};

use gix_error::ResultExt;
use gix_lock::acquire::Fail;
use gix_object::bstr::BStr;
use gix_ref::{
    FullName, Target,
    transaction::{Change, LogChange, PreviousValue, RefEdit, RefLog},
};

use super::{
    Store,
    error::{At, Result, StoreError},
};
use crate::{id::CommitId, name::ClusterName};

const TARGET: &str = "refs/deptool/target";

/// What has to be deployed for a change to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Whatever: only recovery may ask for this, for which the journal decides.
    Any,
    /// Nothing.
    Absent,
    /// This commit.
    At(CommitId),
}

/// Who does something, when and why, for the reflog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEntry<'a> {
    /// A person's name. Characters that would break the log's lines are left out, here and below.
    pub name: &'a str,
    /// A person's address.
    pub email: &'a str,
    /// Seconds since 1970.
    pub seconds: i64,
    /// One line.
    pub message: &'a str,
}

impl Store {
    /// What is deployed, and as which cluster.
    pub fn deployed(&self) -> Result<Option<(ClusterName, CommitId)>> {
        let Some(Target::Symbolic(branch)) = self.find("HEAD")? else { return Ok(None) };
        let Some(short) = branch.as_bstr().strip_prefix(b"refs/heads/") else { return Ok(None) };
        let Ok(cluster) = ClusterName::parse(short) else { return Ok(None) };
        Ok(match self.find(&branch.as_bstr().to_string())? {
            Some(Target::Object(id)) => Some((cluster, CommitId(id))),
            Some(Target::Symbolic(_)) | None => None,
        })
    }

    /// Say that `new` is deployed as `cluster`, if what is deployed is what was `expected`.
    ///
    /// A host belongs to one cluster: while another one is deployed this is [`StoreError::Stale`] too.
    pub fn set_deployed(
        &mut self,
        cluster: &ClusterName,
        expected: Expected,
        new: &CommitId,
        log: LogEntry<'_>,
    ) -> Result<()> {
        let actual = self.deployed()?;
        self.check(cluster, expected, &actual)?;
        let branch = branch_name(cluster);
        if actual.is_none() {
            self.point_head(&branch)?;
        }
        let previous = match (expected, actual) {
            (Expected::Any, _) => PreviousValue::Any,
            (Expected::Absent | Expected::At(_), None) => PreviousValue::MustNotExist,
            (Expected::Absent | Expected::At(_), Some((_, id))) => {
                PreviousValue::MustExistAndMatch(Target::Object(id.0))
            }
        };
        let change = Change::Update { log: log.change(), expected: previous, new: Target::Object(new.0) };
        self.edit(&branch, vec![RefEdit::new(full_name(&branch)?, change)], Some(log))
    }

    /// Say that nothing is deployed any more. The last commit and the log of the branch stay under
    /// `refs/deptool/removed/<cluster>/<seconds>`, whose name is returned.
    ///
    /// Doing it again with the same `log` after a crash ends in the same.
    pub fn remove(&mut self, cluster: &ClusterName, expected: Expected, log: LogEntry<'_>) -> Result<Option<String>> {
        let actual = self.deployed()?;
        self.check(cluster, expected, &actual)?;
        let Some((_, tip)) = actual else { return Ok(None) };
        let branch = branch_name(cluster);
        let kept = self.name_for_removed(cluster, &tip, log.seconds)?;
        self.copy_reflog(&branch, &kept)?;
        let target = Target::Object(tip.0);
        let keep = Change::Update { log: log.change(), expected: PreviousValue::Any, new: target.clone() };
        self.edit(&kept, vec![RefEdit::new(full_name(&kept)?, keep)], Some(log))?;
        let delete = Change::Delete { expected: PreviousValue::MustExistAndMatch(target), log: RefLog::AndReference };
        self.edit(&branch, vec![RefEdit::new(full_name(&branch)?, delete)], Some(log))?;
        Ok(Some(kept))
    }

    /// The commit of the last attempt, however it ended.
    pub fn target(&self) -> Result<Option<CommitId>> {
        Ok(match self.find(TARGET)? {
            Some(Target::Object(id)) => Some(CommitId(id)),
            Some(Target::Symbolic(_)) | None => None,
        })
    }

    /// Note which commit is being tried.
    pub fn set_target(&mut self, commit: &CommitId) -> Result<()> {
        let change =
            Change::Update { log: LogChange::default(), expected: PreviousValue::Any, new: Target::Object(commit.0) };
        self.edit(TARGET, vec![RefEdit::new(full_name(TARGET)?, change)], None)
    }

    fn check(&self, cluster: &ClusterName, expected: Expected, actual: &Option<(ClusterName, CommitId)>) -> Result<()> {
        let met = match (expected, actual) {
            (_, Some((other, _))) if other != cluster => false,
            (Expected::Any, _) => true,
            (Expected::Absent, actual) => actual.is_none(),
            (Expected::At(id), actual) => matches!(actual, Some((_, there)) if *there == id),
        };
        if met { Ok(()) } else { Err(StoreError::Stale { actual: actual.clone() }) }
    }

    /// Before the branch is there, so that the branch alone decides whether anything is deployed.
    fn point_head(&mut self, branch: &str) -> Result<()> {
        let new = Target::Symbolic(full_name(branch)?);
        let change = Change::Update { log: LogChange::default(), expected: PreviousValue::Any, new };
        self.edit("HEAD", vec![RefEdit::new(full_name("HEAD")?, change)], None)
    }

    /// A name that is free, or was used for the same removal already.
    fn name_for_removed(&self, cluster: &ClusterName, tip: &CommitId, seconds: i64) -> Result<String> {
        let base = format!("refs/deptool/removed/{cluster}/{seconds}");
        let mut name = base.clone();
        for n in 2.. {
            match self.find(&name)? {
                None => break,
                Some(Target::Object(id)) if id == tip.0 => break,
                Some(Target::Object(_) | Target::Symbolic(_)) => name = format!("{base}-{n}"),
            }
        }
        Ok(name)
    }

    fn copy_reflog(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.dir.join("logs").join(from), self.dir.join("logs").join(to));
        let parent = to.parent().unwrap_or(&self.dir);
        fs::create_dir_all(parent).at("make", parent)?;
        match fs::copy(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map(|_| ()).at("write", &to),
        }
    }

    pub(super) fn find(&self, name: &str) -> Result<Option<Target>> {
        let found = self.refs.try_find(name).map_err(|source| failed("read", name, source))?;
        Ok(found.map(|reference| reference.target))
    }

    /// Carry out `edits` of the ref `name`. What is written is on disk before it gets its name; that it has its name is
    /// durable with [`Store::sync`].
    fn edit(&mut self, name: &str, edits: Vec<RefEdit>, log: Option<LogEntry<'_>>) -> Result<()> {
        let updated: Vec<PathBuf> = edits
            .iter()
            .filter(|edit| matches!(edit.change, Change::Update { .. }))
            .map(|edit| self.dir.join(format!("{}.lock", edit.name.as_bstr())))
            .collect();
        let transaction = self
            .refs
            .transaction()
            .prepare(edits, Fail::Immediately, Fail::Immediately)
            .map_err(|source| failed("lock", name, source))?;
        for lock in updated {
            match File::open(&lock) {
                // Nothing is written if the ref has this value already.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.and_then(|file| file.sync_all()).at("sync", &lock)?,
            }
        }
        let (who, email, time) = log.map(LogEntry::signature).unwrap_or_default();
        let signature = gix_actor::SignatureRef { name: BStr::new(&who), email: BStr::new(&email), time: &time };
        transaction.commit(log.map(|_| signature)).map_err(|source| failed("write", name, source))?;
        Ok(())
    }
}

impl LogEntry<'_> {
    fn change(self) -> LogChange {
        LogChange { mode: RefLog::AndReference, force_create_reflog: true, message: without(self.message, "").into() }
    }

    fn signature(self) -> (String, String, String) {
        (without(self.name, "<>"), without(self.email, "<>"), format!("{} +0000", self.seconds))
    }
}

/// `text` without control characters and without those in `also`.
fn without(text: &str, also: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !also.contains(*c)).collect()
}

fn branch_name(cluster: &ClusterName) -> String {
    format!("refs/heads/{cluster}")
}

fn full_name(name: &str) -> Result<FullName> {
    FullName::try_from(name).or_error().map_err(|source| failed("name", name, source))
}

fn failed(what: &'static str, name: &str, source: gix_error::Error) -> StoreError {
    StoreError::Ref { what, name: name.to_owned(), source }
}
