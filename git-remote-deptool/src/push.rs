//! A push, from Git's batch to its report.
//!
//! ```text
//! batch ▸ request (which branch, which commit) ▸ consider each host (lease, ancestry, plan)
//!       ▸ deliver to all that are affected ▸ conclude for each (tracking ref, mark) ▸ report
//! ```
//!
//! A ref is *ok* only when every host that the change affects has said that it is durable there.

mod conclude;
mod consider;

use std::sync::Arc;

use deptool_agent::{
    host::store::pack::PackWriter,
    id::{CommitId, DeploymentId},
    name::{ClusterName, HostName},
    plan::HostPlan,
    wire::{Deploy, Expected, Go, Target as Goal, Verdict},
};
use gix::bstr::{BStr, ByteSlice};

use crate::{
    cluster::{HostRemote, Settings, Target},
    delivery::{Delivery, Report as Progress},
    fleet::{self, FullPack, Lead},
    git::Repo,
    helper::{
        Options, Outcome, PushBatch, PushCommand, Report, Source,
        batch::{Ancestry, Destination, Tags},
        options::{Atomicity, Run},
        report::Update,
    },
    pack::{self, Base},
    remote::{Remote, RemoteError},
    render,
    tracking::{Attempt, HostFacts, HostLock, Tracked},
    transport::Stage,
};

/// What is asked for, once for all hosts.
pub(crate) struct Request<'a> {
    pub cluster: ClusterName,
    pub goal: Goal,
    pub ancestry: Ancestry,
    /// `--force-with-lease`.
    pub lease: Option<Expected>,
    pub options: &'a Options,
    /// Whether the push is to one host by name, not to a group.
    pub is_single: bool,
}

/// A host that the push affects.
pub(crate) struct Affected {
    pub remote: HostRemote,
    pub tracked: Option<Tracked>,
    pub expected: Expected,
    pub plan: Arc<HostPlan>,
    pub update: Update,
    /// Held from before the mark is set until the host's answer was noted.
    pub _lock: HostLock,
}

/// Carry out `batch`, and say in `report` what became of each ref. Returns the hosts that were deployed to.
pub fn push(
    remote: &Remote,
    batch: &PushBatch,
    options: &Options,
    report: &mut Report,
) -> Result<Vec<HostName>, RemoteError> {
    let tags = batch.tags_are(remote.settings.follow_tags);
    let branches = batch.branches().count();
    let mut deployed = Vec::new();
    for command in batch.commands() {
        let outcome = match command.destination() {
            Destination::Tag(_) if tags == Tags::Followed => Outcome::Unaffected,
            Destination::Tag(_) => reject("a tag can't be deployed; push a branch"),
            Destination::Other => reject("only branches can be deployed"),
            Destination::Branch(_) if branches > 1 => {
                reject("a host belongs to one cluster: push one branch at a time")
            }
            Destination::Branch(name) => match push_branch(remote, command, name, options) {
                Ok((outcome, hosts)) => {
                    deployed.extend(hosts);
                    outcome
                }
                Err(error) => reject(&crate::helper::serve::chain(&error)),
            },
        };
        set(report, command.dst.as_bstr(), outcome);
    }
    Ok(deployed)
}

fn reject(text: &str) -> Outcome {
    Outcome::Rejected(text.into())
}

fn set(report: &mut Report, dst: &BStr, outcome: Outcome) {
    // Every destination comes from the batch that the report was made from.
    let known = report.set(dst, outcome);
    debug_assert!(known.is_ok(), "{known:?}");
}

