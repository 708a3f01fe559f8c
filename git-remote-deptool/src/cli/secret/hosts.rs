//! What the secrets of hosts are encrypted to: what is recorded, or what the host tells.

use std::collections::BTreeMap;

use deptool_agent::shared::{name::HostName, text::printable};

use super::{
    super::{CliError, cluster_json, exit::ExitStatus, output::Output, prompt::Terminal},
    keys::Recipients,
    place::WorkTree,
};
use crate::{
    config::HostRemote, fetch::query::query, fleet::remote::Remote, model::error::chain, secrets::recipient::Recipient,
};

/// Which hosts are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Those for which nothing is recorded.
    Unknown,
    /// All of them: what is recorded may be that of a host that was reinstalled since.
    All(Replace),
}

/// Whether another recipient is recorded in the place of one that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replace {
    IfAgreed,
    /// `--accept`
    Always,
}

/// Whether `cluster.json` is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    Yes,
    /// `--dry-run`
    No,
}

/// What the secrets of each of `hosts` are encrypted to, in their order. What is new is recorded in `cluster.json` of the work
/// tree.
pub(super) fn recipients(
    remote: &Remote,
    output: &Output,
    known: &Recipients,
    hosts: &[HostName],
    asked: Asked,
    record: Record,
) -> Result<Vec<Recipient>, CliError> {
    let tree = WorkTree::of(&remote.repo)?;
    if let Some(host) = hosts.iter().find(|host| !tree.has_host(host)) {
        return Err(CliError::Text(format!("the work tree has no directory '{host}'")));
    }
    let is_asked = |host: &&HostName| asked != Asked::Unknown || known.host(host).is_none();
    let to_ask = hosts.iter().filter(is_asked).map(|host| known.settings.host(host));
    let to_ask: Vec<HostRemote> = to_ask.collect::<Result<_, _>>()?;
    let mut new: BTreeMap<HostName, Recipient> = BTreeMap::new();
    for (host, answer) in to_ask.iter().zip(query(remote, &to_ask, |_, _| Ok(()))) {
        let name = &host.host;
        let told = answer.map_err(CliError::from).and_then(|(hello, ())| told(name, hello.recipient.as_deref()));
        match (told, known.host(name)) {
            (Ok(told), Some(recorded)) if told == *recorded => {}
            (Ok(told), Some(recorded)) => {
                agree(remote, output, name, recorded, &told, asked)?;
                new.insert(name.clone(), told);
            }
            (Ok(told), None) => _ = new.insert(name.clone(), told),
            (Err(error), Some(_)) => {
                output.remark(format_args!("{}; the recorded recipient of '{name}' is used", chain(&error)))?;
            }
            (Err(error), None) => return Err(error),
        }
    }
    if record == Record::Yes {
        let pairs: Vec<(HostName, Recipient)> = new.clone().into_iter().collect();
        cluster_json::record(&remote.repo, &pairs)?;
    }
    for (host, recipient) in &new {
        let would = if record == Record::Yes { "recorded" } else { "would record" };
        output.note(format_args!("cluster.json: {would} the recipient of {host}: {recipient}"))?;
    }
    let of_host = |host: &HostName| new.get(host).or(known.host(host)).cloned();
    hosts.iter().map(|host| of_host(host).ok_or_else(|| no_recipient(host))).collect()
}

/// The recipient in a host's hello.
fn told(host: &HostName, text: Option<&str>) -> Result<Recipient, CliError> {
    let text = text.ok_or_else(|| no_recipient(host))?;
    let recipient = Recipient::parse(text).ok().filter(Recipient::is_x25519);
    let bad = || CliError::Text(format!("'{host}' told '{}', which is no recipient", printable(text.as_bytes())));
    recipient.ok_or_else(bad)
}

fn no_recipient(host: &HostName) -> CliError {
    CliError::Text(format!("'{host}' has no key for secrets yet: deploy to it once without any"))
}

/// Whether the operator wants to record another recipient than before.
fn agree(
    remote: &Remote,
    output: &Output,
    host: &HostName,
    recorded: &Recipient,
    told: &Recipient,
    asked: Asked,
) -> Result<(), CliError> {
    if asked == Asked::All(Replace::Always) {
        return Ok(());
    }
    let what = format!("'{host}' has another key than cluster.json records: {told} instead of {recorded}");
    output.flush()?;
    let Some(mut terminal) = Terminal::open() else {
        return Err(CliError::Hosts(
            format!("{what}; if the host was reinstalled, --accept records the new one"),
            ExitStatus::Declined,
        ));
    };
    let question = format!("{what}\nWas the host reinstalled, and is the new one to be recorded? [y/N] ");
    match terminal.ask(&question, &remote.connector.interrupted)?.as_deref().map(str::trim) {
        Some("y" | "Y" | "yes") => Ok(()),
        Some(_) | None => Err(CliError::Hosts("nothing was written".into(), ExitStatus::Declined)),
    }
}
