//! `git deptool secret list`.

use clap_complete::ArgValueCandidates;
use deptool_agent::shared::{name::HostName, text::printable};
use serde::Serialize;

use super::{
    super::{CliError, aim, candidates, exit::ExitStatus, output::Output, table, view},
    keys::{self, Keys, Named, Recipients},
    place::{Place, WorkTree},
    textconv::in_words,
};
use crate::{
    fleet::remote::Remote,
    secrets::{
        age_file::{self, Stanza},
        identity::Identity,
    },
};

/// List the secrets in the work tree, and who they are encrypted to
///
/// A file in the format of age names ssh keys, but of age keys it only tells how many there are.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Hosts and groups; by default all hosts
    #[arg(value_name = "host|@group", add = ArgValueCandidates::new(candidates::hosts_and_groups))]
    hosts: Vec<String>,
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    version: u32,
    secrets: Vec<Secret>,
}

#[derive(Serialize)]
struct Secret {
    host: HostName,
    app: String,
    path: String,
    /// What the file tells: `2 X25519, 1 ssh-ed25519`. Null if it is not an age file.
    encrypted_to: Option<String>,
    /// Who it should be encrypted to, by cluster.json.
    expected: Vec<String>,
    /// Whether what the file tells agrees with that.
    agrees: bool,
    /// Whether one of the operator's own keys opens it.
    readable: bool,
}

pub(super) fn run(remote: &Remote, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let tree = WorkTree::of(&remote.repo)?;
    let keys = Keys::load(&remote.repo)?;
    let recipients = Recipients::read(remote)?;
    let hosts = match args.hosts.as_slice() {
        [] => tree.hosts()?,
        named => aim::hosts_named(&recipients.settings, named)?.into_iter().map(|host| host.host).collect(),
    };
    let operators = recipients.operators(&keys.identities).unwrap_or_default();
    let mut secrets = Vec::new();
    for host in hosts {
        for place in tree.secrets_of(&host)? {
            let file = tree.read(&place)?;
            secrets.push(look(&place, &file, &recipients, &operators, &keys.identities));
        }
    }
    if args.json {
        output.json(&Report { version: view::VERSION, secrets })?;
        return Ok(ExitStatus::Done);
    }
    let rows: Vec<[String; 4]> = secrets.iter().map(Secret::row).collect();
    for line in table::lines(&rows, table::terminal_width()) {
        output.line(line)?;
    }
    if secrets.iter().any(|secret| !secret.agrees) {
        output.remark("'git deptool secret rekey' encrypts anew what is not encrypted to who it should be")?;
    }
    Ok(ExitStatus::Done)
}

fn look(place: &Place, file: &[u8], recipients: &Recipients, operators: &[Named], identities: &[Identity]) -> Secret {
    let stanzas = age_file::stanzas(file);
    let host = recipients.host(&place.host);
    let all = keys::unique(host.into_iter().chain(operators.iter().map(|named| &named.recipient)));
    let mut expected: Vec<Stanza> = all.iter().map(|recipient| recipient.stanza()).collect();
    let mut found = stanzas.clone().unwrap_or_default();
    expected.sort();
    found.sort();
    let mut names = keys::names(&place.host, operators);
    if host.is_none() {
        names.remove(0);
    }
    Secret {
        host: place.host.clone(),
        app: place.app.to_string(),
        path: place.path(),
        encrypted_to: stanzas.map(|stanzas| in_words(&stanzas)),
        expected: names,
        agrees: host.is_some() && found == expected,
        readable: identities.iter().any(|identity| identity.opens(file)),
    }
}

impl Secret {
    fn row(&self) -> [String; 4] {
        let expected = self.expected.join(", ");
        let state = match (&self.encrypted_to, self.agrees) {
            (None, _) => "not an age file".to_owned(),
            (Some(_), true) => format!("as for {expected}"),
            (Some(_), false) => format!("not as for {expected}"),
        };
        let to = self.encrypted_to.as_ref().map(|kinds| format!("to {kinds}")).unwrap_or_default();
        let readable = if self.readable { "you can read it" } else { "you can't read it" };
        [printable(self.path.as_bytes()), to, state, readable.to_owned()]
    }
}
