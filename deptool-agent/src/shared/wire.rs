//! The messages between helper and agent. Types only.
//!
//! Each side sends one line of text (`deptool-hello BUILD`, `deptool-agent VERSION BUILD`) and then frames (see
//! [`crate::shared::frame`]). Messages have no versions, because both sides must be of the same build.
//!
//! A deployment, as the helper sends it:
//!
//! ```text
//! Deploy  Data… PackEnd  (Blob Data…)…  ObjectsEnd  [Activate]  [Confirm]  [Keep | Revert]  [Release | Revert]
//! ```
//!
//! With [`Activation::AtOnce`] the helper may send all of this before the agent has sent anything. The agent answers
//! with progress, notes and exactly one [`Response::Ended`]. It waits for the helper at up to four gates, in this
//! order:
//!
//! | the agent sends | and waits for | otherwise |
//! | --- | --- | --- |
//! | [`Prepared`](Response::Prepared), with [`Activation::WhenTold`] | `Activate` | lost connection, 30 s of silence, any other request: discards the deployment |
//! | [`AwaitsConfirmation`](Response::AwaitsConfirmation), if asked for | `Attach` and `Confirm` on a new connection | time-out, `Revert`: rolls back. A lost connection does not matter |
//! | [`Healthy`](Response::Healthy), with [`DecidedBy::Helper`] | `Keep` | lost connection, 30 s of silence, any other request: rolls back |
//! | [`Kept`](Response::Kept), once that is durable | `Release` | `Revert`: rolls back. 30 s without a message, on this or a new connection: keeps the deployment |
//!
//! A deployment outlives its connection from activation on. [`Request::Attach`], as the first request of another
//! connection, takes the deployment over. The agent answers [`Response::Attached`], and repeats the message of the
//! gate at which it waits. If the deployment has ended, the agent answers [`Response::NotRunning`] and says how it
//! ended.

use serde::{Deserialize, Serialize};

use crate::shared::{
    id::{BlobId, CommitId, DeploymentId},
    name::{ClusterName, HostName, UnitName},
    outcome::{Attempt, Deployed, Drift, Goal, Holder, Outcome, Phase},
    path::ExternalPath,
    plan::PlanDigest,
};

/// A message from the helper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    Deploy(Box<Deploy>),
    /// Part of the pack or of the announced blob.
    Data(Bytes),
    /// The pack is complete.
    PackEnd,
    /// A blob that is too large for the pack follows.
    Blob {
        id: BlobId,
        size: u64,
    },
    /// The deployment needs no more objects.
    ObjectsEnd,
    /// Take over a deployment that began on another connection.
    Attach(DeploymentId),
    /// Every host is prepared: activate.
    Activate,
    /// Discard the deployment, if nothing was changed yet.
    Cancel,
    /// The helper could still connect: keep what was activated.
    Confirm,
    /// All hosts are healthy: keep what was activated.
    Keep,
    /// Another host failed: roll back.
    Revert,
    /// All hosts have kept the deployment: rolling back is no longer possible.
    Release,
    /// Send the objects of `want` and its history that `have` does not reach.
    Export {
        want: CommitId,
        have: Vec<CommitId>,
    },
    /// Send a blob that is too large for a pack, from the checked-out files.
    ExportBlob(BlobId),
    /// Send the last attempts, newest first.
    Attempts {
        limit: u32,
    },
    /// Compare the host with what is deployed.
    Verify,
    /// Send files that no deployment put there, and the state of units.
    Look(Box<Look>),
    /// List files in `/etc` that no package put there, or that were changed since.
    Candidates,
    /// Answer at once: the helper measures the round-trip time.
    Ping,
    /// The helper is still there.
    Heartbeat,
}

/// The request for one deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deploy {
    pub id: DeploymentId,
    /// The host's directory in the config tree.
    pub host: HostName,
    /// What the directory is called in the deployed commit, if it was renamed since.
    pub renamed_from: Option<HostName>,
    /// The name that `/etc/hostname` must have. `None` for a root directory.
    pub hostname: Option<HostName>,
    /// The age recipient that the tree records for this host. Another host, or one with another key, could not open its secrets.
    /// `None` if nothing is recorded, and for a removal.
    pub recipient: Option<String>,
    pub cluster: ClusterName,
    /// The lease: what the plan assumes to be deployed.
    pub lease: Lease,
    pub goal: Goal,
    pub plan: PlanDigest,
    /// The operator, for the host's history: `Name <address>`.
    pub operator: String,
    pub activation: Activation,
    pub decided_by: DecidedBy,
    /// Which drift the deployment puts right.
    pub repair: Repair,
    pub in_the_way: InTheWay,
    /// Roll back unless [`Request::Confirm`] comes within this many seconds. An app's manifest can ask for this, too.
    pub confirm: Option<u16>,
}

impl Deploy {
    /// The host's directory in the deployed commit.
    pub fn deployed_from(&self) -> &HostName {
        self.renamed_from.as_ref().unwrap_or(&self.host)
    }
}

/// Which drift a deployment puts right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Repair {
    /// That of the apps that it changes.
    #[default]
    Changed,
    All,
}

