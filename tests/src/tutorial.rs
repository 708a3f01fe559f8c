//! The tutorial, deptool(7), step by step: what is typed there, and what it is said to show.
//!
//! A test types all of it, so the tutorial can't promise what does not happen.

use std::collections::VecDeque;

use crate::process::Run;
use crate::sandbox::Sandbox;
use crate::terminal::Terminal;

const PAGE: &str = include_str!("../../man/deptool.7");

/// A command, and the lines below it.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    command: String,
    shown: Vec<String>,
}

/// Somebody who follows the tutorial in a shell.
pub struct Reader<'a> {
    sandbox: &'a Sandbox,
    directory: std::path::PathBuf,
}

impl Reader<'_> {
    /// One who begins in an empty directory of the sandbox.
    pub fn new(sandbox: &Sandbox) -> Reader<'_> {
        // The tutorial makes it.
        let _ = std::fs::remove_dir(sandbox.dir().join("roots"));
        Reader { sandbox, directory: sandbox.home() }
    }

    /// The repository, after the reader has made it.
    pub fn repo(&self) -> crate::sandbox::Repo<'_> {
        self.sandbox.repo_at(&self.directory)
    }

    /// Follows the tutorial as far as a directory stands in for a host, with a colleague who deploys at the right time.
    #[track_caller]
    pub fn follow_on_a_local_root(&mut self) {
        for section in ["A TREE", "A HOST", "A PLAN", "A DEPLOYMENT", "A CHANGE", "THE SYSTEM'S FILES"] {
            self.follow(section);
        }
        let ben = self.sandbox.clone_of(&self.repo(), "ben");
        ben.git(&["config", "user.name", "Ben Operator"]).ok();
        ben.git(&["config", "user.email", "ben@example.org"]).ok();
        ben.write("web1/web/web.conf", "listen 127.0.0.1:8081\n");
        ben.commit("Listen on another port");
        ben.add_root("web1");
        ben.git(&["fetch", "web1"]).ok();
        ben.git(&["push", "web1", "prod"]).ok();
        self.follow("WORKING TOGETHER");
        self.follow("GOING BACK");
    }

    /// Types the commands of a section, and checks that each shows what the tutorial says.
    #[track_caller]
    pub fn follow(&mut self, section: &str) {
        self.follow_watched(section, &mut |_| {});
    }

    /// The same; `watch` is given each command before it is typed.
    #[track_caller]
    pub fn follow_watched(&mut self, section: &str, watch: &mut dyn FnMut(&str)) {
        for step in steps(PAGE, section) {
            watch(&step.command);
            let run = self.run(&step);
            let shown = (run.stdout() + &run.stderr()).replace(&self.sandbox.dir().display().to_string(), "/tmp");
            let (shown, mut at) = (plain(&shown), 0);
            for line in step.shown.iter().flat_map(|line| line.split("...")).map(plain) {
                let found = shown[at..].find(line.trim());
                at += found.unwrap_or_else(|| panic!("{section}: no '{line}' in the right place in\n{run}"))
                    + line.trim().len();
            }
        }
    }

    /// A question at the end of a line is answered with what follows it in the tutorial.
    #[track_caller]
    fn run(&mut self, step: &Step) -> Run {
        // The next command begins where this one ends.
        let directory = self.sandbox.dir().join("directory");
        let script = format!("{}\nstatus=$?; pwd >{}; exit $status", self.moved(&step.command), directory.display());
        let shell = self.sandbox.command("sh").args(["-c", &script]).dir(&self.directory);
        let shell = shell.env("GIT_EDITOR", "false").env("GIT_PAGER", "cat").env("PAGER", "cat");
        let question = step.shown.iter().filter(|line| line.contains("[y/N")).find_map(|line| line.rsplit_once("] "));
        let run = match question {
            None => shell.run(),
            Some((question, answer)) => Terminal::start(shell).and_then(|mut terminal| {
                terminal.wait_for(question.rsplit_once('[').map_or(question, |(text, _)| text))?;
                terminal.type_in(&format!("{answer}\n"))?;
                terminal.end()
            }),
        };
        let run = run.unwrap_or_else(|error| panic!("{error:#}"));
        let is_to_fail = step.shown.iter().any(|line| line.contains("rejected]"));
        assert_ne!(run.success(), is_to_fail, "{run}");
        self.directory = std::fs::read_to_string(directory).expect("the shell wrote it").trim().into();
        run
    }

    /// The tutorial's directories in /tmp are those of the sandbox.
    fn moved(&self, command: &str) -> String {
        command.replace("/tmp/", &format!("{}/", self.sandbox.dir().display()))
    }
}

