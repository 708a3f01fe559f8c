//! Prepares the deliveries, sends them, and follows them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use deptool_agent::shared::{
    id::DeploymentId,
    name::HostName,
    outcome::Goal,
    time::now,
    wire::{Activation, DecidedBy, Deploy},
};
use gix::ObjectId;

use super::{Affected, HostRemote, Request};
use crate::{
    agent::{
        open_files::{self, Use},
        payload::Payload,
        transport::{self, AT_ONCE, Present, Stage, Started, ssh::Questions},
    },
    config::Via,
    fleet::{
        self, HostResult, Rules, Supervisor, SupervisorError,
        delivery::{Delivery, DeliveryEvent},
        remote::{Remote, RemoteError},
    },
    model::options::Atomicity,
    repo::{
        Files, ReadError,
        blob::Blobs,
        history::Objects,
        pack::{self, Base, Selection},
    },
    state::{Attempt, HostFacts, RequestPath},
    ui::{
        progress::{self, FirstContact, Progress},
        render::ago,
    },
};

/// Deploy to all of `affected`. Returns the result for each.
pub(super) fn run(
    remote: &Remote,
    request: &Request<'_>,
    affected: &[Affected],
) -> Result<Vec<HostResult>, RemoteError> {
    open_files::make_room(affected.len(), Use::Session)?;
    let options = request.options;
    let connector = remote.connector.clone();
    let facts: Vec<_> = affected.iter().map(|one| HostFacts::load(&remote.repo, &one.remote.tracking)).collect();
    let started = start(remote, affected, &facts);
    let deliveries = deliveries(remote, request, affected, &facts, started)?;
    let rules = Rules {
        atomicity: options.atomicity,
        unreachable: options.push_options.unreachable,
        waves: options.push_options.waves.clone(),
    };
    let progress = Progress::new(shown(&deliveries), remote.manner(options));
    let mut supervisor = PushSupervisor { remote, request, affected, progress: &progress };
    let results = fleet::run(deliveries, rules, &connector, &mut supervisor);
    progress.finish();
    Ok(results)
}

/// How requests are sent ahead to a host.
fn request_path(one: &Affected, facts: Option<&HostFacts>) -> RequestPath {
    match (&one.remote.via, facts) {
        (Via::Ssh(_), Some(facts)) if facts.is_far() => RequestPath::Environment,
        _ => RequestPath::Stdin,
    }
}

/// Begin connections to a few hosts while the requests are being prepared. A request that travels in the environment
/// has to be ready before.
///
/// `None` if a connection was not begun, or if it failed. In that case, the delivery fails in the same way, and reports
/// it.
fn start(remote: &Remote, affected: &[Affected], facts: &[Option<HostFacts>]) -> Vec<Option<Started>> {
    let start = |(one, facts): (&Affected, Option<&HostFacts>)| {
        if affected.len() > AT_ONCE || request_path(one, facts) == RequestPath::Environment {
            return None;
        }
        let target = remote.place(&one.remote).ok()?;
        let present = facts.and_then(HostFacts::our_agent).unwrap_or(Present::Started);
        remote.connector.start(&target, present, None, &mut |_| {}).ok()
    };
    affected.iter().zip(facts.iter().map(Option::as_ref)).map(start).collect()
}

/// The deliveries for all hosts.
fn deliveries(
    remote: &Remote,
    request: &Request<'_>,
    affected: &[Affected],
    facts: &[Option<HostFacts>],
    started: Vec<Option<Started>>,
) -> Result<Vec<Delivery>, RemoteError> {
    let options = request.options;
    let many = affected.len() > 1;
    let (activation, decided_by) = match (many, options.atomicity) {
        (false, _) => (Activation::AtOnce, DecidedBy::Host),
        (true, Atomicity::PerHost) => (Activation::WhenTold, DecidedBy::Host),
        (true, Atomicity::AllOrNothing) => (Activation::WhenTold, DecidedBy::Helper),
    };
    let operator = remote.repo.operator();
    let (asked, defaults) = (options.push_options.confirm, &remote.settings.shared.defaults);
    let mut deliveries = Vec::with_capacity(affected.len());
    let (mut packed, blobs) = (Packed::nothing(remote), Blobs::of(remote.repo.gix()));
    for ((one, facts), started) in affected.iter().zip(facts).zip(started) {
        let payload = payload_for(remote, request, one, Completeness::Incremental, &mut packed)?;
        let is_ssh = matches!(one.remote.via, Via::Ssh(_));
        let id = DeploymentId::random().map_err(RemoteError::Random)?;
        let deploy = Deploy {
            id,
            host: one.remote.host.clone(),
            renamed_from: one.renamed_from.clone(),
            hostname: is_ssh.then(|| one.remote.host.clone()),
            recipient: recorded(remote, request, &one.remote.host),
            cluster: request.cluster.clone(),
            lease: one.expected,
            goal: request.goal,
            plan: one.plan.digest(),
            operator: operator.clone(),
            activation,
            decided_by,
            repair: options.push_options.repair,
            in_the_way: options.push_options.in_the_way,
            confirm: remote.settings.confirm(asked, &one.remote.tracking, &remote.name, defaults)?,
        };
        let blobs = blobs.clone();
        deliveries.push(Delivery {
            target: remote.place(&one.remote)?,
            started,
            flight: request_path(one, facts.as_ref()),
            request: deploy,
            payload,
            open_blob: Arc::new(move |id| blobs.open(&id)),
            lock_wait: options.push_options.lock_wait.unwrap_or_default(),
            agent: facts.as_ref().and_then(HostFacts::our_agent),
        });
    }
    Ok(deliveries)
}

