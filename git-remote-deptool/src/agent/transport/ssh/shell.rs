//! What a shell makes of a command line, or of a script, that only runs a program. Then no shell has to be started, and it is known
//! what is run. Anything else is left to the shell.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::Read,
    iter::Peekable,
    path::Path,
    str::Chars,
};

use deptool_agent::shared::env_request;

use super::Environment;

/// The size limit for a script, in bytes.
const LONGEST: u64 = 4096;
/// What may be in the first line of a script.
const SHELLS: [&str; 7] =
    ["/bin/sh", "/usr/bin/sh", "/bin/dash", "/bin/bash", "/usr/bin/bash", "/usr/bin/env sh", "/usr/bin/env bash"];
/// What makes bash do something else than its input says.
const SETTINGS_OF_BASH: [&str; 4] = ["BASH_ENV", "BASHOPTS", "SHELLOPTS", "BASH_FUNC_exec%%"];
/// Variables that a shell or we set, whatever they are in the environment.
const SET_LATER: [&str; 28] = [
    env_request::VARIABLE,
    "SSH_ASKPASS_REQUIRE",
    "_",
    "COMP_WORDBREAKS",
    "EPOCHREALTIME",
    "EPOCHSECONDS",
    "EUID",
    "GROUPS",
    "HISTCMD",
    "HOSTNAME",
    "HOSTTYPE",
    "IFS",
    "LINENO",
    "MACHTYPE",
    "OLDPWD",
    "OPTERR",
    "OPTIND",
    "OSTYPE",
    "PPID",
    "PS1",
    "PS2",
    "PS4",
    "PWD",
    "RANDOM",
    "SECONDS",
    "SHLVL",
    "SRANDOM",
    "UID",
];

/// The words of a command line. `None` if they depend on more than the environment, or if there is more to do than to run them.
pub fn words(line: &str, environment: &Environment) -> Option<Vec<OsString>> {
    let (mut rest, mut words) = (line.chars().peekable(), Vec::new());
    loop {
        while rest.next_if(is_blank).is_some() {}
        if rest.peek().is_none() {
            break;
        }
        words.push(word(&mut rest, environment)?);
    }
    let program = words.first()?.to_str()?;
    let function = format!("BASH_FUNC_{program}%%");
    let is_other = SETTINGS_OF_BASH.into_iter().chain([&*function]).any(|name| environment.get(name).is_some());
    // The first word may also be an assignment.
    (!is_other && !program.contains('=')).then_some(words)
}

/// The words that a script runs, with its own arguments behind them. `None` if it does anything else.
pub fn words_of_script(file: &Path, environment: &Environment) -> Option<Vec<OsString>> {
    let mut text = String::new();
    let length = File::open(file).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    let mut lines = text.split('\n').map(|line| line.trim_matches([' ', '\t']));
    let shell = lines.next()?.strip_prefix("#!")?.trim_start_matches(' ');
    let mut commands = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (command, None) = (commands.next()?, commands.next()) else { return None };
    if length as u64 == LONGEST || !SHELLS.contains(&shell) || text.contains('\0') {
        return None;
    }
    let command = command.strip_suffix("\"$@\"").filter(|command| command.ends_with([' ', '\t']))?;
    words(command.strip_prefix("exec ").unwrap_or(command), environment)
}

fn word(rest: &mut Peekable<Chars>, environment: &Environment) -> Option<OsString> {
    let mut word = OsString::new();
    if rest.next_if_eq(&'~').is_some() {
        rest.peek().filter(|next| **next == '/')?;
        word.push(environment.get("HOME")?);
    }
    let mut quote = None;
    while let Some(c) = rest.next_if(|c| quote.is_some() || !is_blank(c)) {
        match c {
            '\'' | '"' if quote.is_none() => quote = Some(c),
            _ if quote == Some(c) => quote = None,
            '$' if quote == Some('"') => word.push(variable(rest, environment)?),
            '`' | '\\' if quote != Some('\'') => return None,
            _ if quote.is_some() || c.is_ascii_alphanumeric() || "-./:@_,+=%".contains(c) => word.push(c.to_string()),
            _ => return None,
        }
    }
    quote.is_none().then_some(word)
}

/// The value of a variable, as `$name` or `${name}`.
fn variable<'a>(rest: &mut Peekable<Chars>, environment: &'a Environment) -> Option<&'a OsStr> {
    let is_in_braces = rest.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
        name.push(c);
    }
    if is_in_braces {
        rest.next_if_eq(&'}')?;
    }
    // Arguments of a script are numbers. Git's variables are not passed on.
    let is_other = name.starts_with(|c: char| c.is_ascii_digit()) || name.starts_with("GIT_");
    environment.get(&name).filter(|_| !is_other && !SET_LATER.contains(&name.as_str()))
}

