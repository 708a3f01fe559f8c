//! `cargo xtask scale`: measures time, memory, processes and open files of deployments to 1, 10, 50 and 500 hosts.
//!
//! The hosts are local roots behind a fake ssh that only takes time to log in. The agents are real. Everything runs on
//! this computer, so with 500 hosts, its cores are the limit.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use deptool_tests::process::Cmd;
use deptool_tests::sandbox::{Repo, Sandbox, default_git};
use deptool_tests::simulation::Simulation;

use crate::dist;

const SIZES: [usize; 4] = [1, 10, 50, 500];
/// The time that ssh takes to log in.
const LOGIN: Duration = Duration::from_millis(100);
/// The time limit for one number of hosts.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(100);
/// OpenSSH's default: with this many connections that have not logged in, it starts to drop some.
const MAX_STARTUPS: usize = 10;

/// The maximum of each.
#[derive(Debug, Default, Clone, Copy)]
struct Peak {
    helper_kib: u64,
    helper_files: usize,
    helper_threads: u64,
    /// Git, helper, agents, and their children.
    processes: usize,
    all_kib: u64,
}

/// One command.
struct Measured {
    took: Duration,
    peak: Peak,
}

pub fn run() -> Result<()> {
    let prefix = dist::in_target()?;
    println!(
        "a login takes {} ms; times in s, memory in MB, peaks of a push that changes each host",
        LOGIN.as_millis()
    );
    println!(
        "{:>5} {:>6} {:>6} {:>6} {:>10} {:>7} {:>7} {:>8} {:>9} {:>9} {:>10}",
        "hosts",
        "first",
        "push",
        "fetch",
        "up to date",
        "dry run",
        "helper",
        "threads",
        "files",
        "processes",
        "all memory"
    );
    for hosts in SIZES {
        one_size(&prefix, hosts).with_context(|| format!("with {hosts} hosts"))?;
    }
    Ok(())
}

fn one_size(prefix: &Path, hosts: usize) -> Result<()> {
    let mut sandbox = Sandbox::make(&default_git(), prefix);
    let simulation = Simulation::new(&mut sandbox, &agent(prefix)?, LOGIN)?;
    let operator = sandbox.repo("operator");
    operator.add_remote("cluster", "deptool::@all");
    Simulation::write(&operator, hosts, "one");
    operator.commit("One");
    let measure = |args: &[&str]| measure(&simulation, operator.command(args));
    let first = measure(&["push", "-q", "cluster", "prod"])?;
    paced(&simulation, hosts)?;
    Simulation::write(&operator, hosts, "two");
    operator.commit("Two");
    let dry_run = measure(&["push", "-q", "--dry-run", "cluster", "prod"])?;
    let push = measure(&["push", "-q", "cluster", "prod"])?;
    paced(&simulation, hosts)?;
    check(&simulation, &operator, hosts)?;
    let up_to_date = measure(&["push", "-q", "cluster", "prod"])?;
    let fetch = measure(&["fetch", "-q", "cluster"])?;
    paced(&simulation, hosts)?;
    let (s, mb) = (|took: Duration| took.as_secs_f64(), |kib: u64| kib as f64 / 1000.0);
    println!(
        "{hosts:>5} {:>6.2} {:>6.2} {:>6.2} {:>10.3} {:>7.3} {:>7.1} {:>8} {:>9} {:>9} {:>10.0}",
        s(first.took),
        s(push.took),
        s(fetch.took),
        s(up_to_date.took),
        s(dry_run.took),
        mb(push.peak.helper_kib),
        push.peak.helper_threads,
        push.peak.helper_files,
        push.peak.processes,
        mb(push.peak.all_kib),
    );
    Ok(())
}

fn agent(prefix: &Path) -> Result<PathBuf> {
    let mut agents = std::fs::read_dir(prefix.join("lib/deptool/agents"))?;
    Ok(agents.next().context("no agent was built")??.path())
}

/// A jump host would not have dropped any connection.
fn paced(simulation: &Simulation, hosts: usize) -> Result<()> {
    let (all, at_once) = simulation.connections()?;
    ensure!(all == hosts, "{all} connections to {hosts} hosts");
    ensure!(at_once < MAX_STARTUPS, "{at_once} connections at once that were not logged in");
    Ok(())
}

fn check(simulation: &Simulation, operator: &Repo<'_>, hosts: usize) -> Result<()> {
    for host in (0..hosts).map(Simulation::host) {
        let file = simulation.root(&host).join("var/lib/deptool/apps/app/current/file");
        let content = std::fs::read_to_string(&file)?;
        ensure!(content == format!("{host} two\n"), "{}: {content}", file.display());
        ensure!(operator.id(&format!("refs/remotes/{host}/prod")) == operator.id("HEAD"), "the ref of {host}");
    }
    Ok(())
}

fn measure(simulation: &Simulation, command: Cmd) -> Result<Measured> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watching = scope.spawn(|| watch(simulation, &over));
        let began = Instant::now();
        let run = command.timeout(PATIENCE).check();
        let took = began.elapsed();
        over.store(true, Ordering::Relaxed);
        let peak = watching.join().unwrap_or_default();
        run.map(|_| Measured { took, peak })
    })
}

/// Measures all processes of the simulation repeatedly.
fn watch(simulation: &Simulation, over: &AtomicBool) -> Peak {
    let (mut peak, mut ours) = (Peak::default(), HashMap::new());
    while !over.load(Ordering::Relaxed) {
        let now = look(simulation, &mut ours);
        peak = Peak {
            helper_kib: peak.helper_kib.max(now.helper_kib),
            helper_files: peak.helper_files.max(now.helper_files),
            helper_threads: peak.helper_threads.max(now.helper_threads),
            processes: peak.processes.max(now.processes),
            all_kib: peak.all_kib.max(now.all_kib),
        };
        thread::sleep(LOOK);
    }
    peak
}

/// `ours` caches which processes have the simulation in their environment, which never changes.
fn look(simulation: &Simulation, ours: &mut HashMap<String, bool>) -> Peak {
    let mut peak = Peak::default();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes.filter_map(|entry| entry.file_name().into_string().ok()) {
        if !process.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let dir = Path::new("/proc").join(&process);
        let is_ours = *ours.entry(process).or_insert_with(|| {
            std::fs::read(dir.join("environ")).is_ok_and(|environment| simulation.is_in(&environment))
        });
        let Some(status) = is_ours.then(|| std::fs::read_to_string(dir.join("status")).ok()).flatten() else {
            continue;
        };
        let number = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()
        };
        peak.processes += 1;
        peak.all_kib += number("VmRSS").unwrap_or_default();
        // The kernel truncates names.
        if status.lines().next().is_some_and(|name| name.ends_with("git-remote-dept")) {
            peak.helper_kib = number("VmHWM").unwrap_or_default();
            peak.helper_threads = number("Threads").unwrap_or_default();
            peak.helper_files = std::fs::read_dir(dir.join("fd")).map_or(0, Iterator::count);
        }
    }
    peak
}
