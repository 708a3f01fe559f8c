//! `git deptool adopt`: brings files and units of a host into the work tree.
//!
//! ```text
//! words ▸ paths and units ▸ asked of the host ▸ [draft]: where each goes in the app ▸ shown, agreed to, written
//! ```

mod draft;
mod list;
mod noise;
mod secret;

use deptool_agent::shared::{
    name::{AppName, HostName, UnitName},
    path::ExternalPath,
    text::printable,
    wire::{Entry, Look, UnitNow},
};
use draft::Draft;
use serde::Serialize;

use super::{CliError, exit::ExitStatus, output::Output, prompt::Terminal, view, work_tree::WorkTree};
use crate::{
    agent::session::{Session, SessionError},
    fetch::query::query,
    fleet::remote::Remote,
};

/// So much is adopted without --force, and with it.
const FILES: u32 = 10_000;
const BYTES: u64 = 64 << 20;
const MOST_FILES: u32 = 100_000;
const MOST_BYTES: u64 = 1 << 30;

/// Copy files and units of a host into the work tree, ready to be committed
///
/// Nothing changes on the host. The first deployment replaces the files by links to the same content, and restarts
/// nothing.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The host
    #[arg(value_name = "host")]
    host: String,
    /// Absolute paths of files and directories, and names of units
    #[arg(value_name = "path|unit", required_unless_present = "list")]
    words: Vec<String>,
    /// Only list what could be adopted: files in /etc that are not as a package put them there, and their units
    #[arg(long, group = "without_question", conflicts_with_all = ["words", "app", "secrets", "force"])]
    list: bool,
    /// The app's directory; by default it is named after the first path or unit
    #[arg(long, value_name = "name")]
    app: Option<String>,
    /// Also adopt what looks like a secret
    #[arg(long)]
    secrets: bool,
    /// Also adopt more than 10,000 files or 64 MiB, up to 100,000 files and 1 GiB
    #[arg(long)]
    force: bool,
    /// Do not ask for confirmation
    #[arg(short, long, group = "without_question")]
    yes: bool,
    /// Print what was written as JSON, or what could be adopted; needs --yes or --list
    #[arg(long, requires = "without_question")]
    json: bool,
}

/// `--json`
#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    host: &'a HostName,
    app: &'a AppName,
    written: Vec<String>,
    left: Vec<String>,
}

/// What there is on a host.
struct Seen {
    entries: Vec<(ExternalPath, Entry, Vec<u8>)>,
    units: Vec<UnitNow>,
}

pub(super) fn run(remote: &Remote, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let host = HostName::parse(args.host.as_bytes())?;
    if args.list {
        return list::run(remote, output, &host, args.json);
    }
    let tree = WorkTree::of(&remote.repo)?;
    let (paths, units) = sorted(&args.words)?;
    let app = match &args.app {
        Some(name) => AppName::parse(name.as_bytes())?,
        None => default_app(&args.words[0])?,
    };
    let asked: Vec<ExternalPath> = paths.iter().cloned().chain(units.iter().flat_map(files_of)).collect();
    let seen =
        look(remote, &host, Look { paths: asked, units: units.clone(), files: limit(&args).0, bytes: limit(&args).1 })?;
    check_named(&paths, &units, &seen)?;

    let mut draft = Draft::open(tree, &host, &app)?;
    for (path, entry, content) in seen.entries {
        let is_named = paths.contains(&path);
        match entry {
            // A unit without a file or drop-ins of its own.
            Entry::Refused { .. } if !is_named && units.iter().any(|unit| files_of(unit).contains(&path)) => {}
            Entry::Refused { why } => draft.leave(&path, &why),
            Entry::Link { target } => draft.leave(&path, &format!("is a symlink to '{target}': it stays as it is")),
            Entry::File { mode, owner, group, .. } => {
                match secret::looks_like_one(path.as_str(), mode, &content).filter(|_| !args.secrets) {
                    Some(why) => draft.leave(
                        &path,
                        &format!("{why}; --secrets adopts it in plain text, which is deployed with --allow-plain"),
                    ),
                    None => draft.file(&path, (mode, owner, group), content)?,
                }
            }
        }
    }
    for unit in &seen.units {
        draft.unit(unit);
    }
    draft.check()?;
    if !args.json {
        output.text(&draft.text())?;
    }
    for left in draft.left() {
        output.remark(left)?;
    }
    if draft.is_empty() {
        return Err(CliError::Text("there is nothing to adopt".into()));
    }
    if !args.yes && !is_agreed(remote, output, &host, &app)? {
        return Ok(ExitStatus::Declined);
    }
    let written = draft.write()?;
    if args.json {
        let left = draft.left().to_vec();
        output.json(&Report { version: view::VERSION, host: &host, app: &app, written, left })?;
    } else {
        output
            .note(format_args!("\n'git add {host}/{app} && git commit' and 'git deptool deploy {host}' come next."))?;
    }
    Ok(ExitStatus::Done)
}

