//! `git deptool rollback`: put back what ran before.

use std::collections::BTreeMap;

use clap_complete::ArgValueCandidates;
use deptool_agent::shared::{
    id::CommitId,
    name::HostName,
    outcome::{Attempt, AttemptResult, Goal},
    wire::Hello,
};

use super::{
    CliError,
    aim::{self, Aim, Selection},
    candidates,
    deploy::{self, Deployment, How},
    exit::ExitStatus,
    log,
    output::Output,
    view,
};
use crate::{
    config::HostRemote,
    fetch::query::query,
    fleet::remote::Remote,
    model::{batch::Ancestry, error::chain},
};

/// How far back a host's record is looked through.
const ATTEMPTS: u32 = 100;

/// Deploy the commit that ran before
///
/// Each host is asked which commit that was. The branch itself does not change: the next deployment, or a second
/// rollback, goes forward again.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The hosts to roll back
    #[arg(value_name = "host", required = true, add = ArgValueCandidates::new(candidates::hosts))]
    hosts: Vec<String>,
    #[command(flatten)]
    how: How,
}

pub(super) fn run(remote: &Remote, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let names = aim::parse(&args.hosts)?;
    let (cluster, _) = aim::named(remote, None)?;
    let hosts: Vec<HostRemote> = names.iter().map(|name| remote.settings.host(name)).collect::<Result<_, _>>()?;
    let answers = query(remote, &hosts, |session, _| log::attempts(session, ATTEMPTS));
    let mut back: BTreeMap<CommitId, Vec<HostRemote>> = BTreeMap::new();
    for (host, answer) in hosts.into_iter().zip(answers) {
        let (hello, attempts) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                output.complain(chain(&error))?;
                return Ok(view::status_of_error(&error));
            }
        };
        let commit = before(&host.host, &hello, &attempts).map_err(CliError::Text)?;
        if !remote.repo.has_commit(commit) {
            let (host, commit) = (&host.host, commit.short());
            return Err(CliError::Text(format!("'{host}' ran {commit} before, which is not in this repository")));
        }
        back.entry(commit).or_default().push(host);
    }
    let aims = back.into_iter().map(|(commit, hosts)| {
        let selection = Selection::Some(hosts.iter().map(|host| host.host.clone()).collect());
        Aim { cluster: cluster.clone(), commit, selection, hosts }
    });
    let deployments: Vec<Deployment> = aims.map(|aim| Deployment { aim, ancestry: Ancestry::Waived }).collect();
    deploy::carry_out(remote, output, deployments, &args.how)
}

/// What ran before what runs.
fn before(host: &HostName, hello: &Hello, attempts: &[Attempt]) -> Result<CommitId, String> {
    let runs = hello.deployed.as_ref().ok_or_else(|| format!("nothing is deployed on '{host}'"))?;
    let is_last = |attempt: &&Attempt| {
        attempt.result == AttemptResult::Done
            && attempt.to == Goal::Commit(runs.commit)
            && attempt.from != Some(runs.commit)
    };
    let last = attempts.iter().find(is_last);
    let cluster = &runs.cluster;
    last.and_then(|attempt| attempt.from).ok_or_else(|| {
        format!("nothing ran on '{host}' before {}; 'git push {host} :{cluster}' removes it", runs.commit.short())
    })
}

#[cfg(test)]
mod tests {
    use deptool_agent::shared::{id::DeploymentId, name::ClusterName, outcome::Deployed};

    use super::*;

    fn commit(n: u8) -> CommitId {
        format!("{n:040x}").parse().unwrap()
    }

    fn attempt(from: Option<u8>, to: u8, result: AttemptResult) -> Attempt {
        let cluster = ClusterName::parse(b"prod").unwrap();
        let id = DeploymentId::random().unwrap();
        Attempt {
            id,
            when: 0,
            by: String::new(),
            cluster,
            from: from.map(commit),
            to: Goal::Commit(commit(to)),
            result,
        }
    }

    fn found(attempts: &[Attempt]) -> Result<CommitId, String> {
        let host = HostName::parse(b"web1").unwrap();
        let cluster = ClusterName::parse(b"prod").unwrap();
        let deployed = Deployed { host: host.clone(), cluster, commit: commit(3), by: String::new(), when: 0 };
        let hello = Hello {
            instance: String::new(),
            deployed: Some(deployed),
            last_attempt: None,
            recovered: None,
            failures: Vec::new(),
            busy: None,
        };
        before(&host, &hello, attempts)
    }

    #[test]
    fn what_ran_before_is_what_the_last_good_deployment_replaced() {
        let rolled_back = AttemptResult::RolledBack { why: "x".into(), errors: Vec::new() };
        let attempts = [
            attempt(Some(3), 4, rolled_back),
            attempt(Some(3), 3, AttemptResult::Done),
            attempt(Some(2), 3, AttemptResult::Done),
            attempt(Some(1), 2, AttemptResult::Done),
        ];
        assert_eq!(found(&attempts), Ok(commit(2)));
        assert!(found(&[attempt(None, 3, AttemptResult::Done)]).unwrap_err().contains("nothing ran on 'web1' before"));
        assert!(found(&[]).is_err());
    }
}
