//! The socket of a connection that ssh shares (`ControlPath`). Only ssh knows what its configuration says about a host. So it is
//! asked once, and again when something has changed that its answer depends on. If it is not certain what that is, ssh is always
//! started.

use std::{
    ffi::OsString,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use deptool_agent::shared::text::hex;
use gix::bstr::ByteSlice;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Questions, Sharing, SshEndpoint, SshSettings, arguments, before, choose, ignore_interrupts, program::Variant,
    started,
};
use crate::agent::transport::Environment;

/// How long ssh may take to print its configuration.
const PATIENCE: Duration = Duration::from_secs(2);
/// The configuration for a host has a few KB.
const LONGEST: usize = 1 << 20;

/// What ssh has said about the socket for a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlSocket {
    /// A digest of everything that the answer depends on.
    question: String,
    /// `None` if ssh has to be started.
    path: Option<PathBuf>,
}

/// The socket through which ssh itself would reach `target`, if that is known.
pub fn known(target: &SshEndpoint, settings: &SshSettings, environment: &Environment) -> Option<PathBuf> {
    let ControlSocket { question, path: Some(path) } = target.socket.as_ref()? else { return None };
    let now = Question::about(target, settings, environment)?;
    (now.digest() == *question).then(|| path.clone())
}

/// Ask ssh about the socket for `target`. `None` if that is known already, or can't be known.
pub fn ask(target: &SshEndpoint, settings: &SshSettings, environment: &Environment) -> Option<ControlSocket> {
    let question = Question::about(target, settings, environment)?;
    let digest = question.digest();
    if target.socket.as_ref().is_some_and(|known| known.question == digest) {
        return None;
    }
    let path = if question.may_be_shared() { question.ask()? } else { None };
    Some(ControlSocket { question: digest, path })
}

/// What ssh is asked.
struct Question<'a> {
    words: &'a [OsString],
    arguments: Vec<OsString>,
    settings: &'a SshSettings,
    environment: &'a Environment,
    sharing: Sharing,
}

impl<'a> Question<'a> {
    /// `None` if it is not certain what the answer depends on.
    fn about(target: &SshEndpoint, settings: &'a SshSettings, environment: &'a Environment) -> Option<Self> {
        let is_certain =
            settings.config.is_complete && settings.program.as_ref().is_some_and(|program| program.is_openssh);
        if target.sharing == Sharing::Never || !is_certain {
            return None;
        }
        let (program, Variant::OpenSsh) = choose(settings, environment, target).ok()? else { return None };
        // As in the configuration, this may ask the DNS.
        if program.words.iter().any(|word| word.to_string_lossy().to_ascii_lowercase().contains("canonical")) {
            return None;
        }
        // Whether ssh may ask the operator makes no difference here.
        let target = SshEndpoint { questions: Questions::Allowed, ..target.clone() };
        let arguments = arguments(Variant::OpenSsh, &target, (settings, environment)).ok()?;
        Some(Question { words: &program.words, arguments, settings, environment, sharing: target.sharing })
    }

    /// Whether it is worth asking.
    fn may_be_shared(&self) -> bool {
        self.words.len() > 1
            || self.sharing == Sharing::Asked
            || self.settings.config.text.to_ascii_lowercase().contains("controlpath")
    }

