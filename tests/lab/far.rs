//! A distant host with a shared connection: the request travels with the command, not after it.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use deptool_tests::lab::{HostSpec, Lab, Link, start_or_skip};
use deptool_tests::process::Cmd;
use deptool_tests::sandbox::{Repo, Sandbox};

const FAR: Link = Link::SharedDelayed(Duration::from_millis(60));

/// An operator whose ssh is `script`. The script finds the real ssh in `$SSH`, and in `$DIR` a FIFO `silent` without
/// any data.
fn deployed(script: &str) -> Option<(Lab, Sandbox)> {
    let lab = start_or_skip(&[HostSpec::new("web1")])?;
    let mut sandbox = Sandbox::for_lab(&lab);
    let (dir, ssh) = (sandbox.dir().to_owned(), lab.ssh_command(FAR).unwrap());
    let file = dir.join("far-ssh");
    let text = format!("#!/bin/sh\nDIR='{}'\nSSH='{ssh}'\n{script}", dir.display());
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    Cmd::new("mkfifo").arg(dir.join("silent")).check().unwrap();
    sandbox.set_link(&lab, FAR);
    let operator = sandbox.repo("operator");
    operator.add_remote("web1", "deptool::web1");
    deploy(&operator, "one");
    operator.git(&["push", "web1", "prod"]).ok();
    sandbox.set_env("GIT_SSH_COMMAND", file.to_str().unwrap());
    sandbox.set_env("GIT_SSH_VARIANT", "ssh");
    Some((lab, sandbox))
}

fn deploy(operator: &Repo<'_>, word: &str) -> String {
    operator.write("web1/web/word", word);
    operator.commit(word)
}

fn runs(lab: &Lab, word: &str) {
    assert_eq!(lab.host("web1").sh("cat /var/lib/deptool/apps/web/current/word"), word);
}

#[test]
fn a_request_arrives_with_the_command_although_stdin_brings_nothing() {
    let script = "case \" $* \" in *' -O check '*) exec $SSH \"$@\" ;; esac\nexec $SSH \"$@\" <>$DIR/silent\n";
    let Some((lab, sandbox)) = deployed(script) else { return };
    let operator = sandbox.repo_at(sandbox.dir().join("operator"));
    let two = deploy(&operator, "two");
    operator.git(&["push", "web1", "prod"]).ok();
    runs(&lab, "two");
    assert_eq!(operator.id("refs/remotes/web1/prod"), two);
}

#[test]
fn a_request_that_may_have_arrived_with_the_command_is_asked_for_and_never_called_unreachable() {
    // The first session is cut off without any output, and its stdin is not read.
    let script = "case \" $* \" in *' -O check '*) exec $SSH \"$@\" ;; esac\n\
                  mkdir $DIR/lost 2>/dev/null || exec $SSH \"$@\"\n\
                  $SSH \"$@\" <>$DIR/silent >/dev/null\nexit 255\n";
    let Some((lab, sandbox)) = deployed(script) else { return };
    let operator = sandbox.repo_at(sandbox.dir().join("operator"));
    let two = deploy(&operator, "two");
    operator.git(&["push", "web1", "prod"]).ok();
    runs(&lab, "two");
    assert!(sandbox.dir().join("lost").exists());
    assert_eq!(operator.id("refs/remotes/web1/prod"), two);
    assert_eq!(operator.git(&["for-each-ref", "refs/deptool/unsettled"]).ok().stdout(), "");
}
