//! `git deptool status`: shows what each host runs, since when, and what is not deployed yet.

use std::collections::BTreeMap;

use deptool_agent::shared::{
    id::CommitId,
    name::HostName,
    outcome::{Deployed, Holder, Phase},
    wire::{Hello, Repair},
};
use serde::Serialize;

use super::{
    CliError,
    aim::{Aim, AimArgs, Hosts},
    caveats,
    deploy_options::PlainOption,
    exit::ExitStatus,
    output::Output,
    table::{self, name_of, now},
    view,
};
use crate::{
    fetch::query::query,
    fleet::remote::Remote,
    model::{batch::Ancestry, error::chain},
    plan::{ClusterPlan, HostForecast, Impact},
    state::{Failed, HostFacts},
    ui::render::{ago, plural},
};

/// Show what each host runs, since when, and what is not deployed yet
///
/// Shows what the hosts are known to run, from pushes and fetches of this repository; --live asks them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    aim: AimArgs,
    /// Ask the hosts; this does not fetch what others have deployed
    #[arg(long)]
    live: bool,
    /// Print the status as JSON
    #[arg(long)]
    json: bool,
    /// Exit with 2 if a host does not run what the branch has, or is in doubt
    #[arg(long)]
    exit_code: bool,
}

#[derive(Serialize)]
struct Status {
    version: u32,
    cluster: String,
    commit: String,
    hosts: Vec<HostStatus>,
}

#[derive(Serialize)]
struct HostStatus {
    host: HostName,
    state: State,
    /// What the host is known to run, who deployed it, and when.
    deployed: Option<Deployment>,
    /// What a push would change on the host.
    undeployed: Option<Undeployed>,
    /// Why the branch can't be pushed to the host.
    why: Option<String>,
    /// Why the host is in doubt.
    in_doubt: Option<String>,
    last_attempt_failed: Option<Failed>,
    /// The number of paths and units that differed from what was deployed at the last check.
    drift: usize,
    #[serde(skip)]
    drift_in_words: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<Live>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    UpToDate,
    Undeployed,
    /// Nothing is deployed.
    New,
    /// This repository has never asked the host.
    NotAsked,
    /// The host reports another commit than the known one.
    Elsewhere,
    /// The branch can't be pushed to the host.
    Refused,
    /// The host is not in the tree, or no longer.
    NotInTree,
}

#[derive(Serialize)]
struct Deployment {
    commit: String,
    by: Option<String>,
    /// In seconds since 1970.
    when: Option<i64>,
}

#[derive(Serialize)]
struct Undeployed {
    apps: usize,
    files: usize,
    paths: usize,
    units: usize,
}

/// The answer of the host.
#[derive(Serialize)]
struct Live {
    /// Why the host could not be asked.
    error: Option<String>,
    /// What the host runs.
    deployed: Option<Deployed>,
    /// The deployment in progress.
    busy: Option<Busy>,
    #[serde(skip)]
    is_as_known: bool,
}

#[derive(Serialize)]
struct Busy {
    by: String,
    phase: Phase,
    /// In seconds since 1970.
    since: i64,
}

