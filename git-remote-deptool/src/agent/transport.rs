//! Connections to agents: over ssh, or to one on this machine.
//!
//! [`Connector::start`] starts ssh or the agent and says hello, which permits nothing yet: what is to be sent can be
//! made meanwhile. [`Connector::connect`] sends it, installs the agent where it is absent, and returns a [`Link`] once
//! the agent has answered. What a request that was sent ahead does to an absent agent: nothing; one more connection is
//! made, and the request is sent again on that.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, TryLockError},
    thread,
    time::{Duration, Instant},
};

use crate::model::interrupt::Interrupt;
use deptool_agent::shared::{build, env_request};

use super::install::{
    self, InstallError,
    agents::{AgentError, Agents},
    opening::{self, Opening},
    script::{self, Places, Present},
};

mod ahead;
mod asking;
mod environment;
mod gate;
mod login;
pub use ahead::{Ahead, Early};
pub use environment::Environment;
pub use gate::AT_ONCE;
pub mod local;
pub mod messages;
pub mod process;
pub mod ssh;
mod user_config;

use gate::{Gate, Pass};
use messages::{Display, Kind, Showing};
use process::{Connection, Incoming, Outgoing};
use ssh::{Questions, Sharing, SshEndpoint, SshSettings};

/// How often a connection that is being made looks at whether it is still wanted.
const INTERRUPT_CHECK: Duration = Duration::from_millis(100);
/// How long a program that has closed its stdout may take to end.
const PATIENCE_WITH_ENDING: Duration = Duration::from_secs(2);

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    Ssh(SshEndpoint),
    /// A root directory on this machine.
    Local(PathBuf),
}

impl Endpoint {
    /// The same, over a connection of its own.
    pub fn afresh(&self) -> Endpoint {
        match self {
            Endpoint::Ssh(ssh) => Endpoint::Ssh(SshEndpoint { sharing: Sharing::Never, ..ssh.clone() }),
            Endpoint::Local(path) => Endpoint::Local(path.clone()),
        }
    }

    /// The same, with leave to ask the operator.
    fn asking(&self) -> Endpoint {
        match self {
            Endpoint::Ssh(ssh) => Endpoint::Ssh(SshEndpoint { questions: Questions::Allowed, ..ssh.clone() }),
            Endpoint::Local(path) => Endpoint::Local(path.clone()),
        }
    }

    fn questions(&self) -> Questions {
        match self {
            Endpoint::Ssh(ssh) => ssh.questions,
            Endpoint::Local(_) => Questions::Deferred,
        }
    }

    /// What the target is called in messages.
    fn shown(&self) -> String {
        match self {
            Endpoint::Ssh(target) => target.host.clone(),
            Endpoint::Local(path) => deptool_agent::shared::text::printable(path.as_os_str().as_encoded_bytes()),
        }
    }
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Connecting,
    /// ssh may ask the operator something now: nothing else may be on the terminal.
    Asking,
    /// The agent is being uploaded.
    Installing {
        bytes: usize,
    },
}

/// Why there is no link to an agent. Every message is one line that is safe to show.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// ssh would have had to ask, and was not allowed to.
    #[error("unreachable: {0}")]
    NeedsAnswer(String),
    #[error(
        "no answer for {} seconds: the login may wait for something, or a start-up file of its shell takes the input",
        login::PATIENCE.as_secs()
    )]
    Silent,
    #[error("interrupted")]
    Interrupted,
    #[error("'{name}' calls itself '{told}' in /etc/hostname; if it is the right host, set remote.<name>.deptoolHost")]
    OtherHost { name: String, told: String },
    #[error("the login shell of '{host}' prints text ('{text}'): silence it for non-interactive sessions")]
    Noise { host: String, text: String },
    #[error("'{host}' answers with what no agent says: '{text}'")]
    Nonsense { host: String, text: String },
    #[error("no answer from the agent on '{host}' ({status}): {stderr}")]
    NoAnswer { host: String, status: String, is_failure: bool, stderr: String },
    #[error("can't install the agent on '{host}': {error}")]
    Install { host: String, error: InstallError },
    #[error("the agent on '{host}' is of another build ({theirs}, this is {ours}): build both from the same sources")]
    OtherBuild { host: String, theirs: String, ours: String },
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error("ssh not found: install OpenSSH, or set core.sshCommand")]
    NoSsh,
    #[error("the program in GIT_SSH can't be told a port (ssh.variant is 'simple')")]
    PortNotSupported,
    #[error("invalid address '{}'", deptool_agent::shared::text::printable(.0.as_bytes()))]
    BadLogin(String),
    #[error("can't use the root directory '{}'", path.display())]
    LocalRoot { path: PathBuf, source: io::Error },
    #[error("can't start '{program}'")]
    Start { program: String, source: io::Error },
    #[error("can't read from '{host}'")]
    Read { host: String, source: io::Error },
}

