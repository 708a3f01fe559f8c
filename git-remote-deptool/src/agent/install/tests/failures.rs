//! What goes wrong is said, and nothing is changed by it.

use std::time::Duration;

use super::*;
use crate::agent::install::{InstallError, is_the_right_host, opening};

#[test]
fn a_host_that_calls_itself_something_else_is_left_untouched() {
    let host = Host::new();
    fs::write(host.at("hostname"), "# set at installation\n\ndb1\n").unwrap();
    let told = "'web1' calls itself 'db1' in /etc/hostname; if it is the right host, set remote.<name>.deptoolHost";
    assert_eq!(host.refusal(), told);
    assert_eq!(host.connect_with(Some(&Early::new(vec![Arc::from(*b"x")]))).0.unwrap_err().to_string(), told);
    assert_eq!(host.calls(), 2, "no second connection for nothing");
    assert!(host.nothing_was_written());
    for right in ["web1", "web1.example.org\n", "localhost\n", "", "\n", "# only a comment"] {
        let host = Host::new();
        fs::write(host.at("hostname"), right).unwrap();
        assert!(host.connect().is_ok(), "{right:?}");
    }
}

#[test]
fn a_hosts_name_is_its_own_or_one_is_the_others_first_label() {
    let right = |expected: &str, told| is_the_right_host(&HostName::parse(expected.as_bytes()).unwrap(), told);
    for told in [None, Some(""), Some("localhost"), Some("web1"), Some("WEB1"), Some("web1.example.org")] {
        assert!(right("web1", told), "{told:?}");
    }
    assert!(right("web1.example.org", Some("web1")));
    for told in ["web2", "web1x", "example.org", "web", "db.web1"] {
        assert!(!right("web1", Some(told)), "{told}");
    }
    assert!(!right("web1.example.org", Some("web1.example.net")));
}

#[test]
fn a_platform_without_agent_is_left_untouched() {
    let host = Host::new();
    host.write("overlay/uname", "echo Linux s390x");
    let known = "linux-x86_64, linux-aarch64, linux-armv7, linux-riscv64";
    assert_eq!(host.refusal(), format!("no agent for 'Linux s390x'; there are agents for {known}"));
    assert!(host.nothing_was_written());
}

#[test]
fn a_login_without_any_way_to_root_is_refused() {
    let mut host = Host::new();
    host.as_user();
    host.only(&["sh", "env"]);
    assert_eq!(
        host.refusal(),
        "can't install the agent on 'web1': the login is not root, and there is neither sudo nor doas to become it"
    );
}

#[test]
fn a_sudo_that_asks_for_a_password_or_refuses_is_told_apart() {
    let refusal = |program: &str, says: &str| {
        let mut host = Host::new();
        host.as_user();
        host.only(&["sh", "env"]);
        host.write(&format!("overlay/{program}"), &format!("echo \"{says}\" >&2; exit 1"));
        let refusal = host.refusal();
        assert!(host.nothing_was_written());
        refusal
    };
    for (program, says) in [("sudo", "sudo: a password is required"), ("doas", "doas: Authorization required")] {
        let expected =
            format!("{program} asks for a password: allow it without one (NOPASSWD, nopass) or log in as root");
        assert_eq!(refusal(program, says), format!("can't install the agent on 'web1': {expected}"));
    }
    for (program, says) in [
        ("sudo", "core is not in the sudoers file."),
        ("sudo", "Sorry, user core is not allowed to execute that"),
        ("sudo", "sudo: sorry, you must have a tty to run sudo"),
        ("doas", "doas: Operation not permitted"),
    ] {
        assert_eq!(refusal(program, says), format!("can't install the agent on 'web1': {program} refuses: {says}"));
    }
}

#[test]
fn a_missing_tool_is_named_before_anything_is_sent() {
    let host = Host::new();
    host.only(&["sh", "env", "uname", "mkdir", "rm", "dd", "chmod", "mv"]);
    assert_eq!(host.refusal(), "can't install the agent on 'web1': 'sha256sum' is missing");
    assert!(host.nothing_was_written());
}

