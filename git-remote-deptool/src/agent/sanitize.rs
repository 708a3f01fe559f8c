//! Makes messages from hosts safe. Every message passes through here before any other code uses it.
//!
//! A host may be under an attacker's control. Its texts can't control the terminal or flood it, and arithmetic on its
//! times can't overflow. Names and ids were validated when they were parsed.

use deptool_agent::shared::{
    outcome::{Attempt, AttemptResult, Deployed, Drift, Edit, Holder, Mended, Outcome, Rollback, Subject},
    text::{printable, printable_lines},
    wire::{Candidate, Entry, Hello, Response},
};

/// The longest line that is shown, in bytes.
const LINE: usize = 1000;
/// The longest text of several lines, in bytes. The agent's own limit for the output of a check or a unit is lower.
const TEXT: usize = 16 * 1024;
/// Show at most this many items of a list.
const LINES: usize = 100;

/// The same message with safe texts.
pub fn safe(response: Response) -> Response {
    match response {
        Response::Hello(greeting) => Response::Hello(Box::new(hello(*greeting))),
        Response::Note(text) => Response::Note(lines(&text)),
        Response::WaitsFor(what) => Response::WaitsFor(line(&what)),
        Response::Ended(ended) => Response::Ended(Box::new(outcome(*ended))),
        Response::Attempts(attempts) => Response::Attempts(attempts.into_iter().map(attempt).collect()),
        Response::Drift(found) => Response::Drift(found.into_iter().map(drift).collect()),
        Response::Entry { path, entry } => Response::Entry {
            path,
            entry: match entry {
                Entry::File { mode, owner, group, size } => Entry::File {
                    mode,
                    owner: owner.map(|name| line(&name)),
                    group: group.map(|name| line(&name)),
                    size,
                },
                Entry::Link { target } => Entry::Link { target: line(&target) },
                Entry::Refused { why } => Entry::Refused { why: line(&why) },
            },
        },
        Response::Candidates { packages, list } => {
            let list = list.into_iter().map(|one| Candidate { modified: time(one.modified), ..one });
            Response::Candidates { packages, list: list.collect() }
        }
        Response::Error(why) => Response::Error(line(&why)),
        Response::NotRunning(ended) => Response::NotRunning(ended.map(|last| Box::new(attempt(*last)))),
        Response::NeedFull
        | Response::Came { after: _ }
        | Response::Progress(_)
        | Response::Prepared
        | Response::Attached
        | Response::AwaitsConfirmation { seconds: _ }
        | Response::Kept
        | Response::Healthy
        | Response::Data(_)
        | Response::UnitNow(_)
        | Response::End
        | Response::Blob { size: _ }
        | Response::Pong
        | Response::Heartbeat => response,
    }
}

fn hello(hello: Hello) -> Hello {
    let Hello { instance, recipient, deployed: runs, last_attempt, notes, failures, busy, is_roots_login } = hello;
    Hello {
        instance: line(&instance),
        recipient: recipient.map(|recipient| line(&recipient)),
        deployed: runs.map(deployed),
        last_attempt: last_attempt.map(attempt),
        notes: few_lines(&notes),
        failures: few_lines(&failures),
        busy: busy.map(holder),
        is_roots_login,
    }
}

fn deployed(deployed: Deployed) -> Deployed {
    Deployed { by: line(&deployed.by), when: time(deployed.when), ..deployed }
}

fn holder(holder: Holder) -> Holder {
    Holder { by: line(&holder.by), since: time(holder.since), ..holder }
}

fn attempt(attempt: Attempt) -> Attempt {
    let result = match attempt.result {
        AttemptResult::RolledBack { why, errors } => {
            AttemptResult::RolledBack { why: line(&why), errors: few_lines(&errors) }
        }
        result @ (AttemptResult::Done | AttemptResult::Interrupted) => result,
    };
    let mended = attempt
        .mended
        .into_iter()
        .map(|mended| Mended { what: line(&mended.what), kept: mended.kept.map(|kept| line(&kept)) });
    Attempt { when: time(attempt.when), by: line(&attempt.by), result, mended: mended.collect(), ..attempt }
}

