//! Nobody overwrites a deployment that they have not seen: leases, and busy hosts.

use std::os::fd::AsFd as _;

use deptool_tests::is_quick;
use deptool_tests::sandbox::{Repo, Sandbox, gits};

use crate::seen::{at_rest, shown, shows, state_of, unchanged};

fn operator(sandbox: &Sandbox) -> Repo<'_> {
    let operator = sandbox.repo("operator");
    operator.write("web1/web/file", "1\n");
    operator.add_root("web1");
    operator
}

/// A second operator, who has fetched what the first one deployed.
fn colleague<'a>(sandbox: &'a Sandbox, first: &Repo<'_>) -> Repo<'a> {
    let second = sandbox.clone_of(first, "colleague");
    second.git(&["config", "user.name", "Ben Colleague"]).ok();
    second.git(&["config", "user.email", "ben@example.org"]).ok();
    second.add_root("web1");
    second
}

#[test]
fn a_stale_push_is_rejected_says_who_and_is_healed_by_a_fetch() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let ada = operator(&sandbox);
        let one = ada.commit("One");
        ada.git(&["push", "web1", "prod"]).ok();
        let ben = colleague(&sandbox, &ada);
        ben.git(&["fetch", "web1"]).ok();
        ben.write("web1/web/file", "2 of Ben\n");
        ben.write("web2/web/file", "not for web1\n");
        let two = ben.commit("Ben's");
        ben.git(&["push", "web1", "prod"]).ok();

        ada.write("web1/web/file", "2 of Ada\n");
        let mine = ada.commit("Ada's");
        let before = state_of(&sandbox.root("web1"));
        let run = ada.git(&["push", "web1", "prod"]).code(1);
        let names = [("one", one.as_str()), ("two", two.as_str()), ("mine", mine.as_str())];
        let expected = "web1: Ben Colleague <ben@example.org> deployed <two> N s ago; nothing was changed\n\
                        web1: <two> by Ben Colleague <ben@example.org> is not in this repository; \
                        'web1' shows the host's part of it\n\
                        To deptool::DIR/roots/web1\n ! [rejected]        prod -> prod (stale info)\n\
                        error: failed to push some refs to 'deptool::DIR/roots/web1'";
        shows(&sandbox, &run, &names, expected);
        unchanged(&state_of(&sandbox.root("web1")), &before);

        // Now the plan is made from what runs, and shows what would be lost.
        let run = ada.git(&["push", "web1", "prod"]).code(1);
        run.says("! [rejected]        prod -> prod (non-fast-forward)");
        unchanged(&state_of(&sandbox.root("web1")), &before);

        // Ben's commit comes from Ben.
        ada.git(&["fetch", "--quiet", "../colleague", "prod:ben"]).ok();
        ada.git(&["fetch", "web1"]).ok();
        assert_eq!(ada.id("web1/prod"), two, "the projection gives way to the commit");
        ada.git(&["merge", "--quiet", "-s", "ours", "-m", "Merge", "ben"]).ok();
        ada.git(&["push", "web1", "prod"]).ok();
        at_rest(&sandbox, "web1", Some(&ada.id("prod")));
    }
}

#[test]
fn force_does_not_waive_the_lease() {
    let sandbox = Sandbox::new();
    let ada = operator(&sandbox);
    ada.commit("One");
    ada.git(&["push", "web1", "prod"]).ok();
    let ben = colleague(&sandbox, &ada);
    ben.git(&["fetch", "web1"]).ok();
    ben.write("web1/web/file", "2\n");
    ben.commit("Two");
    ben.git(&["push", "web1", "prod"]).ok();
    let before = state_of(&sandbox.root("web1"));
    ada.write("web1/web/file", "3\n");
    ada.commit("Three");
    for args in [&["push", "-f", "web1", "prod"][..], &["push", "web1", "+prod"]] {
        // The first push learns what runs. Forget that again, so that each push is stale.
        let one = ada.id("prod~1");
        ada.git(&["update-ref", "refs/remotes/web1/prod", &one]).ok();
        ada.git(args).code(1).says("(stale info)");
        unchanged(&state_of(&sandbox.root("web1")), &before);
    }
    let one = ada.id("prod~1");
    ada.git(&["update-ref", "refs/remotes/web1/prod", &one]).ok();
    ada.git(&["push", "web1", ":prod"]).code(1).says("(stale info)");
    unchanged(&state_of(&sandbox.root("web1")), &before);
}

