//! Plans as text for people. Pure; every line is safe to show.

use std::collections::BTreeSet;

use deptool_agent::shared::{
    manifest::OnChange,
    name::{AppName, HostName, UnitName, UnitType},
    plan::{Change, Class, Enablement, ExternalChange, HostPlan, PatternChange, PatternJob, UnitChange, UnitJob, When},
};

pub mod cluster;

use cluster::Detail;

use crate::model::safeguards::Safeguards;

/// Show at most this many changed files of an app, and count the others.
const FILES: usize = 40;

/// The plan of one host:
///
/// ```text
/// ns1.example.org
///     update nsd
///         ~ zones/example.org.zone
///         reload unit nsd.service
/// ```
pub fn plan(host: &HostName, plan: &HostPlan, safeguards: &Safeguards) -> String {
    format!("{host}\n{}{}", plan_body(plan, Detail::Readable), safeguards_body(safeguards))
}

/// The lines about checks, health probes and confirmation.
fn safeguards_body(safeguards: &Safeguards) -> String {
    safeguards.lines().into_iter().map(|line| format!("    {line}\n")).collect()
}

/// The lines below the host's name.
fn plan_body(plan: &HostPlan, detail: Detail) -> String {
    let mut out = String::new();
    let mut shown_units: Vec<&UnitChange> = Vec::new();
    let most = if detail == Detail::Full { usize::MAX } else { FILES };
    for change in &plan.apps {
        out.push_str(&format!("    {} {}\n", change_word(change.change), change.app));
        for (path, change) in change.files.iter().take(most) {
            out.push_str(&format!("        {} {path}\n", sign(*change)));
        }
        if change.files.len() > most {
            out.push_str(&format!("        ... and {} more files\n", change.files.len() - most));
        }
        for external in plan.external.iter().filter(|external| external.app == change.app) {
            out.push_str(&format!("        {}\n", external_line(external)));
        }
        for pattern in plan.patterns.iter().filter(|pattern| pattern.apps.contains(&change.app)) {
            pattern_line(pattern).into_iter().for_each(|line| out.push_str(&format!("        {line}\n")));
        }
        for unit in plan.units.iter().filter(|unit| unit.apps.contains(&change.app)) {
            if !shown_units.contains(&unit) {
                shown_units.push(unit);
                unit_lines(unit).into_iter().for_each(|line| out.push_str(&format!("        {line}\n")));
            }
        }
    }
    // Changes due to an app whose files stay the same: for example, another app that had the unit was removed.
    let shown_apps: Vec<&AppName> = plan.apps.iter().map(|change| &change.app).collect();
    for external in plan.external.iter().filter(|external| !shown_apps.contains(&&external.app)) {
        out.push_str(&format!("    {}\n", external_line(external)));
    }
    for unit in plan.units.iter().filter(|unit| !shown_units.contains(unit)) {
        unit_lines(unit).into_iter().for_each(|line| out.push_str(&format!("    {line}\n")));
    }
    if plan.is_empty() {
        out.push_str("    nothing changes but the commit\n");
    }
    out
}

/// `1 file`, `2 files`
pub fn plural(count: usize, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {what}{s}")
}

fn change_word(change: Change) -> &'static str {
    match change {
        Change::Add => "add",
        Change::Update => "update",
        Change::Remove => "remove",
    }
}

/// Notes on a plan: what a rollback can't undo, and what can't be observed.
pub fn notes(plan: &HostPlan) -> Vec<String> {
    let has = |class| plan.external.iter().any(|change| change.class == class && change.change != Change::Remove);
    let lasting = match (has(Class::Sysusers), has(Class::Tmpfiles)) {
        (true, true) => Some("users and files that sysusers and tmpfiles create stay after a rollback"),
        (true, false) => Some("users that sysusers creates stay after a rollback"),
        (false, true) => Some("files that tmpfiles creates stay after a rollback"),
        (false, false) => None,
    };
    let unobserved = plan.unobserved.iter().map(|unit| {
        format!("whether a reload of {unit} succeeds can't be observed: its app has neither 'checks' nor 'health'")
    });
    lasting.map(str::to_owned).into_iter().chain(unobserved).collect()
}

fn sign(change: Change) -> char {
    match change {
        Change::Add => '+',
        Change::Update => '~',
        Change::Remove => '-',
    }
}

fn external_line(external: &ExternalChange) -> String {
    let ExternalChange { path, change, class, app: _, file } = external;
    match (class, change) {
        (Class::Link, Change::Add) => format!("link {path} -> {file}"),
        (Class::Link, Change::Update) => format!("relink {path} -> {file}"),
        (Class::Link, Change::Remove) => format!("unlink {path}"),
        (_, Change::Add) => format!("install {path}"),
        (_, Change::Update) => format!("replace {path}"),
        (_, Change::Remove) => format!("remove {path}"),
    }
}

