//! `git deptool verify`: lists what differs on the hosts from what was deployed.

mod metrics;

use deptool_agent::shared::{
    name::HostName,
    outcome::{Drift, Subject},
    text::printable,
    wire::Hello,
};
use serde::Serialize;

use super::{
    CliError,
    aim::{Aim, AimArgs, Hosts},
    exit::ExitStatus,
    output::Output,
    view,
};
use crate::{fetch::query::query, fleet::remote::Remote, model::error::chain, state::Known};

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
    /// Print metrics for Prometheus
    #[arg(long, conflicts_with = "json")]
    prometheus: bool,
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
    #[serde(skip)]
    hello: Option<Hello>,
}

/// A path or a unit, and how it differs. Neither if this is about the whole host.
#[derive(Serialize)]
struct One {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    what: String,
    #[serde(skip)]
    words: String,
}

pub(super) fn run(remote: &Remote, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let aim = Aim::of(remote, &args.aim, Hosts::Known)?;
    let known = remote.tracking().known(&aim.hosts.iter().collect::<Vec<_>>())?;
    let answers = query(remote, &aim.hosts, |session, _| session.verify());
    let (mut exit, mut hosts) = (ExitStatus::Done, Vec::new());
    let is_text = !args.json && !args.prometheus;
    for ((remote_host, known), answer) in aim.hosts.iter().zip(&known).zip(answers) {
        let host = remote_host.host.clone();
        match answer {
            Ok((hello, drift)) => {
                let mut found: Vec<One> = drift.into_iter().map(One::of).collect();
                remote.remember_drift(remote_host, found.len())?;
                found.extend(gone(known, &hello));
                for one in found.iter().filter(|_| is_text) {
                    output.line(format_args!("{host}: {}", one.words))?;
                }
                // As text they have been shown with the greeting.
                found.extend(hello.failures.iter().map(|what| One::failure(what)));
                if !found.is_empty() {
                    exit = exit.worse(ExitStatus::Changes);
                } else if is_text {
                    output.note(format_args!("{host}: as deployed"))?;
                }
                hosts.push(HostDrift { host, error: None, drift: found, hello: Some(hello) });
            }
            Err(error) => {
                exit = exit.worse(view::status_of_error(&error));
                output.complain(chain(&error))?;
                hosts.push(HostDrift { host, error: Some(chain(&error)), drift: Vec::new(), hello: None });
            }
        }
    }
    if args.json {
        output.json(&Verified { version: view::VERSION, hosts })?;
    } else if args.prometheus {
        output.text(&metrics::text(&hosts))?;
    }
    Ok(exit)
}

/// A report if nothing is deployed on the host. If something was at the last contact, the host was reinstalled, or its state was
/// deleted.
fn gone(known: &Known, hello: &Hello) -> Option<One> {
    if hello.deployed.is_some() || hello.busy.is_some() {
        return None;
    }
    Some(One::of_host(match known.clusters.iter().next() {
        Some((cluster, tracked)) => {
            format!("nothing is deployed any more; {cluster} was at {}", tracked.real.short())
        }
        None => "nothing is deployed".to_owned(),
    }))
}

impl One {
    fn of(drift: Drift) -> Self {
        let words = drift.to_string();
        let (path, unit) = match drift.subject {
            Subject::Path(path) => (Some(path), None),
            Subject::Unit(unit) => (None, Some(unit.to_string())),
        };
        One { path, unit, what: drift.what, words }
    }

    fn of_host(what: String) -> Self {
        One { path: None, unit: None, words: what.clone(), what }
    }

    /// What a failed deployment changed and could not be undone, which keeps the host from being deployed to.
    fn failure(what: &str) -> Self {
        One::of_host(format!("not in order: {}", printable(what.as_bytes())))
    }
}
