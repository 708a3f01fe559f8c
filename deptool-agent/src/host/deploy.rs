//! One deployment on this host, from the request to the outcome.
//!
//! ```text
//! lock ▸ lease ▸ receive ▸ prepare ▸ (go?) ▸ journal opens ▸ apply ▸ settle ▸ (keep?) ▸ verdict ▸ finish ▸ rest
//!                                     │ until here nothing happened   │ any failure: undo
//! ```

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    apply::Applying,
    attempts,
    checkout::{self, Contents, Earlier},
    claims::Claims,
    drift, finish, health,
    home::{Home, HostError, sync_file_system},
    journal::{Journal, Record},
    lock::{HostLock, Taken},
    outside::Place,
    peer::{Incoming, Peer},
    prepare::{self, Prepared, Sides},
    receive::{self, Received},
    session,
    store::Store,
    undo::undo,
    why::Why,
};
use crate::{
    action::Action,
    id::CommitId,
    manifest::probe::Probe,
    name::{AppName, HostName, UnitName},
    ordered,
    outcome::{AttemptResult, Failure, Outcome, Phase},
    plan::HostPlan,
    system::{
        Manager, System,
        settle::{Deadline, Watch},
    },
    text::printable,
    tree::{HostTree, TreeError, host_directory, root_of},
    wanted::Wanted,
    wire::{Deploy, Deployed, Expected, Go, Holder, Request, Response, Target, Verdict},
};

/// While rolling back, each batch of units may take so long.
const LIMIT: Duration = Duration::from_secs(90);

/// Seconds since 1970, by this host's clock.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// What is deployed here, for whoever asks.
pub fn deployed(home: &Home) -> Result<Option<Deployed>, HostError> {
    let Some((cluster, commit)) = Store::deployed_at(&home.store())? else { return Ok(None) };
    let name = super::home::read_if_there(&home.host_name())?.unwrap_or_default();
    let host = HostName::parse(&name).map_err(|error| HostError::Unfit(error.to_string()))?;
    let done = attempts::last_done(home)?;
    let (by, when) = done.map_or(("somebody".into(), 0), |attempt| (attempt.by, attempt.when));
    Ok(Some(Deployed { host, cluster, commit, by, when }))
}

/// Carry out `request` and tell how it ended. Whatever goes wrong before something is visible is a refusal.
pub fn deploy(home: &Home, request: &Deploy, peer: &mut Peer, system: &mut dyn System) {
    match try_deploy(home, request, peer, system) {
        Ok(End::Told) => {}
        Ok(End::Outcome(outcome)) => tell(peer, outcome),
        Err(error) => tell(peer, refusal(error)),
    }
}

/// How a deployment ended.
enum End {
    Outcome(Outcome),
    /// The helper knows already: what was left to do then was nothing that it should wait for.
    Told,
}

fn tell(peer: &mut Peer, outcome: Outcome) {
    peer.send(&Response::Ended(Box::new(outcome)));
}

fn refusal(error: HostError) -> Outcome {
    match error {
        HostError::Refused { why, details } => Outcome::Refused { why, details },
        error => Outcome::refused(error.to_string()),
    }
}

fn try_deploy(home: &Home, request: &Deploy, peer: &mut Peer, system: &mut dyn System) -> Result<End, HostError> {
    check_hostname(home, request)?;
    check_selinux(home)?;
    home.create()?;
    let by = printable(request.operator.as_bytes());
    let holder = Holder { id: Some(request.id), by, phase: Phase::Preparing, since: now() };
    let mut lock = match HostLock::take(home, holder)? {
        Taken::Lock(lock) => lock,
        Taken::Busy(holder) => return Ok(End::Outcome(Outcome::Busy(holder))),
    };
    lock.is_written(home)?;
    check_at_rest(home)?;
    session::make_instance(home)?;
    let mut store = Store::open_or_init(&home.store())?;
    let actual = deployed(home)?;
    if let Some(outcome) = check_lease(request, actual).unwrap_or_else(|error| Some(refusal(error))) {
        lock.leave();
        return Ok(End::Outcome(outcome));
    }
    system.begin_leaving();
    peer.send(&Response::Progress(Phase::Preparing));
    let staged = match stage(home, request, &mut store, peer, system) {
        Ok(Staged::Ready(staged)) => staged,
        Ok(Staged::Gone) => return Ok(discard(home, lock, &mut store, Outcome::Cancelled)),
        Err(error) => return Ok(discard(home, lock, &mut store, refusal(error))),
    };
    if !may_go(request, &mut lock, peer) {
        return Ok(discard(home, lock, &mut store, Outcome::Cancelled));
    }
    if system.is_stopping() {
        return Ok(discard(home, lock, &mut store, Outcome::refused("the host is shutting down")));
    }
    let running = Running { home, lock, peer, system, record: staged.record, expectations: staged.expectations };
    running.activate(request.verdict, &mut store)
}

