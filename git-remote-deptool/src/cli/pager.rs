//! The user's pager, started like Git does.

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal, Write},
    process::{Child, Command, Stdio},
};

use gix::bstr::ByteSlice;

use super::{CliError, output::Output};
use crate::fleet::remote::Remote;

/// The user's pager.
pub(super) struct Pager(Child);

impl Pager {
    /// Start the pager. `None` if stdout is not a terminal, or if the user has turned the pager off.
    pub fn start(remote: &Remote) -> io::Result<Option<Self>> {
        if !io::stdout().is_terminal() {
            return Ok(None);
        }
        let Some(command) = command(remote)? else { return Ok(None) };
        // Like Git: a command line for the shell, with these default variables.
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(command).stdin(Stdio::piped());
        for (name, value) in [("LESS", "FRX"), ("LV", "-c")] {
            if env::var_os(name).is_none() {
                shell.env(name, value);
            }
        }
        Ok(Some(Pager(shell.spawn()?)))
    }

    pub fn write(&self, text: &[u8]) -> io::Result<()> {
        self.0.stdin.as_ref().map_or(Ok(()), |mut input| input.write_all(text))
    }

    pub fn input(&self) -> io::Result<Stdio> {
        let input = self.0.stdin.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(std::os::fd::AsFd::as_fd(input).try_clone_to_owned()?.into())
    }

    pub fn wait(mut self) -> Result<(), CliError> {
        drop(self.0.stdin.take());
        self.0.wait()?;
        Ok(())
    }
}

/// Show a text, through the pager if there is one.
pub(super) fn page(remote: &Remote, output: &Output, text: &str) -> Result<(), CliError> {
    output.flush()?;
    let Some(pager) = Pager::start(remote)? else { return Ok(output.text(text)?) };
    let written = pager.write(output.shown(text).as_bytes());
    pager.wait()?;
    match written {
        // The reader stopped early.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// GIT_PAGER, pager.deptool, core.pager, PAGER, in this order. `None` if the pager is turned off.
fn command(remote: &Remote) -> io::Result<Option<OsString>> {
    let config = remote.repo.gix().config_snapshot();
    let own = config.string("pager.deptool").filter(|_| env::var_os("GIT_PAGER").is_none());
    if let Some(own) = own {
        match config.boolean("pager.deptool") {
            Some(false) => return Ok(None),
            Some(true) => {}
            None => return Ok(Some(own.to_os_str_lossy().into_owned())),
        }
    }
    let output = remote.repo.git().args(["var", "GIT_PAGER"]).env_remove("GIT_PAGER").envs(pager()).output()?;
    let command = output.stdout.trim_end();
    let is_none = command.is_empty() || command == b"cat" || !output.status.success();
    Ok((!is_none).then(|| command.to_os_str_lossy().into_owned()))
}

/// Environment variables that a `git` subprocess needs for our pager.
fn pager() -> impl Iterator<Item = (&'static str, OsString)> {
    env::var_os("GIT_PAGER").map(|value| ("GIT_PAGER", value)).into_iter()
}
