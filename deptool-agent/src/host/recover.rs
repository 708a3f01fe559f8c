//! Recovers from an interrupted deployment: finishes or undoes it, under the host lock.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    host::{
        deploy::{
            finish,
            sync::{self, Own},
            undo::{Reached, undo},
        },
        external::users,
        secrets,
        state::{
            agents::AgentId,
            attempts,
            boot::{self, BootUnit},
            durable,
            error::{Context, HostError},
            failed_units, heal,
            identity::host_name,
            journal::{Handle, Journal, Record},
            layout::Home,
            lock::{HostLock, Taken},
            missing_branch, untidy,
        },
    },
    shared::{
        ordered::Ordered as _,
        outcome::{AttemptResult, Holder, Phase},
        store::Store,
        time::now,
    },
    system::System,
};

/// The result of a recovery.
pub enum Recovery {
    /// There was nothing to recover.
    Nothing,
    /// Another agent holds the lock, so nothing was interrupted.
    Busy(Holder),
    /// Something was recovered. The text says what, in a sentence.
    Done(String),
    /// An interrupted deployment could not be undone; the sentences say why. The next agent tries again.
    Stuck(Vec<String>),
}

impl Recovery {
    /// Add what became of secrets that were gone.
    fn with_secrets(self, restored: Result<Vec<String>, HostError>) -> Recovery {
        let told = |restored: Vec<String>| [vec![RESTORED.to_owned()], restored].concat().join("; ");
        match (self, restored) {
            (Recovery::Nothing | Recovery::Busy(_), Ok(restored)) => Recovery::Done(told(restored)),
            (Recovery::Done(what), Ok(restored)) => Recovery::Done(format!("{what}; {}", told(restored))),
            (stuck @ Recovery::Stuck(_), Ok(_)) => stuck,
            (recovery, Err(error)) => {
                let mut errors = match recovery {
                    Recovery::Nothing | Recovery::Busy(_) => Vec::new(),
                    Recovery::Done(what) => vec![what],
                    Recovery::Stuck(errors) => errors,
                };
                errors.push(format!("the deployed secrets can't be made again: {error}"));
                Recovery::Stuck(errors)
            }
        }
    }

    /// Add the repairs that were made before.
    fn after(self, mut mended: Vec<String>) -> Recovery {
        match self {
            Recovery::Nothing | Recovery::Busy(_) => self,
            Recovery::Done(what) => {
                mended.push(what);
                Recovery::Done(mended.join("; "))
            }
            Recovery::Stuck(errors) => {
                mended.extend(errors);
                Recovery::Stuck(mended)
            }
        }
    }
}

/// How long the agent of another build may take to recover, and how often it is looked at.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
const PAUSE: Duration = Duration::from_millis(20);

const RESTORED: &str = "the deployed secrets were gone from memory, and were decrypted again";

/// Finish or undo the deployment in the journal, repair damaged records, and make secrets that are gone.
pub fn recover(home: &Home, system: &mut dyn System, tick: &mut dyn FnMut(&str)) -> Result<Recovery, HostError> {
    let recovered = recover_deployment(home, system, tick);
    if matches!(recovered, Ok(Recovery::Busy(_))) || !secrets::are_gone(home)? {
        return recovered;
    }
    let holder = Holder { id: None, by: "recovery".into(), phase: Phase::Preparing, since: now() };
    let lock = match HostLock::take(home, holder)? {
        Taken::Lock(lock) => lock,
        Taken::Busy(holder) => return recovered.map(|_| Recovery::Busy(holder)),
    };
    let restored = secrets::restore(home);
    lock.leave();
    recovered.map(|recovery| recovery.with_secrets(restored))
}

