//! Settings in the user's ssh configuration that would prevent a session from running a command.
//!
//! `RemoteCommand` and `PermitLocalCommand` are always overridden. The three options here are newer (OpenSSH 8.7), and
//! an older ssh would reject them. So each is overridden only if the configuration has it.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use sha2::{Digest, Sha256};

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

/// The ssh configuration for all hosts, as far as it can be read here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserConfig {
    /// Its text, without comments.
    pub text: String,
    /// The files that it is in.
    pub files: BTreeSet<PathBuf>,
    /// Whether what ssh does for a host depends on nothing but this text.
    pub is_complete: bool,
    /// The options that override settings in it.
    pub overrides: Vec<&'static str>,
    /// Whether `~` is the same directory for ssh as for us.
    is_home_of_ssh: bool,
    digest: OnceLock<[u8; 32]>,
}

impl UserConfig {
    /// The configuration that ssh uses with these arguments.
    pub fn read(environment: &Environment, arguments: &[&OsStr]) -> UserConfig {
        let home = environment.get("HOME").map(PathBuf::from).unwrap_or_default();
        let own = home.join(".ssh");
        let mut config = UserConfig { is_complete: home.is_absolute(), ..UserConfig::default() };
        config.is_home_of_ssh = is_home_of_ssh(&home);
        match file_option(arguments) {
            Some(file) => config.add(Path::new(file), &home, &own, DEPTH),
            None => {
                config.is_complete &= config.is_home_of_ssh;
                config.add(&own.join("config"), &home, &own, DEPTH);
                config.add(Path::new("/etc/ssh/ssh_config"), &home, Path::new("/etc/ssh"), DEPTH);
            }
        }
        let text = config.text.to_ascii_lowercase();
        let is_mentioned = |(word, _): &&(&str, &str)| text.contains(word);
        config.overrides = OVERRIDES.iter().filter(is_mentioned).map(|(_, option)| *option).collect();
        config
    }

    /// A digest of the text. It is made once for all hosts: for many, the text is long.
    pub fn digest(&self) -> &[u8; 32] {
        self.digest.get_or_init(|| Sha256::digest(&self.text).into())
    }

    /// Append the text of a file and of those that it includes. Unreadable files are skipped.
    fn add(&mut self, file: &Path, home: &Path, directory: &Path, depth: usize) {
        let content = match fs::metadata(file) {
            Ok(meta) if depth > 0 && meta.is_file() && meta.len() <= LONGEST => fs::read(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Ok(_) | Err(_) => Err(io::ErrorKind::Unsupported.into()),
        };
        let Some(content) = content.ok().and_then(|bytes| String::from_utf8(bytes).ok()) else {
            self.is_complete = false;
            return;
        };
        self.files.insert(file.to_owned());
        for line in content.lines() {
            let line = line.trim();
            let mut words = line.split(|c: char| c.is_ascii_whitespace() || c == '=').filter(|word| !word.is_empty());
            let keyword = words.next().unwrap_or_default().to_ascii_lowercase();
            if keyword == "include" {
                words.for_each(|pattern| self.include(pattern, home, directory, depth - 1));
            } else if !line.starts_with('#') {
                // These may run programs, and ask the network or the DNS.
                self.is_complete &= keyword != "match" && !keyword.starts_with("canonical");
                self.text.push_str(line);
                self.text.push('\n');
            }
        }
    }

    /// Append the files that an `Include` may refer to. For a pattern, these are all files of its directory.
    fn include(&mut self, pattern: &str, home: &Path, directory: &Path, depth: usize) {
        const WILD: [char; 3] = ['*', '?', '['];
        let pattern_in_home = pattern.strip_prefix("~/");
        let path = match pattern_in_home {
            Some(below) => home.join(below),
            None => directory.join(pattern),
        };
        let (parent, _) = pattern.rsplit_once('/').unwrap_or_default();
        if pattern.contains(['"', '\'', '$', '%', '\\'])
            || parent.contains(WILD)
            || (pattern.starts_with('~') && (pattern_in_home.is_none() || !self.is_home_of_ssh))
        {
            self.is_complete = false;
        }
        if !pattern.contains(WILD) {
            return self.add(&path, home, directory, depth);
        }
        let entries = path.parent().and_then(|parent| fs::read_dir(parent).ok());
        let mut files: Vec<_> = entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        files.sort();
        files.iter().filter(|file| file.is_file()).for_each(|file| self.add(file, home, directory, depth));
    }
}

/// Whether ssh takes this directory for the home directory of its user. It does not ask `$HOME`. A user who is in another database
/// than this file is believed to have set it right.
fn is_home_of_ssh(home: &Path) -> bool {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let uid = rustix::process::getuid().as_raw().to_string();
    let user = users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|user| user.get(2) == Some(&&*uid));
    user.is_none_or(|user| user.get(5).is_some_and(|theirs| Path::new(theirs) == home))
}

