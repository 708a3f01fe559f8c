//! What an earlier agent has left unfinished is finished or undone, under the host's lock.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    host::{
        deploy::{finish, undo::undo},
        external::place,
        state::{
            attempts, boot,
            error::{Context, HostError},
            failed_units,
            journal::{Found, Journal},
            layout::{Home, read_if_there},
            lock::{HostLock, Taken},
            missing_branch,
        },
    },
    shared::{
        outcome::{AttemptResult, Holder, Phase},
        store::Store,
        time::now,
    },
    system::System,
};

/// What was found.
pub enum Recovery {
    Nothing,
    /// Somebody is at work, so there is nothing to recover.
    Busy(Holder),
    /// What was done, in a sentence.
    Done(String),
    /// Why an interrupted deployment could not be undone, in sentences. The next agent tries again.
    Stuck(Vec<String>),
}

/// Undo or finish what the journal holds, under the lock.
pub fn recover(home: &Home, system: &mut dyn System, tick: &mut dyn FnMut()) -> Result<Recovery, HostError> {
    if !home.state().exists() {
        return Ok(Recovery::Nothing);
    }
    let holder = Holder { id: None, by: "recovery".into(), phase: Phase::RollingBack, since: now() };
    let is_clean = |path: &Path| Ok::<_, HostError>(read_if_there(path)?.is_none_or(|text| text.is_empty()));
    let is_at_rest = is_clean(&home.journal())? && is_clean(&home.lock())?;
    if is_at_rest && is_clean(&home.broken())? && !missing_branch::is_suspected(home) {
        // Without taking the lock, or who only asks would get in the way of somebody who deploys.
        return Ok(Recovery::Nothing);
    }
    let lock = match HostLock::take(home, holder)? {
        Taken::Lock(lock) => lock,
        Taken::Busy(holder) => return Ok(Recovery::Busy(holder)),
    };
    match Journal::find(home)? {
        (Found::Nothing, _) | (_, None) => {
            Journal::discard(home)?;
            finish::tidy(home)?;
            let mut said: Vec<String> =
                missing_branch::find(home)?.map(|lost| lost.restore(home)).transpose()?.into_iter().collect();
            let mended = failed_units::mend(home, system, tick)?;
            lock.leave();
            if !mended.is_empty() {
                let names = mended.iter().map(|unit| format!("'{unit}'")).collect::<Vec<_>>().join(", ");
                said.push(format!("started again: {names}"));
            }
            Ok(if said.is_empty() { Recovery::Nothing } else { Recovery::Done(said.join("; ")) })
        }
        (Found::Foreign { agent }, _) => {
            drop(lock);
            run_other_agent(home, &agent)
        }
        (Found::Good(record), Some(journal)) => {
            let mut store = Store::open_or_init(&home.store())?;
            finish::finish(home, &record, &mut store)?;
            finish::note_target(&record, &mut store)?;
            finish::tidy(home)?;
            finish::rest(home, &record, &mut store, journal)?;
            lock.leave();
            Ok(Recovery::Done("an interrupted deployment was good, and was finished".into()))
        }
        (Found::Open(record), Some(journal)) => {
            if system.is_stopping() {
                return Err(HostError::Unfit("the host is shutting down in the middle of a deployment".into()));
            }
            let left = undo(home, &record, system, tick);
            // One that was rolled back, but not completely, stays one.
            let known = attempts::find(home, record.id)?.map(|attempt| attempt.result);
            let result = match known {
                Some(AttemptResult::RolledBack { why, errors: _ }) => {
                    AttemptResult::RolledBack { why, errors: left.sentences() }
                }
                Some(AttemptResult::Done | AttemptResult::Interrupted) | None => AttemptResult::Interrupted,
            };
            attempts::record(home, &finish::attempt_of(&record, result))?;
            failed_units::add(home, &left.down)?;
            if !left.errors.is_empty() {
                return Ok(Recovery::Stuck(left.errors));
            }
            // The agent that was interrupted may not have got it onto the disk.
            finish::note_target(&record, &mut Store::open_or_init(&home.store())?)?;
            finish::tidy(home)?;
            place::sync(home)?;
            home.sync_state()?;
            journal.close()?;
            lock.leave();
            Ok(Recovery::Done(format!("an interrupted deployment by {} was undone", record.by)))
        }
    }
}

/// Recover while the machine boots. `system` must not wait for jobs: they may be waiting for the end of this. Returns what
/// was done, in a sentence.
pub fn at_boot(home: &Home, system: &mut dyn System) -> Result<Option<String>, HostError> {
    home.check_ownership()?;
    match recover(home, system, &mut || ())? {
        Recovery::Done(what) => Ok(Some(what)),
        Recovery::Stuck(errors) => Err(HostError::Unfit(errors.join("; "))),
        Recovery::Busy(_) => Ok(None),
        Recovery::Nothing => boot::remove(home).map(|()| None),
    }
}

/// Let the agent that wrote the journal deal with it: it recovers, and ends at the end of its input.
fn run_other_agent(home: &Home, name: &str) -> Result<Recovery, HostError> {
    let is_safe = name.starts_with("deptool-agent-") && !name.contains('/');
    let path = home.bin().join(name);
    if !is_safe || !path.exists() {
        let name = crate::shared::text::printable(name.as_bytes());
        return Err(HostError::Unfit(format!(
            "an interrupted deployment can only be undone by '{name}', which is gone"
        )));
    }
    let mut command = Command::new(&path);
    // That is for us.
    command.env_remove(crate::shared::env_request::VARIABLE);
    if !home.is_live() {
        command.env("DEPTOOL_ROOT", home.root());
    }
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().during("run", &path)?;
    match Journal::find(home)?.0 {
        Found::Nothing => {
            Ok(Recovery::Done("an interrupted deployment was dealt with by the agent that began it".into()))
        }
        _ => Err(HostError::Unfit(format!("'{name}' could not undo an interrupted deployment: {status}"))),
    }
}
