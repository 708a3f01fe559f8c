//! `--atomic`: all hosts or none, even if the operator's side dies or a connection is lost.

use std::time::Duration;

use deptool_tests::process::{Run, poll};
use deptool_tests::sandbox::{Repo, Sandbox};
use deptool_tests::{build, is_quick};

use crate::{
    group::{HOSTS, breaks_when_activated, outcomes, report, runs, second_commit, with_one_failing},
    seen::at_rest,
    units::has_systemctl,
};

/// A push with a fault between the helper and the agent of `web2`, on its first connection. See
/// `deptool_tests::intercept`.
fn intercepted(sandbox: &Sandbox, operator: &Repo<'_>, rule: &str, args: &[&str]) -> Run {
    let once = sandbox.dir().join("once");
    let _ = std::fs::remove_dir(&once);
    let (once, xtask) = (once.display(), build::xtask().unwrap());
    let script = format!(
        r#"if mkdir {once} 2>/dev/null; then exec {} intercept {rule} "$DEPTOOL_AGENT"; else exec "$DEPTOOL_AGENT"; fi"#,
        xtask.display()
    );
    with_one_failing(sandbox, operator, "web2", &script, args)
}

#[test]
fn all_hosts_keep_it_or_all_go_back() {
    let mut sandbox = Sandbox::new();
    sandbox.set_env("GIT_DEPTOOL_REPORT", "../report");
    let (operator, one, two) = second_commit(&sandbox);
    if !has_systemctl(&sandbox) {
        return;
    }
    report(&sandbox);
    for waves in ["waves=100%", "waves=1,2"] {
        operator.git(&["push", "--atomic", "-o", waves, "cluster", "prod"]).ok();
        runs(&sandbox, &operator, [&two, &two, &two]);
        operator.git(&["push", "--atomic", "-f", "cluster", "prod~1:prod"]).ok();
        runs(&sandbox, &operator, [&one, &one, &one]);
    }
    report(&sandbox);
    breaks_when_activated(&operator, "web2");
    operator.commit("Three");
    let run = operator.git(&["push", "--atomic", "cluster", "prod"]).code(1);
    run.says("failed on web2 (rolled back: can't enable 'bad.service'").says("; reverted on web1, web3)");
    runs(&sandbox, &operator, [&one, &one, &one]);
    assert_eq!(outcomes(&report(&sandbox)), "web1 reverted, web2 rolled-back, web3 reverted");
    let run = operator.git(&["push", "--atomic", "-o", "waves=2", "cluster", "prod"]).code(1);
    run.says("reverted on web1; not attempted on web3)");
    runs(&sandbox, &operator, [&one, &one, &one]);
}

#[test]
fn a_link_that_breaks_leaves_all_with_it_or_none() {
    let mut sandbox = Sandbox::new();
    sandbox.set_env("GIT_DEPTOOL_REPORT", "../report");
    let (operator, one, two) = second_commit(&sandbox);
    report(&sandbox);
    // The message to or from web2 that does not arrive, the outcome of the hosts, and whether they have the commit.
    let cases = [
        ("cut:helper:Activate", "web1 reverted, web2 unreachable, web3 reverted", false),
        ("cut:agent:Healthy", "web1 reverted, web2 rolled-back, web3 reverted", false),
        ("cut:helper:Keep", "web1 reverted, web2 rolled-back, web3 reverted", false),
        // The host has not noticed when it is asked again, so it was not rolled back.
        ("cut-unheard:helper:Keep", "web1 done, web2 done, web3 done", true),
        ("cut:agent:Kept", "web1 done, web2 done, web3 done", true),
        ("cut:helper:Release", "web1 done, web2 done, web3 done", true),
        ("cut:agent:Ended", "web1 done, web2 done, web3 done", true),
    ];
    for (rule, expected, is_new) in cases {
        let run = intercepted(&sandbox, &operator, rule, &["push", "--atomic", "cluster", "prod"]);
        assert_eq!(outcomes(&report(&sandbox)), expected, "{rule}: {run}");
        assert_eq!(run.success(), is_new, "{rule}: {run}");
        let commit = if is_new { &two } else { &one };
        runs(&sandbox, &operator, [commit, commit, commit]);
        if is_new {
            operator.git(&["push", "-f", "cluster", "prod~1:prod"]).ok();
            report(&sandbox);
        }
    }
}

