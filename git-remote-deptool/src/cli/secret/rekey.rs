//! `git deptool secret rekey`.

use clap_complete::ArgValueCandidates;
use deptool_agent::shared::name::HostName;

use super::{
    super::{CliError, aim, candidates, exit::ExitStatus, output::Output},
    hosts::{self, Asked, Record, Replace},
    keys::{self, Keys, Recipients},
    place::WorkTree,
};
use crate::fleet::remote::Remote;

/// Encrypt secrets anew, to the recipients that cluster.json has now
///
/// This is for a host that was reinstalled, for a new operator, and for one who left. Whoever could read a secret before can still
/// read it in the history: after somebody left, change the secrets themselves, too.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Hosts and groups; by default all hosts
    #[arg(value_name = "host|@group", add = ArgValueCandidates::new(candidates::hosts_and_groups))]
    hosts: Vec<String>,
    /// Show what would be written
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Record the recipient of a host that has another one than before, without being asked
    #[arg(long)]
    accept: bool,
}

pub(super) fn run(remote: &Remote, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let tree = WorkTree::of(&remote.repo)?;
    let keys = Keys::load(&remote.repo)?;
    let recipients = Recipients::read(remote)?;
    let hosts: Vec<HostName> = match args.hosts.as_slice() {
        [] => tree.hosts()?,
        named => aim::hosts_named(&recipients.settings, named)?.into_iter().map(|host| host.host).collect(),
    };
    let operators = recipients.operators(&keys.identities)?;
    // Who names a host has a reason to think that it is not as it was.
    let asked = match (args.hosts.is_empty(), args.accept) {
        (true, false) => Asked::Unknown,
        (false, false) => Asked::All(Replace::IfAgreed),
        (_, true) => Asked::All(Replace::Always),
    };
    let record = if args.dry_run { Record::No } else { Record::Yes };
    let known = hosts::recipients(remote, output, &recipients, &hosts, asked, record)?;
    // Everything is opened and encrypted before the first file is written.
    let mut made = Vec::new();
    for (host, recipient) in hosts.iter().zip(&known) {
        for place in tree.secrets_of(host)? {
            let plain = keys.open(remote, &tree, &place)?;
            made.push((place, keys::encrypt(&plain, recipient, &operators)?));
        }
    }
    for (place, file) in &made {
        if !args.dry_run {
            tree.write(place, file)?;
        }
        let names = keys::names(&place.host, &operators).join(", ");
        let would = if args.dry_run { "would be encrypted anew " } else { "" };
        output.note(format_args!("{}: {would}for {names}", place.path()))?;
    }
    if made.is_empty() {
        output.note("there are no secrets")?;
    } else if !args.dry_run {
        output.remark(
            "the history keeps what could be read before: after a key was lost or an operator left, also change the \
             secrets themselves",
        )?;
    }
    Ok(ExitStatus::Done)
}
