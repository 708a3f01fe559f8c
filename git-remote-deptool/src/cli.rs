//! `git deptool`: commands beside `git push`.
//!
//! ```text
//! arguments ▸ Cli (clap) ▸ Context (repository, settings, connections) and Output ▸ one subcommand ▸ ExitStatus
//! ```
//!
//! Each subcommand is a file with its `Args` and its `run`. `-h`, completion and the manual get their texts from clap;
//! a test compares the manual.

mod add_host;
mod adopt;
mod aim;
mod candidates;
mod caveats;
mod cluster_json;
mod complete;
mod completion;
mod deploy;
mod deploy_options;
mod diff;
pub mod exit;
mod git;
mod init;
mod log;
mod markdown;
pub mod output;
mod pager;
mod ping;
mod plan;
mod prompt;
mod refresh;
mod rename_host;
mod repair;
mod rollback;
mod secret;
mod snapshot;
mod status;
mod table;
mod verify;
mod view;
mod wiring;
mod work_tree;

use std::{ffi::OsString, io::Write as _};

use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};
use deptool_agent::shared::{
    build::{BUILD_ID, VERSION},
    name::{ClusterName, NameError},
};
use exit::ExitStatus;
use output::{Colour, Output};

use crate::{
    config::{ClusterError, Target, url::UrlError},
    fleet::{
        context::{Context, ContextError},
        remote::{Remote, RemoteError},
    },
    model::error::chain,
    repo::{ClusterFileError, ConfigError, ReadError, RevisionError},
    snapshot::SnapshotError,
    state::{LockError, TrackingError},
};

/// Deploy configuration to hosts, and see what they run.
#[derive(Debug, Parser)]
#[command(
    name = "git-deptool",
    bin_name = "git deptool",
    version = format!("{VERSION} (build {BUILD_ID})"),
    help_template = "{about}\n\nusage: {usage}\n\n{all-args}{after-help}",
    after_help = format!("exit status:\n{}", exit::table()),
    disable_help_flag = true,
    disable_version_flag = true,
    disable_help_subcommand = true,
    subcommand_required = true,
)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Options of every subcommand.
#[derive(Debug, clap::Args)]
struct Common {
    /// Show only errors and requested output
    #[arg(short, long, global = true, display_order = 100)]
    quiet: bool,
    /// When to use colour
    #[arg(
        long,
        global = true,
        display_order = 100,
        value_name = "when",
        default_value = "auto",
        hide_default_value = true
    )]
    color: Colour,
    /// Show this summary; --help shows the manual
    #[arg(short, global = true, display_order = 100, action = clap::ArgAction::HelpShort)]
    help: Option<bool>,
    /// Show the version
    #[arg(long, action = clap::ArgAction::Version)]
    version: Option<bool>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Args),
    AddHost(add_host::Args),
    RenameHost(rename_host::Args),
    Adopt(adopt::Args),
    Snapshot(snapshot::Args),
    Plan(plan::Args),
    Deploy(deploy::Args),
    Status(status::Args),
    Verify(verify::Args),
    Log(log::Args),
    Ping(ping::Args),
    Rollback(rollback::Args),
    Repair(repair::Args),
    Secret(secret::Args),
    Completion(completion::Args),
    Complete(complete::Args),
}

/// Why a subcommand failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The repository or its configuration can't be used.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The output could not be written. If a pipe was closed, the reader stopped early, which is not an error.
    #[error("could not write the output")]
    Output(#[from] std::io::Error),
    /// An invalid name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An invalid address.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The repository's configuration could not be changed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A directory could not be committed.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A host, or a repository that can't be read.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// Errors on hosts, and the exit status.
    #[error("{0}")]
    Hosts(String, ExitStatus),
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Any other error, as a sentence.
    #[error("{0}")]
    Text(String),
}

impl CliError {
    fn status(&self) -> ExitStatus {
        match self {
            CliError::Name(_) | CliError::Url(_) | CliError::Usage(_) => ExitStatus::Usage,
            CliError::Remote(error) => view::status_of_error(error),
            CliError::Hosts(_, status) => *status,
            CliError::Context(_)
            | CliError::Output(_)
            | CliError::Config(_)
            | CliError::Snapshot(_)
            | CliError::Text(_) => ExitStatus::Failed,
        }
    }
}

/// Converts errors that [`RemoteError`] wraps.
macro_rules! through_remote {
    ($($error:ty),*) => {$(
        impl From<$error> for CliError {
            fn from(error: $error) -> Self {
                CliError::Remote(error.into())
            }
        }
    )*};
}