    /// A digest of the program, its arguments, its configuration, and the environment if one of them uses it.
    fn digest(&self) -> String {
        let mut digest = Sha256::new();
        let mut add = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
        };
        let config = &self.settings.config;
        let words = || self.words.iter().chain(&self.arguments).map(|word| word.as_bytes());
        words().chain([&config.digest()[..]]).for_each(&mut add);
        if words().chain([config.text.as_bytes()]).any(|text| text.contains_str("${")) {
            for (name, value) in self.environment.iter() {
                add(name.as_bytes());
                add(value.as_bytes());
            }
        }
        hex(&digest.finalize())
    }

    /// Have ssh print its configuration for the host, and the names of its files. `None` if it does not, or if it has read other
    /// files than we have. Else the path of the socket, if there is one that we may use.
    fn ask(&self) -> Option<Option<PathBuf>> {
        let mut command = started(self.words, self.environment);
        let (mut output, theirs) = io::pipe().ok()?;
        command.args(["-v", "-G"]).args(&self.arguments);
        command.stdin(Stdio::null()).stdout(theirs.try_clone().ok()?).stderr(theirs);
        before(&mut command, ignore_interrupts);
        let mut child = command.spawn().ok()?;
        // It holds the other end of the pipe, too.
        drop(command);
        let answer = read_within(&mut output, PATIENCE);
        if answer.is_none() {
            // It may have exited just now, which is as good.
            let _ = child.kill();
        }
        let is_answered = child.wait().ok()?.success();
        let answer = String::from_utf8(answer.filter(|_| is_answered)?).ok()?;
        self.is_known(&answer).then(|| path(&answer))
    }

    /// Whether ssh has read only what we have.
    fn is_known(&self, answer: &str) -> bool {
        let mut read = answer.lines().filter_map(|line| line.split_once("Reading configuration data "));
        answer.lines().any(|line| line.starts_with("OpenSSH_"))
            && read.all(|(_, file)| self.settings.config.files.contains(Path::new(file.trim())))
    }
}

/// Everything that is in the pipe before its end. `None` if that takes too long, or is too much.
fn read_within(pipe: &mut io::PipeReader, patience: Duration) -> Option<Vec<u8>> {
    let (mut all, deadline) = (Vec::new(), Instant::now() + patience);
    while all.len() < LONGEST {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok()?;
        match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&left)) {
            Ok(1..) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Ok(0) | Err(_) => return None,
        }
        let mut buffer = [0; 4096];
        match pipe.read(&mut buffer).ok()? {
            0 => return Some(all),
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
    None
}