/// Another agent may have been killed since this one looked: what it has begun is undone before anything else.
fn check_at_rest(home: &Home) -> Result<(), HostError> {
    let journal = super::home::read_if_there(&home.journal())?.unwrap_or_default();
    if journal.is_empty() {
        return Ok(());
    }
    Err(HostError::Unfit(
        "another deployment was interrupted just now; it is undone when you fetch or push again".into(),
    ))
}

/// `/etc/hostname` must be the host's name, or one the other's first label. Compared before anything is written.
fn check_hostname(home: &Home, request: &Deploy) -> Result<(), HostError> {
    let Some(expected) = &request.hostname else { return Ok(()) };
    let bytes = super::home::read_if_there(&home.root().join("etc/hostname"))?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let name = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
    let first = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let expected = expected.as_str();
    let same = name.eq_ignore_ascii_case(expected)
        || first(name).eq_ignore_ascii_case(expected)
        || first(expected).eq_ignore_ascii_case(name);
    if name.is_empty() || name == "localhost" || same {
        return Ok(());
    }
    let name = printable(name.as_bytes());
    Err(HostError::Unfit(format!("the host calls itself '{name}' in /etc/hostname, not '{expected}'")))
}

/// Under an enforcing SELinux our files would need labels, which nobody has tried yet.
fn check_selinux(home: &Home) -> Result<(), HostError> {
    let enforce = home.root().join("sys/fs/selinux/enforce");
    match std::fs::read(&enforce) {
        Ok(text) if home.is_live() && text.first() == Some(&b'1') => {
            Err(HostError::Unfit("SELinux is enforcing on the host, which is not supported yet".into()))
        }
        _ => Ok(()),
    }
}

/// The lease: what is deployed must be what the plan was made from.
fn check_lease(request: &Deploy, actual: Option<Deployed>) -> Result<Option<Outcome>, HostError> {
    let holds = match (&request.expected, &actual) {
        (Expected::Absent, None) => true,
        (Expected::At(id), Some(deployed)) => deployed.commit == *id,
        (Expected::Absent, Some(_)) | (Expected::At(_), None) => false,
    };
    if let Some(deployed) = &actual {
        if deployed.cluster != request.cluster {
            let (its, asked) = (&deployed.cluster, &request.cluster);
            return Err(HostError::Unfit(format!("the host belongs to cluster '{its}', not '{asked}'")));
        }
        if deployed.host != request.host {
            let (its, asked) = (&deployed.host, &request.host);
            return Err(HostError::Unfit(format!("the host is deployed from directory '{its}', not '{asked}'")));
        }
    }
    Ok((!holds).then_some(Outcome::Stale { actual }))
}

/// What was prepared goes again, and gives its space back. If that fails, the next agent tidies up.
fn discard(home: &Home, lock: HostLock, store: &mut Store, outcome: Outcome) -> End {
    let forgotten = store.forget_added().map_err(HostError::from);
    if forgotten.and_then(|()| finish::tidy(home)).is_ok() {
        lock.leave();
    }
    End::Outcome(outcome)
}

struct Ready {
    record: Record,
    expectations: Expectations,
}

/// What a deployment must show after its activation.
struct Expectations {
    /// How long units must not fail after their start, where the manifest says so.
    windows: BTreeMap<UnitName, Duration>,
    /// How long all of it may take.
    timeout: Duration,
    /// What must answer, of the apps that change.
    probes: Vec<(AppName, Probe)>,
}

