//! Faults in the helper: at each call that changes something, it is killed, or the call fails as on a full or broken
//! disk.
//!
//! Git and the agents are traced to their exits, without faults.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::world::{Knows, Runs, Scenario, World};
use super::{Choice, Tally};
use crate::{
    sandbox::Repo,
    trace::{self, Call, Deed, Errno, Watched},
};

const FAULTS: [Deed; 4] = [Deed::KillBefore, Deed::Fail(Errno::ENOSPC), Deed::KillAfter, Deed::Fail(Errno::EIO)];
/// The repository's directory.
const NAME: &str = "swept";
const HELPER: Watched = Watched::From { from: "git-remote-deptool", but: "deptool-agent" };

/// What the operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Pushes the new commit to a host that runs the old one.
    Push,
    /// Deletes the branch, which removes everything from the host.
    Remove,
    /// Fetches from a host that runs a commit of this repository.
    Fetch,
    /// Fetches from a host that runs a commit that only the host has.
    FetchUnknown,
}

impl Act {
    pub const ALL: [Act; 4] = [Act::Push, Act::Remove, Act::Fetch, Act::FetchUnknown];

    fn command(self) -> &'static [&'static str] {
        match self {
            Act::Push => &["push", "-o", "take-over", "web1", "prod"],
            Act::Remove => &["push", "web1", ":prod"],
            Act::Fetch | Act::FetchUnknown => &["fetch", "web1"],
        }
    }

    fn is_fetch(self) -> bool {
        matches!(self, Act::Fetch | Act::FetchUnknown)
    }
}

/// A repository that is recreated for each fault.
struct Operator<'a> {
    world: &'a World,
    scenario: Scenario,
    act: Act,
    dir: PathBuf,
}

/// Every fault at every call that the helper makes for `act`.
pub fn sweep(world: &World, act: Act, choice: Choice) -> Result<Tally> {
    let scenario = match act {
        Act::Remove => world.scenario("removal", &[&world.first], &world.removal)?,
        Act::Push | Act::Fetch | Act::FetchUnknown => world.scenario("update", &[&world.first], &world.update)?,
    };
    let mut operator = Operator { world, scenario, act, dir: world.sandbox.dir().join(NAME) };
    let mut tally = Tally::default();
    for at in 0.. {
        for (n, fault) in FAULTS.into_iter().enumerate() {
            if !choice.takes(at * FAULTS.len() + n) {
                continue;
            }
            operator.reset()?;
            let (hit, is_ok) = operator.act(at, fault)?;
            let Some(call) = hit else {
                ensure!(at > 5, "a helper makes more than {at} changes");
                return Ok(tally);
            };
            tally.note(&format!("{act:?}, {fault:?} at {at}, {call}"), operator.examine(is_ok));
        }
    }
    unreachable!("a push ends")
}

