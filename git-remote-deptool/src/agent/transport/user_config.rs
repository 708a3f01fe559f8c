//! Settings in the user's ssh configuration that would prevent a session from running a command.
//!
//! `RemoteCommand` and `PermitLocalCommand` are always overridden. The three options here are newer (OpenSSH 8.7), and
//! an older ssh would reject them. So each is overridden only if the configuration has it.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use super::Environment;

/// A setting in the configuration, and the option that overrides it.
const OVERRIDES: [(&str, &str); 3] = [
    ("stdinnull", "StdinNull=no"),
    ("sessiontype", "SessionType=default"),
    ("forkafterauthentication", "ForkAfterAuthentication=no"),
];
/// The depth limit for includes, as in ssh.
const DEPTH: usize = 16;
/// The size limit for a configuration file, in bytes.
const LONGEST: u64 = 1 << 20;

/// The text of the configuration that `command` (or else ssh) uses, for any host.
pub fn text(environment: &Environment, command: Option<&OsStr>) -> String {
    let home = environment.get("HOME").map(PathBuf::from).unwrap_or_default();
    let own = home.join(".ssh");
    let mut text = String::new();
    match command.and_then(OsStr::to_str).and_then(file_option) {
        Some(file) => read(Path::new(&file), &home, &own, DEPTH, &mut text),
        None => {
            read(&own.join("config"), &home, &own, DEPTH, &mut text);
            read(Path::new("/etc/ssh/ssh_config"), &home, Path::new("/etc/ssh"), DEPTH, &mut text);
        }
    }
    text
}

/// The options that override settings in this configuration.
pub fn overrides(text: &str) -> Vec<&'static str> {
    let text = text.to_ascii_lowercase();
    let is_mentioned = |(word, _): &&(&str, &str)| text.contains(word);
    OVERRIDES.iter().filter(is_mentioned).map(|(_, option)| *option).collect()
}

/// The file of `ssh -F file`.
fn file_option(line: &str) -> Option<String> {
    let mut words = line.split_ascii_whitespace();
    let file = loop {
        match words.next()?.strip_prefix("-F") {
            Some("") => break words.next()?,
            Some(file) => break file,
            None => {}
        }
    };
    Some(file.trim_matches(['"', '\'']).to_owned())
}

/// Append the text of a file and of those that it includes, without comments. Unreadable files are skipped.
fn read(file: &Path, home: &Path, directory: &Path, depth: usize, text: &mut String) {
    if depth == 0 || fs::metadata(file).map_or(true, |meta| !meta.is_file() || meta.len() > LONGEST) {
        return;
    }
    let content = fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    for line in content.lines() {
        let line = line.trim();
        let mut words = line.split(|c: char| c.is_ascii_whitespace() || c == '=').filter(|word| !word.is_empty());
        if words.next().is_some_and(|word| word.eq_ignore_ascii_case("include")) {
            for pattern in words {
                included(pattern.trim_matches('"'), home, directory)
                    .iter()
                    .for_each(|file| read(file, home, directory, depth - 1, text));
            }
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
}

/// The files that an `Include` may refer to. For a pattern, these are all files of its directory.
fn included(pattern: &str, home: &Path, directory: &Path) -> Vec<PathBuf> {
    let path = match pattern.strip_prefix("~/") {
        Some(below) => home.join(below),
        None => directory.join(pattern),
    };
    if !pattern.contains(['*', '?', '[']) {
        return vec![path];
    }
    let entries = path.parent().and_then(|parent| fs::read_dir(parent).ok());
    entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_configuration_has_is_overridden() {
        let home = tempfile::tempdir().unwrap();
        let environment = Environment::from_iter([("HOME", home.path())]);
        let at = |file: &str| home.path().join(".ssh").join(file);
        fs::create_dir_all(at("conf.d")).unwrap();
        fs::write(at("config"), "Host a\n  # SessionType none\nInclude conf.d/*\n").unwrap();
        assert_eq!(overrides(&text(&environment, None)), Vec::<&str>::new());
        fs::write(at("conf.d/one"), "Host *\n\tStdinNull=yes\n").unwrap();
        assert_eq!(overrides(&text(&environment, None)), ["StdinNull=no"]);
        fs::write(at("other"), "sessiontype none\n").unwrap();
        let line = format!("ssh -F '{}' -v", at("other").display());
        assert_eq!(overrides(&text(&environment, Some(OsStr::new(&line)))), ["SessionType=default"]);
    }
}