#[test]
fn a_first_push_to_a_host_that_somebody_has_deployed_is_stale() {
    let sandbox = Sandbox::new();
    let ada = operator(&sandbox);
    ada.commit("One");
    ada.git(&["push", "web1", "prod"]).ok();
    let ben = colleague(&sandbox, &ada);
    ben.write("web1/web/file", "2\n");
    let two = ben.commit("Two");
    ben.git(&["push", "web1", "prod"]).code(1).says("(stale info)").says("Ada Operator <ada@example.org> deployed");
    // What the rejected push has fetched is enough for the next push.
    ben.git(&["push", "web1", "prod"]).ok();
    at_rest(&sandbox, "web1", Some(&two));
}

#[test]
fn a_push_to_a_host_that_was_emptied_meanwhile_is_stale() {
    let sandbox = Sandbox::new();
    let ada = operator(&sandbox);
    ada.commit("One");
    ada.git(&["push", "web1", "prod"]).ok();
    let ben = colleague(&sandbox, &ada);
    ben.git(&["fetch", "web1"]).ok();
    ben.git(&["push", "web1", ":prod"]).ok();
    ada.write("web1/web/file", "2\n");
    let two = ada.commit("Two");
    let run = ada.git(&["push", "web1", "prod"]).code(1);
    let expected = "web1: nothing is deployed any more; nothing was changed\n\
                    To deptool::DIR/roots/web1\n ! [rejected]        prod -> prod (stale info)\n\
                    error: failed to push some refs to 'deptool::DIR/roots/web1'";
    shows(&sandbox, &run, &[], expected);
    assert_eq!(ada.id_if_any("refs/remotes/web1/prod"), None);
    ada.git(&["push", "web1", "prod"]).ok();
    at_rest(&sandbox, "web1", Some(&two));
}

#[test]
fn a_named_lease_is_enforced() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let ada = operator(&sandbox);
        let one = ada.commit("One");
        ada.git(&["push", "--force-with-lease=prod:", "web1", "prod"]).ok();
        ada.write("web1/web/file", "2\n");
        let two = ada.commit("Two");
        let before = state_of(&sandbox.root("web1"));
        let wrong = format!("--force-with-lease=prod:{two}");
        ada.git(&["push", &wrong, "web1", "prod"]).code(1).says("(stale info)");
        ada.git(&["push", "--force-with-lease=prod:", "web1", "prod"]).code(1).says("(stale info)");
        unchanged(&state_of(&sandbox.root("web1")), &before);
        let right = format!("--force-with-lease=prod:{one}");
        ada.git(&["push", &right, "web1", "prod"]).ok();
        ada.git(&["push", "--force-with-lease", "web1", "prod~1:prod"]).ok();
        at_rest(&sandbox, "web1", Some(&one));
    }
}

#[test]
fn a_busy_host_says_by_whom_and_since_when() {
    let sandbox = Sandbox::new();
    let ada = operator(&sandbox);
    ada.commit("One");
    ada.git(&["push", "web1", "prod"]).ok();
    // The first contact after it makes the host's key for secrets.
    ada.git(&["fetch", "web1"]).ok();
    ada.write("web1/web/file", "2\n");
    let two = ada.commit("Two");

    let path = sandbox.root("web1").join("var/lib/deptool/state/lock");
    let lock = std::fs::File::options().write(true).open(path).unwrap();
    rustix::fs::flock(lock.as_fd(), rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let holder = r#"{"by":"Ben <ben@example.org>","phase":"settling","since":0}"#;
    std::io::Write::write_all(&mut &lock, holder.as_bytes()).unwrap();
    let before = state_of(&sandbox.root("web1"));
    let run = ada.git(&["push", "web1", "prod"]).code(1);
    unchanged(&state_of(&sandbox.root("web1")), &before);
    run.says("! [remote rejected] prod -> prod (locked by Ben <ben@example.org> since ").says("(settling))");
    ada.git(&["fetch", "web1"]).ok().says("web1: Ben <ben@example.org> has been settling for ");

    drop(lock);
    ada.git(&["push", "web1", "prod"]).ok();
    at_rest(&sandbox, "web1", Some(&two));
}

#[test]
fn a_request_for_the_state_does_not_block_a_deployment() {
    let sandbox = Sandbox::new();
    let ada = operator(&sandbox);
    ada.commit("0");
    ada.git(&["push", "web1", "prod"]).ok();
    let ben = colleague(&sandbox, &ada);
    let asking = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while asking.load(std::sync::atomic::Ordering::Relaxed) {
                ben.git(&["ls-remote", "web1"]).ok();
            }
        });
        let pushes = (1..=8).map(|n| {
            ada.write("web1/web/file", n.to_string());
            ada.commit("Next");
            ada.git(&["push", "web1", "prod"])
        });
        let pushes: Vec<_> = pushes.collect();
        asking.store(false, std::sync::atomic::Ordering::Relaxed);
        pushes.into_iter().for_each(|push| drop(push.ok()));
    });
    at_rest(&sandbox, "web1", Some(&ada.id("prod")));
}

