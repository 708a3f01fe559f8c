//! The command works whatever shells and tools a host has.

use super::*;

/// Install, then connect again.
fn installs_once(host: &Host, what: &str) {
    let (link, stages) = host.connect_with(None);
    let link = link.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(matches!(stages[..], [Stage::Connecting, Stage::Installing { .. }]), "{what}");
    assert_eq!(echo(link, b"\x00\xffone\n"), b"\x00\xffone\n", "{what}");
    assert_eq!(host.installed(), [build::agent_file_name()], "{what}");
    assert_eq!(fs::metadata(host.agent()).unwrap().permissions().mode() & 0o7777, 0o755, "{what}");
    let (link, stages) = host.connect_with(Some(&Early::new(vec![Arc::from(*b"two, ")])));
    assert_eq!(stages, [Stage::Connecting], "{what}");
    assert_eq!(echo(link.unwrap(), b"three"), b"two, three", "{what}");
    assert_eq!(host.calls(), 2, "{what}");
}

/// Connect to an agent that is expected to be there.
fn connects_directly(host: &Host, what: &str) {
    let before = host.calls();
    let early = Early::new(vec![Arc::from(*b"two, ")]);
    let (link, stages) = host.connect_to(Present::Expected, Some(&early));
    assert_eq!(echo(link.unwrap(), b"three"), b"two, three", "{what}");
    assert_eq!((&stages[..], host.calls()), (&[Stage::Connecting][..], before + 1), "{what}");
}

const SHELLS: [&str; 8] = ["sh", "dash", "bash", "busybox sh", "fish", "tcsh", "zsh", "mksh"];

/// A host with this login shell. `None` if this machine has no such shell.
fn with_login_shell(shell: &str) -> Option<Host> {
    let program = shell.split(' ').next().unwrap();
    let path = which::which(program).ok()?;
    let host = Host::new();
    let arguments = shell.strip_prefix(program).unwrap();
    let login = format!("export HOME={}; exec {}{arguments} -c \"$1\"", host.dir.path().display(), path.display());
    host.write("login", &login);
    Some(host)
}

#[test]
fn first_contact_installs_and_the_second_goes_straight_to_the_agent_in_every_login_shell() {
    for shell in SHELLS {
        let Some(host) = with_login_shell(shell) else { continue };
        installs_once(&host, shell);
        connects_directly(&host, shell);
    }
}

#[test]
fn an_agent_that_is_expected_and_missing_is_installed_with_one_more_connection_in_every_login_shell() {
    for shell in SHELLS {
        let Some(host) = with_login_shell(shell) else { continue };
        let early = Early::new(vec![Arc::from(*b"two, ")]);
        let (link, stages) = host.connect_to(Present::Expected, Some(&early));
        assert_eq!(echo(link.unwrap(), b"three"), b"two, three", "{shell}");
        assert!(matches!(stages[..], [Stage::Connecting, Stage::Installing { .. }]), "{shell}");
        assert_eq!(host.calls(), 2, "{shell}");
        connects_directly(&host, shell);
    }
}

#[test]
fn an_agent_that_root_is_expected_to_start_and_another_user_starts_gets_roots_rights_with_one_more_connection() {
    let mut host = Host::new();
    host.as_user();
    host.write("overlay/sudo", "[ \"$1\" = -n ] || exit 1; shift; ROOT=1 exec \"$@\"");
    drop(host.connect().unwrap());
    let agent = fs::read_to_string(host.agent()).unwrap();
    let body = agent.strip_prefix("#!/bin/sh\n").unwrap();
    write_program(&host.agent(), &format!("#!/bin/sh\n[ $ROOT ] || {{ echo deptool-error no-root x; exit; }}\n{body}"));
    let calls = host.calls();
    let early = Early::new(vec![Arc::from(*b"two, ")]);
    let (link, stages) = host.connect_to(Present::Expected, Some(&early));
    assert_eq!(echo(link.unwrap(), b"three"), b"two, three");
    assert_eq!((&stages[..], host.calls()), (&[Stage::Connecting][..], calls + 2));
}

