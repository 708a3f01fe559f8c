//! What a subcommand is about: a cluster, the commit that is its branch's, and its hosts.

use std::collections::BTreeSet;

use clap_complete::ArgValueCandidates;
use deptool_agent::shared::{
    id::CommitId,
    name::{ClusterName, HostName},
    outcome::Goal,
};

use super::{CliError, candidates};
use crate::{
    config::HostRemote,
    fleet::remote::Remote,
    model::batch::Ancestry,
    plan::{ClusterPlan, Intent, Scope},
    push,
    repo::Repo,
    state::HostFacts,
};

/// Which hosts of the cluster are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selection {
    /// All of the tree's.
    All,
    /// These.
    Some(Vec<HostName>),
}

/// What is to be looked at, or deployed.
#[derive(Debug, Clone)]
pub(super) struct Aim {
    pub cluster: ClusterName,
    pub commit: CommitId,
    pub selection: Selection,
    pub hosts: Vec<HostRemote>,
}

/// How a subcommand is told what it is about.
#[derive(Debug, clap::Args)]
pub(super) struct AimArgs {
    /// The cluster, and the commit if it is not the branch's; by default deptool.cluster, else the current branch
    #[arg(value_name = "[source:]cluster", add = ArgValueCandidates::new(candidates::clusters))]
    cluster: Option<String>,
    /// Only these hosts, separated by commas
    #[arg(long, value_name = "host", value_delimiter = ',', add = ArgValueCandidates::new(candidates::hosts))]
    hosts: Vec<String>,
}

impl Aim {
    /// What `args` mean here.
    pub fn of(remote: &Remote, args: &AimArgs) -> Result<Aim, CliError> {
        let (cluster, source) = named(remote, args.cluster.as_deref())?;
        let commit = remote.repo.resolve(source.as_str().into())?;
        let selection = match args.hosts.is_empty() {
            true => Selection::All,
            false => Selection::Some(parse(&args.hosts)?),
        };
        let hosts = match &selection {
            Selection::All => push::hosts_of_tree(&remote.repo, &remote.settings, commit)?,
            Selection::Some(names) => {
                let there = remote.repo.hosts(commit)?;
                if let Some(missing) = names.iter().find(|name| !there.contains(name)) {
                    return Err(CliError::Text(format!("the tree of '{source}' has no directory '{missing}'")));
                }
                names.iter().map(|name| remote.settings.host(name)).collect::<Result<_, _>>()?
            }
        };
        Ok(Aim { cluster, commit, selection, hosts })
    }

    /// What a push of the commit would mean, from what is known here.
    pub fn plan(&self, repo: &Repo, ancestry: Ancestry) -> Result<ClusterPlan, CliError> {
        let intent = Intent {
            cluster: self.cluster.clone(),
            goal: Goal::Commit(self.commit),
            ancestry,
            lease: None,
            scope: self.scope(),
        };
        Ok(ClusterPlan::make(repo, intent, self.hosts.clone())?)
    }

    /// Whether all hosts of the tree are meant.
    pub fn is_everything(&self) -> bool {
        self.selection == Selection::All
    }

    /// Whether one host is meant, by name.
    pub fn scope(&self) -> Scope {
        match (&self.selection, self.hosts.len()) {
            (Selection::Some(_), 1) => Scope::OneHost,
            (Selection::Some(_) | Selection::All, _) => Scope::Group,
        }
    }
}

/// The cluster that is meant, and which commit.
pub(super) fn named(remote: &Remote, typed: Option<&str>) -> Result<(ClusterName, String), CliError> {
    let (source, cluster) = match typed {
        Some(typed) => match typed.rsplit_once(':') {
            Some((source, cluster)) => (Some(source), ClusterName::parse(cluster.as_bytes())?),
            None => (None, ClusterName::parse(typed.as_bytes())?),
        },
        None => (None, usual(remote)?),
    };
    let source = source.map_or_else(|| format!("refs/heads/{cluster}"), str::to_owned);
    Ok((cluster, source))
}

fn usual(remote: &Remote) -> Result<ClusterName, CliError> {
    if let Some(configured) = &remote.settings.cluster {
        return Ok(configured.clone());
    }
    let head = remote.repo.gix().head_name().ok().flatten();
    let current = head.and_then(|name| ClusterName::parse(name.shorten()).ok());
    current.ok_or_else(|| CliError::Text("which cluster? name one, or set deptool.cluster".into()))
}

/// Names without repetition, in the order in which they were typed.
pub(super) fn parse(names: &[String]) -> Result<Vec<HostName>, CliError> {
    let mut seen = BTreeSet::new();
    let names: Vec<HostName> = names.iter().map(|name| HostName::parse(name.as_bytes())).collect::<Result<_, _>>()?;
    Ok(names.into_iter().filter(|name| seen.insert(name.clone())).collect())
}

/// Hosts that were last heard to run the cluster and are not in `hosts`, with what they run: the tree has lost them.
pub(super) fn left_over(
    remote: &Remote,
    cluster: &ClusterName,
    hosts: &[HostRemote],
) -> Result<Vec<(HostName, CommitId)>, CliError> {
    let mut known = remote.settings.known_hosts()?;
    for (_, facts) in HostFacts::all(&remote.repo) {
        if !known.iter().any(|host| host.host == facts.host) {
            // A host whose name a remote has taken since is that remote's business.
            known.extend(remote.settings.host(&facts.host));
        }
    }
    known.retain(|host| !hosts.iter().any(|there| there.host == host.host));
    let clusters = remote.tracking().known(&known.iter().collect::<Vec<_>>())?;
    let running = known.into_iter().zip(clusters).filter_map(|(host, known)| {
        let tracked = known.clusters.get(cluster)?;
        Some((host.host, tracked.real))
    });
    Ok(running.collect())
}

/// The remote of one host, or else its address.
pub(super) fn remote_of(remote: &Remote, host: &HostRemote) -> String {
    match remote.settings.has_remote(&host.tracking) {
        true => host.tracking.as_str().to_owned(),
        false => format!("deptool::{}", host.host),
    }
}
