//! Judges from the properties of a unit whether it came up. A pure decision without I/O.
//!
//! Neither the result of a job nor one look at ActiveState is enough. The job of a Type=simple service is done as soon as
//! the process was forked. A service that crashes and is restarted is active most of the time. A oneshot service that
//! succeeded is inactive. So the result of the job comes first, then restarts and failures since then. Services that do
//! not report when they are ready must also stay up for a while.

use std::time::Duration;

use super::{Active, JobKind, JobResult, Load, UnitDetail};

/// How long a service must stay up if it does not report that it is ready, or is restarted when it dies.
pub const WINDOW: Duration = Duration::from_millis(1500);

/// A unit whose job has ended.
#[derive(Debug, Clone)]
pub struct Started {
    pub kind: JobKind,
    pub job: JobResult,
    /// When the last job of the batch ended, on the clock of [`super::System::clock`].
    pub ended: Duration,
    /// The unit before its job, but after [`super::System::reset_failed`], which makes systemd count restarts from 0.
    pub before: UnitDetail,
    /// How long the unit must stay up. `None` means the time of [`window`]. With 0 a service may also end.
    pub window: Option<Duration>,
}

/// The judgement of a unit at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// Judge again when a signal comes, or after this time at most.
    Settling(Duration),
    /// The rest of a sentence that begins with the unit's name: "exited with status 1 after 0.2 s".
    Failed(String),
}

/// How long to wait for a unit in transition. systemd sends a signal at the end; this is for lost signals.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// How long a unit of this kind has to stay up.
pub fn window(unit: &UnitDetail) -> Duration {
    match unit.service_type.as_str() {
        "simple" | "exec" | "idle" => WINDOW,
        _ if unit.restarts_itself => WINDOW,
        // notify, forking, dbus and oneshot services report when they are ready. Other units have no process.
        _ => Duration::ZERO,
    }
}

/// Judge a unit by its job and by its properties `now`, at the time `clock`.
pub fn judge(started: &Started, now: &UnitDetail, clock: Duration) -> Verdict {
    match &started.job {
        JobResult::Done if started.kind == JobKind::Stop => Verdict::Good,
        JobResult::Done => judge_state(started, now, clock),
        JobResult::Failed(result) if result == "skipped" && now.result == "exec-condition" => Verdict::Good,
        JobResult::Failed(result) => Verdict::Failed(job_failure(started, result, now)),
        JobResult::TimedOut => Verdict::Failed(format!("was not {} in time ({})", past(started.kind), now.sub)),
    }
}

fn judge_state(started: &Started, now: &UnitDetail, clock: Duration) -> Verdict {
    // systemd has queued a job that has not begun, so this is still the earlier run.
    if now.has_job && now.invocation == started.before.invocation {
        return Verdict::Settling(ON_ITS_WAY);
    }
    let end = End::of(started, now);
    if now.restarts > started.before.restarts {
        return Verdict::Failed(end.and_restarted(now.restarts - started.before.restarts));
    }
    if !matches!(end.result, "" | "success" | "exec-condition") {
        return Verdict::Failed(end.describe("timed out"));
    }
    match now.active {
        Active::Active | Active::Reloading => stays_up(started, now, clock),
        Active::Activating if now.sub.starts_with("auto-restart") => Verdict::Failed(end.and_restarted(0)),
        Active::Activating | Active::Deactivating => Verdict::Settling(ON_ITS_WAY),
        Active::Inactive if now.has_job => Verdict::Settling(ON_ITS_WAY),
        Active::Inactive if may_be_inactive(started, now) => Verdict::Good,
        Active::Inactive => Verdict::Failed(did_not_stay(now)),
        Active::Failed => Verdict::Failed(end.describe("timed out")),
        Active::Maintenance => Verdict::Failed("is under maintenance".into()),
    }
}

/// Judge an active unit by the time since it came up. The end of the batch would be too late: other jobs may take longer.
fn stays_up(started: &Started, now: &UnitDetail, clock: Duration) -> Verdict {
    let window = started.window.unwrap_or_else(|| window(now));
    let since = match started.kind {
        JobKind::Reload => started.ended,
        JobKind::Start | JobKind::Restart | JobKind::Stop => now.active_since.unwrap_or(started.ended),
    };
    match (since + window).checked_sub(clock) {
        None | Some(Duration::ZERO) => Verdict::Good,
        Some(left) => Verdict::Settling(left),
    }
}

