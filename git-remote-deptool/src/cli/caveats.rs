//! Notes that qualify "everything is up to date", one line each.

use std::process::Stdio;

use deptool_agent::shared::{id::CommitId, name::HostName, text::printable};

use super::{
    CliError,
    aim::{Aim, Source},
};
use crate::fleet::remote::Remote;

/// Show at most this many names, and count the rest.
const NAMES: usize = 8;

/// Selected hosts that are not in the tree although they run the cluster, as far as this repository knows, with their
/// commits.
pub(super) fn vanished(remote: &Remote, aim: &Aim) -> Result<Vec<(HostName, CommitId)>, CliError> {
    let among = (!aim.is_everything()).then_some(aim.absent.as_slice());
    Ok(remote.vanished(&aim.cluster, aim.commit, among)?)
}

/// Notes about the tree: directories that are ignored, known drift, and hosts that are no longer in the tree.
pub(super) fn of_tree(remote: &Remote, aim: &Aim) -> Result<Vec<String>, CliError> {
    let mut lines: Vec<String> = Vec::new();
    for name in remote.repo.unusable_directories(aim.commit)? {
        lines.push(format!("directory '{name}' is ignored: its name is not valid for a host"));
    }
    lines.extend(remote.known_drift(aim.hosts.iter()));
    let gone = vanished(remote, aim)?;
    if let [(first, _), ..] = gone.as_slice() {
        let names: Vec<&str> = gone.iter().take(NAMES).map(|(host, _)| host.as_str()).collect();
        let more = gone.len().checked_sub(NAMES + 1).map(|more| format!(" and {} more", more + 1)).unwrap_or_default();
        let (names, cluster) = (names.join(", "), &aim.cluster);
        let (run, are) = if gone.len() == 1 { ("runs", "is") } else { ("run", "are") };
        lines.push(format!(
            "{names}{more} {run} '{cluster}' but {are} not in the tree any more: nothing changes there; \
             'git push {first} :{cluster}' removes everything from a host"
        ));
    }
    Ok(lines)
}

/// Notes about the work tree: another branch that is checked out, or uncommitted changes.
pub(super) fn of_work_tree(remote: &Remote, aim: &Aim) -> Vec<String> {
    let gix = remote.repo.gix();
    if gix.workdir().is_none() {
        return Vec::new();
    }
    let current = gix.head_name().ok().flatten();
    let head = gix.head_id().ok().map(|id| CommitId(id.detach()));
    let current = current.map(|name| printable(name.shorten()));
    if let (Source::Branch, Some(current)) = (aim.source, current.filter(|name| name != aim.cluster.as_str())) {
        return vec![format!("branch '{current}' is checked out; this is about '{}'", aim.cluster)];
    }
    match head == Some(aim.commit) && has_changes(remote) {
        true => vec!["the work tree has changes that are not committed".into()],
        false => Vec::new(),
    }
}

fn has_changes(remote: &Remote) -> bool {
    let mut git = remote.repo.git();
    if let Some(workdir) = remote.repo.gix().workdir() {
        git.current_dir(workdir).env("GIT_WORK_TREE", workdir);
    }
    git.args(["--no-optional-locks", "status", "--porcelain", "-z", "--ignore-submodules=all"]);
    let Ok(output) = git.stdin(Stdio::null()).output() else { return false };
    // Files next to the hosts' directories are never deployed.
    output.status.success() && output.stdout.split(|byte| *byte == 0).any(|entry| entry.contains(&b'/'))
}
