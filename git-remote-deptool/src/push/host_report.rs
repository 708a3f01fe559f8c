//! What became of each host: for programs as JSON, for people as text. Pure, but for [`append`].

use std::{fs::File, io, io::Write as _, path::Path};

use deptool_agent::shared::{
    id::CommitId,
    name::{ClusterName, HostName},
    outcome::Deployed,
};
use serde::{Deserialize, Serialize};

use crate::{
    agent::{session::SessionError, transport::ConnectError},
    model::error::chain,
};

/// Name at most this many hosts in a line, and count the others.
const NAMED: usize = 8;

/// What became of one host of a push. Every text is safe to show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    pub host: HostName,
    pub cluster: ClusterName,
    /// What the host ran before, as far as was known; `None` if nothing.
    pub from: Option<CommitId>,
    /// What was to be deployed; `None` if everything was to be removed.
    pub to: Option<CommitId>,
    pub outcome: HostOutcome,
    /// One line; empty where the outcome says it all.
    pub why: String,
    /// More of it, several lines; may be empty.
    pub details: String,
    /// What went wrong while rolling back: where this is not empty the host is not as it was.
    pub rollback_errors: Vec<String>,
    /// What on the host is not as it was deployed, and was left so.
    #[serde(default)]
    pub drift: Vec<String>,
    /// What runs there instead, with [`HostOutcome::Stale`].
    pub actual: Option<Deployed>,
}

/// How a push ended on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostOutcome {
    /// `to` runs, and that is durable.
    Done,
    /// `to` runs, and that is durable there, but it could not be noted here.
    NotNoted,
    /// Nothing of this host changes: it was not asked.
    Unaffected,
    /// It was activated, failed, and what ran before runs again.
    RolledBack,
    /// With `--atomic`: the host was rolled back because another host failed.
    Reverted,
    /// Another operator has deployed; nothing was changed.
    Stale,
    /// The commit does not descend from what runs there; nothing was changed.
    NonFastForward,
    /// Another deployment holds the lock; nothing was changed.
    Busy,
    /// Nothing was changed.
    Unreachable,
    /// The host, or this side, does not take the deployment; nothing was changed.
    Refused,
    /// It was interrupted in time; nothing was changed.
    Cancelled,
    /// It may have begun, and could not be asked how it ended.
    Unknown,
    /// It was called off because of another host; nothing was changed.
    NotAttempted,
    /// It can't be reached, and was left out as asked for.
    Skipped,
}

impl HostReport {
    /// One line for people, without the host's name.
    pub fn text(&self) -> String {
        let Self { why, .. } = self;
        match self.outcome {
            HostOutcome::Done => "done".into(),
            HostOutcome::NotNoted => "deployed, but that could not be noted here; run git fetch".into(),
            HostOutcome::Unaffected => "not affected".into(),
            HostOutcome::RolledBack | HostOutcome::Reverted if !self.rollback_errors.is_empty() => {
                format!("rolled back, not completely: {why}")
            }
            HostOutcome::RolledBack => format!("rolled back: {why}"),
            HostOutcome::Reverted => "reverted because another host failed".into(),
            HostOutcome::Stale => "stale info".into(),
            HostOutcome::NonFastForward => "non-fast-forward".into(),
            HostOutcome::Unreachable => format!("unreachable: {why}"),
            HostOutcome::Skipped => format!("skipped, unreachable: {why}"),
            HostOutcome::Busy | HostOutcome::Refused => why.clone(),
            HostOutcome::Cancelled => "interrupted; nothing was changed".into(),
            HostOutcome::Unknown => "outcome unknown; run git fetch".into(),
            HostOutcome::NotAttempted => "not attempted".into(),
        }
    }

    /// Whether the push failed because of this host, and not because of another one.
    fn is_failure(&self) -> bool {
        match self.outcome {
            HostOutcome::Done | HostOutcome::Unaffected | HostOutcome::NotAttempted | HostOutcome::Skipped => false,
            HostOutcome::Reverted => !self.rollback_errors.is_empty(),
            HostOutcome::NotNoted
            | HostOutcome::RolledBack
            | HostOutcome::Stale
            | HostOutcome::NonFastForward
            | HostOutcome::Busy
            | HostOutcome::Unreachable
            | HostOutcome::Refused
            | HostOutcome::Cancelled
            | HostOutcome::Unknown => true,
        }
    }
}