fn outcome(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Done { mut also_restarted, mut also_stopped, drift: found } => {
            also_restarted.truncate(LINES);
            also_stopped.truncate(LINES);
            Outcome::Done { also_restarted, also_stopped, drift: found.into_iter().map(drift).collect() }
        }
        Outcome::Stale { actual } => Outcome::Stale { actual: actual.map(deployed) },
        Outcome::Busy(who) => Outcome::Busy(holder(who)),
        Outcome::Refused { why, details, in_the_way } => Outcome::Refused {
            why: line(&why),
            details: lines(&details),
            in_the_way: in_the_way.into_iter().take(LINES).map(drift).collect(),
        },
        Outcome::Cancelled => Outcome::Cancelled,
        Outcome::RolledBack(Rollback { why, details, rollback_errors }) => Outcome::RolledBack(Rollback {
            why: line(&why),
            details: lines(&details),
            rollback_errors: few_lines(&rollback_errors),
        }),
    }
}

fn drift(drift: Drift) -> Drift {
    let subject = match drift.subject {
        Subject::Path(path) => Subject::Path(line(&path)),
        subject @ Subject::Unit(_) => subject,
    };
    let edit = drift.edit.map(|edit| Edit { deployed: line(&edit.deployed), now: lines(&edit.now) });
    Drift { subject, what: line(&drift.what), edit }
}

/// A time in seconds since 1970, limited so that subtracting it from any other does not overflow.
fn time(seconds: i64) -> i64 {
    seconds.clamp(0, i64::MAX / 2)
}

fn line(text: &str) -> String {
    cut(printable(text.as_bytes()), LINE)
}

fn few_lines(texts: &[String]) -> Vec<String> {
    texts.iter().take(LINES).map(|text| line(text)).collect()
}

fn lines(text: &str) -> String {
    cut(printable_lines(text.as_bytes()), TEXT)
}

/// The first `most` bytes of `text`.
fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_a_host_drives_the_terminal_or_fills_it() {
        let evil = "\x1b[2J\r\u{202e}".repeat(3_000);
        let failure = Rollback { why: evil.clone(), details: evil.clone(), rollback_errors: vec![evil.clone(); 1000] };
        let holder = Holder {
            by: evil.clone(),
            phase: deptool_agent::shared::outcome::Phase::Settling,
            since: i64::MIN,
            id: None,
        };
        let hello = Hello {
            instance: evil.clone(),
            recipient: Some(evil.clone()),
            deployed: None,
            last_attempt: None,
            notes: vec![evil.clone(); 1000],
            failures: vec![evil.clone(); 1000],
            busy: Some(holder.clone()),
            is_roots_login: true,
        };
        let edit = Some(Edit { deployed: evil.clone(), now: evil.clone() });
        let drift = Drift { subject: Subject::Path(evil.clone()), what: evil.clone(), edit };
        for response in [
            Response::Note(evil.clone()),
            Response::Error(evil.clone()),
            Response::Ended(Box::new(Outcome::RolledBack(failure))),
            Response::Ended(Box::new(Outcome::Refused {
                why: evil.clone(),
                details: evil.clone(),
                in_the_way: Vec::new(),
            })),
            Response::Ended(Box::new(Outcome::Busy(holder))),
            Response::Hello(Box::new(hello)),
            Response::Drift(vec![drift]),
        ] {
            let shown = format!("{:#?}", safe(response)).replace('\n', "");
            assert!(shown.len() < 300_000 && !shown.chars().any(|c| c.is_control() || c == '\u{202e}'), "{shown}");
            assert!(!shown.contains("\\u{1b}"), "{shown}");
        }
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(line("zürich"), "zürich");
        for length in LINE - 2..LINE + 2 {
            let text = line(&("x".repeat(length) + "ü!"));
            assert!(text.ends_with('…') && text.len() <= LINE + '…'.len_utf8(), "{text}");
        }
    }

    #[test]
    fn any_time_can_be_calculated_with() {
        for seconds in [i64::MIN, -1, 0, 7, i64::MAX] {
            assert!(deptool_agent::shared::time::now().checked_sub(time(seconds)).is_some());
        }
        assert_eq!(time(7), 7);
    }
}
