//! `cargo xtask bench`: what a deployment costs, against `ssh host true` in the same run.
//!
//! This computer's speed, and what else it does, drop out of a ratio: only ratios mean something. Each round measures
//! everything once, so that all of it saw the same weather; the table has the medians.

use std::time::Duration;

use anyhow::{Context as _, Result};
use deptool_tests::lab::{HostSpec, Lab, Link};
use deptool_tests::process::Cmd;
use deptool_tests::sandbox::{Repo, Sandbox, default_git};

use crate::{dist, needs};

const ROUNDS: usize = 15;

/// Readiness is known when its process has ended: nothing is waited for but its work.
const ONESHOT: &str = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=true\n";
const MANIFEST: &str = r#"{"systemd": {"units_enabled": ["bench.service"]}}"#;

/// The measurements of one thing.
struct Series {
    name: String,
    /// What it is compared with: the series of that index.
    floor: usize,
    took: Vec<Duration>,
}

/// What is measured in each round.
struct Bench<'a> {
    lab: &'a Lab,
    sandbox: &'a mut Sandbox,
    series: Vec<Series>,
    round: usize,
}

pub fn run() -> Result<()> {
    needs::to_test()?;
    let prefix = dist::in_target()?;
    let lab = Lab::start(&[HostSpec::new("web1"), HostSpec::new("web2")])?;
    let mut sandbox = Sandbox::make(&default_git(), &prefix);
    sandbox.set_link(&lab, Link::Plain);
    make_tree(&sandbox.repo("operator"));

    let first = first_contact(&lab, &sandbox)?;
    let mut bench = Bench { lab: &lab, sandbox: &mut sandbox, series: Vec::new(), round: 0 };
    // One round more, not counted: the first is never like the others.
    for round in 0..=ROUNDS {
        bench.round = round;
        bench.all()?;
        eprint!("\rround {round} of {ROUNDS}");
    }
    eprintln!();
    let (ssh, push) = first;
    println!("first contact, agent uploaded: {:.1} times ssh ({} / {})", ratio(push, ssh), ms(push), ms(ssh));
    bench.print();
    agent_size(&prefix)
}

/// `web1/files` has files alone, `web2/unit` a unit too.
fn make_tree(repo: &Repo<'_>) {
    repo.write("web1/files/file", "0");
    repo.write("web2/unit/file", "0");
    repo.write("web2/unit/systemd/bench.service", ONESHOT);
    repo.write("web2/unit/manifest.json", MANIFEST);
    repo.commit("Begin");
    for host in ["web1", "web2"] {
        repo.add_remote(host, &format!("deptool::{host}"));
    }
}

/// The first `ssh host true` and the first push.
fn first_contact(lab: &Lab, sandbox: &Sandbox) -> Result<(Duration, Duration)> {
    let repo = sandbox.repo_at(sandbox.dir().join("operator"));
    let mut pairs = Vec::new();
    for host in ["web1", "web2"] {
        let ssh = lab.host(host).ssh_command(Link::Plain, "root", &["true"]).check()?.took;
        let push = repo.command(&["push", "-q", host, "prod"]).check()?.took;
        pairs.push((ssh, push));
    }
    pairs.into_iter().next().context("no host")
}

impl Bench<'_> {
    fn all(&mut self) -> Result<()> {
        for (link, name) in [(Link::Plain, "own connection"), (Link::Shared, "shared connection")] {
            self.sandbox.set_link(self.lab, link);
            let ssh = self.ssh(link, &format!("ssh host true, {name}"))?;
            self.push("web1", "web1/files/file", ssh, &format!("one file, {name}"))?;
            self.push("web2", "web2/unit/file", ssh, &format!("one file and a oneshot unit, {name}"))?;
        }
        self.up_to_date()
    }

    /// Returns the index of its series, to compare others with.
    fn ssh(&mut self, link: Link, name: &str) -> Result<usize> {
        let took = self.lab.host("web1").ssh_command(link, "root", &["true"]).check()?.took;
        let index = self.series.iter().position(|series| series.name == name).unwrap_or(self.series.len());
        self.add(name, index, took);
        Ok(index)
    }

    fn push(&mut self, host: &str, file: &str, floor: usize, name: &str) -> Result<()> {
        let repo = self.sandbox.repo_at(self.sandbox.dir().join("operator"));
        repo.write(file, format!("{} {name}", self.round));
        repo.commit(name);
        let took = repo.command(&["push", "-q", host, "prod"]).check()?.took;
        self.add(name, floor, took);
        Ok(())
    }

    fn up_to_date(&mut self) -> Result<()> {
        let repo = self.sandbox.repo_at(self.sandbox.dir().join("operator"));
        repo.command(&["push", "-q", "web1", "prod"]).check()?;
        let git = repo.command(&["rev-parse", "-q", "--verify", "HEAD"]).check()?.took;
        let push = repo.command(&["push", "-q", "web1", "prod"]).check()?.took;
        let name = "git rev-parse HEAD";
        let floor = self.series.iter().position(|series| series.name == name).unwrap_or(self.series.len());
        self.add(name, floor, git);
        self.add("push that is up to date", floor, push);
        Ok(())
    }

    fn add(&mut self, name: &str, floor: usize, took: Duration) {
        let took = if self.round == 0 { Vec::new() } else { vec![took] };
        match self.series.iter_mut().find(|series| series.name == name) {
            Some(series) => series.took.extend(took),
            None => self.series.push(Series { name: name.to_owned(), floor, took }),
        }
    }

    fn print(&self) {
        println!("{:<50} {:>10} {:>10}", "", "ratio", "median");
        for series in &self.series {
            let median = median(&series.took);
            let floor = self::median(&self.series[series.floor].took);
            println!("{:<50} {:>10.2} {:>10}", series.name, ratio(median, floor), ms(median));
        }
    }
}

fn median(took: &[Duration]) -> Duration {
    let mut sorted = took.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64().max(f64::EPSILON)
}

fn ms(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1000.0)
}

fn agent_size(prefix: &std::path::Path) -> Result<()> {
    for entry in std::fs::read_dir(prefix.join("lib/deptool/agents"))? {
        let agent = entry?.path();
        let size = std::fs::metadata(&agent)?.len();
        let sent = Cmd::new("gzip").args(["-c", "-6"]).arg(&agent).check()?.stdout.len();
        let name = agent.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        println!("{name}: {:.2} MB, {:.2} MB compressed", size as f64 / 1e6, sent as f64 / 1e6);
    }
    Ok(())
}
