//! `git deptool verify`: what on the hosts is not as it was deployed.

use deptool_agent::shared::{
    name::HostName,
    outcome::{Drift, Subject},
};
use serde::Serialize;

use super::{
    CliError,
    aim::{Aim, AimArgs, Hosts},
    exit::ExitStatus,
    output::Output,
    view,
};
use crate::{fetch::query::query, fleet::remote::Remote, model::error::chain};

/// Ask hosts what differs from what was deployed: files, symlinks, units
///
/// Exits with 2 if anything differs.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    aim: AimArgs,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Verified {
    version: u32,
    hosts: Vec<HostDrift>,
}

#[derive(Serialize)]
struct HostDrift {
    host: HostName,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    drift: Vec<One>,
}

/// A path or a unit, and what is the matter with it.
#[derive(Serialize)]
struct One {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    what: String,
}

pub(super) fn run(remote: &Remote, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let aim = Aim::of(remote, &args.aim, Hosts::Known)?;
    let answers = query(remote, &aim.hosts, |session, _| session.verify());
    let (mut exit, mut hosts) = (ExitStatus::Done, Vec::new());
    for (host, answer) in aim.hosts.iter().zip(answers) {
        let host = host.host.clone();
        match answer {
            Ok((_, drift)) => {
                if !drift.is_empty() {
                    exit = exit.worse(ExitStatus::Changes);
                }
                if !args.json && drift.is_empty() {
                    output.note(format_args!("{host}: as deployed"))?;
                }
                for one in drift.iter().filter(|_| !args.json) {
                    output.line(format_args!("{host}: {one}"))?;
                }
                hosts.push(HostDrift { host, error: None, drift: drift.into_iter().map(One::of).collect() });
            }
            Err(error) => {
                exit = exit.worse(view::status_of_error(&error));
                output.complain(chain(&error))?;
                hosts.push(HostDrift { host, error: Some(chain(&error)), drift: Vec::new() });
            }
        }
    }
    if args.json {
        output.json(&Verified { version: view::VERSION, hosts })?;
    }
    Ok(exit)
}

impl One {
    fn of(drift: Drift) -> Self {
        let (path, unit) = match drift.subject {
            Subject::Path(path) => (Some(path), None),
            Subject::Unit(unit) => (None, Some(unit.to_string())),
        };
        One { path, unit, what: drift.what }
    }
}
