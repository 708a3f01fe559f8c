//! `git deptool complete`: candidates for a shell's completion, from what clap knows and what the repository has.

use std::ffi::OsString;

use clap_complete::engine;

use super::{CliError, exit::ExitStatus, output::Output};

/// The subcommand's name, for those who have to know it before clap does.
pub(super) const NAME: &str = "complete";

/// Print candidates for a word of a command line, for the scripts of 'completion'
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(super) struct Args {
    /// Which of the words is to be completed, the first being 0
    index: usize,
    /// The command line so far, beginning with the program
    #[arg(last = true)]
    words: Vec<OsString>,
}

/// One candidate a line: the word and, after a tab, what it means.
pub(super) fn run(output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let mut command = super::definition();
    let here = std::env::current_dir().ok();
    // A word that can't be completed has no candidates; whoever types is not told of errors.
    let candidates = engine::complete(&mut command, args.words, args.index, here.as_deref()).unwrap_or_default();
    for candidate in candidates.iter().filter(|candidate| !candidate.is_hide_set()) {
        let word = candidate.get_value().to_string_lossy();
        if word.contains(char::is_control) {
            // Lines and tabs have a meaning here.
            continue;
        }
        let help = candidate.get_help().map(|help| help.to_string()).unwrap_or_default();
        output.line(format_args!("{word}\t{}", help.lines().next().unwrap_or_default()))?;
    }
    Ok(ExitStatus::Done)
}
