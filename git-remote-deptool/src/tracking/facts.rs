//! What is remembered of a host to save a round trip. All of it may be wrong, and nothing breaks if it is lost.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use deptool_agent::{
    id::CommitId,
    name::HostName,
    outcome::{Attempt, AttemptResult},
    wire::{Deployed, Target as Goal},
};
use serde::{Deserialize, Serialize};

use crate::{cluster::TrackingName, git::Repo};

/// How the names of files end that are being written: no tracking name ends in `.lock`, and no escaped one in `%`.
const TEMPORARY: &str = "%.lock";

/// What a host told when it was last talked to. That there are facts makes its tracking refs a host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Its directory in the config tree.
    pub host: HostName,
    /// The random id that it was given at first contact: another one means that it was installed anew.
    pub instance: Option<String>,
    /// The build of the agent that was started there: worth a request without waiting for its hello.
    pub agent: Option<String>,
    /// What ran there, and since when. Worth to be shown beside a tracking ref that names the same commit.
    #[serde(default)]
    pub deployed: Option<Deployed>,
    /// The last deployment that was tried, if it failed.
    #[serde(default)]
    pub failed: Option<Failed>,
    #[serde(default)]
    pub route: Route,
}

/// How long the last connections to a host took until they were answered, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    last: u32,
    /// The last one that is known to have been made for itself.
    alone: Option<u32>,
}

/// Whether a connection was shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    Unknown,
    Alone,
    Shared,
}

/// Where less than this can be saved, nothing is to be asked first.
const FAR: u32 = 100;

impl Route {
    /// Whether it is worth to ask if there is a connection that can be shared: the host is far, and the last connection
    /// did not take what one takes that is made for itself.
    pub fn may_be_shared(self) -> bool {
        self.last >= FAR && self.alone.is_none_or(|alone| self.last.abs_diff(alone) > alone / 4)
    }
}

/// A deployment that got as far as activation, and is not what runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// In seconds since 1970.
    pub when: i64,
    pub by: String,
    /// `None` if everything was to be removed.
    pub to: Option<CommitId>,
    /// One line, safe to show: `rolled back: nginx.service failed`.
    pub why: String,
}

impl Failed {
    /// What there is to remember of an attempt; nothing if it was kept.
    pub fn of(attempt: &Attempt) -> Option<Failed> {
        let why = match &attempt.result {
            AttemptResult::Done => return None,
            AttemptResult::RolledBack { why, .. } => format!("rolled back: {why}"),
            AttemptResult::Interrupted => "interrupted, and undone".to_owned(),
        };
        let to = match attempt.to {
            Goal::Commit(commit) => Some(commit),
            Goal::Nothing => None,
        };
        Some(Failed { when: attempt.when, by: attempt.by.clone(), to, why })
    }
}

/// Why facts can't be kept.
#[derive(Debug, thiserror::Error)]
#[error("could not write '{}'", path.display())]
pub struct FactsError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl HostFacts {
    /// The facts about the host that is tracked as `tracking`, if there are any that can be read.
    pub fn load(repo: &Repo, tracking: &TrackingName) -> Option<Self> {
        read(&path(repo, tracking))
    }

    /// Keep them. The caller holds the host's lock.
    pub fn store(&self, repo: &Repo, tracking: &TrackingName) -> Result<(), FactsError> {
        let path = path(repo, tracking);
        write(&path, &temporary_path(repo, tracking), self).map_err(|source| FactsError { path, source })
    }

    /// The facts after a connection that was answered in `took`; `None` if there is nothing new to be learned from it.
    pub fn after(mut self, took: Duration, company: Company) -> Option<Self> {
        let took = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        let before = self.route;
        let alone = match company {
            Company::Alone => Some(took),
            // What it takes alone on this way is not known.
            Company::Shared => None,
            Company::Unknown => before.alone,
        };
        self.route = Route { last: took, alone };
        let is_like_before =
            (before.last < FAR) == (took < FAR) && before.may_be_shared() == self.route.may_be_shared();
        (before.alone != alone || !is_like_before).then_some(self)
    }

