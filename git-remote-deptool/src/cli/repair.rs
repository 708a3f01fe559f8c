//! `git deptool repair`: puts right what was changed on hosts.

use std::collections::BTreeMap;

use deptool_agent::shared::{id::CommitId, name::ClusterName, outcome::Drift, wire::Repair};

use super::{
    CliError,
    aim::{Aim, AimArgs, Hosts},
    deploy::{self, Deployment},
    deploy_options::DeployOptions,
    exit::ExitStatus,
    output::Output,
    view,
};
use crate::{
    config::HostRemote,
    fetch::query::query,
    fleet::remote::Remote,
    model::{batch::Ancestry, error::chain, push_option::PlainText},
    repo::edits::{self, Compared},
};

/// Put right what differs from what was deployed
///
/// Asks the hosts what differs, shows that, and deploys the commit that each of them runs once more. Replaced files are kept on the
/// host. A host that fails is rolled back.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    aim: AimArgs,
    /// Show what was edited
    #[arg(short, long)]
    patch: bool,
    #[command(flatten)]
    how: DeployOptions,
}

/// A host with drift.
struct Damaged {
    host: HostRemote,
    cluster: ClusterName,
    runs: CommitId,
    drift: Vec<Drift>,
}

pub(super) fn run(remote: &Remote, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let aim = Aim::of(remote, &args.aim, Hosts::Known)?;
    let Answers { damaged, failures, exit } = ask(remote, aim.hosts)?;
    let mut by_commit: BTreeMap<(ClusterName, CommitId), Vec<Damaged>> = BTreeMap::new();
    for one in damaged {
        if !remote.repo.has_commit(one.runs) {
            let (host, commit) = (&one.host.host, one.runs.short());
            return Err(CliError::Text(format!("'{host}' runs {commit}, which is not here; run 'git fetch' first")));
        }
        by_commit.entry((one.cluster.clone(), one.runs)).or_default().push(one);
    }
    // In JSON they are notes, which are printed anyway.
    if !args.how.json {
        failures.iter().try_for_each(|failure| output.complain(failure))?;
    }
    if by_commit.is_empty() {
        match (args.how.json, exit) {
            (true, _) => deploy::nothing_to_do(output, &args.how, aim.cluster, failures)?,
            (false, ExitStatus::Done) => output.note("Nothing to repair.")?,
            (false, _) => {}
        }
        return Ok(exit);
    }
    let deployment = |((cluster, commit), damaged): (_, Vec<Damaged>)| {
        let mut intro = String::new();
        for one in &damaged {
            one.drift.iter().for_each(|drift| intro.push_str(&format!("{}: {drift}\n", one.host.host)));
            if args.patch {
                intro.push_str(&edits::diff(&remote.repo, &one.host.host, one.runs, &one.drift, Compared::Edited)?);
            }
        }
        let hosts = damaged.into_iter().map(|one| one.host).collect();
        let aim = Aim::at(remote, cluster, commit, hosts)?;
        Ok(Deployment {
            aim,
            ancestry: Ancestry::Waived,
            repair: Repair::All,
            plain: PlainText::Allowed,
            digest: None,
            intro,
        })
    };
    let deployments = by_commit.into_iter().map(deployment).collect::<Result<Vec<Deployment>, CliError>>()?;
    let notes = if args.how.json { failures } else { Vec::new() };
    Ok(exit.worse(deploy::carry_out(remote, output, &deployments, &args.how, &notes)?))
}

/// What the hosts say.
struct Answers {
    damaged: Vec<Damaged>,
    /// Why some could not be asked.
    failures: Vec<String>,
    exit: ExitStatus,
}

/// Ask the hosts for their drift.
fn ask(remote: &Remote, hosts: Vec<HostRemote>) -> Result<Answers, CliError> {
    let answers = query(remote, &hosts, |session, _| session.verify());
    let mut all = Answers { damaged: Vec::new(), failures: Vec::new(), exit: ExitStatus::Done };
    for (host, answer) in hosts.into_iter().zip(answers) {
        match answer {
            Ok((hello, drift)) => {
                remote.remember_drift(&host, drift.len())?;
                if let Some(deployed) = hello.deployed.filter(|_| !drift.is_empty()) {
                    all.damaged.push(Damaged { host, cluster: deployed.cluster, runs: deployed.commit, drift });
                }
            }
            Err(error) => {
                all.exit = all.exit.worse(view::status_of_error(&error));
                all.failures.push(chain(&error));
            }
        }
    }
    Ok(all)
}
