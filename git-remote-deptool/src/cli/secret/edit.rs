//! `git deptool secret edit`.

use clap_complete::ArgValueCandidates;

use super::{
    super::{CliError, candidates, exit::ExitStatus, output::Output},
    editor,
    hosts::{self, Asked, Record},
    keys::{self, Keys, Recipients},
    place::{Place, WorkTree},
    set,
};
use crate::fleet::remote::Remote;

/// Change a secret in an editor
///
/// The editor that Git uses is started on a file that is only in memory. The secrets of a group can be changed together if they
/// are equal.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The secret in the work tree
    #[arg(value_name = "host|@group/app/name", add = ArgValueCandidates::new(candidates::secrets))]
    secret: String,
}

pub(super) fn run(remote: &Remote, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let tree = WorkTree::of(&remote.repo)?;
    let keys = Keys::load(&remote.repo)?;
    let recipients = Recipients::read(remote)?;
    let places = Place::parse(&recipients.settings, &args.secret)?;
    let operators = recipients.operators(&keys.identities)?;
    let plain = places.iter().map(|place| keys.open(remote, &tree, place)).collect::<Result<Vec<_>, _>>()?;
    let Some(before) = plain.first() else {
        return Err(CliError::Usage("the group has no hosts".into()));
    };
    if let Some(at) = plain.iter().position(|one| one != before) {
        let (first, other) = (&places[0], &places[at]);
        return Err(CliError::Text(format!("'{first}' and '{other}' differ: edit one at a time")));
    }
    let names: Vec<_> = places.iter().map(|place| place.host.clone()).collect();
    let hosts = hosts::recipients(remote, output, &recipients, &names, Asked::Unknown, Record::Yes)?;
    let mut after = editor::edit(before)?;
    // Most editors end a file with a line feed, which a password does not have.
    if !before.ends_with(b"\n") && after.strip_suffix(b"\n").is_some_and(|rest| !rest.contains(&b'\n')) {
        after.pop();
    }
    if after == *before {
        output.note("nothing was changed")?;
        return Ok(ExitStatus::Done);
    }
    if after.is_empty() {
        return Err(CliError::Text("the secret is empty; nothing was written".into()));
    }
    set::check_size(&after)?;
    for (place, host) in places.iter().zip(&hosts) {
        tree.write(place, &keys::encrypt(&after, host, &operators)?)?;
        output.note(format_args!("{}: for {}", place.path(), keys::names(&place.host, &operators).join(", ")))?;
    }
    Ok(ExitStatus::Done)
}
