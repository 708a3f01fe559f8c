//! An ssh connection may be cut, or stall, after any number of bytes, and the operator's side may sleep: the host has
//! the old state or the new one, and the next contact reports which.

use std::time::Duration;

use deptool_tests::build;
use deptool_tests::lab::{Host, HostSpec, Link};
use deptool_tests::link::{Fate, Fault, Way};
use deptool_tests::process::{Cmd, Run, Signal, poll};

use crate::{
    detach::{below, name},
    stage::Stage,
};

const LONG: Duration = Duration::from_secs(90);

/// A unit whose restart shows that there was an activation. It takes a moment.
const SERVICE: &str = "\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'sleep 0.3; cat /var/lib/deptool/apps/web/current/word >/run/word'

[Install]
WantedBy=multi-user.target
";

fn deployed(hosts: &[&str]) -> Option<Stage> {
    let stage = Stage::with(&hosts.iter().map(|name| HostSpec::new(name)).collect::<Vec<_>>())?;
    let operator = stage.operator();
    for host in hosts {
        operator.add_remote(host, &format!("deptool::{host}"));
        operator.write(format!("{host}/web/systemd/web.service"), SERVICE);
        operator.write(format!("{host}/web/manifest.json"), r#"{"systemd": {"units_enabled": ["web.service"]}}"#);
        operator.write(format!("{host}/web/word"), "one\n");
    }
    operator.add_remote("cluster", "deptool::@all");
    operator.commit("One");
    operator.git(&["push", "cluster", "prod"]).ok();
    Some(stage)
}

impl Stage {
    /// A push to one host over connections of which the first `many` have that fault.
    fn push_over(&self, host: &str, many: usize, fault: Fault) -> Cmd {
        let count = self.sandbox.dir().join(format!("connections-{host}"));
        let _ = std::fs::remove_file(&count);
        let proxy = self.sandbox.dir().join(format!("proxy-{host}"));
        let xtask = build::xtask().unwrap();
        let script = format!(
            "#!/bin/sh\necho >>{count}\nif [ $(wc -l <{count}) -le {many} ]; then exec {xtask} relay --fault {} \"$@\"; fi\n\
             exec {xtask} relay --delay-ms 0 \"$@\"\n",
            fault.words(),
            count = count.display(),
            xtask = xtask.display(),
        );
        std::fs::write(&proxy, script).unwrap();
        let ssh = self.lab.ssh_command(Link::Plain).unwrap();
        let ssh = format!("{ssh} -o 'ProxyCommand=sh {} %h %p'", proxy.display());
        self.operator().command(&["push", host, "prod"]).env("GIT_SSH_COMMAND", ssh).timeout(Duration::from_secs(200))
    }

    /// Waits until the host is at rest, asks it, and asserts that it is exactly in the state that it reports and that
    /// is recorded. Returns that state.
    #[track_caller]
    fn tells(&self, name: &str, push: &Run) -> String {
        let (operator, host) = (self.operator(), self.lab.host(name));
        let at_rest = || (!operator.git(&["fetch", name]).ok().stderr().contains("has been")).then_some(());
        poll("the host is at rest", LONG, at_rest).unwrap_or_else(|error| panic!("{error}: {push}"));
        let commit = operator.id(&format!("refs/remotes/{name}/prod"));
        let word = operator.git(&["show", &format!("{commit}:{name}/web/word")]).ok().line();
        let on_host =
            host.sh("cat /var/lib/deptool/store/refs/heads/prod /var/lib/deptool/apps/web/current/word /run/word");
        assert_eq!(on_host, format!("{commit}\n{word}\n{word}"), "{push}");
        assert_eq!(host.unit_state("web.service"), "active", "{push}");
        let marks = operator.git(&["for-each-ref", &format!("refs/deptool/unsettled/{name}")]).ok().stdout();
        assert_eq!(marks, "", "{push}");
        if push.success() {
            assert_eq!(commit, operator.id("prod"), "what is said to be done is done: {push}");
        }
        commit
    }
}

#[test]
fn a_connection_that_is_cut_after_any_number_of_bytes_leaves_the_old_or_the_new() {
    let Some(stage) = deployed(&["web1"]) else { return };
    let operator = stage.operator();
    let mut ended = [0, 0];
    for way in [Way::Up, Way::Down] {
        for step in 0.. {
            let at = step * 450;
            operator.write("web1/web/word", format!("{way:?} {at}\n"));
            let commit = operator.commit("Next");
            // If no word comes from the agent, the helper asks what became of the request, and sends it once more.
            let push = stage.push_over("web1", 4, Fault { way, at, fate: Fate::Cut }).run().unwrap();
            let is_new = stage.tells("web1", &push) == commit;
            ended[usize::from(is_new)] += 1;
            // The next deployment succeeds.
            operator.git(&["push", "web1", "prod"]).ok();
            stage.tells("web1", &push);
            if push.success() && step > 4 {
                break;
            }
        }
    }
    println!("cuts over ssh: old {}, new {}", ended[0], ended[1]);
    assert!(ended[0] > 5 && ended[1] > 1, "{ended:?}");
}

#[test]
fn a_connection_that_stalls_is_given_up_and_the_truth_is_told() {
    // In the handshake, of whatever connection is tried and of the first; in the request; before the answer, and in the answer.
    // Each takes 30 seconds and more, all at the same time.
    let faults =
        [(3, Way::Up, 1500), (1, Way::Up, 1500), (1, Way::Up, 4050), (1, Way::Down, 3500), (1, Way::Down, 3900)];
    let hosts = ["web1", "web2", "web3", "web4", "web5"];
    let Some(stage) = deployed(&hosts) else { return };
    let operator = stage.operator();
    hosts.iter().for_each(|host| operator.write(format!("{host}/web/word"), "two\n"));
    operator.commit("Two");
    let going = hosts.iter().zip(faults).map(|(host, (many, way, at))| {
        stage.push_over(host, many, Fault { way, at, fate: Fate::Stall }).start().unwrap()
    });
    let going: Vec<_> = going.collect();
    let mut failed = 0;
    for (host, push) in hosts.iter().zip(going) {
        let push = push.wait().unwrap();
        failed += usize::from(!push.success());
        stage.tells(host, &push);
        operator.git(&["push", host, "prod"]).ok();
        stage.tells(host, &push);
    }
    assert!(failed > 0, "at least the one that could not even log in");
}

/// Pushes, and stops the helper from activation on until the hosts are at rest.
fn push_asleep(stage: &Stage, names: &[&str], args: &[&str]) -> Run {
    let hosts: Vec<&Host> = names.iter().map(|name| stage.lab.host(name)).collect();
    let says = |host: &Host, script: &str| host.sh(&format!("if {script}; then echo yes; fi")) == "yes";
    hosts.iter().for_each(|host| drop(host.sh("rm -f /run/begun; touch /run/hold")));
    let push = stage.operator().command(args).timeout(Duration::from_secs(200)).start().unwrap();
    for host in &hosts {
        poll("activation", LONG, || says(host, "[ -e /run/begun ]").then_some(())).unwrap();
    }
    let helper = below(push.pid()).into_iter().find(|pid| name(*pid).starts_with("git-remote-dept")).unwrap();
    rustix::process::kill_process(helper, Signal::STOP).unwrap();
    hosts.iter().for_each(|host| drop(host.sh("rm /run/hold")));
    let at_rest = "[ ! -s /var/lib/deptool/state/journal ] && [ ! -s /var/lib/deptool/state/lock ]";
    for host in &hosts {
        poll("the host at rest", LONG, || says(host, at_rest).then_some(())).unwrap();
    }
    rustix::process::kill_process(helper, Signal::CONT).unwrap();
    push.wait().unwrap()
}

#[test]
fn an_operator_who_closes_the_laptop_holds_nobody_up_and_finds_the_truth_later() {
    let Some(stage) = deployed(&["web1", "web2", "web3"]) else { return };
    let operator = stage.operator();
    let one = operator.id("prod");
    let slow = SERVICE.replace("sleep 0.3", "touch /run/begun; while [ -e /run/hold ]; do sleep 0.1; done");
    for host in ["web1", "web2", "web3"] {
        operator.write(format!("{host}/web/word"), "two\n");
        operator.write(format!("{host}/web/systemd/web.service"), &slow);
    }
    let two = operator.commit("Two");
    // A single host completes the deployment, and its answer waits.
    let push = push_asleep(&stage, &["web1"], &["push", "web1", "prod"]).ok();
    assert_eq!(stage.tells("web1", &push), two);
    // Several hosts wait for the helper, which is silent for longer than they wait, so none keeps the deployment.
    let push = push_asleep(&stage, &["web2", "web3"], &["push", "--atomic", "cluster", "prod"]).fails();
    for name in ["web2", "web3"] {
        assert_eq!(stage.tells(name, &push), one, "{push}");
    }
}
