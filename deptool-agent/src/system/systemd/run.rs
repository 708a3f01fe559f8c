//! A batch of systemd jobs that are under way: which call made which job, and how each job ended.
//!
//! The signal `JobRemoved(u id, o job, s unit, s result)` tells the end of a job. It can come before the reply that tells the
//! path of the job. systemd can also merge two jobs, and answer two calls with one path.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{JobResult, dbus::Value};

/// The arguments of the signals `JobNew(u id, o job, s unit)` and `JobRemoved(u id, o job, s unit, s result)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSignal {
    pub job: String,
    pub unit: String,
    /// The result, if the job has ended.
    pub result: Option<String>,
}

impl JobSignal {
    pub fn parse(arguments: &[Value]) -> Option<JobSignal> {
        let text = |at: usize| Some(arguments.get(at)?.text()?.to_owned());
        Some(JobSignal { job: text(1)?, unit: text(2)?, result: text(3) })
    }
}

#[derive(Debug)]
enum Progress {
    /// The call was sent. The reply will name this serial.
    Asked(u32),
    /// The job has this path.
    Queued(String),
    Ended(JobResult),
}

/// A batch of jobs.
#[derive(Debug, Default)]
pub struct Run {
    calls: Vec<Progress>,
    /// The last signal of each job by path, of this batch and of others.
    jobs: BTreeMap<String, JobSignal>,
    /// The paths of the jobs of this batch.
    ours: BTreeSet<String>,
}

impl Run {
    /// Note that a call was sent.
    pub fn asked(&mut self, serial: u32) {
        self.calls.push(Progress::Asked(serial));
    }

    /// The serials of the calls without a reply.
    pub fn awaited(&self) -> impl Iterator<Item = u32> {
        self.calls.iter().filter_map(|call| match call {
            Progress::Asked(serial) => Some(*serial),
            _ => None,
        })
    }

    /// Note the reply to a call: the path of the job, or the text of an error.
    pub fn replied(&mut self, serial: u32, answer: Result<String, String>) {
        let ended = match &answer {
            Ok(job) => {
                self.ours.insert(job.clone());
                self.jobs.get(job).and_then(|job| Some(job_result(job.result.as_deref()?)))
            }
            Err(text) => Some(JobResult::Failed(text.clone())),
        };
        let new = match (ended, answer) {
            (Some(result), _) => Progress::Ended(result),
            (None, Ok(job)) => Progress::Queued(job),
            (None, Err(text)) => Progress::Ended(JobResult::Failed(text)),
        };
        if let Some(call) = self.calls.iter_mut().find(|call| matches!(call, Progress::Asked(s) if *s == serial)) {
            *call = new;
        }
    }

    /// Note a signal, about a job of this batch or another.
    pub fn signal(&mut self, signal: JobSignal) {
        for call in &mut self.calls {
            if let (Progress::Queued(job), Some(result)) = (&call, &signal.result)
                && *job == signal.job
            {
                *call = Progress::Ended(job_result(result));
            }
        }
        self.jobs.insert(signal.job.clone(), signal);
    }

    /// Whether every call was answered.
    pub fn is_queued(&self) -> bool {
        self.awaited().next().is_none()
    }

    pub fn is_over(&self) -> bool {
        self.unfinished().is_empty()
    }

    /// The places of the calls whose jobs have not ended.
    pub fn unfinished(&self) -> Vec<usize> {
        let calls = self.calls.iter().enumerate();
        calls.filter(|(_, call)| !matches!(call, Progress::Ended(_))).map(|(at, _)| at).collect()
    }

    /// Do not wait for the job of this call.
    pub fn give_up(&mut self, at: usize, result: JobResult) {
        self.calls[at] = Progress::Ended(result);
    }

    /// The result of each call, and the units of the jobs that are not in this batch.
    pub fn end(mut self) -> (Vec<JobResult>, Vec<String>) {
        let result = |call| match call {
            Progress::Ended(result) => result,
            Progress::Asked(_) | Progress::Queued(_) => JobResult::TimedOut,
        };
        let results = self.calls.into_iter().map(result).collect();
        self.jobs.retain(|job, _| !self.ours.contains(job));
        (results, self.jobs.into_values().map(|job| job.unit).collect())
    }
}

fn job_result(text: &str) -> JobResult {
    match text {
        "done" => JobResult::Done,
        other => JobResult::Failed(crate::shared::text::printable(other.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removed(job: &str, unit: &str, result: &str) -> JobSignal {
        JobSignal { job: job.into(), unit: unit.into(), result: Some(result.into()) }
    }

    #[test]
    fn a_job_may_end_before_its_call_is_answered() {
        let mut run = Run::default();
        run.asked(1);
        run.asked(2);
        run.signal(removed("/job/7", "b.service", "failed"));
        run.signal(JobSignal { result: None, ..removed("/job/9", "other.service", "") });
        run.signal(JobSignal { result: None, ..removed("/job/6", "a.service", "") });
        run.replied(2, Ok("/job/7".into()));
        assert!(!run.is_over());
        run.replied(1, Ok("/job/6".into()));
        assert!(!run.is_over());
        run.signal(removed("/job/6", "a.service", "done"));
        assert!(run.is_over());
        let (results, others) = run.end();
        assert_eq!(results, [JobResult::Done, JobResult::Failed("failed".into())]);
        assert_eq!(others, ["other.service"]);
    }

    #[test]
    fn merged_and_refused_jobs_end_too() {
        let mut run = Run::default();
        (1..=4).for_each(|serial| run.asked(serial));
        run.replied(1, Ok("/job/1".into()));
        run.replied(2, Ok("/job/1".into()));
        run.replied(3, Err("Unit x.service not found".into()));
        run.signal(removed("/job/1", "a.service", "done"));
        assert_eq!(run.awaited().collect::<Vec<_>>(), [4]);
        let refused = JobResult::Failed("Unit x.service not found".into());
        assert_eq!(run.end().0, [JobResult::Done, JobResult::Done, refused, JobResult::TimedOut]);
    }
}
