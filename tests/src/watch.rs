//! Measures the memory of helper and agent while a command runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::process::{Cmd, Run};
use anyhow::Result;

/// The kernel keeps a high-water mark, so it is enough to look at it from time to time.
const INTERVAL: Duration = Duration::from_millis(10);

/// The maximum resident memory of each kind of process, in KiB, and of the helper's threads.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peak {
    pub helper: u64,
    pub agent: u64,
    pub threads: usize,
}

/// Runs a command that must succeed, and measures the helpers and agents among its descendants.
pub fn check(command: Cmd) -> Result<(Run, Peak)> {
    let (run, peak) = run(command)?;
    anyhow::ensure!(run.success(), "{run}");
    Ok((run, peak))
}

/// Runs a command, and measures the helpers and agents among its descendants.
pub fn run(command: Cmd) -> Result<(Run, Peak)> {
    let going = command.start()?;
    let root = going.pid().as_raw_nonzero().get();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peak = Peak::default();
            while !is_over.load(Ordering::Relaxed) {
                look(root, &mut peak);
                std::thread::sleep(INTERVAL);
            }
            peak
        });
        let run = going.wait();
        is_over.store(true, Ordering::Relaxed);
        let peak = watcher.join().unwrap_or_default();
        Ok((run?, peak))
    })
}

/// Measures a process and its descendants, which may exit at any time.
fn look(pid: i32, peak: &mut Peak) {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if name.starts_with("git-remote-dept") || name.starts_with("git-deptool") {
        peak.helper = peak.helper.max(resident(pid));
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        peak.threads = peak.threads.max(threads);
    } else if name.starts_with("deptool-agent") {
        peak.agent = peak.agent.max(resident(pid));
    }
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for thread in threads.flatten() {
        let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        children.split_whitespace().filter_map(|child| child.parse().ok()).for_each(|child| look(child, peak));
    }
}

/// The maximum resident memory of a process so far, in KiB.
pub fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}

/// The number as text.
pub fn megabytes(kib: u64) -> String {
    format!("{:.1} MB", kib as f64 * 1024.0 / 1e6)
}
