//! Starts, stops, restarts and reloads units: queues jobs, and waits until they are done.

use std::time::{Duration, Instant};

use super::{
    client::{Client, failed, is_loss, take_reply},
    run::Run,
    unit::clock,
};
use crate::{
    shared::name::UnitName,
    system::{
        Active, JobKind, JobResult, SystemError, UnitDetail,
        dbus::{ANSWER, Call, DbusError, Value, manager_call},
        some_of,
    },
};

const WHAT: &str = "start or stop units";
/// How often a wait is interrupted to call `go_on`.
const TICK: Duration = Duration::from_millis(500);

impl Client {
    /// Queue jobs. A job counts as done as soon as it is queued.
    pub fn queue_jobs(&mut self, jobs: &[(UnitName, JobKind)]) -> Result<Vec<JobResult>, SystemError> {
        let arguments = job_arguments(jobs);
        let calls = job_calls(jobs, &arguments);
        let replies = self.calls(&calls, ANSWER).map_err(failed(WHAT))?;
        let queued = |reply: Result<_, DbusError>| match reply {
            Ok(_) => JobResult::Done,
            Err(error) => JobResult::Failed(error.to_string()),
        };
        Ok(replies.into_iter().map(queued).collect())
    }

    /// Queue jobs and wait for them, even if the connection is lost meanwhile.
    pub fn run_jobs(
        &mut self,
        jobs: &[(UnitName, JobKind)],
        limit: Duration,
        go_on: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Vec<JobResult>, SystemError> {
        let (began, until) = (clock(), Instant::now() + limit);
        match self.jobs(jobs, limit, go_on) {
            Err(error) if is_loss(&error) => self.jobs_after_loss(jobs, (began, until), go_on),
            result => result.map_err(failed(WHAT)),
        }
    }

    /// Send calls that systemd answers with a job each, and wait for the jobs.
    fn jobs(
        &mut self,
        jobs: &[(UnitName, JobKind)],
        limit: Duration,
        go_on: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Vec<JobResult>, DbusError> {
        let arguments = job_arguments(jobs);
        let calls = job_calls(jobs, &arguments);
        self.with(|this| {
            let until = Instant::now() + limit;
            let mut run = Run::default();
            this.connection()?.send_all(&calls, until)?.into_iter().for_each(|serial| run.asked(serial));
            let mut ticked = Instant::now();
            while !run.is_over() && Instant::now() < until {
                if let Some((message, job)) = this.receive(until.min(Instant::now() + TICK))? {
                    job.into_iter().for_each(|job| run.signal(job));
                    take_reply(&mut run, &message)?;
                }
                for at in run.unfinished() {
                    // systemd 257 reports the time-out of a service of Type=notify-reload, and goes on waiting for it.
                    if jobs[at].1 == JobKind::Reload && this.memory.reload_timed_out(&jobs[at].0) {
                        run.give_up(at, JobResult::Failed("timeout".into()));
                    }
                }
                if ticked.elapsed() >= TICK {
                    ticked = Instant::now();
                    let left: Vec<&UnitName> = run.unfinished().into_iter().map(|at| &jobs[at].0).collect();
                    if !go_on(&some_of(&left)) {
                        break;
                    }
                }
            }
            let (results, others) = run.end();
            let others: Vec<UnitName> = others.iter().filter_map(|name| this.unit(name)).collect();
            this.other_jobs.extend(others);
            Ok(results)
        })
    }

    /// Wait for jobs after the connection was lost. systemd keeps its jobs when it is re-executed, but their signals are lost,
    /// so the units are polled. Jobs that systemd never received are sent again.
    fn jobs_after_loss(
        &mut self,
        jobs: &[(UnitName, JobKind)],
        (began, until): (Duration, Instant),
        go_on: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Vec<JobResult>, SystemError> {
        let mut results: Vec<Option<JobResult>> = jobs.iter().map(|_| None).collect();
        loop {
            let mut again = Vec::new();
            for (at, (unit, kind)) in jobs.iter().enumerate() {
                if results[at].is_some() {
                    continue;
                }
                let now = self.detail(unit)?;
                match (now.has_job, was_done(*kind, &now, began)) {
                    (true, _) => {}
                    (false, true) => results[at] = Some(JobResult::Done),
                    (false, false) => again.push(at),
                }
            }
            if !again.is_empty() {
                let missing: Vec<_> = again.iter().map(|at| jobs[*at].clone()).collect();
                let left = until.saturating_duration_since(Instant::now());
                let ended = self.jobs(&missing, left, go_on).map_err(failed(WHAT))?;
                again.into_iter().zip(ended).for_each(|(at, result)| results[at] = Some(result));
            }
            let is_over = results.iter().all(Option::is_some);
            if is_over || Instant::now() >= until || !go_on("") {
                return Ok(results.into_iter().map(|result| result.unwrap_or(JobResult::TimedOut)).collect());
            }
            self.wait_for_change(TICK)?;
        }
    }
}

/// The call that queues a job.
fn member(kind: &JobKind) -> &'static str {
    match kind {
        JobKind::Start => "StartUnit",
        JobKind::Restart => "RestartUnit",
        JobKind::Reload => "ReloadUnit",
        JobKind::Stop => "StopUnit",
    }
}

/// The arguments of the calls that queue jobs: the unit, and what becomes of a job that it has already.
fn job_arguments(jobs: &[(UnitName, JobKind)]) -> Vec<[Value; 2]> {
    jobs.iter().map(|(unit, _)| [Value::str(unit.name()), Value::str("replace")]).collect()
}

fn job_calls<'a>(jobs: &[(UnitName, JobKind)], arguments: &'a [[Value; 2]]) -> Vec<Call<'a>> {
    jobs.iter().zip(arguments).map(|((_, kind), arguments)| manager_call(member(kind), arguments)).collect()
}

/// Whether the state of a unit without a job shows that its job, which was sent at `began`, is done.
fn was_done(kind: JobKind, now: &UnitDetail, began: Duration) -> bool {
    match kind {
        JobKind::Start => now.active != Active::Inactive || now.changed_at >= began,
        JobKind::Stop => !now.active.is_up(),
        JobKind::Restart => now.changed_at >= began,
        JobKind::Reload => true,
    }
}