fn limit(args: &Args) -> (u32, u64) {
    if args.force { (MOST_FILES, MOST_BYTES) } else { (FILES, BYTES) }
}

/// The paths and the units on a command line.
fn sorted(words: &[String]) -> Result<(Vec<ExternalPath>, Vec<UnitName>), CliError> {
    let (mut paths, mut units) = (Vec::new(), Vec::new());
    for word in words {
        match word.starts_with('/') {
            true => {
                let path = word.trim_end_matches('/');
                paths.push(ExternalPath::parse(path).map_err(|error| CliError::Usage(error.to_string()))?);
            }
            false => units.push(UnitName::parse(word.as_bytes())?),
        }
    }
    Ok((paths, units))
}

/// Where the unit's own file and its drop-ins are, if it has any in /etc.
fn files_of(unit: &UnitName) -> Vec<ExternalPath> {
    let places = ["", ".d"].map(|suffix| ExternalPath::parse(&format!("/etc/systemd/system/{unit}{suffix}")));
    places.into_iter().filter_map(Result::ok).collect()
}

/// `nginx` of `/etc/nginx/nginx.conf`, `/etc/nginx.conf` and `nginx.service`.
fn default_app(word: &str) -> Result<AppName, CliError> {
    let name = match word.strip_prefix("/etc/").or_else(|| word.strip_prefix('/')) {
        Some(rest) => rest.split('/').next().unwrap_or_default(),
        None => word,
    };
    let stem = name.split(['.', '@']).find(|part| !part.is_empty()).unwrap_or(name);
    let unclear = || CliError::Usage(format!("'{}' names no app; name one with --app", printable(word.as_bytes())));
    match (stem, AppName::parse(stem.as_bytes())) {
        ("systemd" | "sysusers" | "tmpfiles" | "containers", _) | (_, Err(_)) => Err(unclear()),
        (_, Ok(app)) => Ok(app),
    }
}

fn look(remote: &Remote, host: &HostName, request: Look) -> Result<Seen, CliError> {
    ask(remote, host, |session| {
        let mut entries = Vec::new();
        let units = session.look(request.clone(), &mut |path, entry, content| entries.push((path, entry, content)))?;
        Ok(Seen { entries, units })
    })
}

/// Connect to a host and ask it.
fn ask<T: Send>(
    remote: &Remote,
    host: &HostName,
    question: impl Fn(&mut Session) -> Result<T, SessionError> + Sync,
) -> Result<T, CliError> {
    let host = remote.settings.host(host)?;
    let answer = query(remote, std::slice::from_ref(&host), |session, _| question(session));
    match answer.into_iter().next() {
        Some(answer) => Ok(answer?.1),
        None => Err(CliError::Text(format!("'{}' was not asked", host.host))),
    }
}

/// Whatever was named has to be there, and to be manageable.
fn check_named(paths: &[ExternalPath], units: &[UnitName], seen: &Seen) -> Result<(), CliError> {
    let mut problems = Vec::new();
    for (path, entry, _) in seen.entries.iter().filter(|(path, ..)| paths.contains(path)) {
        match entry {
            Entry::Refused { why } => problems.push(format!("'{path}' {why}")),
            Entry::Link { target } => problems.push(format!("'{path}' is a symlink to '{target}': name that")),
            Entry::File { .. } => {}
        }
    }
    for unit in units {
        let now = seen.units.iter().find(|now| now.unit == *unit);
        let has_file = seen.entries.iter().any(|(path, entry, _)| {
            matches!(entry, Entry::File { .. })
                && files_of(unit).iter().any(|own| path.as_str().starts_with(own.as_str()))
        });
        if !has_file && !now.is_some_and(|now| now.exists) {
            problems.push(format!("there is no unit '{unit}' on the host"));
        }
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(CliError::Text(problems.join("; "))),
    }
}

fn is_agreed(remote: &Remote, output: &Output, host: &HostName, app: &AppName) -> Result<bool, CliError> {
    output.flush()?;
    let Some(mut terminal) = Terminal::open() else {
        output.complain("error: there is no terminal to ask at; use --yes to write without being asked")?;
        return Ok(false);
    };
    let answer = terminal.ask(&format!("Write to {host}/{app}? [y/N] "), &remote.connector.interrupted)?;
    Ok(matches!(answer.as_deref().map(str::trim), Some("y" | "Y" | "yes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_is_named_after_what_is_adopted_first() {
        let name = |word| default_app(word).map(|app| app.to_string()).map_err(|error| error.to_string());
        for word in ["/etc/nginx/nginx.conf", "/etc/nginx.conf", "nginx.service", "nginx@1.service", "/etc/nginx"] {
            assert_eq!(name(word).unwrap(), "nginx", "{word}");
        }
        assert_eq!(name("/opt/tool/x").unwrap(), "opt");
        assert!(name("/etc/systemd/system/x.service").unwrap_err().contains("name one with --app"));
    }
}
