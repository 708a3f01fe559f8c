//! `git deptool plan --format=markdown`: a plan as a comment on a merge request.

use deptool_agent::shared::{name::HostName, outcome::Goal, text::printable_lines};

use super::{CliError, diff, log};
use crate::{
    fleet::remote::Remote,
    plan::{ClusterPlan, HostChange},
    ui::render::{
        cluster::{Detail, body, names, tally},
        plural,
    },
};

/// In characters. GitHub takes comments of up to 65,536.
const LONGEST: usize = 60_000;
/// So much is shown of the changed lines of one directory.
const LONGEST_DIFF: usize = 20_000;

/// How much a comment says of each host, from most to least.
const DETAILS: [Say; 3] = [Say::Lines, Say::Plan, Say::Tally];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Say {
    /// The plan, and the changed lines.
    Lines,
    Plan,
    Tally,
}

/// Hosts whose directories change alike.
struct Group<'a> {
    hosts: Vec<&'a HostName>,
    change: &'a HostChange,
    /// What `git diff` has for the first of them.
    lines: String,
}

/// The plan for people who review the commit. Text of the repository is in code blocks only: it can't mention anybody,
/// close anything or show an image.
pub(super) fn comment(remote: &Remote, plan: &ClusterPlan, course: &str, notes: &[String]) -> Result<String, CliError> {
    let groups = grouped(remote, plan)?;
    let (head, tail) = (heading(remote, plan), ending(plan, course, notes));
    let mut out = String::new();
    for say in DETAILS {
        let middle: String = groups.iter().map(|group| group.text(say)).collect();
        let left_out = match say {
            Say::Lines => "",
            Say::Plan | Say::Tally => "The plan is too long for a comment: this is not all of it.\n\n",
        };
        out = format!("{head}{left_out}{middle}{tail}");
        if out.len() <= LONGEST {
            break;
        }
    }
    Ok(out)
}

fn grouped<'a>(remote: &Remote, plan: &'a ClusterPlan) -> Result<Vec<Group<'a>>, CliError> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for (host, change) in plan.affected() {
        if let Some(alike) = groups.iter_mut().find(|group| group.change.trees == change.trees) {
            alike.hosts.push(&host.host);
            continue;
        }
        let lines = match plan.goal {
            Goal::Commit(new) => printable_lines(&diff::of_host(remote, change, new, &host.host)?),
            Goal::Nothing => String::new(),
        };
        groups.push(Group { hosts: vec![&host.host], change, lines });
    }
    Ok(groups)
}

fn heading(remote: &Remote, plan: &ClusterPlan) -> String {
    let what = match plan.goal {
        Goal::Commit(commit) => {
            let subject = log::subject(remote, commit).map(|subject| format!(" ({})", code(&subject)));
            format!("Deploying {}{}", code(&commit.short()), subject.unwrap_or_default())
        }
        Goal::Nothing => "Removing everything".into(),
    };
    let count = match plan.affected().count() {
        0 => "nothing changes".into(),
        1 => "1 host changes".into(),
        count => format!("{count} hosts change"),
    };
    format!("### {what}, cluster {}: {count}\n\n", code(&plan.cluster.to_string()))
}

impl Group<'_> {
    fn text(&self, say: Say) -> String {
        let (hosts, tally) = (names(&self.hosts, Detail::Readable), tally(&self.change.plan));
        if say == Say::Tally {
            return format!("- **{hosts}**: {tally}\n");
        }
        let body = body(&self.change.plan, &self.change.safeguards, Detail::Readable);
        let lines = match (say, self.hosts.as_slice()) {
            (Say::Lines, [first, ..]) if !self.lines.is_empty() => {
                "\n".to_owned()
                    + &details(
                        &format!("Changed lines of <code>{first}</code>"),
                        &block("diff", &shortened(&self.lines)),
                    )
            }
            _ => String::new(),
        };
        details(&format!("<b>{hosts}</b>: {tally}"), &(block("text", &body) + &lines)) + "\n"
    }
}

fn ending(plan: &ClusterPlan, course: &str, notes: &[String]) -> String {
    let refused = plan.refused().map(|(host, refusal)| format!("{}: {}\n", host.host, refusal.words()));
    let refused: String = refused.collect();
    let mut out = String::new();
    if !refused.is_empty() {
        let count = plural(plan.refused().count(), "host");
        out += &format!("**The deployment would fail on {count}:**\n\n{}\n", block("text", &refused));
    }
    let more: String = course.to_owned() + &notes.iter().map(|note| format!("note: {note}\n")).collect::<String>();
    if !more.is_empty() {
        out += &format!("{}\n", block("text", &more));
    }
    if plan.affected().next().is_some() {
        out += &format!("To deploy exactly this: `git deptool deploy --digest={}`\n", plan.content_digest());
    }
    out
}

fn details(summary: &str, content: &str) -> String {
    format!("<details><summary>{summary}</summary>\n\n{content}\n</details>\n")
}

/// A code block, with a fence that is not in the text.
fn block(language: &str, text: &str) -> String {
    let fence = "`".repeat(backticks(text).max(2) + 1);
    let end = if text.ends_with('\n') { "" } else { "\n" };
    format!("{fence}{language}\n{text}{end}{fence}\n")
}

/// A code span, which may contain backticks.
fn code(text: &str) -> String {
    let fence = "`".repeat(backticks(text) + 1);
    let space = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{space}{text}{space}{fence}")
}

/// The length of the longest run of backticks.
fn backticks(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

/// As many whole lines as are shown.
fn shortened(text: &str) -> String {
    let mut left = LONGEST_DIFF;
    let fits = |line: &&str| {
        left = left.saturating_sub(line.len());
        left > 0
    };
    let shown: String = text.split_inclusive('\n').take_while(fits).collect();
    match text[shown.len()..].lines().count() {
        0 => shown,
        left => format!("{shown}... {} left out\n", plural(left, "line")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_can_not_leave_its_code_block() {
        assert_eq!(block("text", "a\n```\n# b"), "````text\na\n```\n# b\n````\n");
        assert_eq!(block("diff", "a\n"), "```diff\na\n```\n");
        assert_eq!(code("fix `x` and ``y``"), "``` fix `x` and ``y`` ```");
        assert_eq!(code("@all"), "`@all`");
    }

    #[test]
    fn a_long_diff_is_cut_between_lines() {
        let line = "+".repeat(99) + "\n";
        let text = line.repeat(1000);
        let shown = shortened(&text);
        assert!(shown.ends_with("+\n... 801 lines left out\n") && shown.len() < LONGEST_DIFF + 50, "{}", shown.len());
        assert_eq!(shortened(&line), line);
    }
}