/// The outcome on all hosts in one line: which failed and why, which were not attempted, which were deployed to.
///
/// `failed on web2 (rolled back: nginx.service failed); not attempted on web3, web4; deployed to web1`
pub fn summary(reports: &[HostReport]) -> String {
    let failed = reports.iter().filter(|report| report.is_failure());
    let failed: Vec<String> = failed.map(|report| format!("{} ({})", report.host, report.text())).collect();
    let mut parts = Vec::new();
    let mut add = |what: &str, hosts: &[String]| {
        if !hosts.is_empty() {
            parts.push(format!("{what} {}", listed(hosts)));
        }
    };
    add("failed on", &failed);
    let those = |fate| -> Vec<String> {
        let hosts = reports.iter().filter(|report| report.outcome == fate && !report.is_failure());
        hosts.map(|report| report.host.to_string()).collect()
    };
    add("reverted on", &those(HostOutcome::Reverted));
    add("not attempted on", &those(HostOutcome::NotAttempted));
    add("skipped, as unreachable:", &those(HostOutcome::Skipped));
    add("deployed to", &those(HostOutcome::Done));
    parts.join("; ")
}

fn listed(names: &[String]) -> String {
    match names.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..NAMED].join(", ")),
    }
}

/// The outcome if this error came before the host can have begun.
pub(super) fn not_reached(error: &SessionError) -> (HostOutcome, String) {
    match error {
        SessionError::Connect(ConnectError::Interrupted) | SessionError::Interrupted => {
            (HostOutcome::Cancelled, String::new())
        }
        SessionError::Connect(ConnectError::Unreachable(why) | ConnectError::NeedsAnswer(why))
        | SessionError::Lost(why) => (HostOutcome::Unreachable, why.clone()),
        error if error.is_unreachable() => (HostOutcome::Unreachable, chain(error)),
        error => (HostOutcome::Refused, chain(error)),
    }
}

/// Append one line for each report to the file at `path`, which is made if need be.
pub fn append(path: &Path, reports: &[HostReport]) -> io::Result<()> {
    let mut file = File::options().append(true).create(true).open(path)?;
    for report in reports {
        let mut line = serde_json::to_vec(report)?;
        line.push(b'\n');
        // At once, so that lines of several pushes do not mix.
        file.write_all(&line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(host: &str, outcome: HostOutcome, why: &str) -> HostReport {
        HostReport {
            host: HostName::parse(host.as_bytes()).unwrap(),
            cluster: ClusterName::parse(b"prod").unwrap(),
            from: None,
            to: Some("0123456789abcdef0123456789abcdef01234567".parse().unwrap()),
            outcome,
            why: why.into(),
            details: String::new(),
            rollback_errors: Vec::new(),
            drift: Vec::new(),
            actual: None,
        }
    }

    #[test]
    fn a_report_is_one_line_of_json_as_in_the_manual() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report");
        append(&path, &[report("web1", HostOutcome::Done, "")]).unwrap();
        append(&path, &[report("web2", HostOutcome::RolledBack, "a.service failed")]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let second = r#"{"host":"web2","cluster":"prod","from":null,"to":"0123456789abcdef0123456789abcdef01234567","outcome":"rolled-back","why":"a.service failed","details":"","rollback_errors":[],"drift":[],"actual":null}"#;
        assert_eq!(text.lines().nth(1), Some(second));
        assert_eq!(
            serde_json::from_str::<HostReport>(second).unwrap(),
            report("web2", HostOutcome::RolledBack, "a.service failed")
        );
    }

    #[test]
    fn the_summary_begins_with_what_failed() {
        let reports = [
            report("web1", HostOutcome::Done, ""),
            report("web2", HostOutcome::RolledBack, "a.service failed"),
            report("web3", HostOutcome::NotAttempted, ""),
            report("web4", HostOutcome::Unaffected, ""),
            report("web5", HostOutcome::Skipped, "no route to host"),
        ];
        assert_eq!(
            summary(&reports),
            "failed on web2 (rolled back: a.service failed); not attempted on web3; \
             skipped, as unreachable: web5; deployed to web1"
        );
    }

    #[test]
    fn a_long_list_of_hosts_is_counted() {
        let reports: Vec<_> = (0..500).map(|n| report(&format!("web{n}"), HostOutcome::NotAttempted, "")).collect();
        assert_eq!(summary(&reports), "not attempted on web0, web1, web2, web3, web4, web5, web6, web7 and 492 more");
    }
}
