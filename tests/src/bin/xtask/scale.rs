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
    print!("{}", measure_all(&dist::in_target()?)?);
    Ok(())
}

/// Returns the results as a table.
pub fn measure_all(prefix: &Path) -> Result<String> {
    let mut table = String::from(
        "| hosts | first push | push | fetch | up to date | plan | helper | its threads | its open files | processes | \
         memory of the others |\n| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for hosts in SIZES {
        eprintln!("{hosts} hosts behind a fake ssh");
        table += &one_size(prefix, hosts).with_context(|| format!("with {hosts} hosts"))?;
    }
    Ok(table)
}

/// A row of the table.
fn one_size(prefix: &Path, hosts: usize) -> Result<String> {
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
    let seconds = |took: Duration| format!("{:.2} s", took.as_secs_f64());
    let milliseconds = |took: Duration| format!("{} ms", took.as_millis());
    let megabytes = |kib: u64| format!("{:.0} MB", kib as f64 * 1024.0 / 1e6);
    let peak = push.peak;
    let cells = [
        hosts.to_string(),
        seconds(first.took),
        seconds(push.took),
        seconds(fetch.took),
        milliseconds(up_to_date.took),
        milliseconds(dry_run.took),
        megabytes(peak.helper_kib),
        peak.helper_threads.to_string(),
        peak.helper_files.to_string(),
        peak.processes.to_string(),
        megabytes(peak.all_kib.saturating_sub(peak.helper_kib)),
    ];
    Ok(format!("| {} |\n", cells.join(" | ")))
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
