//! The agent alone: its size, the time until its hello, and its memory then.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use deptool_tests::build::{Platform, Version};
use deptool_tests::process::Cmd;
use deptool_tests::watch;

use super::report::{Aim, Row, Table};

const HELLOS: usize = 30;
const TRUE: Row = Row::floor("`true`, started");
const HELLO: Row = Row::ours("the agent's hello, from its start", &TRUE, Aim::Within(Duration::from_millis(2)));

pub fn run(table: &mut Table, prefix: &Path) -> Result<()> {
    let version = Version::of(&prefix.join("bin/git-remote-deptool"))?;
    let name = format!("deptool-agent-{}-{}-{}", version.version, version.build, Platform::here().name());
    let agent = prefix.join("lib/deptool/agents").join(name);
    let root = tempfile::tempdir()?;
    let mut most = 0;
    for _ in 0..HELLOS {
        table.add(TRUE, Cmd::new("true").check()?.took);
        let (took, resident) = hello(&agent, root.path(), &version.build)?;
        table.add(HELLO, took);
        most = most.max(resident);
    }
    let size = std::fs::metadata(&agent)?.len();
    let sent = Cmd::new("gzip").args(["-c", "-6"]).arg(&agent).check()?.stdout.len();
    let megabytes = |bytes: f64| format!("{:.3} MB", bytes / 1e6);
    table.fact(format!("the agent for {}", Platform::here().name()), megabytes(size as f64), "≤ 1.6 MB");
    table.fact("as it travels, compressed", megabytes(sent as f64), "");
    table.fact("memory of an agent that has said hello", watch::megabytes(most), "≤ 8 MB");
    Ok(())
}

/// Starts the agent on a local root. Returns the time until its hello was read, and its memory then, in KiB.
fn hello(agent: &Path, root: &Path, build: &str) -> Result<(Duration, u64)> {
    let mut command = Cmd::new(agent).env("DEPTOOL_ROOT", root).into_inner();
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("no pipe")?;
    writeln!(input, "deptool-hello {build}")?;
    let mut output = BufReader::new(child.stdout.take().context("no pipe")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    ensure!(line.starts_with("deptool-agent "), "the agent says '{line}'");
    // One frame: its length in four bytes, then the message.
    let mut length = [0; 4];
    output.read_exact(&mut length)?;
    let mut message = vec![0; u32::from_be_bytes(length) as usize];
    output.read_exact(&mut message)?;
    let took = begun.elapsed();
    let resident = watch::resident(i32::try_from(child.id())?);
    drop(input);
    child.wait()?;
    Ok((took, resident))
}
