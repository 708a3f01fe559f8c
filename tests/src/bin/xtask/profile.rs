//! `cargo xtask profile`: draws where the time of one push goes, as `doc/profile.svg`.
//!
//! Operator and host are this computer: the push goes to a local root. strace slows system calls down, so lengths can be compared
//! with each other, but not with a clock.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use deptool_tests::build;
use deptool_tests::process::{Cmd, find_program};
use deptool_tests::sandbox::{Sandbox, default_git};
use deptool_tests::trace::FLUSHES;

use crate::dist;

/// Calls that wait for another process.
const WAITS: [&str; 8] = ["read", "poll", "ppoll", "wait4", "futex", "clock_nanosleep", "flock", "recvmsg"];
/// Shorter calls are not drawn, in seconds.
const SHORT: f64 = 0.0002;

/// One process, from its start to its end. Times are in seconds.
#[derive(Debug, Default)]
struct Process {
    name: String,
    begin: f64,
    end: f64,
    calls: Vec<Call>,
    /// A call that has not returned yet.
    pending: Option<(String, f64)>,
}

#[derive(Debug)]
struct Call {
    name: String,
    begin: f64,
    end: f64,
}

pub fn run() -> Result<()> {
    draw_into_doc(&dist::in_target()?)
}

pub fn draw_into_doc(prefix: &Path) -> Result<()> {
    ensure!(find_program("strace").is_some(), "strace is missing: apt-get install strace");
    let sandbox = Sandbox::make(&default_git(), prefix);
    let operator = sandbox.repo("operator");
    operator.add_root("web1");
    let log = sandbox.dir().join("strace");
    for content in ["first", "second", "third"] {
        operator.write("web1/app/file", content);
        operator.commit("One file");
        if content != "third" {
            operator.command(&["push", "-q", "web1", "prod"]).check()?;
        }
    }
    let push = operator.command(&["push", "-q", "web1", "prod"]).into_inner();
    let mut strace = Cmd::new("strace").args(["-f", "-ttt", "-s", "200", "-o"]).arg(&log).arg(push.get_program());
    strace = strace.args(push.get_args()).env_clear().dir(&operator.dir);
    for (name, value) in push.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        strace = strace.env(name, value);
    }
    strace.check()?;
    let processes = parse(&std::fs::read_to_string(&log)?)?;
    let file = build::workspace().join("doc/profile.svg");
    std::fs::write(&file, draw(&processes))?;
    println!("written: {}", file.display());
    Ok(())
}

/// The processes in strace's log, in the order in which they begin.
fn parse(log: &str) -> Result<Vec<Process>> {
    let mut all: BTreeMap<u32, Process> = BTreeMap::new();
    for line in log.lines() {
        let (pid, rest) = line.split_once(' ').context("a line without a process")?;
        let (time, event) = rest.trim_start().split_once(' ').context("a line without a time")?;
        let time: f64 = time.parse()?;
        let process = all.entry(pid.parse()?).or_insert_with(|| Process { begin: time, ..Process::default() });
        process.end = time;
        // Its end is only known from the next event: strace writes a call when it returns, with the time of its beginning.
        if let Some((name, begin)) = process.pending.take() {
            process.calls.push(Call { name, begin, end: time });
        }
        if let Some(program) = event.strip_prefix("execve(\"").and_then(|rest| rest.split('"').next()) {
            let arguments = event.split_once('[').map_or("", |(_, rest)| rest);
            process.name = title(program, arguments);
        }
        match event.split_once('(') {
            Some((name, _)) if !event.starts_with(['<', '+', '-']) => process.pending = Some((name.to_owned(), time)),
            _ => {}
        }
    }
    let mut processes: Vec<Process> = all.into_values().collect();
    processes.sort_by(|a, b| a.begin.total_cmp(&b.begin));
    Ok(processes)
}

