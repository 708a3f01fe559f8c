//! `git deptool ping`: measures how long agents take to answer.

use std::time::{Duration, Instant};

use deptool_agent::shared::{
    name::HostName,
    wire::{Request, Response},
};
use serde::Serialize;

use super::{
    CliError,
    aim::{Aim, AimArgs, Hosts},
    exit::ExitStatus,
    output::Output,
    table, view,
};
use crate::{
    agent::session::{Session, SessionError},
    fetch::query::query,
    fleet::remote::Remote,
    model::error::chain,
};

/// Measure how long hosts take to answer, over the connection that a deployment would use
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    aim: AimArgs,
    /// How often to ask each host
    #[arg(short = 'n', long, value_name = "number", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
    /// Print the times as JSON, in milliseconds
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Pinged {
    version: u32,
    hosts: Vec<HostTimes>,
}

/// Times in milliseconds.
#[derive(Serialize)]
struct HostTimes {
    host: HostName,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    times: Option<Times>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Times {
    min: f64,
    p50: f64,
    p95: f64,
}

pub(super) fn run(remote: &Remote, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let aim = Aim::of(remote, &args.aim, Hosts::Known)?;
    let answers = query(remote, &aim.hosts, |session, _| ping(session, args.count));
    let (mut exit, mut rows, mut hosts) = (ExitStatus::Done, Vec::new(), Vec::new());
    for (host, answer) in aim.hosts.iter().zip(answers) {
        let (times, error) = match answer {
            Ok((_, times)) => {
                let Times { min, p50, p95 } = times;
                let shown = |name: &str, time: f64| format!("{name} {time:.2} ms");
                rows.push([host.host.to_string(), shown("min", min), shown("p50", p50), shown("p95", p95)]);
                (Some(times), None)
            }
            Err(error) => {
                exit = exit.worse(view::status_of_error(&error));
                output.complain(chain(&error))?;
                (None, Some(chain(&error)))
            }
        };
        hosts.push(HostTimes { host: host.host.clone(), error, times });
    }
    if args.json {
        output.json(&Pinged { version: view::VERSION, hosts })?;
    } else {
        for line in table::lines(&rows, table::terminal_width()) {
            output.line(line)?;
        }
    }
    Ok(exit)
}

fn ping(session: &mut Session, count: u32) -> Result<Times, SessionError> {
    let mut times = Vec::new();
    for _ in 0..count {
        let asked = Instant::now();
        session.send(&Request::Ping)?;
        match session.receive()? {
            Response::Pong => times.push(asked.elapsed()),
            _ => return Err(SessionError::OutOfOrder),
        }
    }
    Ok(Times::of(times))
}

impl Times {
    /// From at least one measurement, by the nearest-rank method.
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |part: usize| {
            let rank = (times.len() * part).div_ceil(100).max(1);
            times.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
        };
        Times { min: at(0), p50: at(50), p95: at(95) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let times = |last: u64| (1..=last).map(Duration::from_millis).collect();
        assert_eq!(Times::of(times(100)), Times { min: 1.0, p50: 50.0, p95: 95.0 });
        assert_eq!(Times::of(times(2)), Times { min: 1.0, p50: 1.0, p95: 2.0 });
        assert_eq!(Times::of(times(1)), Times { min: 1.0, p50: 1.0, p95: 1.0 });
    }
}
