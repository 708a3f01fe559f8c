//! Parses Git's lines. See gitremote-helpers(7).

use deptool_agent::shared::{id::CommitId, text::printable};
use gix::bstr::{BString, ByteSlice};

use crate::model::batch::{Ancestry, PushCommand, Source};

/// The longest line that is read, in bytes. The longest lines from Git are quoted push options.
pub const MAX_LINE: usize = 256 * 1024;

/// A line from Git.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `capabilities`: asks for the helper's capabilities.
    Capabilities,
    /// `option <name> <value>`. Git 2.39 sends some options without a value.
    Option {
        /// The name.
        name: BString,
        /// The value as it is in the line. [`Options`](crate::model::options::Options) knows which ones are quoted.
        value: BString,
    },
    /// `list` or `list for-push`.
    List(Purpose),
    /// `push [+]<src>:<dst>`: one line of a batch.
    Push(PushCommand),
    /// `fetch <id> <name>`: one line of a batch.
    Fetch,
    /// A blank line: the end of a batch, or of the dialogue.
    Blank,
}

/// The purpose of a list of refs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To fetch, clone or `ls-remote`.
    Fetch,
    /// To push.
    Push,
}

/// A line that Git does not send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is no such command.
    #[error("unknown command '{0}'")]
    Unknown(String),
    /// Its arguments can't be parsed.
    #[error("malformed '{command}' command: {why}")]
    Malformed {
        /// The command's name.
        command: &'static str,
        /// What is wrong.
        why: &'static str,
    },
}

/// Parse `line`, given without its line feed.
pub fn parse(line: &[u8]) -> Result<Command, CommandError> {
    let (verb, rest) = match line.split_once_str(" ") {
        Some((verb, rest)) => (verb, Some(rest)),
        None => (line, None),
    };
    match (verb, rest) {
        (b"", None) => Ok(Command::Blank),
        (b"capabilities", None) => Ok(Command::Capabilities),
        (b"list", None) => Ok(Command::List(Purpose::Fetch)),
        (b"list", Some(b"for-push")) => Ok(Command::List(Purpose::Push)),
        (b"option", Some(rest)) => option(rest),
        (b"push", Some(rest)) => push(rest).map(Command::Push),
        (b"fetch", Some(rest)) => fetch(rest),
        _ => Err(CommandError::Unknown(shortened(line))),
    }
}

fn option(rest: &[u8]) -> Result<Command, CommandError> {
    let (name, value) = rest.split_once_str(" ").unwrap_or((rest, b""));
    if name.is_empty() {
        return Err(CommandError::Malformed { command: "option", why: "it has no name" });
    }
    Ok(Command::Option { name: name.into(), value: value.into() })
}

/// Git splits a refspec at the last colon, so the source may contain colons (`HEAD:web1:refs/heads/prod`).
fn push(rest: &[u8]) -> Result<PushCommand, CommandError> {
    let malformed = |why| CommandError::Malformed { command: "push", why };
    let (ancestry, spec) = match rest.strip_prefix(b"+") {
        Some(spec) => (Ancestry::Waived, spec),
        None => (Ancestry::Required, rest),
    };
    let (src, dst) = spec.rsplit_once_str(":").ok_or(malformed("there is no ':'"))?;
    let src = match src {
        b"" => Source::Delete,
        text => Source::Revision(text.into()),
    };
    // The answer repeats the name in a line of its own, followed by a space.
    gix::validate::reference::name(dst.as_bstr()).map_err(|_| malformed("the destination is not a valid ref name"))?;
    Ok(PushCommand { ancestry, src, dst: dst.into() })
}

fn fetch(rest: &[u8]) -> Result<Command, CommandError> {
    let malformed = |why| CommandError::Malformed { command: "fetch", why };
    let (id, name) = rest.split_once_str(" ").ok_or(malformed("it needs an id and a name"))?;
    if !id.to_str().is_ok_and(|hex| hex.parse::<CommitId>().is_ok()) {
        return Err(malformed("the id is not a SHA-1"));
    }
    if name.is_empty() {
        return Err(malformed("the name is empty"));
    }
    Ok(Command::Fetch)
}

/// The beginning of a line, for an error message.
fn shortened(line: &[u8]) -> String {
    printable(&line[..line.len().min(80)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn push_of(line: &str) -> PushCommand {
        match parse(line.as_bytes()) {
            Ok(Command::Push(push)) => push,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_push_is_split_at_its_last_colon() {
        let push = push_of("push HEAD:web1:refs/heads/prod");
        assert_eq!(push.src, Source::Revision("HEAD:web1".into()));
        assert_eq!(push.dst, "refs/heads/prod");
        assert_eq!(push.ancestry, Ancestry::Required);
    }

    #[test]
    fn a_plus_waives_ancestry_and_no_source_deletes() {
        assert_eq!(push_of("push +a:refs/heads/b").ancestry, Ancestry::Waived);
        assert_eq!(push_of("push :refs/heads/b").src, Source::Delete);
        assert_eq!(push_of("push +:refs/heads/b").src, Source::Delete);
    }

    #[test]
    fn a_destination_that_could_break_the_answer_is_refused() {
        for dst in ["", "refs/heads/a b", "refs/heads/a\tb", "refs/heads/../b", "refs/heads/a\0", "refs/heads/b.lock"] {
            assert!(parse(format!("push HEAD:{dst}").as_bytes()).is_err(), "{dst:?}");
        }
    }

    #[test]
    fn an_option_may_lack_its_value() {
        let without = Command::Option { name: "object-format".into(), value: "".into() };
        assert_eq!(parse(b"option object-format"), Ok(without));
        let spaces = Command::Option { name: "push-option".into(), value: "a b".into() };
        assert_eq!(parse(b"option push-option a b"), Ok(spaces));
        assert!(parse(b"option ").is_err());
    }

    #[test]
    fn lists_fetches_and_blanks_are_known() {
        assert_eq!(parse(b"list"), Ok(Command::List(Purpose::Fetch)));
        assert_eq!(parse(b"list for-push"), Ok(Command::List(Purpose::Push)));
        assert_eq!(parse(b"capabilities"), Ok(Command::Capabilities));
        assert_eq!(parse(b""), Ok(Command::Blank));
        let hex = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(parse(format!("fetch {hex} refs/heads/prod").as_bytes()), Ok(Command::Fetch));
        for bad in ["list for-pull", "export", " ", "push", "fetch 01 refs/heads/x", "push a", "capabilities "] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_error_shows_no_control_character() {
        let error = parse(b"\x1b[2J").unwrap_err().to_string();
        assert!(!error.chars().any(char::is_control), "{error:?}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(line in any::<Vec<u8>>()) {
            let _ = parse(&line);
        }

        #[test]
        fn nothing_after_a_verb_makes_it_panic(verb in "(push|fetch|option|list) ?\\+?", rest in any::<Vec<u8>>()) {
            let mut line = verb.into_bytes();
            line.extend(rest);
            if let Ok(Command::Push(push)) = parse(&line) {
                prop_assert!(!push.dst.iter().any(|b| b.is_ascii_whitespace() || b.is_ascii_control()));
            }
        }
    }
}