pub(super) fn run(remote: &Remote, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let aim = Aim::of(remote, &args.aim, Hosts::Known)?;
    let plain = PlainOption::default().or_configured(remote);
    let plan = aim.plan(&remote.repo, Ancestry::Required, Repair::Changed, plain)?;
    let facts: BTreeMap<_, _> =
        HostFacts::all(&remote.repo).into_iter().map(|(_, facts)| (facts.host.clone(), facts)).collect();
    let lost = caveats::vanished(remote, &aim)?;
    let there = plan.hosts.iter().filter(|one| !lost.iter().any(|(host, _)| *host == one.remote.host));
    let mut hosts: Vec<HostStatus> =
        there.map(|host| HostStatus::of(&plan, host, facts.get(&host.remote.host))).collect();
    hosts.extend(lost.iter().map(|(host, commit)| HostStatus::lost(host, *commit, facts.get(host))));
    caveats::of_work_tree(remote, &aim).iter().try_for_each(|note| output.remark(note))?;
    let mut exit = if args.live { ask_hosts(remote, &mut hosts)? } else { ExitStatus::Done };
    if args.exit_code && exit == ExitStatus::Done && hosts.iter().any(HostStatus::wants_attention) {
        exit = ExitStatus::Changes;
    }
    if args.json {
        let (cluster, commit) = (aim.cluster.to_string(), aim.commit.to_string());
        output.json(&Status { version: view::VERSION, cluster, commit, hosts })?;
        return Ok(exit);
    }
    output.note(format_args!("cluster '{}' is at {}", aim.cluster, aim.commit.short()))?;
    let width = table::terminal_width();
    let rows: Vec<_> = hosts.iter().map(HostStatus::row).collect();
    for (line, host) in table::lines(&rows, width).into_iter().zip(&hosts) {
        output.line(line)?;
        for more in host.more() {
            output.line(table::cut(&format!("    {more}"), width))?;
        }
    }
    Ok(exit)
}

/// Ask all hosts, and add their answers.
fn ask_hosts(remote: &Remote, hosts: &mut [HostStatus]) -> Result<ExitStatus, CliError> {
    let mut exit = ExitStatus::Done;
    let asked: Vec<_> = hosts.iter().map(|host| remote.settings.host(&host.host)).collect::<Result<_, _>>()?;
    let answers = query(remote, &asked, |_, _| Ok(()));
    for (host, answer) in hosts.iter_mut().zip(answers) {
        match answer {
            Ok((hello, ())) => host.take_answer(hello),
            Err(error) => {
                exit = exit.worse(view::status_of_error(&error));
                host.live = Some(Live { error: Some(chain(&error)), deployed: None, busy: None, is_as_known: true });
            }
        }
    }
    Ok(exit)
}

impl HostStatus {
    fn of(plan: &ClusterPlan, forecast: &HostForecast, facts: Option<&HostFacts>) -> Self {
        let HostForecast { remote, known, impact } = forecast;
        let tracked = known.clusters.get(&plan.cluster);
        let (state, undeployed, why) = match (impact, tracked) {
            (Impact::Unaffected, Some(_)) => (State::UpToDate, None, None),
            (Impact::Unaffected, None) => (State::NotInTree, None, None),
            (Impact::Refused(refusal), _) => (State::Refused, None, Some(refusal.words())),
            (Impact::Affected(change), tracked) => {
                let state = match (tracked, facts) {
                    (Some(_), _) => State::Undeployed,
                    (None, Some(_)) => State::New,
                    (None, None) => State::NotAsked,
                };
                let plan = &change.plan;
                let undeployed = Undeployed {
                    apps: plan.apps.len(),
                    files: plan.apps.iter().map(|app| app.files.len()).sum(),
                    paths: plan.external.len(),
                    units: plan.units.len(),
                };
                (state, Some(undeployed), None)
            }
        };
        HostStatus {
            host: remote.host.clone(),
            state,
            deployed: tracked.map(|tracked| Deployment::of(tracked.real, facts)),
            undeployed,
            why,
            in_doubt: view::doubt(known),
            last_attempt_failed: facts.and_then(|facts| facts.failed.clone()).filter(|_| state != State::UpToDate),
            drift: facts.map_or(0, |facts| facts.drift),
            drift_in_words: facts.and_then(HostFacts::drift_in_words),
            live: None,
        }
    }

    fn lost(host: &HostName, commit: CommitId, facts: Option<&HostFacts>) -> Self {
        HostStatus {
            host: host.clone(),
            state: State::NotInTree,
            deployed: Some(Deployment::of(commit, facts)),
            undeployed: None,
            why: None,
            in_doubt: None,
            last_attempt_failed: facts.and_then(|facts| facts.failed.clone()),
            drift: facts.map_or(0, |facts| facts.drift),
            drift_in_words: facts.and_then(HostFacts::drift_in_words),
            live: None,
        }
    }