fn is_blank(c: &char) -> bool {
    matches!(c, ' ' | '\t')
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn environment() -> Environment {
        let path = std::env::var_os("PATH").unwrap();
        Environment::from_iter([
            ("HOME", "/home/me".into()),
            ("PATH", path),
            ("A_1", "a  value*".into()),
            ("GIT_X", "x".into()),
            ("1", "one".into()),
        ])
    }

    /// What a shell makes of it.
    fn of_shell(shell: &str, words: &str) -> Option<Vec<OsString>> {
        let mut command = Command::new(shell);
        command.env_clear().envs(environment().iter()).args(["-c", &format!("printf '%s\\0' {words}")]);
        let output = command.output().ok().filter(|output| output.status.success())?;
        let text = String::from_utf8(output.stdout).unwrap();
        Some(text.split_terminator('\0').map(OsString::from).collect())
    }

    #[test]
    fn a_line_that_only_runs_a_program_has_the_words_that_a_shell_gives_it() {
        let words = |line: &str| words(line, &environment());
        for line in [
            "ssh -F /a/config",
            " ssh\t-i  ~/.ssh/id -o 'X=a b' ",
            "ssh -o \"Proxy Command=nc $A_1 %h\"'$x'y \"\"",
            "'ssh' \"${A_1}b\"\"$A_1/c\" x='~'",
        ] {
            for shell in ["dash", "bash"] {
                assert_eq!(words(line), of_shell(shell, line), "{shell}: {line}");
            }
        }
        for line in [
            "ssh; true",
            "ssh $A_1",
            "ssh ~me/x",
            "ssh ~",
            "ssh *",
            "ssh a\\ b",
            "ssh \"$(x)\"",
            "ssh \"`x`\"",
            "ssh 'x",
            "ssh \"${A_1:-x}\"",
            "ssh \"$unset\"",
            "ssh \"$PWD\"",
            "ssh \"$GIT_X\"",
            "ssh \"$1\"",
            "ssh \"$\"",
            "ssh #x",
            "ssh {a,b}",
            "ssh\nls",
            "ssh >x",
            "ssh &",
            "ssh x=~/y",
            "X=y ssh",
        ] {
            assert_eq!(words(line), None, "{line}");
        }
        for (name, value) in [("BASH_ENV", "/x"), ("BASH_FUNC_ssh%%", "() { true; }"), ("SHELLOPTS", "noexec")] {
            let environment = Environment::from_iter([(name, value)]);
            assert_eq!(super::words("ssh", &environment), None, "{name}");
        }
        let environment = Environment::from_iter([("BASH_FUNC_which%%", "() { true; }")]);
        assert!(super::words("ssh", &environment).is_some(), "it has nothing to do with ssh");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn no_line_has_other_words_than_a_shell_gives_it(line in "[-a=:%~/ '\"$A_1{}\\\\*#!]{0,12}") {
            if let Some(words) = words(&format!("x {line}"), &environment()) {
                for shell in ["dash", "bash"] {
                    let theirs = of_shell(shell, &format!("x {line}"));
                    prop_assert_eq!(Some(&words), theirs.as_ref(), "{}", shell);
                }
            }
        }
    }

    #[test]
    fn only_a_script_that_does_nothing_else_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ssh");
        let of_script = |text: &str| {
            std::fs::write(&file, text).unwrap();
            words_of_script(&file, &environment()).map(|words| words.join(" ".as_ref()))
        };
        for text in
            ["#!/bin/sh\nexec ssh -F \"$HOME/x\" \"$@\"\n", "#! /usr/bin/env bash\n# Why.\n\n  ssh -F ~/x \"$@\""]
        {
            assert_eq!(of_script(text), Some("ssh -F /home/me/x".into()), "{text}");
        }
        for text in [
            "",
            "exec ssh \"$@\"\n",
            "#!/bin/sh\n",
            "#!/bin/sh -x\nexec ssh \"$@\"\n",
            "#!/bin/sh\r\nexec ssh \"$@\"\r\n",
            "#!/usr/bin/python3\nexec ssh \"$@\"\n",
            "#!/bin/sh\nexec ssh 'a\0b' \"$@\"\n",
            "#!/bin/sh\nHOME=/x\nexec ssh \"$@\"\n",
            "#!/bin/sh\nexec ssh \"$@\"\nexit 0\n",
            "#!/bin/sh\nexec ssh \\\n\"$@\"\n",
            "#!/bin/sh\nexec ssh x\"$@\"\n",
            "#!/bin/sh\nexec ssh $@\n",
            "#!/bin/sh\nexec ssh \"$@\" -v\n",
        ] {
            assert_eq!(of_script(text), None, "{text}");
        }
        assert_eq!(of_script(&format!("#!/bin/sh\nexec ssh \"$@\"\n{}", "#\n".repeat(4096))), None, "too long");
    }
}
