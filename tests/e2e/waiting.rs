//! No wait without an end, none that can't be interrupted; questions come one at a time.

use std::{fs, os::fd::AsFd as _, time::Duration};

use deptool_tests::{
    process::{Cmd, poll},
    sandbox::{Repo, Sandbox},
    terminal::Terminal,
};
use rustix::{
    fs::{FlockOperation, flock},
    process::Signal,
};

use crate::{
    seen::at_rest,
    stand_in::{agent, with_stand_in},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A repository with an app for each of these hosts, which are root directories with remotes of their own.
fn operator<'a>(sandbox: &'a Sandbox, hosts: &[&str]) -> Repo<'a> {
    let operator = sandbox.repo("operator");
    for host in hosts {
        operator.write(format!("{host}/web/file"), "1\n");
        operator.add_root(host);
    }
    operator.add_remote("cluster", "deptool::@all");
    operator.commit("One");
    operator
}

/// The same for hosts that are reached over a stand-in for ssh: `login` is what it does before it starts the agent on the
/// root directory of `$host`; `$batch` is not empty if it may not ask.
fn over_ssh<'a>(sandbox: &'a Sandbox, hosts: &[&str], login: &str) -> (Repo<'a>, String) {
    let operator = sandbox.repo("operator");
    for host in hosts {
        operator.write(format!("{host}/web/file"), "1\n");
        operator.add_remote(host, &format!("deptool::{host}"));
        sandbox.root(host);
    }
    operator.add_remote("cluster", "deptool::@all");
    operator.commit("One");
    let roots = sandbox.dir().join("roots");
    let ssh = sandbox.dir().join("fake-ssh");
    let script = format!(
        "batch= host=\nfor word; do case $word in BatchMode=yes) batch=1;; web?) host=$word;; esac; done\n\
         roots='{}'\n{login}\nDEPTOOL_ROOT=$roots/$host exec '{}'\n",
        roots.display(),
        agent().display(),
    );
    fs::write(&ssh, script).unwrap();
    (operator, format!("sh '{}'", ssh.display()))
}

fn push(repo: &Repo<'_>, ssh: &str, args: &[&str]) -> Cmd {
    repo.command(&[&["push"], args].concat()).env("GIT_SSH_COMMAND", ssh).env("GIT_SSH_VARIANT", "ssh")
}

/// Answers the questions of two hosts, web1 and web2. Each names its host after `about`.
#[track_caller]
fn answers_one_after_another(push: Cmd, about: &str) {
    let mut terminal = Terminal::start(push).unwrap();
    let question = "can't be established. Continue (yes/no)? ";
    terminal.wait_for(question).unwrap();
    // While one is open neither the other one nor the progress of hosts is written.
    std::thread::sleep(Duration::from_millis(500));
    let text = terminal.text();
    assert!(text.ends_with(question) && text.matches(question).count() == 1, "{text:?}");
    let other = if text.contains(&format!("{about} web1")) { "web2" } else { "web1" };
    assert!(!text.contains(&format!("{about} {other}")), "{text:?}");
    terminal.type_in("yes\n").unwrap();
    terminal.wait_for(&format!("{about} {other}")).unwrap();
    terminal.type_in("yes\n").unwrap();
    terminal.end().unwrap().ok().prints("deployed to 2 hosts in ");
}

#[test]
fn two_unknown_host_keys_are_asked_about_one_after_another() {
    let sandbox = Sandbox::new();
    let login = r#"if [ ! -e "$roots/$host.known" ]; then
        [ "$batch" ] && { echo 'Host key verification failed.' >&2; exit 255; }
        printf "The authenticity of $host can't be established. Continue (yes/no)? " >/dev/tty
        read answer </dev/tty; [ "$answer" = yes ] || { echo 'Host key verification failed.' >&2; exit 255; }
        : >"$roots/$host.known"
    fi"#;
    let (operator, ssh) = over_ssh(&sandbox, &["web1", "web2"], login);
    answers_one_after_another(push(&operator, &ssh, &["cluster", "prod"]), "authenticity of");
    // The agents clean up after they have answered. The next request waits for that.
    let fetch = operator.command(&["fetch", "cluster"]).env("GIT_SSH_COMMAND", &ssh).env("GIT_SSH_VARIANT", "ssh");
    fetch.run().unwrap().ok();
    for host in ["web1", "web2"] {
        at_rest(&sandbox, host, Some(&operator.id("prod")));
    }
}