/// The socket in ssh's answer, if a session of ours would be like one of ssh. `SetEnv` is left to the process that has the connection. Old versions of ssh do not replace what stands for the
/// host.
fn path(answer: &str) -> Option<PathBuf> {
    // They only change how text is shown.
    const HARMLESS: [&str; 3] = ["LANG", "COLORTERM", "NO_COLOR"];
    let values = |name: &'static str| answer.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix(' '));
    // With `ask`, ssh would ask the operator; with `yes`, it would make a connection of its own.
    let uses = values("controlmaster").all(|value| ["false", "no", "auto"].contains(&value));
    let forwards = values("forwardagent").any(|value| value != "no");
    let sends = values("sendenv").any(|name| !HARMLESS.contains(&name) && !name.starts_with("LC_"));
    let path = values("controlpath").next()?;
    (uses && !forwards && !sends && path.starts_with('/') && !path.contains('%')).then(|| path.into())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use deptool_agent::shared::name::HostName;

    use super::*;

    /// A home directory with an ssh configuration.
    struct Home(tempfile::TempDir);

    impl Home {
        fn with(config: &str) -> Home {
            let home = Home(tempfile::tempdir().unwrap());
            home.write("config", config);
            home
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.at(name), text).unwrap();
        }

        fn environment(&self) -> Environment {
            let path = std::env::var_os("PATH").unwrap();
            Environment::from_iter([("HOME", self.0.path().as_os_str()), ("PATH", &path)])
        }

        /// Real ssh with this configuration.
        fn settings(&self) -> SshSettings {
            let command = format!("ssh -F {}", self.at("config").display());
            SshSettings::new(&self.environment(), Some(command.into()), None)
        }

        fn ask(&self, target: &SshEndpoint) -> Option<ControlSocket> {
            ask(target, &self.settings(), &self.environment())
        }

        fn known(&self, target: &SshEndpoint) -> Option<PathBuf> {
            let known = known(target, &self.settings(), &self.environment());
            assert!(known.is_none() || self.ask(target).is_none(), "what is known is not asked");
            known
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
        let home = Home::with("Host web1\n  ControlPath /run/%n-%r\n  User root\nInclude more/*\n");
        fs::create_dir(home.at("more")).unwrap();
        let knowing = SshEndpoint { socket: home.ask(&target()), ..target() };
        assert_eq!(home.known(&knowing), Some("/run/web1-root".into()));
        let deferred = SshEndpoint { questions: Questions::Deferred, ..knowing.clone() };
        assert_eq!(home.known(&deferred), Some("/run/web1-root".into()), "it makes no difference");

        let others = [
            SshEndpoint { user: Some("core".into()), ..knowing.clone() },
            SshEndpoint { port: Some(23), ..knowing.clone() },
            SshEndpoint { host: "web2".into(), ..knowing.clone() },
            SshEndpoint { sharing: Sharing::Never, ..knowing.clone() },
        ];
        assert!(others.iter().all(|other| home.known(other).is_none()));
        home.write("config", "Host web1\n  ControlPath /run/%n-%r\n  User root\n  HostName 10.0.0.2\n");
        assert_eq!(home.known(&knowing), None);
        assert_ne!(home.ask(&knowing), knowing.socket);
    }

    #[test]
    fn an_answer_is_for_the_environment_that_the_command_line_uses() {
        let ask_in = |place: &str, known: Option<ControlSocket>| {
            let path = std::env::var_os("PATH").unwrap();
            let environment =
                Environment::from_iter([("HOME", "/nowhere".into()), ("PATH", path), ("PLACE", place.into())]);
            let settings = SshSettings::new(&environment, Some("ssh -F none -S '/run/${PLACE}'".into()), None);
            let knowing = SshEndpoint { socket: known, ..target() };
            (super::known(&knowing, &settings, &environment), ask(&knowing, &settings, &environment))
        };
        let (_, answer) = ask_in("a", None);
        assert_eq!(ask_in("a", answer.clone()), (Some("/run/a".into()), None));
        let (path, answer) = ask_in("b", answer);
        assert_eq!(path, None);
        assert_eq!(ask_in("b", answer).0, Some("/run/b".into()));
    }

    #[test]
    fn ssh_is_started_if_it_reads_more_than_we_do_or_a_session_of_ours_would_be_another() {
        let uncertain = Home::with("");
        uncertain.write("other", "ControlPath /run/x\n");
        let twice = format!("ssh -F {0}/config -F {0}/other", uncertain.0.path().display());
        let environment = uncertain.environment();
        let ask_with = |command: &str| {
            let settings = SshSettings::new(&environment, Some(command.into()), None);
            ask(&target(), &settings, &environment)
        };
        assert_eq!(ask_with(&twice), None, "it reads the second");
        assert_eq!(ask_with("ssh -E /dev/null -F none"), None, "it does not say what it reads");
        assert_eq!(ask_with("X=y ssh"), None, "a shell is between");
        assert_eq!(ask_with("ssh -F none -o CanonicalizeHostname=yes"), None, "it asks the DNS");
        uncertain.write("ssh", "#!/bin/sh\nX=y exec ssh \"$@\"\n");
        fs::set_permissions(uncertain.at("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(ask_with(&uncertain.at("ssh").display().to_string()), None, "a script may do anything");
        let matched = Home::with("Match all\nControlPath /run/x\n");
        assert_eq!(matched.ask(&target()), None);

        for config in [
            "",
            "ControlPath none",
            "ControlPath /run/x\nControlMaster autoask",
            "ControlPath /run/x\nControlMaster yes",
            "ControlPath /run/x\nForwardAgent yes",
            "ControlPath /run/x\nSendEnv LC_* TOKEN",
        ] {
            let home = Home::with(config);
            let knowing = SshEndpoint { socket: home.ask(&target()), ..target() };
            assert_eq!((home.known(&knowing), home.ask(&knowing)), (None, None), "{config}");
        }
        let usual = Home::with(
            "ControlPath /run/x\nControlMaster auto\nSendEnv LANG LC_* COLORTERM NO_COLOR\nSetEnv TERM=xterm\n",
        );
        assert_eq!(usual.known(&SshEndpoint { socket: usual.ask(&target()), ..target() }), Some("/run/x".into()));
    }
}
