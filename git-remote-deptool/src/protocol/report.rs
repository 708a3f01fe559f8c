//! Formats a report for Git.
//!
//! Git takes some texts for keywords that mean success. A text from a host can't become such a keyword.

use deptool_agent::shared::{id::CommitId, text::printable};

use crate::model::{
    batch::GUARD,
    outcome::{Entry, RefOutcome, RefReport, RefUpdate},
};

/// The longest reason that is passed on, in characters.
const MAX_REASON: usize = 1000;

impl RefReport {
    /// The outcome of all destinations, in one line for people.
    pub fn words(&self) -> String {
        let words = |entry: &Entry| {
            let outcome = match &entry.outcome {
                RefOutcome::NotAttempted => "not attempted".to_owned(),
                RefOutcome::Done { .. } => "done".to_owned(),
                RefOutcome::Unaffected => "not affected".to_owned(),
                RefOutcome::StaleInfo => "stale info".to_owned(),
                RefOutcome::NonFastForward => "non-fast-forward".to_owned(),
                RefOutcome::Rejected(text) => reason(text),
            };
            format!("'{}': {outcome}", printable(&entry.dst))
        };
        self.entries.iter().map(words).collect::<Vec<_>>().join(", ")
    }

    /// The lines for Git, without the final blank line.
    pub fn lines(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for entry in &self.entries {
            entry.write(&mut out);
        }
        out
    }
}

impl Entry {
    fn write(&self, out: &mut Vec<u8>) {
        match &self.outcome {
            RefOutcome::NotAttempted => self.error(out, "not attempted"),
            RefOutcome::Done { old, new, update } => self.done(out, [*old, *new], *update),
            // Git would print nothing, as if the removal had succeeded.
            RefOutcome::Unaffected if self.is_delete && self.dst != GUARD => self.error(out, "not attempted"),
            RefOutcome::Unaffected => self.line(out, b"ok ", "no match"),
            RefOutcome::StaleInfo => self.error(out, "stale info"),
            RefOutcome::NonFastForward => self.error(out, "non-fast forward"),
            RefOutcome::Rejected(text) => self.error(out, &reason(text)),
        }
    }

    fn done(&self, out: &mut Vec<u8>, old_and_new: [Option<CommitId>; 2], update: RefUpdate) {
        out.extend_from_slice(b"ok ");
        out.extend_from_slice(&self.dst);
        out.push(b'\n');
        for (option, id) in ["old-oid", "new-oid"].iter().zip(old_and_new) {
            if let Some(id) = id {
                out.extend_from_slice(format!("option {option} {id}\n").as_bytes());
            }
        }
        match update {
            RefUpdate::FastForward => (),
            RefUpdate::Forced => out.extend_from_slice(b"option forced-update\n"),
        }
    }

    fn error(&self, out: &mut Vec<u8>, text: &str) {
        self.line(out, b"error ", text);
    }

    fn line(&self, out: &mut Vec<u8>, verdict: &[u8], text: &str) {
        out.extend_from_slice(verdict);
        out.extend_from_slice(&self.dst);
        out.push(b' ');
        out.extend_from_slice(text.as_bytes());
        out.push(b'\n');
    }
}

/// Texts with a special meaning in Git's `transport-helper.c`.
const KEYWORDS: [&str; 10] = [
    "no match",
    "up to date",
    "non-fast forward",
    "already exists",
    "fetch first",
    "needs force",
    "stale info",
    "remote ref updated since checkout",
    "forced update",
    "expecting report",
];