#[test]
fn a_login_that_says_nothing_is_given_up_and_named() {
    if deptool_tests::lab::is_skipped(None) {
        return;
    }
    let sandbox = Sandbox::new();
    // The login also floods stderr, which does not count as an answer.
    let login = r#"[ $host = web2 ] && { yes noise >&2 & sleep 1000; }"#;
    let (operator, ssh) = over_ssh(&sandbox, &["web1", "web2"], login);
    let run = push(&operator, &ssh, &["cluster", "prod"]).timeout(2 * PATIENCE).run().unwrap().code(1);
    run.says("web2 (unreachable: no answer for 30 seconds").says("not attempted on web1");
    at_rest(&sandbox, "web1", None);
}

#[test]
fn whoever_waits_for_the_local_lock_can_be_interrupted() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox, &["web1"]);
    let path = operator.dir.join(".git/deptool/hosts/web1.lock");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let lock = fs::File::create(path).unwrap();
    flock(lock.as_fd(), FlockOperation::NonBlockingLockExclusive).unwrap();
    for args in [&["push", "web1", "prod"][..], &["fetch", "web1"], &["fetch", "cluster"]] {
        let mut going = operator.command(args).start().unwrap();
        going.wait_until_it_says("waiting: another git process of this repository").unwrap();
        going.signal_group(Signal::TERM).unwrap();
        // Git dies of the signal.
        assert!(!going.wait().unwrap().success());
    }
    assert!(!sandbox.exists("web1", "/var/lib/deptool/store"));
}

#[test]
fn a_deploy_that_is_terminated_deploys_nothing() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox, &["web1", "web2"]);
    operator.git(&["deptool", "init", "prod"]).ok();
    let script = format!(
        "touch '{0}/begun'; while [ ! -e '{0}/go' ]; do sleep 0.05; done; exec \"$DEPTOOL_AGENT\"",
        sandbox.dir().display()
    );
    let deploy = with_stand_in(&sandbox, &operator, &["deptool", "deploy", "--yes"], &script);
    let going = deploy.start().unwrap();
    poll("the first connection", PATIENCE, || sandbox.dir().join("begun").exists().then_some(())).unwrap();
    going.signal(Signal::TERM).unwrap();
    let run = going.wait().unwrap();
    assert!(!run.success(), "{run}");
    fs::write(sandbox.dir().join("go"), "").unwrap();
    run.does_not_say("unknown");
    for host in ["web1", "web2"] {
        assert!(!sandbox.exists(host, "/var/lib/deptool/store"), "{host}");
    }
    let marks = operator.git(&["for-each-ref", "refs/deptool/unsettled"]).ok().stdout();
    assert_eq!(marks, "");
}

#[test]
fn ctrl_c_tells_at_once_what_becomes_of_a_host_that_has_begun() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox, &["web1"]);
    operator.git(&["push", "web1", "prod"]).ok();
    operator.write("web1/web/file", "2\n");
    operator.commit("Two");
    // The host says hello, the request has arrived, and nothing else comes.
    let (xtask, hit) = (deptool_tests::build::xtask().unwrap(), sandbox.dir().join("hit"));
    let script = format!("exec '{}' link down 2 stall \"$DEPTOOL_AGENT\" '{}'", xtask.display(), hit.display());
    let mut terminal = Terminal::start(with_stand_in(&sandbox, &operator, &["push", "web1", "prod"], &script)).unwrap();
    poll("the stall", PATIENCE, || hit.exists().then_some(())).unwrap();
    terminal.wait_for("web1: preparing").unwrap();
    terminal.press_ctrl_c().unwrap();
    terminal.wait_for("interrupted: web1: it has begun: each finishes by itself, or rolls back").unwrap();
}

