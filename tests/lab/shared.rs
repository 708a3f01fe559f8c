//! Shared connections: ssh is not started for a host to which it has one, and nothing depends on that.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use deptool_tests::lab::{HostSpec, Lab, Link, start_or_skip};
use deptool_tests::process::{Cmd, poll};
use deptool_tests::sandbox::{Repo, Sandbox};

/// Hosts, and an operator whose ssh writes a line for each start: `asked`, or `started`.
struct Shared {
    lab: Lab,
    sandbox: Sandbox,
}

/// The hosts have been deployed to twice, the second time in one push.
fn deployed(hosts: &[&str], link: Link) -> Option<Shared> {
    let lab = start_or_skip(&hosts.iter().map(|host| HostSpec::new(host)).collect::<Vec<_>>())?;
    let mut sandbox = Sandbox::for_lab(&lab);
    lab.ssh_command(link).unwrap();
    let (file, log) = (sandbox.dir().join("bin/ssh"), sandbox.dir().join("log"));
    let (config, log) = (sandbox.dir().join("config"), log.display().to_string());
    fs::copy(lab.ssh_config(link).unwrap(), &config).unwrap();
    let text = format!(
        "#!/bin/sh\ncase $1 in -G) echo asked;; *) echo started;; esac >>{log}\nexec ssh -F {} \"$@\"\n",
        config.display()
    );
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    sandbox.set_env("GIT_SSH_COMMAND", file.to_str().unwrap());
    let shared = Shared { lab, sandbox };
    shared.sandbox.repo("operator").add_remote("cluster", "deptool::@all");
    for word in ["one", "two"] {
        shared.deploy(hosts, word);
        shared.operator().git(&["push", "cluster", "prod"]).ok();
    }
    shared.log();
    Some(shared)
}

impl Shared {
    fn operator(&self) -> Repo<'_> {
        self.sandbox.repo_at(self.sandbox.dir().join("operator"))
    }

    fn deploy(&self, hosts: &[&str], word: &str) -> String {
        hosts.iter().for_each(|host| self.operator().write(format!("{host}/web/word"), word));
        self.operator().commit(word)
    }

    /// What ssh was used for since the last call.
    fn log(&self) -> String {
        let file = self.sandbox.dir().join("log");
        let lines = fs::read_to_string(&file).unwrap_or_default();
        fs::write(&file, "").unwrap();
        lines.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn ssh(&self, args: &[&str]) -> Cmd {
        Cmd::new("ssh").arg("-F").arg(self.sandbox.dir().join("config")).args(args)
    }

    fn socket(&self, host: &str) -> PathBuf {
        let answer = self.ssh(&["-G", host]).check().unwrap().stdout();
        answer.lines().find_map(|line| line.strip_prefix("controlpath ")).unwrap().into()
    }

    #[track_caller]
    fn runs(&self, host: &str, word: &str, commit: &str) {
        assert_eq!(self.lab.host(host).sh("cat /var/lib/deptool/apps/web/current/word"), word);
        assert_eq!(self.operator().id(&format!("refs/remotes/{host}/prod")), commit);
        assert_eq!(self.operator().git(&["for-each-ref", "refs/deptool/unsettled"]).ok().stdout(), "");
    }
}

#[test]
fn ssh_is_not_started_for_a_host_to_which_it_has_a_connection() {
    let hosts = ["web1", "web2"];
    let Some(shared) = deployed(&hosts, Link::Shared) else { return };
    let three = shared.deploy(&hosts, "three");
    shared.operator().git(&["push", "cluster", "prod"]).ok();
    assert_eq!(shared.log(), "");
    hosts.iter().for_each(|host| shared.runs(host, "three", &three));

    shared.operator().git(&["fetch", "cluster"]).ok();
    assert_eq!(shared.log(), "");
    shared.operator().git(&["deptool", "verify"]).ok();
    assert_eq!(shared.log(), "");
    shared.operator().git(&["deptool", "rollback", "web1", "--yes"]).ok();
    assert_eq!(shared.log(), "");
    assert_eq!(shared.lab.host("web1").sh("cat /var/lib/deptool/apps/web/current/word"), "two");
}

