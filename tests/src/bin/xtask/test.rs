//! `cargo xtask test`: all tests, including those of the lab.

use anyhow::{Result, bail};
use deptool_tests::process::Cmd;
use deptool_tests::{QUICK, build, sandbox};
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
        let tests = cargo_test(&["--workspace", "--lib", "--bins", "--tests"], &names).env(QUICK, "1");
        tests.env("PROPTEST_CASES", "32").env("TMPDIR", sandbox::memory()).inherit()?;
    } else {
        cargo_test(&["--workspace"], &names).inherit()?;
    }
    if quick { Ok(()) } else { with_other_gits(&names) }
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

/// Versions of Git differ in how they use a helper, so the tests run again with each version on this machine.
fn with_other_gits(names: &[&str]) -> Result<()> {
    let default = version(&sandbox::default_git());
    for git in sandbox::gits() {
        let version = version(&git);
        if version == default {
            continue;
        }
        println!("\nOnce more with {version}, {}", git.display());
        let skipped = OF_ANY_GIT.iter().flat_map(|name| ["--skip", name]);
        let names: Vec<&str> = names.iter().copied().chain(skipped).collect();
        cargo_test(&["-p", "deptool-tests", "--test", "e2e"], &names).env(sandbox::GIT, git).inherit()?;
    }
    Ok(())
}

fn cargo_test(what: &[&str], names: &[&str]) -> Cmd {
    build::cargo_command().args(["test", "--no-fail-fast"]).args(what).arg("--").args(names)
}

fn version(git: &std::path::Path) -> String {
    Cmd::new(git).arg("--version").run().map(|run| run.line()).unwrap_or_default()
}
