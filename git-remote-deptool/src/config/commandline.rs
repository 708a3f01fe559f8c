//! The command line of the `git push` that started this process.
//!
//! Git sends push options after it has asked for the list of refs, and skips refs that are listed with the commit to be
//! pushed. So `-o check` and `-o repair` would arrive too late. On Linux, they are read from Git's command line. If
//! they are not found there, hosts are not asked.

use std::fs;

/// How many ancestors to search: the helper, the process that starts helpers, and Git.
const GENERATIONS: usize = 3;

/// Whether the surrounding `git push` has an option that requires to ask the hosts.
pub fn asks_hosts() -> bool {
    let mut process = "self".to_owned();
    for _ in 0..GENERATIONS {
        let Some(parent) = parent_of(&process) else { return false };
        let line = fs::read(format!("/proc/{parent}/cmdline")).unwrap_or_default();
        if asks(&line) {
            return true;
        }
        process = parent;
    }
    false
}

fn parent_of(process: &str) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may contain any character.
    stat.rsplit(')').next()?.split_whitespace().nth(1).map(str::to_owned)
}

/// Whether `line`, arguments that end with zero bytes, is a push with such an option.
fn asks(line: &[u8]) -> bool {
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let is_asking = |option: &[u8]| option == b"check" || option == b"repair";
    let joined = |word: &[u8]| {
        let option = word.strip_prefix(b"--push-option=").or_else(|| word.strip_prefix(b"-o"));
        option.is_some_and(is_asking)
    };
    let apart = |pair: &[&[u8]]| (pair[0] == b"-o" || pair[0] == b"--push-option") && is_asking(pair[1]);
    words.contains(&&b"push"[..]) && (words.iter().any(|word| joined(word)) || words.windows(2).any(apart))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_asks_hosts_is_found_however_it_is_written() {
        for line in [
            "git\0push\0-o\0repair\0web1\0prod\0",
            "git\0push\0-orepair\0",
            "/usr/bin/git\0-c\0a=b\0push\0--push-option=check\0web1\0",
            "git\0push\0--push-option\0check\0",
        ] {
            assert!(asks(line.as_bytes()), "{line}");
        }
        for line in ["git\0push\0web1\0", "git\0push\0-o\0waves=1\0repair\0", "git\0fetch\0-o\0repair\0", ""] {
            assert!(!asks(line.as_bytes()), "{line}");
        }
    }
}
