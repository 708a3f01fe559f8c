//! Asking hosts what they run, before a plan is made.

use std::process::{Command, Stdio};

use super::{CliError, view};
use crate::{config::HostRemote, fleet::remote::Remote, model::offer::HostCheck};

/// Names the hosts of one command, where there is no group of them in the configuration.
const SELECTED: &str = "deptool-selected";

/// Which hosts are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whom {
    All,
    /// Of which it is not known how their last deployment ended: a plan for them could not be kept.
    InDoubt,
}

/// Whether all could be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refreshed {
    All,
    /// Not all; that was said.
    NotAll,
}

/// The address of some hosts. `git` is told who they are.
pub(super) fn address<'a>(git: &mut Command, hosts: impl Iterator<Item = &'a HostRemote>) -> String {
    let names: Vec<&str> = hosts.map(|host| host.host.as_str()).collect();
    git.arg("-c").arg(format!("deptool.group.{SELECTED}={}", names.join(" ")));
    format!("deptool::@{SELECTED}")
}

/// Ask some of `hosts` what they run, bring that home and move their tracking refs, as `git fetch` does.
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
    // Unlike a fetch, this is no error where nothing is deployed yet. The refs that matter are the helper's.
    git.args(["ls-remote", "--quiet"]).arg(address);
    let status = git.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    Ok(if status.success() { Refreshed::All } else { Refreshed::NotAll })
}