fn recover_deployment(home: &Home, system: &mut dyn System, tick: &mut dyn FnMut(&str)) -> Result<Recovery, HostError> {
    if !home.state().exists() {
        return Ok(Recovery::Nothing);
    }
    if Journal::is_empty(home)?
        && HostLock::was_left(home)?
        && is_whole(home)?
        && !heal::is_needed(home)
        && untidy::load(home).is_empty()
    {
        // Do not take the lock for this: a fetch would get in the way of a deployment.
        return Ok(Recovery::Nothing);
    }
    let holder = Holder { id: None, by: "recovery".into(), phase: Phase::RollingBack, since: now() };
    let lock = match HostLock::take(home, holder)? {
        Taken::Lock(lock) => lock,
        Taken::Busy(holder) => return Ok(Recovery::Busy(holder)),
    };
    match Journal::find(home)? {
        Journal::AtRest => tidy_up(home, lock, Vec::new(), system, tick),
        Journal::Open(record, journal) => {
            let mended = heal::clear_the_way(home)?;
            go_back(home, lock, (&record, journal), system, tick).map(|end| end.after(mended))
        }
        Journal::Kept(record, journal) => {
            let mended = heal::clear_the_way(home)?;
            go_on(home, lock, &record, journal).map(|end| end.after(mended))
        }
        Journal::Foreign(agent) => {
            drop(lock);
            run_other_agent(home, &agent, system, tick)
        }
        Journal::Damaged(damage) => {
            let kept = heal::set_aside(home, &home.journal())?;
            let what = format!("'{}' {}: it is kept as '{kept}'", damage.path, damage.what);
            let notes = format!("{what}; 'git deptool verify' lists what differs from what was deployed");
            tidy_up(home, lock, vec![notes], system, tick)
        }
    }
}

