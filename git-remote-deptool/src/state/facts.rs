//! Facts about a host that save a round trip. All of them may be wrong, and nothing breaks if they are lost.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use deptool_agent::shared::{
    build::BUILD_ID,
    id::CommitId,
    name::HostName,
    outcome::{Attempt, AttemptResult, Deployed},
};
use serde::{Deserialize, Serialize};

use crate::{
    agent::transport::{Present, ssh::control::ControlSocket},
    config::TrackingName,
    repo::Repo,
};

/// The suffix of files that are being written. No tracking name ends in `.lock`, and no escaped one in `%`.
const TEMPORARY: &str = "%.lock";

/// Facts from the last connection to a host. A tracking name with facts belongs to a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The host's directory in the tree.
    pub host: HostName,
    /// The random id from the first contact. If it changes, the host was reinstalled.
    pub instance: Option<String>,
    /// The build of the installed agent. If it is ours, requests are sent ahead.
    pub agent: Option<String>,
    /// The deployed commit with its author and time. They are shown if the tracking ref has the same commit.
    #[serde(default)]
    pub deployed: Option<Deployed>,
    /// The last attempt, if it failed.
    #[serde(default)]
    pub failed: Option<Failed>,
    /// The number of paths and units that differed from what was deployed.
    #[serde(default)]
    pub drift: usize,
    /// The login was root's own.
    #[serde(default)]
    pub is_roots_login: bool,
    /// How long a request on stdin took to arrive after the agent's hello, in milliseconds.
    #[serde(default)]
    pub late: u32,
    /// Where ssh shares its connections to the host.
    #[serde(default)]
    pub socket: Option<ControlSocket>,
}

/// How a request that is sent ahead gets to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestPath {
    Stdin,
    /// Also in the environment. See [`deptool_agent::shared::env_request`].
    Environment,
}

/// The times of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub flight: RequestPath,
    /// From the start of ssh to the agent's first line.
    pub hello: Duration,
    /// From that line until the request came.
    pub after_hello: Duration,
}

/// Send requests in the environment if they would take at least this many milliseconds on stdin. A request in the
/// environment has to be ready before ssh is started, which is one or two milliseconds later.
const LATE: u32 = 10;

/// An attempt that reached activation and failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// In seconds since 1970.
    pub when: i64,
    pub by: String,
    /// `None` for a removal.
    pub to: Option<CommitId>,
    /// One line, safe to show: `rolled back: nginx.service failed`.
    pub why: String,
}

impl Failed {
    /// The facts about an attempt, or `None` if it succeeded.
    pub fn of(attempt: &Attempt) -> Option<Failed> {
        let why = match &attempt.result {
            AttemptResult::Done => return None,
            AttemptResult::RolledBack { why, .. } => format!("rolled back: {why}"),
            AttemptResult::Interrupted => "interrupted, and undone".to_owned(),
        };
        let to = attempt.to.commit();
        Some(Failed { when: attempt.when, by: attempt.by.clone(), to, why })
    }
}

/// Why facts can't be written.
#[derive(Debug, thiserror::Error)]
#[error("could not write '{}'", path.display())]
pub struct FactsError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl HostFacts {
    /// The facts about the host that is tracked as `tracking`, if they exist and are readable.
    pub fn load(repo: &Repo, tracking: &TrackingName) -> Option<Self> {
        read(&path(repo, tracking))
    }

    /// Write the facts. The caller holds the host's lock.
    pub fn store(&self, repo: &Repo, tracking: &TrackingName) -> Result<(), FactsError> {
        let path = path(repo, tracking);
        write(&path, &temporary_path(repo, tracking), self).map_err(|source| FactsError { path, source })
    }

    /// How to start our agent, if the host had it.
    pub fn our_agent(&self) -> Option<Present> {
        let present = if self.is_roots_login { Present::Expected } else { Present::Started };
        (self.agent.as_deref() == Some(BUILD_ID)).then_some(present)
    }

    /// Whether to send requests in the environment, too.
    pub fn is_far(&self) -> bool {
        self.late >= LATE
    }