#[test]
fn of_operators_who_race_each_builds_on_what_the_one_before_has_deployed() {
    if is_quick() {
        return;
    }
    let sandbox = Sandbox::new();
    let ada = operator(&sandbox);
    ada.commit("One");
    ada.git(&["push", "web1", "prod"]).ok();
    ada.git(&["clone", "--quiet", "--bare", ".", "../shared.git"]).ok();
    let racers = 4;
    let repos: Vec<_> = (0..racers)
        .map(|n| {
            let name = format!("racer{n}");
            sandbox.command("git").args(["clone", "--quiet", "shared.git", &name]).run().unwrap().ok();
            let repo = sandbox.repo_at(sandbox.dir().join(&name));
            repo.add_root("web1");
            repo.git(&["config", "user.name", &name]).ok();
            repo
        })
        .collect();
    std::thread::scope(|scope| {
        for (n, repo) in repos.iter().enumerate() {
            scope.spawn(move || {
                // Each adds an app once. A push that was rejected is repeated on top of what runs.
                for _ in 0..100 {
                    repo.git(&["fetch", "--quiet", "origin"]).ok();
                    repo.git(&["fetch", "--quiet", "web1"]);
                    repo.git(&["reset", "--quiet", "--hard", "origin/prod"]).ok();
                    repo.write(format!("web1/app{n}/file"), "x");
                    repo.commit(&format!("App {n}"));
                    // The operator who has published deploys next, so nobody waits for a commit that only the host has.
                    if !repo.git(&["push", "--quiet", "origin", "prod"]).success() {
                        continue;
                    }
                    while !repo.git(&["push", "web1", "prod"]).success() {
                        repo.git(&["fetch", "--quiet", "web1"]);
                        let is_in = |id: &str| repo.git(&["merge-base", "--is-ancestor", "prod", id]).success();
                        if repo.id_if_any("refs/remotes/web1/prod").is_some_and(|id| is_in(&id)) {
                            break;
                        }
                    }
                    return;
                }
                panic!("racer {n} never got its turn");
            });
        }
    });
    ada.git(&["fetch", "--quiet", "../shared.git", "prod:shared"]).ok();
    let last = ada.id("shared");
    ada.git(&["fetch", "web1"]).ok();
    let deployed = ada.id("web1/prod");
    at_rest(&sandbox, "web1", Some(&deployed));
    assert_eq!(deployed, last);
    let store = sandbox.root("web1").join("var/lib/deptool/store");
    let log = ada.command(&["reflog", "show", "--format=%H", "prod"]).env("GIT_DIR", store).run().unwrap().ok();
    let log = log.stdout();
    let log: Vec<&str> = log.lines().collect();
    for pair in log.windows(2) {
        ada.git(&["merge-base", "--is-ancestor", pair[1], pair[0]]).ok();
    }
}

#[test]
fn a_rewind_by_others_shows_in_what_the_host_is_heard_to_run() {
    let sandbox = Sandbox::new();
    let ada = operator(&sandbox);
    let one = ada.commit("One");
    ada.write("web1/web/file", "2\n");
    ada.commit("Two");
    ada.git(&["push", "web1", "prod"]).ok();
    let ben = colleague(&sandbox, &ada);
    ben.git(&["fetch", "web1"]).ok();
    ben.git(&["push", "-f", "web1", "prod~1:prod"]).ok();
    let run = ada.git(&["fetch", "web1"]).ok();
    assert_eq!(ada.id("web1/prod"), one, "{}", shown(&sandbox, &run, &[]));
}
