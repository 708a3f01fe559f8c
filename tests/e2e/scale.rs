//! Many hosts at once.

use std::time::Duration;

use deptool_tests::sandbox::Sandbox;
use deptool_tests::simulation::Simulation;
use deptool_tests::{is_quick, watch};

use crate::stand_in::{agent, with_stand_in};

/// With ten or more, OpenSSH's default MaxStartups drops connections that have not logged in.
const MAX_STARTUPS: usize = 10;

#[test]
fn a_push_to_many_hosts_never_has_many_connections_that_are_not_logged_in() {
    const HOSTS: usize = 30;
    let mut sandbox = Sandbox::new();
    let simulation = Simulation::new(&mut sandbox, &agent(), Duration::from_millis(30)).unwrap();
    let operator = sandbox.repo("operator");
    Simulation::write(&operator, HOSTS, "one");
    let one = operator.commit("One");
    operator.add_remote("cluster", "deptool::@all");
    operator.git(&["push", "cluster", "prod"]).ok().says(&format!("deployed to {HOSTS} hosts in "));
    let (all, at_once) = simulation.connections().unwrap();
    assert_eq!(all, HOSTS, "one connection for each");
    assert!(at_once < MAX_STARTUPS, "{at_once}");
    for host in (0..HOSTS).map(Simulation::host) {
        assert_eq!(operator.id(&format!("refs/remotes/{host}/prod")), one);
        let file = simulation.root(&host).join("var/lib/deptool/apps/app/current/file");
        assert_eq!(std::fs::read_to_string(file).unwrap(), format!("{host} one\n"));
    }

    // Another operator, who knows the hosts only from the branch.
    let other = sandbox.clone_of(&operator, "other");
    other.add_remote("cluster", "deptool::@all");
    other.git(&["config", "deptool.cluster", "prod"]).ok();
    other.git(&["fetch", "cluster"]).ok();
    let (all, at_once) = simulation.connections().unwrap();
    assert!(all == HOSTS && at_once < MAX_STARTUPS, "{all} {at_once}");
    assert_eq!(other.id("refs/remotes/web029/prod"), one);
    other.git(&["push", "cluster", "prod"]).ok().says("Everything up-to-date");
}

#[test]
fn the_threads_of_a_push_do_not_grow_with_the_hosts() {
    if is_quick() {
        return;
    }
    const HOSTS: usize = 80;
    let mut sandbox = Sandbox::new();
    let simulation = Simulation::new(&mut sandbox, &agent(), Duration::ZERO).unwrap();
    let operator = sandbox.repo("operator");
    Simulation::write(&operator, HOSTS, "one");
    let one = operator.commit("One");
    operator.add_remote("cluster", "deptool::@all");
    let (_, peak) = watch::check(operator.command(&["push", "cluster", "prod"])).unwrap();
    // About forty, and for moments a few more, for Git and to sync files.
    assert!(peak.threads < HOSTS * 3 / 4, "{peak:?}");
    assert!((0..HOSTS).all(|at| operator.id(&format!("refs/remotes/{}/prod", Simulation::host(at))) == one));
    assert_eq!(simulation.connections().unwrap().0, HOSTS);
}

#[test]
fn the_limit_of_open_files_is_raised_where_it_may_be_and_named_where_not() {
    let mut sandbox = Sandbox::new();
    Simulation::new(&mut sandbox, &agent(), Duration::ZERO).unwrap();
    let operator = sandbox.repo("operator");
    Simulation::write(&operator, 25, "one");
    operator.commit("One");
    operator.add_remote("cluster", "deptool::@all");
    let push = |limit: &str| {
        let line = format!("ulimit {limit}; exec git push cluster prod");
        sandbox.command("sh").dir(&operator.dir).args(["-c", &line]).run().unwrap()
    };
    push("-n 100").fails().says(
        "25 hosts at once take 189 open files, and the limit is 100: raise it (ulimit -H -n), or push to groups of at \
         most 7 hosts",
    );
    push("-S -n 60").ok().says("deployed to 25 hosts in ");
}

#[test]
fn a_fetch_of_a_group_fails_if_a_host_is_down_and_notes_what_the_others_say() {
    let mut sandbox = Sandbox::new();
    let simulation = Simulation::new(&mut sandbox, &agent(), Duration::ZERO).unwrap();
    let operator = sandbox.repo("operator");
    Simulation::write(&operator, 3, "one");
    let one = operator.commit("One");
    operator.add_remote("cluster", "deptool::@all");
    operator.git(&["push", "cluster", "prod"]).ok();
    let other = sandbox.clone_of(&operator, "other");
    other.add_remote("cluster", "deptool::@all");
    other.git(&["config", "deptool.cluster", "prod"]).ok();
    other.git(&["fetch", "cluster"]).ok();
    Simulation::write(&operator, 3, "two");
    let two = operator.commit("Two");
    operator.git(&["push", "cluster", "prod"]).ok();

    simulation.take_down("web001").unwrap();
    other.git(&["config", "fetch.prune", "true"]).ok();
    let run = other.git(&["fetch", "cluster"]).fails();
    let run = run.says("web001: unreachable: connect to host web001 port 22: No route to host");
    run.says("fatal: could not ask web001; the other hosts' refs are up to date").says("was fetched from 'origin'");
    let known = |host: &str| other.id(&format!("refs/remotes/{host}/prod"));
    assert_eq!([known("web000"), known("web001"), known("web002")], [two.clone(), one, two]);
}

#[test]
fn a_slow_host_holds_up_no_other_ones_fetch() {
    let sandbox = Sandbox::new();
    let operator = sandbox.repo("operator");
    for host in ["web1", "web2", "web3"] {
        operator.write(format!("{host}/app/file"), "x");
        operator.add_root(host);
    }
    operator.commit("One");
    operator.add_remote("cluster", "deptool::@all");
    operator.git(&["push", "cluster", "prod"]).ok();
    // The first host answers after the others have finished.
    let script = "case $DEPTOOL_ROOT in \
        */web1) until [ -e \"$DEPTOOL_ROOT/../web2.asked\" ] && [ -e \"$DEPTOOL_ROOT/../web3.asked\" ]; do \
            sleep 0.01; done; exec \"$DEPTOOL_AGENT\";; \
        *) \"$DEPTOOL_AGENT\"; touch \"$DEPTOOL_ROOT.asked\";; \
        esac";
    with_stand_in(&sandbox, &operator, &["fetch", "cluster"], script).run().unwrap().ok();
}