impl Operator<'_> {
    fn repo(&self) -> Repo<'_> {
        self.world.sandbox.repo_at(&self.dir)
    }

    fn reset(&mut self) -> Result<()> {
        self.world.reset(&mut self.scenario)?;
        if self.act.is_fetch() {
            let said = self.world.deploy(&self.scenario.request, &mut |_| Deed::Go)?;
            ensure!(said.is_done(), "{said:?}");
        }
        self.world.give_instance()?;
        let knows = match self.act {
            Act::FetchUnknown => Knows::TheFirstCommit,
            Act::Push | Act::Remove | Act::Fetch => Knows::BothCommits,
        };
        self.world.operator(NAME, knows)?;
        Ok(())
    }

    /// Acts with a fault at the helper's call with that number. Returns the call, if there was one, and whether Git
    /// reported success.
    fn act(&self, at: usize, fault: Deed) -> Result<(Option<Call>, bool)> {
        let status = self.world.sandbox.dir().join("tmp/status");
        let _ = fs::remove_file(&status);
        // The tracer waits for Git instead.
        let script = "git \"$@\" >/dev/null 2>&1; echo $? >\"$STATUS\"";
        let command = self.world.sandbox.command("sh").args(["-c", script, "sh"]).args(self.act.command());
        let mut command = command.dir(&self.dir).env("STATUS", &status).into_inner();
        command.stdin(std::process::Stdio::null());
        let (mut count, mut hit) = (0, None);
        trace::run(command, HELPER, &mut |call| {
            count += 1;
            if count != at + 1 {
                return Deed::Go;
            }
            hit = Some(call.clone());
            fault
        })?;
        Ok((hit, fs::read_to_string(&status)?.trim() == "0"))
    }

    fn examine(&self, is_ok: bool) -> Result<Runs, String> {
        self.is_sound("afterwards")?;
        let (host, tracked) = (self.on_host(), self.tracked());
        if tracked != host && !self.is_in_doubt() && !self.act.is_fetch() {
            return Err(format!("the tracking ref says {tracked:?}, the host runs {host:?}, and nothing is in doubt"));
        }
        if is_ok && (tracked != host || self.is_in_doubt()) {
            return Err(format!("said to be done, but {tracked:?} is tracked and {host:?} runs"));
        }
        let fetch = self.repo().git(&["fetch", "web1"]);
        if !fetch.success() {
            return Err(format!("a fetch does not heal: {}", fetch.stderr()));
        }
        self.is_sound("after a fetch")?;
        let (host, tracked) = (self.on_host(), self.tracked());
        if tracked != host || self.is_in_doubt() {
            return Err(format!("after a fetch {tracked:?} is tracked and {host:?} runs"));
        }
        let left = left_over(&self.dir.join(".git"));
        if !left.is_empty() {
            return Err(format!("left over: {}", left.join(", ")));
        }
        let runs = self.world.judge(&self.scenario)?;
        if is_ok && runs != Runs::New {
            return Err("it was said to be done".into());
        }
        if runs == Runs::Old {
            let again = self.repo().git(self.act.command());
            if !again.success() || self.world.judge(&self.scenario)? != Runs::New {
                return Err(format!("it can't be done any more: {}", again.stderr()));
            }
        }
        Ok(runs)
    }

    fn is_sound(&self, when: &str) -> Result<(), String> {
        let run = self.repo().git(&["fsck", "--strict", "--no-dangling"]);
        if run.success() { Ok(()) } else { Err(format!("{when}, git fsck: {}{}", run.stdout(), run.stderr())) }
    }

    /// The tracked commit, by its id on the host.
    fn tracked(&self) -> Option<String> {
        let id = self.repo().id_if_any("refs/remotes/web1/prod")?;
        let pairs = self.repo().git(&["for-each-ref", "--format=%(objectname) %(refname)", "refs/deptool/projection"]);
        let real = pairs.stdout().lines().find_map(|line| {
            let name = line.strip_prefix(&id)?.trim_start().strip_prefix("refs/deptool/projection/")?;
            name.split('/').next().map(str::to_owned)
        });
        Some(real.unwrap_or(id))
    }

    fn is_in_doubt(&self) -> bool {
        self.repo().id_if_any("refs/deptool/unsettled/web1/prod").is_some()
    }

    fn on_host(&self) -> Option<String> {
        let branch = self.world.root().join("var/lib/deptool/store/refs/heads/prod");
        fs::read_to_string(branch).ok().map(|id| id.trim().to_owned())
    }
}

/// Stale locks and temporary files, except temporary objects and their directories, which `git gc` removes.
fn left_over(git: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![git.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("tmp_obj") || name == "web1.lock" {
                continue;
            }
            if path.is_dir() && !path.is_symlink() {
                pending.push(path);
            } else if name.ends_with(".lock") || name.ends_with(".new") {
                found.push(path.strip_prefix(git).unwrap_or(&path).display().to_string());
            }
        }
    }
    found
}