/// A host whose `var` is a tmpfs of its own with these mount options; `None` where that can't be had.
fn mounted(options: &str) -> Option<Host> {
    let host = Host::new();
    let var = host.at("var");
    fs::create_dir(&var).unwrap();
    let mount = format!("mount -t tmpfs -o {options} none {}", var.display());
    // As root, or as root of a user namespace.
    for unshare in ["unshare -m", "unshare -rm"] {
        let script = |then: &str| format!("exec {unshare} sh -c '{mount} && {then}' sh \"$1\"");
        host.write("try", &script("true"));
        if Command::new(host.at("try")).stderr(Stdio::null()).status().unwrap().success() {
            host.write("login", &script("exec sh -c \"$1\""));
            return Some(host);
        }
    }
    eprintln!("skipped: nothing can be mounted here");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "a test was skipped");
    None
}

#[test]
fn a_full_disk_is_told() {
    let Some(host) = mounted("size=16k") else { return };
    let incompressible: String =
        (0..200_000u32).map(|i| (b'!' + (i.wrapping_mul(2_654_435_761) >> 20) as u8 % 90) as char).collect();
    host.bring_agent(&incompressible);
    let refusal = host.refusal();
    assert!(refusal.starts_with("can't install the agent on 'web1': no space left ("), "{refusal}");
}

#[test]
fn a_read_only_disk_is_told() {
    let Some(host) = mounted("ro") else { return };
    let refusal = host.refusal();
    assert!(refusal.starts_with("can't install the agent on 'web1': the file system is read-only ("), "{refusal}");
}

#[test]
fn a_disk_from_which_nothing_may_run_is_told() {
    let Some(host) = mounted("noexec") else { return };
    let refusal = host.refusal();
    assert!(refusal.starts_with("can't install the agent on 'web1': the file system is mounted noexec"), "{refusal}");
}

#[test]
fn a_directory_that_can_not_be_made_is_told_in_the_tools_words() {
    let host = Host::new();
    fs::write(host.at("var"), "a file").unwrap();
    let refusal = host.refusal();
    assert!(refusal.contains("cannot create directory") && refusal.contains("Not a directory"), "{refusal}");
}

#[test]
fn errors_of_the_tools_are_sorted_by_what_they_mean() {
    let read_only = "mkdir: cannot create directory '/var/lib/deptool': Read-only file system";
    assert!(matches!(InstallError::from_script("mkdir", read_only), InstallError::ReadOnly(_)));
    for full in ["gzip: stdout: No space left on device", "mv: x: Disk quota exceeded", "mv: x: Quota exceeded"] {
        assert!(matches!(InstallError::from_script("write", full), InstallError::NoSpace(_)));
    }
    assert_eq!(InstallError::from_script("write", "").to_string(), "the installation failed (write)");
}

#[test]
fn a_login_shell_that_prints_text_is_named() {
    let host = Host::new();
    host.write("login", "echo Welcome to web1; exec sh -c \"$1\"");
    let expected = "the login shell of 'web1' prints text ('Welcome to web1'): silence it for non-interactive sessions";
    assert_eq!(host.refusal(), expected);
    assert!(host.nothing_was_written());
    host.write("login", "echo This account is currently not available.; exit 1");
    let expected = "no answer from the agent on 'web1' (status 1): 'This account is currently not available.'";
    assert_eq!(host.refusal(), expected);
}

#[test]
fn a_host_that_can_not_be_reached_is_told_with_sshs_reason() {
    let host = Host::new();
    host.write("ssh", "echo 'ssh: connect to host web1 port 22: Connection refused' >&2; exit 255");
    let error = host.connect().unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable(_)));
    assert_eq!(error.to_string(), "unreachable: connect to host web1 port 22: Connection refused");
}

