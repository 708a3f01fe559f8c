//! Faults in a push to two hosts: in the agent of one of them, in the helper, or on a connection.
//!
//! In addition to what must hold for a single host: with `--atomic`, both hosts have the commit or neither, unless the
//! helper was killed between its two *keep*s; and every report about a host is true.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use deptool_agent::shared::wire::Request;
use tempfile::TempDir;

use super::agent;
use super::state::{self, Exact, Lines};
use super::world::{self, Runs};
use super::{Choice, Tally};
use crate::{
    build,
    link::{self, Fate, Way},
    process::poll,
    sandbox::{Repo, Sandbox},
    stand_in::STAND_IN,
    trace::{self, Call, Deed, Errno, Watched},
};

const HOSTS: [&str; 2] = ["web1", "web2"];
const HELPER: Watched = Watched::From { from: "git-remote-deptool", but: "deptool-agent" };
/// The agent of `web2` runs under another name.
const AGENT: Watched = Watched::From { from: "deptool-agent-web2", but: "git" };
const HELPER_FAULTS: [Deed; 4] = [Deed::KillBefore, Deed::Fail(Errno::ENOSPC), Deed::KillAfter, Deed::Fail(Errno::EIO)];
/// A connection has fewer kinds of faults.
const LINK_FAULTS: usize = 128;
/// A host that has lost its helper waits for 30 seconds.
const AT_REST: Duration = Duration::from_secs(100);

/// The push options of the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Atomic,
    /// Each host must be reached again, or it is rolled back.
    Confirmed,
}

impl Manner {
    pub const ALL: [Manner; 2] = [Manner::Atomic, Manner::Confirmed];

    fn command(self) -> &'static [&'static str] {
        match self {
            Manner::Atomic => &["push", "--atomic", "cluster", "prod"],
            Manner::Confirmed => &["push", "-o", "confirm=5s", "cluster", "prod"],
        }
    }
}

/// The place of the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Agent,
    Helper,
    Link,
}

impl Place {
    pub const ALL: [Place; 3] = [Place::Agent, Place::Helper, Place::Link];