fn unit_lines(change: &UnitChange) -> Vec<String> {
    let unit = &change.unit;
    let enablement = match change.enablement {
        Enablement::Keep => None,
        Enablement::Enable => Some(format!("enable unit {unit}")),
        Enablement::Renew => Some(format!("enable unit {unit} anew")),
        Enablement::Release => Some(format!("disable unit {unit}")),
    };
    let if_runs = |when: &When| match when {
        When::Always => "",
        When::IfRunning => " if it runs",
    };
    let job = match &change.job {
        UnitJob::None | UnitJob::Members(OnChange::None, _) => None,
        UnitJob::DaemonReload => Some(format!("daemon-reload applies unit {unit}")),
        UnitJob::Start => Some(format!("start unit {unit}")),
        UnitJob::Restart(when) => Some(format!("restart unit {unit}{}", if_runs(when))),
        UnitJob::Reload(when) => Some(format!("reload unit {unit}{}", if_runs(when))),
        UnitJob::ReloadOrRestart(when) => Some(format!("reload or restart unit {unit}{}", if_runs(when))),
        UnitJob::PullIn(When::Always) => Some(format!("start what unit {unit} pulls in")),
        UnitJob::PullIn(When::IfRunning) => Some(format!("start what unit {unit} pulls in, if it runs")),
        UnitJob::Stop => Some(format!("stop unit {unit}")),
        UnitJob::Members(OnChange::Restart, members) => Some(members_line("restart", unit, members)),
        UnitJob::Members(OnChange::Reload, members) => Some(members_line("reload", unit, members)),
        UnitJob::Members(OnChange::ReloadOrRestart, members) => Some(members_line("reload or restart", unit, members)),
    };
    // A unit is stopped before it is disabled, and enabled before it is started.
    let mut lines: Vec<String> = [enablement, job].into_iter().flatten().collect();
    if change.job == UnitJob::Stop {
        lines.reverse();
    }
    lines
}

/// The line for the units that this unit starts or groups.
fn members_line(verb: &str, unit: &UnitName, members: &BTreeSet<UnitName>) -> String {
    let does = match UnitType::of(unit) {
        UnitType::Target => "groups",
        _ => "starts",
    };
    let names: Vec<&str> = members.iter().map(UnitName::as_str).collect();
    let names = if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) };
    format!("{verb} what unit {unit} {does}, if it runs{names}")
}

fn pattern_line(change: &PatternChange) -> Option<String> {
    let pattern = &change.pattern;
    Some(match change.job {
        PatternJob::None => return None,
        PatternJob::Reload => format!("reload running units of {pattern}"),
        PatternJob::ReloadOrRestart => format!("reload or restart running units of {pattern}"),
        PatternJob::Restart => format!("restart running units of {pattern}"),
        PatternJob::Leave => format!("leave running units of {pattern} alone: they change when they are restarted"),
        PatternJob::Stop => format!("stop running units of {pattern}"),
    })
}

/// A duration in words: `12 s`, `3 min`, `5 h`, `2 days`.
pub fn ago(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use deptool_agent::shared::{
        name::UnitName,
        path::{ExternalPath, TreePath},
        plan::AppChange,
    };

    use super::*;

    #[test]
    fn a_plan_reads_as_in_the_manual() {
        let app = AppName::parse(b"nsd").unwrap();
        let file = |path: &str| TreePath::parse(path.as_bytes()).unwrap();
        let unit = UnitName::parse(b"nsd.service").unwrap();
        let plan_ = HostPlan {
            apps: vec![AppChange {
                app: app.clone(),
                change: Change::Update,
                files: vec![(file("zones/example.org.zone"), Change::Update), (file("new\u{202e}"), Change::Add)],
            }],
            external: vec![ExternalChange {
                path: ExternalPath::parse("/etc/nsd/nsd.conf").unwrap(),
                change: Change::Add,
                class: Class::Link,
                app: app.clone(),
                file: file("nsd.conf"),
            }],
            units: vec![UnitChange {
                unit,
                enablement: Enablement::Release,
                job: UnitJob::Stop,
                apps: BTreeSet::from([app]),
            }],
            patterns: Vec::new(),
            unobserved: BTreeSet::new(),
            reloads: BTreeSet::from([None]),
        };
        let host = HostName::parse(b"ns1.example.org").unwrap();
        assert_eq!(
            plan(&host, &plan_, &Safeguards::default()),
            "ns1.example.org\n    update nsd\n        ~ zones/example.org.zone\n        + new\\u{202e}\n        \
             link /etc/nsd/nsd.conf -> nsd.conf\n        stop unit nsd.service\n        disable unit nsd.service\n"
        );
    }
}
