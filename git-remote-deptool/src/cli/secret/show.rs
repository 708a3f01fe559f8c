//! `git deptool secret show`.

use std::io::{self, IsTerminal as _};

use clap_complete::ArgValueCandidates;
use deptool_agent::shared::text::printable_lines;

use super::{
    super::{CliError, exit::ExitStatus, output::Output},
    keys::{Keys, Recipients},
    place::{self, Place, WorkTree},
};
use crate::fleet::remote::Remote;

/// Print a secret in plain text
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The secret in the work tree
    #[arg(value_name = "host/app/name", add = ArgValueCandidates::new(place::candidates))]
    secret: String,
}

pub(super) fn run(remote: &Remote, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let tree = WorkTree::of(&remote.repo)?;
    let places = Place::parse(&Recipients::read(remote)?.settings, &args.secret)?;
    let [place] = places.as_slice() else {
        return Err(CliError::Usage("name one host: each host of a group has a secret of its own".into()));
    };
    let plain = Keys::load(&remote.repo)?.open(remote, &tree, place)?;
    match io::stdout().is_terminal() {
        true => output.text(&printable_lines(&plain))?,
        false => output.raw(&plain)?,
    }
    Ok(ExitStatus::Done)
}
