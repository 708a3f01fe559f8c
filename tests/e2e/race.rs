//! Operators who deploy to the same hosts at the same time.

use deptool_tests::is_quick;
use deptool_tests::sandbox::{Repo, Sandbox};

use crate::{
    group::{HOSTS, second_commit},
    seen::at_rest,
};

#[test]
fn of_operators_who_race_for_several_hosts_each_builds_on_what_runs() {
    if is_quick() {
        return;
    }
    let sandbox = Sandbox::new();
    let (ada, ..) = second_commit(&sandbox);
    ada.git(&["push", "--quiet", "cluster", "prod"]).ok();
    ada.git(&["clone", "--quiet", "--bare", ".", "../shared.git"]).ok();
    let racers: Vec<_> = ["racer0", "racer1", "racer2"].map(|name| (name, racer(&sandbox, name))).into();
    std::thread::scope(|scope| {
        for (name, repo) in &racers {
            scope.spawn(move || race(name, repo));
        }
    });
    ada.git(&["fetch", "--quiet", "../shared.git", "prod:shared"]).ok();
    ada.git(&["fetch", "--quiet", "cluster"]).ok();
    for host in HOSTS {
        let deployed = ada.id(&format!("refs/remotes/{host}/prod"));
        at_rest(&sandbox, host, Some(&deployed));
        for (name, _) in &racers {
            assert!(sandbox.exists(host, &format!("/var/lib/deptool/apps/{name}/current/file")), "{name} is on {host}");
        }
        let store = sandbox.root(host).join("var/lib/deptool/store");
        let log = ada.command(&["reflog", "show", "--format=%H", "prod"]).env("GIT_DIR", store).run().unwrap().ok();
        let log = log.stdout();
        for pair in log.lines().collect::<Vec<_>>().windows(2) {
            ada.git(&["merge-base", "--is-ancestor", pair[1], pair[0]]).ok();
        }
    }
}

fn racer<'a>(sandbox: &'a Sandbox, name: &str) -> Repo<'a> {
    sandbox.command("git").args(["clone", "--quiet", "shared.git", name]).run().unwrap().ok();
    let repo = sandbox.repo_at(sandbox.dir().join(name));
    HOSTS.iter().for_each(|host| repo.add_root(host));
    repo.add_remote("cluster", "deptool::@all");
    repo.git(&["config", "user.name", name]).ok();
    repo
}

/// Adds an app to every host once. A push that was rejected is repeated on top of what is published and what runs.
fn race(name: &str, repo: &Repo<'_>) {
    for _ in 0..100 {
        repo.git(&["fetch", "--quiet", "origin"]).ok();
        repo.git(&["fetch", "--quiet", "cluster"]);
        repo.git(&["reset", "--quiet", "--hard", "origin/prod"]).ok();
        HOSTS.iter().for_each(|host| repo.write(format!("{host}/{name}/file"), "x"));
        repo.commit(name);
        // The operator who has published deploys next, so nobody waits for a commit that only the hosts have.
        if !repo.git(&["push", "--quiet", "origin", "prod"]).success() {
            continue;
        }
        for _ in 0..100 {
            if repo.git(&["push", "-o", "lock-wait=10s", "cluster", "prod"]).success() {
                return;
            }
            repo.git(&["fetch", "--quiet", "cluster"]);
            let runs_on = |host: &&str| {
                repo.git(&["merge-base", "--is-ancestor", "prod", &format!("refs/remotes/{host}/prod")]).success()
            };
            if HOSTS.iter().all(runs_on) {
                return;
            }
        }
    }
    panic!("{name} never got its turn");
}