fn may_be_inactive(started: &Started, now: &UnitDetail) -> bool {
    // A condition was not met, so the unit was not started at all.
    (now.condition_failed && now.invocation == started.before.invocation)
        || now.result == "exec-condition"
        || now.service_type == "oneshot"
        || (!now.service_type.is_empty() && (now.is_triggered || started.window == Some(Duration::ZERO)))
}

fn did_not_stay(now: &UnitDetail) -> String {
    match (&now.exit, now.service_type.as_str()) {
        (_, "") => format!("is not active ({})", now.sub),
        (Some(exit), kind) => format!("{exit}, but a service of Type={kind} should stay (Type=oneshot may end)"),
        (None, _) => "was stopped again".into(),
    }
}

/// The reason for a failed job. `result` is systemd's word for it, or the error if the job was refused.
fn job_failure(started: &Started, result: &str, now: &UnitDetail) -> String {
    let (kind, end) = (started.kind, End::of(started, now));
    match (result, now.load) {
        (_, Load::NotFound) => "not found".into(),
        (_, Load::Masked) => "masked".into(),
        ("failed", _) if kind == JobKind::Reload => {
            format!("could not be reloaded: {}", now.exit.as_deref().unwrap_or("its reload command failed"))
        }
        ("failed", _) if end.is_unknown() => format!("could not be {}", past(kind)),
        ("failed", _) => end.describe(&format!("timed out {}", present(kind))),
        ("timeout", _) => format!("timed out {} (its job's time limit)", present(kind)),
        ("dependency", _) => format!("was not {}: a unit that it requires failed", past(kind)),
        ("canceled", _) => format!("was not {}: another job took its place", past(kind)),
        ("assert", _) => format!("was not {}: an assertion in its unit file (Assert…=) is not met", past(kind)),
        ("invalid" | "skipped", _) if kind == JobKind::Reload => "could not be reloaded: it is not running".into(),
        ("unsupported", _) => "is of a kind that this machine does not support".into(),
        ("once", _) => "may be started only once".into(),
        ("invalid" | "skipped" | "collected", _) => format!("was not {} ({result})", past(kind)),
        (refusal, _) => refusal.to_owned(),
    }
}

/// How a run of a service ended.
struct End<'a> {
    result: &'a str,
    exit: Option<&'a str>,
    restarts: u32,
}

impl<'a> End<'a> {
    /// The run to report: the run that failed since the job began, even if the unit is up again.
    fn of(started: &Started, now: &'a UnitDetail) -> End<'a> {
        let restarts = now.restarts.saturating_sub(started.before.restarts);
        match &now.last_failure {
            Some(run)
                if matches!(now.result.as_str(), "" | "success") && run.invocation != started.before.invocation =>
            {
                End { result: &run.result, exit: run.exit.as_deref(), restarts }
            }
            _ => End { result: &now.result, exit: now.exit.as_deref(), restarts },
        }
    }

    fn is_unknown(&self) -> bool {
        matches!(self.result, "" | "success") && self.exit.is_none() && self.restarts == 0
    }

    /// Describe the end by the property `Result`, see org.freedesktop.systemd1(5).
    fn describe(&self, timeout: &str) -> String {
        let exit = |otherwise: &str| self.exit.unwrap_or(otherwise).to_owned();
        match self.result {
            "exit-code" | "signal" | "core-dump" => exit(&format!("failed ({})", self.result)),
            "timeout" => timeout.to_owned(),
            "protocol" => match self.exit {
                Some(exit) => format!("{exit}, before it was ready"),
                None => "did not become ready as its Type= says".into(),
            },
            "start-limit-hit" => match self.exit {
                Some(exit) => format!("{exit}, and was restarted too often (start limit hit)"),
                None => "was started too often (start limit hit)".into(),
            },
            "unit-start-limit-hit" | "service-start-limit-hit" => {
                "started its service too often (start limit hit)".into()
            }
            "trigger-limit-hit" => "was triggered too often".into(),
            "watchdog" => "did not answer its watchdog in time".into(),
            "oom-kill" => "was killed for lack of memory".into(),
            "resources" => "could not be set up (resources)".into(),
            // The service is already starting again.
            "" | "success" if self.restarts > 0 => self.and_restarted(self.restarts),
            "" | "success" => exit("failed"),
            other => format!("failed ({other})"),
        }
    }

    /// Describe a service that ended, and that systemd restarted this many times or is about to restart.
    fn and_restarted(&self, times: u32) -> String {
        let times = match times {
            0 => "is about to be restarted".to_owned(),
            1 => "restarted once".to_owned(),
            n => format!("restarted {n} times"),
        };
        match self.exit {
            Some(exit) => format!("{exit}, {times}"),
            None => times,
        }
    }
}

fn past(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Start => "started",
        JobKind::Restart => "restarted",
        JobKind::Reload => "reloaded",
        JobKind::Stop => "stopped",
    }
}