#[test]
fn a_distant_host_gets_its_request_with_the_command_over_a_shared_connection() {
    let Some(shared) = deployed(&["web1"], Link::SharedDelayed(Duration::from_millis(60))) else { return };
    let three = shared.deploy(&["web1"], "three");
    shared.operator().git(&["push", "cluster", "prod"]).ok();
    assert_eq!(shared.log(), "");
    shared.runs("web1", "three", &three);
}

#[test]
fn ssh_is_started_where_the_shared_connection_is_gone_or_full_or_not_ours() {
    let Some(shared) = deployed(&["web1"], Link::Shared) else { return };
    let push = |word: &str| {
        let commit = shared.deploy(&["web1"], word);
        shared.operator().git(&["push", "cluster", "prod"]).ok();
        shared.runs("web1", word, &commit);
        shared.log()
    };
    let end = || shared.ssh(&["-O", "exit", "web1"]).run().unwrap().ok();
    end();
    assert_eq!(push("it was ended"), "started");
    assert_eq!(push("there is a new one"), "");

    end();
    let socket = shared.socket("web1");
    fs::write(&socket, "").unwrap();
    assert_eq!(push("there is a file instead"), "started");
    fs::remove_file(&socket).unwrap();
    // Nobody accepts there.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert_eq!(push("it was left behind"), "started");
    assert_eq!(push("ssh has replaced it"), "");

    end();
    shared.lab.host("web1").sh("echo MaxSessions 1 >/etc/ssh/sshd_config.d/few.conf; systemctl reload ssh");
    // sshd starts anew.
    let answers = || shared.ssh(&["-S", "none", "web1", "true"]).run().unwrap().success().then_some(());
    poll("sshd", Duration::from_secs(60), answers).unwrap();
    let mut busy = shared.ssh(&["web1", "echo begun >&2; sleep 60"]).start().unwrap();
    busy.wait_until_it_says("begun").unwrap();
    assert!(socket.exists());
    // The host refuses another session on the same connection; ssh makes a connection of its own.
    assert_eq!(push("it has no room"), "started");
    end();
    let _ = busy.wait();
}

#[test]
fn after_a_change_of_the_configuration_ssh_is_asked_again() {
    let Some(shared) = deployed(&["web1", "web2"], Link::Shared) else { return };
    let operator = shared.operator();
    // The connection to web1 is still there, but the configuration leads elsewhere now.
    let home = shared.sandbox.home().join(".ssh");
    fs::create_dir_all(&home).unwrap();
    fs::write(home.join("config"), "# nothing of importance\nHost *\nLogLevel ERROR\n").unwrap();
    shared.deploy(&["web1"], "three");
    operator.git(&["push", "cluster", "prod"]).ok();
    assert_eq!(shared.log(), "started asked");
    shared.deploy(&["web1"], "four");
    operator.git(&["push", "cluster", "prod"]).ok();
    assert_eq!(shared.log(), "");
    let mut elsewhere = shared.operator().command(&["push", "cluster", "prod"]);
    elsewhere = elsewhere.env("LAB_ELSEWHERE", "yes");
    let five = shared.deploy(&["web1"], "five");
    elsewhere.run().unwrap().ok();
    assert_eq!(shared.log(), "started asked", "a script that starts ssh may use any variable");
    shared.runs("web1", "five", &five);
}

#[test]
fn a_deployment_whose_shared_connection_ends_is_asked_for() {
    const SLOW: &str =
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=sleep 4\n[Install]\nWantedBy=multi-user.target\n";
    let Some(shared) = deployed(&["web1"], Link::Shared) else { return };
    let operator = shared.operator();
    operator.write("web1/web/systemd/slow.service", SLOW);
    operator.write("web1/web/manifest.json", r#"{"systemd": {"units_enabled": ["slow.service"]}}"#);
    let three = shared.deploy(&["web1"], "three");
    let push = operator.command(&["push", "cluster", "prod"]).start().unwrap();
    let state = || (shared.lab.host("web1").unit_state("slow.service") == "activating").then_some(());
    poll("activation", Duration::from_secs(30), state).unwrap();
    shared.ssh(&["-O", "exit", "web1"]).run().unwrap().ok();
    push.wait().unwrap().ok();
    shared.runs("web1", "three", &three);
    assert!(shared.log().starts_with("started"), "another connection, of its own");
}