#[test]
fn hosts_that_are_asked_first_are_asked_all_at_once() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox, &["web1", "web2", "web3"]);
    operator.git(&["push", "cluster", "prod"]).ok();
    // Each login continues when all three have begun.
    let script = format!(
        "mkdir -p '{0}/there'; touch \"{0}/there/$(basename \"$DEPTOOL_ROOT\")\"; n=0; \
         while [ $n -lt 600 ] && [ $(ls '{0}/there' | wc -l) -lt 3 ]; do sleep 0.05; n=$((n+1)); done; exec \"$DEPTOOL_AGENT\"",
        sandbox.dir().display()
    );
    let args = ["-c", "push.pushOption=check", "push", "cluster", "prod"];
    with_stand_in(&sandbox, &operator, &args, &script).timeout(PATIENCE).run().unwrap().ok();
    assert_eq!(fs::read_dir(sandbox.dir().join("there")).unwrap().count(), 3);
}

#[test]
fn a_fetch_that_waits_for_a_slow_host_does_not_move_a_quick_one_back() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox, &["web1", "web2"]);
    operator.git(&["push", "cluster", "prod"]).ok();
    operator.write("web1/web/file", "2\n");
    let two = operator.commit("Two");
    let script = format!(
        "case \"$DEPTOOL_ROOT\" in */web2) touch '{0}/begun'; while [ ! -e '{0}/go' ]; do sleep 0.05; done;; esac; \
         exec \"$DEPTOOL_AGENT\"",
        sandbox.dir().display()
    );
    let going = with_stand_in(&sandbox, &operator, &["fetch", "cluster"], &script).start().unwrap();
    poll("web2 is asked", PATIENCE, || sandbox.dir().join("begun").exists().then_some(())).unwrap();
    // web1 has answered when nobody holds its lock any more.
    operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!(operator.id("web1/prod"), two);
    fs::write(sandbox.dir().join("go"), "").unwrap();
    going.wait().unwrap().ok().does_not_say("forced update");
    assert_eq!(operator.id("web1/prod"), two);
    operator.git(&["push", "web1", "prod"]).ok().says("Everything up-to-date");
}

#[test]
fn a_push_to_a_group_shows_what_was_there_before() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox, &["web1", "web2"]);
    operator.git(&["push", "cluster", "prod"]).ok().says(" * [new branch]      prod -> prod");
    let one = operator.id("prod");
    operator.write("web1/web/file", "2\n");
    let two = operator.commit("Two");
    let run = operator.git(&["push", "cluster", "prod"]).ok().does_not_say("new branch");
    run.says(&format!("{}..{}  prod -> prod", &one[..7], &two[..7]));
}

#[test]
fn an_error_of_ssh_is_told_once() {
    let sandbox = Sandbox::new();
    let reason = "connect to host web1 port 22: Connection refused";
    let login = format!("echo 'a notice' >&2; echo 'ssh: {reason}' >&2; exit 255");
    let (operator, ssh) = over_ssh(&sandbox, &["web1"], &login);
    operator.git(&["config", "deptool.cluster", "prod"]).ok();
    let commands: [&[&str]; 5] = [
        &["push", "web1", "prod"],
        &["push", "cluster", "prod"],
        &["fetch", "web1"],
        &["deptool", "deploy", "--yes"],
        &["deptool", "ping", "web1"],
    ];
    for args in commands {
        let run = operator.command(args).env("GIT_SSH_COMMAND", &ssh).env("GIT_SSH_VARIANT", "ssh").run().unwrap();
        let told = run.stderr() + &run.stdout();
        // A push to a group has a line for each host, and Git's table.
        let times = if args == commands[1] { 2 } else { 1 };
        assert_eq!(told.matches(reason).count(), times, "{run}");
    }
}

#[test]
fn jump_hosts_ask_one_after_another_too() {
    let sandbox = Sandbox::new();
    // The ssh to a jump host does not inherit our options: it asks if there is a terminal.
    let login = r#"if [ ! -e "$roots/$host.known" ]; then
        ( : </dev/tty ) 2>/dev/null || { echo 'Host key verification failed.' >&2; exit 255; }
        printf "The authenticity of the jump host of $host can't be established. Continue (yes/no)? " >/dev/tty
        read answer </dev/tty; [ "$answer" = yes ] || { echo 'Host key verification failed.' >&2; exit 255; }
        : >"$roots/$host.known"
    fi"#;
    let (operator, ssh) = over_ssh(&sandbox, &["web1", "web2"], login);
    answers_one_after_another(push(&operator, &ssh, &["cluster", "prod"]), "jump host of");
}

