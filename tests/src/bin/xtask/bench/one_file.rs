//! A push of one file to a local root: its processor time, and what slow disks cost.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use deptool_tests::sandbox::{Repo, Sandbox, default_git};
use deptool_tests::trace::{self, Deed, FLUSHES, Watched};
use nix::sys::resource::{UsageWho, getrusage};

use super::Effort;
use super::report::{Aim, Row, Table};

/// What a flush takes longer than on this computer, as on a disk of a cloud.
const SLOWER: Duration = Duration::from_millis(3);
/// The tracer stops each process at each change, which takes time, too.
const TRACED: Row = Row::floor("one file, local root, traced");
/// Ten flushes: two here, eight on the host.
const SLOW: Row = Row::ours("the same, each flush 3 ms longer", &TRACED, Aim::Above(Duration::from_millis(30)));

pub fn run(table: &mut Table, prefix: &Path, effort: Effort) -> Result<()> {
    let sandbox = Sandbox::make(&default_git(), prefix);
    let operator = sandbox.repo("operator");
    operator.add_root("web1");
    let rounds = effort.choose(20, 8);
    let mut used = Duration::ZERO;
    for round in 0..=rounds {
        change(&operator, round, "processor time");
        let before = processor_time()?;
        operator.command(&["push", "-q", "web1", "prod"]).check()?;
        // The first deployment is different.
        if round > 0 {
            used += processor_time()? - before;
        }
        for (row, longer) in [(TRACED, Duration::ZERO), (SLOW, SLOWER)] {
            change(&operator, round, row.name);
            let push = operator.command(&["push", "-q", "web1", "prod"]).into_inner();
            let begun = Instant::now();
            trace::run(push, Watched::Everybody, &mut |call| {
                if FLUSHES.contains(&call.name) {
                    thread::sleep(longer);
                }
                Deed::Go
            })?;
            if round > 0 {
                table.add(row, begun.elapsed());
            }
        }
    }
    let mean = used.as_secs_f64() * 1000.0 / f64::from(rounds);
    table.fact("processor time of a push of one file, operator and host, all processes", format!("{mean:.0} ms"), "");
    Ok(())
}

fn change(operator: &Repo<'_>, round: u32, what: &str) {
    operator.write("web1/app/file", format!("{round} {what}"));
    operator.commit(what);
}

/// The processor time of all processes that this one has started and that have ended.
fn processor_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let time = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec() as u64) + Duration::from_micros(time.tv_usec() as u64)
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}