fn present(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Start | JobKind::Restart => "starting",
        JobKind::Reload => "reloading",
        JobKind::Stop => "stopping",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FailedRun;

    const NOW: Duration = Duration::from_secs(100);

    /// A unit that came up `ago` ms ago.
    fn up(service_type: &str, ago: u64) -> UnitDetail {
        UnitDetail {
            active: Active::Active,
            sub: "running".into(),
            result: "success".into(),
            service_type: service_type.into(),
            invocation: "2".into(),
            active_since: Some(NOW - Duration::from_millis(ago)),
            changed_at: NOW - Duration::from_millis(ago),
            ..UnitDetail::inactive()
        }
    }

    fn down(service_type: &str, active: Active, result: &str, exit: Option<&str>) -> UnitDetail {
        UnitDetail {
            active,
            result: result.into(),
            active_since: None,
            exit: exit.map(str::to_owned),
            ..up(service_type, 100)
        }
    }

    fn job(kind: JobKind, job: JobResult) -> Started {
        let before = UnitDetail { invocation: "1".into(), ..UnitDetail::inactive() };
        Started { kind, job, ended: NOW - Duration::from_millis(50), before, window: None }
    }

    fn done() -> Started {
        job(JobKind::Restart, JobResult::Done)
    }

    fn why(started: &Started, now: &UnitDetail) -> String {
        match judge(started, now, NOW) {
            Verdict::Failed(why) => why,
            other => panic!("{other:?}"),
        }
    }

    fn why_job(kind: JobKind, result: &str, now: &UnitDetail) -> String {
        why(&job(kind, JobResult::Failed(result.into())), now)
    }

    #[test]
    fn services_that_say_when_they_are_ready_are_believed_at_once() {
        for kind in ["notify", "notify-reload", "forking", "dbus", "oneshot"] {
            assert_eq!(judge(&done(), &up(kind, 0), NOW), Verdict::Good, "{kind}");
            let restarting = UnitDetail { restarts_itself: true, ..up(kind, 500) };
            assert_eq!(judge(&done(), &restarting, NOW), Verdict::Settling(Duration::from_secs(1)), "{kind}");
        }
        // Timers, sockets, paths, mounts, targets.
        assert_eq!(judge(&done(), &up("", 0), NOW), Verdict::Good);
    }

    #[test]
    fn others_have_to_stay_up_for_a_while() {
        for kind in ["simple", "exec", "idle"] {
            assert_eq!(judge(&done(), &up(kind, 0), NOW), Verdict::Settling(WINDOW));
            assert_eq!(judge(&done(), &up(kind, 1500), NOW), Verdict::Good);
            let set = Started { window: Some(Duration::from_secs(5)), ..done() };
            assert_eq!(judge(&set, &up(kind, 1500), NOW), Verdict::Settling(Duration::from_millis(3500)));
        }
        // After a reload, counted from its end.
        let left = WINDOW - Duration::from_millis(50);
        assert_eq!(judge(&job(JobKind::Reload, JobResult::Done), &up("simple", 9999), NOW), Verdict::Settling(left));
    }

    #[test]
    fn dying_and_restarting_is_a_failure_whatever_the_state() {
        let dead = down("simple", Active::Failed, "exit-code", Some("exited with status 1 after 0.2 s"));
        assert_eq!(why(&done(), &dead), "exited with status 1 after 0.2 s");
        let back = UnitDetail { restarts: 3, ..up("simple", 10) };
        assert_eq!(why(&done(), &back), "restarted 3 times");
        let waiting = UnitDetail {
            sub: "auto-restart".into(),
            ..down("simple", Active::Activating, "success", Some("exited with status 0 after 0.1 s"))
        };
        assert_eq!(why(&done(), &waiting), "exited with status 0 after 0.1 s, is about to be restarted");
        let limit = down("simple", Active::Failed, "start-limit-hit", None);
        assert_eq!(why(&done(), &limit), "was started too often (start limit hit)");
        // Its ExecStopPost= is still running: no need to wait for that.
        let ending = down("simple", Active::Deactivating, "signal", Some("was killed by signal 11 (SEGV)"));
        assert_eq!(why(&done(), &ending), "was killed by signal 11 (SEGV)");
    }

    #[test]
    fn a_failure_that_a_restart_covered_up_still_counts() {
        let run = |invocation: &str| {
            let exit = Some("exited with status 7 after 0.1 s".into());
            Some(FailedRun { invocation: invocation.into(), changed_at: NOW, result: "exit-code".into(), exit })
        };
        let again = UnitDetail { last_failure: run("2"), invocation: "3".into(), ..up("notify", 10) };
        assert_eq!(why(&done(), &again), "exited with status 7 after 0.1 s");
        let looping = UnitDetail { restarts: 2, ..again };
        assert_eq!(why(&done(), &looping), "exited with status 7 after 0.1 s, restarted 2 times");
        // The run that our restart ended may have ended badly.
        let old = UnitDetail { last_failure: run("1"), ..up("notify", 10) };
        assert_eq!(judge(&done(), &old, NOW), Verdict::Good);
    }

    #[test]
    fn ending_is_right_for_a_oneshot_only() {
        let exit = Some("exited with status 0 after 0.1 s");
        assert_eq!(judge(&done(), &down("oneshot", Active::Inactive, "success", exit), NOW), Verdict::Good);
        let simple = down("simple", Active::Inactive, "success", exit);
        assert!(why(&done(), &simple).starts_with("exited with status 0 after 0.1 s, but"));
        assert_eq!(judge(&done(), &UnitDetail { is_triggered: true, ..simple.clone() }, NOW), Verdict::Good);
        assert_eq!(judge(&Started { window: Some(Duration::ZERO), ..done() }, &simple, NOW), Verdict::Good);
        assert_eq!(why(&done(), &down("", Active::Inactive, "", None)), "is not active (running)");
    }

    #[test]
    fn conditions_that_are_not_met_are_no_failure() {
        let unmet = UnitDetail {
            condition_failed: true,
            invocation: "1".into(),
            ..down("simple", Active::Inactive, "success", None)
        };
        assert_eq!(judge(&done(), &unmet, NOW), Verdict::Good);
        let skipped = down("simple", Active::Inactive, "exec-condition", None);
        assert_eq!(judge(&job(JobKind::Start, JobResult::Failed("skipped".into())), &skipped, NOW), Verdict::Good);
    }

    #[test]
    fn the_end_of_the_run_before_is_no_failure_while_the_next_is_on_its_way() {
        // Killed when it was stopped along with another unit, which it waits for.
        let killed = UnitDetail {
            invocation: "1".into(),
            has_job: true,
            ..down("notify", Active::Failed, "exit-code", Some("exited with status 137 after 9.0 s"))
        };
        assert_eq!(judge(&done(), &killed, NOW), Verdict::Settling(ON_ITS_WAY));
        let looping = UnitDetail { invocation: "1".into(), has_job: true, restarts: 3, ..up("notify", 9999) };
        assert_eq!(judge(&done(), &looping, NOW), Verdict::Settling(ON_ITS_WAY));
        // There will be no other run.
        assert_eq!(why(&done(), &UnitDetail { has_job: false, ..killed }), "exited with status 137 after 9.0 s");
    }

    #[test]
    fn a_failed_job_says_why() {
        let absent = UnitDetail { load: Load::NotFound, ..UnitDetail::inactive() };
        assert_eq!(why_job(JobKind::Start, "Unit x.service not found", &absent), "not found");
        let masked = UnitDetail { load: Load::Masked, ..UnitDetail::inactive() };
        assert_eq!(why_job(JobKind::Start, "Unit x.service is masked", &masked), "masked");
        let slow = down("notify", Active::Failed, "timeout", Some("was killed by signal 15 (TERM)"));
        assert_eq!(why_job(JobKind::Restart, "failed", &slow), "timed out starting");
        let inactive = down("simple", Active::Inactive, "success", None);
        let text = why_job(JobKind::Start, "dependency", &inactive);
        assert_eq!(text, "was not started: a unit that it requires failed");
        let running = UnitDetail { exit: Some("ExecReload exited with status 1".into()), ..up("simple", 9999) };
        let text = why_job(JobKind::Reload, "failed", &running);
        assert_eq!(text, "could not be reloaded: ExecReload exited with status 1");
        let late = job(JobKind::Start, JobResult::TimedOut);
        let starting = UnitDetail { sub: "start".into(), ..down("notify", Active::Activating, "success", None) };
        assert_eq!(why(&late, &starting), "was not started in time (start)");
    }

    #[test]
    fn a_stopped_unit_is_not_watched() {
        let gone = UnitDetail { load: Load::NotFound, ..UnitDetail::inactive() };
        assert_eq!(judge(&job(JobKind::Stop, JobResult::Done), &gone, NOW), Verdict::Good);
    }
}
