//! `git deptool completion`: prints the script that a shell loads to complete `git deptool`.

use super::{CliError, exit::ExitStatus, output::Output};

/// Print a script that lets a shell complete 'git deptool'
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell to complete for
    #[arg(value_name = "shell")]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let script = match args.shell {
        Shell::Bash => include_str!("completion/git-deptool.bash"),
        Shell::Zsh => include_str!("completion/_git-deptool"),
        Shell::Fish => include_str!("completion/git-deptool.fish"),
    };
    output.raw(script.as_bytes())?;
    Ok(ExitStatus::Done)
}