/// What happens to a file that no deployment put there, and that differs from the one that is to take its place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum InTheWay {
    /// The deployment is refused.
    #[default]
    Refused,
    /// It is kept as what was there before, and is put back when the path is given up.
    TakenOver,
}

/// What must be deployed now, or the deployment is refused. There is no variant for "anything", on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lease {
    Absent,
    At(CommitId),
}

/// When a prepared host activates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    AtOnce,
    /// On [`Request::Activate`].
    WhenTold,
}

/// Whether host or helper decides to keep a deployment that has settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DecidedBy {
    /// The host alone.
    Host,
    /// The helper, with [`Request::Keep`]. Silence means rolling back.
    Helper,
}

/// A message from the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// The first message of every connection.
    Hello(Box<Hello>),
    /// The host lacks objects that the pack builds on: send a pack that has everything.
    NeedFull,
    /// The request of a deployment has come, so many milliseconds after the hello.
    Came {
        after: u32,
    },
    Progress(Phase),
    /// The unit or health probe that the host waits for. Only sent if the wait takes long.
    WaitsFor(String),
    /// Something that the operator should know, in one or a few lines.
    Note(String),
    /// Everything is checked and durable. Nothing was changed yet.
    Prepared,
    /// Answers [`Request::Attach`]: this connection has taken the deployment over.
    Attached,
    /// Answers [`Request::Attach`]: the deployment is not under way and never will be. If it was activated, this says
    /// how it ended.
    NotRunning(Option<Box<Attempt>>),
    /// Activated and settled. Rolls back unless [`Request::Confirm`] comes on a new connection within this many
    /// seconds.
    AwaitsConfirmation {
        seconds: u16,
    },
    /// Activated and settled. Waits for [`Request::Keep`].
    Healthy,
    /// Answers [`Request::Keep`], once the deployment is durably kept. Waits for [`Request::Release`].
    Kept,
    /// How the deployment ended.
    Ended(Box<Outcome>),
    /// Part of an exported pack.
    Data(Bytes),
    /// The exported pack is complete.
    End,
    /// Answers [`Request::ExportBlob`]: the blob follows and has this size in bytes. `None` means that it is not here.
    Blob {
        size: Option<u64>,
    },
    Attempts(Vec<Attempt>),
    /// Answers [`Request::Verify`]. Empty if nothing differs.
    Drift(Vec<Drift>),
    /// Answers [`Request::Look`]. The content of a file follows, in as many [`Response::Data`] as it takes.
    Entry {
        path: ExternalPath,
        entry: Entry,
    },
    /// Answers [`Request::Look`], after all entries.
    UnitNow(UnitNow),
    /// Answers [`Request::Candidates`], in as many messages as it takes.
    Candidates {
        /// The package manager that was asked. Without one, every file is a candidate.
        packages: Option<PackageManager>,
        list: Vec<Candidate>,
    },
    /// The request failed. The connection ends.
    Error(String),
    /// Answers [`Request::Ping`].
    Pong,
    /// The agent is still there.
    Heartbeat,
}

/// What an operator wants to adopt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// Files, and directories with all that is in them.
    pub paths: Vec<ExternalPath>,
    pub units: Vec<UnitName>,
    /// The most files, and bytes in them.
    pub files: u32,
    pub bytes: u64,
}

/// Something at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// The names are missing if there is no account with that id.
    File {
        mode: u32,
        owner: Option<String>,
        group: Option<String>,
        size: u64,
    },
    Link {
        target: String,
    },
    /// The rest of a sentence that begins with the path.
    Refused {
        why: String,
    },
}

/// The most files that [`Request::Candidates`] lists.
pub const MOST_CANDIDATES: usize = 20_000;

/// A file in `/etc` that may be worth adopting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    pub path: ExternalPath,
    pub why: Why,
    /// In bytes.
    pub size: u64,
    /// When it was last changed, in seconds since 1970.
    pub modified: i64,
}

/// Why a file is a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// No package owns it.
    Unowned,
    /// It differs from what its package put there.
    Changed,
    /// There is no package manager to ask.
    Unknown,
}

/// A program that knows which files belong to packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PackageManager {
    Dpkg,
    Rpm,
}

/// How a unit is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitNow {
    pub unit: UnitName,
    pub exists: bool,
    pub enabled: bool,
    pub runs: bool,
}

/// The state of the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// A random id that the host chose when its state was created. A new id means that the host was reinstalled.
    pub instance: String,
    /// The age recipient for secrets of this host, `age1…`. `None` if nothing was ever deployed to a root directory, or if
    /// the identity is damaged.
    pub recipient: Option<String>,
    pub deployed: Option<Deployed>,
    /// The last deployment that was activated, however it ended.
    pub last_attempt: Option<Attempt>,
    /// What this agent recovered from an interrupted deployment, and what it can't clear away, in sentences.
    pub notes: Vec<String>,
    /// What a failed deployment changed and could not be undone, in sentences. Empty if the host is in order.
    pub failures: Vec<String>,
    /// The agent that holds the host's lock, if one does.
    pub busy: Option<Holder>,
    /// The login is root's own: the agent needs neither sudo nor doas.
    pub is_roots_login: bool,
}

/// Bytes, encoded as such and not as a list of numbers.
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
