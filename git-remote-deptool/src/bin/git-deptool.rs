//! `git deptool`: what a person types beside `git push`.

use std::process::ExitCode;

use deptool_agent::build::{BUILD_ID, VERSION};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let [only] = arguments.as_slice()
        && only == "--version"
    {
        println!("git-deptool {VERSION} (build {BUILD_ID})");
        return ExitCode::SUCCESS;
    }
    eprintln!("usage: git deptool --version\n\nDeploy with 'git push' to a remote whose url is deptool::<host>.");
    ExitCode::from(129)
}