/// A connection to an agent of our build whose first line was read.
#[derive(Debug)]
pub struct Link {
    pub connection: Connection,
    /// After our hello, and the request if one was sent ahead.
    pub outgoing: Outgoing,
    /// After the agent's first line.
    pub incoming: Incoming,
}

/// Makes connections, a few at a time. One serves a whole fleet, from many threads.
#[derive(Debug)]
pub struct Connector {
    pub environment: Environment,
    pub ssh: SshSettings,
    pub agents: Agents,
    /// Where is shown what ssh and agents print on stderr.
    pub display: Display,
    /// When it becomes true, connections that are being made end with [`ConnectError::Interrupted`].
    pub interrupted: Interrupt,
    /// Whether the operator can be asked at all.
    pub can_ask: bool,
    /// Held by the one connection that may ask.
    question: Mutex<()>,
    pub(crate) places: Places,
    gate: Arc<Gate>,
}

/// A program that was started for an endpoint and was sent our hello. Dropping it ends the connection.
#[derive(Debug)]
#[must_use]
pub struct Started {
    target: Endpoint,
    link: Link,
    pass: Pass,
    /// The request may have been sent although it was not read from the pipe.
    is_told: bool,
    since: Instant,
    deadline: Option<Instant>,
}

impl Started {
    /// It is given up at `deadline` if the agent has not answered then.
    pub fn until(self, deadline: Option<Instant>) -> Started {
        Started { deadline, ..self }
    }

    /// When the program was started.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Whether it leads to a root directory on this machine.
    pub fn is_local(&self) -> bool {
        matches!(self.target, Endpoint::Local(_))
    }
}

/// One started program and its first line.
struct Contact {
    link: Link,
    opening: Opening,
}

impl Connector {
    /// `exe` is the running program, beside which agents are found; `DEPTOOL_AGENTS` names a directory of others.
    pub fn new(environment: Environment, ssh: SshSettings, exe: Option<&Path>, display: Display) -> Self {
        let chosen = environment.get("DEPTOOL_AGENTS").filter(|value| !value.is_empty()).map(PathBuf::from);
        let agents = Agents::new(chosen, exe);
        let can_ask = environment.get("SSH_ASKPASS").is_some() || std::fs::File::open("/dev/tty").is_ok();
        Connector {
            environment,
            ssh,
            agents,
            display,
            interrupted: Interrupt::default(),
            can_ask,
            question: Mutex::default(),
            places: Places::default(),
            gate: Arc::default(),
        }
    }

    /// When it is its turn, start the program for `target` and say hello.
    ///
    /// What is to be sent ahead travels in the environment, too, if it is given here and little: it may then arrive
    /// before anything on stdin does.
    pub fn start(
        &self,
        target: &Endpoint,
        early: Option<&Early>,
        stage: &mut dyn FnMut(Stage),
    ) -> Result<Started, ConnectError> {
        self.start_or_replace(target, early, stage, Present::Started)
    }

    fn start_or_replace(
        &self,
        target: &Endpoint,
        early: Option<&Early>,
        stage: &mut dyn FnMut(Stage),
        present: Present,
    ) -> Result<Started, ConnectError> {
        let pass = self.gate.enter(&self.interrupted).ok_or(ConnectError::Interrupted)?;
        stage(Stage::Connecting);
        let (mut command, kind) = match target {
            Endpoint::Ssh(ssh) => {
                let remote = script::remote_command(&self.places, &build::agent_file_name(), present);
                (ssh::command(ssh, &self.ssh, &self.environment, &remote)?, self.display.kind)
            }
            Endpoint::Local(path) => (self.local(path)?, Kind::Pipe),
        };
        let variable = early.and_then(Early::in_a_variable);
        let is_told = variable.is_some();
        command.envs(variable.map(|value| (env_request::VARIABLE, value)));
        let showing = match target.questions() {
            Questions::Allowed => Showing::Soon,
            Questions::Deferred => Showing::Connected,
        };
        let program = command.get_program().to_string_lossy().into_owned();
        let shown = (self.display.sink.clone(), showing);
        let (connection, mut outgoing, incoming) = process::start(command, kind, shown, &self.interrupted)
            .map_err(|source| ConnectError::Start { program, source })?;
        // A line fits into the pipe, so this does not block; if the program has ended already, its stdout tells.
        let _ = outgoing.write_all(install::hello().as_bytes());
        let link = Link { connection, outgoing, incoming };
        Ok(Started { target: target.clone(), link, pass, is_told, since: Instant::now(), deadline: None })
    }