#[test]
fn the_scripts_work_in_dash_bash_and_busybox_sh() {
    for shell in ["dash", "bash", "busybox", "zsh", "mksh"] {
        let Ok(path) = which::which(shell) else { continue };
        let host = Host::new();
        symlink(path, host.at("overlay/sh")).unwrap();
        installs_once(&host, shell);
    }
}

const COREUTILS: [&str; 12] =
    ["sh", "uname", "mkdir", "rm", "dd", "sha256sum", "chmod", "mv", "sync", "id", "env", "cat"];

#[test]
fn a_host_without_gzip_gets_the_agent_as_it_is() {
    let host = Host::new();
    host.only(&COREUTILS);
    assert!(host.run_raw(hello().as_bytes()).contains(" plain "), "gzip was found");
    installs_once_after_a_look(&host);
}

#[test]
fn busybox_alone_is_enough() {
    let Ok(busybox) = which::which("busybox") else { return };
    let host = Host::new();
    host.only(&[]);
    for applet in COREUTILS.iter().chain(&["gzip"]) {
        symlink(&busybox, host.at("tools").join(applet)).unwrap();
    }
    assert!(host.run_raw(hello().as_bytes()).contains(" gzip "), "gzip was not found");
    installs_once_after_a_look(&host);
}

fn installs_once_after_a_look(host: &Host) {
    assert!(host.nothing_was_written());
    fs::remove_file(host.at("log/calls")).unwrap();
    installs_once(host, "restricted");
}

#[test]
fn sudo_or_doas_give_a_user_roots_rights_and_start_nothing_but_the_agent_later() {
    for program in ["sudo", "doas"] {
        let mut host = Host::new();
        host.as_user();
        let log = host.at("log/sudo");
        host.only(&[&COREUTILS[..], &["gzip"]].concat());
        host.write(
            &format!("overlay/{program}"),
            &format!("[ \"$1\" = -n ] || exit 1; shift; echo \"$1\" >>{}; exec \"$@\"", log.display()),
        );
        installs_once(&host, program);
        assert_eq!(fs::read_to_string(&log).unwrap(), format!("sh\n{}\n", host.agent().display()), "{program}");
    }
}

#[test]
fn root_forks_nothing_on_the_way_to_an_agent_that_is_there() {
    let host = Host::new();
    drop(host.connect().unwrap());
    // Nothing is to be found on PATH any more.
    let sh = which::which("sh").unwrap();
    host.write("login", &format!("c=\"exec {} ${{1#exec sh}}\"; PATH=/nowhere; eval \"$c\"", sh.display()));
    write_program(&host.agent(), "#!/bin/sh\nread -r word build\necho deptool-agent x $build\n");
    assert!(matches!(host.connect(), Err(ConnectError::OtherBuild { .. })), "the agent was reached");
}

#[test]
fn root_is_recognised_also_where_the_root_directory_belongs_to_nobody() {
    let mut host = Host::new();
    host.as_user();
    host.write("overlay/id", "echo 0");
    installs_once(&host, "id");
}

#[test]
fn nothing_of_the_repository_reaches_the_host_and_ctrl_c_does_not_end_ssh() {
    let host = Host::new();
    let script = fs::read_to_string(host.at("ssh")).unwrap();
    let body = script.strip_prefix("#!/bin/sh\n").unwrap();
    let env = host.at("log/env");
    host.write("ssh", &format!("env >{}; kill -INT $$\n{body}", env.display()));
    host.connect().unwrap();
    let env = fs::read_to_string(env).unwrap();
    assert!(env.contains("PATH=") && !env.contains("GIT_"), "{env}");
}

#[test]
fn a_command_line_of_the_users_gets_our_arguments_appended() {
    let mut host = Host::new();
    let line = format!("X=y {} -v 'a b'", host.at("ssh").display());
    host.connector.ssh = SshSettings::new(&host.connector.environment, Some(line.into()), Some("ssh".into()));
    assert_eq!(echo(host.connect().unwrap(), b"x"), b"x");
}
