//! The loop that talks to Git.

use std::{
    error::Error,
    io::{self, BufRead, Read, Write},
};

use deptool_agent::shared::id::CommitId;
use gix::bstr::BString;
use gix_protocol::handshake::Ref;

use super::option::Reply;
use super::{
    command::{self, Command, CommandError, MAX_LINE, Purpose},
    list::{self, ListError},
};
use crate::model::{
    batch::{Duplicate, GUARD, PushBatch, PushCommand},
    error::chain,
    offer::Offer,
    options::Options,
    outcome::{RefOutcome, RefReport},
};

/// What the dialogue is about: a repository and hosts.
pub trait Backend {
    /// Why it failed, in Git's style. Shown with its sources.
    type Error: Error + Send + Sync + 'static;

    /// What Git may push to. Nothing is connected to.
    fn offers(&mut self, options: &Options) -> Result<Vec<Offer>, Self::Error>;

    /// What the hosts have, for a fetch. Every object named is here, or can be fetched, when this returns.
    fn advertised(&mut self, options: &Options) -> Result<Vec<Ref>, Self::Error>;

    /// Carry out a push, and set the outcome of each ref in `report`. Refs without an outcome have failed when this
    /// returns: with the error as the reason, if there is one.
    fn push(&mut self, batch: &PushBatch, options: &Options, report: &mut RefReport) -> Result<(), Self::Error>;

    /// Bring home what `advertised` named.
    fn fetch(&mut self, wants: &[Want], options: &Options) -> Result<(), Self::Error>;

    /// Git has shown its table of refs: the place for a summary below it.
    fn finish(&mut self, options: &Options) -> Result<(), Self::Error>;
}

/// One thing to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// The commit that was listed.
    pub id: CommitId,
    /// The ref that it was listed for.
    pub name: BString,
}

/// How a dialogue ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum End {
    /// Git said so.
    Finished,
    /// Git is gone. If that was in the middle of a batch, nothing was done about it.
    HungUp,
}

/// Why a dialogue can't go on. Nothing more is written to Git, which fails then.
#[derive(Debug, thiserror::Error)]
pub enum ServeError<E: Error + 'static> {
    /// Stdin or stdout.
    #[error("could not talk to git")]
    Io(#[from] io::Error),
    /// Git has ended while hosts were at work, as it does at Ctrl-C: what it would have shown.
    #[error("git is gone; {0}")]
    Unheard(String),
    /// A line without an end.
    #[error("git sent a line of more than {MAX_LINE} bytes")]
    TooLong,
    /// A line that can't be parsed.
    #[error("git sent what gitremote-helpers(7) does not have")]
    Command(#[from] CommandError),
    /// A line that does not belong where it is.
    #[error("git sent '{0}' in the middle of a batch")]
    OutOfPlace(&'static str),
    /// One ref, two sources.
    #[error(transparent)]
    Duplicate(#[from] Duplicate),
    /// What a host has can't be shown to Git.
    #[error(transparent)]
    List(#[from] ListError),
    /// What the helper was asked to do.
    #[error(transparent)]
    Backend(E),
}

/// Answer Git on `output` what it asks on `input`, until it has no more to ask.
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
            Command::Fetch { id, name } => {
                let Some(wants) = fetch_batch(input, Want { id, name })? else { return Ok(End::HungUp) };
                backend.fetch(&wants, &options).map_err(ServeError::Backend)?;
                output.write_all(b"\n")?;
            }
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

/// Never fails: from here on hosts may have changed, and every ref has to be reported.
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

/// The whole batch, or nothing if Git is gone before its end.
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

/// The whole batch, without repetitions, or nothing if Git is gone before its end.
fn fetch_batch<E: Error>(input: &mut impl BufRead, first: Want) -> Result<Option<Vec<Want>>, ServeError<E>> {
    let mut wants = vec![first];
    loop {
        match next(input)? {
            None => return Ok(None),
            Some(Command::Fetch { id, name }) => {
                let want = Want { id, name };
                if !wants.contains(&want) {
                    wants.push(want);
                }
            }
            Some(Command::Blank) => return Ok(Some(wants)),
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
        Command::Fetch { .. } => "fetch",
        Command::Blank => "a blank line",
    }
}

/// The next command, or nothing at the end of input. A last line without its line feed was cut off: it is no command.
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