fn push_branch(
    remote: &Remote,
    command: &PushCommand,
    name: &BStr,
    options: &Options,
) -> Result<(Outcome, Vec<HostName>), RemoteError> {
    let cluster = ClusterName::parse(name).map_err(|error| RemoteError::Text(error.to_string()))?;
    let goal = match &command.src {
        Source::Delete => Goal::Nothing,
        Source::Revision(text) => Goal::Commit(remote.repo.resolve(text.as_bstr())?),
    };
    let request = Request {
        cluster,
        goal,
        ancestry: command.ancestry,
        lease: options.leases.get(&command.dst).copied(),
        options,
        is_single: matches!(remote.target, Target::Host(_)),
    };
    let hosts = hosts_of(remote, &request)?;
    consider::note_ignored(remote, &request)?;
    let consider::Considered { affected, mut refused } = consider::consider(remote, &request, hosts)?;
    if request.is_single
        && let Some((_, outcome)) = refused.pop()
    {
        return Ok((outcome, Vec::new()));
    }
    if !refused.is_empty() {
        return Ok((conclude::of_group(remote, &refused), Vec::new()));
    }
    if affected.is_empty() {
        return Ok((Outcome::Unaffected, Vec::new()));
    }
    show_plans(remote, options, &affected);
    match options.run {
        Run::Dry => Ok((done(&request, &affected), Vec::new())),
        Run::Real => deploy(remote, &request, affected),
    }
}

/// The hosts that the push is for, in the order in which they are locked: the same for everybody.
fn hosts_of(remote: &Remote, request: &Request<'_>) -> Result<Vec<HostRemote>, RemoteError> {
    let mut hosts = match (&remote.target, request.goal) {
        (Target::Host(host), _) => vec![host.clone()],
        (Target::Group(..) | Target::All, Goal::Nothing) => {
            let text = "everything is removed only from hosts by name: 'git push <host> :<cluster>'";
            return Err(RemoteError::Text(text.into()));
        }
        (Target::Group(_, hosts), Goal::Commit(_)) => hosts.clone(),
        (Target::All, Goal::Commit(commit)) => hosts_of_tree(&remote.repo, &remote.settings, commit)?,
    };
    hosts.sort_by(|a, b| a.host.cmp(&b.host));
    Ok(hosts)
}

/// The hosts that `@all` means: the directories of the tree.
pub fn hosts_of_tree(repo: &Repo, settings: &Settings, commit: CommitId) -> Result<Vec<HostRemote>, RemoteError> {
    repo.hosts(commit)?.iter().map(|host| Ok(settings.host(host)?)).collect()
}

fn show_plans(remote: &Remote, options: &Options, affected: &[Affected]) {
    if options.run == Run::Real && options.verbosity < 2 {
        return;
    }
    for one in affected {
        remote.say(&render::plan(&one.remote.host, &one.plan));
        for note in render::notes(&one.plan) {
            remote.say(&format!("    ({note})"));
        }
    }
}

/// What Git is told of a push that has worked, or would.
fn done(request: &Request<'_>, affected: &[Affected]) -> Outcome {
    let new = match request.goal {
        Goal::Commit(id) => Some(id),
        Goal::Nothing => None,
    };
    match affected {
        [one] if request.is_single => {
            Outcome::Done { old: one.tracked.map(|tracked| tracked.commit), new, update: one.update }
        }
        _ => Outcome::Done { old: None, new, update: Update::FastForward },
    }
}

fn deploy(
    remote: &Remote,
    request: &Request<'_>,
    affected: Vec<Affected>,
) -> Result<(Outcome, Vec<HostName>), RemoteError> {
    let many = affected.len() > 1;
    let (go, verdict) = match (many, request.options.atomicity) {
        (false, _) => (Go::AtOnce, Verdict::Host),
        (true, Atomicity::PerHost) => (Go::WhenTold, Verdict::Host),
        (true, Atomicity::AllOrNothing) => (Go::WhenTold, Verdict::Helper),
    };
    let operator = operator(&remote.repo);
    let mut deliveries = Vec::with_capacity(affected.len());
    for one in &affected {
        let (pack, large) = pack_for(remote, request, one, Completeness::Incremental)?;
        let facts = HostFacts::load(&remote.repo, &one.remote.tracking);
        let is_ssh = matches!(one.remote.via, crate::cluster::Via::Ssh(_));
        let id = DeploymentId::random().map_err(|error| RemoteError::Text(format!("no random numbers: {error}")))?;
        let deploy = Deploy {
            id,
            host: one.remote.host.clone(),
            hostname: is_ssh.then(|| one.remote.host.clone()),
            cluster: request.cluster.clone(),
            expected: one.expected,
            target: request.goal,
            plan: one.plan.digest(),
            operator: operator.clone(),
            go,
            verdict,
            confirm: None,
        };
        let git_dir = remote.repo.gix().git_dir().to_owned();
        deliveries.push(Delivery {
            target: remote.place(&one.remote)?,
            request: deploy,
            pack,
            large,
            open_blob: Arc::new(move |id| Ok(Box::new(pack::large_blob(&git_dir, &id)?))),
            is_known: facts.is_some_and(|facts| facts.agent.as_deref() == Some(deptool_agent::build::BUILD_ID)),
        });
    }
    let connector = remote.connector.clone();
    let mut leading = Leading { remote, request, affected: &affected };
    let ends = fleet::run(deliveries, &connector, &mut leading);
    conclude::conclude(remote, request, affected, ends)
}