#[test]
fn an_agent_that_ends_without_a_word_is_an_error_with_what_it_said_on_stderr() {
    let host = Host::new();
    host.bring_agent("#!/bin/sh\necho 'no \x1b[1mlibc' >&2; exit 3\n");
    assert_eq!(host.refusal(), "no answer from the agent on 'web1' (status 3): no \\x1b[1mlibc");
}

#[test]
fn an_agent_of_another_build_is_refused() {
    let host = Host::new();
    host.bring_agent("#!/bin/sh\nread -r line\necho deptool-agent VERSION 0000000000000000\n");
    let refusal = host.refusal();
    assert!(refusal.contains("is of another build") && refusal.contains(build::BUILD_ID), "{refusal}");
}

#[test]
fn nothing_can_have_begun_where_the_command_ended_without_an_agents_line() {
    let host = Host::new();
    for (login, refusal) in [
        ("echo 'sudo: a password is required' >&2; exit 1", "sudo asks for a password"),
        ("echo 'killed by a profile' >&2; exit 7", "no answer from the agent"),
        ("head -c 20 >/dev/null; exit 3", "no answer from the agent"),
    ] {
        host.write("login", login);
        let early = Early::new(vec![b"a request"[..].into()]);
        let error = host.connect_with(Some(&early)).0.unwrap_err().to_string();
        assert!(error.contains(refusal), "{error}");
        assert!(!early.is_taken(), "{login}");
    }
    // A link that is lost is another matter: what came over it last may have been lost, too.
    host.write("login", "head -c 20 >/dev/null; exit 255");
    let early = Early::new(vec![b"a request"[..].into()]);
    assert!(matches!(host.connect_with(Some(&early)).0, Err(ConnectError::Cut)));
    assert!(early.is_taken());
}

#[test]
fn whoever_may_not_ask_is_let_ask_alone_and_later() {
    let mut host = Host::new();
    host.bring_agent("#!/bin/sh\nread -r word build\necho deptool-agent VERSION $build\n");
    let ssh = fs::read_to_string(host.at("ssh")).unwrap();
    let first =
        "#!/bin/sh\ncase \"$*\" in *BatchMode=yes*) echo 'Host key verification failed.' >&2; exit 255;; esac\n";
    host.write("ssh", &format!("{first}{}", ssh.strip_prefix("#!/bin/sh\n").unwrap_or(&ssh)));
    host.questions = Questions::Deferred;
    host.connector.can_ask = false;
    let error = host.connect().unwrap_err();
    assert_eq!(error.to_string(), "unreachable: Host key verification failed.");
    host.connector.can_ask = true;
    let (link, stages) = host.connect_with(None);
    link.unwrap();
    assert_eq!(stages[..3], [Stage::Connecting, Stage::Asking, Stage::Connecting]);
}

#[test]
fn a_connection_that_is_being_made_can_be_interrupted() {
    let host = Host::new();
    host.write("ssh", "exec sleep 600");
    let interrupted = host.connector.interrupted.clone();
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        interrupted.set();
    });
    assert!(matches!(host.connect(), Err(ConnectError::Interrupted)));
    later.join().unwrap();
}

#[test]
fn a_local_root_runs_the_agent_here_and_tells_it_where() {
    let host = Host::new();
    host.bring_agent(
        "#!/bin/sh\nread -r word build\necho deptool-agent VERSION $build\necho $DEPTOOL_ROOT $GIT_DIR .\n",
    );
    let target = Endpoint::Local(host.at("root"));
    let started = host.connector.start(&target, Present::Started, None, &mut |_| {}).unwrap();
    let mut link = host.connector.connect(started, None, &mut |_| {}).unwrap();
    let mut answer = String::new();
    link.incoming.read_to_string(&mut answer).unwrap();
    let root = fs::canonicalize(host.at("root")).unwrap();
    assert_eq!(answer, format!("{} .\n", root.display()));
}

#[test]
fn messages_are_one_line_however_long_the_hosts_text() {
    assert_eq!(opening::excerpt(b" a\nb\x1b "), "a\\nb\\x1b");
    assert!(opening::excerpt(&[b'x'; 5000]).len() < 200);
}
