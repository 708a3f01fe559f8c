//! The plans of many hosts as readable text: hosts with equal changes are shown once, and long lists are shortened.

use std::{collections::HashMap, sync::Arc};

use deptool_agent::shared::{
    name::HostName,
    plan::{AppChange, HostPlan},
};

use super::{change_word, notes, pattern_line, plan_body, plural, safeguards_body, unit_lines};
use crate::model::safeguards::Safeguards;

/// Up to this many hosts with the same plan are shown one by one.
const FEW: usize = 3;
/// If there are more lines than this, fewer details are shown for each host.
const LINES: usize = 200;
/// Show at most this many names, or ranges of names, above a plan.
const NAMES: usize = 12;

/// How much to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// A readable amount.
    Readable,
    /// Everything.
    Full,
}

/// The plan of one host.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    pub host: &'a HostName,
    pub plan: &'a Arc<HostPlan>,
    pub safeguards: &'a Arc<Safeguards>,
}

/// Hosts with equal changes.
struct Group<'a> {
    hosts: Vec<&'a HostName>,
    plan: &'a HostPlan,
    safeguards: &'a Safeguards,
}

/// The plans of `hosts`, formatted by [`super::plan`], with their notes.
pub fn plans(hosts: &[Shown<'_>], detail: Detail) -> String {
    let groups = grouped(hosts, detail);
    let full = |group: &Group<'_>| {
        format!("{}\n{}", heading(&group.hosts, detail), body(group.plan, group.safeguards, detail))
    };
    let whole: String = groups.iter().map(full).collect();
    if detail == Detail::Full || whole.lines().nth(LINES).is_none() {
        return whole;
    }
    let by_app = |group: &Group<'_>| {
        let apps = group.plan.apps.iter().map(|app| format!("    {}\n", app_in_brief(app, group.plan)));
        format!("{}\n{}", heading(&group.hosts, detail), apps.collect::<String>())
    };
    let mut brief: String = groups.iter().map(by_app).collect();
    if brief.lines().nth(LINES).is_some() {
        brief =
            groups.iter().map(|group| format!("{}: {}\n", heading(&group.hosts, detail), tally(group.plan))).collect();
    }
    brief + "(shortened; --full shows all of it)\n"
}

/// The lines below the hosts' names.
pub fn body(plan: &HostPlan, safeguards: &Safeguards, detail: Detail) -> String {
    let notes = notes(plan).into_iter().map(|note| format!("    ({note})\n")).collect::<String>();
    format!("{}{}{notes}", plan_body(plan, detail), safeguards_body(safeguards))
}

fn grouped<'a>(hosts: &[Shown<'a>], detail: Detail) -> Vec<Group<'a>> {
    let mut alike: HashMap<([u8; 32], &Safeguards), Vec<usize>> = HashMap::new();
    let mut digests: HashMap<*const HostPlan, [u8; 32]> = HashMap::new();
    let digests: Vec<[u8; 32]> =
        hosts.iter().map(|one| *digests.entry(Arc::as_ptr(one.plan)).or_insert_with(|| one.plan.digest().0)).collect();
    for (at, (digest, one)) in digests.iter().zip(hosts).enumerate() {
        alike.entry((*digest, &**one.safeguards)).or_default().push(at);
    }
    let mut groups = Vec::new();
    for (at, &Shown { host, plan, safeguards }) in hosts.iter().enumerate() {
        let members = &alike[&(digests[at], &**safeguards)];
        if detail == Detail::Full || members.len() <= FEW {
            groups.push(Group { hosts: vec![host], plan, safeguards });
        } else if members.first() == Some(&at) {
            groups.push(Group { hosts: members.iter().map(|at| hosts[*at].host).collect(), plan, safeguards });
        }
    }
    groups
}

fn heading(hosts: &[&HostName], detail: Detail) -> String {
    match hosts {
        [only] => only.to_string(),
        _ => format!("{} ({} hosts)", names(hosts, detail), hosts.len()),
    }
}

/// Names in natural order, with ranges of consecutive numbers as `web1 ... web40`.
pub fn names(hosts: &[&HostName], detail: Detail) -> String {
    let mut parts: Vec<Numbered<'_>> = hosts.iter().map(|host| Numbered::of(host.as_str())).collect();
    parts.sort();
    let mut runs: Vec<(&Numbered<'_>, &Numbered<'_>, usize)> = Vec::new();
    for part in &parts {
        match runs.last_mut() {
            Some((_, last, count)) if part.follows(last) => (*last, *count) = (part, *count + 1),
            _ => runs.push((part, part, 1)),
        }
    }
    let mut shown = Vec::new();
    for (first, last, count) in &runs {
        match count {
            1 => shown.push(first.name.to_owned()),
            2 => shown.extend([first.name.to_owned(), last.name.to_owned()]),
            _ => shown.push(format!("{} ... {}", first.name, last.name)),
        }
    }
    if detail == Detail::Readable && shown.len() > NAMES {
        let more = shown.len() - NAMES;
        shown.truncate(NAMES);
        return format!("{}, ... ({more} more)", shown.join(", "));
    }
    shown.join(", ")
}

/// A name, split around the last number of its first label, for natural order.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Numbered<'a> {
    before: &'a str,
    after: &'a str,
    number: u64,
    width: usize,
    name: &'a str,
}

impl<'a> Numbered<'a> {
    fn of(name: &'a str) -> Self {
        let label = name.split('.').next().unwrap_or(name);
        let end = label.rfind(|c: char| c.is_ascii_digit()).map_or(0, |at| at + 1);
        let begin = label[..end].trim_end_matches(|c: char| c.is_ascii_digit()).len();
        match label[begin..end].parse() {
            Ok(number) => {
                // Only numbers with leading zeros have a width.
                let width = if label[begin..end].starts_with('0') { end - begin } else { 0 };
                Numbered { before: &name[..begin], after: &name[end..], width, number, name }
            }
            Err(_) => Numbered { before: name, after: "", width: 0, number: 0, name },
        }
    }

