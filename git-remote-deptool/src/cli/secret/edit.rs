//! `git deptool secret edit`.

use clap_complete::ArgValueCandidates;

use super::{
    super::{CliError, exit::ExitStatus, output::Output},
    editor, place,
    target::Target,
};
use crate::fleet::remote::Remote;

/// Change a secret in an editor
///
/// The editor that Git uses is started on a file that is only in memory. The secrets of a group can be changed together if they
/// are equal.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The secret in the work tree
    #[arg(value_name = "host|@group/app/name", add = ArgValueCandidates::new(place::candidates))]
    secret: String,
}

pub(super) fn run(remote: &Remote, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let target = Target::of(remote, output, &args.secret)?;
    let open = |place| target.keys.open(remote, &target.tree, place);
    let plain = target.places.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let Some(before) = plain.first() else {
        return Err(CliError::Usage("the group has no hosts".into()));
    };
    if let Some(at) = plain.iter().position(|one| one != before) {
        let (first, other) = (&target.places[0], &target.places[at]);
        return Err(CliError::Text(format!("'{first}' and '{other}' differ: edit one at a time")));
    }
    let hosts = target.hosts()?;
    let mut after = editor::edit(before)?;
    // Most editors end a file with a line feed, which a password does not have.
    if !before.ends_with(b"\n") && after.strip_suffix(b"\n").is_some_and(|rest| !rest.contains(&b'\n')) {
        after.pop();
    }
    if after == *before {
        output.note("nothing was changed")?;
        return Ok(ExitStatus::Done);
    }
    target.write(&after, &hosts)?;
    Ok(ExitStatus::Done)
}
