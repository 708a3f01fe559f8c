//! The program that is started for ssh: a path, or the user's command line.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::Read,
    os::unix::ffi::OsStrExt,
    path::Path,
};

use super::{Environment, shell};
use crate::agent::transport::user_config::unquoted;

/// What a binary begins with: ELF, and Mach-O for one and for several processors.
const BINARIES: [[u8; 4]; 3] = [*b"\x7fELF", [0xcf, 0xfa, 0xed, 0xfe], [0xca, 0xfe, 0xba, 0xbe]];
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

/// The program to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// What its name says about its options.
    pub variant: Option<Variant>,
    /// The words that start it, to which arguments can be appended.
    pub words: Vec<OsString>,
    /// Whether it is OpenSSH itself. A script or a shell in its place may do anything.
    pub is_openssh: bool,
}

impl Program {
    /// A program's name or path.
    pub fn file(name: &OsStr, environment: &Environment) -> Program {
        let words = without_shell(&[name.to_owned()], environment);
        Program::of(name, words, "exec \"$0\" \"$@\"".into())
    }

    /// The user's command line, as Git runs it: with the arguments appended.
    pub fn line(line: &OsStr, environment: &Environment) -> Program {
        let words = line.to_str().and_then(|line| shell::words(line, environment));
        let words = words.and_then(|words| without_shell(&words, environment));
        let mut script = line.to_owned();
        script.push(" \"$@\"");
        Program::of(&first_word(line), words, script)
    }

    fn of(name: &OsStr, words: Option<Vec<OsString>>, script: OsString) -> Program {
        let words = words.unwrap_or_else(|| vec![SHELL.into(), "-c".into(), script, name.into()]);
        let is_ssh = by_name(&words[0]) == Some(Variant::OpenSsh);
        let variant = by_name(name).or(is_ssh.then_some(Variant::OpenSsh));
        Program { variant, is_openssh: is_ssh && is_binary(&words[0]), words }
    }

    /// Its arguments. For a shell, what look like those in its script.
    pub fn arguments(&self) -> Vec<&OsStr> {
        if by_name(&self.words[0]).is_some() {
            return self.words[1..].iter().map(OsString::as_os_str).collect();
        }
        let words = self.words.iter().flat_map(|word| word.as_bytes().split(u8::is_ascii_whitespace));
        words.map(|word| OsStr::from_bytes(unquoted(word))).collect()
    }
}

/// The words that start a known program, also if a script only adds some. A shell also runs what is no program, such as a script
/// without `#!`.
fn without_shell(words: &[OsString], environment: &Environment) -> Option<Vec<OsString>> {
    let (program, arguments) = words.split_first()?;
    // Some shells know this directory, and others do not.
    if environment.get("PATH").is_some_and(|path| std::env::split_paths(path).any(|path| path.starts_with("~"))) {
        return None;
    }
    let file = find(program, environment)?;
    let mut all = match shell::words_of_script(Path::new(&file), environment) {
        Some(mut words) => {
            *words.first_mut()? = find(words.first()?, environment)?;
            words
        }
        None => vec![file],
    };
    by_name(&all[0])?;
    all.extend_from_slice(arguments);
    Some(all)
}

fn is_binary(file: &OsStr) -> bool {
    let mut beginning = [0; 4];
    File::open(file).and_then(|mut file| file.read_exact(&mut beginning)).is_ok() && BINARIES.contains(&beginning)
}

/// The path of a program.
pub fn find(name: impl AsRef<OsStr>, environment: &Environment) -> Option<OsString> {
    let here = std::env::current_dir().unwrap_or_default();
    Some(which::which_in(name, environment.get("PATH"), here).ok()?.into())
}

/// The program of a simple command line. For another, usually a string that matches no program.
fn first_word(line: &OsStr) -> OsString {
    let word = line.as_bytes().trim_ascii_start().split(u8::is_ascii_whitespace).next().unwrap_or_default();
    OsStr::from_bytes(unquoted(word)).to_owned()
}

fn by_name(program: &OsStr) -> Option<Variant> {
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
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_shell_stays_only_where_the_users_line_needs_one() {
        let environment = Environment::from_iter([("PATH", "/usr/bin:/bin"), ("HOME", "/home/me")]);
        let line = |line: &str| Program::line(line.as_ref(), &environment).words;
        for script in ["X=y ssh", "ssh; true", "ssh $(x)", "my-ssh", "command ssh", "ssh 2>log"] {
            assert_eq!(line(script)[2], *format!("{script} \"$@\""));
        }
        let file = Program::file("/a b/my-ssh".as_ref(), &environment);
        assert_eq!(file.words, ["/bin/sh", "-c", "exec \"$0\" \"$@\"", "/a b/my-ssh"]);
        let plain = line(" ssh  -F '/a b/config' -i ~/id");
        let with_tilde = Environment::from_iter([("PATH", "~/bin:/usr/bin:/bin")]);
        assert_eq!(Program::line("ssh".as_ref(), &with_tilde).words[0], "/bin/sh");
        let scripted = Program::line("X=y ssh -F '/a'".as_ref(), &environment);
        assert!(scripted.arguments().contains(&"/a".as_ref()));
        assert!(plain[0].as_bytes().ends_with(b"/ssh") && plain[1..] == ["-F", "/a b/config", "-i", "/home/me/id"]);
    }

    #[test]
    fn a_script_that_only_adds_options_is_ssh_with_these_options() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let environment =
            Environment::from_iter([("PATH", format!("{path}:/usr/bin:/bin")), ("CONFIG", "/a b".into())]);
        let write = |name: &str, text: &str| {
            let file = dir.path().join(name);
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        };
        write("my-ssh", "#!/bin/sh\nexec /usr/bin/ssh -F \"$CONFIG\" \"$@\"\n");
        let program = Program::line("my-ssh -v".as_ref(), &environment);
        assert!(program.variant == Some(Variant::OpenSsh) && program.is_openssh);
        assert_eq!(program.words, ["/usr/bin/ssh", "-F", "/a b", "-v"]);
        assert_eq!(Program::file("my-ssh".as_ref(), &environment).words, ["/usr/bin/ssh", "-F", "/a b"]);

        write("my-ssh", "#!/bin/sh\necho >>log; exec /usr/bin/ssh \"$@\"\n");
        let program = Program::file("my-ssh".as_ref(), &environment);
        assert!(program.variant.is_none() && !program.is_openssh);
        write("my-ssh", "#!/bin/sh\nexec cat \"$@\"\n");
        assert_eq!(Program::file("my-ssh".as_ref(), &environment).words[0], "/bin/sh");
        write("ssh", "exec /usr/bin/ssh \"$@\"\n");
        assert!(!Program::file("ssh".as_ref(), &environment).is_openssh, "a script without #!");
        write("ssh", "#!/bin/sh\nHOME=/x exec /usr/bin/ssh \"$@\"\n");
        let program = Program::file("ssh".as_ref(), &environment);
        assert!(program.words == [dir.path().join("ssh")] && !program.is_openssh);
    }
}
