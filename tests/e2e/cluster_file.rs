//! `cluster.json`: what operators share, and that an operator's own configuration wins.

use deptool_tests::sandbox::{Repo, Sandbox};

use crate::{cluster::deptool, group::breaks_when_activated, stand_in::agent, units::has_systemctl};

/// Puts a program named ssh into the sandbox's environment: it logs its destination and port, knows the hosts that have
/// a directory below `roots`, and starts an agent there.
fn with_ssh(sandbox: &mut Sandbox) {
    let dir = sandbox.dir().join("ssh-stand-in");
    std::fs::create_dir(&dir).unwrap();
    let script = format!(
        r#"while [ $# -gt 2 ]; do
    case $1 in -p) port=:$2; shift 2 ;; -o|-S|-O) shift 2 ;; *) shift ;; esac
done
echo "$1$port" >>{dir}/log
host=${{1#*@}}
[ -d {roots}/"$host" ] || {{ echo "ssh: Could not resolve hostname $host: Name or service not known" >&2; exit 255; }}
DEPTOOL_ROOT={roots}/$host exec {agent}
"#,
        dir = dir.display(),
        roots = sandbox.dir().join("roots").display(),
        agent = agent().display(),
    );
    let ssh = dir.join("ssh");
    std::fs::write(&ssh, script).unwrap();
    sandbox.set_env("GIT_SSH_COMMAND", &format!("sh {}", ssh.display()));
    sandbox.set_env("GIT_SSH_VARIANT", "ssh");
}

/// Where ssh went since the last call.
fn destinations(sandbox: &Sandbox) -> Vec<String> {
    let log = sandbox.dir().join("ssh-stand-in/log");
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let _ = std::fs::remove_file(log);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines.dedup();
    lines
}

/// Two hosts with an app each, a directory that is none, and this `cluster.json`.
fn begin<'a>(sandbox: &'a Sandbox, cluster_json: &str) -> Repo<'a> {
    let repo = sandbox.repo("operator");
    for host in ["web1", "web2"] {
        repo.write(format!("{host}/app/file"), "1");
    }
    repo.write("docs/text/page", "how to");
    repo.write("cluster.json", cluster_json);
    repo.commit("One");
    repo.git(&["config", "deptool.cluster", "prod"]).ok();
    repo
}

const SHARED: &str = r#"{
    "hosts": {"web1": {"ssh": {"host": "10.0.0.1", "user": "root", "port": 2222}}, "web2": {"ssh": {"host": "10.0.0.2"}}},
    "groups": {"web": ["web1", "web2"]},
    "ignore": ["docs"]
}"#;

#[test]
fn shared_addresses_lead_to_hosts_and_ignored_directories_are_none() {
    let mut sandbox = Sandbox::new();
    with_ssh(&mut sandbox);
    let repo = begin(&sandbox, SHARED);
    sandbox.root("10.0.0.1");
    sandbox.root("10.0.0.2");
    let plan = deptool(&repo, &["plan"]).ok();
    plan.prints("web1").does_not_say("docs");
    let deployed = repo.git(&["push", "deptool::@all", "prod"]).ok();
    deployed.says("deployed to 2 hosts").does_not_say("docs");
    assert_eq!(destinations(&sandbox), ["10.0.0.2", "root@10.0.0.1:2222"]);
    assert_eq!(sandbox.read("10.0.0.1", "/var/lib/deptool/apps/app/current/file"), b"1");
    // The file itself, and what is ignored, go to no host.
    for root in ["10.0.0.1", "10.0.0.2"] {
        assert!(!sandbox.tree(root).contains("cluster.json") && !sandbox.tree(root).contains("page"));
    }

    repo.write("web1/app/file", "2");
    repo.commit("Two");
    deptool(&repo, &["deploy", "-y", "@web"]).ok();
    assert_eq!(destinations(&sandbox), ["root@10.0.0.1:2222"]);
    repo.git(&["fetch", "deptool::web2"]).ok();
    assert_eq!(destinations(&sandbox), ["10.0.0.2"]);
    deptool(&repo, &["deploy", "-y", "docs"]).fails().says("the tree of 'prod' has no directory 'docs'");
}

