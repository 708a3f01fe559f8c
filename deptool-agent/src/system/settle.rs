//! Watches units after their jobs, until all of them are good or one has failed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Active, JobKind, JobResult, System, SystemError, UnitDetail, some_of,
    touched::{self, Change, Ours, Relation, States, Touched},
    verdict::{Started, Verdict, judge},
};
use crate::shared::{
    desired::template_of,
    name::{UnitName, UnitType},
    ordered::Ordered as _,
};

/// `tick` is called at least this often.
const TICK: Duration = Duration::from_millis(500);
/// The most units that are examined to find out why others have failed.
const CAUSES: usize = 100;
/// How many of the last invocations of a unit are kept.
const INVOCATIONS: usize = 4;

/// A unit that did not come up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub unit: UnitName,
    /// "exited with status 1 after 0.2 s", "timed out starting", "restarted 3 times", "not found" …
    pub why: String,
    /// Its invocations since its job, oldest first. Their journal has details, but reading it takes time: roll back first.
    pub invocations: Vec<String>,
}

/// A unit that is watched.
struct Watched {
    unit: UnitName,
    started: Started,
    invocations: Vec<String>,
    role: Role,
}

/// Why a unit is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    /// The deployment had a job for it.
    Own,
    /// It returns to its state before the first deployment. A failure is only reported.
    GivenBack,
    /// This socket or path starts it, and was started at that time. Earlier runs do not count.
    Triggered { by: UnitName, since: Duration },
    /// It ran, and systemd stopped or restarted it together with this unit.
    Along { by: UnitName },
    /// It did not run, and systemd started it together with this unit.
    PulledIn { by: UnitName },
}

/// Everything that a deployment does to units.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    /// The states of all units before the deployment.
    pub before: States,
    pub ours: Ours,
    /// Those of `ours` that return to their state before the first deployment.
    pub given_back: BTreeSet<UnitName>,
    /// The units and templates whose unit files are deployed.
    pub made: BTreeSet<UnitName>,
}

impl Transaction {
    fn makes(&self, unit: &UnitName) -> bool {
        let template = template_of(unit).and_then(|name| UnitName::try_from(name).ok());
        self.made.contains(unit) || template.is_some_and(|template| self.made.contains(&template))
    }
}

/// The time at which starting and settling must be over.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    /// On the clock of [`System::clock`].
    end: Duration,
    total: Duration,
}

impl Deadline {
    /// The deadline that is `total` from now.
    pub fn after(system: &dyn System, total: Duration) -> Deadline {
        Deadline { end: system.clock() + total, total }
    }

    /// The time until the deadline.
    pub fn left(&self, system: &dyn System) -> Duration {
        self.end.saturating_sub(system.clock())
    }
}

/// The units that are watched, and what was observed so far.
pub struct Watch {
    transaction: Transaction,
    watched: Vec<Watched>,
    /// The watched units that were not good at the last look.
    settling: Vec<usize>,
    is_first: bool,
    /// Units that had jobs that the deployment did not ask for.
    others: BTreeSet<UnitName>,
    /// Units that systemd stopped as a consequence of the deployment.
    stopped: BTreeSet<UnitName>,
    /// Problems that are not failures of the deployment, by unit.
    complaints: BTreeMap<UnitName, String>,
}

impl Watch {
    /// Watch these units, the services that sockets and paths among them start, and all units that systemd starts, restarts or
    /// stops together with them. Services of timers are not watched.
    pub fn new(units: Vec<(UnitName, Started)>, transaction: Transaction) -> Watch {
        let new = |(unit, started): (UnitName, Started)| {
            let role = if transaction.given_back.contains(&unit) { Role::GivenBack } else { Role::Own };
            Watched { unit, started, invocations: Vec::new(), role }
        };
        let watched = units.into_iter().map(new).collect();
        let (others, stopped, complaints) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        Watch { transaction, watched, settling: Vec::new(), is_first: true, others, stopped, complaints }
    }

    /// Also watch these units, from their new jobs on.
    pub fn add(&mut self, units: Vec<(UnitName, Started)>) {
        self.watched.retain(|one| units.iter().all(|(unit, _)| *unit != one.unit));
        let new = |(unit, started)| Watched { unit, started, invocations: Vec::new(), role: Role::Own };
        self.watched.extend(units.into_iter().map(new));
    }