/// The recipient that the commit records for the host. A host can be emptied whatever key it has.
fn recorded(remote: &Remote, request: &Request<'_>, host: &HostName) -> Option<String> {
    match request.goal {
        Goal::Commit(_) => remote.settings.shared.recipient(host).map(ToString::to_string),
        Goal::Nothing => None,
    }
}

/// The hosts, for the progress display.
fn shown(deliveries: &[Delivery]) -> Vec<progress::Host> {
    let shown = |delivery: &Delivery| progress::Host {
        name: delivery.request.host.clone(),
        first_contact: match &delivery.target {
            transport::Endpoint::Ssh(ssh) if delivery.agent.is_none() && ssh.questions == Questions::Allowed => {
                FirstContact::Possible
            }
            transport::Endpoint::Ssh(_) | transport::Endpoint::Local(_) => FirstContact::No,
        },
    };
    deliveries.iter().map(shown).collect()
}

/// Whether a pack may assume that the host has the objects that it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Completeness {
    Incremental,
    Full,
}

/// What was packed for other hosts.
struct Packed {
    /// It remembers what was read: all hosts get the same commits.
    objects: Objects,
    /// By the objects in them. Hosts with the same directory share one.
    payloads: HashMap<Vec<ObjectId>, Payload>,
}

impl Packed {
    fn nothing(remote: &Remote) -> Packed {
        Packed { objects: Objects::of(remote.repo.gix()), payloads: HashMap::new() }
    }
}

fn payload_for(
    remote: &Remote,
    request: &Request<'_>,
    one: &Affected,
    completeness: Completeness,
    packed: &mut Packed,
) -> Result<Payload, RemoteError> {
    let (objects, host) = (&packed.objects, &one.remote.host);
    if let (Completeness::Full, Goal::Commit(target)) = (completeness, request.goal) {
        let directories = remote.repo.host_trees(target)?;
        if let Some((_, directory)) = directories.into_iter().find(|(name, _)| name == host) {
            remote.repo.need_host(directory, Files::Beyond(None)).map_err(ReadError::from)?;
        }
    }
    let mut selection = match (request.goal, completeness, &one.tracked) {
        (Goal::Nothing, _, _) => Selection::default(),
        (Goal::Commit(target), Completeness::Incremental, Some(tracked)) => {
            pack::select(objects, host, Base::HostSubtreeOf(tracked.commit), Some(tracked.commit), target)?
        }
        (Goal::Commit(target), _, _) => pack::select(objects, host, Base::Nothing, None, target)?,
    };
    if let (Completeness::Full, Some(tracked)) = (completeness, &one.tracked) {
        // The host may have lost objects of the commit that it runs. If they are not here either, the host reports
        // that.
        let running = pack::select(objects, host, Base::Nothing, None, tracked.commit).unwrap_or_default();
        let known: HashSet<ObjectId> = selection.objects.iter().copied().collect();
        selection.objects.extend(running.objects.into_iter().filter(|id| !known.contains(id)));
    }
    if let Some(same) = packed.payloads.get(&selection.objects).filter(|same| same.large == selection.large) {
        return Ok(same.clone());
    }
    let mut bytes = Vec::new();
    pack::write(objects, &selection.objects, &mut bytes)?;
    let made = Payload::new(&bytes, selection.large)?;
    packed.payloads.insert(selection.objects, made.clone());
    Ok(made)
}

/// The push's side of a fleet.
struct PushSupervisor<'a> {
    remote: &'a Remote,
    request: &'a Request<'a>,
    affected: &'a [Affected],
    progress: &'a Progress,
}