impl Expectations {
    fn of(sides: &Sides<'_>) -> Expectations {
        let Sides { new, wants, plan, .. } = sides;
        let units = wants.enabled.iter().chain(&wants.watched);
        let windows = ordered::map(units.filter_map(|(unit, wanted)| Some((unit.clone(), wanted.settle?.0))));
        let changed = plan.apps.iter().filter_map(|change| Some((&change.app, new.apps.get(&change.app)?)));
        let probes =
            changed.flat_map(|(name, app)| app.manifest.health.iter().map(|probe| (name.clone(), probe.clone())));
        Expectations { windows, timeout: wants.settle_timeout, probes: probes.collect() }
    }
}

enum Staged {
    Ready(Box<Ready>),
    /// The helper went away or has changed its mind.
    Gone,
}

/// Receive everything and prepare it: nothing of it is visible.
fn stage(
    home: &Home,
    request: &Deploy,
    store: &mut Store,
    peer: &mut Peer,
    system: &mut dyn System,
) -> Result<Staged, HostError> {
    let expected = match request.expected {
        Expected::Absent => None,
        Expected::At(id) => Some(id),
    };
    let claims = Claims::load(home)?;
    let current = home.linked_generation(&home.current())?;
    let old = host_tree(store, request, expected)?;
    let earlier = prepare::earlier(home, current, &old);
    note_drift(home, current, &old, &earlier, peer);
    let new = match receive::objects(home, request, store, &earlier, peer)? {
        Received::Everything(new) => new,
        Received::Gone => return Ok(Staged::Gone),
    };
    let (had, wants) = (wanted(&old)?, wanted(&new)?);
    let plan = HostPlan::of_wanted(&old, &new, &had, &wants);
    if plan.digest() != request.plan {
        return Err(HostError::Unfit("the host's plan is not the one that was shown".into()));
    }
    let generation = finish::next_generation(home)?.max(current.unwrap_or(0) + 1);
    let contents = Contents { objects: store, incoming: home.incoming(), earlier: &earlier };
    let (checkouts, fresh) = prepare::check_out(home, generation, &new, &contents, &mut || peer.tick())?;
    let commit = match request.target {
        Target::Commit(id) => id.to_string(),
        Target::Nothing => "none".into(),
    };
    checkout::write_generation(home, generation, &commit, &checkouts)?;
    let sides = Sides { old: &old, new: &new, had: &had, wants: &wants, plan: &plan };
    let staged = prepare::Staged { home, sides: &sides, generations: (current, generation), checkouts: &checkouts };
    let prepared = prepare::decide(&staged, &claims, &fresh, system)?;
    let mut said = prepare::verify::run(&staged, system)?;
    said.extend(prepare::checks::run(&staged, system, &mut || peer.tick())?);
    let Prepared { actions, claims, running, notes } = prepared;
    for note in notes.into_iter().chain(said) {
        peer.send(&Response::Note(note));
    }
    let record = Record {
        agent: crate::build::agent_file_name(),
        id: request.id,
        host: request.host.clone(),
        cluster: request.cluster.clone(),
        from: expected,
        to: request.target,
        by: printable(request.operator.as_bytes()),
        when: now(),
        previous: current,
        generation,
        actions,
        running,
        claims,
    };
    Ok(Staged::Ready(Box::new(Ready { record, expectations: Expectations::of(&sides) })))
}

