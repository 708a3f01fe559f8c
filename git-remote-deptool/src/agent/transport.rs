//! Connections to agents, over ssh or on this machine.
//!
//! [`Connector::start`] starts ssh or the agent and sends our hello, which does not permit anything yet. The caller can
//! prepare the request meanwhile. [`Connector::connect`] sends the request, installs the agent if it is missing, and
//! returns a [`Link`] once the agent has answered. A request that was sent ahead to a host without the agent has no
//! effect; it is sent again on another connection.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, TryLockError},
    thread,
    time::Duration,
};

use crate::model::interrupt::Interrupt;
use deptool_agent::shared::{build, seal};

pub use super::install::script::Present;
use super::install::{
    self, InstallError,
    agents::{AgentError, Agents},
    opening::{self, Opening},
    script::Places,
};

mod asking;
mod early;
mod environment;
mod error;
mod gate;
mod login;
mod start;
pub use early::Early;
pub use environment::Environment;
pub use error::ConnectError;
pub use gate::AT_ONCE;
pub use start::Started;
use start::Way;
pub mod local;
pub mod messages;
pub mod outgoing;
pub mod process;
pub mod pump;
pub mod ssh;
mod user_config;

use gate::Gate;
use messages::Display;
use outgoing::Outgoing;
use process::{Connection, Incoming};
use pump::Pumps;
use ssh::{Questions, Sharing, SshEndpoint, SshSettings, control::ControlSocket};

/// How often a connection that is being made checks for an interrupt.
const INTERRUPT_CHECK: Duration = Duration::from_millis(100);
/// How long to wait until a program that has closed its stdout exits.
const PATIENCE_WITH_ENDING: Duration = Duration::from_secs(2);

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    Ssh(SshEndpoint),
    /// A local root: a directory on this machine.
    Local(PathBuf),
}

impl Endpoint {
    /// The same endpoint over a new connection.
    pub fn afresh(&self) -> Endpoint {
        match self {
            Endpoint::Ssh(ssh) => Endpoint::Ssh(SshEndpoint { sharing: Sharing::Never, ..ssh.clone() }),
            Endpoint::Local(path) => Endpoint::Local(path.clone()),
        }
    }

    /// The same endpoint, and ssh may ask the operator.
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

    /// The endpoint's name for messages.
    fn shown(&self) -> String {
        match self {
            Endpoint::Ssh(target) => target.host.clone(),
            Endpoint::Local(path) => deptool_agent::shared::text::printable(path.as_os_str().as_encoded_bytes()),
        }
    }
}

/// The progress of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Connecting,
    /// ssh may ask the operator something, so nothing else may be written to the terminal.
    Asking,
    /// The agent is being uploaded.
    Installing {
        bytes: usize,
    },
}

/// A connection to an agent of our build, after its first line was read.
#[derive(Debug)]
pub struct Link {
    /// Positioned after our hello, and after the request if it was sent ahead. It is dropped before the connection.
    pub outgoing: Outgoing,
    pub connection: Connection,
    /// Positioned after the agent's first line.
    pub incoming: Incoming,
    /// What ssh has said about the socket of shared connections, if it had to be asked.
    pub socket: Option<ControlSocket>,
}

/// Makes connections, a few at a time. All hosts of a push share one connector.
#[derive(Debug)]
pub struct Connector {
    pub environment: Environment,
    pub ssh: SshSettings,
    pub agents: Agents,
    /// Where stderr of ssh and of agents is shown.
    pub display: Display,
    /// When this becomes true, connections that are being made fail with [`ConnectError::Interrupted`].
    pub interrupted: Interrupt,
    /// Whether there is a terminal to ask the operator at.
    pub can_ask: bool,
    /// Held by the one connection that may ask.
    question: Mutex<()>,
    pub(crate) places: Places,
    gate: Arc<Gate>,
    pub(super) pumps: Pumps,
}

/// A started program, and its first line.
struct Contact {
    link: Link,
    opening: Opening,
}