#[test]
fn an_agent_that_is_killed_is_not_called_unreachable() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox, &["web1"]);
    // The agent of the local root says hello and is killed. The next one knows of nothing that has begun.
    let once = sandbox.dir().join("once");
    let script = format!(
        r#"mkdir '{}' 2>/dev/null || exec "$DEPTOOL_AGENT"; "$DEPTOOL_AGENT" </dev/null; kill -9 $$"#,
        once.display()
    );
    let run = with_stand_in(&sandbox, &operator, &["push", "web1", "prod"], &script).run().unwrap().code(1);
    run.says("the agent ended unexpectedly (killed by signal 9)").does_not_say("unreachable").does_not_say("unknown");
    // A shell on the host reports the signal with an exit status. Without a shell, ssh only has its own status.
    for (end, told) in [
        ("exit 137", "the agent ended unexpectedly (killed by signal 9)"),
        ("exit 255", "the agent ended unexpectedly (ssh gives no reason: it may have been killed)"),
        ("echo 'Timeout, server web1 not responding.' >&2; exit 255", "lost: Timeout, server web1 not responding."),
    ] {
        let sandbox = Sandbox::new();
        let login = format!(r#"DEPTOOL_ROOT=$roots/$host '{}' </dev/null; {end}"#, agent().display());
        let (operator, ssh) = over_ssh(&sandbox, &["web1"], &login);
        push(&operator, &ssh, &["web1", "prod"]).run().unwrap().code(1).says(told);
    }
}

#[test]
fn ctrl_c_during_a_large_file_changes_nothing() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox, &["web1"]);
    operator.git(&["push", "web1", "prod"]).ok();
    let one = operator.id("prod");
    operator.write("web1/web/large", vec![b'x'; 20 << 20]);
    operator.commit("Two");
    // The link takes no more after the first megabytes.
    let begun = sandbox.dir().join("begun");
    let script = format!(r#"{{ head -c 6000000; touch '{}'; exec sleep 20; }} | "$DEPTOOL_AGENT""#, begun.display());
    let going = with_stand_in(&sandbox, &operator, &["push", "web1", "prod"], &script).start().unwrap();
    poll("the upload", PATIENCE, || begun.exists().then_some(())).unwrap();
    going.signal_group(Signal::INT).unwrap();
    let run = going.wait().unwrap();
    assert!(!run.success(), "{run}");
    run.says("interrupted; nothing was changed").does_not_say("has begun").does_not_say("unknown");
    assert_eq!(operator.git(&["for-each-ref", "refs/deptool/unsettled"]).ok().stdout(), "");
    assert_eq!(operator.id("web1/prod"), one);
}

#[test]
fn ctrl_c_ends_whatever_waits_for_a_stalled_host() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox, &["web1"]);
    operator.git(&["push", "web1", "prod"]).ok();
    operator.git(&["config", "deptool.cluster", "prod"]).ok();
    let (xtask, hit) = (deptool_tests::build::xtask().unwrap(), sandbox.dir().join("hit"));
    // Before its hello, and after it.
    for (at, args) in [
        (1, &["deptool", "ping", "web1"][..]),
        (2, &["deptool", "ping", "web1"]),
        (2, &["deptool", "verify", "web1"]),
        (2, &["deptool", "log", "web1"]),
        (1, &["fetch", "web1"]),
    ] {
        let _ = fs::remove_file(&hit);
        let script = format!("exec '{}' link down {at} stall \"$DEPTOOL_AGENT\" '{}'", xtask.display(), hit.display());
        // Less than the silence after which a host is given up anyway.
        let going = with_stand_in(&sandbox, &operator, args, &script).timeout(Duration::from_secs(25)).start().unwrap();
        poll("the stall", PATIENCE, || hit.exists().then_some(())).unwrap();
        going.signal_group(Signal::INT).unwrap();
        assert!(!going.wait().unwrap().success(), "{args:?}");
    }
}

