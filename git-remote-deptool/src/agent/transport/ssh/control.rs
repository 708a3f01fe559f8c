//! The socket of a connection that ssh shares (`ControlPath`). Only ssh knows what its configuration says about a host, so it is
//! asked once, and again when something has changed on which its answer may depend.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::Read,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Questions, Sharing, SshEndpoint, SshSettings, arguments, choose,
    program::{Variant, by_name},
    started,
};
use crate::agent::transport::Environment;

/// How long ssh may take to print its configuration. Some other program of this name may not know that option.
const PATIENCE: Duration = Duration::from_secs(2);
/// The configuration for a host has a few KB.
const LONGEST: u64 = 1 << 20;

/// What ssh has said about the socket for a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlSocket {
    /// A digest of all on which the answer depends.
    question: String,
    /// `None` if connections are not shared, or only after the operator was asked.
    path: Option<PathBuf>,
}

/// The socket through which ssh itself would reach `target`, if that is known.
pub fn known(target: &SshEndpoint, settings: &SshSettings, environment: &Environment) -> Option<PathBuf> {
    let ControlSocket { question, path: Some(path) } = target.socket.as_ref()? else { return None };
    let now = Question::about(target, settings, environment)?;
    (now.digest() == *question).then(|| path.clone())
}

/// Ask ssh about the socket for `target`. `None` if that is known, or if the answer could soon be another one.
pub fn ask(target: &SshEndpoint, settings: &SshSettings, environment: &Environment) -> Option<ControlSocket> {
    let question = Question::about(target, settings, environment)?;
    let digest = question.digest();
    if target.socket.as_ref().is_some_and(|known| known.question == digest) {
        return None;
    }
    let path = if question.may_be_shared() { question.ask().as_deref().and_then(path) } else { None };
    Some(ControlSocket { question: digest, path })
}

/// What ssh is asked.
struct Question<'a> {
    words: Vec<OsString>,
    arguments: Vec<OsString>,
    settings: &'a SshSettings,
    environment: &'a Environment,
    sharing: Sharing,
    /// It is ssh itself, not a script that starts it.
    is_ssh_itself: bool,
}

impl<'a> Question<'a> {
    /// `None` if the answer depends on more than can be compared, or if it is not OpenSSH.
    fn about(target: &SshEndpoint, settings: &'a SshSettings, environment: &'a Environment) -> Option<Self> {
        // These run programs, or look at the network.
        let is_condition = |line: &str| {
            let line = line.to_ascii_lowercase();
            line.starts_with("match") && (line.contains("exec") || line.contains("localnetwork"))
        };
        if target.sharing == Sharing::Never || settings.config.lines().any(is_condition) {
            return None;
        }
        let (program, Variant::OpenSsh) = choose(settings, environment, target).ok()? else { return None };
        // Whether ssh may ask the operator makes no difference here.
        let target = SshEndpoint { questions: Questions::Allowed, ..target.clone() };
        let arguments = arguments(Variant::OpenSsh, &target, (settings, environment)).ok()?;
        let words = program.words(environment);
        let file = Path::new(&words[0]);
        let is_ssh_itself = by_name(file.as_os_str()) == Some(Variant::OpenSsh) && !is_script(file);
        Some(Question { words, arguments, settings, environment, sharing: target.sharing, is_ssh_itself })
    }

    /// Whether it is worth asking.
    fn may_be_shared(&self) -> bool {
        !self.is_ssh_itself
            || self.words.len() > 1
            || self.sharing == Sharing::Asked
            || self.settings.config.to_ascii_lowercase().contains("controlpath")
    }

    /// A digest of the program, its arguments and its configuration. Scripts may use any variable of the environment.
    fn digest(&self) -> String {
        let mut digest = Sha256::new();
        let mut add = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
        };
        self.words.iter().chain(&self.arguments).for_each(|word| add(word.as_bytes()));
        add(self.settings.config.as_bytes());
        if !self.is_ssh_itself || self.settings.config.contains("${") {
            let command = started(&self.words, self.environment);
            // Shells count and remember in some. Git extends PATH each time it starts itself; what that leads to is the first word.
            let is_told = |name: &OsStr| !["_", "SHLVL", "OLDPWD", "PATH"].iter().any(|other| name == *other);
            for (name, value) in command.get_envs().filter(|(name, _)| is_told(name)) {
                add(name.as_bytes());
                add(value.unwrap_or_default().as_bytes());
            }
        }
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What ssh says of its configuration for the host.
    fn ask(&self) -> Option<String> {
        let mut command = started(&self.words, self.environment);
        command.arg("-G").args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().ok()?;
        let (mut answer, deadline) = (Vec::new(), Instant::now() + PATIENCE);
        let mut stdout = child.stdout.take()?.take(LONGEST);
        let is_whole = loop {
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok()?;
            match poll(&mut [PollFd::new(stdout.get_ref(), PollFlags::IN)], Some(&left)) {
                Ok(1..) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Ok(0) | Err(_) => break false,
            }
            let mut buffer = [0; 4096];
            match stdout.read(&mut buffer) {
                Ok(0) => break true,
                Ok(count) => answer.extend_from_slice(&buffer[..count]),
                Err(_) => break false,
            }
        };
        if !is_whole {
            // It may have exited just now, which is as good.
            let _ = child.kill();
        }
        let status = child.wait().ok()?;
        (is_whole && status.success()).then(|| String::from_utf8(answer).ok())?
    }
}

