//! The remote helper: Git starts it for urls that begin with `deptool::`. See gitremote-helpers(7).

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, BufRead, BufReader},
    process::ExitCode,
};

use anyhow::bail;
use deptool_agent::shared::build::{BUILD_ID, VERSION};
use git_remote_deptool::{
    config::url::Address,
    fleet::context::Context,
    model::error::chain,
    protocol::{End, dialogue::Dialogue, serve::serve},
};
use gix::bstr::BString;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    if let [only] = arguments.as_slice()
        && only == "--version"
    {
        println!("git-remote-deptool {VERSION} (build {BUILD_ID})");
        return ExitCode::SUCCESS;
    }
    match run(arguments) {
        Ok(End::Finished) => ExitCode::SUCCESS,
        Ok(End::HungUp) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fatal: {}", chain(error.as_ref()));
            ExitCode::from(128)
        }
    }
}

fn run(arguments: Vec<OsString>) -> anyhow::Result<End> {
    let [name, address] = arguments.as_slice() else {
        bail!("usage: git-remote-deptool <remote> <address>; it is started by git, for urls that begin with deptool::")
    };
    let mut input = BufReader::new(io::stdin());
    let mut dialogue = begin(name, address).inspect_err(|_| {
        // Git is killed by SIGPIPE, and fails without a word of its own, if its first line finds nobody.
        let _ = input.fill_buf();
    })?;
    Ok(serve(&mut input, &mut io::stdout().lock(), &mut dialogue)?)
}

fn begin(name: &OsStr, address: &OsStr) -> anyhow::Result<Dialogue> {
    let name = BString::from(name.as_encoded_bytes());
    let address = Address::parse(address.as_encoded_bytes())?;
    let context = Context::from_process()?;
    context.connector.interrupted.set_when_unread(io::stdout());
    let target = context.settings.target(name.as_ref(), &address)?;
    Ok(Dialogue::new(context.remote(target, name.to_string())))
}
