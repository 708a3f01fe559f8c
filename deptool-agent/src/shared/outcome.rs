//! The phases of a deployment, the ways in which it can end, and the record that the host keeps of it.

use serde::{Deserialize, Serialize};

use crate::shared::{
    id::{CommitId, DeploymentId},
    name::{ClusterName, HostName, UnitName},
};

/// What a deployment is doing on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Receives objects and checks the host. Nothing has changed yet.
    Preparing,
    /// Is ready to activate and waits for the other hosts.
    Prepared,
    Activating,
    /// Watches the units that it started.
    Settling,
    /// Waits for a new connection to confirm that the host can still be reached.
    AwaitingConfirmation,
    /// Waits for the helper to say whether all hosts are healthy.
    AwaitingVerdict,
    /// The deployment is kept. Waits for the helper to say that the other hosts have kept it, too.
    AwaitingRelease,
    RollingBack,
    /// The deployment is kept. Old generations are pruned.
    Finishing,
}

impl Phase {
    /// The text for progress lines.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Preparing => "preparing",
            Phase::Prepared => "prepared",
            Phase::Activating => "activating",
            Phase::Settling => "settling",
            Phase::AwaitingConfirmation => "waiting for confirmation",
            Phase::AwaitingVerdict => "waiting for the others",
            Phase::AwaitingRelease => "kept, waiting for the others",
            Phase::RollingBack => "rolling back",
            Phase::Finishing => "finishing",
        }
    }
}

/// What a deployment deploys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goal {
    Commit(CommitId),
    /// Remove everything that was deployed.
    Nothing,
}

impl Goal {
    pub fn commit(self) -> Option<CommitId> {
        match self {
            Goal::Commit(commit) => Some(commit),
            Goal::Nothing => None,
        }
    }
}

/// What is deployed on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    pub host: HostName,
    pub cluster: ClusterName,
    pub commit: CommitId,
    /// The operator, as `Name <address>`.
    pub by: String,
    /// The time of the deployment, in seconds since 1970.
    pub when: i64,
}

/// The agent that holds the lock of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The deployment that is under way. `None` while the agent undoes or finishes an earlier deployment.
    pub id: Option<DeploymentId>,
    pub by: String,
    pub phase: Phase,
    /// When it took the lock, in seconds since 1970.
    pub since: i64,
}

/// How a deployment ended on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The goal was reached, and that is durable.
    Done {
        /// Units outside of the plan that systemd restarted together with units of the plan.
        also_restarted: Vec<UnitName>,
        /// Units outside of the plan that systemd stopped, because they conflict with a started unit or require a
        /// stopped one.
        also_stopped: Vec<UnitName>,
        /// Drift that was left.
        drift: Vec<Drift>,
    },
    /// The lease did not hold: something else is deployed than the plan was made from. Nothing was changed.
    Stale { actual: Option<Deployed> },
    /// Another deployment is under way. Nothing was changed.
    Busy(Holder),
    /// The deployment can't be carried out on this host. Nothing was changed.
    Refused {
        /// One line.
        why: String,
        /// More lines, such as the output of a check. May be empty.
        details: String,
        /// Files that no deployment put there and that differ from the tree's, with the content of small ones.
        in_the_way: Vec<Drift>,
    },
    /// The helper cancelled, or its connection was lost, before anything was changed.
    Cancelled,
    /// The deployment was activated and failed; the host went back to what was deployed before.
    RolledBack(Rollback),
}

impl Outcome {
    /// A refusal without details.
    pub fn refused(why: impl Into<String>) -> Outcome {
        Outcome::Refused { why: why.into(), details: String::new(), in_the_way: Vec::new() }
    }
}

/// A difference between the host and what was deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    pub subject: Subject,
    /// The rest of a sentence that begins with the subject: "was edited", "was disabled".
    pub what: String,
    /// The current content, if it is a small text file that was edited and the host was asked to verify.
    pub edit: Option<Edit>,
}

/// The content of a file that was edited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// The file that was deployed, relative to the host's directory in the tree.
    pub deployed: String,
    pub now: String,
}

/// The thing that has drifted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    /// An absolute path on the host, safe to show.
    Path(String),
    Unit(UnitName),
}

impl std::fmt::Display for Drift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.subject {
            Subject::Path(path) => write!(f, "'{path}' {}", self.what),
            Subject::Unit(unit) => write!(f, "{unit} {}", self.what),
        }
    }
}

/// Why a deployment was rolled back, and the errors of the rollback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// One line, such as `nginx.service failed: exited with status 1`.
    pub why: String,
    /// More lines, such as the end of a unit's journal. May be empty.
    pub details: String,
    /// Errors of the rollback. Empty if the host was restored completely.
    pub rollback_errors: Vec<String>,
}

/// A deployment that was activated, as the host records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub id: DeploymentId,
    /// The time at which the deployment began, in seconds since 1970.
    pub when: i64,
    pub by: String,
    pub cluster: ClusterName,
    pub from: Option<CommitId>,
    pub to: Goal,
    pub result: AttemptResult,
    /// The drift that it put right.
    pub mended: Vec<Mended>,
}

/// Drift that was put right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mended {
    /// A sentence: "'/etc/motd' was edited".
    pub what: String,
    /// The path at which the replaced file is kept.
    pub kept: Option<String>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttemptResult {
    Done,
    RolledBack {
        why: String,
        /// Errors of the rollback. Empty if the host was restored completely.
        errors: Vec<String>,
    },
    /// The agent died or the machine went down in the middle. A later agent undid the deployment.
    Interrupted,
}
