//! Files on a host that no deployment put there, and that keep those of the tree from their places.

use deptool_agent::shared::{id::CommitId, name::HostName, outcome::Drift};

use crate::repo::{
    Repo,
    edits::{self, Compared},
};

/// Show at most this many lines of each file, and of all of them.
const LINES: usize = 40;
const ALL_LINES: usize = 400;

/// What differs, from the host's files to the tree's. Empty if the host sent no content.
pub(super) fn diff(repo: &Repo, host: &HostName, commit: CommitId, files: &[Drift]) -> String {
    if files.iter().all(|file| file.edit.is_none()) {
        return String::new();
    }
    // Without a diff the message still names all files.
    let diff = edits::diff(repo, host, commit, files, Compared::InTheWay).unwrap_or_default();
    let mut lines: Vec<String> = Vec::new();
    for file in split(&diff) {
        lines.extend(file.iter().take(LINES).map(|line| (*line).to_owned()));
        if let Some(more @ 1..) = file.len().checked_sub(LINES) {
            lines.push(format!("({more} more lines)"));
        }
    }
    let more = lines.len().saturating_sub(ALL_LINES);
    lines.truncate(ALL_LINES);
    if more > 0 {
        lines.push(format!("({more} more lines)"));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The lines of each file, without the headers that say nothing to a reader.
fn split(diff: &str) -> Vec<Vec<&str>> {
    let mut files: Vec<Vec<&str>> = Vec::new();
    for line in diff.lines() {
        match line {
            _ if line.starts_with("diff --git ") => files.push(Vec::new()),
            _ if line.starts_with("index ") => {}
            _ => files.last_mut().into_iter().for_each(|file| file.push(line)),
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_is_split_into_its_files() {
        let diff = "diff --git host/a tree/a\nindex 1..2 100644\n--- host/a\n+++ tree/a\n@@ -1 +1 @@\n-x\n+y\n\
                    diff --git host/b tree/b\n--- host/b\n";
        assert_eq!(split(diff), [vec!["--- host/a", "+++ tree/a", "@@ -1 +1 @@", "-x", "+y"], vec!["--- host/b"]]);
        assert!(split("").is_empty());
    }
}
