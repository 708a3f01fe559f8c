//! `cargo xtask bench`: measures deployments, each as a ratio to a baseline that is measured in the same run.
//!
//! A ratio does not depend on this computer's speed and other load, so only ratios are meaningful. Each round measures
//! everything once, under the same conditions; the table has the medians.
//!
//! ```text
//! hosts    deployments to the lab's hosts, against `ssh host true`     peers     Ansible and pyinfra, doing the same
//! large    many files, a large one, many hosts, on local roots         original  Deptool, doing the same
//! one_file processor time, slow disks                                  agent     the agent alone
//! fleet    50 distant hosts                                            report    the table, the plot, the baseline
//! ```

mod agent;
mod fleet;
mod hosts;
mod large;
mod one_file;
mod original;
mod peers;
mod report;

use std::time::Duration;

use anyhow::{Result, bail};
use deptool_tests::process::Cmd;
use nix::sys::resource::{UsageWho, getrusage};

use crate::{dist, needs, profile, scale};
use report::{Sample, Table};

/// How thorough a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// About a quarter of an hour, with `--save`.
    Full,
    /// Less than two minutes: fewer rounds, smaller files, no other tools.
    Quick,
}

impl Effort {
    /// One of two numbers.
    fn choose<T>(self, full: T, quick: T) -> T {
        match self {
            Effort::Full => full,
            Effort::Quick => quick,
        }
    }
}

pub fn run(args: &[&str]) -> Result<()> {
    let known = ["--quick", "--save", "--no-peers"];
    if args.iter().any(|arg| !known.contains(arg)) {
        bail!("usage: cargo xtask bench [--quick] [--no-peers] [--save]");
    }
    let effort = if args.contains(&"--quick") { Effort::Quick } else { Effort::Full };
    needs::to_test()?;
    let prefix = dist::in_target()?;
    let mut table = Table::default();
    let with_peers = effort == Effort::Full && !args.contains(&"--no-peers");
    let peers = if with_peers { peers::Peers::install() } else { None };
    hosts::run(&mut table, &prefix, effort, peers.as_ref())?;
    fleet::run(&mut table, &prefix, effort)?;
    large::run(&mut table, &prefix, effort)?;
    one_file::run(&mut table, &prefix, effort)?;
    agent::run(&mut table, &prefix)?;
    print!("{}", table.markdown());
    report::compare(&table)?;
    if args.contains(&"--save") {
        report::save(&table)?;
        if effort == Effort::Full {
            report::save_scale(&scale::measure_all(&prefix)?)?;
            profile::draw_into_doc(&prefix)?;
        }
    }
    Ok(())
}

/// Runs a command that must succeed, and measures it.
fn measure(command: Cmd) -> Result<Sample> {
    let before = processor_time()?;
    let took = command.check()?.took;
    Ok(Sample { took, used: Some(processor_time()? - before) })
}

/// The processor time of all processes that this one has started and that have ended.
fn processor_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let time = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec() as u64) + Duration::from_micros(time.tv_usec() as u64)
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}
