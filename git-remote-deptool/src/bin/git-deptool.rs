//! `git deptool`: what a person types beside `git push`. Git starts it; see the library's `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    git_remote_deptool::cli::main(std::env::args_os().collect()).into()
}
