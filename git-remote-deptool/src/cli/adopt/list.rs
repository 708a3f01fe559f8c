//! `git deptool adopt --list`: what could be adopted.

use std::collections::BTreeSet;

use deptool_agent::shared::{
    name::{HostName, UnitName},
    path::ExternalPath,
    wire::{Candidate, Look, PackageManager, UnitNow, Why},
};
use serde::Serialize;

use super::{CliError, ask, noise::is_noise};
use crate::{
    cli::{exit::ExitStatus, output::Output, table, view},
    fleet::remote::Remote,
    ui::render::ago,
};

/// Where administrators put units and drop-ins.
const UNITS: &str = "/etc/systemd/system/";

/// `--json`
#[derive(Serialize)]
struct Listed<'a> {
    version: u32,
    host: &'a HostName,
    /// What the host's files were compared with. `null` if it has no package manager that can tell.
    packages: Option<PackageManager>,
    files: Vec<File>,
    units: Vec<Unit>,
}

#[derive(Serialize)]
struct File {
    path: ExternalPath,
    why: Why,
    /// In bytes.
    size: u64,
    /// In seconds since 1970.
    modified: i64,
}

/// A unit with files in `/etc/systemd/system`.
#[derive(Debug, PartialEq, Serialize)]
struct Unit {
    unit: UnitName,
    /// The unit's own file is there.
    file: bool,
    drop_ins: bool,
    enabled: bool,
    runs: bool,
}

pub(super) fn run(remote: &Remote, output: &Output, host: &HostName, json: bool) -> Result<ExitStatus, CliError> {
    let (packages, units, files) = ask(remote, host, |session| {
        let (packages, mut candidates) = session.candidates()?;
        candidates.retain(|candidate| !is_noise(candidate.path.as_str()));
        let (units, files) = sorted(candidates);
        let names = units.iter().map(|unit| unit.unit.clone()).collect();
        let now = session.look(Look { paths: Vec::new(), units: names, files: 0, bytes: 0 }, &mut |_, _, _| {})?;
        Ok((packages, with_state(units, &now), files))
    })?;
    if json {
        output.json(&Listed { version: view::VERSION, host, packages, files, units })?;
        return Ok(ExitStatus::Done);
    }
    for line in lines(&files, &units, packages, table::now()) {
        output.line(line)?;
    }
    match packages {
        None => output.remark("the host has neither dpkg nor rpm to ask, so these are all files in /etc")?,
        Some(_) if files.is_empty() && units.is_empty() => {
            output.remark("everything in /etc is as packages put it there, or is deployed")?;
        }
        Some(_) => {}
    }
    if !(files.is_empty() && units.is_empty()) {
        output.remark(format_args!("'git deptool adopt {host} <path or unit>...' copies what you choose"))?;
    }
    Ok(ExitStatus::Done)
}

/// Units, and files that belong to none: a unit is adopted with its file and drop-ins.
fn sorted(candidates: Vec<Candidate>) -> (Vec<Unit>, Vec<File>) {
    let (mut own, mut dropped, mut files) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for Candidate { path, why, size, modified } in candidates {
        match path.as_str().strip_prefix(UNITS).and_then(unit_of) {
            Some((unit, Part::File)) => drop(own.insert(unit)),
            Some((unit, Part::DropIn)) => drop(dropped.insert(unit)),
            None => files.push(File { path, why, size, modified }),
        }
    }
    let unit = |unit: &UnitName| {
        let (file, drop_ins) = (own.contains(unit), dropped.contains(unit));
        Unit { unit: unit.clone(), file, drop_ins, enabled: false, runs: false }
    };
    (own.union(&dropped).map(unit).collect(), files)
}

/// What a file is to its unit.
enum Part {
    File,
    DropIn,
}

/// `x.service` and `x.service.d/y.conf` are of the unit `x.service`.
fn unit_of(rest: &str) -> Option<(UnitName, Part)> {
    let (name, part) = match rest.split_once('/') {
        None => (rest, Part::File),
        Some((directory, file)) if !file.contains('/') => (directory.strip_suffix(".d")?, Part::DropIn),
        Some(_) => return None,
    };
    Some((UnitName::parse(name.as_bytes()).ok()?, part))
}

fn with_state(mut units: Vec<Unit>, now: &[UnitNow]) -> Vec<Unit> {
    for unit in &mut units {
        if let Some(now) = now.iter().find(|now| now.unit == unit.unit) {
            (unit.enabled, unit.runs) = (now.enabled, now.runs);
        }
    }
    units
}

fn lines(files: &[File], units: &[Unit], packages: Option<PackageManager>, now: i64) -> Vec<String> {
    let mut rows: Vec<[String; 4]> = Vec::new();
    for unit in units {
        let what = match (unit.file, unit.drop_ins) {
            (true, false) => "own unit",
            (true, true) => "own unit with drop-ins",
            (false, _) => "drop-ins",
        };
        let enabled = if unit.enabled { "enabled" } else { "not enabled" };
        let runs = if unit.runs { "runs" } else { "does not run" };
        rows.push([unit.unit.to_string(), what.into(), enabled.into(), runs.into()]);
    }
    for File { path, why, size, modified } in files {
        let what = match (why, packages) {
            (Why::Changed, _) => "changed",
            (Why::Unowned, _) => "in no package",
            (Why::Unknown, _) => "",
        };
        rows.push([path.to_string(), what.into(), format!("{size} B"), format!("{} ago", ago(now - modified))]);
    }
    table::lines(&rows, table::terminal_width())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(path: &str, why: Why) -> Candidate {
        Candidate { path: ExternalPath::parse(path).unwrap(), why, size: 12, modified: 40 }
    }

    #[test]
    fn a_unit_is_one_line_with_its_file_and_drop_ins_and_other_files_are_one_each() {
        let (units, files) = sorted(vec![
            candidate("/etc/nginx/nginx.conf", Why::Changed),
            candidate("/etc/own\u{202e}", Why::Unowned),
            candidate("/etc/systemd/system/a.service", Why::Unowned),
            candidate("/etc/systemd/system/a.service.d/x.conf", Why::Unowned),
            candidate("/etc/systemd/system/nginx.service.d/x.conf", Why::Unowned),
            candidate("/etc/systemd/system/nginx.service.d/y.conf", Why::Unowned),
            candidate("/etc/systemd/system/wg-quick@.service.d/y.conf", Why::Unowned),
            candidate("/etc/systemd/system/service.d/all.conf", Why::Unowned),
        ]);
        let now = UnitNow { unit: UnitName::parse(b"nginx.service").unwrap(), exists: true, enabled: true, runs: true };
        let units = with_state(units, &[now]);
        assert_eq!(
            lines(&files, &units, Some(PackageManager::Dpkg), 100),
            [
                "a.service                               own unit with drop-ins  not enabled  does not run",
                "nginx.service                           drop-ins                enabled      runs",
                "wg-quick@.service                       drop-ins                not enabled  does not run",
                "/etc/nginx/nginx.conf                   changed                 12 B         60 s ago",
                "/etc/own\\u{202e}                        in no package           12 B         60 s ago",
                "/etc/systemd/system/service.d/all.conf  in no package           12 B         60 s ago",
            ]
        );
    }
}