    /// The facts after a request was answered, or `None` if they stay the same.
    pub fn after(mut self, timing: &Timing) -> Option<Self> {
        let milliseconds = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let was_far = self.is_far();
        self.late = match timing.flight {
            RequestPath::Stdin => milliseconds(timing.after_hello),
            // The request did not come on stdin, so its delay is unknown. But the hello has taken two round trips at
            // least, one for the channel and one for the command.
            RequestPath::Environment => self.late.min(milliseconds(timing.hello / 2)),
        };
        (self.is_far() != was_far).then_some(self)
    }

    /// The known drift, with the command that repairs it. `None` if there is none.
    pub fn drift_in_words(&self) -> Option<String> {
        let (what, them) = match self.drift {
            0 => return None,
            1 => ("1 path or unit is".to_owned(), "it"),
            count => (format!("{count} paths and units are"), "them"),
        };
        Some(format!("{what} not as deployed; 'git deptool repair {}' puts {them} right", self.host))
    }

    /// Delete the facts.
    pub fn forget(repo: &Repo, tracking: &TrackingName) -> Result<(), FactsError> {
        let path = path(repo, tracking);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(FactsError { path, source }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The facts of all hosts, by the names of their tracking refs.
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

/// Write the file as a whole. It is not synced: after a power failure, the facts are collected again.
fn write(path: &Path, temporary: &Path, facts: &HostFacts) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(directory)?;
    let mut text = serde_json::to_vec_pretty(facts)?;
    text.push(b'\n');
    let written = fs::write(temporary, &text).and_then(|()| fs::rename(temporary, path));
    if let Err(error) = written {
        // If this fails, too, the next process that acquires the host's lock deletes the file.
        let _ = fs::remove_file(temporary);
        return Err(error);
    }
    Ok(())
}

/// Delete incomplete files about a host that a killed process has left. The caller holds the host's lock.
pub(super) fn clear(repo: &Repo, tracking: &TrackingName) {
    let _ = fs::remove_file(temporary_path(repo, tracking));
}

fn directory(repo: &Repo) -> PathBuf {
    repo.common_dir().join("deptool/hosts")
}

fn path(repo: &Repo, tracking: &TrackingName) -> PathBuf {
    directory(repo).join(escaped(tracking))
}

/// The path of the host's lock. No tracking name ends in `.lock`.
pub(super) fn lock_path(repo: &Repo, tracking: &TrackingName) -> PathBuf {
    directory(repo).join(format!("{}.lock", escaped(tracking)))
}

/// The path of the temporary file. Only the process that holds the host's lock writes it.
fn temporary_path(repo: &Repo, tracking: &TrackingName) -> PathBuf {
    directory(repo).join(format!("{}{TEMPORARY}", escaped(tracking)))
}

/// The name of a remote may contain slashes, but a file name can't.
fn escaped(tracking: &TrackingName) -> String {
    tracking.as_str().replace('%', "%25").replace('/', "%2f")
}

fn unescaped(name: &str) -> Option<TrackingName> {
    TrackingName::parse(name.replace("%2f", "/").replace("%25", "%").as_str().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(facts: HostFacts, flight: RequestPath, hello: u64, after_hello: u64) -> HostFacts {
        let (hello, after_hello) = (Duration::from_millis(hello), Duration::from_millis(after_hello));
        facts.clone().after(&Timing { flight, hello, after_hello }).unwrap_or(facts)
    }

    #[test]
    fn a_host_is_far_if_its_agent_has_to_wait_for_the_request() {
        let host = HostName::parse(b"web1").unwrap();
        let new = HostFacts {
            host,
            instance: None,
            agent: None,
            deployed: None,
            failed: None,
            drift: 0,
            is_roots_login: false,
            late: 0,
            socket: None,
        };
        assert!(!new.is_far());
        let near = after(new, RequestPath::Stdin, 200, 4);
        assert!(!near.is_far(), "to log in takes long, and nothing else");
        let far = after(near, RequestPath::Stdin, 210, 103);
        assert!(far.is_far());
        let still = after(far.clone(), RequestPath::Environment, 205, 3);
        assert!(still.is_far(), "it was not waited for, this time");
        assert!(!after(still, RequestPath::Environment, 15, 3).is_far(), "there is no time for two round trips");
        assert!(!after(far, RequestPath::Stdin, 200, 4).is_far());
    }
}
