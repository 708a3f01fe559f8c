//! A push to many hosts: which hosts are contacted, what is reported, and that no host activates before all are
//! prepared.

use std::os::fd::AsFd as _;

use deptool_tests::is_quick;
use deptool_tests::process::Run;
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::{
    seen::{at_rest, shows, state_of, unchanged, visible},
    stand_in::with_stand_in,
};

pub const HOSTS: [&str; 3] = ["web1", "web2", "web3"];

/// Three hosts, each with a remote, and `cluster` for all of them. Nothing is deployed yet.
fn operator(sandbox: &Sandbox) -> Repo<'_> {
    let operator = sandbox.repo("operator");
    for host in HOSTS {
        operator.write(format!("{host}/web/file"), "1\n");
        operator.write(format!("{host}/web/manifest.json"), r#"{"symlinks": {"/etc/web.conf": "file"}}"#);
        operator.add_root(host);
    }
    operator.add_remote("cluster", "deptool::@all");
    operator
}

/// The same, with the first commit deployed everywhere and a second one that changes all hosts.
pub fn second_commit<'a>(sandbox: &'a Sandbox) -> (Repo<'a>, String, String) {
    let operator = operator(sandbox);
    let one = operator.commit("One");
    operator.git(&["push", "cluster", "prod"]).ok();
    HOSTS.iter().for_each(|host| operator.write(format!("{host}/web/file"), "2\n"));
    let two = operator.commit("Two");
    (operator, one, two)
}

/// Asserts that each host runs that commit, that the tracking refs agree, and that no host is in doubt.
#[track_caller]
pub fn runs(sandbox: &Sandbox, operator: &Repo<'_>, commits: [&str; 3]) {
    for (host, commit) in HOSTS.iter().zip(commits) {
        at_rest(sandbox, host, Some(commit));
        let ours = operator.id_if_any(&format!("refs/remotes/{host}/prod"));
        assert_eq!(ours.as_deref(), Some(commit), "what is known of {host}");
    }
    let marks = operator.git(&["for-each-ref", "refs/deptool/unsettled"]).ok().stdout();
    assert_eq!(marks, "", "nothing is in doubt");
}

/// `git` with these arguments; `fails` is a script in which the agent of `host` is replaced by something that fails.
pub fn with_one_failing(sandbox: &Sandbox, operator: &Repo<'_>, host: &str, fails: &str, args: &[&str]) -> Run {
    let script = format!(r#"case "$DEPTOOL_ROOT" in */{host}) {fails} ;; *) exec "$DEPTOOL_AGENT" ;; esac"#);
    with_stand_in(sandbox, operator, args, &script).run().unwrap()
}

/// The lines of the report: host, outcome, why.
pub fn report(sandbox: &Sandbox) -> Vec<[String; 3]> {
    let text = std::fs::read_to_string(sandbox.dir().join("report")).unwrap_or_default();
    let _ = std::fs::remove_file(sandbox.dir().join("report"));
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.map(|line| ["host", "outcome", "why"].map(|key| line[key].as_str().unwrap().to_owned())).collect()
}

/// The report without the reasons.
pub fn outcomes(report: &[[String; 3]]) -> String {
    report.iter().map(|[host, outcome, _]| format!("{host} {outcome}")).collect::<Vec<_>>().join(", ")
}

#[test]
fn only_hosts_that_change_are_contacted_and_each_is_told_of() {
    let mut sandbox = Sandbox::new();
    sandbox.set_env("GIT_DEPTOOL_REPORT", "../report");
    let operator = operator(&sandbox);
    let one = operator.commit("One");
    let run = operator.git(&["push", "cluster", "prod"]).ok();
    let expected = "web1: done\nweb2: done\nweb3: done\nTo deptool::@all\n * [new branch]      prod -> prod\n\
                    deployed to 3 hosts in N s";
    shows(&sandbox, &run, &[], expected);
    runs(&sandbox, &operator, [&one, &one, &one]);
    assert_eq!(outcomes(&report(&sandbox)), "web1 done, web2 done, web3 done");

    operator.write("web2/web/file", "2\n");
    let two = operator.commit("Two");
    let log = sandbox.dir().join("contacted");
    let script = format!(r#"basename "$DEPTOOL_ROOT" >>{}; exec "$DEPTOOL_AGENT""#, log.display());
    with_stand_in(&sandbox, &operator, &["push", "cluster", "prod"], &script).run().unwrap().ok();
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "web2\n");
    runs(&sandbox, &operator, [&one, &two, &one]);
    assert_eq!(outcomes(&report(&sandbox)), "web1 unaffected, web3 unaffected, web2 done");
    let run = with_stand_in(&sandbox, &operator, &["push", "cluster", "prod"], &script).run().unwrap().ok();
    run.says("Everything up-to-date");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "web2\n");

    // A single host of the group.
    operator.write("web1/web/file", "3\n");
    operator.write("web3/web/file", "3\n");
    let three = operator.commit("Three");
    operator.git(&["push", "cluster", "prod:refs/heads/web1/prod"]).ok();
    runs(&sandbox, &operator, [&three, &two, &one]);
    let run = operator.git(&["push", "cluster", "prod:refs/heads/web9/prod"]).code(1);
    run.says("('web9' is not a host of this push)");

    // A separate group, and a push without arguments that uses its refspec.
    operator.git(&["config", "deptool.group.edge", "web3 web2"]).ok();
    operator.add_remote("edge", "deptool::@edge");
    operator.git(&["config", "remote.edge.push", "refs/heads/prod:refs/heads/prod"]).ok();
    operator.git(&["push", "--quiet", "edge"]).ok();
    runs(&sandbox, &operator, [&three, &two, &three]);
}

