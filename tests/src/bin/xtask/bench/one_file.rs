//! A push of one file to a local root: its processor time, and what slow disks cost.

use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use deptool_tests::process::Cmd;
use deptool_tests::sandbox::{Repo, Sandbox, default_git};
use deptool_tests::trace::{self, Deed, FLUSHES, Watched};

use super::report::{Aim, Row, Table};
use super::{Effort, measure, original::Original};

/// What a flush takes longer than on this computer, as on a disk of a cloud.
const SLOWER: Duration = Duration::from_millis(3);
const LOCAL: Row = Row::floor("one file, local root: operator and host");
/// The tracer stops each process at each change, which takes time, too.
const TRACED: Row = Row::floor("one file, local root, traced");
/// Ten flushes: two here, eight on the host.
const SLOW: Row = Row::ours("the same, each flush 3 ms longer", &TRACED, Aim::Above(Duration::from_millis(30)));
/// It flushes nothing.
const ORIGINAL: Row = Row::peer("Deptool: the commit and one file, without ssh, traced", &TRACED);
const ORIGINAL_SLOW: Row = Row::peer("Deptool: the same, each flush 3 ms longer", &TRACED);

pub fn run(table: &mut Table, prefix: &Path, effort: Effort) -> Result<()> {
    let sandbox = Sandbox::make(&default_git(), prefix);
    let operator = sandbox.repo("operator");
    operator.add_root("web1");
    let original =
        Original::program().map(|program| Original::new(sandbox.dir().join("original"), program)).transpose()?;
    if let Some(original) = &original {
        original.deploy_here("first")?.check()?;
    }
    let rounds = effort.choose(20, 8);
    for round in 0..=rounds {
        change(&operator, round, "processor time");
        let sample = measure(operator.command(&["push", "-q", "web1", "prod"]))?;
        // The first deployment is different.
        if round > 0 {
            table.add(LOCAL, sample);
        }
        for (row, longer) in [(TRACED, Duration::ZERO), (SLOW, SLOWER)] {
            change(&operator, round, row.name);
            let took = traced(operator.command(&["push", "-q", "web1", "prod"]), longer)?;
            if round > 0 {
                table.add(row, took);
            }
        }
        for (row, longer) in [(ORIGINAL, Duration::ZERO), (ORIGINAL_SLOW, SLOWER)] {
            let Some(original) = &original else { continue };
            let content = format!("{round} {}", row.name);
            let took = traced(original.deploy_here(&content)?, longer)?;
            ensure!(original.deployed_here()? == content, "Deptool has not put the file there");
            if round > 0 {
                table.add(row, took);
            }
        }
    }
    Ok(())
}

/// How long a command takes if each flush takes longer.
fn traced(command: Cmd, longer: Duration) -> Result<Duration> {
    let mut command = command.into_inner();
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let begun = Instant::now();
    trace::run(command, Watched::Everybody, &mut |call| {
        if FLUSHES.contains(&call.name) {
            thread::sleep(longer);
        }
        Deed::Go
    })?;
    Ok(begun.elapsed())
}

fn change(operator: &Repo<'_>, round: u32, what: &str) {
    operator.write("web1/app/file", format!("{round} {what}"));
    operator.commit(what);
}
