//! The cluster, the commit and the hosts that a subcommand is for.

use std::collections::BTreeSet;

use clap_complete::ArgValueCandidates;
use deptool_agent::shared::{
    id::CommitId,
    name::{ClusterName, HostName},
    outcome::Goal,
    wire::Repair,
};
use gix::bstr::ByteSlice;

use super::{CliError, candidates, wiring::Draft};
use crate::{
    config::{
        HostRemote, Settings,
        cluster_file::Defaults,
        url::{Address, GroupName},
    },
    fleet::remote::Remote,
    model::{batch::Ancestry, push_option::PlainText},
    plan::{ClusterPlan, Intent, Scope},
    push,
    repo::Repo,
};

/// Which hosts of the cluster are selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Selection {
    /// All hosts of the tree.
    All,
    /// The hosts that were named.
    Some,
}

/// Where the commit comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The tip of the cluster's branch.
    Branch,
    /// A commit that was named.
    Commit,
}

/// Which hosts can be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hosts {
    /// Hosts that have a directory in the tree.
    OfTree,
    /// Those, and hosts that the repository knows from earlier.
    Known,
}

/// The target of a subcommand.
#[derive(Debug, Clone)]
pub(super) struct Aim {
    pub cluster: ClusterName,
    pub commit: CommitId,
    pub source: Source,
    pub selection: Selection,
    pub hosts: Vec<HostRemote>,
    /// Selected hosts that have no directory in the tree.
    pub absent: Vec<HostRemote>,
    /// How deployments are carried out unless the operator says otherwise.
    pub defaults: Defaults,
}

/// The positional arguments of a subcommand.
#[derive(Debug, clap::Args)]
pub(super) struct AimArgs {
    /// Hosts, groups, and the cluster; by default all hosts of deptool.cluster, else of the current branch
    #[arg(value_name = "host|@group|[commit:]cluster", add = ArgValueCandidates::new(candidates::words))]
    words: Vec<String>,
}

/// The arguments, sorted by their syntax.
#[derive(Default)]
struct Words<'a> {
    /// `<commit>:<cluster>`.
    spec: Option<(&'a str, &'a str)>,
    groups: Vec<GroupName>,
    all: bool,
    /// Names of hosts or of a cluster.
    names: Vec<&'a str>,
}

impl<'a> Words<'a> {
    fn of(words: &'a [String]) -> Result<Self, CliError> {
        let mut sorted = Words::default();
        for word in words {
            match (word.strip_prefix('@'), word.rsplit_once(':')) {
                (Some("all"), _) => sorted.all = true,
                (Some(group), None) => sorted.groups.push(
                    GroupName::parse(group.as_bytes())
                        .ok_or_else(|| CliError::Usage(format!("'{word}' can't be the name of a group")))?,
                ),
                (_, Some(spec)) if sorted.spec.replace(spec).is_some() => {
                    return Err(CliError::Usage("only one commit can be deployed at a time".into()));
                }
                (_, Some(_)) => {}
                (None, None) => sorted.names.push(word),
            }
        }
        Ok(sorted)
    }
}

impl Aim {
    /// The target that `args` describe in this repository.
    pub fn of(remote: &Remote, args: &AimArgs, which: Hosts) -> Result<Aim, CliError> {
        let words = Words::of(&args.words)?;
        let (cluster, source, names) = cluster_of(remote, &words)?;
        let (source, commit) = match source {
            Some(text) => (Source::Commit, remote.repo.resolve(text.as_bytes().as_bstr())?),
            None => (Source::Branch, remote.repo.resolve(format!("refs/heads/{cluster}").as_str().into())?),
        };
        let settings = &remote.settings.with(remote.repo.cluster_file(commit)?);
        let defaults = settings.shared.defaults.clone();
        if words.all || (names.is_empty() && words.groups.is_empty()) {
            let hosts = push::hosts_of_tree(&remote.repo, settings, commit)?;
            return Ok(Aim { cluster, commit, source, selection: Selection::All, hosts, absent: Vec::new(), defaults });
        }
        let there: BTreeSet<HostName> = remote.repo.hosts(commit)?.into_iter().collect();
        let mut hosts: Vec<HostRemote> = Vec::new();
        for name in names {
            let host = HostName::parse(name.as_bytes())?;
            if !there.contains(&host) && (which == Hosts::OfTree || !remote.is_known(&host)?) {
                return Err(CliError::Text(no_such_host(remote, &cluster, &host)));
            }
            hosts.push(settings.host(&host)?);
        }
        for group in &words.groups {
            let members = settings.hosts_of_group(group)?;
            remote.check_members(group, &members, commit)?;
            hosts.extend(members);
        }
        let mut hosts = unique(hosts);
        let absent = hosts.iter().filter(|host| !there.contains(&host.host)).cloned().collect();
        if which == Hosts::OfTree {
            hosts.retain(|host| there.contains(&host.host));
        }
        Ok(Aim { cluster, commit, source, selection: Selection::Some, hosts, absent, defaults })
    }

    /// The target of a push of `commit` to these hosts.
    pub fn at(
        remote: &Remote,
        cluster: ClusterName,
        commit: CommitId,
        hosts: Vec<HostRemote>,
    ) -> Result<Aim, CliError> {
        let defaults = remote.settings.with(remote.repo.cluster_file(commit)?).shared.defaults;
        let (source, selection, absent) = (Source::Commit, Selection::Some, Vec::new());
        Ok(Aim { cluster, commit, source, selection, hosts, absent, defaults })
    }