/// `text` as one line that Git prints unchanged.
fn reason(text: &str) -> String {
    let lines: Vec<String> =
        text.lines().map(|line| printable(line.trim().as_bytes())).filter(|line| !line.is_empty()).collect();
    let mut line = lines.join("; ");
    if let Some((cut, _)) = line.char_indices().nth(MAX_REASON) {
        line.truncate(cut);
        line.push('…');
    }
    match line.as_str() {
        "" => "failed".to_owned(),
        // Git undoes C-style quoting if the text begins with a quote.
        other if KEYWORDS.contains(&other) || other.starts_with('"') => format!("failed: {other}"),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::batch::{Ancestry, PushBatch, PushCommand, Source};

    const OLD: &str = "0123456789abcdef0123456789abcdef01234567";
    const NEW: &str = "89abcdef0123456789abcdef0123456789abcdef";

    fn batch(refs: &[(&str, Source)]) -> PushBatch {
        let mut batch = PushBatch::default();
        for (dst, src) in refs {
            batch.add(PushCommand { ancestry: Ancestry::Required, src: src.clone(), dst: (*dst).into() }).unwrap();
        }
        batch
    }

    fn lines_for(src: Source, outcome: RefOutcome) -> String {
        let mut report = RefReport::new(&batch(&[("refs/heads/prod", src)]));
        report.set("refs/heads/prod".into(), outcome).unwrap();
        String::from_utf8(report.lines()).unwrap()
    }

    fn lines(outcome: RefOutcome) -> String {
        lines_for(Source::Revision("HEAD".into()), outcome)
    }

    #[test]
    fn what_nobody_reported_is_an_error() {
        let head = || Source::Revision("HEAD".into());
        let report = RefReport::new(&batch(&[("refs/heads/a", head()), ("refs/heads/b", head())]));
        let expected = "error refs/heads/a not attempted\nerror refs/heads/b not attempted\n";
        assert_eq!(String::from_utf8(report.lines()).unwrap(), expected);
    }

    #[test]
    fn success_tells_both_commits_and_force() {
        let (old, new) = (Some(OLD.parse().unwrap()), Some(NEW.parse().unwrap()));
        let forced = RefOutcome::Done { old, new, update: RefUpdate::Forced };
        let expected =
            format!("ok refs/heads/prod\noption old-oid {OLD}\noption new-oid {NEW}\noption forced-update\n");
        assert_eq!(lines(forced), expected);
        let first = RefOutcome::Done { old: None, new, update: RefUpdate::FastForward };
        assert_eq!(lines(first), format!("ok refs/heads/prod\noption new-oid {NEW}\n"));
        let gone = RefOutcome::Done { old, new: None, update: RefUpdate::FastForward };
        assert_eq!(lines_for(Source::Delete, gone), format!("ok refs/heads/prod\noption old-oid {OLD}\n"));
    }

    #[test]
    fn rejections_have_the_texts_that_git_knows() {
        assert_eq!(lines(RefOutcome::StaleInfo), "error refs/heads/prod stale info\n");
        assert_eq!(lines(RefOutcome::NonFastForward), "error refs/heads/prod non-fast forward\n");
        let busy = RefOutcome::Rejected("locked by carol since 12 s".into());
        assert_eq!(lines(busy), "error refs/heads/prod locked by carol since 12 s\n");
    }

    #[test]
    fn an_unaffected_host_is_hidden_but_never_for_a_removal() {
        assert_eq!(lines(RefOutcome::Unaffected), "ok refs/heads/prod no match\n");
        assert_eq!(lines_for(Source::Delete, RefOutcome::Unaffected), "error refs/heads/prod not attempted\n");
    }

    #[test]
    fn no_text_can_spell_success() {
        for text in ["no match", "up to date", " up to date\n", "\"no match\"", "\"up to\\040date\"", ""] {
            let line = lines(RefOutcome::Rejected(text.into()));
            assert!(line.starts_with("error refs/heads/prod failed"), "{line}");
        }
    }

    #[test]
    fn several_lines_become_one() {
        let text = "nginx.service failed\n  exit code 1\n\n\x1b[31m";
        let line = lines(RefOutcome::Rejected(text.into()));
        assert_eq!(line, "error refs/heads/prod nginx.service failed; exit code 1; \\x1b[31m\n");
    }

    #[test]
    fn what_is_not_part_of_the_push_can_not_be_reported() {
        let mut report = RefReport::new(&batch(&[]));
        assert!(report.set("refs/heads/x".into(), RefOutcome::StaleInfo).is_err());
    }

    #[test]
    fn the_rest_is_only_what_nothing_was_said_about() {
        let head = || Source::Revision("HEAD".into());
        let mut report = RefReport::new(&batch(&[("refs/heads/a", head()), ("refs/heads/b", head())]));
        report.set("refs/heads/a".into(), RefOutcome::StaleInfo).unwrap();
        report.set_rest(&RefOutcome::Rejected("killed".into()));
        assert_eq!(report.lines(), b"error refs/heads/a stale info\nerror refs/heads/b killed\n");
    }

    proptest! {
        #[test]
        fn any_text_makes_exactly_one_line(text in any::<String>()) {
            let line = lines(RefOutcome::Rejected(text));
            prop_assert!(line.ends_with('\n'));
            prop_assert!(!line[..line.len() - 1].chars().any(char::is_control), "{line:?}");
            let text = line.strip_prefix("error refs/heads/prod ").unwrap().trim_end();
            prop_assert!(!text.is_empty() && !text.starts_with('"') && !KEYWORDS.contains(&text));
        }
    }
}
