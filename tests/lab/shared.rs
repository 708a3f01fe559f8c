//! Shared connections: ssh is not started for a host to which it has one, and nothing depends on that.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use deptool_tests::lab::{HostSpec, Lab, Link, start_or_skip};
use deptool_tests::process::{Cmd, poll, write_program};
use deptool_tests::sandbox::{Repo, Sandbox};

/// Hosts, and an operator whose ssh writes a line for each start: `asked`, or `started`. It is a program of its own: a script that
/// does this would be started every time.
struct Shared {
    lab: Lab,
    sandbox: Sandbox,
}

const SSH: &str = r#"
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int count, char **words) {
    const char *what = "started";
    FILE *log = fopen(LOG, "a");
    for (int i = 1; i < count; i++) if (!strcmp(words[i], "-G")) what = "asked";
    fprintf(log, "%s\n", what);
    fclose(log);
    execvp("ssh", words);
    return 127;
}
"#;

/// The hosts have been deployed to twice, so that ssh has been asked about its sockets.
fn deployed(hosts: &[&str], link: Link) -> Option<Shared> {
    let lab = start_or_skip(&hosts.iter().map(|host| HostSpec::new(host)).collect::<Vec<_>>())?;
    let sandbox = Sandbox::for_lab(&lab);
    lab.ssh_command(link).unwrap();
    let mut shared = Shared { lab, sandbox };
    let (dir, program) = (shared.sandbox.dir().to_owned(), shared.sandbox.dir().join("bin/ssh"));
    fs::copy(shared.lab.ssh_config(link).unwrap(), dir.join("config")).unwrap();
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    let log = format!("-DLOG=\"{}\"", dir.join("log").display());
    Cmd::new("cc").args(["-x", "c", "-", &log, "-o"]).arg(&program).input(SSH).check().unwrap();
    let command = format!("{} -F {}", program.display(), dir.join("config").display());
    shared.sandbox.set_env("GIT_SSH_COMMAND", &command);
    shared.sandbox.repo("operator").add_remote("cluster", "deptool::@all");
    for word in ["one", "two"] {
        shared.deploy(hosts, word);
        shared.operator().git(&["push", "cluster", "prod"]).ok();
    }
    shared.log();
    Some(shared)
}

impl Shared {
    fn operator(&self) -> Repo<'_> {
        self.sandbox.repo_at(self.sandbox.dir().join("operator"))
    }

    fn deploy(&self, hosts: &[&str], word: &str) -> String {
        hosts.iter().for_each(|host| self.operator().write(format!("{host}/web/word"), word));
        self.operator().commit(word)
    }

    /// What ssh was used for since the last call.
    fn log(&self) -> String {
        let file = self.sandbox.dir().join("log");
        let lines = fs::read_to_string(&file).unwrap_or_default();
        fs::write(&file, "").unwrap();
        lines.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn ssh(&self, args: &[&str]) -> Cmd {
        Cmd::new("ssh").arg("-F").arg(self.sandbox.dir().join("config")).args(args)
    }

    fn socket(&self, host: &str) -> PathBuf {
        let answer = self.ssh(&["-G", host]).check().unwrap().stdout();
        answer.lines().find_map(|line| line.strip_prefix("controlpath ")).unwrap().into()
    }

    #[track_caller]
    fn runs(&self, host: &str, word: &str, commit: &str) {
        assert_eq!(self.lab.host(host).sh("cat /var/lib/deptool/apps/web/current/word"), word);
        assert_eq!(self.operator().id(&format!("refs/remotes/{host}/prod")), commit);
        assert_eq!(self.operator().git(&["for-each-ref", "refs/deptool/unsettled"]).ok().stdout(), "");
    }
}

#[test]
fn ssh_is_not_started_for_a_host_to_which_it_has_a_connection() {
    let hosts = ["web1", "web2"];
    let Some(shared) = deployed(&hosts, Link::Shared) else { return };
    let three = shared.deploy(&hosts, "three");
    shared.operator().git(&["push", "cluster", "prod"]).ok();
    assert_eq!(shared.log(), "");
    hosts.iter().for_each(|host| shared.runs(host, "three", &three));

    shared.operator().git(&["fetch", "cluster"]).ok();
    assert_eq!(shared.log(), "");
    shared.operator().git(&["deptool", "verify"]).ok();
    assert_eq!(shared.log(), "");
    shared.operator().git(&["deptool", "rollback", "web1", "--yes"]).ok();
    assert_eq!(shared.log(), "");
    assert_eq!(shared.lab.host("web1").sh("cat /var/lib/deptool/apps/web/current/word"), "two");
}

#[test]
fn a_script_that_only_adds_options_to_ssh_is_not_started_either() {
    let Some(mut shared) = deployed(&["web1"], Link::Shared) else { return };
    let dir = shared.sandbox.dir().to_owned();
    let text = format!("#!/bin/sh\nexec {}/bin/ssh -F \"$CONFIG\" \"$@\"\n", dir.display());
    let script = dir.join("my-ssh");
    write_program(&script, &text).unwrap();
    shared.sandbox.set_env("GIT_SSH_COMMAND", script.to_str().unwrap());
    shared.sandbox.set_env("CONFIG", dir.join("config").to_str().unwrap());
    let push = |shared: &Shared, word: &str| {
        let commit = shared.deploy(&["web1"], word);
        shared.operator().git(&["push", "cluster", "prod"]).ok();
        shared.runs("web1", word, &commit);
        shared.log()
    };
    assert_eq!(push(&shared, "three"), "");

    fs::copy(dir.join("config"), dir.join("other")).unwrap();
    shared.sandbox.set_env("CONFIG", dir.join("other").to_str().unwrap());
    assert!(push(&shared, "another configuration").contains("asked"));
    assert_eq!(push(&shared, "which is known now"), "");
    fs::write(&script, format!("{text}: something else\n")).unwrap();
    assert_eq!(push(&shared, "it may do anything"), "asked started", "asked what kind of program it is");
    assert_eq!(push(&shared, "each time"), "asked started");
}

