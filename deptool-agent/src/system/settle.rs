//! Watching units after their jobs until each is known to be good, or the first has failed.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Active, JobKind, JobResult, System, SystemError, UnitDetail,
    verdict::{Started, Verdict, judge},
};
use crate::shared::name::UnitName;

/// `tick` is called at least this often.
const TICK: Duration = Duration::from_millis(500);
/// Of a unit that is restarted over and over, the last runs are of interest.
const INVOCATIONS: usize = 4;

/// A unit that did not come up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub unit: UnitName,
    /// "exited with status 1 after 0.2 s", "timed out starting", "restarted 3 times", "not found" …
    pub why: String,
    /// Its runs since its job, oldest first: their journal tells more. Reading it takes time: first undo the failure.
    pub invocations: Vec<String>,
}

/// One unit under watch.
struct Watched {
    unit: UnitName,
    started: Started,
    invocations: Vec<String>,
    /// Started by this socket or path, at that time: what it did earlier is not our business.
    triggered: Option<(UnitName, Duration)>,
}

/// When starting and settling must be over.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    /// On the clock of [`System::clock`].
    end: Duration,
    total: Duration,
}

impl Deadline {
    /// So long from now.
    pub fn after(system: &dyn System, total: Duration) -> Deadline {
        Deadline { end: system.clock() + total, total }
    }

    /// What is left of it.
    pub fn left(&self, system: &dyn System) -> Duration {
        self.end.saturating_sub(system.clock())
    }
}

/// Units that were started, and what was seen of them since.
pub struct Watch {
    watched: Vec<Watched>,
    is_first: bool,
}

impl Watch {
    /// Services of the sockets and paths among `units` are watched as well, if they have been started. Timers' are not.
    pub fn new(units: Vec<(UnitName, Started)>) -> Watch {
        let new = |(unit, started)| Watched { unit, started, invocations: Vec::new(), triggered: None };
        Watch { watched: units.into_iter().map(new).collect(), is_first: true }
    }

    /// Watch until all are good at the same time.
    ///
    /// Returns with all that have failed as soon as one has, or with all that are still on their way at the deadline.
    pub fn settle(
        &mut self,
        system: &mut dyn System,
        deadline: Deadline,
        tick: &mut dyn FnMut(),
    ) -> Result<(), Vec<Failure>> {
        while let Some(next) = self.look(system, Some(deadline))? {
            tick();
            let limit = next.min(deadline.left(system)).min(TICK);
            if let Err(error) = wait(system, limit) {
                return Err(self.watched.iter().take(1).map(|one| one.failure(error.0.clone())).collect());
            }
        }
        Ok(())
    }

    /// Look at every unit once. `None` if all are good, else when to look again. With a deadline that has passed, what
    /// is not good has failed.
    pub fn look(
        &mut self,
        system: &mut dyn System,
        deadline: Option<Deadline>,
    ) -> Result<Option<Duration>, Vec<Failure>> {
        let looks = look(system, &mut self.watched, self.is_first);
        self.is_first = false;
        let failures: Vec<Failure> =
            looks.iter().filter_map(|(at, _, verdict)| failure(&self.watched[*at], verdict)).collect();
        if !failures.is_empty() {
            return Err(failures);
        }
        let left = |verdict: &Verdict| if let Verdict::Settling(left) = verdict { Some(*left) } else { None };
        let next = looks.iter().filter_map(|(_, _, verdict)| left(verdict)).min();
        match deadline {
            Some(deadline) if next.is_some() && deadline.left(system).is_zero() => {
                let late = looks.iter().filter(|(_, _, verdict)| left(verdict).is_some());
                Err(late.map(|(at, sub, _)| too_late(&self.watched[*at], sub, deadline.total)).collect())
            }
            _ => Ok(next),
        }
    }
}

/// Look at every unit once: its place in the list, its SubState, what to make of it.
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
        if let (true, Ok(now)) = (first && one.triggered.is_none(), &now) {
            let services = triggered(system, one, now);
            let known = watched.iter().map(|one| one.unit.clone()).collect::<BTreeSet<_>>();
            watched.extend(services.into_iter().filter(|new| !known.contains(&new.unit)));
        }
        at += 1;
    }
    looks
}

/// Once more if it fails: systemd may have been re-executed in between.
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
        // Its run may have begun already, and is told from earlier ones by time.
        let before = UnitDetail { invocation: String::new(), ..detail(system, unit).ok()? };
        let ended = by.started.ended;
        let started = Started { kind: JobKind::Start, job: JobResult::Done, ended, before, window: None };
        let triggered = Some((by.unit.clone(), since));
        Some(Watched { unit: unit.clone(), started, invocations: Vec::new(), triggered })
    };
    now.triggers.iter().filter_map(watch).collect()
}

impl Watched {
    fn judge(&mut self, now: &UnitDetail, clock: Duration) -> Verdict {
        let is_new = now.invocation != self.started.before.invocation || self.triggered.is_some();
        if is_new && !now.invocation.is_empty() && self.invocations.last() != Some(&now.invocation) {
            self.invocations.push(now.invocation.clone());
            let surplus = self.invocations.len().saturating_sub(INVOCATIONS);
            self.invocations.drain(..surplus);
        }
        let Some((_, since)) = &self.triggered else { return judge(&self.started, now, clock) };
        let last_failure = now.last_failure.clone().filter(|run| run.changed_at >= *since);
        // Nobody may ever connect, so inactive is fine, unless it failed in between.
        let idle = last_failure.is_none() && now.active == Active::Inactive;
        match idle || now.changed_at < *since {
            // A path unit asks for its service while it is started itself.
            true if now.has_job => Verdict::Settling(TICK),
            true => Verdict::Good,
            false => judge(&self.started, &UnitDetail { last_failure, ..now.clone() }, clock),
        }
    }

    fn failure(&self, why: String) -> Failure {
        let why = match &self.triggered {
            Some((by, _)) => format!("{why} (started by '{by}')"),
            None => why,
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
        let results = fake.run_jobs(&jobs, Duration::from_secs(30), &mut || ()).unwrap();
        let ended = fake.clock();
        let started = results.into_iter().zip(before).map(|(job, before)| Started {
            kind: JobKind::Restart,
            job,
            ended,
            before,
            window: None,
        });
        let deadline = Deadline::after(fake, LIMIT);
        Watch::new(names.into_iter().zip(started).collect()).settle(fake, deadline, &mut || ())
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
            fake.run_jobs(&[(unit(service), JobKind::Start)], LIMIT, &mut || ()).unwrap();
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
        let result = Watch::new(vec![(unit("a.service"), started)]).settle(&mut fake, deadline, &mut || ticks += 1);
        assert_eq!(whys(result), ["a.service: has not settled within 90 s (running)"]);
        assert!(ticks >= 90);
    }
}
