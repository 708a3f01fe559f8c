//! Asks hosts what they run, before a plan is made.

use std::process::{Command, Stdio};

use super::{CliError, git, view};
use crate::{config::HostRemote, fleet::remote::Remote, model::offer::HostCheck};

/// The name of a temporary group for the selected hosts.
const SELECTED: &str = "deptool-selected";

/// Which hosts to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whom {
    All,
    /// Those in doubt, because a plan for them could not be kept.
    InDoubt,
}

/// Whether all hosts could be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refreshed {
    All,
    /// Not all. The errors have been shown.
    NotAll,
}

/// An address for `hosts`. Configures `git` for it.
pub(super) fn address<'a>(git: &mut Command, hosts: impl Iterator<Item = &'a HostRemote>) -> String {
    let names: Vec<&str> = hosts.map(|host| host.host.as_str()).collect();
    git.arg("-c").arg(format!("deptool.group.{SELECTED}={}", names.join(" ")));
    format!("deptool::@{SELECTED}")
}

/// Ask some of `hosts` what they run, fetch that, and update their tracking refs, like `git fetch`.
pub(super) fn refresh(remote: &Remote, hosts: &[HostRemote], whom: Whom) -> Result<Refreshed, CliError> {
    let whom = if remote.settings.host_check == HostCheck::Always { Whom::All } else { whom };
    let known = remote.tracking().known(&hosts.iter().collect::<Vec<_>>())?;
    let mut asked = Vec::new();
    for (host, known) in hosts.iter().zip(&known) {
        if let Some(doubt) = view::doubt(known) {
            remote.say(&format!("{}: {doubt}: asking", host.host));
            asked.push(host);
        } else if whom == Whom::All {
            asked.push(host);
        }
    }
    if asked.is_empty() {
        return Ok(Refreshed::All);
    }
    let mut git = Command::new("git");
    let address = address(&mut git, asked.into_iter());
    // Unlike `git fetch`, this is no error if nothing is deployed yet. The helper updates the tracking refs itself.
    git.args(["ls-remote", "--quiet"]).arg(address);
    let ended = git::run(git.stdin(Stdio::null()), &remote.connector.interrupted)?;
    Ok(if ended.status.success() { Refreshed::All } else { Refreshed::NotAll })
}