    /// The n-th fault at this place.
    fn fault(self, n: usize) -> Fault {
        let of = |count: usize| (n / count, n % count);
        match self {
            Place::Agent => {
                let (at, kind) = of(agent::FAULTS.len());
                Fault::Agent(at, agent::FAULTS[kind])
            }
            Place::Helper => {
                let (at, kind) = of(HELPER_FAULTS.len());
                Fault::Helper(at, HELPER_FAULTS[kind])
            }
            Place::Link => {
                let (at, kind) = of(4);
                let way = [Way::Up, Way::Down][kind / 2];
                Fault::Link(link::Fault { way, at, fate: [Fate::Cut, Fate::CutInside][kind % 2] })
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Agent(usize, agent::Fault),
    Helper(usize, Deed),
    Link(link::Fault),
}

/// The result of a push.
struct Pushed {
    /// Where the fault happened, if it did.
    hit: Option<String>,
    is_ok: bool,
    /// The outcome of each host, as in the report.
    report: BTreeMap<String, String>,
    /// The helper was killed after it had told one host to keep the deployment, but not the other.
    between_keeps: bool,
}

/// Two roots that run the first of two commits, and an operator with both commits.
struct Group {
    sandbox: Sandbox,
    _temporary: TempDir,
    manner: Manner,
    states: Vec<(Exact, Lines)>,
}

/// Every fault at that place in such a push. Several pushes run in parallel, because a host that has lost its helper
/// waits.
pub fn sweep(manner: Manner, place: Place, choice: Choice, workers: usize) -> Result<Tally> {
    std::thread::scope(|scope| {
        let work = |worker| move || Group::new(manner)?.sweep(place, choice, (worker, workers));
        let all: Vec<_> = (0..workers).map(|worker| scope.spawn(work(worker))).collect();
        let mut tally = Tally::default();
        for one in all {
            tally.add(one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(tally)
    })
}

impl Group {
    fn new(manner: Manner) -> Result<Group> {
        let temporary = world::in_memory()?;
        let sandbox = world::sandbox_at(temporary.path())?;
        let mut group = Group { sandbox, _temporary: temporary, manner, states: Vec::new() };
        group.set_up()?;
        let old: Vec<Exact> = HOSTS.iter().map(|host| Exact::of(&group.sandbox.root(host))).collect();
        let pushed = group.push(None)?;
        ensure!(pushed.is_ok, "without a fault: {:?}", pushed.report);
        let new = HOSTS.iter().map(|host| state::view(&group.sandbox.root(host)));
        group.states = old.into_iter().zip(new).collect();
        Ok(group)
    }

    fn set_up(&self) -> Result<()> {
        let repo = self.sandbox.repo("operator");
        for host in HOSTS {
            repo.add_root(host);
            repo.write(format!("{host}/web/file"), "1\n");
            repo.write(format!("{host}/web/tmpfiles/a.conf"), "# 1\n");
            repo.write(
                format!("{host}/web/manifest.json"),
                r#"{"symlinks": {"/etc/stays": "file", "/etc/goes": "file"}}"#,
            );
        }
        repo.add_remote("cluster", "deptool::@all");
        repo.commit("One");
        repo.git(&["push", "cluster", "prod"]).ok();
        for host in HOSTS {
            repo.write(format!("{host}/web/file"), "2\n");
            repo.write(format!("{host}/web/tmpfiles/a.conf"), "# 2\n");
            repo.write(
                format!("{host}/web/manifest.json"),
                r#"{"symlinks": {"/etc/stays": "file", "/etc/comes": "file"}}"#,
            );
        }
        repo.commit("Two");
        let agent = world::agent_in(&self.sandbox)?;
        fs::create_dir(self.dir("agents"))?;
        symlink(build::workspace().join(STAND_IN), self.dir("agents").join(agent.file_name().context("no name")?))?;
        for host in HOSTS {
            fs::hard_link(&agent, self.dir(&format!("roots/deptool-agent-{host}")))?;
        }
        fs::create_dir(self.dir("before"))?;
        self.sandbox.command("cp").args(["-a", "operator", "roots", "before"]).check()?;
        Ok(())
    }

    fn dir(&self, path: &str) -> PathBuf {
        self.sandbox.dir().join(path)
    }

    fn repo(&self) -> Repo<'_> {
        self.sandbox.repo_at(self.dir("operator"))
    }

    fn reset(&mut self) -> Result<()> {
        for dir in ["operator", "roots"] {
            fs::remove_dir_all(self.dir(dir))?;
        }
        self.sandbox.command("cp").args(["-a", "before/operator", "before/roots", "."]).check()?;
        Ok(())
    }

    fn sweep(&mut self, place: Place, choice: Choice, (worker, workers): (usize, usize)) -> Result<Tally> {
        let mut tally = Tally::default();
        let chosen = (0..).filter(|n| choice.takes(*n)).skip(worker).step_by(workers);
        for n in chosen {
            self.reset()?;
            let fault = place.fault(n);
            let pushed = self.push(Some(fault)).with_context(|| format!("{:?}, {fault:?}", self.manner))?;
            let Some(hit) = &pushed.hit else {
                // One direction of a connection has fewer messages than the other.
                if place == Place::Link && n < LINK_FAULTS {
                    continue;
                }
                ensure!(n > 40, "there are no more than {n} faults");
                return Ok(tally);
            };
            let name = format!("{:?}, {fault:?}, {hit}", self.manner);
            tally.note(&name, self.examine(&pushed));
        }
        Ok(tally)
    }

    /// Pushes, with or without a fault.
    fn push(&self, fault: Option<Fault>) -> Result<Pushed> {
        let passing = ["tmp/status", "tmp/report", "tmp/hit"].map(|name| self.dir(name));
        for file in &passing {
            let _ = fs::remove_file(file);
        }
        let [status, report, mark] = passing;
        let plain = r#"exec "$DEPTOOL_ROOT/../deptool-agent-${DEPTOOL_ROOT##*/}""#.to_owned();
        let script = match fault {
            Some(Fault::Link(fault)) => format!(
                r#"case "$DEPTOOL_ROOT" in */web2) if mkdir "$DEPTOOL_ROOT/../once" 2>/dev/null; then
                   exec '{}' link {} "$DEPTOOL_ROOT/../deptool-agent-web2" '{}'; fi ;; esac; {plain}"#,
                build::xtask()?.display(),
                fault.words(),
                mark.display()
            ),
            Some(Fault::Agent(..) | Fault::Helper(..)) | None => plain,
        };
        // The tracer waits for Git instead.
        let wrapper = "git \"$@\" >/dev/null 2>&1; echo $? >\"$STATUS\"";
        let command = self.sandbox.command("sh").args(["-c", wrapper, "sh"]).args(self.manner.command());
        let command = command.dir(self.dir("operator")).env("STATUS", &status).env("GIT_DEPTOOL_REPORT", &report);
        let command = command.env("DEPTOOL_AGENTS", self.dir("agents")).env("DEPTOOL_STAND_IN", script);
        let mut command = command.into_inner();
        command.stdin(Stdio::null());
        let mut leader = Leader::of(fault);
        let watched = if let Some(Fault::Agent(..)) = fault { AGENT } else { HELPER };
        trace::run(command, watched, &mut |call| leader.decide(call))?;
        if mark.exists() {
            leader.hit = Some("the link".into());
        }
        Ok(Pushed {
            hit: leader.hit,
            is_ok: fs::read_to_string(&status)?.trim() == "0",
            report: read_report(&fs::read_to_string(&report).unwrap_or_default())?,
            between_keeps: leader.is_killed && leader.keeps == 1,
        })
    }

    fn examine(&self, pushed: &Pushed) -> Result<Runs, String> {
        let fetch = || {
            let run = self.repo().git(&["fetch", "cluster"]);
            (run.success() && !run.stderr().contains("has been")).then_some(())
        };
        poll("a fetch heals", AT_REST, fetch).map_err(|error| format!("{error:#}"))?;
        let runs = self.judge()?;
        for (host, runs) in HOSTS.iter().zip(&runs) {
            let expected = match pushed.report.get(*host).map(String::as_str) {
                None | Some("unknown") if !pushed.is_ok => *runs,
                None | Some("done" | "not-noted") => Runs::New,
                Some(_) => Runs::Old,
            };
            if *runs != expected {
                return Err(format!("{host} is {runs:?}; it was said: {:?}", pushed.report));
            }
        }
        let is_mixed = runs[0] != runs[1];
        let is_unknown = pushed.report.values().any(|fate| fate == "unknown");
        if self.manner == Manner::Atomic && is_mixed && !pushed.between_keeps && !is_unknown {
            return Err(format!("some have it and some have not: {runs:?}; it was said: {:?}", pushed.report));
        }
        if runs != [Runs::New; 2] {
            let again = self.repo().git(self.manner.command());
            // The agents clean up after they have answered. A request waits for that.
            self.repo().git(&["fetch", "cluster"]);
            if !again.success() || self.judge()? != [Runs::New; 2] {
                return Err(format!("it can't be done any more: {}", again.stderr()));
            }
        }
        Ok(if runs == [Runs::New; 2] { Runs::New } else { Runs::Old })
    }

    /// What runs on each host. The operator must know it, and no host may be in doubt.
    fn judge(&self) -> Result<[Runs; 2], String> {
        let mut all = [Runs::Old; 2];
        for ((host, (old, new)), runs) in HOSTS.iter().zip(&self.states).zip(&mut all) {
            let root = self.sandbox.root(host);
            *runs = world::judge(&self.sandbox, &root, old, new).map_err(|wrong| format!("{host}: {wrong}"))?;
            let branch = fs::read_to_string(root.join("var/lib/deptool/store/refs/heads/prod")).unwrap_or_default();
            let tracked = self.repo().id_if_any(&format!("refs/remotes/{host}/prod")).unwrap_or_default();
            if tracked != branch.trim() {
                return Err(format!("'{tracked}' is tracked of {host}, which runs '{branch}'"));
            }
        }
        let marks = self.repo().git(&["for-each-ref", "refs/deptool/unsettled"]).stdout();
        if marks.is_empty() { Ok(all) } else { Err(format!("in doubt: {marks}")) }
    }
}

/// Hosts and their outcomes.
fn read_report(text: &str) -> Result<BTreeMap<String, String>> {
    let word = |line: &serde_json::Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    text.lines()
        .map(|line| {
            let line = serde_json::from_str(line).with_context(|| format!("in the report: {line}"))?;
            Ok((word(&line, "host"), word(&line, "outcome")))
        })
        .collect()
}

/// Decides about calls, and counts the hosts that were told to keep the deployment.
struct Leader {
    agent: Option<agent::Leader>,
    helper: Option<(usize, Deed)>,
    count: usize,
    keeps: usize,
    is_killed: bool,
    hit: Option<String>,
}

impl Leader {
    fn of(fault: Option<Fault>) -> Leader {
        let (agent, helper) = match fault {
            Some(Fault::Agent(at, fault)) => (Some(agent::Leader::new(at, fault)), None),
            Some(Fault::Helper(at, deed)) => (None, Some((at, deed))),
            Some(Fault::Link(_)) | None => (None, None),
        };
        Leader { agent, helper, count: 0, keeps: 0, is_killed: false, hit: None }
    }

    fn decide(&mut self, call: &Call) -> Deed {
        if let Some(leader) = &mut self.agent {
            let deed = leader.decide(call);
            self.hit = leader.hit.as_ref().map(Call::to_string);
            return deed;
        }
        let number = self.count;
        self.count += 1;
        let deed = match self.helper {
            Some((at, deed)) if at == number => deed,
            _ => Deed::Go,
        };
        if !self.is_killed && call.sends::<Request>(&["Keep"]) && matches!(deed, Deed::Go | Deed::KillAfter) {
            self.keeps += 1;
        }
        if deed != Deed::Go {
            self.hit = Some(call.to_string());
            self.is_killed = matches!(deed, Deed::KillBefore | Deed::KillAfter);
        }
        deed
    }
}
