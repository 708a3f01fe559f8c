//! How a deployment can end, and the record that a host keeps of it.

use serde::{Deserialize, Serialize};

use crate::shared::{
    id::{CommitId, DeploymentId},
    name::{ClusterName, HostName, UnitName},
};

/// What a host is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Objects are coming in and the host is being checked; nothing is visible.
    Preparing,
    /// Everything is ready; waits for the other hosts.
    Prepared,
    Activating,
    /// Watches the units that it started.
    Settling,
    /// Waits to be reached from outside.
    AwaitingConfirmation,
    /// Waits to hear whether the other hosts are healthy.
    AwaitingVerdict,
    /// The deployment is kept; waits to hear that the other hosts have kept it, too.
    AwaitingRelease,
    RollingBack,
    /// The deployment is kept; old generations are pruned.
    Finishing,
}

impl Phase {
    /// The word for it in progress lines.
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

/// What is to be deployed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goal {
    Commit(CommitId),
    /// Everything that was ever deployed is removed.
    Nothing,
}

/// What runs on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    pub host: HostName,
    pub cluster: ClusterName,
    pub commit: CommitId,
    /// Who deployed it.
    pub by: String,
    /// When, in seconds since 1970.
    pub when: i64,
}

/// Who holds a host's lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The deployment that is under way; `None` while an earlier one is undone or finished.
    pub id: Option<DeploymentId>,
    pub by: String,
    pub phase: Phase,
    /// In seconds since 1970.
    pub since: i64,
}

/// How a deployment ended on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The target runs, and that is durable.
    Done {
        /// Units beside those of the plan that systemd restarted because of them.
        also_restarted: Vec<UnitName>,
    },
    /// Something else than what was expected is deployed; nothing was changed.
    Stale { actual: Option<Deployed> },
    /// Another deployment is under way; nothing was changed.
    Busy(Holder),
    /// The host can't take it; nothing was changed.
    Refused {
        /// One line.
        why: String,
        /// More of it, several lines, such as what a check said; may be empty.
        details: String,
    },
    /// The helper or its connection went away in time; nothing was changed.
    Cancelled,
    /// It was activated, failed, and what ran before runs again.
    RolledBack(Rollback),
}

impl Outcome {
    /// A refusal that one line says all of.
    pub fn refused(why: impl Into<String>) -> Outcome {
        Outcome::Refused { why: why.into(), details: String::new() }
    }
}

/// Why a deployment was rolled back, and how well that went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// One line: `nginx.service failed: exited with status 1`.
    pub why: String,
    /// More of it, several lines, such as the end of a journal; may be empty.
    pub details: String,
    /// What went wrong while rolling back; empty if the host is as it was.
    pub rollback_errors: Vec<String>,
}

/// One deployment that was tried, as the host remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub id: DeploymentId,
    /// When it began, in seconds since 1970.
    pub when: i64,
    pub by: String,
    pub cluster: ClusterName,
    pub from: Option<CommitId>,
    pub to: Goal,
    pub result: AttemptResult,
}

/// How an attempt ended that got as far as activation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttemptResult {
    Done,
    RolledBack {
        why: String,
        /// What went wrong while rolling back; empty if the host was as before.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        errors: Vec<String>,
    },
    /// The agent died or the machine went down in the middle; it was undone afterwards.
    Interrupted,
}