/// The socket in ssh's answer. Old versions of ssh do not replace what stands for the host.
fn path(answer: &str) -> Option<PathBuf> {
    let value = |name: &str| {
        let of_line = |line: &'_ str| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
        answer.lines().find_map(of_line)
    };
    // The operator would be asked for each session.
    let asks = value("controlmaster").is_some_and(|value| value.contains("ask"));
    value("controlpath").filter(|path| !asks && path.starts_with('/') && !path.contains('%')).map(PathBuf::from)
}

fn is_script(program: &Path) -> bool {
    let mut beginning = [0; 2];
    File::open(program).and_then(|mut file| file.read_exact(&mut beginning)).is_err() || beginning == *b"#!"
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use deptool_agent::shared::name::HostName;

    use super::*;

    /// A directory with a program `ssh` that is a script. It prints a configuration with these lines, and its arguments to a file.
    struct Here(tempfile::TempDir);

    impl Here {
        fn new(body: &str) -> Here {
            let here = Here(tempfile::tempdir().unwrap());
            let file = here.0.path().join("ssh");
            fs::write(&file, format!("#!/bin/sh\necho \"$@\" >>{}\n{body}\n", here.0.path().join("log").display()))
                .unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
            here
        }

        fn environment(&self, more: &[(&str, &str)]) -> Environment {
            let path = format!("{}:/usr/bin:/bin", self.0.path().display());
            [("PATH", path.as_str())].iter().chain(more).copied().collect()
        }

        fn times_asked(&self) -> usize {
            fs::read_to_string(self.0.path().join("log")).map_or(0, |log| log.lines().count())
        }
    }

    fn target() -> SshEndpoint {
        let name = HostName::parse(b"web1").unwrap();
        SshEndpoint {
            user: None,
            host: "web1".into(),
            port: None,
            name,
            sharing: Sharing::AsConfigured,
            socket: None,
            questions: Questions::Allowed,
        }
    }

    #[test]
    fn ssh_is_asked_once_and_again_when_its_answer_may_be_another() {
        let here = Here::new("printf 'host web1\\ncontrolmaster auto\\ncontrolpath /run/a b\\n'");
        let (environment, settings) = (here.environment(&[]), SshSettings::default());
        let socket = ask(&target(), &settings, &environment);
        let knowing = SshEndpoint { socket, ..target() };
        let is_known = |target: &SshEndpoint, settings: &SshSettings, environment: &Environment| {
            let known = known(target, settings, environment);
            assert_eq!(known.is_some(), ask(target, settings, environment).is_none());
            known
        };
        assert_eq!(is_known(&knowing, &settings, &environment), Some("/run/a b".into()));
        let deferred = SshEndpoint { questions: Questions::Deferred, ..knowing.clone() };
        assert_eq!(is_known(&deferred, &settings, &environment), Some("/run/a b".into()));
        assert_eq!(here.times_asked(), 1);

        let other_user = SshEndpoint { user: Some("core".into()), ..knowing.clone() };
        assert_eq!(is_known(&other_user, &settings, &environment), None);
        let other_port = SshEndpoint { port: Some(23), ..knowing.clone() };
        assert_eq!(is_known(&other_port, &settings, &environment), None);
        let other_config = SshSettings { config: "User x".into(), ..SshSettings::default() };
        assert_eq!(is_known(&knowing, &other_config, &environment), None);
        assert_eq!(is_known(&knowing, &settings, &here.environment(&[("X", "y")])), None, "a script may use it");
        assert_eq!(here.times_asked(), 5);
    }

    #[test]
    fn some_configurations_are_not_asked_about() {
        let here = Here::new("echo controlpath /run/x");
        let environment = here.environment(&[]);
        for config in ["Match exec \"true\"", "match host x LocalNetwork 10.0.0.0/8"] {
            let settings = SshSettings { config: config.into(), ..SshSettings::default() };
            assert_eq!(ask(&target(), &settings, &environment), None);
        }
        let afresh = SshEndpoint { sharing: Sharing::Never, ..target() };
        assert_eq!(ask(&afresh, &SshSettings::default(), &environment), None);
        assert_eq!(here.times_asked(), 0);
    }

    #[test]
    fn an_answer_without_a_socket_is_an_answer() {
        for body in [
            "echo controlpath none",
            "echo controlpath /run/%C",
            "printf 'controlpath /run/x\\ncontrolmaster autoask\\n'",
            "echo usage: ssh; exit 255",
            "exec sleep 600",
            ":",
        ] {
            let here = Here::new(body);
            let (environment, settings) = (here.environment(&[]), SshSettings::default());
            let knowing = SshEndpoint { socket: ask(&target(), &settings, &environment), ..target() };
            assert_eq!(known(&knowing, &settings, &environment), None, "{body}");
            assert_eq!(ask(&knowing, &settings, &environment), None, "{body}");
            assert_eq!(here.times_asked(), 1);
        }
    }
}
