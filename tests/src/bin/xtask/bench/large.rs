//! Many files, a large file, many hosts, many deployments: on local roots, without ssh.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use deptool_tests::process::Cmd;
use deptool_tests::sandbox::{BRANCH, Sandbox, default_git};
use deptool_tests::watch::{self, Peak};

use super::report::{Aim, Row, Table};
use super::{Effort, measure};

const COPY: Row = Row::floor("`cp -r` of 10,000 files, and `sync`");
const MANY: Row = Row::ours("10,000 files, all of them new", &COPY, Aim::None);
const MANY_ONE: Row = Row::ours("10,000 files, one of them changed", &COPY, Aim::None);
const COPY_LARGE: Row = Row::floor("`cp` of a file of 100 MiB, and `sync`");
const LARGE: Row = Row::ours("a file of 100 MiB", &COPY_LARGE, Aim::Times(3.0));
const ADD: Row = Row::floor("`git add` of 50,000 files, and `git write-tree`");
const SNAPSHOT: Row = Row::ours("the first `git deptool snapshot` of them", &ADD, Aim::Within(Duration::from_secs(5)));
const EARLY: Row = Row::floor("one of the first deployments, local root");
const LATE: Row = Row::ours("one of the last of many, local root", &EARLY, Aim::Times(1.1));
const DIFF: Row = Row::floor("`git diff --stat` of 500 hosts");
const PLAN: Row = Row::ours("the plan for 500 hosts, 10 apps each", &DIFF, Aim::Within(Duration::from_millis(50)));

const LIMIT: Duration = Duration::from_secs(600);

pub fn run(table: &mut Table, prefix: &Path, effort: Effort) -> Result<()> {
    let bench = Bench { prefix, effort };
    eprintln!("500 hosts");
    bench.plan(table)?;
    eprintln!("10,000 files");
    bench.many(table)?;
    eprintln!("a large file");
    bench.large(table)?;
    eprintln!("50,000 files");
    bench.snapshot(table)?;
    eprintln!("many deployments");
    bench.old(table)
}

struct Bench<'a> {
    prefix: &'a Path,
    effort: Effort,
}

impl Bench<'_> {
    fn sandbox(&self) -> Sandbox {
        Sandbox::make(&default_git(), self.prefix)
    }

    /// 500 hosts run a commit, and the next one changes a file of each host.
    fn plan(&self, table: &mut Table) -> Result<()> {
        let sandbox = self.sandbox();
        let repo = sandbox.repo("operator");
        repo.command(&["fast-import", "--quiet"]).input(five_hundred_hosts()).check()?;
        repo.git(&["pack-refs", "--all"]);
        repo.add_remote("cluster", "deptool::@all");
        let mut most = Peak::default();
        for _ in 0..self.effort.choose(15, 5) {
            let diff = repo.command(&["diff", "--stat", "prod~1", "prod"]).check()?.took;
            let (run, peak) = watch::check(repo.command(&["push", "--dry-run", "cluster", BRANCH]))?;
            anyhow::ensure!(run.stderr().contains("h499"), "that is no plan: {run}");
            table.add(DIFF, diff);
            table.add(PLAN, run.took);
            most.helper = most.helper.max(peak.helper);
        }
        table.fact("memory of the helper, for that plan", watch::megabytes(most.helper), "≤ 64 MB");
        Ok(())
    }

    fn many(&self, table: &mut Table) -> Result<()> {
        let sandbox = self.sandbox();
        let repo = sandbox.repo("operator");
        repo.add_root("web1");
        for round in 0..self.effort.choose(3, 1) {
            let mut files = 0;
            for (app, file) in (0..10).flat_map(|app| (0..1000).map(move |file| (app, file))) {
                files += 1;
                repo.write(format!("web1/app{app}/{}/{file}", file / 100), format!("{round} {files}\n").repeat(100));
            }
            repo.commit("Many files");
            table.add(COPY, copy(&repo.dir.join("web1"), &sandbox.dir().join("copy"))?);
            let (run, peak) = watch::check(repo.command(&["push", "-q", "web1", BRANCH]).timeout(LIMIT))?;
            table.add(MANY, run.took);
            if round == 0 {
                memory(table, "10,000 new files", peak, "");
            }
            repo.write("web1/app0/0/0", format!("changed {round}"));
            repo.commit("One file");
            table.add(MANY_ONE, measure(repo.command(&["push", "-q", "web1", BRANCH]).timeout(LIMIT))?);
        }
        Ok(())
    }

    /// Files that can't be compressed: some whose time is measured, and a larger one for the memory.
    fn large(&self, table: &mut Table) -> Result<()> {
        let sandbox = self.sandbox();
        let repo = sandbox.repo("operator");
        repo.add_root("web1");
        std::fs::create_dir_all(repo.dir.join("web1/app"))?;
        repo.git(&["config", "core.compression", "0"]).ok();
        repo.git(&["config", "core.bigFileThreshold", "4m"]).ok();
        let most = self.effort.choose(1024, 256);
        for (round, megabytes) in [100, 100, 100, 100, 100, most].into_iter().enumerate() {
            noise(&repo.dir.join("web1/app/large"), megabytes, round as u64)?;
            repo.commit("A large file");
            let copied = copy(&repo.dir.join("web1"), &sandbox.dir().join("copy"))?;
            let push = repo.command(&["push", "-q", "web1", BRANCH]).timeout(LIMIT);
            if megabytes == most {
                memory(table, &format!("a file of {megabytes} MiB"), watch::check(push)?.1, "≤ 64 MB each");
            } else {
                table.add(COPY_LARGE, copied);
                table.add(LARGE, measure(push)?);
            }
        }
        Ok(())
    }

    fn snapshot(&self, table: &mut Table) -> Result<()> {
        for _ in 0..self.effort.choose(3, 1) {
            let sandbox = self.sandbox();
            let rendered = sandbox.dir().join("rendered");
            for at in 0..50_000 {
                let dir = rendered.join(format!("web{}/app/{}", at / 1000, at / 100));
                if at % 100 == 0 {
                    std::fs::create_dir_all(&dir)?;
                }
                std::fs::write(dir.join(at.to_string()), format!("{at}\n").repeat(100))?;
            }
            let work_tree = format!("--work-tree={}", rendered.display());
            let repo = sandbox.repo("git");
            let add = measure(repo.command(&[&work_tree, "add", "-A"]).timeout(LIMIT))?;
            let tree = measure(repo.command(&["write-tree"]))?;
            table.add(ADD, add + tree);
            let repo = sandbox.repo("deptool");
            repo.git(&["config", "deptool.cluster", BRANCH]).ok();
            let directory = rendered.display().to_string();
            table.add(SNAPSHOT, measure(repo.command(&["deptool", "snapshot", &directory]).timeout(LIMIT))?);
        }
        Ok(())
    }

    /// Compares the thousandth deployment with the first.
    fn old(&self, table: &mut Table) -> Result<()> {
        let sandbox = self.sandbox();
        let repo = sandbox.repo("operator");
        repo.add_root("web1");
        let (count, sample) = self.effort.choose((1000, 40), (120, 20));
        for n in 0..=count {
            repo.write("web1/app/file", n.to_string());
            repo.commit("Change");
            let push = measure(repo.command(&["push", "-q", "web1", BRANCH]))?;
            match n {
                0 => {}
                n if n <= sample => table.add(EARLY, push),
                n if n > count - sample => table.add(LATE, push),
                _ => {}
            }
        }
        table.note(format!("The first are deployments 1 to {sample}, the last {} to {count}.", count - sample + 1));
        Ok(())
    }
}