/// The file of `ssh -F file`.
fn file_option<'a>(arguments: &[&'a OsStr]) -> Option<&'a OsStr> {
    let at = arguments.iter().position(|word| word.as_bytes().starts_with(b"-F"))?;
    match &arguments[at].as_bytes()[2..] {
        b"" => arguments.get(at + 1).copied(),
        file => Some(OsStr::from_bytes(unquoted(file))),
    }
}

/// A word of a command line that only a shell understands, without the quotes around it.
pub fn unquoted(word: &[u8]) -> &[u8] {
    match word {
        [b'"', inner @ .., b'"'] | [b'\'', inner @ .., b'\''] => inner,
        _ => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overrides(environment: &Environment, arguments: &[&str]) -> Vec<&'static str> {
        let arguments: Vec<_> = arguments.iter().map(OsStr::new).collect();
        UserConfig::read(environment, &arguments).overrides
    }

    #[test]
    fn only_what_a_configuration_has_is_overridden() {
        let home = tempfile::tempdir().unwrap();
        let environment = Environment::from_iter([("HOME", home.path())]);
        let at = |file: &str| home.path().join(".ssh").join(file);
        fs::create_dir_all(at("conf.d")).unwrap();
        fs::write(at("config"), "Host a\n  # SessionType none\nInclude conf.d/*\n").unwrap();
        assert_eq!(overrides(&environment, &[]), Vec::<&str>::new());
        fs::write(at("conf.d/one"), "Host *\n\tStdinNull=yes\n").unwrap();
        assert_eq!(overrides(&environment, &[]), ["StdinNull=no"]);
        fs::write(at("other"), "sessiontype none\n").unwrap();
        let other = at("other").display().to_string();
        assert_eq!(overrides(&environment, &["-v", "-F", &other]), ["SessionType=default"]);
        assert_eq!(overrides(&environment, &[&format!("-F{other}")]), ["SessionType=default"]);
        assert_eq!(overrides(&environment, &[&format!("-F'{other}'")]), ["SessionType=default"]);
    }

    #[test]
    fn a_configuration_that_may_depend_on_more_than_its_text_is_not_complete() {
        let home = tempfile::tempdir().unwrap();
        let environment = Environment::from_iter([("HOME", home.path())]);
        let at = |file: &str| home.path().join(".ssh").join(file);
        fs::create_dir_all(at("conf.d")).unwrap();
        fs::write(at("conf.d/one"), "Host a\n").unwrap();
        let is_complete = |config: &str| {
            fs::write(at("config"), config).unwrap();
            UserConfig::read(&environment, &["-F".as_ref(), at("config").as_os_str()]).is_complete
        };
        for config in ["", "Host b\nInclude conf.d/*\n", "include conf.d/one none\n", "# Match all\n"] {
            assert!(is_complete(config), "{config}");
        }
        for config in [
            "Match exec \"true\"\n",
            "match=all",
            "CanonicalizeHostname yes",
            "Include \"conf.d/one\"",
            "Include ${HOME}/x",
            "Include %d/x",
            "Include ~root/x",
            "Include ~/x",
            "Include */one",
            "Include conf.d",
        ] {
            assert!(!is_complete(config), "{config}");
        }
        assert!(!is_complete(&"#\n".repeat(1 << 19 | 1)), "too long");
        fs::write(at("config"), b"\xff").unwrap();
        assert!(!UserConfig::read(&environment, &[]).is_complete);
        assert!(!UserConfig::read(&Environment::default(), &[]).is_complete, "where is its home?");
    }
}