/// Whether no failed deployment has left units down.
fn is_whole(home: &Home) -> Result<bool, HostError> {
    match failed_units::load(home) {
        Ok(down) => Ok(down.is_empty()),
        Err(HostError::Damaged(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// No deployment is under way: remove what a dead agent left, repair records, and start units that are down.
fn tidy_up(
    home: &Home,
    lock: HostLock,
    mut notes: Vec<String>,
    system: &mut dyn System,
    tick: &mut dyn FnMut(&str),
) -> Result<Recovery, HostError> {
    notes.extend(heal::mend(home)?);
    Journal::discard(home)?;
    if let Err(error) = heal::check_in_step(home) {
        lock.leave();
        notes.push(error.to_string());
        return Ok(Recovery::Stuck(notes));
    }
    finish::tidy(home)?;
    if !untidy::load(home).is_empty() {
        finish::clear_away(home, &mut Store::open_or_init(&home.store())?)?;
    }
    let down = failed_units::load(home)?;
    users::join(home, system, down.iter().filter_map(|down| down.unit.user()).into_set())?;
    let mended = failed_units::mend(home, system, tick)?;
    lock.leave();
    if !mended.is_empty() {
        let names = mended.iter().map(|unit| format!("'{unit}'")).collect::<Vec<_>>().join(", ");
        notes.push(format!("started again: {names}"));
    }
    Ok(if notes.is_empty() { Recovery::Nothing } else { Recovery::Done(notes.join("; ")) })
}

/// Finish a deployment that was kept.
fn go_on(home: &Home, lock: HostLock, record: &Record, journal: Handle) -> Result<Recovery, HostError> {
    let mut store = Store::open_or_init(&home.store())?;
    finish::finish(home, record, &mut store)?;
    let locked = finish::clear_outside(home, record)?;
    finish::note_target(record, &mut store)?;
    finish::tidy(home)?;
    finish::rest(home, record, &mut store, journal)?;
    lock.leave();
    let mut done = "an interrupted deployment was good, and was finished".to_owned();
    locked.iter().for_each(|why| done.push_str(&format!("; can't be cleared away: {why}")));
    Ok(Recovery::Done(done))
}

/// Undo a deployment that was not kept.
fn go_back(
    home: &Home,
    lock: HostLock,
    (record, journal): (&Record, Handle),
    system: &mut dyn System,
    tick: &mut dyn FnMut(&str),
) -> Result<Recovery, HostError> {
    if system.is_stopping() {
        return Err(HostError::Interrupted("the host is shutting down in the middle of a deployment".into()));
    }
    let left = undo(home, record, Reached::Unknown, system, tick);
    // An attempt that is already in the log as rolled back stays rolled back; only the errors are new.
    let known = attempts::find(home, record.id)?.map(|attempt| attempt.result);
    let result = match known {
        Some(AttemptResult::RolledBack { why, errors: _ }) => {
            AttemptResult::RolledBack { why, errors: left.sentences() }
        }
        Some(AttemptResult::Done | AttemptResult::Interrupted) | None => AttemptResult::Interrupted,
    };
    attempts::record(home, &finish::attempt_of(record, result))?;
    failed_units::add(home, &left.down)?;
    if !left.errors.is_empty() {
        return Ok(Recovery::Stuck(left.errors));
    }
    if record.from.is_some() && host_name(home).ok().as_ref() != Some(&record.deployed_from) {
        durable::replace(&home.host_name(), record.deployed_from.as_str().as_bytes())?;
    }
    missing_branch::put_back(home, &record.cluster, record.from)?;
    // The interrupted agent may not have synced this ref.
    finish::note_target(record, &mut Store::open_or_init(&home.store())?)?;
    finish::tidy(home)?;
    sync::everything(home, record, Own::Anything)?;
    journal.close()?;
    lock.leave();
    Ok(Recovery::Done(format!("an interrupted deployment by {} was undone", record.by)))
}

/// Recover while the machine boots. `system` must not wait for jobs, because jobs may wait for this to end. Returns a
/// sentence about what was recovered, if anything was.
pub fn at_boot(home: &Home, system: &mut dyn System) -> Result<Option<String>, HostError> {
    home.check_ownership()?;
    let recovered = recover(home, system, &mut |_| ())?;
    if Journal::is_empty(home)? {
        BootUnit::Recovery.remove(home)?;
    }
    match recovered {
        Recovery::Done(what) => Ok(Some(what)),
        Recovery::Stuck(errors) => Err(HostError::refused(errors.join("; "))),
        Recovery::Busy(_) | Recovery::Nothing => Ok(None),
    }
}

/// Run the agent that wrote the journal. It recovers when it starts, and exits because its stdin is empty.
fn run_other_agent(
    home: &Home,
    agent: &AgentId,
    system: &dyn System,
    tick: &mut dyn FnMut(&str),
) -> Result<Recovery, HostError> {
    let path = home.bin().join(agent.as_str());
    if !fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file()) {
        return Err(HostError::Interrupted(format!(
            "a deployment by '{agent}' was interrupted, and that agent is gone: the journal is kept; put the agent back \
             as '{}', and the next 'git fetch' undoes or finishes what it has begun",
            path.display()
        )));
    }
    let mut command = Command::new(&path);
    // The request in the environment is for this agent.
    command.env_remove(crate::shared::env_request::VARIABLE);
    if !home.is_live() {
        command.env("DEPTOOL_ROOT", home.root());
    }
    if !system.waits_for_jobs() {
        command.arg(boot::RECOVER);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().during("run", &path)?;
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().during("run", &path)? {
            break status;
        }
        // It can be killed at any time: what it has begun is done again.
        if begun.elapsed() > PATIENCE {
            child.kill().during("end", &path)?;
        }
        tick("the agent that began a deployment which was interrupted");
        thread::sleep(PAUSE);
    };
    match Journal::find(home)? {
        Journal::AtRest => {
            Ok(Recovery::Done("an interrupted deployment was finished or undone by the agent that began it".into()))
        }
        Journal::Open(..) | Journal::Kept(..) | Journal::Foreign(_) | Journal::Damaged(_) => Err(
            HostError::Interrupted(format!("'{agent}' could not undo or finish an interrupted deployment: {status}")),
        ),
    }
}
