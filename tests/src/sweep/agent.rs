//! Faults in an agent: at each call that changes something, it is killed, or the call fails as on a full or broken
//! disk.

use anyhow::{Result, ensure};
use deptool_agent::shared::outcome::Outcome;

use super::world::{Runs, Said, Scenario, World};
use super::{Choice, Tally};
use crate::trace::{Call, Deed, Errno};

/// The fault at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    KillBefore,
    KillAfter,
    Fail(Errno),
    /// From here on, nothing can be written.
    FailOn(Errno),
}

pub const FAULTS: [Fault; 8] = [
    Fault::KillBefore,
    Fault::Fail(Errno::ENOSPC),
    Fault::KillAfter,
    Fault::Fail(Errno::EIO),
    Fault::Fail(Errno::EROFS),
    Fault::FailOn(Errno::ENOSPC),
    Fault::Fail(Errno::EDQUOT),
    Fault::FailOn(Errno::EIO),
];

/// Decides about calls. The fault happens at the call with this number, counted from 0.
pub(super) struct Leader {
    at: usize,
    fault: Fault,
    count: usize,
    pub hit: Option<Call>,
}

impl Leader {
    pub fn new(at: usize, fault: Fault) -> Leader {
        Leader { at, fault, count: 0, hit: None }
    }

    pub fn decide(&mut self, call: &Call) -> Deed {
        let number = self.count;
        self.count += 1;
        if number == self.at {
            self.hit = Some(call.clone());
        }
        match self.fault {
            Fault::FailOn(error) if number >= self.at && takes_space(call) => Deed::Fail(error),
            Fault::FailOn(_) => Deed::Go,
            _ if number != self.at => Deed::Go,
            Fault::KillBefore => Deed::KillBefore,
            Fault::KillAfter => Deed::KillAfter,
            Fault::Fail(error) => Deed::Fail(error),
        }
    }
}

/// Whether a call needs disk space. Messages to the helper do not.
fn takes_space(call: &Call) -> bool {
    let takes = ["write", "pwrite64", "openat", "open", "mkdir", "mkdirat", "symlink", "symlinkat", "link", "linkat"];
    !call.is_to_peer() && (takes.contains(&call.name) || ["copy_file_range", "sendfile", "splice"].contains(&call.name))
}

/// Every fault at every call of a deployment.
pub fn deployment(world: &World, mut scenario: Scenario, choice: Choice) -> Result<Tally> {
    let mut tally = Tally::default();
    world.reset(&mut scenario)?;
    for at in 0.. {
        for (n, fault) in FAULTS.into_iter().enumerate() {
            if !choice.takes(at * FAULTS.len() + n) {
                continue;
            }
            let mut leader = Leader::new(at, fault);
            let said = world.deploy(&scenario.request, &mut |call| leader.decide(call))?;
            let Some(call) = leader.hit else {
                ensure!(at > 50, "a deployment makes more than {at} changes");
                return Ok(tally);
            };
            let name = format!("{}, {fault:?} at {at}, {call}", scenario.name);
            tally.note(&name, examine(world, &scenario, &said));
            if !world.is_untouched(&scenario) {
                world.reset(&mut scenario)?;
            }
        }
    }
    unreachable!("a deployment ends")
}

/// Where a deployment is interrupted, to test the next agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupted {
    /// Everything is activated, but there is no verdict: it must be undone.
    BeforeVerdict,
    /// There is a verdict, and nothing more: it must be completed.
    AfterVerdict,
}

impl Interrupted {
    fn decide(self, call: &Call) -> Deed {
        let is_journal = call.path.ends_with("var/lib/deptool/state/journal");
        match (self, call.name) {
            (Interrupted::BeforeVerdict, "pwrite64") if is_journal => Deed::KillBefore,
            (Interrupted::AfterVerdict, "fdatasync") if is_journal => Deed::KillAfter,
            _ => Deed::Go,
        }
    }

    fn expected(self) -> Runs {
        match self {
            Interrupted::BeforeVerdict => Runs::Old,
            Interrupted::AfterVerdict => Runs::New,
        }
    }
}

