//! `cargo xtask test`: all tests, including those of the lab.
//!
//! In a full run, tests that failed run once more, by themselves: several hundred tests of real programs share two cores
//! for twenty minutes, and a machine that stands still for ten seconds is not what they are about. A test that passes
//! only then is named at the end, since its race may as well be one of the program's.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    num::NonZero,
    process::Stdio,
};

use anyhow::{Context, Result, bail};
use deptool_tests::build::Platform;
use deptool_tests::process::Cmd;
use deptool_tests::{QUICK, build, emulation, sandbox};
use nix::sys::signal::{SigHandler, Signal, signal};

use crate::needs;

pub fn run(args: &[&str]) -> Result<()> {
    let quick = args.contains(&"--quick");
    let names: Vec<&str> = args.iter().copied().filter(|arg| *arg != "--quick").collect();
    if names.len() > 1 || names.iter().any(|name| name.starts_with('-')) {
        bail!("usage: cargo xtask test [--quick] [NAME]");
    }
    if quick {
        needs::to_build()?
    } else {
        needs::to_test()?
    }

    take_interrupts()?;
    if quick {
        // Examples in the documentation take long to compile.
        let tests = cargo_test(&["--workspace", "--lib", "--bins", "--tests"], &names);
        return in_memory(tests.env(QUICK, "1").env("PROPTEST_CASES", "32")).inherit();
    }
    let whole = |names: &[&str]| cargo_test(&["--workspace"], names).env(THREADS, (processors() + 1).to_string());
    let mut unsteady = run_twice(whole, &names)?;
    unsteady.append(&mut with_other_gits(&names)?);
    for name in unsteady {
        println!("warning: '{name}' failed, and passed when it was run again by itself");
    }
    Ok(())
}

/// Tests that can't be run with an emulated agent, with the reasons.
const NOT_EMULATED: [(&str, &str); 6] = [
    ("sweep::", "faults are injected at system calls, and those that are traced are the emulator's"),
    ("flushes::", "the flushes that are traced are the emulator's, and no disk can be mounted in its namespace"),
    (
        "group::a_busy_host_is_waited_for_as_long_as_was_asked_for",
        "it waits for 300 ms, and the agent takes longer to start",
    ),
    ("immutable::", "no file can be made immutable in the emulator's namespace"),
    ("platform::", "it runs the emulator itself"),
    ("dist::", "it packages the agent for this computer"),
];

/// The tests of local roots, with the agent for another processor.
pub fn run_emulated(platform: &str, names: &[&str]) -> Result<()> {
    let platform = Platform::parse(platform)?;
    needs::to_emulate_agents()?;
    build::agent(platform)?;
    take_interrupts()?;
    emulation::enable(platform)?;
    for (name, why) in NOT_EMULATED {
        println!("skipped: {name}: {why}");
    }
    let tests = |names: &[&str]| {
        let skipped = NOT_EMULATED.iter().flat_map(|(name, _)| ["--skip", name]);
        let names: Vec<&str> = names.iter().copied().chain(skipped).collect();
        let tests = cargo_test(&["-p", "deptool-tests", "--test", "e2e"], &names).env("TMPDIR", sandbox::memory());
        tests.env(build::AGENT, platform.name())
    };
    for name in run_twice(tests, names)? {
        println!("warning: '{name}' failed, and passed when it was run again by itself");
    }
    Ok(())
}

/// How many tests run at once. More than there are processors, because end-to-end tests often wait for the programs that they
/// start, for disks and for hosts.
const THREADS: &str = "RUST_TEST_THREADS";

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Runs tests on files in memory, where they don't wait for disks.
fn in_memory(tests: Cmd) -> Cmd {
    tests.env("TMPDIR", sandbox::memory()).env(THREADS, (2 * processors()).to_string())
}

/// Tests send SIGINT. A shell script ignores it in background jobs, and programs inherit that.
#[allow(unsafe_code)]
fn take_interrupts() -> Result<()> {
    // SAFETY: the default is no handler: no code of ours runs in signal context.
    unsafe { signal(Signal::SIGINT, SigHandler::SigDfl) }?;
    Ok(())
}

/// Slow tests in which Git only starts the helper.
const OF_ANY_GIT: [&str; 4] = ["sweep::", "hostile_host::", "link::", "platform::"];

/// Versions of Git differ in how they use a helper, so the tests run again with each version on this machine. What disks do
/// was tested by the first run.
fn with_other_gits(names: &[&str]) -> Result<BTreeSet<String>> {
    let mut unsteady = BTreeSet::new();
    let default = version(&sandbox::default_git());
    for git in sandbox::gits() {
        let version = version(&git);
        if version == default {
            continue;
        }
        println!("\nOnce more with {version}, {}", git.display());
        let skipped = OF_ANY_GIT.iter().flat_map(|name| ["--skip", name]);
        let names: Vec<&str> = names.iter().copied().chain(skipped).collect();
        let tests = |names: &[&str]| cargo_test(&["-p", "deptool-tests", "--test", "e2e"], names);
        let run = |names: &[&str]| in_memory(tests(names).env(sandbox::GIT, &git));
        unsteady.append(&mut run_twice(run, &names)?);
    }
    Ok(unsteady)
}

/// Runs tests, and those that failed once more. Returns the names of those that passed only then.
fn run_twice(command: impl Fn(&[&str]) -> Cmd, names: &[&str]) -> Result<BTreeSet<String>> {
    let first = Outcomes::of(command(names))?;
    if first.failed.is_empty() {
        return if first.success { Ok(first.failed) } else { bail!("the tests could not be run") };
    }
    let again: Vec<&str> = first.failed.iter().map(String::as_str).chain(["--exact", "--test-threads=1"]).collect();
    println!("\nOnce more, one by one: {}", again.join(" "));
    let second = Outcomes::of(command(&again))?;
    let failed: Vec<&str> = first.failed.difference(&second.passed).map(String::as_str).collect();
    if failed.is_empty() && second.success { Ok(first.failed) } else { bail!("failed: {}", failed.join(", ")) }
}

/// How the tests of a run ended, by name.
struct Outcomes {
    passed: BTreeSet<String>,
    failed: BTreeSet<String>,
    success: bool,
}

impl Outcomes {
    /// Shows the output as it comes, and reads it.
    fn of(command: Cmd) -> Result<Outcomes> {
        let mut child = command.into_inner().stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
        let (mut passed, mut failed) = (BTreeSet::new(), BTreeSet::new());
        for line in BufReader::new(child.stdout.take().context("it has no stdout")?).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            println!("{line}");
            match line.strip_prefix("test ").and_then(|line| line.rsplit_once(" ... ")) {
                Some((name, "ok")) => passed.insert(name.to_owned()),
                Some((name, "FAILED")) => failed.insert(name.to_owned()),
                _ => continue,
            };
        }
        Ok(Outcomes { passed, failed, success: child.wait()?.success() })
    }
}

fn cargo_test(what: &[&str], names: &[&str]) -> Cmd {
    build::cargo_command().args(["test", "--no-fail-fast"]).args(what).arg("--").args(names)
}

fn version(git: &std::path::Path) -> String {
    Cmd::new(git).arg("--version").run().map(|run| run.line()).unwrap_or_default()
}
