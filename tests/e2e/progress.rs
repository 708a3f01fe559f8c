//! The progress of a push, on a terminal and without one.

use deptool_tests::process::{Cmd, Run};
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::{seen::shows, stand_in::with_stand_in};

/// A repository with one app for each of these hosts, and remotes for them and for all.
fn operator<'a>(sandbox: &'a Sandbox, hosts: &[&str]) -> Repo<'a> {
    let operator = sandbox.repo("operator");
    for host in hosts {
        operator.write(format!("{host}/web/index.html"), "hello\n");
        operator.add_root(host);
    }
    operator.commit("One");
    operator.add_remote("cluster", "deptool::@all");
    operator
}

/// Runs a command line on a terminal of 80 by 24 characters, in the directory and environment of `command`. stdout is
/// everything that was written to the terminal.
#[track_caller]
fn on_terminal(command: Cmd, line: &str, term: &str) -> Run {
    let command = command.into_inner();
    let mut script = Cmd::new("script").args(["-qefc", line, "/dev/null"]).env_clear();
    script = script.dir(command.get_current_dir().expect("a directory"));
    for (name, value) in command.get_envs() {
        script = script.env(name, value.unwrap_or_default());
    }
    script.env("TERM", term).env("SHELL", "/bin/sh").run().unwrap()
}

#[test]
fn without_a_terminal_there_is_a_line_for_each_host_and_nothing_moves() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox, &["web1", "web2"]);
    let run = operator.git(&["push", "cluster", "prod"]).ok();
    assert!(run.stderr().contains("web1: done\n") && run.stderr().contains("web2: done\n"), "{run}");
    assert!(!run.stderr().contains('\x1b'), "{run}");
    operator.write("web1/web/index.html", "again\n");
    operator.commit("Two");
    shows(&sandbox, &operator.git(&["push", "-q", "cluster", "prod"]).ok(), &[], "");
}

#[test]
fn on_a_terminal_the_hosts_are_drawn_in_place_until_all_have_ended() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox, &["web1", "web2"]);
    // Slow hosts, because fast ones leave nothing to draw.
    let slow = with_stand_in(&sandbox, &operator, &[], "sleep 0.5; exec \"$DEPTOOL_AGENT\"");
    let run = on_terminal(slow, "git push cluster prod", "xterm").ok();
    let text = run.stdout();
    assert!(text.contains("  web1: connecting\r\n  web2: connecting\r\n"), "{text:?}");
    assert!(text.contains("\x1b[2A\r\x1b[J"), "drawn in place: {text:?}");
    let (_, last) = text.rsplit_once("\x1b[J").unwrap();
    assert!(last.starts_with("web1: done\r\nweb2: done\r\nTo deptool::@all\r\n"), "{text:?}");
    assert!(last.trim_end().ends_with(" s") && last.contains("deployed to 2 hosts in "), "{text:?}");
}

#[test]
fn on_a_dumb_terminal_and_with_no_progress_lines_are_all_there_is() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox, &["web1", "web2"]);
    let run = on_terminal(operator.command(&[]), "git push cluster prod", "dumb").ok();
    assert!(run.stdout().contains("web2: done\r\n") && !run.stdout().contains('\x1b'), "{run}");
    operator.write("web1/web/index.html", "again\n");
    operator.write("web2/web/index.html", "again\n");
    operator.commit("Two");
    let run = on_terminal(operator.command(&[]), "git push --no-progress cluster prod", "xterm").ok();
    assert!(run.stdout().contains("web2: done\r\n") && !run.stdout().contains('\x1b'), "{run}");
}