    /// The units that are not good yet, for the progress display.
    fn awaited(&self) -> String {
        some_of(&self.settling.iter().map(|at| &self.watched[*at].unit).collect::<Vec<_>>())
    }

    /// The units that are not in the plan and that systemd restarted.
    pub fn also_restarted(&self) -> Vec<UnitName> {
        let along = self.watched.iter().filter(|one| matches!(one.role, Role::Along { .. }));
        along.filter(|one| !one.invocations.is_empty()).map(|one| one.unit.clone()).collect()
    }

    /// The units that are not in the plan and that systemd stopped.
    pub fn also_stopped(&self) -> Vec<UnitName> {
        self.stopped.iter().cloned().collect()
    }

    /// Problems that are not failures of the deployment, in sentences.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.values().cloned().collect()
    }

    /// Watch until all units are good at the same time.
    ///
    /// As soon as any unit has failed, this returns all failures. At the deadline it returns all units that are not good yet.
    pub fn settle(
        &mut self,
        system: &mut dyn System,
        deadline: Deadline,
        tick: &mut dyn FnMut(&str),
    ) -> Result<(), Vec<Failure>> {
        while let Some(next) = self.look(system, Some(deadline))? {
            tick(&self.awaited());
            let limit = next.min(deadline.left(system)).min(TICK);
            if let Err(error) = wait(system, limit) {
                return Err(self.watched.iter().take(1).map(|one| one.failure(error.0.clone())).collect());
            }
        }
        Ok(())
    }

    /// Look at every unit once. Returns the time after which to look again, or `None` if all are good. After the deadline,
    /// units that are not good yet have failed.
    pub fn look(
        &mut self,
        system: &mut dyn System,
        deadline: Option<Deadline>,
    ) -> Result<Option<Duration>, Vec<Failure>> {
        if let Err(error) = self.take_in_touched(system) {
            let ours = &self.transaction.ours;
            let unit = ours.jobs.iter().chain(&ours.stops).next();
            let failure = |unit: &UnitName| Failure { unit: unit.clone(), why: error.0, invocations: Vec::new() };
            return Err(unit.map(failure).into_iter().collect());
        }
        let looks = look(system, &mut self.watched, self.is_first);
        self.is_first = false;
        let mut failures: Vec<Failure> = Vec::new();
        for (at, _, verdict) in &looks {
            let Some(failure) = failure(&self.watched[*at], verdict) else { continue };
            match self.watched[*at].role {
                Role::GivenBack => {
                    let complaint = format!("'{}' was released but does not run: {}", failure.unit, failure.why);
                    self.complaints.insert(failure.unit, complaint);
                }
                Role::PulledIn { .. } if !self.transaction.makes(&failure.unit) => {
                    let complaint = format!("'{}' {}", failure.unit, failure.why);
                    self.complaints.insert(failure.unit, complaint);
                }
                Role::Own | Role::Triggered { .. } | Role::Along { .. } | Role::PulledIn { .. } => {
                    failures.push(failure)
                }
            }
        }
        if !failures.is_empty() {
            let mut causes = self.causes(system, &failures);
            causes.extend(failures);
            return Err(causes);
        }
        let left = |verdict: &Verdict| if let Verdict::Settling(left) = verdict { Some(*left) } else { None };
        let next = looks.iter().filter_map(|(_, _, verdict)| left(verdict)).min();
        let is_settling = |look: &&(usize, String, Verdict)| left(&look.2).is_some();
        self.settling = looks.iter().filter(is_settling).map(|(at, ..)| *at).collect();
        match deadline {
            Some(deadline) if next.is_some() && deadline.left(system).is_zero() => {
                let late = looks.iter().filter(|(_, _, verdict)| left(verdict).is_some());
                Err(late.map(|(at, sub, _)| too_late(&self.watched[*at], sub, deadline.total)).collect())
            }
            _ => Ok(next),
        }
    }

    /// Also watch the units that systemd started, restarted or stopped together with those of the deployment.
    fn take_in_touched(&mut self, system: &mut dyn System) -> Result<(), SystemError> {
        let others = system.take_other_jobs();
        let is_quiet = others.is_empty() && !self.is_first;
        self.others.extend(others);
        if is_quiet {
            return Ok(());
        }
        let now = system.snapshot_of_runs()?;
        let Transaction { before, ours, .. } = &self.transaction;
        for touched in touched::find(system, ours, before, &now)? {
            let Touched { unit, change, relation, by } = touched;
            if self.watched.iter().any(|one| one.unit == unit) {
                continue;
            }
            // Units that sockets, paths and timers start are not waited for.
            let is_trigger = matches!(UnitType::of(&by), UnitType::Socket | UnitType::Path | UnitType::Timer);
            let detail = detail(system, &unit)?;
            let ended_well = matches!(detail.result.as_str(), "" | "success") && !self.others.contains(&unit);
            let (kind, role) = match (change, relation) {
                (Change::Stopped, Relation::Consequence) => {
                    self.stopped.insert(unit);
                    continue;
                }
                (Change::Stopped, Relation::Along) if ended_well => continue,
                (Change::Restarted | Change::Stopped, _) => (JobKind::Restart, Role::Along { by }),
                (Change::Started | Change::Failed, _) if is_trigger => continue,
                (Change::Started | Change::Failed, _) => (JobKind::Start, Role::PulledIn { by }),
            };
            let invocation = self.transaction.before.invocation(&unit).to_owned();
            let before = UnitDetail { invocation, ..UnitDetail::inactive() };
            let started = Started { kind, job: JobResult::Done, ended: system.clock(), before, window: None };
            self.watched.push(Watched { unit, started, invocations: Vec::new(), role });
        }
        Ok(())
    }

    /// The failed units that the units in `failures` require.
    fn causes(&self, system: &mut dyn System, failures: &[Failure]) -> Vec<Failure> {
        let mut seen = failures.iter().map(|failure| failure.unit.clone()).into_set();
        let mut left: Vec<UnitName> = seen.iter().cloned().collect();
        let mut causes = Vec::new();
        while let Some(unit) = left.pop() {
            let Ok(now) = detail(system, &unit) else { continue };
            if failures.iter().all(|failure| failure.unit != unit)
                && now.active == Active::Failed
                && !self.transaction.before.had_failed(&unit)
            {
                let before = UnitDetail::inactive();
                let (kind, job, ended) = (JobKind::Start, JobResult::Done, system.clock());
                let started = Started { kind, job, ended, before, window: None };
                if let Verdict::Failed(why) = judge(&started, &now, ended) {
                    causes.push(Failure { unit: unit.clone(), why, invocations: vec![now.invocation.clone()] });
                }
            }
            let is_up = now.active.is_up();
            left.extend(
                now.stopped_by.into_iter().filter(|other| !is_up && seen.len() < CAUSES && seen.insert(other.clone())),
            );
        }
        causes
    }
}

