//! The outcome on each host, as JSON for programs and as text for people. Pure, except for [`append`].

use std::{fs::File, io, io::Write as _, path::Path};

use deptool_agent::shared::{
    id::CommitId,
    name::{ClusterName, HostName},
    outcome::Deployed,
};
use serde::{Deserialize, Serialize};

use crate::{
    agent::{
        session::SessionError,
        transport::{ConnectError, ssh::NO_REASON},
    },
    config::HostRemote,
    fleet::remote::Remote,
    model::error::chain,
};

/// Name at most this many hosts in a line, and count the others.
const NAMED: usize = 8;

/// The outcome on one host of a push. Every text is safe to show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    pub host: HostName,
    pub cluster: ClusterName,
    /// The commit that the host was known to run; `None` if nothing was deployed.
    pub from: Option<CommitId>,
    /// The commit to deploy; `None` for a removal.
    pub to: Option<CommitId>,
    pub outcome: HostOutcome,
    /// The reason in one line; empty if the outcome needs no reason.
    pub why: String,
    /// Further lines; may be empty.
    pub details: String,
    /// Errors during the rollback. If there are any, the host was not restored completely.
    pub rollback_errors: Vec<String>,
    /// Drift that was left on the host.
    #[serde(default)]
    pub drift: Vec<String>,
    /// What the host runs, for [`HostOutcome::Stale`].
    pub actual: Option<Deployed>,
}

/// The outcome of a push on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostOutcome {
    /// The host runs `to`, durably.
    Done,
    /// The host runs `to`, durably, but that could not be recorded in this repository.
    NotNoted,
    /// Nothing changes for this host, so it was not contacted.
    Unaffected,
    /// The deployment was activated and failed. The host runs what it ran before.
    RolledBack,
    /// With `--atomic`: the host was rolled back because another host failed.
    Reverted,
    /// Another operator has deployed. Nothing was changed.
    Stale,
    /// The commit does not descend from the running one. Nothing was changed.
    NonFastForward,
    /// Another deployment holds the lock. Nothing was changed.
    Busy,
    /// Nothing was changed.
    Unreachable,
    /// The host or the helper refused the deployment. Nothing was changed.
    Refused,
    /// The operator interrupted the push in time. Nothing was changed.
    Cancelled,
    /// The deployment may have begun, and the host could not be asked for the outcome.
    Unknown,
    /// The deployment was cancelled because of another host. Nothing was changed.
    NotAttempted,
    /// The host can't be reached, and was skipped on request.
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

    /// Whether the push failed because of this host, as opposed to another one.
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

/// The outcome on all hosts in one line: the hosts that failed with their reasons, and the names of the others.
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

/// The outcome for an error from before the deployment can have begun.
pub(super) fn not_reached(remote: &Remote, host: &HostRemote, error: &SessionError) -> (HostOutcome, String) {
    match error {
        SessionError::Connect(ConnectError::Interrupted) | SessionError::Interrupted => {
            (HostOutcome::Cancelled, String::new())
        }
        SessionError::Connect(ConnectError::Unreachable(why) | ConnectError::NeedsAnswer(why))
        | SessionError::Lost(why) => (HostOutcome::Unreachable, remote.why_unreachable(host, why.clone())),
        SessionError::Connect(ConnectError::Cut) => (HostOutcome::Unreachable, NO_REASON.to_owned()),
        error if error.is_unreachable() => (HostOutcome::Unreachable, chain(error)),
        error => (HostOutcome::Refused, chain(error)),
    }
}

/// Append one line per report to the file at `path`, which is created if necessary.
pub fn append(path: &Path, reports: &[HostReport]) -> io::Result<()> {
    let mut file = File::options().append(true).create(true).open(path)?;
    for report in reports {
        let mut line = serde_json::to_vec(report)?;
        line.push(b'\n');
        // In one write, so that the lines of simultaneous pushes are not mixed.
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
