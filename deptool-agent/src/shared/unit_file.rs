//! Parses the parts of unit files and quadlets that the agent itself needs. Pure.
//!
//! Syntax: systemd.syntax(7).

use crate::shared::{
    name::UnitName,
    path::{STATE_DIR, is_within},
};

/// One `Key=value` line, with the lines that continue it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Assignment {
    pub section: String,
    pub key: String,
    pub value: String,
}

/// All assignments of a unit file, in order. Invalid lines are skipped; systemd reports them.
pub fn assignments(text: &str) -> Vec<Assignment> {
    let (mut section, mut found) = (String::new(), Vec::new());
    let mut lines = text.lines();
    while let Some(first) = lines.next() {
        let mut line = first.trim_start().to_owned();
        if line.is_empty() || is_comment(&line) {
            continue;
        }
        while let Some(begun) = line.strip_suffix('\\') {
            // Comments in between are skipped.
            let Some(next) = lines.find(|line| !is_comment(line.trim_start())) else { break };
            line = format!("{begun} {next}");
        }
        if let Some(name) = line.trim_end().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((key, value)) = line.split_once('=') {
            let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
            found.push(Assignment { section: section.clone(), key, value });
        }
    }
    found
}

fn is_comment(line: &str) -> bool {
    line.starts_with(['#', ';'])
}

/// The content of a unit file, drop-in or quadlet that a plan depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// All assignments, in order.
    pub lines: Vec<Assignment>,
    /// Whether it mounts a path below `/var/lib/deptool` for itself. Such a path is resolved when the unit starts, so
    /// the unit sees the old generation until it is restarted.
    pub binds_ours: bool,
    /// Whether it sets Type=notify-reload: the service reports the result of a reload.
    pub tells_of_reload: bool,
}

/// Settings that give a unit a root of its own, or lay other trees over it.
pub const ROOTS: [&str; 4] = ["RootDirectory", "RootImage", "ExtensionDirectories", "ExtensionImages"];
/// Settings that mount something for a unit. Their words are `source:destination`.
pub const MOUNTS: [&str; 3] = ["BindPaths", "BindReadOnlyPaths", "MountImages"];
/// The same in quadlets.
const CONTAINERS: [&str; 3] = ["Volume", "Mount", "Rootfs"];

impl Facts {
    pub fn of(text: &str) -> Facts {
        let all = assignments(text);
        let mounts = |key: &str| [&ROOTS[..], &MOUNTS, &CONTAINERS].iter().any(|keys| keys.contains(&key));
        Facts {
            binds_ours: all.iter().any(|one| mounts(&one.key) && one.value.contains(STATE_DIR)),
            tells_of_reload: all.iter().any(|one| one.key == "Type" && one.value == "notify-reload"),
            lines: all,
        }
    }

    /// Whether the unit may see another file at `path` than the host does.
    pub fn may_hide(&self, path: &str) -> bool {
        self.lines.iter().any(|Assignment { key, value, .. }| {
            let mut destinations =
                value.split_whitespace().map(|word| word.split(':').nth(1).unwrap_or(word.trim_start_matches('-')));
            let is = |keys: &[&str]| keys.contains(&key.as_str());
            is(&ROOTS) && !value.is_empty() || is(&MOUNTS) && destinations.any(|at| is_within(path, at))
        })
    }

    /// The unit name that a quadlet chooses with `ServiceName=`, or why that name is invalid.
    pub fn service_name(&self) -> Option<Result<UnitName, String>> {
        const QUADLETS: [&str; 8] = ["Container", "Pod", "Kube", "Network", "Volume", "Image", "Build", "Artifact"];
        let name = QUADLETS.iter().find_map(|section| self.value(section, "ServiceName"))?;
        Some(UnitName::parse(format!("{name}.service").as_bytes()).map_err(|error| error.to_string()))
    }

    /// The words of all lines `key=` in `section`. An empty value clears the ones before it.
    pub fn words<'a>(&'a self, section: &str, key: &str) -> Vec<&'a str> {
        let mut words = Vec::new();
        for line in self.lines.iter().filter(|line| line.section == section && line.key == key) {
            if line.value.is_empty() {
                words.clear();
            }
            words.extend(line.value.split_whitespace());
        }
        words
    }

    /// The last value of `key=` in `section`.
    pub fn value(&self, section: &str, key: &str) -> Option<&str> {
        let last = self.lines.iter().rev().find(|line| line.section == section && line.key == key)?;
        (!last.value.is_empty()).then_some(last.value.as_str())
    }
}

/// Whether a value of a boolean setting means yes.
pub fn is_true(value: &str) -> bool {
    ["1", "yes", "y", "true", "t", "on"].iter().any(|word| word.eq_ignore_ascii_case(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_read_as_systemd_does() {
        let text = "# comment\n[Unit]\nDescription=a = b\n\n [Service] \nExecStart = /bin/sh \\\n# between\n  -c x \\\n\
                    [no section]\n;c\nno assignment\nUser=\nEnd=x\\";
        let read: Vec<_> = assignments(text).into_iter().map(|one| (one.section, one.key, one.value)).collect();
        let three = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(
            read,
            [
                three("Unit", "Description", "a = b"),
                three("Service", "ExecStart", "/bin/sh    -c x  [no section]"),
                three("Service", "User", ""),
                three("Service", "End", "x\\"),
            ]
        );
    }

    #[test]
    fn binds_of_ours_are_found_in_units_and_quadlets() {
        for text in [
            "[Service]\nBindReadOnlyPaths=/x:/y \\\n /var/lib/deptool/apps/a/current:/etc/a\n",
            "[Container]\nVolume=/var/lib/deptool/apps/a/current/conf:/conf:ro\n",
            "[Service]\nRootImage=/var/lib/deptool/apps/a/current/a.raw\n",
        ] {
            assert!(Facts::of(text).binds_ours, "{text}");
        }
        for text in ["[Service]\nBindPaths=/srv\nExecStart=/var/lib/deptool/x\n", "#Volume=/var/lib/deptool/x:/x\n", ""]
        {
            assert!(!Facts::of(text).binds_ours, "{text}");
        }
        assert!(Facts::of("[Service]\nType=notify-reload\n").tells_of_reload);
    }

    #[test]
    fn only_units_that_mount_something_may_have_other_programs_than_the_host() {
        let hides = |line: &str| Facts::of(&format!("[Service]\n{line}\n")).may_hide("/opt/web/bin/web");
        for line in [
            "RootImage=/x.raw",
            "RootDirectory=/x",
            "ExtensionImages=/x.raw",
            "BindReadOnlyPaths=/x /y:/opt/web:norbind",
            "BindPaths=-/opt",
        ] {
            assert!(hides(line), "{line}");
        }
        for line in ["RootImage=", "BindPaths=/opt/web:/srv -/opt/we", "ExecStart=/opt/web"] {
            assert!(!hides(line), "{line}");
        }
    }
}