#[test]
fn without_all_or_nothing_a_link_that_breaks_concerns_one_host_and_the_truth_is_asked_for() {
    let mut sandbox = Sandbox::new();
    sandbox.set_env("GIT_DEPTOOL_REPORT", "../report");
    let (operator, one, two) = second_commit(&sandbox);
    report(&sandbox);
    let run = intercepted(&sandbox, &operator, "cut:helper:Activate", &["push", "cluster", "prod"]).code(1);
    run.says("failed on web2 (unreachable: ").says("; deployed to web1, web3)");
    runs(&sandbox, &operator, [&two, &one, &two]);
    assert_eq!(outcomes(&report(&sandbox)), "web1 done, web2 unreachable, web3 done");
    operator.git(&["push", "-f", "cluster", "prod~1:prod"]).ok();
    intercepted(&sandbox, &operator, "cut:agent:Ended", &["push", "cluster", "prod"]).ok();
    runs(&sandbox, &operator, [&two, &two, &two]);
}

#[test]
fn a_helper_that_is_killed_leaves_hosts_that_tell_the_truth() {
    let sandbox = Sandbox::new();
    let (operator, one, two) = second_commit(&sandbox);
    // Where the helper dies, and what all hosts run then; `None` if each host may run either.
    let cases: [(&str, &[&str], Option<&str>); 5] = [
        ("agent:Hello", &[], Some(&one)),
        ("agent:Prepared", &[], Some(&one)),
        ("helper:Activate", &[], None),
        // The first verdict has arrived. The other hosts may not have been told to activate yet.
        ("agent:Ended", &[], None),
        ("agent:Healthy", &["--atomic"], Some(&one)),
    ];
    for (point, options, expected) in cases {
        let push = [&["push"], options, &["cluster", "prod"]].concat();
        let run = intercepted(&sandbox, &operator, &format!("kill-helper:{point}"), &push);
        assert!(!run.success(), "{point}: {run}");
        // Agents that have lost their helper may still be working.
        let ask = || (!operator.git(&["fetch", "cluster"]).ok().stderr().contains("has been")).then_some(());
        poll("the hosts are at rest", Duration::from_secs(30), ask).unwrap();
        let known = HOSTS.map(|host| operator.id(&format!("refs/remotes/{host}/prod")));
        runs(&sandbox, &operator, [&known[0], &known[1], &known[2]]);
        if let Some(expected) = expected {
            assert_eq!(known, [expected, expected, expected], "{point}: {run}");
        }
        assert!(point != "agent:Ended" || known.contains(&two), "{known:?}: {run}");
        // Only the hosts that do not have the commit are pushed to.
        operator.git(&["push", "cluster", "prod"]).ok();
        runs(&sandbox, &operator, [&two, &two, &two]);
        operator.git(&["push", "-f", "cluster", "prod~1:prod"]).ok();
    }
}