/// Whether a pack may assume what the host should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Completeness {
    Incremental,
    Full,
}

fn pack_for(
    remote: &Remote,
    request: &Request<'_>,
    one: &Affected,
    completeness: Completeness,
) -> Result<FullPack, RemoteError> {
    let Goal::Commit(target) = request.goal else { return Ok((empty_pack()?, Vec::new())) };
    let (base, old) = match (completeness, &one.tracked) {
        (Completeness::Incremental, Some(tracked)) => (Base::HostSubtreeOf(tracked.commit), Some(tracked.commit)),
        (Completeness::Full, _) | (Completeness::Incremental, None) => (Base::Nothing, None),
    };
    let selection = pack::select(remote.repo.gix(), &one.remote.host, base, old, target)?;
    let mut bytes = Vec::new();
    pack::write(remote.repo.gix(), &selection.objects, &mut bytes)?;
    Ok((bytes, selection.large))
}

fn empty_pack() -> Result<Vec<u8>, RemoteError> {
    let written = PackWriter::new(Vec::new(), 0).and_then(PackWriter::finish);
    written.map(|(bytes, _)| bytes).map_err(|error| RemoteError::Text(error.to_string()))
}

/// Who deploys: the committer that Git would use, or else the login.
fn operator(repo: &Repo) -> String {
    if let Some(Ok(committer)) = repo.gix().committer() {
        return format!("{} <{}>", committer.name, committer.email);
    }
    let name = repo.git().args(["var", "GIT_COMMITTER_IDENT"]).output().ok().filter(|output| output.status.success());
    let text = name.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    match text.split_once('>') {
        Some((ident, _)) => format!("{ident}>"),
        None => "unknown <unknown>".into(),
    }
}

/// Leads a fleet on behalf of a push.
struct Leading<'a> {
    remote: &'a Remote,
    request: &'a Request<'a>,
    affected: &'a [Affected],
}

impl Lead for Leading<'_> {
    fn full_pack(&mut self, at: usize) -> Result<FullPack, String> {
        pack_for(self.remote, self.request, &self.affected[at], Completeness::Full).map_err(|error| error.to_string())
    }

    fn permit(&mut self, at: usize) -> Result<(), String> {
        let attempt = match self.request.goal {
            Goal::Commit(id) => Attempt::Deploy(id),
            Goal::Nothing => Attempt::Remove,
        };
        let host = &self.affected[at].remote.host;
        self.remote.tracking().unsettle(host, &self.request.cluster, attempt).map_err(|error| error.to_string())
    }

    fn heard(&mut self, at: usize, report: &Progress) {
        let host = &self.affected[at].remote;
        let verbosity = self.request.options.verbosity;
        match report {
            Progress::Stage(Stage::Installing { bytes }) if verbosity > 0 => {
                self.remote.say(&format!("{}: installing the agent ({} KiB)", host.host, bytes / 1024));
            }
            Progress::Note(note) if verbosity > 0 => self.remote.say(&format!("{}: {note}", host.host)),
            Progress::Phase(phase) if verbosity > 1 => self.remote.say(&format!("{}: {}", host.host, phase.word())),
            Progress::Hello(hello) => {
                // What can't be remembered costs a round trip next time, no more.
                if let Err(error) = self.remote.heed(host, hello) {
                    self.remote.say(&format!("{}: {error}", host.host));
                }
            }
            _ => {}
        }
    }
}

/// The commit of a goal, for messages.
pub(crate) fn goal_text(goal: Goal) -> String {
    match goal {
        Goal::Commit(CommitId(id)) => id.to_hex_with_len(10).to_string(),
        Goal::Nothing => "nothing".into(),
    }
}
