//! Distant hosts with shared connections: requests travel with the commands, not after them.

use std::time::Duration;

use deptool_tests::lab::{HostSpec, Lab, Link, start_or_skip};
use deptool_tests::process::{Cmd, write_program};
use deptool_tests::sandbox::{Repo, Sandbox};

const FAR: Link = Link::SharedDelayed(Duration::from_millis(60));

/// An operator whose ssh is `script`. The script finds the real ssh in `$SSH`, and in `$DIR` a FIFO `silent` without
/// any data. The remote `cluster` stands for all hosts.
fn deployed(hosts: &[&str], script: &str) -> Option<(Lab, Sandbox)> {
    let lab = start_or_skip(&hosts.iter().map(|host| HostSpec::new(host)).collect::<Vec<_>>())?;
    let mut sandbox = Sandbox::for_lab(&lab);
    let (dir, ssh) = (sandbox.dir().to_owned(), lab.ssh_command(FAR).unwrap());
    let file = dir.join("far-ssh");
    let text = format!("#!/bin/sh\nDIR='{}'\nSSH='{ssh}'\n{script}", dir.display());
    write_program(&file, &text).unwrap();
    Cmd::new("mkfifo").arg(dir.join("silent")).check().unwrap();
    sandbox.set_link(&lab, FAR);
    let operator = sandbox.repo("operator");
    operator.add_remote("cluster", "deptool::@all");
    deploy(&operator, hosts, "one");
    operator.git(&["push", "cluster", "prod"]).ok();
    sandbox.set_env("GIT_SSH_COMMAND", file.to_str().unwrap());
    sandbox.set_env("GIT_SSH_VARIANT", "ssh");
    Some((lab, sandbox))
}

fn deploy(operator: &Repo<'_>, hosts: &[&str], word: &str) -> String {
    hosts.iter().for_each(|host| operator.write(format!("{host}/web/word"), word));
    operator.commit(word)
}

fn runs(lab: &Lab, host: &str, word: &str) {
    assert_eq!(lab.host(host).sh("cat /var/lib/deptool/apps/web/current/word"), word);
}

#[test]
fn a_request_arrives_with_the_command_although_stdin_brings_nothing() {
    let script = "exec $SSH \"$@\" <>$DIR/silent\n";
    let Some((lab, sandbox)) = deployed(&["web1"], script) else { return };
    let operator = sandbox.repo_at(sandbox.dir().join("operator"));
    let two = deploy(&operator, &["web1"], "two");
    operator.git(&["push", "cluster", "prod"]).ok();
    runs(&lab, "web1", "two");
    assert_eq!(operator.id("refs/remotes/web1/prod"), two);
}

#[test]
fn a_request_that_may_have_arrived_with_the_command_is_asked_for_and_never_called_unreachable() {
    // The first session is cut off without any output, and its stdin is not read.
    let script = "mkdir $DIR/lost 2>/dev/null || exec $SSH \"$@\"\n\
                  $SSH \"$@\" <>$DIR/silent >/dev/null\nexit 255\n";
    let Some((lab, sandbox)) = deployed(&["web1"], script) else { return };
    let operator = sandbox.repo_at(sandbox.dir().join("operator"));
    let two = deploy(&operator, &["web1"], "two");
    operator.git(&["push", "cluster", "prod"]).ok();
    runs(&lab, "web1", "two");
    assert!(sandbox.dir().join("lost").exists());
    assert_eq!(operator.id("refs/remotes/web1/prod"), two);
    assert_eq!(operator.git(&["for-each-ref", "refs/deptool/unsettled"]).ok().stdout(), "");
}

#[test]
fn the_hosts_of_a_group_prepare_before_stdin_brings_anything() {
    // Nothing comes on stdin until somebody writes to the FIFO.
    let script = "{ read go <$DIR/silent; cat; } | $SSH \"$@\"\n";
    let hosts = ["web1", "web2"];
    let Some((lab, sandbox)) = deployed(&hosts, script) else { return };
    let operator = sandbox.repo_at(sandbox.dir().join("operator"));
    let two = deploy(&operator, &hosts, "two");
    let mut push = operator.command(&["push", "-v", "cluster", "prod"]).start().unwrap();
    for host in hosts {
        push.wait_until_it_says(&format!("{host}: preparing")).unwrap();
        runs(&lab, host, "one");
    }
    let mut gate = std::fs::OpenOptions::new().read(true).write(true).open(sandbox.dir().join("silent")).unwrap();
    std::io::Write::write_all(&mut gate, b"go\ngo\n").unwrap();
    push.wait().unwrap().ok();
    for host in hosts {
        runs(&lab, host, "two");
        assert_eq!(operator.id(&format!("refs/remotes/{host}/prod")), two);
    }
}