#[test]
fn a_group_that_names_a_host_twice_leaves_out_none() {
    let mut sandbox = Sandbox::new();
    with_ssh(&mut sandbox);
    let repo = begin(&sandbox, r#"{"groups": {"web": ["web1", "web1", "web2"]}, "defaults": {"waves": "1,100%"}}"#);
    sandbox.root("web1");
    sandbox.root("web2");
    let deployed = repo.git(&["push", "deptool::@web", "prod"]).ok();
    deployed.says("deployed to 2 hosts");
    assert_eq!(sandbox.read("web2", "/var/lib/deptool/apps/app/current/file"), b"1");
}

#[test]
fn what_an_operator_has_configured_wins_over_what_is_shared() {
    let mut sandbox = Sandbox::new();
    with_ssh(&mut sandbox);
    let repo = begin(&sandbox, SHARED);
    sandbox.root("web1");
    sandbox.root("10.0.0.2");
    repo.add_remote("web1", "deptool::web1");
    repo.git(&["config", "deptool.group.web", "web2"]).ok();
    repo.git(&["push", "web1", "prod"]).ok();
    assert_eq!(destinations(&sandbox), ["web1"]);
    repo.git(&["push", "deptool::@web", "prod"]).ok().says("deployed to 1 host");
    assert_eq!(destinations(&sandbox), ["10.0.0.2"]);
}

#[test]
fn the_commit_that_is_pushed_says_where_hosts_are_and_one_without_the_file_leaves_them() {
    let mut sandbox = Sandbox::new();
    with_ssh(&mut sandbox);
    let repo = begin(&sandbox, SHARED);
    sandbox.root("10.0.0.1");
    sandbox.root("10.9.9.9");
    repo.git(&["push", "deptool::web1", "prod"]).ok();
    repo.git(&["checkout", "--quiet", "--detach"]).ok();
    repo.write("cluster.json", SHARED.replace("10.0.0.1", "10.9.9.9"));
    repo.write("web1/app/file", "2");
    repo.commit("Moved");
    destinations(&sandbox);
    // This is another machine, on which nothing is deployed yet.
    repo.git(&["push", "deptool::web1", "HEAD:prod"]).fails();
    assert_eq!(destinations(&sandbox), ["root@10.9.9.9:2222"]);
    repo.git(&["checkout", "--quiet", "prod"]).ok();
    repo.git(&["fetch", "deptool::web1"]).ok();
    repo.git(&["checkout", "--quiet", "--detach"]).ok();
    repo.remove("cluster.json");
    repo.write("web1/app/file", "3");
    repo.commit("Without");
    destinations(&sandbox);
    repo.git(&["push", "deptool::web1", "HEAD:prod"]).ok();
    assert_eq!(destinations(&sandbox), ["root@10.0.0.1:2222"]);
}

#[test]
fn a_wrong_file_fails_before_anything_is_planned_and_older_commits_can_still_be_deployed() {
    let mut sandbox = Sandbox::new();
    with_ssh(&mut sandbox);
    let repo = begin(&sandbox, "{}");
    sandbox.root("web1");
    sandbox.root("web2");
    repo.write("cluster.json", r#"{"hosts": {"web1": {"ssh": {"options": "-oProxyCommand=touch /tmp/x"}}}}"#);
    repo.commit("Wrong");
    let text = "cluster.json: hosts.web1.ssh.options: unknown field `options`";
    repo.git(&["push", "deptool::@all", "prod"]).fails().says(text);
    repo.git(&["push", "--dry-run", "deptool::web1", "prod"]).fails().says(text);
    deptool(&repo, &["plan"]).code(1).says(text);
    deptool(&repo, &["deploy", "-y"]).code(1).says(text);
    assert_eq!(destinations(&sandbox), [""; 0]);
    repo.git(&["push", "deptool::web1", "prod~1:prod"]).ok();
    repo.remove("cluster.json");
    repo.write("cluster.json/app/file", "");
    repo.commit("Worse");
    deptool(&repo, &["plan"]).code(1).says("cluster.json is not a regular file");
}

#[test]
fn a_directory_that_ssh_does_not_know_is_named_with_the_remedy() {
    let mut sandbox = Sandbox::new();
    with_ssh(&mut sandbox);
    let repo = begin(&sandbox, "{}");
    repo.remove("cluster.json");
    repo.commit("Without the file");
    sandbox.root("web1");
    sandbox.root("web2");
    let remedy = "if 'docs' is no host, add it to 'ignore' in cluster.json";
    repo.git(&["push", "deptool::@all", "prod"]).fails().says(remedy);
    deptool(&repo, &["deploy", "-y"]).code(4).prints(remedy);
    repo.write("cluster.json", r#"{"ignore": ["docs"]}"#);
    repo.commit("Ignore it");
    deptool(&repo, &["deploy", "-y"]).ok().does_not_say("docs");
    // A host that has an address of its own is no directory by mistake.
    repo.write("cluster.json", r#"{"ignore": ["docs"], "hosts": {"web1": {"ssh": {"host": "nowhere"}}}}"#);
    repo.write("web1/app/file", "2");
    repo.commit("Elsewhere");
    repo.git(&["push", "deptool::web1", "prod"]).fails().says("hostname nowhere").does_not_say("ignore");
}

#[test]
fn defaults_count_unless_the_operator_says_otherwise() {
    let sandbox = Sandbox::new();
    let repo = sandbox.repo("operator");
    for host in ["web1", "web2"] {
        repo.write(format!("{host}/app/file"), "1");
        repo.add_root(host);
    }
    repo.write("cluster.json", r#"{"defaults": {"atomic": true, "waves": "1,100%", "confirm": "45s"}}"#);
    repo.commit("One");
    repo.git(&["config", "deptool.cluster", "prod"]).ok();
    deptool(&repo, &["plan"]).ok().prints("wave 1: web1 (1 host)").prints("reached again within 45 s");
    deptool(&repo, &["plan", "--waves=100%", "--confirm=10s"]).ok().prints("within 10 s").does_not_say("wave 1");
    deptool(&repo, &["deploy", "-y", "--skip-unreachable"]).ok();

    // One host fails: the other one goes back, but not where the operator says otherwise.
    if !has_systemctl(&sandbox) {
        return;
    }
    let file = || sandbox.read("web1", "/var/lib/deptool/apps/app/current/file");
    repo.write("cluster.json", r#"{"defaults": {"atomic": true}}"#);
    repo.write("web1/app/file", "2");
    breaks_when_activated(&repo, "web2");
    repo.commit("Two");
    repo.git(&["push", "deptool::@all", "prod"]).fails().says("reverted on web1");
    assert_eq!(file(), b"1");
    repo.git(&["push", "-o", "no-atomic", "deptool::@all", "prod"]).fails().says("deployed to web1");
    assert_eq!(file(), b"2");
    repo.write("web1/app/file", "3");
    repo.commit("Three");
    deptool(&repo, &["deploy", "-y"]).fails();
    assert_eq!(file(), b"2");
    deptool(&repo, &["deploy", "-y", "--no-atomic"]).fails();
    assert_eq!(file(), b"3");
}

#[test]
fn a_first_file_has_what_is_configured_and_hosts_are_added_to_it() {
    let sandbox = Sandbox::new();
    let repo = sandbox.repo("operator");
    repo.write("web1/app/file", "1");
    repo.commit("One");
    repo.add_remote("web1", "deptool::root@192.0.2.1:2222");
    repo.git(&["config", "remote.web1.deptoolHost", "web1"]).ok();
    repo.git(&["config", "deptool.group.web", "web1 web2"]).ok();
    deptool(&repo, &["init", "--cluster-json"]).ok().prints("wrote cluster.json");
    let file = || std::fs::read_to_string(repo.dir.join("cluster.json")).unwrap();
    let compact = |text: String| text.split_whitespace().collect::<String>();
    let first =
        r#"{"hosts":{"web1":{"ssh":{"user":"root","host":"192.0.2.1","port":2222}}},"groups":{"web":["web1","web2"]}}"#;
    assert_eq!(compact(file()), first);
    deptool(&repo, &["init", "--cluster-json"]).fails().says("there is a cluster.json already");

    let add = ["add-host", "web2", "--ssh", "admin@[::1]:22", "--shared"];
    deptool(&repo, &add).ok().prints("changed cluster.json").prints("remote.web2.url = deptool::admin@[::1]:22");
    assert!(compact(file()).contains(r#""web2":{"ssh":{"user":"admin","host":"::1","port":22}}"#), "{}", file());
    deptool(&repo, &add).ok().prints("everything is set up already");
    repo.commit("Share");

    // Another operator's remote gets the shared address.
    let other = sandbox.clone_of(&repo, "other");
    deptool(&other, &["init"]).ok();
    deptool(&other, &["add-host", "web1"]).ok().prints("remote.web1.url = deptool::root@192.0.2.1:2222");

    deptool(&repo, &["add-host", "web3", "web4", "--ssh", "x"]).code(129).says("--ssh is for one host");
    deptool(&repo, &["add-host", "web3", "--ssh", "/srv"]).code(129).says("--ssh is written as '[user@]host[:port]'");
    repo.write("cluster.json", "{\"host\": 1}");
    deptool(&repo, &["add-host", "web3", "--shared"]).fails().says("cluster.json: host: unknown field `host`");
    assert_eq!(file(), "{\"host\": 1}");
}