#[test]
fn a_distant_host_gets_its_request_with_the_command_over_a_shared_connection() {
    let Some(shared) = deployed(&["web1"], Link::SharedDelayed(Duration::from_millis(60))) else { return };
    let three = shared.deploy(&["web1"], "three");
    shared.operator().git(&["push", "cluster", "prod"]).ok();
    assert_eq!(shared.log(), "");
    shared.runs("web1", "three", &three);
}

#[test]
fn ssh_is_started_where_the_shared_connection_is_gone_or_full_or_not_ours() {
    let Some(shared) = deployed(&["web1"], Link::Shared) else { return };
    let push = |word: &str| {
        let commit = shared.deploy(&["web1"], word);
        shared.operator().git(&["push", "cluster", "prod"]).ok();
        shared.runs("web1", word, &commit);
        shared.log()
    };
    let end = || shared.ssh(&["-O", "exit", "web1"]).run().unwrap().ok();
    end();
    assert_eq!(push("it was ended"), "started");
    assert_eq!(push("there is a new one"), "");

    end();
    let socket = shared.socket("web1");
    fs::write(&socket, "").unwrap();
    assert_eq!(push("there is a file instead"), "started");
    fs::remove_file(&socket).unwrap();
    // Nobody accepts there.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert_eq!(push("it was left behind"), "started");
    assert_eq!(push("ssh has replaced it"), "");

    end();
    shared.lab.host("web1").sh("echo MaxSessions 1 >/etc/ssh/sshd_config.d/few.conf; systemctl reload ssh");
    // sshd starts anew.
    let answers = || shared.ssh(&["-S", "none", "web1", "true"]).run().unwrap().success().then_some(());
    poll("sshd", Duration::from_secs(60), answers).unwrap();
    let mut busy = shared.ssh(&["web1", "echo begun >&2; sleep 60"]).start().unwrap();
    busy.wait_until_it_says("begun").unwrap();
    assert!(socket.exists());
    // The host refuses another session on the same connection; ssh makes a connection of its own.
    assert_eq!(push("it has no room"), "started");
    end();
    let _ = busy.wait();
}

#[test]
fn after_a_change_of_the_configuration_the_host_that_it_names_is_deployed_to() {
    let Some(shared) = deployed(&["web1", "web2"], Link::Shared) else { return };
    let config = shared.sandbox.dir().join("config");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("# a comment\n{text}")).unwrap();
    shared.deploy(&["web1"], "a comment");
    shared.operator().git(&["push", "cluster", "prod"]).ok();
    assert_eq!(shared.log(), "");

    let address = |host: &str| {
        let answer = shared.ssh(&["-G", host]).check().unwrap().stdout();
        answer.lines().find_map(|line| line.strip_prefix("hostname ")).unwrap().to_owned()
    };
    // The connections are still there. But now the machine that was web2 is web1, and calls itself so.
    let (one, two) = (address("web1"), address("web2"));
    let swapped = text.replace(&one, "ONE").replace(&two, &one).replace("ONE", &two);
    fs::write(&config, swapped.replace("StrictHostKeyChecking yes", "StrictHostKeyChecking no")).unwrap();
    shared.lab.host("web2").sh("echo web1 >/etc/hostname");
    shared.operator().git(&["config", "remote.one.url", "deptool::web1"]).ok();
    shared.deploy(&["web1"], "three");
    let push = shared.operator().git(&["push", "one", "prod"]).fails();
    // It runs the tree of web2.
    push.says("web2");
    assert!(shared.log().starts_with("started"));
    assert_eq!(shared.lab.host("web1").sh("cat /var/lib/deptool/apps/web/current/word"), "a comment");
}

#[test]
fn a_deployment_whose_shared_connection_ends_is_asked_for() {
    const SLOW: &str =
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=sleep 4\n[Install]\nWantedBy=multi-user.target\n";
    let Some(shared) = deployed(&["web1"], Link::Shared) else { return };
    let operator = shared.operator();
    operator.write("web1/web/systemd/slow.service", SLOW);
    operator.write("web1/web/manifest.json", r#"{"systemd": {"units_enabled": ["slow.service"]}}"#);
    let three = shared.deploy(&["web1"], "three");
    let push = operator.command(&["push", "cluster", "prod"]).start().unwrap();
    let state = || (shared.lab.host("web1").unit_state("slow.service") == "activating").then_some(());
    poll("activation", Duration::from_secs(30), state).unwrap();
    shared.ssh(&["-O", "exit", "web1"]).run().unwrap().ok();
    push.wait().unwrap().ok();
    shared.runs("web1", "three", &three);
    assert!(shared.log().starts_with("started"), "another connection, of its own");
}