/// Every fault at every call of an agent that finds an interrupted deployment. Another agent runs after it.
pub fn recovery(world: &World, mut scenario: Scenario, interrupted: Interrupted, choice: Choice) -> Result<Tally> {
    let mut tally = Tally::default();
    for at in 0.. {
        for (n, fault) in FAULTS.into_iter().enumerate() {
            if !choice.takes(at * FAULTS.len() + n) {
                continue;
            }
            world.reset(&mut scenario)?;
            let said = world.deploy(&scenario.request, &mut |call| interrupted.decide(call))?;
            ensure!(said.outcome().is_none(), "it was to be interrupted: {said:?}");
            let mut leader = Leader::new(at, fault);
            let said = world.recover(&mut |call| leader.decide(call))?;
            let Some(call) = leader.hit else {
                ensure!(at > 20, "a recovery makes more than {at} changes");
                return Ok(tally);
            };
            let name = format!("{}, {interrupted:?}, in recovery {fault:?} at {at}, {call}", scenario.name);
            let result = examine(world, &scenario, &said).and_then(|runs| match runs == interrupted.expected() {
                true => Ok(runs),
                false => Err(format!("it is {runs:?}")),
            });
            tally.note(&name, result);
        }
    }
    unreachable!("a recovery ends")
}

/// A kill at each call of a deployment, and a fault somewhere in the recovery from it.
pub fn twice(world: &World, mut scenario: Scenario, choice: Choice) -> Result<Tally> {
    let mut tally = Tally::default();
    for at in 0.. {
        if !choice.takes(at) {
            continue;
        }
        world.reset(&mut scenario)?;
        let mut first = Leader::new(at, Fault::KillBefore);
        let said = world.deploy(&scenario.request, &mut |call| first.decide(call))?;
        let Some(call) = first.hit else { return Ok(tally) };
        // The number of calls depends on where the kill happened, so the fault is at some call within it.
        let (then, fault) = (at * 7 % 61, FAULTS[at % FAULTS.len()]);
        let mut second = Leader::new(then, fault);
        world.recover(&mut |call| second.decide(call))?;
        let Some(again) = second.hit else { continue };
        let name = format!("{}, killed at {at}, {call}, in recovery {fault:?} at {then}, {again}", scenario.name);
        tally.note(&name, examine(world, &scenario, &said));
    }
    unreachable!("a deployment ends")
}

/// The state of the root after the next contact.
fn examine(world: &World, scenario: &Scenario, said: &Said) -> Result<Runs, String> {
    next_contact(world)?;
    let runs = agree(world, scenario, said)?;
    again(world, scenario, runs)?;
    Ok(runs)
}

/// Runs an agent without a request, which recovers if necessary.
pub fn next_contact(world: &World) -> Result<(), String> {
    let hello = world.recover(&mut |_| Deed::Go).map_err(|error| format!("{error:#}"))?;
    hello.error().map_or(Ok(()), |why| Err(format!("the next agent says: {why}")))
}

/// The state of the root. It must match what the agent has `said`, if it said anything.
pub fn agree(world: &World, scenario: &Scenario, said: &Said) -> Result<Runs, String> {
    if said.stderr.contains("panicked") {
        return Err(format!("the agent panicked: {}", said.stderr));
    }
    let outcome = said.outcome();
    let runs = world.judge(scenario).map_err(|wrong| format!("{wrong}; it said: {outcome:?}"))?;
    let expected = match outcome {
        None if scenario.kept_is_new && said.has_kept() => Runs::New,
        None => runs,
        Some(Outcome::Done { .. }) => Runs::New,
        Some(_) => Runs::Old,
    };
    if runs == expected { Ok(runs) } else { Err(format!("it is {runs:?}, and was said to be {expected:?}")) }
}

/// A failed deployment succeeds once the fault is gone.
pub fn again(world: &World, scenario: &Scenario, runs: Runs) -> Result<(), String> {
    if runs == Runs::New || world.is_untouched(scenario) {
        return Ok(());
    }
    let again = world.deploy(&scenario.again, &mut |_| Deed::Go).map_err(|error| format!("{error:#}"))?;
    if !again.is_done() {
        return Err(format!("it can't be deployed any more: {again:?}"));
    }
    match world.judge(scenario)? {
        Runs::New => Ok(()),
        Runs::Old => Err("deployed again, it is not new".into()),
    }
}