    fn follows(&self, other: &Numbered<'_>) -> bool {
        let is_numbered = self.before != self.name;
        let is_of_kind = |a: &Numbered<'_>, b: &Numbered<'_>| {
            a.before == b.before && a.after == b.after && (a.width == b.width || a.name.len() == b.name.len())
        };
        is_numbered && is_of_kind(self, other) && other.number.checked_add(1) == Some(self.number)
    }
}

/// `update nsd: 12 files, reload unit nsd.service`
fn app_in_brief(change: &AppChange, plan: &HostPlan) -> String {
    let mut parts = vec![plural(change.files.len(), "file")];
    let external = plan.external.iter().filter(|external| external.app == change.app).count();
    if external > 0 {
        parts.push(format!("{} outside", plural(external, "path")));
    }
    for unit in plan.units.iter().filter(|unit| unit.apps.first() == Some(&change.app)) {
        parts.extend(unit_lines(unit));
    }
    let patterns = plan.patterns.iter().filter(|pattern| pattern.apps.contains(&change.app));
    parts.extend(patterns.filter_map(pattern_line));
    format!("{} {}: {}", change_word(change.change), change.app, parts.join(", "))
}

/// `2 apps, 14 files, 1 unit`
pub fn tally(plan: &HostPlan) -> String {
    let files = plan.apps.iter().map(|app| app.files.len()).sum();
    let mut parts = vec![plural(plan.apps.len(), "app"), plural(files, "file")];
    if !plan.external.is_empty() {
        parts.push(format!("{} outside", plural(plan.external.len(), "path")));
    }
    if !plan.units.is_empty() {
        parts.push(plural(plan.units.len(), "unit"));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use deptool_agent::shared::{name::AppName, path::TreePath, plan::Change};

    use super::*;

    fn hosts(names: &[&str]) -> Vec<HostName> {
        names.iter().map(|name| HostName::parse(name.as_bytes()).unwrap()).collect()
    }

    fn shown(all: &[&str]) -> String {
        let hosts = hosts(all);
        names(&hosts.iter().collect::<Vec<_>>(), Detail::Readable)
    }

    fn plan_of(files: usize) -> Arc<HostPlan> {
        let files = (0..files).map(|n| (TreePath::parse(format!("f{n}").as_bytes()).unwrap(), Change::Update));
        let app = AppName::parse(b"web").unwrap();
        let apps = vec![AppChange { app, change: Change::Update, files: files.collect() }];
        Arc::new(HostPlan { apps, ..HostPlan::default() })
    }

    #[test]
    fn consecutive_numbers_are_a_range_and_nothing_else_is() {
        assert_eq!(shown(&["web10", "web9", "web8", "web11"]), "web8 ... web11");
        assert_eq!(shown(&["web1", "web2", "web4"]), "web1, web2, web4");
        assert_eq!(shown(&["web08.a", "web09.a", "web10.a"]), "web08.a ... web10.a");
        assert_eq!(shown(&["web1", "db2", "web3"]), "db2, web1, web3");
        assert_eq!(shown(&["web1.a", "web2.b", "web3.a"]), "web1.a, web3.a, web2.b");
        assert_eq!(shown(&["a", "b", "c"]), "a, b, c");
        let many: Vec<String> = (0..40).map(|n| format!("web{}", n * 2)).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(shown(&many).ends_with("web22, ... (28 more)"), "{}", shown(&many));
    }

    #[test]
    fn hosts_that_change_alike_are_shown_once_when_there_are_many() {
        let names: Vec<String> = (1..=40).map(|n| format!("web{n}")).collect();
        let names = hosts(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let (one, other) = (plan_of(1), plan_of(2));
        let none = Arc::new(Safeguards::default());
        let shown = |(at, host)| Shown { host, plan: if at == 6 { &other } else { &one }, safeguards: &none };
        let all: Vec<_> = names.iter().enumerate().map(shown).collect();
        let text = plans(&all, Detail::Readable);
        let heads: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ')).collect();
        assert_eq!(heads, ["web1 ... web6, web8 ... web40 (39 hosts)", "web7"]);
        assert_eq!(plans(&all, Detail::Full).lines().filter(|line| !line.starts_with(' ')).count(), 40);
        assert_eq!(
            plans(&all[5..7], Detail::Readable),
            "web6\n    update web\n        ~ f0\nweb7\n    update web\n        ~ f0\n        ~ f1\n"
        );
    }

    #[test]
    fn a_plan_that_is_too_long_is_shortened_and_says_so() {
        let names: Vec<String> = (1..=300).map(|n| format!("web{n}")).collect();
        let names = hosts(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let plans_: Vec<Arc<HostPlan>> = (1..=300).map(plan_of).collect();
        let none = Arc::new(Safeguards::default());
        let all: Vec<_> =
            names.iter().zip(&plans_).map(|(host, plan)| Shown { host, plan, safeguards: &none }).collect();
        let brief = plans(&all[..90], Detail::Readable);
        assert!(brief.starts_with("web1\n    update web: 1 file\nweb2\n    update web: 2 files\n"), "{brief}");
        assert!(brief.ends_with("(shortened; --full shows all of it)\n"));
        let tallied = plans(&all, Detail::Readable);
        assert!(tallied.starts_with("web1: 1 app, 1 file\n") && tallied.lines().count() == 301, "{tallied}");
    }
}
