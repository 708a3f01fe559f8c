//! `git deptool rollback`: deploys the commit that ran before.

use std::collections::BTreeMap;

use clap_complete::ArgValueCandidates;
use deptool_agent::shared::{
    id::CommitId,
    name::{ClusterName, HostName},
    outcome::{Attempt, AttemptResult},
    wire::{Hello, Repair},
};

use super::{
    CliError,
    aim::{self, Aim},
    candidates,
    deploy::{self, Deployment},
    deploy_options::DeployOptions,
    exit::ExitStatus,
    log,
    output::Output,
    table::{name_of, now},
    view,
};
use crate::{
    config::HostRemote,
    fetch::query::query,
    fleet::remote::Remote,
    model::{batch::Ancestry, error::chain, push_option::PlainText},
    ui::render::ago,
};

/// How many entries of a host's log are examined.
const ATTEMPTS: u32 = 1000;

/// Deploy the commit that ran before
///
/// Each host is asked which commit that was. A second rollback goes one step further back, and a removal can be undone.
/// The branch itself does not change: the next deployment goes forward again.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The hosts to roll back
    #[arg(value_name = "host|@group", required = true, add = ArgValueCandidates::new(candidates::hosts_and_groups))]
    hosts: Vec<String>,
    #[command(flatten)]
    how: DeployOptions,
}

/// The step back on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    cluster: ClusterName,
    /// The commit that runs now; none after a removal.
    from: Option<CommitId>,
    to: CommitId,
    /// Who deployed the commit to go back to, and when, if that is in the log.
    by: Option<(String, i64)>,
}

pub(super) fn run(remote: &Remote, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let hosts = aim::hosts_named(&remote.settings, &args.hosts)?;
    let answers = query(remote, &hosts, |session, _| log::attempts(session, ATTEMPTS));
    let mut back: BTreeMap<(ClusterName, CommitId), Vec<(HostRemote, Step)>> = BTreeMap::new();
    let mut failed: Vec<(String, ExitStatus)> = Vec::new();
    for (host, answer) in hosts.into_iter().zip(answers) {
        let step = answer.map_err(|error| (chain(&error), view::status_of_error(&error)));
        let step = step.and_then(|(hello, attempts)| {
            before(&host.host, &hello, &attempts).map_err(|why| (why, ExitStatus::Failed))
        });
        match step {
            Ok(step) if !remote.repo.has_commit(step.to) => failed.push((
                format!("'{}' ran {} before, which is not in this repository", host.host, step.to.short()),
                ExitStatus::Failed,
            )),
            Ok(step) => back.entry((step.cluster.clone(), step.to)).or_default().push((host, step)),
            Err(why) => failed.push(why),
        }
    }
    if let Some(last) = failed.pop() {
        for (why, _) in &failed {
            output.complain(format_args!("error: {why}"))?;
        }
        let status = failed.iter().fold(last.1, |worst, (_, status)| worst.worse(*status));
        return Err(CliError::Hosts(last.0, status));
    }
    let mut clusters = back.keys().map(|(cluster, _)| cluster);
    let first = clusters.next().cloned();
    if let Some(other) = clusters.find(|cluster| Some(*cluster) != first.as_ref()) {
        return Err(CliError::Text(format!("the hosts run different clusters, one of them '{other}'")));
    }
    let deployment = |((cluster, commit), hosts): (_, Vec<(HostRemote, Step)>)| {
        let intro = hosts.iter().map(|(host, step)| intro(remote, &host.host, step)).collect();
        let hosts = hosts.into_iter().map(|(host, _)| host).collect();
        let aim = Aim::at(remote, cluster, commit, hosts)?;
        // What ran before is deployed as it was.
        Ok(Deployment {
            aim,
            ancestry: Ancestry::Waived,
            repair: Repair::Changed,
            plain: PlainText::Allowed,
            digest: None,
            intro,
        })
    };
    let deployments = back.into_iter().map(deployment).collect::<Result<Vec<Deployment>, CliError>>()?;
    deploy::carry_out(remote, output, &deployments, &args.how, &[])
}

/// `web1: from 1234567890 (Break it) back to 0123456789 (Add nginx), deployed 3 h ago by Ada Operator`
fn intro(remote: &Remote, host: &HostName, step: &Step) -> String {
    let shown = |commit: CommitId| match log::subject(remote, commit) {
        Some(subject) => format!("{} ({subject})", commit.short()),
        None => commit.short(),
    };
    let from = step.from.map_or("nothing".into(), shown);
    let by = step.by.as_ref().map(|(by, when)| format!(", deployed {} ago by {}", ago(now() - when), name_of(by)));
    format!("{host}: from {from} back to {}{}\n", shown(step.to), by.unwrap_or_default())
}