through_remote!(ClusterError, ClusterFileError, RevisionError, ReadError, TrackingError, LockError);

/// The definition of all subcommands and options, with their texts.
pub fn definition() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// Run the command in `arguments`, whose first element is the program's name. Errors have been shown when this returns.
pub fn main(arguments: Vec<OsString>) -> ExitStatus {
    if asks_for_manual(&arguments) {
        return show_manual();
    }
    let wants_json = asks_for_json(&arguments);
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return show_usage(&error, wants_json),
    };
    let output = Output::to_stdout(&cli.common);
    let done = run(&output, cli.command).and_then(|status| {
        output.flush()?;
        Ok(status)
    });
    match done {
        Ok(status) => status,
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitStatus::Done,
        Err(error) => {
            let text = chain(&error);
            // If stdout can't be written to, stderr is still tried.
            let _ = output.complain(format_args!("error: {text}"));
            if wants_json && !output.has_document() {
                let _ = output.json(&view::Failure::of(text)).and_then(|()| output.flush());
            }
            error.status()
        }
    }
}

fn run(output: &Output, command: Command) -> Result<ExitStatus, CliError> {
    match command {
        Command::Init(args) => init::run(&Context::from_process()?, output, args),
        Command::Adopt(args) => adopt::run(&everything()?, output, args),
        Command::RenameHost(args) => rename_host::run(&everything()?, output, args),
        Command::Plan(args) => plan::run(&everything()?, output, args),
        Command::Deploy(args) => deploy::run(&everything()?, output, args),
        Command::Status(args) => status::run(&everything()?, output, args),
        Command::Verify(args) => verify::run(&everything()?, output, args),
        Command::Log(args) => log::run(&everything()?, output, args),
        Command::Ping(args) => ping::run(&everything()?, output, args),
        Command::Rollback(args) => rollback::run(&everything()?, output, args),
        Command::Repair(args) => repair::run(&everything()?, output, args),
        Command::Secret(args) => secret::run(output, args),
        Command::AddHost(args) => add_host::run(&Context::from_process()?, output, args),
        Command::Snapshot(args) => snapshot::run(&Context::from_process()?, output, args),
        Command::Completion(args) => completion::run(output, args),
        Command::Complete(args) => complete::run(output, args),
    }
}

/// The cluster that the repository is configured for.
fn cluster_of(context: &Context) -> Result<&ClusterName, CliError> {
    let cluster = context.settings.cluster.as_ref();
    cluster.ok_or_else(|| CliError::Text("there is no cluster here yet; run 'git deptool init'".into()))
}

/// The remote for all hosts of the surrounding repository.
fn everything() -> Result<Remote, CliError> {
    Ok(Context::from_process()?.remote(Target::All, String::new()))
}

/// Git turns `git deptool --help` into `git help deptool`, but not `git deptool plan --help`.
fn asks_for_manual(arguments: &[OsString]) -> bool {
    let is_completion = arguments.get(1).is_some_and(|first| first == complete::NAME);
    !is_completion && arguments.iter().skip(1).take_while(|word| *word != "--").any(|word| word == "--help")
}

fn show_manual() -> ExitStatus {
    match std::process::Command::new("git").args(["help", "deptool"]).status() {
        Ok(status) if status.success() => ExitStatus::Done,
        Ok(_) | Err(_) => ExitStatus::Failed,
    }
}

/// Whether JSON is requested, even if the command line can't be parsed.
fn asks_for_json(arguments: &[OsString]) -> bool {
    arguments.iter().skip(1).take_while(|word| *word != "--").any(|word| word == "--json")
}

/// Show the usage, on request or because of an error in the command line.
fn show_usage(error: &clap::Error, wants_json: bool) -> ExitStatus {
    // If neither stream can be written to, there is nowhere to report that.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitStatus::Done,
        _ => {
            let text = error.to_string();
            let lines: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
            let text = lines.join(" ").trim_start_matches("error: ").to_owned();
            if wants_json && let Ok(document) = serde_json::to_string(&view::Failure::of(text)) {
                let _ = writeln!(std::io::stdout(), "{document}");
            }
            ExitStatus::Usage
        }
    }
}

#[cfg(test)]
mod manual;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_manual_is_asked_for_by_help_anywhere_before_two_dashes() {
        let asks = |line: &str| asks_for_manual(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert!(asks("git-deptool --help") && asks("git-deptool plan --help prod"));
        assert!(!asks("git-deptool plan -- --help") && !asks("git-deptool complete 1 -- deptool --help"));
    }
}
