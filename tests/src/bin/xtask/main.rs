//! The tasks of this repository. `cargo xtask` alone lists them.

mod bench;
mod demo;
mod dist;
mod fuzz;
mod lab;
mod needs;
mod power_cuts;
mod profile;
mod scale;
mod site;
mod sweep;
mod test;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use deptool_tests::build::Platform;
use deptool_tests::lab::vm::Kind;
use deptool_tests::sweep::Choice;

const HELP: &str = "\
usage: cargo xtask <task>

    dist [--all] --prefix DIR
                            build and install everything: helper, git-deptool, agents for x86_64 and aarch64 (--all: and
                            for armv7 and riscv64, which needs cargo-zigbuild and zig), manual, completion
    deb                     the same as a Debian package, in target/debian
    release DIR [SYSTEM…]   tarballs, packages for Debian and RPM, checksums and a list of all parts, for every system of
                            operators, or for these (such as linux-x86_64)
    release --check DIR     install it and run it; make it once more elsewhere and compare each byte
    demo                    run the main workflow step by step, with real commands
    demo --svg              draw part of it as doc/session.svg, the picture in the README
    test [--quick] [NAME]   run all tests, or those whose name contains NAME; --quick: without the lab and slow tests
    test --agent PLATFORM [NAME]
                            run the tests of local roots with the agent for another processor, such as linux-armv7
    lab up [NAME…]          start hosts to play with (default: web1 web2); --trixie for Debian 13
    lab ssh HOST [CMD…]     a shell on one of them, or one command
    lab down                stop them
    lab vm [--image]        a shell on a virtual machine with SELinux, or on an image-based one, which is gone when it ends
    fuzz [--seconds N] [TARGET…]
                            fuzz everything that parses untrusted bytes, guided by coverage (60 s in all)
    bench [--quick] [--no-peers] [--save]
                            compare deployments with `ssh host true` and with other tools (--no-peers: without those);
                            --save writes the result to doc/measurements.md and tests/bench
    sweep [--one-in N] [NAME]
                            inject a fault at every point of a deployment, or at one point in N
    power-cuts [--moments N]
                            cut the power of a virtual machine at N moments of deployments (30), and boot it again
    profile                 draw where the time of one push goes, as doc/profile.svg
    scale                   measure deployments to 1, 10, 50 and 500 simulated hosts
    site                    the manual and doc/ as a website, in target/site; checks its links
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<()> {
    match args {
        [] | ["help" | "-h" | "--help", ..] => {
            print!("{HELP}");
            Ok(())
        }
        ["dist", "--prefix", prefix] => dist::run(prefix, &Platform::USUAL),
        ["dist", "--all", "--prefix", prefix] => dist::run(prefix, &Platform::ALL),
        ["deb"] => dist::deb(),
        ["release", "--check", out] => dist::check_release(out),
        ["release", out, systems @ ..] => dist::release(out, systems),
        ["demo"] => demo::run(),
        ["demo", "--svg"] => demo::draw(),
        ["test", "--agent", platform, names @ ..] => test::run_emulated(platform, names),
        ["test", rest @ ..] => test::run(rest),
        ["lab", "up", rest @ ..] => lab::up(rest),
        ["lab", "down"] => lab::down(),
        ["lab", "vm"] => lab::vm(Kind::Disk),
        ["lab", "vm", "--image"] => lab::vm(Kind::Image),
        ["lab", "ssh", host, command @ ..] => lab::ssh(host, command),
        ["fuzz", rest @ ..] => fuzz::run(rest),
        ["bench", rest @ ..] => bench::run(rest),
        ["sweep"] => sweep::run(Choice::All, ""),
        ["sweep", word] => sweep::run(Choice::All, word),
        ["sweep", "--one-in", step] => sweep::run(Choice::one_in(step)?, ""),
        ["sweep", "--one-in", step, word] => sweep::run(Choice::one_in(step)?, word),
        ["power-cuts"] => power_cuts::run(30),
        ["power-cuts", "--moments", count] => power_cuts::run(count.parse().context("not a number of moments")?),
        ["profile"] => profile::run(),
        ["scale"] => scale::run(),
        ["site"] => site::run(),
        // Internal: ssh's ProxyCommand.
        ["relay", "--delay-ms", delay, host, port] => {
            let delay = Duration::from_millis(delay.parse().context("not a number of milliseconds")?);
            deptool_tests::relay::run(delay, None, host, port.parse().context("not a port")?)
        }
        ["relay", "--fault", way, bytes, fate, host, port] => {
            let fault = deptool_tests::link::Fault::parse(&[way, bytes, fate])?;
            deptool_tests::relay::run(Duration::ZERO, Some(fault), host, port.parse().context("not a port")?)
        }
        // Internal: runs instead of an agent.
        ["link", way, at, fate, agent, hit] => {
            deptool_tests::link::run(deptool_tests::link::Fault::parse(&[way, at, fate])?, agent, hit)
        }
        // Internal: runs instead of an agent.
        ["intercept", rule, agent] => {
            deptool_tests::intercept::run(&deptool_tests::intercept::Rule::parse(rule)?, agent)
        }
        _ => bail!("no such task: '{}'; see 'cargo xtask help'", args.join(" ")),
    }
}