    /// Go on until the agent answers, installing it if need be. `stage` hears how it goes.
    ///
    /// A host that calls itself something else, or for whose platform there is no agent, is left untouched.
    pub fn connect(&self, started: Started, ahead: &Ahead, stage: &mut dyn FnMut(Stage)) -> Result<Link, ConnectError> {
        let target = &started.target.clone();
        let mut contact = match self.first_contact(started, ahead) {
            Err(ConnectError::NeedsAnswer(_)) if self.can_ask => {
                self.first_contact_with_questions(target, ahead, stage)?
            }
            Err(why) if is_perhaps_damaged(target, &why, ahead) => return self.replace(target, why, ahead, stage),
            contact => contact?,
        };
        let mut unsent = None;
        if let (Ahead::Yes(early), Opening::Absent { .. }) = (ahead, &contact.opening) {
            self.upload_for(target, &contact.opening)?;
            contact.end();
            contact = self.first_contact(self.start(target, None, &mut |_| {})?, &Ahead::No)?;
            unsent = Some(early.clone());
        }
        match &contact.opening {
            Opening::Agent { .. } => {
                let mut link = contact.into_link(target)?;
                if let Some(early) = unsent {
                    early.take();
                    // An error shows when the answer is read.
                    let _ = link.outgoing.send_ahead(early.parts);
                }
                Ok(link)
            }
            Opening::Absent { .. } => self.install(target, contact, unsent, stage),
            Opening::Error { .. } => Err(contact.into_error(target)),
        }
    }

    /// Connect once more, and have the agent's file replaced. Fails as the first connection did if that is not possible.
    fn replace(
        &self,
        target: &Endpoint,
        why: ConnectError,
        ahead: &Ahead,
        stage: &mut dyn FnMut(Stage),
    ) -> Result<Link, ConnectError> {
        let started = self.start_or_replace(target, None, stage, Present::Replaced);
        match started.and_then(|started| self.first_contact(started, &Ahead::No)) {
            Ok(contact) if matches!(contact.opening, Opening::Absent { .. }) => {
                let early = match ahead {
                    Ahead::Yes(early) => Some(early.clone()),
                    Ahead::No => None,
                };
                self.install(target, contact, early, stage)
            }
            Ok(_) | Err(_) => Err(why),
        }
    }

    /// Connect once more, to one host after another, and let ssh ask.
    fn first_contact_with_questions(
        &self,
        target: &Endpoint,
        ahead: &Ahead,
        stage: &mut dyn FnMut(Stage),
    ) -> Result<Contact, ConnectError> {
        let _one_at_a_time = loop {
            match self.question.try_lock() {
                Ok(guard) => break guard,
                Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
                Err(TryLockError::WouldBlock) if self.interrupted.is_set() => return Err(ConnectError::Interrupted),
                Err(TryLockError::WouldBlock) => thread::sleep(INTERRUPT_CHECK),
            }
        };
        stage(Stage::Asking);
        let contact =
            self.start(&target.asking(), None, &mut |_| {}).and_then(|started| self.first_contact(started, ahead));
        stage(Stage::Connecting);
        contact
    }

    /// Send `ahead`, and wait for the first line.
    fn first_contact(&self, started: Started, ahead: &Ahead) -> Result<Contact, ConnectError> {
        let Started { target, mut link, pass, is_told, since: _, deadline } = started;
        if let Ahead::Yes(early) = ahead {
            let _ = link.outgoing.send_ahead(early.parts.clone());
        }
        let opening = self.first_line(&target, &mut link, deadline);
        if let Ahead::Yes(early) = ahead {
            match &opening {
                Ok(Opening::Agent { .. }) => early.take(),
                // That is the install line: no agent was started.
                Ok(Opening::Absent { .. } | Opening::Error { .. }) => {}
                // The agent says its first line before anything else: a command that has failed without one was another.
                Err(ConnectError::NoAnswer { is_failure: true, .. }) => {}
                Err(ConnectError::Install { .. } | ConnectError::NeedsAnswer(_)) => {}
                Err(_) if !is_told && link.outgoing.is_unread() => {}
                Err(_) => early.take(),
            }
        }
        link.outgoing.answered();
        let opening = opening?;
        link.connection.show_stderr();
        pass.through();
        Ok(Contact { link, opening })
    }