#[test]
fn a_host_that_is_not_in_the_tree_any_more_is_named_and_left_alone() {
    let sandbox = Sandbox::new();
    let (operator, one, _) = second_commit(&sandbox);
    operator.remove("web2");
    let three = operator.commit("Three");
    let before = state_of(&sandbox.root("web2"));
    let run = operator.git(&["push", "cluster", "prod"]).ok();
    run.says(
        "note: 'web2' runs prod, but is not in the tree: it is left alone; to empty it, push ':prod' there; \
              if it was renamed: 'git deptool rename-host web2 <new>'",
    );
    unchanged(&state_of(&sandbox.root("web2")), &before);
    runs(&sandbox, &operator, [&three, &one, &three]);
    operator.git(&["push", "cluster", ":prod"]).code(1);
    operator.git(&["push", "web2", ":prod"]).ok();
    at_rest(&sandbox, "web2", None);
}

/// Each way in which a host can fail before the barrier: a script instead of its agent, and the reason in the report.
const FAILURES_BEFORE_THE_BARRIER: [(&str, &str, &str); 4] = [
    ("exit 1", "refused", "no answer from the agent on"),
    (r#"echo "deptool-agent x y""#, "refused", "is of another build"),
    (CUT, "refused", "the agent ended unexpectedly (status 0)"),
    (r#"head -c 400 | "$DEPTOOL_AGENT""#, "refused", "the stream was cut off"),
];

/// The connection breaks after hello.
const CUT: &str = r#"exec "$DEPTOOL_AGENT" </dev/null"#;

#[test]
fn whatever_one_host_fails_of_before_the_barrier_nothing_changes_anywhere() {
    if is_quick() {
        return;
    }
    let mut sandbox = Sandbox::new();
    sandbox.set_env("GIT_DEPTOOL_REPORT", "../report");
    let (operator, one, two) = second_commit(&sandbox);
    report(&sandbox);
    let before = HOSTS.map(|host| visible(&sandbox.root(host)));
    let check = |run: Run, outcome: &str, why: &str| {
        run.code(1).says("failed on web2 (").says("not attempted on web1, web3)");
        for (host, before) in HOSTS.iter().zip(&before) {
            unchanged(&visible(&sandbox.root(host)), before);
        }
        runs(&sandbox, &operator, [&one, &one, &one]);
        let report = report(&sandbox);
        let expected = format!("web1 not-attempted, web2 {outcome}, web3 not-attempted");
        assert_eq!(outcomes(&report), expected);
        assert!(report[1][2].contains(why), "{report:?}");
    };
    let push = &["push", "cluster", "prod"];
    for (script, outcome, why) in FAILURES_BEFORE_THE_BARRIER {
        check(with_one_failing(&sandbox, &operator, "web2", script, push), outcome, why);
    }
    // Another deployment is in progress there.
    let path = sandbox.root("web2").join("var/lib/deptool/state/lock");
    let lock = std::fs::File::options().write(true).open(path).unwrap();
    rustix::fs::flock(lock.as_fd(), rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let holder = r#"{"id":null,"by":"Ben <ben@example.org>","phase":"settling","since":0}"#;
    std::io::Write::write_all(&mut &lock, holder.as_bytes()).unwrap();
    check(operator.git(push), "busy", "locked by Ben <ben@example.org> since ");
    lock.set_len(0).unwrap();
    drop(lock);
    // An existing file is in the way.
    operator.write("web2/web/manifest.json", r#"{"symlinks": {"/etc/web.conf": "file", "/etc/there": "file"}}"#);
    operator.commit("Three");
    std::fs::write(sandbox.root("web2").join("etc/there"), "not ours").unwrap();
    let run = operator.git(push).code(1);
    run.says("failed on web2 ('/etc/there' exists and differs from 'web/file'").says("not attempted on web1, web3)");
    runs(&sandbox, &operator, [&one, &one, &one]);
    report(&sandbox);
    // Without these failures, the deployment succeeds.
    operator.git(&["push", "cluster", "prod~1:prod"]).ok();
    runs(&sandbox, &operator, [&two, &two, &two]);
}

#[test]
fn a_stale_host_is_named_and_after_a_merge_only_what_is_pending_is_pushed() {
    let sandbox = Sandbox::new();
    let (ada, one, _) = second_commit(&sandbox);
    let ben = sandbox.clone_of(&ada, "ben");
    ben.git(&["config", "user.name", "Ben"]).ok();
    HOSTS.iter().for_each(|host| ben.add_root(host));
    ben.git(&["fetch", "--quiet", "web2"]).ok();
    ben.git(&["reset", "--quiet", "--hard", "web2/prod"]).ok();
    ben.write("web2/ben/file", "of Ben\n");
    ben.commit("Ben's");
    ben.git(&["push", "web2", "prod"]).ok();

    let run = ada.git(&["push", "cluster", "prod"]).code(1);
    run.says("web2: Ben <ada@example.org> deployed ")
        .says("(failed on web2 (stale info); not attempted on web1, web3)");
    for host in ["web1", "web3"] {
        at_rest(&sandbox, host, Some(&one));
    }
    let run = ada.git(&["push", "cluster", "prod"]).code(1);
    run.says("failed on web2 (non-fast-forward)");
    ada.git(&["fetch", "--quiet", "../ben", "prod:ben"]).ok();
    ada.git(&["fetch", "--quiet", "web2"]).ok();
    ada.git(&["merge", "--quiet", "-m", "Merge", "ben"]).ok();
    let merged = ada.id("prod");
    ada.git(&["push", "cluster", "prod"]).ok();
    runs(&sandbox, &ada, [&merged, &merged, &merged]);
}

#[test]
fn hosts_that_can_not_be_reached_are_left_out_if_that_is_asked_for_and_the_ref_says_so() {
    let mut sandbox = Sandbox::new();
    sandbox.set_env("GIT_DEPTOOL_REPORT", "../report");
    let (operator, one, two) = second_commit(&sandbox);
    report(&sandbox);
    let push = ["push", "-o", "skip-unreachable", "cluster", "prod"];
    // The exit status of ssh after a lost connection.
    let lost = r#""$DEPTOOL_AGENT" </dev/null; echo 'Connection to web2 closed by remote host.' >&2; exit 255"#;
    let run = with_one_failing(&sandbox, &operator, "web2", lost, &push).code(1);
    run.says("(skipped, as unreachable: web2; deployed to web1, web3)");
    runs(&sandbox, &operator, [&two, &one, &two]);
    assert_eq!(outcomes(&report(&sandbox)), "web1 done, web2 skipped, web3 done");
    operator.git(&push).ok();
    runs(&sandbox, &operator, [&two, &two, &two]);
    let refused = ["push", "--atomic", "-o", "skip-unreachable", "cluster", "prod~1:prod"];
    operator.git(&refused).code(1).says("(--atomic and skip-unreachable can't be combined)");
}

#[test]
fn a_busy_host_is_waited_for_as_long_as_was_asked_for() {
    let sandbox = Sandbox::new();
    let (operator, _, two) = second_commit(&sandbox);
    let path = sandbox.root("web2").join("var/lib/deptool/state/lock");
    let lock = std::fs::File::options().write(true).open(path).unwrap();
    rustix::fs::flock(lock.as_fd(), rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let holder = r#"{"id":null,"by":"Ben","phase":"settling","since":0}"#;
    std::io::Write::write_all(&mut &lock, holder.as_bytes()).unwrap();
    let run = operator.git(&["push", "-o", "lock-wait=300ms", "cluster", "prod"]).code(1);
    run.says("web2: waiting for Ben, who has been settling for ").says("failed on web2 (locked by Ben since ");
    // It is busy twice, and free at the third attempt.
    let count = sandbox.dir().join("count");
    std::thread::scope(|scope| {
        let (operator, sandbox, count) = (&operator, &sandbox, &count);
        let push = scope.spawn(move || {
            let script = format!(r#"echo >>{}; exec "$DEPTOOL_AGENT""#, count.display());
            with_one_failing(sandbox, operator, "web2", &script, &["push", "-o", "lock-wait=1min", "cluster", "prod"])
        });
        while std::fs::read_to_string(count).map_or(0, |text| text.lines().count()) < 3 {
            std::thread::yield_now();
        }
        drop(lock);
        push.join().unwrap().ok().says("web2: done");
    });
    runs(&sandbox, &operator, [&two, &two, &two]);
}

#[test]
fn a_host_that_was_cancelled_while_it_said_that_it_is_busy_is_not_begun_again() {
    let sandbox = Sandbox::new();
    let (operator, one, _) = second_commit(&sandbox);
    let lock =
        std::fs::File::options().write(true).open(sandbox.root("web2").join("var/lib/deptool/state/lock")).unwrap();
    rustix::fs::flock(lock.as_fd(), rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    std::io::Write::write_all(&mut &lock, br#"{"id":null,"by":"Ben","phase":"settling","since":0}"#).unwrap();
    // web1 fails while the answer of web2 is on its way. When the answer arrives, the lock is free.
    let [answer, failed, free] =
        ["answer", "failed", "free"].map(|name| sandbox.dir().join(name).display().to_string());
    let script = format!(
        r#"case "$DEPTOOL_ROOT" in
            */web1) while [ ! -e {answer}.done ]; do sleep 0.1; done
                "$DEPTOOL_AGENT" </dev/null; echo lost >&2; echo >{failed}; exit 255 ;;
            */web2) [ ! -e {answer} ] || exec "$DEPTOOL_AGENT"
                "$DEPTOOL_AGENT" >{answer}; echo >{answer}.done
                while [ ! -e {failed} ] || [ ! -e {free} ]; do sleep 0.1; done
                sleep 1; cat {answer} ;;
            *) exec "$DEPTOOL_AGENT" ;; esac"#
    );
    std::thread::scope(|scope| {
        let push = scope.spawn(|| {
            let push = ["push", "-o", "lock-wait=1min", "cluster", "prod"];
            with_stand_in(&sandbox, &operator, &push, &script).run().unwrap()
        });
        while !sandbox.dir().join("answer.done").exists() && !push.is_finished() {
            std::thread::yield_now();
        }
        drop(lock);
        std::fs::write(&free, "").unwrap();
        push.join().unwrap().code(1).says("not attempted on web2, web3");
    });
    runs(&sandbox, &operator, [&one, &one, &one]);
}

#[test]
fn waves_stop_at_the_first_failure_and_a_second_push_goes_on_where_it_stopped() {
    let sandbox = Sandbox::new();
    let (operator, one, _) = second_commit(&sandbox);
    if !sandbox.command("systemctl").arg("--version").run().is_ok_and(|run| run.success()) {
        return eprintln!("skipped: no systemctl here");
    }
    // The second wave fails to activate.
    breaks_when_activated(&operator, "web2");
    let three = operator.commit("Three");
    let order = sandbox.dir().join("order");
    let note = format!(r#""$DEPTOOL_AGENT"; basename "$DEPTOOL_ROOT" >>{}"#, order.display());
    let push = ["push", "-o", "waves=1,2", "cluster", "prod"];
    let run = with_stand_in(&sandbox, &operator, &push, &note).run().unwrap().code(1);
    run.says("failed on web2 (rolled back: can't enable 'bad.service'")
        .says("not attempted on web3; deployed to web1)");
    assert_eq!(std::fs::read_to_string(&order).unwrap().lines().next(), Some("web1"), "it was first to be done");
    runs(&sandbox, &operator, [&three, &one, &one]);
    // A second push goes to the hosts that do not have it.
    operator.remove("web2/web/systemd");
    operator.write("web2/web/manifest.json", r#"{"symlinks": {"/etc/web.conf": "file"}}"#);
    let four = operator.commit("Four");
    std::fs::remove_file(&order).unwrap();
    with_stand_in(&sandbox, &operator, &push, &note).run().unwrap().ok();
    assert_eq!(std::fs::read_to_string(&order).unwrap(), "web2\nweb3\n");
    runs(&sandbox, &operator, [&three, &four, &four]);
}

/// Makes the next deployment to `host` fail after its activation has begun.
pub fn breaks_when_activated(operator: &Repo<'_>, host: &str) {
    operator.write(
        format!("{host}/web/systemd/bad.service"),
        "[Service]\nExecStart=/bin/true\n[Install]\nAlias=%p.timer\n",
    );
    operator.write(format!("{host}/web/manifest.json"), r#"{"systemd": {"units_enabled": ["bad.service"]}}"#);
}

/// Runs instead of ssh: records the host, and runs the agent on the local root with that name.
const SSH: &str = r#"
for word; do host=$last; last=$word; done
while [ "$#" -gt 1 ]; do
    case $1 in -p) port=:$2 ;; -O) exit 255 ;; esac
    shift
done
echo "$host$port" >>"$ROOTS/../asked"
[ ! -e "$ROOTS/${host#*@}.away" ] || { echo "ssh: connect to host: No route to host" >&2; exit 255; }
DEPTOOL_ROOT=$ROOTS/${host#*@} exec "$DEPTOOL_AGENT"
"#;

#[test]
fn hosts_are_reached_as_their_remotes_say_and_one_that_is_down_is_known_not_to_have_begun() {
    let mut sandbox = Sandbox::new();
    sandbox.set_env("ROOTS", sandbox.dir().join("roots").to_str().unwrap());
    sandbox.set_env("DEPTOOL_AGENT", crate::stand_in::agent().to_str().unwrap());
    sandbox.set_env("FAKE_SSH", SSH);
    sandbox.set_env("GIT_SSH_COMMAND", r#"sh -c 'eval "$FAKE_SSH"' ssh"#);
    sandbox.set_env("GIT_SSH_VARIANT", "ssh");
    let operator = sandbox.repo("operator");
    for host in HOSTS {
        sandbox.root(host);
        operator.write(format!("{host}/web/file"), "1\n");
    }
    operator.add_remote("cluster", "deptool::@all");
    operator.add_remote("front", "deptool::core@web2:2222");
    let one = operator.commit("One");
    operator.git(&["push", "cluster", "prod"]).ok();
    let asked = || {
        let text = std::fs::read_to_string(sandbox.dir().join("asked")).unwrap_or_default();
        let _ = std::fs::remove_file(sandbox.dir().join("asked"));
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines.join(" ")
    };
    assert_eq!(asked(), "core@web2:2222 web1 web3");
    // They answer before they clean up, and the next agent waits for that.
    operator.git(&["fetch", "cluster"]).ok();
    asked();
    for (tracking, host) in [("web1", "web1"), ("front", "web2"), ("web3", "web3")] {
        assert_eq!(operator.id(&format!("refs/remotes/{tracking}/prod")), one);
        at_rest(&sandbox, host, Some(&one));
    }

    // The request is sent ahead to a known host. ssh has read nothing of it if it can't connect. (To a distant host it is also
    // sent in the environment, and on a busy machine a host may seem distant.)
    let facts = operator.dir.join(".git/deptool/hosts/web3");
    let text = std::fs::read_to_string(&facts).unwrap();
    let late = text.find("\"late\": ").unwrap() + "\"late\": ".len();
    let rest = text[late..].trim_start_matches(|c: char| c.is_ascii_digit());
    std::fs::write(&facts, format!("{}0{rest}", &text[..late])).unwrap();
    operator.write("web3/web/file", "2\n");
    let two = operator.commit("Two");
    let away = sandbox.dir().join("roots/web3.away");
    std::fs::write(&away, "").unwrap();
    operator.git(&["push", "deptool::web3", "prod"]).code(1).says("(unreachable: connect to host: No route to host)");
    assert_eq!(operator.git(&["for-each-ref", "refs/deptool/unsettled"]).ok().stdout(), "", "it can't have begun");
    assert_eq!(asked(), "web3");
    std::fs::remove_file(away).unwrap();
    operator.git(&["push", "deptool::web3", "prod"]).ok();
    operator.git(&["fetch", "deptool::web3"]).ok();
    at_rest(&sandbox, "web3", Some(&two));

    // If ssh had read the request before it failed, the host would have been asked, whatever the message.
    operator.write("web3/web/file", "3\n");
    operator.commit("Three");
    sandbox_ssh_reads_and_fails(&operator).code(1).says("(outcome unknown; run git fetch)");
    assert_ne!(operator.git(&["for-each-ref", "refs/deptool/unsettled"]).ok().stdout(), "");
    operator.git(&["fetch", "deptool::web3"]).ok();
    assert_eq!(operator.git(&["for-each-ref", "refs/deptool/unsettled"]).ok().stdout(), "");
    at_rest(&sandbox, "web3", Some(&two));
}

fn sandbox_ssh_reads_and_fails(operator: &Repo<'_>) -> Run {
    let ssh = "head -c 20 >/dev/null; echo 'ssh: connect to host: No route to host' >&2; exit 255";
    operator.command(&["push", "deptool::web3", "prod"]).env("FAKE_SSH", ssh).run().unwrap()
}

#[test]
fn a_host_without_apps_runs_nothing_and_files_beside_the_apps_affect_no_host() {
    let sandbox = Sandbox::new();
    let (operator, ..) = second_commit(&sandbox);
    operator.git(&["push", "cluster", "prod"]).ok();
    let two = operator.id("prod");
    operator.write("web1/README", "for people\n");
    operator.write("web2/.keep", "");
    operator.commit("Beside");
    let run = operator.git(&["push", "cluster", "prod"]).ok().says("Everything up-to-date");
    run.does_not_say("done");
    runs(&sandbox, &operator, [&two, &two, &two]);
    // The same applies if the host runs a commit that is not in the history.
    operator.git(&["checkout", "--quiet", "--detach"]).ok();
    operator.write("web1/web/file", "aside\n");
    let aside = operator.commit("Aside");
    operator.git(&["push", "web1", "HEAD:prod"]).ok();
    operator.git(&["checkout", "--quiet", "prod"]).ok();
    operator.write("web1/web/file", "aside\n");
    operator.write("web1/README", "for others\n");
    operator.commit("The same, and a file beside the apps");
    operator.git(&["push", "cluster", "prod"]).ok().does_not_say("web1: done");
    assert_eq!(operator.id("web1/prod"), aside);
    operator.remove("web2/web");
    let empty = operator.commit("Nothing is to run on web2");
    operator.git(&["push", "cluster", "prod"]).ok().says("web2: done").does_not_say("web1: done");
    assert_eq!(operator.id("web2/prod"), empty);
    assert!(!sandbox.exists("web2", "/var/lib/deptool/apps/web"));
    assert!(!sandbox.exists("web2", "/etc/web.conf"));
    at_rest(&sandbox, "web2", Some(&empty));
}
