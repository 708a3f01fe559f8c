//! Starting ssh, the way Git does.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    sync::OnceLock,
};

use deptool_agent::shared::{env_request, name::HostName};
use rustix::process::setsid;

pub mod control;
pub mod mux;
mod program;
mod shell;

use control::ControlSocket;
use program::{Program, Variant, find};

use super::{ConnectError, Environment, user_config::UserConfig};

/// A host that is reached over ssh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshEndpoint {
    /// The login user, if the address has one.
    pub user: Option<String>,
    /// The name, alias or address that ssh connects to.
    pub host: String,
    pub port: Option<u16>,
    /// The host's directory in the tree (`deptoolHost`, or `host`), which its `/etc/hostname` must match.
    pub name: HostName,
    pub sharing: Sharing,
    /// What ssh has said about the socket of a shared connection.
    pub socket: Option<ControlSocket>,
    pub questions: Questions,
}

/// Whether ssh may ask the operator something: about a host key, or for a passphrase, PIN or password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Questions {
    /// This is the only connection that is being made.
    Allowed,
    /// Other connections are made at the same time, so ssh must not ask (`BatchMode`). If it needs to, the host is
    /// connected to again later, one host at a time.
    Deferred,
}

impl SshEndpoint {
    /// Whether ssh gave up because it was not allowed to ask.
    pub fn needs_answer(&self, stderr: &str) -> bool {
        const SIGNS: [&str; 6] = [
            "Host key verification failed",
            "Permission denied (",
            "Too many authentication failures",
            "signing failed",
            // Messages of other programs than ssh if there is no terminal.
            "/dev/tty",
            "a tty",
        ];
        self.questions == Questions::Deferred && SIGNS.iter().any(|sign| stderr.contains(sign))
    }
}

/// Whether a shared connection may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// If the user's configuration says so (`ControlMaster`).
    AsConfigured,
    /// Yes, and a new connection is shared with later sessions (`deptool.shareConnections`).
    Asked,
    /// No, to test that a new connection can be made, or because the shared one may be broken.
    Never,
}

/// Git's settings for ssh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SshSettings {
    /// The command line in `GIT_SSH_COMMAND` or `core.sshCommand`, or else the program in `GIT_SSH`, or else ssh.
    program: Option<Program>,
    /// `GIT_SSH_VARIANT`, else `ssh.variant`.
    variant: Option<OsString>,
    /// Set when the program was found to take the options of OpenSSH, if neither tells.
    takes_options: OnceLock<()>,
    config: UserConfig,
}

impl SshSettings {
    /// The settings that Git would use.
    pub fn new(environment: &Environment, core_ssh_command: Option<OsString>, ssh_variant: Option<OsString>) -> Self {
        let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty()).map(OsStr::to_owned);
        let program = match (variable("GIT_SSH_COMMAND").or(core_ssh_command), variable("GIT_SSH")) {
            (Some(line), _) => Some(Program::line(&line, environment)),
            (None, Some(file)) => Some(Program::file(&file, environment)),
            (None, None) => find("ssh", environment).map(|file| Program::file(&file, environment)),
        };
        let arguments = program.as_ref().map(Program::arguments).unwrap_or_default();
        SshSettings {
            config: UserConfig::read(environment, &arguments),
            program,
            variant: variable("GIT_SSH_VARIANT").or(ssh_variant),
            takes_options: OnceLock::new(),
        }
    }
}

/// A command that runs `remote_command` on `target`.
///
/// Ctrl-C reaches the whole foreground process group, but ssh must live until the host was told about the interrupt. So SIGINT is
/// ignored when ssh starts, and ssh keeps ignoring it. In a process group of its own, ssh would be stopped (SIGTTIN) when it asks
/// for a password, and would outlive us if it is killed with us.
///
/// An ssh that must not ask gets a session of its own instead: a jump host's ssh, which does not inherit our `BatchMode`, finds
/// no terminal there.
pub fn command(
    target: &SshEndpoint,
    settings: &SshSettings,
    environment: &Environment,
    remote_command: &str,
) -> Result<Command, ConnectError> {
    let (program, variant) = choose(settings, environment, target)?;
    let arguments = arguments(variant, target, (settings, environment))?;
    let mut command = started(&program.words, environment);
    match target.questions {
        Questions::Allowed => before(&mut command, ignore_interrupts),
        Questions::Deferred => {
            command.env("SSH_ASKPASS_REQUIRE", "never");
            before(&mut command, || Ok(setsid().map(drop)?));
        }
    }
    command.args(arguments).arg(remote_command);
    Ok(command)
}