#[test]
fn a_deployment_is_confirmed_over_a_fresh_connection_or_undone() {
    let sandbox = Sandbox::new();
    let (operator, one, two) = second_commit(&sandbox);
    operator.git(&["push", "--atomic", "-o", "confirm=20s", "cluster", "prod"]).ok();
    // The agents clean up after they have answered. The next request waits for that.
    operator.git(&["fetch", "cluster"]).ok();
    runs(&sandbox, &operator, [&two, &two, &two]);
    // The second connection fails.
    let once = sandbox.dir().join("first");
    let script = format!(r#"if mkdir {}; then exec "$DEPTOOL_AGENT"; else exit 1; fi 2>/dev/null"#, once.display());
    operator.git(&["config", "remote.web2.deptoolConfirm", "1s"]).ok();
    let run = with_one_failing(&sandbox, &operator, "web2", &script, &["push", "-f", "cluster", "prod~1:prod"]);
    run.code(1).says("failed on web2 (rolled back: ").says("; deployed to web1, web3)");
    operator.git(&["fetch", "cluster"]).ok();
    at_rest(&sandbox, "web2", Some(&two));
    operator.git(&["push", "-o", "confirm=0s", "-f", "cluster", "prod~1:prod"]).ok();
    runs(&sandbox, &operator, [&one, &one, &one]);
    operator.git(&["config", "remote.web2.deptoolConfirm", "soon"]).ok();
    let run = operator.git(&["push", "cluster", "prod"]).code(1);
    run.says("remote.web2.deptoolConfirm is a duration in seconds or minutes, such as '30s'");
    runs(&sandbox, &operator, [&one, &one, &one]);
}

#[test]
fn a_plan_shows_how_soon_each_host_has_to_confirm_and_a_deployment_does_as_it_shows() {
    let sandbox = Sandbox::new();
    let (operator, _, two) = second_commit(&sandbox);
    operator.git(&["config", "deptool.cluster", "prod"]).ok();
    operator.git(&["config", "remote.web2.deptoolConfirm", "1s"]).ok();
    let plan = |of: &str| operator.git(&["deptool", "plan", of]).ok();
    plan("@all").prints("confirm: web2 is rolled back unless it can be reached again within 1 s");
    assert!(!plan("web1").stdout().contains("confirm:"));
    operator.git(&["config", "remote.cluster.deptoolConfirm", "20s"]).ok();
    plan("@all").prints("each of web1, web3 is rolled back unless it can be reached again within 20 s");
    // A time for all deployments is that of `git deptool deploy`, too.
    operator.git(&["config", "--unset", "remote.web2.deptoolConfirm"]).ok();
    operator.git(&["config", "push.pushOption", "confirm=1s"]).ok();
    plan("@all").prints("confirm: a host is rolled back unless it can be reached again within 1 s");
    let once = sandbox.dir().join("first");
    let script = format!(r#"if mkdir {}; then exec "$DEPTOOL_AGENT"; else exit 1; fi 2>/dev/null"#, once.display());
    let run = with_one_failing(&sandbox, &operator, "web2", &script, &["deptool", "deploy", "-y", "web2"]);
    run.code(3).prints("web2: rolled back: ");
    operator.git(&["fetch", "cluster"]).ok();
    operator.git(&["deptool", "deploy", "-y", "web2"]).ok();
    at_rest(&sandbox, "web2", Some(&two));
}

#[test]
fn a_helper_that_is_killed_between_two_keeps_may_leave_a_mix_which_the_next_contact_reports() {
    // After *keep*, an agent waits 30 seconds for the helper.
    if is_quick() {
        return;
    }
    std::thread::scope(|scope| {
        // One host was not told to keep the deployment, or its answer is lost.
        for point in ["helper:Keep", "agent:Kept"] {
            scope.spawn(move || {
                let sandbox = Sandbox::new();
                let (operator, one, two) = second_commit(&sandbox);
                let push = ["push", "--atomic", "cluster", "prod"];
                let run = intercepted(&sandbox, &operator, &format!("kill-helper:{point}"), &push);
                assert!(!run.success(), "{point}: {run}");
                let mut said = String::new();
                let ask = || {
                    said += &operator.git(&["fetch", "cluster"]).ok().stderr();
                    let marks = operator.git(&["for-each-ref", "refs/deptool/unsettled"]).ok().stdout();
                    marks.is_empty().then_some(())
                };
                poll("the hosts are at rest", Duration::from_secs(90), ask).unwrap();
                let known = HOSTS.map(|host| operator.id(&format!("refs/remotes/{host}/prod")));
                runs(&sandbox, &operator, [&known[0], &known[1], &known[2]]);
                let status = operator.git(&["deptool", "status"]).ok().stdout();
                for (host, commit) in HOSTS.iter().zip(&known) {
                    let line = status.lines().find(|line| line.starts_with(host)).unwrap();
                    if *commit == two {
                        assert!(line.contains("up to date"), "{point}: {status}");
                    } else {
                        assert_eq!(*commit, one, "{point}: {run}");
                        assert!(line.contains("1 app, 1 file to deploy"), "{point}: {status}");
                        let what = format!("{host}: the deployment of {} was rolled back", &two[..10]);
                        assert!(said.contains(&what), "{point}: {said}");
                    }
                }
                assert_eq!(known[1] == two, point == "agent:Kept", "{point}: {status}");
                // Only the hosts that do not have the commit are pushed to.
                operator.git(&["push", "--atomic", "cluster", "prod"]).ok();
                runs(&sandbox, &operator, [&two, &two, &two]);
            });
        }
    });
}
