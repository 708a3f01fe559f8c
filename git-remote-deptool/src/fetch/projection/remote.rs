//! Fetches commits from other remotes.

use std::{ffi::OsString, time::Duration};

use deptool_agent::shared::id::CommitId;

use crate::{
    model::interrupt::Interrupt,
    repo::{
        git::{Git, GitError},
        history::git,
    },
};

/// The remotes that are not hosts: `origin` first, then in the order of their names.
pub(super) fn names(repo: &gix::Repository) -> Vec<String> {
    let config = repo.config_snapshot();
    let mut names: Vec<String> = repo
        .remote_names()
        .iter()
        .map(|name| name.to_string())
        .filter(|name| !name.starts_with('-'))
        .filter(|name| match config.string(format!("remote.{name}.url").as_str()) {
            Some(url) => !url.starts_with(b"deptool::") && !url.starts_with(b"deptool://"),
            None => false,
        })
        .collect();
    names.sort_by_key(|name| (name != "origin", name.clone()));
    names
}

/// Have Git fetch one commit from a remote, silently, without prompting, within `patience`. Only objects are added.
pub(super) fn fetch(
    repo: &gix::Repository,
    remote: &str,
    id: CommitId,
    patience: Duration,
    interrupt: &Interrupt,
) -> Result<(), GitError> {
    let mut command = git(repo.git_dir());
    command
        .args(["-c", "core.askPass=", "-c", "credential.interactive=never", "-c", "gc.auto=0"])
        .env_remove("SSH_ASKPASS")
        .env_remove("GIT_ASKPASS")
        .env("SSH_ASKPASS_REQUIRE", "never");
    let (name, value) = ssh(repo);
    command.env(name, value);
    Git::new(command, "fetch", interrupt.clone())
        .args(["--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--refmap="])
        .args(["--no-recurse-submodules", "--no-prune", "--end-of-options", remote, &id.to_string()])
        .within(patience)
        .run(b"")
        .map(drop)
}

/// The user's ssh, configured not to prompt. Programs other than OpenSSH are not changed, because they would not accept
/// the option.
fn ssh(repo: &gix::Repository) -> (&'static str, OsString) {
    let configured = repo.config_snapshot().string("core.sshCommand").map(|value| value.to_string().into());
    let mut command = match (std::env::var_os("GIT_SSH_COMMAND").or(configured), std::env::var_os("GIT_SSH")) {
        (Some(command), _) => command,
        (None, Some(program)) => return ("GIT_SSH", program),
        (None, None) => "ssh".into(),
    };
    let text = command.to_string_lossy().into_owned();
    let program = text.split_whitespace().next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    if program == "ssh" {
        command.push(" -o BatchMode=yes -o ConnectTimeout=5");
    }
    ("GIT_SSH_COMMAND", command)
}
