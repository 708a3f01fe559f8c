//! The messages between helper and agent. Types only.
//!
//! After one line of text from each side (`deptool-hello BUILD`, `deptool-agent VERSION BUILD`) both send frames
//! (see [`crate::shared::frame`]). Both are built from the same sources or they refuse to talk, so messages have no versions.
//!
//! A deployment, as the helper sends it:
//!
//! ```text
//! Deploy  Data… PackEnd  (Blob Data…)…  ObjectsEnd  [Activate]  [Confirm]  [Keep | Revert]  [Release | Revert]
//! ```
//!
//! With [`Go::AtOnce`] all of it may be sent before the agent has said anything. The agent answers with progress and
//! notes and exactly one [`Response::Ended`], and asks where it waits, in this order:
//!
//! | agent | waits for | otherwise |
//! | --- | --- | --- |
//! | [`Prepared`](Response::Prepared), with [`Go::WhenTold`] | `Activate` | lost link, 30 s of silence, anything else: forgets it |
//! | [`AwaitsConfirmation`](Response::AwaitsConfirmation), if asked for | `Attach` and `Confirm` on a new connection | time is up, `Revert`: goes back. Losing the old connection is no reason |
//! | [`Healthy`](Response::Healthy), with [`DecidedBy::Helper`] | `Keep` | lost link, 30 s of silence, anything else: goes back |
//! | [`Kept`](Response::Kept), durable | `Release` | `Revert`: goes back, as if it had not been kept. A lost link or silence: held for 30 s from what was heard last, then it is done |
//!
//! From activation on a deployment outlives its connection. [`Request::Attach`] on another connection, as its first
//! request, takes the place of the earlier one: the answer is [`Response::Attached`], followed by what the agent said
//! last of the above if it still waits for the answer; or [`Response::NotRunning`] with how that deployment has ended.
//! On an attached connection everything is as on the first one.

use serde::{Deserialize, Serialize};

use crate::shared::{
    id::{BlobId, CommitId, DeploymentId},
    name::{ClusterName, HostName, UnitName},
    outcome::{Attempt, Deployed, Goal, Holder, Outcome, Phase},
    plan::PlanDigest,
};

/// What the helper asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    Deploy(Box<Deploy>),
    /// Part of the pack, or of the blob that was announced.
    Data(Bytes),
    /// The pack is complete.
    PackEnd,
    /// A blob too large for the pack follows.
    Blob {
        id: BlobId,
        size: u64,
    },
    /// Everything that the deployment needs was sent.
    ObjectsEnd,
    /// Speak for a deployment that began on another connection.
    Attach(DeploymentId),
    /// Every host is prepared: go on.
    Activate,
    /// Forget it, if nothing visible has happened yet.
    Cancel,
    /// The host can still be reached from outside: keep what was activated.
    Confirm,
    /// All hosts are healthy: keep what was activated.
    Keep,
    /// Some host is not: go back.
    Revert,
    /// All hosts have acknowledged: the way back is no longer needed.
    Release,
    /// Send the objects that `want` and its history need and `have` does not reach.
    Export {
        want: CommitId,
        have: Vec<CommitId>,
    },
    /// Send the content of a blob that is too large for a pack, from what is checked out.
    ExportBlob(BlobId),
    /// The last deployments that were tried here, newest first.
    Attempts {
        most: u32,
    },
    /// Compare the host with what was deployed.
    Verify,
    /// Answer at once, so that the way there and back can be timed.
    Ping,
    /// The helper is alive.
    Heartbeat,
}

/// One deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deploy {
    pub id: DeploymentId,
    /// The host's directory in the tree.
    pub host: HostName,
    /// What `/etc/hostname` is compared with; nothing for a root directory.
    pub hostname: Option<HostName>,
    pub cluster: ClusterName,
    /// What the plan was made from: the lease.
    pub expected: Lease,
    pub target: Goal,
    pub plan: PlanDigest,
    /// Who deploys, for the host's history: `Name <address>`.
    pub operator: String,
    pub go: Go,
    pub verdict: DecidedBy,
    /// Go back unless [`Request::Confirm`] comes within so many seconds. Apps can ask for it, too.
    pub confirm: Option<u16>,
}

/// What must be deployed for the deployment to be taken. "Anything" can't be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lease {
    Absent,
    At(CommitId),
}

/// When a prepared host activates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Go {
    AtOnce,
    /// On [`Request::Activate`].
    WhenTold,
}

/// Who decides that a settled deployment is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DecidedBy {
    /// The host, on its own.
    Host,
    /// The helper, with [`Request::Keep`]; silence means going back.
    Helper,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// The first message of every connection.
    Hello(Box<Hello>),
    /// The pack assumed objects that are not here: send one that assumes nothing.
    NeedFull,
    Progress(Phase),
    /// Something that the operator should know, one line or a few.
    Note(String),
    /// Everything is checked and durable, nothing is visible.
    Prepared,
    /// [`Request::Attach`]: this connection speaks for the deployment now.
    Attached,
    /// [`Request::Attach`]: the deployment is not under way, and will not be. How it ended, if it got as far as activation.
    NotRunning(Option<Box<Attempt>>),
    /// Activated and settled; goes back unless [`Request::Confirm`] comes on a new connection within so many seconds.
    AwaitsConfirmation {
        seconds: u16,
    },
    /// Activated and settled; waits for [`Request::Keep`].
    Healthy,
    /// [`Request::Keep`] was heard, and that is durable; waits for [`Request::Release`].
    Kept,
    /// How the deployment ended.
    Ended(Box<Outcome>),
    /// Part of an exported pack.
    Data(Bytes),
    /// The exported pack is complete.
    End,
    /// The blob that was asked for has this size in bytes and follows; `None`: it is not here.
    Blob {
        size: Option<u64>,
    },
    Attempts(Vec<Attempt>),
    /// What is not as it was deployed; empty if everything is.
    Drift(Vec<Drift>),
    /// The request can't be served. The connection ends.
    Error(String),
    /// [`Request::Ping`].
    Pong,
    /// The agent is alive.
    Heartbeat,
}

/// Something on a host that is not as it was deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    pub subject: Subject,
    /// To follow it in a sentence: "was edited", "was disabled".
    pub what: String,
}

/// What has drifted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    /// An absolute path on the host, for people.
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

/// What a host says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Made at random when the host's state was created: another one means a reinstalled host.
    pub instance: String,
    pub deployed: Option<Deployed>,
    /// The last deployment that was tried.
    pub last_attempt: Option<Attempt>,
    /// What this agent found unfinished and mended, in a sentence.
    pub recovered: Option<String>,
    /// What an attempt that failed has changed and could not be put back, in sentences. Empty if the host is whole.
    pub broken: Vec<String>,
    /// Another agent is at work.
    pub busy: Option<Holder>,
}

/// Bytes that MessagePack carries as such.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({})", self.0.len())
    }
}

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(crate::shared::id::RawBytes).map(Bytes)
    }
}