    fn take_answer(&mut self, hello: Hello) {
        let runs = hello.deployed.as_ref().map(|deployed| deployed.commit.to_string());
        let is_as_known = runs == self.deployed.as_ref().map(|deployed| deployed.commit.clone());
        let busy = hello.busy.map(|Holder { by, phase, since, .. }| Busy { by, phase, since });
        self.state = match (is_as_known, &hello.deployed) {
            (true, None) => State::New,
            (true, Some(_)) => self.state,
            (false, None) => State::New,
            (false, Some(_)) => State::Elsewhere,
        };
        let failed = hello.last_attempt.as_ref().and_then(Failed::of);
        self.last_attempt_failed = failed.filter(|_| self.state != State::UpToDate);
        self.live = Some(Live { error: None, deployed: hello.deployed, busy, is_as_known });
    }

    fn wants_attention(&self) -> bool {
        self.state != State::UpToDate
            || self.drift > 0
            || self.in_doubt.is_some()
            || self.live.as_ref().is_some_and(|live| !live.is_as_known)
    }

    /// The columns: host, state, commit, since when, by whom.
    fn row(&self) -> [String; 5] {
        let state = match (self.state, &self.undeployed) {
            (State::UpToDate, _) => "up to date".to_owned(),
            (State::Undeployed, Some(lacks)) => {
                format!("{}, {} to deploy", plural(lacks.apps, "app"), plural(lacks.files, "file"))
            }
            (State::Undeployed, None) => "to deploy".into(),
            (State::New, _) => "nothing deployed".into(),
            (State::NotAsked, _) => "not asked yet".into(),
            (State::Elsewhere, _) => "changed meanwhile".into(),
            (State::Refused, _) => "can't be deployed to".into(),
            (State::NotInTree, _) => "not in the tree".into(),
        };
        let deployed = self.deployed.as_ref();
        let commit = deployed.map(|deployed| deployed.commit[..10].to_owned()).unwrap_or_default();
        let when = deployed.and_then(|deployed| deployed.when);
        let when = when.map(|when| format!("{} ago", ago(now() - when))).unwrap_or_default();
        let by = deployed.and_then(|deployed| deployed.by.as_deref()).map(name_of).unwrap_or_default();
        [self.host.to_string(), state, commit, when, by.to_owned()]
    }

    /// Further lines about the host.
    fn more(&self) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(self.why.clone());
        lines.extend(self.drift_in_words.clone());
        lines.extend(self.in_doubt.as_ref().map(|doubt| format!("in doubt: {doubt}; git fetch asks")));
        if let Some(Failed { when, by, to, why }) = &self.last_attempt_failed {
            let what = to.map_or("the removal of everything".to_owned(), |commit| commit.short());
            let (by, ago) = (name_of(by), ago(now() - when));
            lines.push(format!("last attempt failed: {what} by {by} {ago} ago: {why}"));
        }
        let Some(Live { error, deployed, busy, is_as_known }) = &self.live else { return lines };
        lines.extend(error.clone());
        match deployed {
            _ if *is_as_known => {}
            None => lines.push("nothing is deployed any more".into()),
            Some(Deployed { commit, by, when, .. }) => lines.push(format!(
                "runs {}, deployed by {} {} ago; run git fetch to get it",
                commit.short(),
                name_of(by),
                ago(now() - when)
            )),
        }
        lines.extend(busy.as_ref().map(|Busy { by, phase, since }| {
            format!("{} has been {} for {}", name_of(by), phase.word(), ago(now() - since))
        }));
        lines
    }
}

impl Deployment {
    fn of(commit: CommitId, facts: Option<&HostFacts>) -> Self {
        let known = facts.and_then(|facts| facts.deployed.as_ref()).filter(|deployed| deployed.commit == commit);
        Deployment {
            commit: commit.to_string(),
            by: known.map(|deployed| deployed.by.clone()),
            when: known.map(|deployed| deployed.when),
        }
    }
}
