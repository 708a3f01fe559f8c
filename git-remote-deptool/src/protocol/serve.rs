//! The loop that reads Git's requests and writes the answers.

use std::{
    error::Error,
    io::{self, BufRead, Read, Write},
};

use super::option::Reply;
use super::{
    command::{self, Command, CommandError, MAX_LINE, Purpose},
    list::{self, ListError},
};
use crate::model::{
    advertised::Advertised,
    batch::{Duplicate, GUARD, PushBatch, PushCommand},
    error::chain,
    offer::Offer,
    options::Options,
    outcome::{RefOutcome, RefReport},
};

/// Carries out requests on a repository and its hosts.
pub trait Backend {
    /// The error, in Git's style. It is shown with its causes.
    type Error: Error + Send + Sync + 'static;

    /// The refs that Git may push to. This does not connect.
    fn offers(&mut self, options: &Options) -> Result<Vec<Offer>, Self::Error>;

    /// The refs of the hosts, for a fetch. When this returns, every listed object is in the repository.
    fn advertised(&mut self, options: &Options) -> Result<Vec<Advertised>, Self::Error>;

    /// Carry out a push, and set the outcome of each ref in `report`. Refs without an outcome have failed. If an error
    /// is returned, it is the reason.
    fn push(&mut self, batch: &PushBatch, options: &Options, report: &mut RefReport) -> Result<(), Self::Error>;

    /// Called after Git has printed its table of refs.
    fn finish(&mut self, options: &Options) -> Result<(), Self::Error>;
}

/// How the dialogue ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum End {
    /// Git ended it with a blank line.
    Finished,
    /// Git has exited. An incomplete batch was not begun.
    HungUp,
}

/// Why the dialogue failed. Nothing more is written to Git, which then fails, too.
#[derive(Debug, thiserror::Error)]
pub enum ServeError<E: Error + 'static> {
    /// Reading stdin or writing stdout failed.
    #[error("could not talk to git")]
    Io(#[from] io::Error),
    /// Git has exited while hosts were at work, for example because of Ctrl-C. Contains the outcome that Git would have
    /// shown.
    #[error("git is gone; {0}")]
    Unheard(String),
    /// A line is too long.
    #[error("git sent a line of more than {MAX_LINE} bytes")]
    TooLong,
    /// A line can't be parsed.
    #[error("git sent what gitremote-helpers(7) does not have")]
    Command(#[from] CommandError),
    /// A line is not valid in this state.
    #[error("git sent '{0}' in the middle of a batch")]
    OutOfPlace(&'static str),
    /// One ref has two sources.
    #[error(transparent)]
    Duplicate(#[from] Duplicate),
    /// A ref of a host can't be listed.
    #[error(transparent)]
    List(#[from] ListError),
    /// The backend failed.
    #[error(transparent)]
    Backend(E),
}

/// Answer the requests on `input` until Git ends the dialogue.
pub fn serve<B: Backend>(
    input: &mut impl BufRead,
    output: &mut impl Write,
    backend: &mut B,
) -> Result<End, ServeError<B::Error>> {
    let mut options = Options::default();
    loop {
        let Some(command) = next(input)? else { return Ok(End::HungUp) };
        match command {
            Command::Capabilities => output.write_all(b"option\npush\nfetch\nobject-format\n\n")?,
            Command::Option { name, value } => output.write_all(match options.set(name.as_ref(), value.as_ref()) {
                Reply::Ok => b"ok\n",
                Reply::Unsupported => b"unsupported\n",
            })?,
            Command::List(purpose) => output.write_all(&list(backend, purpose, &options)?)?,
            Command::Push(first) => {
                let Some(batch) = push_batch(input, first)? else { return Ok(End::HungUp) };
                let report = push(backend, &batch, &options);
                let told = output.write_all(&[&report.lines()[..], b"\n"].concat()).and_then(|()| output.flush());
                told.map_err(|_| ServeError::Unheard(report.words()))?;
            }
            // The objects are here since they were listed.
            Command::Fetch => match skip_fetch_batch(input)? {
                Some(()) => output.write_all(b"\n")?,
                None => return Ok(End::HungUp),
            },
            Command::Blank => {
                backend.finish(&options).map_err(ServeError::Backend)?;
                return Ok(End::Finished);
            }
        }
        output.flush()?;
    }
}

fn list<B: Backend>(backend: &mut B, purpose: Purpose, options: &Options) -> Result<Vec<u8>, ServeError<B::Error>> {
    let mut lines = match purpose {
        Purpose::Push => {
            let offered = list::push_lines(&backend.offers(options).map_err(ServeError::Backend)?);
            [&offered[..], b"? ", GUARD.as_bytes(), b"\n"].concat()
        }
        Purpose::Fetch => list::fetch_lines(&backend.advertised(options).map_err(ServeError::Backend)?)?,
    };
    lines.push(b'\n');
    Ok(lines)
}

/// This never fails: hosts may have changed, so every ref must be reported.
fn push<B: Backend>(backend: &mut B, batch: &PushBatch, options: &Options) -> RefReport {
    let mut report = RefReport::new(batch);
    match options.refusal() {
        Some(refusal) => report.set_rest(&RefOutcome::Rejected(refusal.to_string())),
        None => {
            if let Err(error) = backend.push(batch, options, &mut report) {
                report.set_rest(&RefOutcome::Rejected(chain(&error)));
            }
        }
    }
    report
}

/// The whole batch, or `None` if the input ends before the batch does.
fn push_batch<E: Error>(input: &mut impl BufRead, first: PushCommand) -> Result<Option<PushBatch>, ServeError<E>> {
    let mut batch = PushBatch::default();
    batch.add(first)?;
    loop {
        match next(input)? {
            None => return Ok(None),
            Some(Command::Push(push)) => batch.add(push)?,
            Some(Command::Blank) => return Ok(Some(batch)),
            Some(other) => return Err(ServeError::OutOfPlace(verb(&other))),
        }
    }
}

/// Read the rest of a batch. Returns `None` if the input ends before the batch does.
fn skip_fetch_batch<E: Error>(input: &mut impl BufRead) -> Result<Option<()>, ServeError<E>> {
    loop {
        match next(input)? {
            None => return Ok(None),
            Some(Command::Fetch) => {}
            Some(Command::Blank) => return Ok(Some(())),
            Some(other) => return Err(ServeError::OutOfPlace(verb(&other))),
        }
    }
}

fn verb(command: &Command) -> &'static str {
    match command {
        Command::Capabilities => "capabilities",
        Command::Option { .. } => "option",
        Command::List(_) => "list",
        Command::Push(_) => "push",
        Command::Fetch => "fetch",
        Command::Blank => "a blank line",
    }
}

/// The next command, or `None` at the end of the input. A last line without a line feed is incomplete and ignored.
fn next<E: Error>(input: &mut impl BufRead) -> Result<Option<Command>, ServeError<E>> {
    let mut line = Vec::new();
    input.take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line)?;
    match line.pop() {
        Some(b'\n') => Ok(Some(command::parse(&line)?)),
        Some(_) if line.len() >= MAX_LINE => Err(ServeError::TooLong),
        Some(_) | None => Ok(None),
    }
}

#[cfg(test)]
mod tests;