/// Do something in the new process before it becomes ssh. Programs for that (`sh -c 'trap "" INT'`, `setsid`) would take a
/// millisecond of each push.
#[allow(unsafe_code)]
fn before(command: &mut Command, act: fn() -> io::Result<()>) {
    // SAFETY: in the copy of a process with several threads, only system calls may be made. Both callers' are nothing else.
    unsafe { command.pre_exec(act) };
}

#[allow(unsafe_code)]
fn ignore_interrupts() -> io::Result<()> {
    // SAFETY: SIG_IGN installs no handler, so no code runs in signal context.
    match unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A command in the user's environment, without the variables about the repository.
fn started(words: &[OsString], environment: &Environment) -> Command {
    let is_ours = |name: &[u8]| name.starts_with(b"GIT_") || name == env_request::VARIABLE.as_bytes();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command.env_clear().envs(environment.iter().filter(|(name, _)| !is_ours(name.as_bytes())));
    command
}

fn choose<'a>(
    settings: &'a SshSettings,
    environment: &Environment,
    target: &SshEndpoint,
) -> Result<(&'a Program, Variant), ConnectError> {
    let program = settings.program.as_ref().ok_or(ConnectError::NoSsh)?;
    let variant = match (settings.variant.as_deref().and_then(OsStr::to_str), program.variant) {
        (Some("ssh"), _) => Variant::OpenSsh,
        (Some("simple"), _) => Variant::Simple,
        (Some("plink" | "putty"), _) => Variant::Plink,
        (Some("tortoiseplink"), _) => Variant::TortoisePlink,
        (_, Some(variant)) => variant,
        (_, None) if settings.takes_options.get().is_some() => Variant::OpenSsh,
        (_, None) if understands_openssh_options(program, environment, target) => {
            settings.takes_options.get_or_init(|| ());
            Variant::OpenSsh
        }
        (_, None) => Variant::Simple,
    };
    Ok((program, variant))
}

