//! Many deployments to one host: the last ones are as fast as the first ones, and nothing grows without limit.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::state::{self, AGENTS};

/// The limit for files in the store. Packs are combined before there are many more than fifty.
const MOST_FILES: usize = 220;
/// The number of deployments in a median.
const SOME: usize = 20;
/// The number of agents that a host keeps.
const MOST_AGENTS: usize = 3;

/// The result of many deployments.
#[derive(Debug)]
pub struct Many {
    pub deployments: usize,
    /// The median of the first twenty, and of the last.
    pub first: Duration,
    pub last: Duration,
    /// The maximum number of files in the store.
    pub files: usize,
}

impl std::fmt::Display for Many {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Many { deployments, first, last, files } = self;
        let ratio = last.as_secs_f64() / first.as_secs_f64();
        write!(f, "{deployments} deployments: the last {SOME} took {ratio:.2} of the time of the first {SOME} ")?;
        write!(f, "({:.1?} and {:.1?}); at most {files} files in the store", last, first)
    }
}

/// Makes this many deployments, each of another commit, to a new root. It is an error if files are left behind.
pub fn deploy(deployments: usize) -> Result<Many> {
    let temporary = super::world::in_memory()?;
    let sandbox = super::world::sandbox_at(temporary.path())?;
    let root = sandbox.root("web1");
    let repo = sandbox.repo("operator");
    repo.add_root("web1");
    for file in 0..20 {
        repo.write(format!("web1/same/{file}"), "the same in all deployments\n");
    }
    repo.write("web1/web/manifest.json", r#"{"symlinks": {"/etc/web": "file"}}"#);
    leave_old_agents(&root)?;
    let (mut times, mut most) = (Vec::new(), 0);
    for n in 0..deployments {
        repo.write("web1/web/file", format!("{n}\n"));
        repo.commit("Another one");
        let start = Instant::now();
        let push = repo.git(&["push", "-o", "take-over", "web1", "prod"]);
        times.push(start.elapsed());
        ensure!(push.success(), "{push}");
        let files = count(&root.join("var/lib/deptool/store"));
        ensure!(files <= MOST_FILES, "after {n} deployments the store has {files} files");
        most = most.max(files);
    }
    let left = state::left_over(&root);
    ensure!(left.is_empty(), "left over: {}", left.join("; "));
    let agents = count(&root.join(AGENTS));
    ensure!(agents <= MOST_AGENTS, "there are {agents} agents");
    let runs = String::from_utf8(sandbox.read("web1", "/etc/web"))?;
    ensure!(runs == format!("{}\n", deployments - 1), "another one runs: {runs}");
    let store = root.join("var/lib/deptool/store");
    if let Some(wrong) = state::fsck(sandbox.command("git"), &store) {
        anyhow::bail!(wrong);
    }
    let median = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort();
        times[times.len() / 2]
    };
    let (first, last) = (median(&times[..SOME]), median(&times[deployments - SOME..]));
    Ok(Many { deployments, first, last, files: most })
}

/// Agents of other builds, as updates leave them on hosts.
fn leave_old_agents(root: &Path) -> Result<()> {
    let dir = root.join(AGENTS);
    std::fs::create_dir_all(&dir)?;
    for build in 0..2 * MOST_AGENTS {
        std::fs::write(dir.join(format!("deptool-agent-0.0.{build}-x")), "")?;
    }
    Ok(())
}

fn count(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
}
