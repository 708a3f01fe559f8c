//! `cargo xtask fuzz`: fuzzes everything that parses untrusted bytes, guided by coverage.
//!
//! It needs a C++ compiler, but no nightly toolchain: LLVM's instrumentation is enabled by LLVM's own options.
//! Interesting inputs are kept in `target/fuzz/found/`. An input that makes a target fail is copied to the corpus, so
//! that the tests run it from then on.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use deptool_fuzz::{TARGETS, Target, corpus};
use deptool_tests::build::{self, workspace};
use deptool_tests::process::{Cmd, find_program};

const INSTRUMENTED: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

pub fn run(args: &[&str]) -> Result<()> {
    let (seconds, names) = match args {
        ["--seconds", seconds, names @ ..] => (seconds.parse().context("not a number of seconds")?, names),
        names => (60, names),
    };
    let unknown = names.iter().find(|name| deptool_fuzz::target(name).is_none());
    if let Some(name) = unknown {
        let known: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        bail!("no such target: '{name}'; there are {}", known.join(", "));
    }
    if find_program("c++").is_none() {
        bail!("a C++ compiler is needed for libFuzzer (Debian: g++); 'cargo test -p deptool-fuzz' does without");
    }
    let program = instrumented()?;
    let targets: Vec<&Target> =
        TARGETS.iter().filter(|target| names.is_empty() || names.contains(&target.name)).collect();
    let each = (seconds / targets.len() as u64).max(1);
    let mut failed = Vec::new();
    for target in targets {
        println!("{}: {each} s", target.name);
        if !fuzz(&program, target, each)? {
            failed.push(target.name);
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("these fail: {}; their inputs are in fuzz/corpus/", failed.join(", "))
    }
}

fn instrumented() -> Result<std::path::PathBuf> {
    let dir = workspace().join("target/fuzz");
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let cargo = build::cargo_command().args(["build", "--quiet", "-p", "deptool-fuzz", "--bin", "fuzz"]);
    // Build scripts are only left without instrumentation if a target is named.
    cargo
        .args(["--features", "guided", "--target", &host, "--target-dir"])
        .arg(&dir)
        .env("RUSTFLAGS", INSTRUMENTED.join(" "))
        .inherit()?;
    Ok(dir.join(host).join("debug/fuzz"))
}

/// Whether the target survived this many seconds.
fn fuzz(program: &Path, target: &Target, seconds: u64) -> Result<bool> {
    let found = workspace().join("target/fuzz/found").join(target.name);
    let failures = workspace().join("target/fuzz/failed").join(target.name);
    for dir in [&found, &failures] {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let fuzzer = Cmd::new(program).env("DEPTOOL_FUZZ", target.name).arg(&found).arg(corpus(target));
    let fuzzer = fuzzer.arg(format!("-max_total_time={seconds}")).args(["-timeout=5", "-rss_limit_mb=512"]);
    let fuzzer =
        fuzzer.args(["-verbosity=0", "-print_final_stats=1"]).arg(format!("-artifact_prefix={}/", failures.display()));
    let run = fuzzer.timeout(Duration::from_secs(seconds + 60)).run()?;
    let stats = run.stderr();
    for line in stats.lines().filter(|line| line.contains("number_of_executed_units")) {
        println!("    {line}");
    }
    if run.success() {
        return Ok(true);
    }
    println!("{stats}");
    for entry in std::fs::read_dir(&failures)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        std::fs::copy(&path, corpus(target).join(name)).context("cannot copy into the corpus")?;
    }
    Ok(false)
}
