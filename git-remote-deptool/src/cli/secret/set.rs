//! `git deptool secret set`.

use std::io::{self, IsTerminal as _, Read as _};

use clap_complete::ArgValueCandidates;
use zeroize::Zeroizing;

use super::{
    super::{CliError, exit::ExitStatus, output::Output},
    editor,
    place::{self, MAX_SIZE},
    target::Target,
};
use crate::fleet::remote::Remote;

/// Encrypt what is read from stdin, or what is written in an editor
///
/// The secret is written to the work tree, for the host and for all operators in cluster.json. A group gets one file for each of
/// its hosts. It is for you to commit.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the secret belongs
    #[arg(value_name = "host|@group/app/name", add = ArgValueCandidates::new(place::candidates))]
    secret: String,
}

pub(super) fn run(remote: &Remote, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let target = Target::of(remote, output, &args.secret)?;
    let hosts = target.hosts()?;
    let plain = match io::stdin().is_terminal() {
        true => editor::edit(&[])?,
        false => from_stdin()?,
    };
    target.write(&plain, &hosts)?;
    output.note("commit it, and deploy it as any other file")?;
    Ok(ExitStatus::Done)
}

fn from_stdin() -> Result<Zeroizing<Vec<u8>>, CliError> {
    let mut plain = Zeroizing::new(Vec::with_capacity(64 * 1024));
    io::stdin().take(MAX_SIZE + 1).read_to_end(&mut plain)?;
    place::check_size(&plain)?;
    Ok(plain)
}