fn memory(table: &mut Table, what: &str, peak: Peak, aim: &'static str) {
    let (helper, agent) = (watch::megabytes(peak.helper), watch::megabytes(peak.agent));
    table.fact(format!("memory of helper and agent, for {what}"), format!("{helper}, {agent}"), aim);
}

/// The time for a plain copy that is as durable as a deployment.
fn copy(from: &Path, to: &Path) -> Result<Duration> {
    let script = "rm -rf \"$2\" && sync -f \"$1\" && date +%s%N && cp -r \"$1\" \"$2\" && sync -f \"$2\" && date +%s%N";
    let run = Cmd::new("sh").args(["-c", script, "copy"]).arg(from).arg(to).timeout(LIMIT).check()?;
    let times: Vec<u64> = run.stdout().lines().filter_map(|line| line.parse().ok()).collect();
    match times[..] {
        [begun, ended] => Ok(Duration::from_nanos(ended.saturating_sub(begun))),
        _ => anyhow::bail!("{run}"),
    }
}

/// A file of this many MiB that can't be compressed: the output of a generator (xorshift).
fn noise(path: &Path, megabytes: usize, seed: u64) -> Result<()> {
    let mut file = std::fs::File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 + seed;
    let mut chunk = Vec::with_capacity(1 << 20);
    for _ in 0..megabytes {
        chunk.clear();
        while chunk.len() < 1 << 20 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.extend(state.to_le_bytes());
        }
        file.write_all(&chunk)?;
    }
    Ok(())
}

/// Input for git-fast-import(1): two commits of 500 hosts with 10 apps of 10 files, of which the second changes one
/// file of each host. Every host is known to run the first.
fn five_hundred_hosts() -> String {
    let who = "committer Ada Operator <ada@example.org> 1700000000 +0000";
    let mut text = format!("commit refs/heads/{BRANCH}\nmark :1\n{who}\ndata 5\nBegin\n");
    for (host, app, file) in (0..500).flat_map(|h| (0..100).map(move |n| (h, n / 10, n % 10))) {
        let content = format!("{host} {app} {file}\n");
        let _ = write!(text, "M 644 inline h{host}/app{app}/file{file}\ndata {}\n{content}\n", content.len());
    }
    let _ = write!(text, "\ncommit refs/heads/{BRANCH}\n{who}\ndata 6\nChange\nfrom :1\n");
    for host in 0..500 {
        let content = format!("changed {host}\n");
        let _ = write!(text, "M 644 inline h{host}/app0/file0\ndata {}\n{content}\n", content.len());
    }
    for host in 0..500 {
        let _ = write!(text, "\nreset refs/remotes/h{host}/{BRANCH}\nfrom :1\n");
    }
    text + "\n"
}
