//! The trees in doc/examples, on hosts: what their READMEs say is true.

mod containers;
mod monitoring;
mod web_and_dns;

use std::path::PathBuf;

use deptool_tests::build::workspace;
use deptool_tests::lab::{Host, HostSpec, Lab, start_or_skip};
use deptool_tests::process::Run;
use deptool_tests::sandbox::{Repo, Sandbox};
use deptool_tests::terminal::Terminal;

use crate::state::State;

/// New hosts, and an operator who has not begun yet.
struct Example {
    lab: Lab,
    sandbox: Sandbox,
    readme: String,
}

impl Example {
    /// An example in doc/examples. None without a lab.
    fn new(name: &str, hosts: &[HostSpec]) -> Option<Example> {
        let lab = start_or_skip(hosts)?;
        let sandbox = Sandbox::for_lab(&lab);
        let readme = std::fs::read_to_string(workspace().join("doc/examples").join(name).join("README.md")).unwrap();
        Some(Example { lab, sandbox, readme })
    }

    fn host(&self, name: &str) -> &Host {
        self.lab.host(name)
    }

    /// What is on the hosts before the first deployment.
    fn before(&self) -> Vec<State> {
        // nginx wants it, and it stays.
        let before = |host: &Host| {
            host.sh("systemctl start network-online.target");
            State::of(host)
        };
        self.lab.hosts().iter().map(before).collect()
    }

    /// The first block of commands in a section of the README, as it is there.
    #[track_caller]
    fn commands(&self, section: &str) -> String {
        let (_, text) = self.readme.split_once(&format!("\n## {section}\n")).expect("the README has the section");
        let lines =
            text.lines().skip_while(|line| !line.starts_with("    ")).map_while(|line| line.strip_prefix("    "));
        lines.map(|line| format!("{line}\n")).collect()
    }

    /// Follows the section *Try it* in a clone of this repository, and agrees to the plan.
    #[track_caller]
    fn try_it(&self) {
        let script = self.commands("Try it");
        let shell = self.sandbox.command("sh").args(["-ec", &script]).dir(workspace());
        let mut terminal = Terminal::start(shell).unwrap();
        terminal.wait_for("[y/N/d]").unwrap();
        terminal.type_in("y\n").unwrap();
        terminal.end().unwrap().ok().prints("Deployed to");
    }

    fn dir(&self) -> PathBuf {
        self.sandbox.home().join("cluster")
    }

    fn operator(&self) -> Repo<'_> {
        self.sandbox.repo_at(self.dir())
    }

    /// Replaces a text that a file has.
    #[track_caller]
    fn edit(&self, path: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.dir().join(path)).unwrap();
        assert!(text.contains(from), "'{path}' has no '{from}'");
        self.operator().write(path, text.replace(from, to));
    }

    /// Commits the work tree and pushes it to all hosts that it affects.
    fn push(&self, what: &str) -> Run {
        self.operator().commit(what);
        self.operator().git(&["push", "cluster"])
    }

    /// The same to no avail: the commit and the change are taken back, and the hosts are as before.
    #[track_caller]
    fn push_fails(&self, what: &str) -> Run {
        let before: Vec<State> = self.lab.hosts().iter().map(State::of).collect();
        let failed = self.push(what).fails();
        self.assert_same(&before, what);
        self.operator().git(&["reset", "--quiet", "--hard", "HEAD^"]).ok();
        failed
    }

    /// Takes everything from all hosts, which are then as before the first deployment. `clean_up` is what the README
    /// does on them after that.
    #[track_caller]
    fn give_back(&self, before: Vec<State>, clean_up: &str) {
        for (host, before) in self.lab.hosts().iter().zip(before) {
            self.operator().git(&["push", &host.name, ":prod"]).ok();
            host.sh(clean_up);
            let after = State::of(host);
            State { deptool: after.deptool, ..before }.assert_same(host, "given back");
            assert_eq!(host.sh("systemctl list-units --failed --all --no-legend --plain"), "");
        }
    }

    #[track_caller]
    fn assert_same(&self, before: &[State], when: &str) {
        for (host, before) in self.lab.hosts().iter().zip(before) {
            before.assert_same(host, when);
        }
    }
}

/// Changes whenever a unit is started anew.
fn run_of(host: &Host, unit: &str) -> String {
    host.unit_property(unit, "InvocationID")
}
