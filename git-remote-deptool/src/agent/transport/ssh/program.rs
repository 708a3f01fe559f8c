//! The program that is started for ssh: a path, or the user's command line.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use super::Environment;

/// The shell for command lines.
const SHELL: &str = "/bin/sh";

/// The command line syntax of a program, as in Git's `ssh.variant`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    OpenSsh,
    /// Only `[user@]host command`.
    Simple,
    Plink,
    TortoisePlink,
}

/// The program to start: a path, or the user's command line for the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    File(OsString),
    Line(OsString),
}

impl Program {
    /// The words that start it, to which arguments can be appended: a shell, or the program itself if the shell would have
    /// nothing to do.
    pub fn words(&self, environment: &Environment) -> Vec<OsString> {
        if let Some(words) = self.without_shell(environment) {
            return words;
        }
        let mut script = OsString::new();
        match self {
            Program::File(_) => script.push("exec \"$0\" \"$@\""),
            // As Git runs it: with the arguments appended.
            Program::Line(line) => {
                if is_simple(line) {
                    script.push("exec ");
                }
                script.push(line);
                script.push(" \"$@\"");
            }
        }
        let (Program::File(name) | Program::Line(name)) = self;
        vec![SHELL.into(), "-c".into(), script, name.clone()]
    }

    /// The words of a known program. A shell also runs what is no program, such as a script without `#!`.
    fn without_shell(&self, environment: &Environment) -> Option<Vec<OsString>> {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b" -./:@_,+=".contains(byte);
        let words: Vec<&OsStr> = match self {
            Program::File(name) => vec![name],
            Program::Line(line) if line.as_bytes().iter().all(is_plain) => {
                let words = line.as_bytes().split(|byte| *byte == b' ');
                words.filter(|word| !word.is_empty()).map(OsStr::from_bytes).collect()
            }
            Program::Line(_) => return None,
        };
        let (program, arguments) = words.split_first()?;
        by_name(program)?;
        let mut all = vec![find(program, environment)?];
        all.extend(arguments.iter().map(|word| (*word).to_owned()));
        Some(all)
    }
}

/// Whether `line` is just a known program with arguments, so that the shell can `exec` it.
fn is_simple(line: &OsStr) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b" -./:@_,+=%~\"'".contains(byte);
    by_name(&first_word(line)).is_some() && line.as_bytes().iter().all(is_plain)
}

/// The path of a program.
pub fn find(name: impl AsRef<OsStr>, environment: &Environment) -> Option<OsString> {
    let here = std::env::current_dir().unwrap_or_default();
    Some(which::which_in(name, environment.get("PATH"), here).ok()?.into())
}

/// The program of a simple command line. For any other, a string that matches no program.
pub fn first_word(line: &OsStr) -> OsString {
    let word = line.as_bytes().trim_ascii_start().split(u8::is_ascii_whitespace).next().unwrap_or_default();
    let unquoted = match word {
        [b'"', inner @ .., b'"'] | [b'\'', inner @ .., b'\''] => inner,
        _ => word,
    };
    OsStr::from_bytes(unquoted).to_owned()
}

pub fn by_name(program: &OsStr) -> Option<Variant> {
    let name = Path::new(program).file_name()?.to_str()?.to_ascii_lowercase();
    match name.strip_suffix(".exe").unwrap_or(&name) {
        "ssh" => Some(Variant::OpenSsh),
        "plink" => Some(Variant::Plink),
        "tortoiseplink" => Some(Variant::TortoisePlink),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_stays_only_where_the_users_line_needs_one() {
        let environment = Environment::from_iter([("PATH", "/usr/bin:/bin")]);
        let words = |program: Program| program.words(&environment);
        let script = |line: &str| words(Program::Line(line.into()))[2].clone();
        assert_eq!(script("ssh -i 'a key' -o X=y"), "exec ssh -i 'a key' -o X=y \"$@\"");
        for line in ["X=y ssh", "ssh; true", "ssh $(x)", "my-ssh", "command ssh", "ssh 2>log"] {
            assert_eq!(script(line), format!("{line} \"$@\"").as_str());
        }
        let file = words(Program::File("/a b/my-ssh".into()));
        assert_eq!(file, ["/bin/sh", "-c", "exec \"$0\" \"$@\"", "/a b/my-ssh"]);
        let plain = words(Program::Line(" ssh  -F /a/config".into()));
        assert!(plain[0].as_bytes().ends_with(b"/ssh") && plain[1..] == ["-F", "/a/config"], "{plain:?}");
    }
}