/// Tell of files of ours that somebody changed: they are written anew, and the generation that runs now keeps them.
fn note_drift(home: &Home, current: Option<u32>, old: &HostTree, earlier: &[Earlier<'_>], peer: &mut Peer) {
    let Some(number) = current else { return };
    for (name, app) in &old.apps {
        if earlier.iter().any(|earlier| earlier.app.tree == app.tree) {
            continue;
        }
        let kept = home.generation(number).join(name.as_str());
        for drift in drift::of_checkout(home, number, name, app) {
            let kept = printable(kept.as_os_str().as_encoded_bytes());
            peer.send(&Response::Note(format!("{drift}: what was there is kept in '{kept}'")));
        }
    }
}

/// The host's directory in `commit`; empty if nothing is deployed.
fn host_tree(store: &Store, request: &Deploy, commit: Option<CommitId>) -> Result<HostTree, HostError> {
    let Some(commit) = commit else { return Ok(HostTree::default()) };
    load_tree(store, &request.host, commit).map_err(|error| HostError::Unfit(format!("what is deployed: {error}")))
}

/// The directory of `host` in `commit`; empty if it has none.
pub fn load_tree(store: &Store, host: &HostName, commit: CommitId) -> Result<HostTree, TreeError> {
    let root = root_of(store, commit)?;
    match host_directory(store, root, host)? {
        Some(directory) => HostTree::load(store, directory),
        None => Ok(HostTree::default()),
    }
}

fn wanted(tree: &HostTree) -> Result<Wanted, HostError> {
    Wanted::of(tree).map_err(|error| HostError::Unfit(error.to_string()))
}

/// The last moment at which the deployment can be cancelled.
fn may_go(request: &Deploy, lock: &mut HostLock, peer: &mut Peer) -> bool {
    match request.go {
        Go::AtOnce => loop {
            match peer.receive_within(Duration::ZERO) {
                Incoming::Request(Request::Heartbeat) => {}
                Incoming::Silence => break !peer.is_lost(),
                Incoming::Request(_) | Incoming::End | Incoming::Broken(_) => break false,
            }
        },
        Go::WhenTold => {
            lock.set_phase(Phase::Prepared);
            peer.send(&Response::Prepared);
            matches!(peer.receive(), Incoming::Request(Request::Activate))
        }
    }
}

/// A deployment that has begun to be visible. It ends well or is undone, whatever becomes of the connection.
struct Running<'a> {
    home: &'a Home,
    lock: HostLock,
    peer: &'a mut Peer,
    system: &'a mut dyn System,
    record: Record,
    expectations: Expectations,
}