/// The commit that ran before the running one. The log is replayed from its beginning: deploying the commit that ran
/// before is a step back, and everything else is a step forward, even a removal.
fn before(host: &HostName, hello: &Hello, attempts: &[Attempt]) -> Result<Step, String> {
    let runs = hello.deployed.as_ref().map(|deployed| deployed.commit);
    let done = attempts.iter().filter(|attempt| attempt.result == AttemptResult::Done).rev();
    let mut steps: Vec<(Option<CommitId>, Option<&Attempt>)> = Vec::new();
    let mut cluster = hello.deployed.as_ref().map(|deployed| &deployed.cluster);
    for attempt in done {
        if steps.is_empty() {
            steps.push((attempt.from, None));
        }
        let to = attempt.to.commit();
        if hello.deployed.is_none() {
            cluster = Some(&attempt.cluster);
        }
        let below = steps.len().checked_sub(2).and_then(|below| steps.get(below)).map(|(commit, _)| *commit);
        match to {
            _ if steps.last().map(|(commit, _)| *commit) == Some(to) => {}
            Some(_) if below == Some(to) => drop(steps.pop()),
            _ => steps.push((to, Some(attempt))),
        }
    }
    if steps.last().map(|(commit, _)| *commit) != Some(runs) {
        // The log no longer has the deployment of this commit.
        steps.push((runs, None));
    }
    steps.pop();
    let found = steps.into_iter().rev().find_map(|(commit, attempt)| Some((commit?, attempt)));
    match (found, cluster) {
        (Some((to, attempt)), Some(cluster)) => {
            let by = attempt.map(|attempt| (attempt.by.clone(), attempt.when));
            Ok(Step { cluster: cluster.clone(), from: runs, to, by })
        }
        (_, cluster) => Err(match (runs, cluster) {
            (Some(runs), Some(cluster)) => {
                format!("nothing ran on '{host}' before {}; 'git push {host} :{cluster}' removes it", runs.short())
            }
            _ => format!("nothing was ever deployed on '{host}'"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use deptool_agent::shared::{
        id::DeploymentId,
        outcome::{Deployed, Goal},
    };

    use super::*;

    fn commit(n: u8) -> CommitId {
        format!("{n:040x}").parse().unwrap()
    }

    /// Where a host goes back to that has had these deployments, oldest first; 0 is nothing.
    fn back(history: &[(u8, u8)]) -> Result<CommitId, String> {
        let (host, cluster) = (HostName::parse(b"web1").unwrap(), ClusterName::parse(b"prod").unwrap());
        let some = |n: u8| (n > 0).then(|| commit(n));
        let attempt = |(from, to): &(u8, u8)| Attempt {
            id: DeploymentId::random().unwrap(),
            when: 0,
            by: String::new(),
            cluster: cluster.clone(),
            from: some(*from),
            to: some(*to).map_or(Goal::Nothing, Goal::Commit),
            result: AttemptResult::Done,
            mended: Vec::new(),
        };
        let attempts: Vec<Attempt> = history.iter().rev().map(attempt).collect();
        let deployed =
            |commit| Deployed { host: host.clone(), cluster: cluster.clone(), commit, by: String::new(), when: 0 };
        let hello = Hello {
            instance: String::new(),
            recipient: None,
            deployed: history.last().and_then(|(_, to)| some(*to)).map(deployed),
            last_attempt: None,
            notes: Vec::new(),
            failures: Vec::new(),
            busy: None,
            is_roots_login: true,
        };
        before(&host, &hello, &attempts).map(|step| step.to)
    }

    #[test]
    fn each_rollback_is_one_step_further_back() {
        let mut history = vec![(0, 1), (1, 2), (2, 2), (2, 3)];
        for to in [2, 1] {
            assert_eq!(back(&history), Ok(commit(to)));
            history.push((history.last().unwrap().1, to));
        }
        assert!(back(&history).unwrap_err().contains("nothing ran on 'web1' before"));
        // Forward again, and back again.
        history.extend([(1, 3)]);
        assert_eq!(back(&history), Ok(commit(1)));
    }

    #[test]
    fn a_removal_is_undone_and_then_it_goes_further_back() {
        let history = [(0, 1), (1, 2), (2, 0)];
        assert_eq!(back(&history), Ok(commit(2)));
        assert_eq!(back(&[&history[..], &[(0, 2)]].concat()), Ok(commit(1)));
    }

    #[test]
    fn what_the_record_has_lost_is_not_made_up() {
        assert!(back(&[]).unwrap_err().contains("nothing was ever deployed"));
        assert_eq!(back(&[(7, 8)]), Ok(commit(7)), "what ran before the record began");
        assert!(back(&[(0, 1), (1, 0), (0, 3)]).is_ok());
    }
}