    /// Forget them.
    pub fn forget(repo: &Repo, tracking: &TrackingName) -> Result<(), FactsError> {
        let path = path(repo, tracking);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(FactsError { path, source }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// All hosts that were ever talked to, by what their tracking refs are named after.
    pub fn all(repo: &Repo) -> Vec<(TrackingName, Self)> {
        let files = fs::read_dir(directory(repo)).into_iter().flatten().filter_map(Result::ok);
        let mut all: Vec<_> =
            files.filter_map(|file| Some((unescaped(file.file_name().to_str()?)?, read(&file.path())?))).collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }
}

fn read(path: &Path) -> Option<HostFacts> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// All or nothing. What the power takes with it is learned anew.
fn write(path: &Path, temporary: &Path, facts: &HostFacts) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(directory)?;
    let mut text = serde_json::to_vec_pretty(facts)?;
    text.push(b'\n');
    let written = fs::write(temporary, &text).and_then(|()| fs::rename(temporary, path));
    if let Err(error) = written {
        // Nobody can be told if this fails, too: whoever takes the host's lock next clears it away.
        let _ = fs::remove_file(temporary);
        return Err(error);
    }
    Ok(())
}

/// Remove what a process that was killed has left half written of a host's facts. The caller holds the host's lock.
pub(super) fn clear(repo: &Repo, tracking: &TrackingName) {
    let _ = fs::remove_file(temporary_path(repo, tracking));
}

fn directory(repo: &Repo) -> PathBuf {
    repo.common_dir().join("deptool/hosts")
}

fn path(repo: &Repo, tracking: &TrackingName) -> PathBuf {
    directory(repo).join(escaped(tracking))
}

/// Where the lock is. No tracking name ends in `.lock`.
pub(super) fn lock_path(repo: &Repo, tracking: &TrackingName) -> PathBuf {
    directory(repo).join(format!("{}.lock", escaped(tracking)))
}

/// A name that no other host's facts are written under. Those of one host are written by one process at a time.
fn temporary_path(repo: &Repo, tracking: &TrackingName) -> PathBuf {
    directory(repo).join(format!("{}{TEMPORARY}", escaped(tracking)))
}

/// The name of a remote may contain slashes; here it is one file's.
fn escaped(tracking: &TrackingName) -> String {
    tracking.as_str().replace('%', "%25").replace('/', "%2f")
}

fn unescaped(name: &str) -> Option<TrackingName> {
    TrackingName::parse(name.replace("%2f", "/").replace("%25", "%").as_str().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    use Company::{Alone, Shared, Unknown};

    /// The facts after connections that took so many milliseconds.
    fn after(connections: &[(u64, Company)]) -> HostFacts {
        let host = HostName::parse(b"web1").unwrap();
        let begin =
            HostFacts { host, instance: None, agent: None, deployed: None, failed: None, route: Route::default() };
        let next = |facts: HostFacts, (took, company): &(u64, Company)| {
            facts.clone().after(Duration::from_millis(*took), *company).unwrap_or(facts)
        };
        connections.iter().fold(begin, next)
    }

    #[test]
    fn a_shared_connection_is_looked_for_only_where_that_can_pay() {
        let may_be_shared = |connections: &[(u64, Company)]| after(connections).route.may_be_shared();
        assert!(!may_be_shared(&[]), "nothing is known");
        assert!(!may_be_shared(&[(15, Unknown)]), "the host is near");
        assert!(may_be_shared(&[(900, Unknown)]));
        assert!(!may_be_shared(&[(900, Unknown), (900, Alone)]), "it was looked for, and was not there");
        assert!(may_be_shared(&[(900, Unknown), (900, Alone), (200, Unknown)]), "somebody has made one");
        assert!(!may_be_shared(&[(200, Unknown), (900, Alone), (910, Unknown)]), "it is gone again");
        assert!(may_be_shared(&[(200, Alone), (1000, Unknown)]), "the way has become another one");
        assert!(may_be_shared(&[(200, Alone), (310, Unknown), (210, Shared)]), "it is far now, and shared");
        assert!(!may_be_shared(&[(200, Alone), (15, Unknown)]), "near, and shared");
    }

    #[test]
    fn what_is_no_news_is_not_written_again() {
        let known = after(&[(900, Alone)]);
        assert_eq!(known.clone().after(Duration::from_millis(910), Unknown), None);
        assert!(known.after(Duration::from_millis(200), Unknown).is_some());
    }
}