impl Running<'_> {
    fn activate(mut self, verdict: Verdict, store: &mut Store) -> Result<End, HostError> {
        self.enter(Phase::Activating);
        let left = self.system.leave_session().map_err(HostError::from);
        let mut journal = match left.and_then(|()| Journal::open(self.home, &self.record)) {
            Ok(journal) => journal,
            Err(error) => {
                let outcome = refusal(error);
                // What is left of the journal is undone by the next agent, which finds nothing that was done.
                return Ok(match Journal::discard(self.home) {
                    Ok(()) => discard(self.home, self.lock, store, outcome),
                    Err(_) => End::Outcome(outcome),
                });
            }
        };
        let result = self.note_target(store).map_err(Why::from).and_then(|()| self.apply_and_settle());
        let result = result.and_then(|()| self.await_verdict(verdict));
        let result = result.and_then(|()| self.make_durable(&mut journal).map_err(Why::from));
        match result {
            Ok(()) => Ok(self.keep(journal, store)),
            Err(why) => self.roll_back(why, journal).map(End::Outcome),
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.lock.set_phase(phase);
        self.peer.send(&Response::Progress(phase));
    }

    /// What was tried stays readable in the store, however it ends.
    fn note_target(&self, store: &mut Store) -> Result<(), HostError> {
        match self.record.to {
            Target::Commit(id) => Ok(store.set_target(&id)?),
            Target::Nothing => Ok(()),
        }
    }

    fn apply_and_settle(&mut self) -> Result<(), Why> {
        let deadline = Deadline::after(self.system, self.expectations.timeout);
        let mut started = Vec::new();
        for action in &self.record.actions {
            let peer = &mut *self.peer;
            let mut applying = Applying {
                home: self.home,
                generation: self.record.generation,
                system: self.system,
                deadline,
                windows: &self.expectations.windows,
                tick: &mut || peer.tick(),
            };
            started.extend(applying.apply(action)?);
        }
        let is_observable = self.system.manager() == Manager::Running;
        let probes: Vec<_> = self.expectations.probes.iter().map(|(app, probe)| (app, probe)).collect();
        if !is_observable && !probes.is_empty() {
            self.peer.send(&Response::Note("no systemd runs here: 'health' was not asked".into()));
        }
        if started.is_empty() && (probes.is_empty() || !is_observable) {
            return Ok(());
        }
        self.lock.set_phase(Phase::Settling);
        self.peer.send(&Response::Progress(Phase::Settling));
        let (peer, mut watch) = (&mut *self.peer, Watch::new(started));
        let tick = &mut || peer.tick();
        watch.settle(self.system, deadline, tick).map_err(Why::Units)?;
        if is_observable && !probes.is_empty() {
            health::wait(&probes, &mut watch, self.system, deadline, tick)?;
            watch.settle(self.system, deadline, tick).map_err(Why::Units)?;
        }
        Ok(())
    }

    /// Wait for the helper to say that all hosts are healthy; without an answer the deployment is not kept.
    fn await_verdict(&mut self, verdict: Verdict) -> Result<(), Why> {
        if verdict == Verdict::Host {
            return Ok(());
        }
        self.enter(Phase::AwaitingVerdict);
        self.peer.send(&Response::Healthy);
        match self.peer.receive() {
            Incoming::Request(Request::Keep) => Ok(()),
            Incoming::Request(_) => Err(Why::Text("not kept, because another host failed".into())),
            Incoming::Silence | Incoming::End | Incoming::Broken(_) => {
                Err(Why::Text("the connection was lost before the verdict".into()))
            }
        }
    }

    /// Everything that was changed is on the disk, and then the verdict is.
    fn make_durable(&mut self, journal: &mut Journal) -> Result<(), HostError> {
        for action in &self.record.actions {
            match action {
                Action::Place(placement) => {
                    if let Some(place) = Place::existing(self.home, &placement.path)? {
                        place.sync()?;
                    }
                }
                // systemd makes links in several directories: those of all units that are named in [Install].
                Action::Enable(_) | Action::Disable(_) => {
                    let etc = self.home.root().join("etc");
                    if etc.exists() {
                        sync_file_system(&etc)?;
                    }
                }
                _ => {}
            }
        }
        sync_file_system(self.home.state())?;
        journal.keep()
    }

    /// From here on the deployment is good: what is left is done again by the next agent if it fails here.
    ///
    /// The helper is told as soon as everything agrees; it need not wait for what is only cleaned up.
    fn keep(mut self, journal: Journal, store: &mut Store) -> End {
        let also_restarted = self.also_restarted();
        self.enter(Phase::Finishing);
        let finished = finish::finish(self.home, &self.record, store);
        if let Err(error) = &finished {
            self.peer.send(&Response::Note(format!("deployed, but not tidied up: {error}")));
        }
        tell(self.peer, Outcome::Done { also_restarted });
        // Nobody listens any more. If it fails, the journal is there still: the next agent does it, or says why it can't.
        if finished.and_then(|()| finish::rest(self.home, &self.record, store, journal)).is_ok() {
            self.lock.leave();
        }
        End::Told
    }

    fn also_restarted(&mut self) -> Vec<UnitName> {
        let others = self.system.take_other_jobs();
        others.into_iter().filter(|unit| self.record.running.contains(unit)).collect()
    }

    fn roll_back(mut self, why: Why, journal: Journal) -> Result<Outcome, HostError> {
        self.enter(Phase::RollingBack);
        let peer = &mut *self.peer;
        let mut errors = undo(self.home, &self.record, self.system, LIMIT, &mut || peer.tick());
        // What failed units have written takes time to collect: the outage ends first.
        let (why, details) = why.explain(self.system);
        let attempt =
            finish::attempt_of(&self.record, AttemptResult::RolledBack { why: why.clone(), errors: errors.clone() });
        let ended = attempts::record(self.home, &attempt)
            .and_then(|()| finish::tidy(self.home))
            .and_then(|()| sync_outside(self.home))
            .and_then(|()| sync_file_system(self.home.state()));
        // With something left to undo, the journal stays for the next agent to try again.
        match ended {
            Ok(()) if errors.is_empty() => match journal.close() {
                Ok(()) => self.lock.leave(),
                Err(error) => errors.push(error.to_string()),
            },
            Ok(()) => {}
            Err(error) => errors.push(error.to_string()),
        }
        Ok(Outcome::RolledBack(Failure { why, details, rollback_errors: errors }))
    }
}

/// Make what was put back outside of our directory durable.
pub fn sync_outside(home: &Home) -> Result<(), HostError> {
    let etc = home.root().join("etc");
    if etc.exists() { sync_file_system(&etc) } else { Ok(()) }
}