    fn local(&self, path: &Path) -> Result<Command, ConnectError> {
        let agent = self.agents.for_local_root()?;
        let agent = std::path::absolute(&agent).map_err(|source| AgentError::Read { path: agent, source })?;
        Ok(local::command(&agent, &local::root(path)?, &self.environment))
    }

    /// The agent for a host that has none. Fails if it is not the host that was meant.
    fn upload_for(&self, target: &Endpoint, absent: &Opening) -> Result<Arc<install::agents::Upload>, ConnectError> {
        let (Opening::Absent { system, machine, packing, hostname }, Endpoint::Ssh(ssh)) = (absent, target) else {
            let text = "deptool-absent".to_owned();
            return Err(ConnectError::Nonsense { host: target.shown(), text });
        };
        match hostname {
            Some(told) if !install::is_the_right_host(&ssh.name, Some(told)) => {
                return Err(ConnectError::OtherHost { name: ssh.name.to_string(), told: told.clone() });
            }
            Some(_) | None => {}
        }
        Ok(self.agents.for_host(system, machine, *packing)?)
    }

    /// Upload the agent. All that follows it is sent in the same flight.
    fn install(
        &self,
        target: &Endpoint,
        mut contact: Contact,
        early: Option<Early>,
        stage: &mut dyn FnMut(Stage),
    ) -> Result<Link, ConnectError> {
        let upload = self.upload_for(target, &contact.opening)?;
        stage(Stage::Installing { bytes: upload.bytes.len() });
        let hello = install::hello();
        let mut parts = vec![upload.header.as_bytes().into(), upload.bytes.clone(), hello.as_bytes().into()];
        if let Some(early) = early {
            early.take();
            parts.extend(early.parts);
        }
        // A host that gives up before it has everything says why: that is what counts, not that we could not write.
        let _ = contact.link.outgoing.send_ahead(parts);
        contact.opening = self.first_line(target, &mut contact.link, None)?;
        contact.into_link(target)
    }
}

/// Whether an agent that was there has ended without a word, and has got nothing to do yet.
///
/// Of a program that was killed ssh tells no more than of a connection that was cut, which is no reason to connect again.
fn is_perhaps_damaged(target: &Endpoint, why: &ConnectError, ahead: &Ahead) -> bool {
    let is_taken = matches!(ahead, Ahead::Yes(early) if early.is_taken());
    matches!(target, Endpoint::Ssh(_)) && matches!(why, ConnectError::NoAnswer { .. }) && !is_taken
}

impl Contact {
    /// Let the other side come to its end, so that a connection which others share is not disturbed.
    fn end(self) {
        let Link { connection, outgoing, incoming } = self.link;
        drop((outgoing, incoming));
        // If it takes longer, it ends beside the next one.
        let _ = connection.wait_for(PATIENCE_WITH_ENDING);
    }

    fn into_link(self, target: &Endpoint) -> Result<Link, ConnectError> {
        match &self.opening {
            Opening::Agent { version, build } if version == build::VERSION && build == build::BUILD_ID => Ok(self.link),
            Opening::Agent { .. } | Opening::Absent { .. } | Opening::Error { .. } => Err(self.into_error(target)),
        }
    }

    /// What is wrong with a first line that is not that of our agent.
    fn into_error(self, target: &Endpoint) -> ConnectError {
        let host = target.shown();
        match self.opening {
            Opening::Agent { version, build } => {
                let ours = format!("{} {}", build::VERSION, build::BUILD_ID);
                ConnectError::OtherBuild {
                    host,
                    theirs: opening::excerpt(format!("{version} {build}").as_bytes()),
                    ours,
                }
            }
            Opening::Absent { .. } => ConnectError::Nonsense { host, text: "deptool-absent".into() },
            Opening::Error { code, text } => {
                ConnectError::Install { host, error: InstallError::from_script(&code, &text) }
            }
        }
    }
}