/// Look at every unit once. Returns its index in the list, its SubState and its verdict.
fn look(system: &mut dyn System, watched: &mut Vec<Watched>, first: bool) -> Vec<(usize, String, Verdict)> {
    let mut looks = Vec::with_capacity(watched.len());
    let mut at = 0;
    while at < watched.len() {
        let now = detail(system, &watched[at].unit);
        let clock = system.clock();
        let one = &mut watched[at];
        let (sub, verdict) = match &now {
            Ok(now) => (now.sub.clone(), one.judge(now, clock)),
            Err(error) => (String::new(), Verdict::Failed(error.0.clone())),
        };
        looks.push((at, sub, verdict));
        if let (true, Ok(now)) = (first && one.role == Role::Own, &now) {
            let services = triggered(system, one, now);
            let known = watched.iter().map(|one| one.unit.clone()).into_set();
            watched.extend(services.into_iter().filter(|new| !known.contains(&new.unit)));
        }
        at += 1;
    }
    looks
}

/// Get the properties of a unit. Try twice, because systemd may be re-executed in between.
fn detail(system: &mut dyn System, unit: &UnitName) -> Result<UnitDetail, SystemError> {
    system.detail(unit).or_else(|_| system.detail(unit))
}

fn wait(system: &mut dyn System, limit: Duration) -> Result<(), SystemError> {
    system.wait_for_change(limit).or_else(|_| system.wait_for_change(limit))
}