#[test]
fn a_git_that_is_killed_leaves_no_helper_that_waits() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox, &["web1"]);
    operator.git(&["push", "web1", "prod"]).ok();
    operator.git(&["config", "deptool.cluster", "prod"]).ok();
    let (xtask, hit) = (deptool_tests::build::xtask().unwrap(), sandbox.dir().join("hit"));
    for (signal, args) in
        [(Signal::KILL, &["fetch", "web1"][..]), (Signal::TERM, &["deptool", "plan", "--fetch", "web1"])]
    {
        let _ = fs::remove_file(&hit);
        let script = format!("exec '{}' link down 1 stall \"$DEPTOOL_AGENT\" '{}'", xtask.display(), hit.display());
        // Less than the silence after which a host is given up anyway.
        let going = with_stand_in(&sandbox, &operator, args, &script).timeout(Duration::from_secs(25)).start().unwrap();
        poll("the stall", PATIENCE, || hit.exists().then_some(())).unwrap();
        // Its output ends with the last process that could write to it.
        going.signal(signal).unwrap();
        assert!(!going.wait().unwrap().success(), "{args:?}");
    }
}

#[test]
fn a_push_that_was_started_with_signals_ignored_goes_on() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox, &["web1"]);
    operator.git(&["push", "web1", "prod"]).ok();
    operator.write("web1/web/file", "2\n");
    let two = operator.commit("Two");
    let [begun, goes_on] = ["begun", "goes-on"].map(|name| sandbox.dir().join(name));
    let wait = format!("touch {}; while [ ! -e {} ]; do sleep 0.1; done", begun.display(), goes_on.display());
    let script = format!(r#"{wait}; exec "$DEPTOOL_AGENT""#);
    // As with nohup, and in a script that ends with `&`. Git passes that on to the helper.
    let push = "!trap '' INT HUP; exec git push web1 prod";
    let going = with_stand_in(&sandbox, &operator, &["-c", &format!("alias.later={push}"), "later"], &script);
    let going = going.start().unwrap();
    poll("the agent", PATIENCE, || begun.exists().then_some(())).unwrap();
    // Only the git that runs the alias ignores neither. The output ends with the push.
    going.signal_group(Signal::HUP).unwrap();
    going.signal_group(Signal::INT).unwrap();
    fs::write(goes_on, "").unwrap();
    let run = going.wait().unwrap();
    assert_eq!(operator.id("web1/prod"), two, "{run}");
}

#[test]
fn ctrl_c_ends_a_snapshot() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox, &["web1"]);
    operator.git(&["config", "deptool.cluster", "prod"]).ok();
    let one = operator.id("prod");
    let rendered = sandbox.dir().join("rendered/web1/web");
    fs::create_dir_all(&rendered).unwrap();
    // It takes minutes to read.
    fs::File::create(rendered.join("large")).unwrap().set_len(64 << 30).unwrap();
    let objects = operator.dir.join(".git/objects");
    let is_reading = || {
        let entries = fs::read_dir(objects.join("pack")).into_iter().flatten().chain(fs::read_dir(&objects).unwrap());
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("tmp_")).then_some(())
    };
    let going = operator.command(&["deptool", "snapshot", "../rendered"]).start().unwrap();
    poll("the large file is read", PATIENCE, is_reading).unwrap();
    going.signal(Signal::INT).unwrap();
    let run = going.wait().unwrap();
    assert!(!run.success(), "{run}");
    assert_eq!(operator.id("prod"), one);
}

#[test]
fn a_host_that_nobody_can_reach_again_goes_back_and_its_operator_does_not_wait_for_long() {
    if deptool_tests::is_quick() {
        return;
    }
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox, &["web1"]);
    operator.git(&["push", "web1", "prod"]).ok();
    let one = operator.id("prod");
    operator.write("web1/web/file", "2\n");
    operator.commit("Two");
    // There is no new connection to be had when the host waits for one, and how it ended does not arrive over the old one.
    let (xtask, once) = (deptool_tests::build::xtask().unwrap(), sandbox.dir().join("once"));
    let script = format!(
        "if mkdir '{}' 2>/dev/null; then exec '{}' intercept stall:agent:Ended \"$DEPTOOL_AGENT\"; \
         else exec sleep 1000; fi",
        once.display(),
        xtask.display(),
    );
    let args = ["push", "-o", "confirm=5s", "web1", "prod"];
    let run = with_stand_in(&sandbox, &operator, &args, &script).timeout(2 * PATIENCE).run().unwrap().code(1);
    run.says("no new connection could be made: no answer for ")
        .does_not_say("for 30 seconds")
        .says("outcome unknown; run git fetch");
    // The host has gone back by itself, and says so when it can be reached.
    operator.git(&["fetch", "web1"]).ok().says("was rolled back: ");
    at_rest(&sandbox, "web1", Some(&one));
}
