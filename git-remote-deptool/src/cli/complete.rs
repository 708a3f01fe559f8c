//! `git deptool complete`: prints candidates for a shell's completion, from clap and from the repository.

use std::ffi::OsString;

use clap_complete::engine;

use super::{CliError, exit::ExitStatus, output::Output};

/// The name of the subcommand, for code that runs before clap does.
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

/// Print one candidate per line: the word, a tab, and its description.
pub(super) fn run(output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let mut command = super::definition();
    let here = std::env::current_dir().ok();
    // Errors are not shown while the user types; there are just no candidates.
    let candidates = engine::complete(&mut command, args.words, args.index, here.as_deref()).unwrap_or_default();
    for candidate in candidates.iter().filter(|candidate| !candidate.is_hide_set()) {
        let word = candidate.get_value().to_string_lossy();
        if word.contains(char::is_control) {
            // Line feeds and tabs are separators in the output.
            continue;
        }
        let help = candidate.get_help().map(|help| help.to_string()).unwrap_or_default();
        output.line(format_args!("{word}\t{}", help.lines().next().unwrap_or_default()))?;
    }
    Ok(ExitStatus::Done)
}
