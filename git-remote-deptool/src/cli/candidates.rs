//! Candidates for the completion of hosts and clusters. Errors result in no candidates.

use std::collections::BTreeSet;

use clap_complete::CompletionCandidate;

use crate::{
    config::Settings,
    fleet::context::settings_of,
    repo::{Environment, Repo},
};

/// Hosts of the cluster's branch, and those that have a remote.
pub(super) fn hosts() -> Vec<CompletionCandidate> {
    let Some((repo, settings)) = open() else { return Vec::new() };
    let mut names = in_tree(&repo, &settings);
    names.extend(settings.known_hosts().unwrap_or_default().iter().map(|known| known.host.to_string()));
    names.into_iter().map(CompletionCandidate::new).collect()
}

/// Hosts of the cluster's branch that have no remote yet.
pub(super) fn hosts_without_remote() -> Vec<CompletionCandidate> {
    let Some((repo, settings)) = open() else { return Vec::new() };
    let mut names = in_tree(&repo, &settings);
    for known in settings.known_hosts().unwrap_or_default() {
        names.remove(known.host.as_str());
    }
    names.into_iter().map(CompletionCandidate::new).collect()
}

/// Hosts, groups and clusters.
pub(super) fn words() -> Vec<CompletionCandidate> {
    let groups = open().map(|(_, settings)| settings.group_names()).unwrap_or_default();
    let groups = groups.into_iter().map(|group| CompletionCandidate::new(format!("@{group}")));
    hosts().into_iter().chain(groups).chain(clusters()).collect()
}

/// Hosts, and groups of them.
pub(super) fn hosts_and_groups() -> Vec<CompletionCandidate> {
    let groups = open().map(|(_, settings)| settings.group_names()).unwrap_or_default();
    hosts().into_iter().chain(groups.into_iter().map(|group| CompletionCandidate::new(format!("@{group}")))).collect()
}

/// Local branches, each of which may be a cluster.
pub(super) fn clusters() -> Vec<CompletionCandidate> {
    let Some((repo, _)) = open() else { return Vec::new() };
    let Ok(references) = repo.gix().references() else { return Vec::new() };
    let Ok(branches) = references.local_branches() else { return Vec::new() };
    let names = branches.filter_map(|branch| Some(branch.ok()?.name().shorten().to_string()));
    names.map(CompletionCandidate::new).collect()
}

fn in_tree(repo: &Repo, settings: &Settings) -> BTreeSet<String> {
    let tip = settings.cluster.as_ref().map(|cluster| format!("refs/heads/{cluster}"));
    let tip = tip.and_then(|branch| repo.resolve(branch.as_str().into()).ok());
    let hosts = tip.and_then(|tip| repo.hosts(tip).ok()).unwrap_or_default();
    hosts.into_iter().map(|host| host.to_string()).collect()
}

pub(super) fn open() -> Option<(Repo, Settings)> {
    let repo = Repo::open(Environment::from_process().ok()?).ok()?;
    let settings = settings_of(&repo).ok()?;
    Some((repo, settings))
}
