//! Asking the other remotes.

use std::{
    ffi::OsString,
    io::Read,
    os::unix::process::CommandExt,
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use deptool_agent::shared::id::CommitId;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::repo::history::git;

/// The remotes that are no hosts of ours: `origin` first, then by name.
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

/// How a remote answered.
pub(super) enum Fetched {
    Yes,
    No,
    /// Not in time.
    Silent,
}

/// Let Git fetch one commit from a remote, quietly, without a question, for no longer than `patience`. Nothing but
/// objects changes.
pub(super) fn fetch(repo: &gix::Repository, remote: &str, id: CommitId, patience: Duration) -> Fetched {
    let mut command = git(repo.git_dir());
    command
        .args(["-c", "core.askPass=", "-c", "credential.interactive=never", "-c", "gc.auto=0"])
        .args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--refmap="])
        .args(["--no-recurse-submodules", "--no-prune", "--end-of-options", remote])
        .arg(id.to_string())
        .env_remove("SSH_ASKPASS")
        .env_remove("GIT_ASKPASS")
        .env("SSH_ASKPASS_REQUIRE", "never")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // What has to be stopped is stopped with all that it has started.
        .process_group(0);
    let (name, value) = ssh(repo);
    match command.env(name, value).spawn() {
        Ok(child) => wait(child, patience),
        Err(_) => Fetched::No,
    }
}

/// The user's ssh, told not to ask. Another program than OpenSSH stays as it is: it would not know the option.
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

/// Wait for the end of a child that leads a process group, by the end of its stderr.
fn wait(mut child: Child, patience: Duration) -> Fetched {
    let (done, ended) = mpsc::channel();
    if let Some(mut stderr) = child.stderr.take() {
        thread::spawn(move || {
            // What it says is of no interest: that it failed is enough to try the next way.
            let _ = stderr.read_to_end(&mut Vec::new());
            let _ = done.send(());
        });
    }
    let is_late = ended.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout);
    if is_late && let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    match child.wait() {
        Ok(status) if status.success() => Fetched::Yes,
        _ if is_late => Fetched::Silent,
        Ok(_) | Err(_) => Fetched::No,
    }
}