    /// What a push of the commit would change, according to what this repository knows.
    pub fn plan(
        &self,
        repo: &Repo,
        ancestry: Ancestry,
        repair: Repair,
        plain: PlainText,
    ) -> Result<ClusterPlan, CliError> {
        let intent = Intent {
            cluster: self.cluster.clone(),
            goal: Goal::Commit(self.commit),
            ancestry,
            lease: None,
            repair,
            scope: self.scope(),
            plain,
        };
        Ok(ClusterPlan::make(repo, intent, self.hosts.clone())?)
    }

    /// Whether all hosts of the tree are selected.
    pub fn is_everything(&self) -> bool {
        self.selection == Selection::All
    }

    /// Whether a single host was named.
    pub fn scope(&self) -> Scope {
        match (self.selection, self.hosts.len()) {
            (Selection::Some, 1) => Scope::OneHost,
            (Selection::Some | Selection::All, _) => Scope::Group,
        }
    }
}

/// The hosts in `words`, for commands that take nothing but hosts and groups.
pub(super) fn hosts_named(settings: &Settings, words: &[String]) -> Result<Vec<HostRemote>, CliError> {
    let words = Words::of(words)?;
    if words.all || words.spec.is_some() {
        return Err(CliError::Usage("name the hosts, or a group of them".into()));
    }
    let mut hosts = Vec::new();
    for name in words.names {
        hosts.push(settings.host(&HostName::parse(name.as_bytes())?)?);
    }
    for group in &words.groups {
        hosts.extend(settings.hosts_of_group(group)?);
    }
    Ok(unique(hosts))
}

/// Without duplicates, in the given order.
fn unique(hosts: Vec<HostRemote>) -> Vec<HostRemote> {
    let mut seen = BTreeSet::new();
    hosts.into_iter().filter(|host| seen.insert(host.host.clone())).collect()
}

/// The selected cluster, the commit if one was named, and the remaining names, which are hosts.
fn cluster_of<'a>(
    remote: &Remote,
    words: &Words<'a>,
) -> Result<(ClusterName, Option<&'a str>, Vec<&'a str>), CliError> {
    if let Some((source, cluster)) = words.spec {
        let source = Some(source).filter(|source| !source.is_empty());
        return Ok((ClusterName::parse(cluster.as_bytes())?, source, words.names.clone()));
    }
    // A name of a host is always taken for the host, even if there is a branch of that name. ':<branch>' selects the
    // branch.
    let default = usual(remote);
    let in_tree = default.as_ref().and_then(|cluster| remote.repo.resolve(branch(cluster).as_str().into()).ok());
    let in_tree: Vec<HostName> = in_tree.and_then(|tip| remote.repo.hosts(tip).ok()).unwrap_or_default();
    let (mut clusters, mut hosts) = (Vec::new(), Vec::new());
    for name in words.names.iter().copied() {
        let host = HostName::parse(name.as_bytes()).ok();
        let is_host = match &host {
            Some(host) => in_tree.contains(host) || remote.is_known(host)?,
            None => false,
        };
        match ClusterName::parse(name.as_bytes()) {
            Ok(cluster) if !is_host && is_cluster(remote, &cluster) => clusters.push(cluster),
            _ => hosts.push(name),
        }
    }
    match (clusters.len(), default) {
        (2.., _) => Err(CliError::Usage("only one cluster can be looked at, or deployed, at a time".into())),
        (1, _) => Ok((clusters.remove(0), None, hosts)),
        (_, Some(default)) => Ok((default, None, hosts)),
        (_, None) => Err(CliError::Text("which cluster? name one, or set deptool.cluster".into())),
    }
}

/// The default cluster.
pub(super) fn usual(remote: &Remote) -> Option<ClusterName> {
    let current = || {
        let head = remote.repo.gix().head_name().ok().flatten()?;
        ClusterName::parse(head.shorten()).ok()
    };
    remote.settings.cluster.clone().or_else(current)
}

fn branch(cluster: &ClusterName) -> String {
    format!("refs/heads/{cluster}")
}

fn is_cluster(remote: &Remote, name: &ClusterName) -> bool {
    remote.settings.cluster.as_ref() == Some(name) || remote.repo.resolve(branch(name).as_str().into()).is_ok()
}

fn no_such_host(remote: &Remote, cluster: &ClusterName, host: &HostName) -> String {
    let there = ClusterName::parse(host.as_str().as_bytes()).is_ok_and(|name| is_cluster(remote, &name));
    let also = if there { "" } else { &format!(", and there is no branch '{host}'") };
    format!("the tree of '{cluster}' has no directory '{host}'{also}")
}

/// The name of the host's remote, or else its address.
pub(super) fn remote_of(remote: &Remote, host: &HostRemote) -> String {
    match remote.settings.has_remote(&host.tracking) {
        true => host.tracking.as_str().to_owned(),
        false => format!("deptool::{}", host.host),
    }
}

/// The remote for all hosts, if there is one.
pub(super) fn remote_of_all(remote: &Remote) -> Option<String> {
    let config = remote.repo.gix().config_snapshot();
    let remotes = Draft::new(config.plumbing()).remotes();
    Some(remotes.into_iter().find(|remote| remote.address == Some(Address::All))?.name)
}