impl PushSupervisor<'_> {
    /// Record something else about a host, unless `change` returns `None`. If this fails, the next push takes longer.
    fn change_facts(&self, host: &HostRemote, change: impl FnOnce(HostFacts) -> Option<HostFacts>) {
        if let Some(facts) = HostFacts::load(&self.remote.repo, &host.tracking).and_then(change)
            && let Err(error) = facts.store(&self.remote.repo, &host.tracking)
        {
            self.remote.say(&format!("{}: {error}", host.host));
        }
    }
}

impl Supervisor for PushSupervisor<'_> {
    fn full_pack(&mut self, at: usize) -> Result<Payload, SupervisorError> {
        let (one, nothing) = (&self.affected[at], &mut Packed::nothing(self.remote));
        payload_for(self.remote, self.request, one, Completeness::Full, nothing).map_err(Into::into)
    }

    fn before_activation(&mut self) -> Result<(), SupervisorError> {
        let attempt = match self.request.goal {
            Goal::Commit(id) => Attempt::Deploy(id),
            Goal::Nothing => Attempt::Remove,
        };
        let hosts: Vec<&HostName> = self.affected.iter().map(|one| &one.remote.host).collect();
        self.remote.tracking().unsettle(&hosts, &self.request.cluster, attempt).map_err(Into::into)
    }

    fn interrupted(&mut self, begun: &[usize]) {
        let names: Vec<&str> = begun.iter().map(|at| self.affected[*at].remote.host.as_str()).collect();
        let (names, them) = match names.as_slice() {
            // No host has begun, so all are cancelled, and Git or the report says so.
            [] => return,
            [one] => ((*one).to_owned(), "it has"),
            _ => (names.join(", "), "they have"),
        };
        let what = match self.request.options.atomicity {
            Atomicity::AllOrNothing => "goes back to the commit that ran before",
            Atomicity::PerHost => "finishes by itself, or rolls back",
        };
        self.remote.say(&format!("interrupted: {names}: {them} begun: each {what}; 'git fetch' shows how it ended"));
        // After Ctrl-C the terminal belongs to the shell again.
        self.remote.mute();
    }

    fn on_event(&mut self, at: usize, report: &DeliveryEvent) {
        let host = &self.affected[at].remote;
        let verbosity = self.request.options.verbosity;
        if let Some(state) = super::progress::state_of(report) {
            self.progress.note(at, state);
        }
        match report {
            DeliveryEvent::Stage(Stage::Installing { bytes }) if verbosity > 0 && !self.progress.is_live() => {
                self.remote.say(&format!("{}: installing the agent ({} KiB)", host.host, bytes / 1024));
            }
            DeliveryEvent::Note(note) if verbosity > 0 => self.remote.say(&format!("{}: {note}", host.host)),
            DeliveryEvent::Phase(phase) if verbosity > 1 && !self.progress.is_live() => {
                self.remote.say(&format!("{}: {}", host.host, phase.word()));
            }
            DeliveryEvent::WaitsFor(what) if verbosity > 1 && !self.progress.is_live() => {
                self.remote.say(&format!("{}: waiting for {what}", host.host));
            }
            DeliveryEvent::Busy(holder) if verbosity > 0 => {
                let since = ago(now() - holder.since);
                let (by, phase) = (&holder.by, holder.phase.word());
                self.remote.say(&format!("{}: waiting for {by}, who has been {phase} for {since}", host.host));
            }
            DeliveryEvent::Hello(hello) => {
                // If this can't be recorded, the next push takes longer.
                if let Err(error) = self.remote.record_hello(host, hello) {
                    self.remote.say(&format!("{}: {error}", host.host));
                }
            }
            DeliveryEvent::Came(timing) => {
                self.change_facts(host, |facts| facts.after(timing));
            }
            DeliveryEvent::Socket(socket) => {
                self.change_facts(host, |facts| Some(HostFacts { socket: Some(socket.clone()), ..facts }));
            }
            DeliveryEvent::Stage(_)
            | DeliveryEvent::Note(_)
            | DeliveryEvent::Phase(_)
            | DeliveryEvent::WaitsFor(_)
            | DeliveryEvent::Busy(_)
            | DeliveryEvent::MayBegin
            | DeliveryEvent::NeedFull
            | DeliveryEvent::Prepared
            | DeliveryEvent::Healthy
            | DeliveryEvent::Kept
            | DeliveryEvent::Lost
            | DeliveryEvent::Ended(_) => {}
        }
    }
}