/// Git's test for programs with other names: does the program accept `-G`, like OpenSSH?
fn understands_openssh_options(program: &Program, environment: &Environment, target: &SshEndpoint) -> bool {
    let mut command = started(&program.words, environment);
    command.arg("-G").arg(destination(target));
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn destination(target: &SshEndpoint) -> String {
    match &target.user {
        Some(user) => format!("{user}@{}", target.host),
        None => target.host.to_string(),
    }
}

/// The options of each variant, and the destination.
///
/// An address that does not answer is given up in less than ten seconds, after which a host counts as unreachable. A
/// dead connection is detected after thirty seconds, as in the protocol. Values on the user's own command line come
/// before ours and take precedence.
fn arguments(
    variant: Variant,
    target: &SshEndpoint,
    (settings, environment): (&SshSettings, &Environment),
) -> Result<Vec<OsString>, ConnectError> {
    let destination = destination(target);
    if destination.starts_with('-') || destination.contains(char::is_control) {
        return Err(ConnectError::BadLogin(destination));
    }
    let mut arguments: Vec<OsString> = Vec::new();
    let mut push = |parts: &[&str]| arguments.extend(parts.iter().map(Into::into));
    if (variant, target.sharing) == (Variant::OpenSsh, Sharing::Never) {
        // Unlike `-o ControlPath`, this also applies if the user's command line sets a path.
        push(&["-S", "none"]);
    }
    if (variant, target.sharing) == (Variant::OpenSsh, Sharing::Asked) {
        push(&["-o", "ControlMaster=auto", "-o", "ControlPersist=10m", "-o", &control_path(environment)]);
    }
    let port = target.port.map(|port| port.to_string());
    match (variant, port.as_deref()) {
        (Variant::OpenSsh, _) => {
            push(&["-o", "ConnectTimeout=8", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=6"]);
            // Settings for interactive sessions would break a command.
            push(&["-o", "RemoteCommand=none", "-o", "PermitLocalCommand=no"]);
            settings.config.overrides.iter().for_each(|option| push(&["-o", option]));
            // This is always set, because a shared connection sends only the variables that were set when it was made.
            push(&["-o", &format!("SendEnv={}", env_request::VARIABLE), "-T"]);
            if target.questions == Questions::Deferred {
                push(&["-o", "BatchMode=yes"]);
            }
        }
        (Variant::Simple, Some(_)) => return Err(ConnectError::PortNotSupported),
        (Variant::Simple, None) => {}
        (Variant::Plink, _) => push(&["-T"]),
        (Variant::TortoisePlink, _) => push(&["-batch", "-T"]),
    }
    match (variant, port.as_deref()) {
        (Variant::OpenSsh, Some(port)) => push(&["-p", port]),
        (Variant::Plink | Variant::TortoisePlink, Some(port)) => push(&["-P", port]),
        (_, None) | (Variant::Simple, Some(_)) => {}
    }
    push(&[&destination]);
    Ok(arguments)
}

/// The socket is in a directory that only the user can write to. ssh expands the home directory.
fn control_path(environment: &Environment) -> String {
    let runtime = environment.get("XDG_RUNTIME_DIR").and_then(OsStr::to_str);
    // Characters that ssh would expand are not worth escaping.
    let is_plain = |directory: &&str| directory.starts_with('/') && !directory.contains(['%', '"', ' ', '$']);
    let directory = runtime.filter(is_plain).filter(|directory| Path::new(directory).is_dir()).unwrap_or("~/.ssh");
    format!("ControlPath={directory}/deptool-%C")
}

/// Said of an ssh that has said nothing.
pub const NO_REASON: &str = "ssh gave no reason";

/// Why ssh could not connect, according to its stderr: the last line, or an earlier one that says more.
pub fn reason(stderr: &str) -> String {
    let lines = || stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines().rfind(|line| !is_consequence(line)).or_else(|| lines().next_back()).unwrap_or(NO_REASON);
    line.strip_prefix("ssh: ").unwrap_or(line).to_owned()
}

/// Whether ssh prints this line because a jump host or a proxy command failed.
fn is_consequence(line: &str) -> bool {
    line.starts_with("kex_exchange_identification: ") || line.starts_with("Connection closed by UNKNOWN")
}

/// Whether a line of ssh adds nothing to an error with this reason.
pub fn is_told(line: &str, reason: &str) -> bool {
    line.strip_prefix("ssh: ").unwrap_or(line) == reason || is_consequence(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> SshEndpoint {
        let host = HostName::parse(b"web1").unwrap();
        SshEndpoint {
            user: None,
            host: host.to_string(),
            port: None,
            name: host,
            sharing: Sharing::AsConfigured,
            socket: None,
            questions: Questions::Allowed,
        }
    }

    fn chosen(settings: SshSettings) -> Variant {
        choose(&settings, &environment(), &target()).unwrap().1
    }

    fn environment() -> Environment {
        Environment::from_iter([("PATH", "/usr/bin:/bin")])
    }

    fn line(line: &str) -> SshSettings {
        SshSettings::new(&environment(), Some(line.into()), None)
    }

    #[test]
    fn the_program_is_chosen_as_git_chooses_it() {
        let environment = Environment::from_iter([("GIT_SSH", "/opt/plink.exe"), ("GIT_SSH_COMMAND", "")]);
        let settings = SshSettings::new(&environment, Some("ssh -i x".into()), None);
        assert_eq!(chosen(settings), Variant::OpenSsh, "core.sshCommand comes before GIT_SSH");
        assert_eq!(chosen(SshSettings::new(&environment, None, None)), Variant::Plink);
        let environment = Environment::from_iter([("GIT_SSH_COMMAND", "a"), ("GIT_SSH_VARIANT", "simple")]);
        let settings = SshSettings::new(&environment, Some("ssh".into()), Some("plink".into()));
        assert_eq!(settings.program, Some(Program::line("a".as_ref(), &environment)));
        assert_eq!(chosen(settings), Variant::Simple);
    }

    #[test]
    fn options_fit_the_program() {
        assert_eq!(chosen(line("'/usr/bin/ssh' -F x")), Variant::OpenSsh);
        assert_eq!(chosen(line("C:/x/TortoisePlink.exe -v")), Variant::TortoisePlink);
        assert_eq!(chosen(line("/bin/false")), Variant::Simple, "it does not understand -G");
        assert_eq!(chosen(line("X=y true")), Variant::OpenSsh, "it accepts -G");
        let with_port = SshEndpoint { port: Some(2222), user: Some("core".into()), ..target() };
        let unset = (&SshSettings::default(), &Environment::default());
        let shown = |variant| arguments(variant, &with_port, unset).map(|a| a.join(OsStr::new(" ")));
        assert!(shown(Variant::OpenSsh).unwrap().to_str().unwrap().ends_with("-T -p 2222 core@web1"));
        assert!(!shown(Variant::OpenSsh).unwrap().to_str().unwrap().contains("-S none"));
        let v6 = SshEndpoint { host: "::1".into(), ..target() };
        let v6 = arguments(Variant::OpenSsh, &v6, unset).unwrap();
        assert_eq!(v6[v6.len() - 1], "::1");
        let deferred = SshEndpoint { questions: Questions::Deferred, ..target() };
        assert!(arguments(Variant::OpenSsh, &deferred, unset).unwrap().contains(&"BatchMode=yes".into()));
        let afresh = SshEndpoint { sharing: Sharing::Never, ..with_port.clone() };
        let line = arguments(Variant::OpenSsh, &afresh, unset).unwrap().join(OsStr::new(" "));
        assert!(line.to_str().unwrap().starts_with("-S none -o ConnectTimeout"), "{line:?}");
        let asked = SshEndpoint { sharing: Sharing::Asked, ..with_port.clone() };
        let environment = Environment::from_iter([("XDG_RUNTIME_DIR", "/nowhere")]);
        let line =
            arguments(Variant::OpenSsh, &asked, (&SshSettings::default(), &environment)).unwrap().join(OsStr::new(" "));
        assert!(line.to_str().unwrap().contains("-o ControlPath=~/.ssh/deptool-%C"), "{line:?}");
        assert_eq!(shown(Variant::Plink).unwrap(), "-T -P 2222 core@web1");
        assert_eq!(shown(Variant::TortoisePlink).unwrap(), "-batch -T -P 2222 core@web1");
        assert!(matches!(shown(Variant::Simple), Err(ConnectError::PortNotSupported)));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn no_interrupt_reaches_ssh_and_no_question_the_terminal() {
        let environment = Environment::from_iter([("PATH", "/usr/bin:/bin")]);
        // In place of ssh. Prints its session, and the signals that it ignores as a mask.
        let line = "set -- $(cut -d' ' -f1,6 /proc/self/stat) $(grep SigIgn /proc/self/status); echo $2 $4 #";
        let settings = SshSettings::new(&environment, Some(line.into()), Some("ssh".into()));
        let begin = |questions| {
            let target = SshEndpoint { questions, ..target() };
            let output = command(&target, &settings, &environment, "cmd").unwrap().output().unwrap();
            let output = String::from_utf8(output.stdout).unwrap();
            let (session, ignored) = output.trim().split_once(' ').unwrap();
            (session.parse::<i32>().unwrap(), u64::from_str_radix(ignored, 16).unwrap() >> (libc::SIGINT - 1) & 1 == 1)
        };
        // Not getsid(): in a container, the session may be one from outside, whose number is 0.
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let ours: i32 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap().parse().unwrap();
        assert_eq!(begin(Questions::Allowed), (ours, true));
        assert_ne!(begin(Questions::Deferred).0, ours);
    }

    #[test]
    fn an_address_can_not_become_an_option() {
        let target = SshEndpoint { user: Some("-oProxyCommand=x".into()), ..target() };
        assert!(matches!(
            arguments(Variant::OpenSsh, &target, (&SshSettings::default(), &Environment::default())),
            Err(ConnectError::BadLogin(_))
        ));
    }

    #[test]
    fn the_reason_is_the_line_that_tells_most() {
        assert_eq!(
            reason("x\nssh: connect to host web1 port 22: Connection refused\n"),
            "connect to host web1 port 22: Connection refused"
        );
        let jump = "ssh: connect to host jump port 22: No route to host\nkex_exchange_identification: Connection closed by remote host\nConnection closed by UNKNOWN port 65535\n";
        assert_eq!(reason(jump), "connect to host jump port 22: No route to host");
        assert_eq!(reason(""), "ssh gave no reason");
    }
}
