//! `cargo xtask test`: all tests, the lab's included.

use anyhow::{Result, bail};
use deptool_tests::process::Cmd;
use deptool_tests::{build, lab, sandbox};
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
    let mut all = cargo_test(&["--workspace"], &names);
    if quick {
        all = all.env(lab::QUICK, "1");
    }
    all.inherit()?;
    if quick { Ok(()) } else { with_other_gits(&names) }
}

/// Ctrl-C is among what is tested. A script's background has it ignored, and so would all that is started there.
#[allow(unsafe_code)]
fn take_interrupts() -> Result<()> {
    // SAFETY: the default is no handler: no code of ours runs in signal context.
    unsafe { signal(Signal::SIGINT, SigHandler::SigDfl) }?;
    Ok(())
}

/// Tests that take long, and in which Git only starts the helper.
const OF_ANY_GIT: [&str; 4] = ["sweep::", "hostile_host::", "link::", "platform::"];

/// What Git does with a helper differs between its versions: once more with each that is here.
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