/// The services that this socket or path unit starts.
fn triggered(system: &mut dyn System, by: &Watched, now: &UnitDetail) -> Vec<Watched> {
    let is_timer = by.unit.as_str().ends_with(".timer");
    let Some(since) = now.active_since.filter(|_| !is_timer) else { return Vec::new() };
    let watch = |unit: &UnitName| {
        // The run may have begun before. It is told from earlier runs by its time.
        let before = UnitDetail { invocation: String::new(), ..detail(system, unit).ok()? };
        let ended = by.started.ended;
        let started = Started { kind: JobKind::Start, job: JobResult::Done, ended, before, window: None };
        let role = Role::Triggered { by: by.unit.clone(), since };
        Some(Watched { unit: unit.clone(), started, invocations: Vec::new(), role })
    };
    now.triggers.iter().filter_map(watch).collect()
}

impl Watched {
    fn judge(&mut self, now: &UnitDetail, clock: Duration) -> Verdict {
        let is_triggered = matches!(self.role, Role::Triggered { .. });
        let is_new = now.invocation != self.started.before.invocation || is_triggered;
        if is_new && !now.invocation.is_empty() && self.invocations.last() != Some(&now.invocation) {
            self.invocations.push(now.invocation.clone());
            let surplus = self.invocations.len().saturating_sub(INVOCATIONS);
            self.invocations.drain(..surplus);
        }
        match &self.role {
            Role::Triggered { since, .. } => self.judge_triggered(*since, now, clock),
            // A oneshot that systemd started along need not finish.
            Role::PulledIn { .. } if now.active == Active::Activating && now.service_type == "oneshot" => Verdict::Good,
            Role::Own | Role::GivenBack | Role::Along { .. } | Role::PulledIn { .. } => {
                judge(&self.started, now, clock)
            }
        }
    }

    fn judge_triggered(&self, since: Duration, now: &UnitDetail, clock: Duration) -> Verdict {
        let last_failure = now.last_failure.clone().filter(|run| run.changed_at >= since);
        // There may never be a connection, so the service may be inactive, unless it failed in between.
        let idle = last_failure.is_none() && now.active == Active::Inactive;
        match idle || now.changed_at < since {
            // A path unit queues its service while it is being started.
            true if now.has_job => Verdict::Settling(TICK),
            true => Verdict::Good,
            false => judge(&self.started, &UnitDetail { last_failure, ..now.clone() }, clock),
        }
    }

    fn failure(&self, why: String) -> Failure {
        let why = match &self.role {
            Role::Own | Role::GivenBack => why,
            Role::Triggered { by, .. } | Role::PulledIn { by } => format!("{why} (started by '{by}')"),
            Role::Along { by } => format!("{why} (stopped or restarted along with '{by}')"),
        };
        Failure { unit: self.unit.clone(), why, invocations: self.invocations.clone() }
    }
}

fn failure(watched: &Watched, verdict: &Verdict) -> Option<Failure> {
    match verdict {
        Verdict::Failed(why) => Some(watched.failure(why.clone())),
        Verdict::Good | Verdict::Settling(_) => None,
    }
}

