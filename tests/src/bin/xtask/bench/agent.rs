//! The agent alone: its size, the time until its hello, and its memory then.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use deptool_agent::shared::encoding::from_slice;
use deptool_agent::shared::frame::encode;
use deptool_agent::shared::wire::{Request, Response};
use deptool_tests::build::{Platform, Version};
use deptool_tests::process::Cmd;
use deptool_tests::sandbox::{Sandbox, default_git};
use deptool_tests::watch;

use super::report::{Aim, Row, Table};

const HELLOS: usize = 30;
const TRUE: Row = Row::floor("`true`, started");
/// A host with this many apps, each with this many files and symlinks outside: 10,000 files and 1,000 symlinks.
const APPS: usize = 20;
const FILES: usize = 500;
const LINKS: usize = 50;
const VERIFIES: usize = 15;
const HELLO: Row = Row::ours("the agent's hello, from its start", &TRUE, Aim::Within(Duration::from_millis(2)));

/// Comparing a host with what was deployed, for which the deployed tree is read from the store.
const VERIFY_FEW: Row = Row::floor("`verify` on the host: 1 file");
const VERIFY: Row = Row::ours("`verify` on the host: 10,000 files, 1,000 links", &VERIFY_FEW, Aim::None);

pub fn run(table: &mut Table, prefix: &Path) -> Result<()> {
    let version = Version::of(&prefix.join("bin/git-remote-deptool"))?;
    let name = format!("deptool-agent-{}-{}-{}", version.version, version.build, Platform::here().name());
    let agent = prefix.join("lib/deptool/agents").join(name);
    let root = tempfile::tempdir()?;
    let mut most = 0;
    for _ in 0..HELLOS {
        table.add(TRUE, Cmd::new("true").check()?.took);
        let agent = Agent::start(&agent, root.path(), &version.build)?;
        table.add(HELLO, agent.begun.elapsed());
        most = most.max(agent.resident()?);
    }
    let sandbox = Sandbox::make(&default_git(), prefix);
    deploy_many(&sandbox)?;
    for (row, host) in (0..VERIFIES).flat_map(|_| [(VERIFY_FEW, "few"), (VERIFY, "web1")]) {
        let mut agent = Agent::start(&agent, &sandbox.root(host), &version.build)?;
        let begun = Instant::now();
        ensure!(agent.verify()? == Response::End, "the host has drifted");
        table.add(row, begun.elapsed());
    }
    let size = std::fs::metadata(&agent)?.len();
    let sent = Cmd::new("gzip").args(["-c", "-6"]).arg(&agent).check()?.stdout.len();
    let megabytes = |bytes: f64| format!("{:.3} MB", bytes / 1e6);
    table.fact(format!("the agent for {}", Platform::here().name()), megabytes(size as f64), "≤ 1.6 MB");
    table.fact("as it travels, compressed", megabytes(sent as f64), "");
    table.fact("memory of an agent that has said hello", watch::megabytes(most), "≤ 8 MB");
    Ok(())
}

fn deploy_many(sandbox: &Sandbox) -> Result<()> {
    let operator = sandbox.repo("operator");
    for app in 0..APPS {
        let file = |file: usize| format!("conf/{}/some-file-{file:03}.conf", file / LINKS);
        (0..FILES).for_each(|number| operator.write(format!("web1/app-{app}/{}", file(number)), format!("{number}\n")));
        let links: Vec<_> = (0..LINKS).map(|link| format!(r#""/etc/app-{app}/{link}": "{}""#, file(link))).collect();
        operator.write(format!("web1/app-{app}/manifest.json"), format!(r#"{{"symlinks": {{{}}}}}"#, links.join(",")));
    }
    operator.write("few/app/file", "one");
    operator.commit("Many files and few");
    for host in ["few", "web1"] {
        operator.add_root(host);
        operator.command(&["push", "-q", host, "prod"]).check()?;
    }
    Ok(())
}

/// An agent on a local root, after its hello. It ends when it is dropped.
struct Agent {
    child: Child,
    begun: Instant,
    output: BufReader<ChildStdout>,
}

impl Agent {
    fn start(agent: &Path, root: &Path, build: &str) -> Result<Agent> {
        let mut command = Cmd::new(agent).env("DEPTOOL_ROOT", root).into_inner();
        let begun = Instant::now();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        writeln!(child.stdin.as_mut().context("no pipe")?, "deptool-hello {build}")?;
        let output = BufReader::new(child.stdout.take().context("no pipe")?);
        let mut agent = Agent { child, begun, output };
        let mut line = String::new();
        agent.output.read_line(&mut line)?;
        ensure!(line.starts_with("deptool-agent "), "the agent says '{line}'");
        agent.receive()?;
        Ok(agent)
    }

    /// One frame: its length in four bytes, then the message.
    fn receive(&mut self) -> Result<Response> {
        let mut length = [0; 4];
        self.output.read_exact(&mut length)?;
        let mut message = vec![0; u32::from_be_bytes(length) as usize];
        self.output.read_exact(&mut message)?;
        Ok(from_slice(&message)?)
    }

    /// The first answer: the end, if there is no drift.
    fn verify(&mut self) -> Result<Response> {
        self.child.stdin.as_mut().context("no pipe")?.write_all(&encode(&Request::Verify)?)?;
        self.receive()
    }

    /// Its memory, in KiB.
    fn resident(&self) -> Result<u64> {
        Ok(watch::resident(i32::try_from(self.child.id())?))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It was started by us, so it can be waited for.
        let _ = self.child.wait();
    }
}
