//! Several hosts at once, over ssh and with systemd: waves, all or none, an unreachable host.

use deptool_tests::lab::{HostSpec, Lab, start_or_skip};
use deptool_tests::sandbox::{Repo, Sandbox};

const HOSTS: [&str; 3] = ["web1", "web2", "web3"];

const SERVICE: &str = "\
[Service]
ExecStart=/bin/sh -c '[ $(cat /var/lib/deptool/apps/web/current/word) != bad ] && exec sleep infinity'

[Install]
WantedBy=multi-user.target
";

fn deployed() -> Option<(Lab, Sandbox)> {
    let lab = start_or_skip(&HOSTS.map(HostSpec::new))?;
    let sandbox = Sandbox::for_lab(&lab);
    let operator = sandbox.repo("operator");
    for host in HOSTS {
        operator.write(format!("{host}/web/systemd/web.service"), SERVICE);
        operator.write(format!("{host}/web/manifest.json"), r#"{"systemd": {"units_enabled": ["web.service"]}}"#);
        operator.write(format!("{host}/web/word"), "one\n");
    }
    operator.add_remote("cluster", "deptool::@all");
    operator.commit("One");
    operator.git(&["push", "cluster", "prod"]).ok().says("deployed to 3 hosts in ");
    Some((lab, sandbox))
}

/// Writes a word for each host, and commits.
fn say(operator: &Repo<'_>, words: [&str; 3]) -> String {
    HOSTS.iter().zip(words).for_each(|(host, word)| operator.write(format!("{host}/web/word"), format!("{word}\n")));
    operator.commit("Words")
}

/// Asserts what each host runs, from its own files and from its tracking ref, and that its service is up.
#[track_caller]
fn runs(lab: &Lab, operator: &Repo<'_>, commit: [&str; 3]) {
    for (name, commit) in HOSTS.iter().zip(commit) {
        let host = lab.host(name);
        let word = std::fs::read_to_string(host.path("/var/lib/deptool/current/web/word"));
        let word = word.or_else(|_| Ok::<_, ()>(host.sh("cat /var/lib/deptool/apps/web/current/word"))).unwrap();
        assert_eq!(word.trim(), operator.git(&["show", &format!("{commit}:{name}/web/word")]).ok().line());
        assert_eq!(operator.id(&format!("refs/remotes/{name}/prod")), operator.id(commit), "{name}");
        assert_eq!(host.unit_state("web.service"), "active", "{name}");
    }
    assert_eq!(operator.git(&["for-each-ref", "refs/deptool/unsettled"]).ok().stdout(), "");
}

#[test]
fn a_service_that_fails_on_one_host_takes_all_back_or_stops_the_waves() {
    let Some((lab, sandbox)) = deployed() else { return };
    let operator = sandbox.repo_at(sandbox.dir().join("operator"));
    let one = operator.id("prod");
    say(&operator, ["two", "bad", "two"]);
    let run = operator.git(&["push", "--atomic", "cluster", "prod"]).code(1);
    run.says("failed on web2 (rolled back: web.service ").says("; reverted on web1, web3)");
    runs(&lab, &operator, [&one, &one, &one]);
    let run = operator.git(&["push", "-o", "waves=1,2", "cluster", "prod"]).code(1);
    run.says("failed on web2 (rolled back: web.service ").says("; not attempted on web3; deployed to web1)");
    let two = operator.id("prod");
    runs(&lab, &operator, [&two, &one, &one]);
    let three = say(&operator, ["two", "three", "three"]);
    operator.git(&["push", "--atomic", "-o", "waves=1", "cluster", "prod"]).ok();
    runs(&lab, &operator, [&two, &three, &three]);
}

#[test]
fn a_host_that_is_away_is_left_out_or_keeps_the_others_as_they_are() {
    let Some((lab, sandbox)) = deployed() else { return };
    let operator = sandbox.repo_at(sandbox.dir().join("operator"));
    let one = operator.id("prod");
    let two = say(&operator, ["two", "two", "two"]);
    lab.host("web3").kill();
    let run = operator.git(&["push", "cluster", "prod"]).code(1);
    run.says("failed on web3 (unreachable: ").says("not attempted on web1, web2)");
    let run = operator.git(&["push", "-o", "skip-unreachable", "cluster", "prod"]).code(1);
    run.says("(skipped, as unreachable: web3; deployed to web1, web2)");
    lab.host("web3").boot().unwrap();
    runs(&lab, &operator, [&two, &two, &one]);
    operator.git(&["push", "-o", "confirm=20s", "cluster", "prod"]).ok().says("deployed to 1 host in ");
    runs(&lab, &operator, [&two, &two, &two]);
}