impl Connector {
    /// `exe` is the path of the running program, next to which agents are searched for.
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
            pumps: Pumps::default(),
        }
    }

    /// Wait until the agent answers, and install it if necessary. `stage` is called with the progress.
    ///
    /// Nothing is written to a host that has another name, or for whose platform there is no agent.
    pub fn connect(
        &self,
        started: Started,
        early: Option<&Early>,
        stage: &mut dyn FnMut(Stage),
    ) -> Result<Link, ConnectError> {
        let (target, present) = (&started.target.clone(), started.present);
        let mut contact = match self.first_contact(started, early) {
            Err(ConnectError::NeedsAnswer(_)) if self.can_ask => {
                self.first_contact_with_questions(target, early, stage)
            }
            contact => contact,
        };
        // Once more with the script.
        let again = || self.first_contact(self.start(target, Present::Started, None, &mut |_| {})?, None);
        let mut unsent = None;
        if let (Present::Expected, Some(early)) = (present, early)
            && is_unexpected(&contact, early)
        {
            (contact, unsent) = (again(), Some(early));
        }
        let mut contact = match contact {
            Err(why) if is_perhaps_damaged(target, &why, early) => return self.replace(target, why, early, stage),
            contact => contact?,
        };
        if is_damaged(&contact.opening) {
            return match target {
                Endpoint::Ssh(_) => self.replace(target, contact.into_error(target), early, stage),
                Endpoint::Local(_) => Err(AgentError::Damaged { path: self.agents.for_local_root()? }.into()),
            };
        }
        if let (Some(early), None, Opening::Absent { .. }) = (early, unsent, &contact.opening) {
            self.upload_for(target, &contact.opening)?;
            contact.end();
            (contact, unsent) = (again()?, Some(early));
        }
        match &contact.opening {
            Opening::Agent { .. } => {
                let mut link = contact.into_link(target)?;
                if let Some(early) = unsent {
                    early.take();
                    // An error shows when the answer is read.
                    let _ = link.outgoing.send_ahead(early.parts.clone());
                }
                Ok(link)
            }
            Opening::Absent { .. } => self.install(target, contact, unsent, stage),
            Opening::Error { .. } => Err(contact.into_error(target)),
        }
    }

    /// Connect again and replace the agent's file. If the host can't take it now, fail with the error of the first
    /// connection.
    fn replace(
        &self,
        target: &Endpoint,
        why: ConnectError,
        early: Option<&Early>,
        stage: &mut dyn FnMut(Stage),
    ) -> Result<Link, ConnectError> {
        let started = self.start(target, Present::Replaced, None, stage);
        match started.and_then(|started| self.first_contact(started, None)) {
            Ok(contact) if matches!(contact.opening, Opening::Absent { .. }) => {
                self.install(target, contact, early, stage)
            }
            Ok(_) | Err(_) => Err(why),
        }
    }

    /// Connect again, one host at a time, with ssh allowed to ask.
    fn first_contact_with_questions(
        &self,
        target: &Endpoint,
        early: Option<&Early>,
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
        let started = self.start(&target.asking(), Present::Started, None, &mut |_| {});
        let contact = started.and_then(|started| self.first_contact(started, early));
        stage(Stage::Connecting);
        contact
    }

    /// Send `early`, and wait for the first line.
    fn first_contact(&self, started: Started, early: Option<&Early>) -> Result<Contact, ConnectError> {
        let Started { target, mut link, pass, present, is_shared, is_told, since, deadline } = started;
        if let Some(early) = early {
            let _ = link.outgoing.send_ahead(early.parts.clone());
            // Where ssh was started, it is busy with the login. Else the socket is known.
            if !is_shared {
                link.socket = self.ask_for_socket(&target);
            }
        }
        let opening = self.first_line(&target, &mut link, deadline);
        let is_over = matches!(&opening, Err(error) if error.is_end());
        if is_over && link.connection.is_refused() {
            drop((link, pass));
            let told = early.filter(|_| is_told);
            let by_ssh = self.start_by(Way::Ssh, &target, present, told, &mut |_| {})?;
            return self.first_contact(Started { deadline, since, ..by_ssh }, early);
        }
        if let Some(early) = early {
            match &opening {
                Ok(Opening::Agent { .. }) => early.take(),
                // This is the install script. No agent was started.
                Ok(Opening::Absent { .. } | Opening::Error { .. }) => {}
                // The agent prints its first line before anything else. If the command failed without one, something
                // else failed.
                Err(ConnectError::NoAnswer { is_failure: true, .. }) => {}
                Err(ConnectError::Install { .. } | ConnectError::NeedsAnswer(_)) => {}
                Err(_) if !is_told && link.outgoing.is_unread() => {}
                Err(_) => early.take(),
            }
        }
        let opening = opening?;
        link.connection.show_stderr();
        pass.through();
        Ok(Contact { link, opening })
    }

    /// The agent for a host that has none. Fails if this is the wrong host.
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

    /// Upload the agent. Everything after it is sent at the same time.
    fn install(
        &self,
        target: &Endpoint,
        mut contact: Contact,
        early: Option<&Early>,
        stage: &mut dyn FnMut(Stage),
    ) -> Result<Link, ConnectError> {
        let upload = self.upload_for(target, &contact.opening)?;
        stage(Stage::Installing { bytes: upload.bytes.len() });
        let hello = install::hello();
        let mut parts = vec![upload.header.as_bytes().into(), upload.bytes.clone(), hello.as_bytes().into()];
        if let Some(early) = early {
            early.take();
            parts.extend(early.parts.iter().cloned());
        }
        // A host that gives up early reports why. That report counts, not our failed write.
        let _ = contact.link.outgoing.send_ahead(parts);
        contact.opening = self.first_line(target, &mut contact.link, None)?;
        contact.into_link(target)
    }
}

/// Whether the agent is not there, or was not started by root, so that a script has to do it.
fn is_unexpected(contact: &Result<Contact, ConnectError>, early: &Early) -> bool {
    match contact {
        Ok(Contact { opening: Opening::Error { code, .. }, .. }) => code == build::NO_ROOT,
        Ok(_) => false,
        Err(why) => matches!(why, ConnectError::NoAnswer { .. }) && !early.is_taken(),
    }
}

/// Whether the installed agent ended without its first line and before it could receive a request.
fn is_perhaps_damaged(target: &Endpoint, why: &ConnectError, early: Option<&Early>) -> bool {
    let is_taken = early.is_some_and(Early::is_taken);
    matches!(target, Endpoint::Ssh(_)) && why.is_wordless() && !is_taken
}

/// Whether the agent has found its own file damaged.
fn is_damaged(opening: &Opening) -> bool {
    matches!(opening, Opening::Error { code, .. } if code == seal::DAMAGED)
}

impl Contact {
    /// Wait until the program exits, so that other users of a shared connection are not disturbed.
    fn end(self) {
        let Link { connection, outgoing, incoming, socket: _ } = self.link;
        drop((outgoing, incoming));
        // If it takes longer, it exits while the next connection is made.
        let _ = connection.wait_for(PATIENCE_WITH_ENDING);
    }

    fn into_link(self, target: &Endpoint) -> Result<Link, ConnectError> {
        match &self.opening {
            Opening::Agent { version, build } if version == build::VERSION && build == build::BUILD_ID => Ok(self.link),
            Opening::Agent { .. } | Opening::Absent { .. } | Opening::Error { .. } => Err(self.into_error(target)),
        }
    }

    /// The error for a first line that is not that of our agent.
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