/// The name of a program, with the subcommand if it is Git.
fn title(program: &str, arguments: &str) -> String {
    let name = program.rsplit('/').next().unwrap_or(program);
    let name = if name.starts_with("deptool-agent") { "deptool-agent" } else { name };
    let words = arguments.split('"').skip(1).step_by(2);
    let command = words.skip(1).find(|word| !word.starts_with('-') && !word.contains('='));
    match command {
        Some(command) if name == "git" => format!("git {command}"),
        _ => name.to_owned(),
    }
}

fn draw(processes: &[Process]) -> String {
    const LEFT: f64 = 190.0;
    const WIDTH: f64 = 760.0;
    const ROW: f64 = 22.0;
    let begin = processes.iter().map(|process| process.begin).fold(f64::INFINITY, f64::min);
    let end = processes.iter().map(|process| process.end).fold(0.0, f64::max);
    let x = |time: f64| LEFT + (time - begin) / (end - begin) * WIDTH;
    let height = ROW * (processes.len() as f64 + 3.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        LEFT + WIDTH + 20.0
    );
    let mut bar = |from: f64, to: f64, y: f64, colour: &str| {
        let width = (x(to) - x(from)).max(0.8);
        let _ = writeln!(
            svg,
            "<rect x=\"{:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"13\" fill=\"{colour}\"/>",
            x(from)
        );
    };
    for (at, process) in processes.iter().enumerate() {
        let y = ROW * (at as f64 + 0.5);
        bar(process.begin, process.end, y, "#2a6fbb");
        for call in process.calls.iter().filter(|call| call.end - call.begin > SHORT) {
            match call.name.as_str() {
                name if FLUSHES.contains(&name) => bar(call.begin, call.end, y, "#cc3333"),
                name if WAITS.contains(&name) => bar(call.begin, call.end, y, "#dddddd"),
                _ => {}
            }
        }
    }
    let mut parent = "";
    for (at, process) in processes.iter().enumerate() {
        let y = ROW * (at as f64 + 0.5) + 11.0;
        // A thread or a child that runs the same program.
        let name = if process.name.is_empty() { format!("… of {parent}") } else { process.name.clone() };
        if !process.name.is_empty() {
            parent = &process.name;
        }
        let flushes = process.calls.iter().filter(|call| FLUSHES.contains(&call.name.as_str())).count();
        let flushes = if flushes == 0 { String::new() } else { format!(" ({flushes} flushes)") };
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{name}{flushes}</text>", LEFT - 6.0);
    }
    let y = height - ROW;
    let legend = [
        ("#2a6fbb", "computes, or short calls"),
        ("#cc3333", "flushes a disk"),
        ("#dddddd", "waits for another process"),
    ];
    for (at, (colour, text)) in legend.iter().enumerate() {
        let left = LEFT + 200.0 * at as f64;
        let _ = writeln!(svg, "<rect x=\"{left}\" y=\"{y}\" width=\"13\" height=\"13\" fill=\"{colour}\"/>");
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\">{text}</text>", left + 18.0, y + 11.0);
    }
    let _ = writeln!(svg, "<text x=\"6\" y=\"{}\">{:.0} ms under strace</text>", y + 11.0, (end - begin) * 1000.0);
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_lasts_until_the_next_event_of_its_process() {
        let log = "7 1.000 execve(\"/usr/bin/git\", [\"git\", \"-C\", \"push\"], 0x1) = 0\n\
                   7 1.100 fsync(3 <unfinished ...>\n8 1.150 read(0, \"\", 1) = 0\n\
                   7 1.400 <... fsync resumed>) = 0\n8 1.500 +++ exited with 0 +++\n";
        let processes = parse(log).unwrap();
        assert_eq!(processes[0].name, "git push");
        let fsync = &processes[0].calls[1];
        assert_eq!((fsync.name.as_str(), fsync.begin, fsync.end), ("fsync", 1.1, 1.4));
        assert_eq!((processes[1].begin, processes[1].calls[0].end), (1.15, 1.5));
        assert!(draw(&processes).contains("git push (1 flushes)"));
    }
}
