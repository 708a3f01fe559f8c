//! `git deptool secret`: secrets in the work tree, encrypted to hosts and operators. See deptool-secrets(7).
//!
//! ```text
//! hosts    what hosts tell about their keys
//! keys     who a secret is encrypted to, and the operator's own keys
//! place    the files of secrets in the work tree
//! editor   an editor on a file that is only in memory
//! ```

mod edit;
mod editor;
mod hosts;
mod keys;
mod list;
mod place;
mod rekey;
mod set;
mod show;
mod target;
mod textconv;

use super::{CliError, exit::ExitStatus, output::Output};

/// Encrypt secrets to hosts and operators, and show and change them
#[derive(Debug, clap::Args)]
#[command(disable_help_subcommand = true, arg_required_else_help = false)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Set(set::Args),
    Show(show::Args),
    Edit(edit::Args),
    List(list::Args),
    Rekey(rekey::Args),
    Textconv(textconv::Args),
}

/// No other process of this user can read the plain text from this one's memory, and there is no core dump with it. Where that
/// can't be had, secrets are as safe as in any other program.
fn keep_memory_private() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
}

pub(super) fn run(output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    keep_memory_private();
    match args.command {
        Command::Set(args) => set::run(&super::everything()?, output, args),
        Command::Show(args) => show::run(&super::everything()?, output, args),
        Command::Edit(args) => edit::run(&super::everything()?, output, args),
        Command::List(args) => list::run(&super::everything()?, output, args),
        Command::Rekey(args) => rekey::run(&super::everything()?, output, args),
        Command::Textconv(args) => textconv::run(output, args),
    }
}
