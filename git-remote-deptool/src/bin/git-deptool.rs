//! `git deptool`: commands beside `git push`. See `cli` in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    git_remote_deptool::cli::main(std::env::args_os().collect()).into()
}