fn too_late(watched: &Watched, sub: &str, limit: Duration) -> Failure {
    watched.failure(format!("has not settled within {} s ({sub})", limit.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fake::{Behaviour, Fake, unit};

    const LIMIT: Duration = Duration::from_secs(90);

    /// Restart units in one batch and settle.
    fn deploy(fake: &mut Fake, names: &[&str]) -> Result<(), Vec<Failure>> {
        let names: Vec<UnitName> = names.iter().map(|name| unit(name)).collect();
        fake.reset_failed(&names).unwrap();
        let before: Vec<UnitDetail> = names.iter().map(|name| fake.detail(name).unwrap()).collect();
        let jobs: Vec<_> = names.iter().map(|name| (name.clone(), JobKind::Restart)).collect();
        let results = fake.run_jobs(&jobs, Duration::from_secs(30), &mut |_| ()).unwrap();
        let ended = fake.clock();
        let started = results.into_iter().zip(before).map(|(job, before)| Started {
            kind: JobKind::Restart,
            job,
            ended,
            before,
            window: None,
        });
        let deadline = Deadline::after(fake, LIMIT);
        Watch::new(names.into_iter().zip(started).collect(), Transaction::default()).settle(fake, deadline, &mut |_| ())
    }

    fn whys(result: Result<(), Vec<Failure>>) -> Vec<String> {
        result.unwrap_err().into_iter().map(|failure| format!("{}: {}", failure.unit, failure.why)).collect()
    }

    #[test]
    fn a_window_is_waited_for_and_no_longer() {
        let mut fake = Fake::default();
        let began = fake.clock();
        deploy(&mut fake, &["a.service", "b.service"]).unwrap();
        assert_eq!(fake.clock() - began, super::super::verdict::WINDOW);
        fake.behave("o.service", Behaviour::Ends);
        let began = fake.clock();
        deploy(&mut fake, &["o.service"]).unwrap();
        assert_eq!(fake.clock(), began);
    }

    #[test]
    fn a_service_that_dies_later_fails_even_if_it_was_good_before() {
        let mut fake = Fake::default();
        fake.behave("ready.service", Behaviour::DiesAfterLooks(2)).detail.service_type = "notify".into();
        let failures = deploy(&mut fake, &["ready.service", "slow.service"]);
        let [failure] = &failures.clone().unwrap_err()[..] else { panic!("{failures:?}") };
        assert_eq!(failure.invocations.len(), 1);
        assert_eq!(whys(failures), ["ready.service: exited with status 1 after 0.1 s"]);
    }

    #[test]
    fn the_first_failure_ends_it_and_all_that_failed_by_then_are_named() {
        let mut fake = Fake::default();
        fake.behave("a.service", Behaviour::FailsAtStart);
        fake.behave("b.service", Behaviour::Missing);
        let began = fake.clock();
        let expected = ["a.service: exited with status 1 after 0.1 s", "b.service: not found"];
        assert_eq!(whys(deploy(&mut fake, &["a.service", "b.service", "c.service"])), expected);
        assert_eq!(fake.clock(), began);
        fake.behave("c.service", Behaviour::Loops);
        assert_eq!(whys(deploy(&mut fake, &["c.service"])), ["c.service: restarted once"]);
        fake.behave("d.service", Behaviour::NeverReady);
        assert_eq!(whys(deploy(&mut fake, &["d.service"])), ["d.service: was not restarted in time (start)"]);
    }

    #[test]
    fn services_of_sockets_are_watched_and_timers_services_are_not() {
        let mut fake = Fake::default();
        for (by, service) in [("s.socket", "s.service"), ("t.timer", "t.service")] {
            let detail = &mut fake.behave(by, Behaviour::Works).detail;
            (detail.service_type, detail.triggers) = (String::new(), vec![unit(service)]);
        }
        // As if a connection had been waiting.
        for service in ["s.service", "t.service"] {
            fake.behave(service, Behaviour::DiesAfterLooks(2)).detail.is_triggered = true;
            fake.run_jobs(&[(unit(service), JobKind::Start)], LIMIT, &mut |_| ()).unwrap();
        }
        let expected = ["s.service: exited with status 1 after 0.1 s (started by 's.socket')"];
        assert_eq!(whys(deploy(&mut fake, &["s.socket", "t.timer"])), expected);
        // Long ago it failed; a new start of the socket has nothing to do with it.
        let failed = fake.detail(&unit("s.service")).unwrap();
        fake.wait_for_change(LIMIT).unwrap();
        assert_eq!(failed.active, Active::Failed);
        deploy(&mut fake, &["s.socket"]).unwrap();
    }

    #[test]
    fn what_never_arrives_is_given_up() {
        let mut fake = Fake::default();
        fake.running("a.service").detail.active = Active::Deactivating;
        let before = UnitDetail::inactive();
        let started = Started { kind: JobKind::Start, job: JobResult::Done, ended: fake.clock(), before, window: None };
        let mut ticks = 0;
        let deadline = Deadline::after(&fake, LIMIT);
        let result = Watch::new(vec![(unit("a.service"), started)], Transaction::default()).settle(
            &mut fake,
            deadline,
            &mut |_| ticks += 1,
        );
        assert_eq!(whys(result), ["a.service: has not settled within 90 s (running)"]);
        assert!(ticks >= 90);
    }
}
