//! `git deptool log`: lists past deployments from the hosts' own logs.

use deptool_agent::shared::{
    id::CommitId,
    name::{ClusterName, HostName},
    outcome::{Attempt, AttemptResult, Mended},
    text::printable,
    wire::{Request, Response},
};
use gix::{bstr::ByteSlice, date::time::format};
use serde::Serialize;

use super::{
    CliError,
    aim::{Aim, AimArgs, Hosts},
    exit::ExitStatus,
    output::{Output, Style, painted},
    pager, table, view,
};
use crate::{
    agent::session::{Session, SessionError},
    fetch::query::query,
    fleet::remote::Remote,
    model::error::chain,
    repo::identity::local_time,
};

/// Ask hosts for their deployments: newest first, including those that were rolled back
///
/// Each host keeps a record. 'git log -g <host>/<cluster>' shows the deployments that this repository knows of, without
/// asking.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    aim: AimArgs,
    /// Show at most this many
    #[arg(short = 'n', long, value_name = "number", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    number: u32,
    /// Show one line per deployment
    #[arg(long)]
    oneline: bool,
    /// Print the deployments as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Log {
    version: u32,
    deployments: Vec<Entry>,
    errors: Vec<HostError>,
}

/// One deployment to one host.
#[derive(Serialize)]
struct Entry {
    id: String,
    host: HostName,
    cluster: ClusterName,
    /// In seconds since 1970.
    when: i64,
    by: String,
    from: Option<CommitId>,
    /// Null for a removal.
    to: Option<CommitId>,
    /// `done`, `rolled-back` or `interrupted`.
    result: &'static str,
    why: Option<String>,
    /// The drift that it put right.
    mended: Vec<Mended>,
}

#[derive(Serialize)]
struct HostError {
    host: HostName,
    error: String,
}

pub(super) fn run(remote: &Remote, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let aim = Aim::of(remote, &args.aim, Hosts::Known)?;
    let answers = query(remote, &aim.hosts, |session, _| attempts(session, args.number));
    let (mut exit, mut deployments, mut errors) = (ExitStatus::Done, Vec::new(), Vec::new());
    for (host, answer) in aim.hosts.iter().zip(answers) {
        match answer {
            Ok((_, attempts)) => {
                let ours = attempts.into_iter().filter(|attempt| attempt.cluster == aim.cluster);
                deployments.extend(ours.map(|attempt| Entry::of(&host.host, attempt)));
            }
            Err(error) => {
                exit = exit.worse(view::status_of_error(&error));
                output.complain(chain(&error))?;
                errors.push(HostError { host: host.host.clone(), error: chain(&error) });
            }
        }
    }
    // A stable sort: entries of the same second keep the order of the hosts.
    deployments.sort_by_key(|entry| std::cmp::Reverse(entry.when));
    deployments.truncate(args.number as usize);
    if args.json {
        output.json(&Log { version: view::VERSION, deployments, errors })?;
    } else if args.oneline {
        let rows: Vec<_> = deployments.iter().map(Entry::row).collect();
        let lines = table::lines(&rows, table::terminal_width());
        pager::page(remote, output, &lines.into_iter().map(|line| line + "\n").collect::<String>())?;
    } else {
        let colour = output.has_colour(remote.repo.gix().config_snapshot().plumbing());
        let texts: Vec<String> = deployments.iter().map(|entry| entry.text(remote, colour)).collect();
        pager::page(remote, output, &texts.join("\n"))?;
    }
    Ok(exit)
}

/// The last attempts on a host, newest first.
pub(super) fn attempts(session: &mut Session, limit: u32) -> Result<Vec<Attempt>, SessionError> {
    session.send(&Request::Attempts { limit })?;
    match session.receive()? {
        Response::Attempts(attempts) => Ok(attempts),
        _ => Err(SessionError::OutOfOrder),
    }
}

impl Entry {
    fn of(host: &HostName, attempt: Attempt) -> Self {
        let (result, why) = match attempt.result {
            AttemptResult::Done => ("done", None),
            AttemptResult::RolledBack { why, .. } => ("rolled-back", Some(why)),
            AttemptResult::Interrupted => ("interrupted", None),
        };
        let to = attempt.to.commit();
        Entry {
            id: attempt.id.to_string(),
            host: host.clone(),
            cluster: attempt.cluster,
            when: attempt.when,
            by: attempt.by,
            from: attempt.from,
            to,
            result,
            why,
            mended: attempt.mended,
        }
    }

    /// The result in words.
    fn words(&self) -> String {
        match (&self.why, self.result) {
            (Some(why), _) => format!("rolled back: {why}"),
            (None, "interrupted") => "interrupted, and undone".into(),
            (None, result) => result.replace('-', " "),
        }
    }

    fn row(&self) -> [String; 5] {
        let to = self.to.map_or("removal".to_owned(), |commit| commit.short());
        let by = table::name_of(&self.by).to_owned();
        [shown(self.when, format::ISO8601), to, self.host.to_string(), by, self.words()]
    }

    /// Formatted like a commit in `git log`.
    fn text(&self, remote: &Remote, colour: bool) -> String {
        let what = match self.to {
            Some(commit) => format!("deployment of {commit} to {}", self.host),
            None => format!("removal of everything from {}", self.host),
        };
        let style = if self.result == "done" { Style::Changed } else { Style::Removed };
        let subject = self.to.and_then(|commit| subject(remote, commit));
        let subject = subject.map(|subject| format!("\n    {subject}\n")).unwrap_or_default();
        let from = self.from.map_or("nothing".to_owned(), |from| from.to_string());
        format!(
            "{}\nBy:     {}\nDate:   {}\nBefore: {from}\nResult: {}\n{}{subject}",
            painted(&what, style, colour),
            self.by,
            shown(self.when, format::DEFAULT),
            self.words(),
            self.mended.iter().map(mended).collect::<String>(),
        )
    }
}

fn mended(mended: &Mended) -> String {
    match &mended.kept {
        Some(kept) => format!("Mended: {}; kept as '{kept}'\n", mended.what),
        None => format!("Mended: {}\n", mended.what),
    }
}

/// The first line of a commit's message, if the commit is in this repository.
pub(super) fn subject(remote: &Remote, commit: CommitId) -> Option<String> {
    let commit = remote.repo.gix().find_commit(commit.0).ok()?;
    let message = commit.message_raw().ok()?;
    message.lines().next().map(printable)
}

/// In the local time zone.
fn shown(seconds: i64, format: impl Into<gix::date::time::Format>) -> String {
    local_time(seconds).format(format).unwrap_or_else(|_| seconds.to_string())
}