/// The commands in a section of a manual page, which may be a subsection.
fn steps(page: &str, section: &str) -> Vec<Step> {
    let is_heading = |line: &str| line.starts_with(".Sh ") || line.starts_with(".Ss ");
    let lines = page.lines().skip_while(|line| !is_heading(line) || line[4..] != *section).skip(1);
    let mut lines: VecDeque<&str> = lines.take_while(|line| !is_heading(line)).collect();
    let (mut steps, mut is_literal): (Vec<Step>, bool) = (Vec::new(), false);
    while let Some(line) = lines.pop_front() {
        match line {
            _ if line.starts_with(".Bd -literal") => is_literal = true,
            ".Ed" => is_literal = false,
            _ if !is_literal => {}
            _ => match unescaped(line).strip_prefix("$ ") {
                Some(command) => {
                    let mut command = command.to_owned();
                    while command.contains("<<END") && !command.ends_with("\nEND") {
                        command += &format!("\n{}", unescaped(lines.pop_front().expect("the text ends")));
                    }
                    steps.push(Step { command, shown: Vec::new() });
                }
                None => steps.last_mut().expect("a block begins with a command").shown.push(unescaped(line)),
            },
        }
    }
    assert!(!steps.is_empty(), "there is no section '{section}' with commands");
    steps
}

fn unescaped(line: &str) -> String {
    line.replace("\\&", "").replace("\\e", "\\").replace("\\(dq", "\"")
}

/// A text without what differs each time, and however its lines are broken: ids and numbers become `#`, white space
/// becomes single spaces, and colours go.
fn plain(text: &str) -> String {
    let (mut plain, mut word, mut is_escape) = (String::new(), String::new(), false);
    let flush = |word: &mut String, plain: &mut String| {
        let is_id = word.len() >= 7 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_number = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        plain.push_str(if is_id || is_number { "#" } else { word });
        word.clear();
    };
    for c in text.chars() {
        match c {
            '\x1b' => is_escape = true,
            _ if is_escape => is_escape = !c.is_ascii_alphabetic(),
            _ if c.is_ascii_alphanumeric() => word.push(c),
            _ => {
                flush(&mut word, &mut plain);
                let is_space = c.is_whitespace();
                if !is_space || !plain.ends_with(' ') {
                    plain.push(if is_space { ' ' } else { c });
                }
            }
        }
    }
    flush(&mut word, &mut plain);
    plain.replace(" min ago", " s ago").replace(" days ago", " s ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_what_they_show_are_found() {
        let page = ".Sh A\n.Bd -literal -offset indent\n$ cat >x <<END\n$ y\nEND\n$ b\nshown\n\\&.x\n.Ed\n.Sh B\n";
        let step = |command: &str, shown: &[&str]| Step {
            command: command.to_owned(),
            shown: shown.iter().map(|line| (*line).to_owned()).collect(),
        };
        assert_eq!(steps(page, "A"), [step("cat >x <<END\n$ y\nEND", &[]), step("b", &["shown", ".x"])]);
    }

    #[test]
    fn what_differs_each_time_is_made_equal() {
        assert_eq!(plain("  48f0fa8..e02319d  prod\n\x1b[1min\x1b[m 0.12 s"), " #..# prod in #.# s");
        assert_ne!(plain("prod"), plain("pros"));
    }
}
