//! Starts the program for an endpoint: ssh, an agent on this machine, or a command over a connection that ssh already shares.

use std::{io::Write, path::Path, process::Command, time::Instant};

use deptool_agent::shared::{build, env_request};

use super::{
    ConnectError, Connector, Early, Endpoint, Link, Stage,
    gate::Pass,
    local,
    messages::{Kind, Showing},
    outgoing::Outgoing,
    process::{self, Connection, Incoming, Surroundings},
    ssh::{
        self, Questions,
        control::{self, ControlSocket},
    },
};
use crate::agent::install::{
    self,
    agents::AgentError,
    script::{self, Present},
};

/// A program that was started for an endpoint and was sent our hello. Dropping it ends the connection.
#[derive(Debug)]
#[must_use]
pub struct Started {
    pub(super) target: Endpoint,
    pub(super) link: Link,
    pub(super) pass: Pass,
    pub(super) present: Present,
    /// It runs over a connection that ssh shares.
    pub(super) is_shared: bool,
    /// The request was also passed in the environment, so the host may have it even if nothing was read from the pipe.
    pub(super) is_told: bool,
    pub(super) since: Instant,
    pub(super) deadline: Option<Instant>,
}

impl Started {
    /// Give the connection up if the agent has not answered by `deadline`.
    pub fn until(self, deadline: Option<Instant>) -> Started {
        Started { deadline, ..self }
    }

    /// When the program was started.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Whether the endpoint is a local root.
    pub fn is_local(&self) -> bool {
        matches!(self.target, Endpoint::Local(_))
    }
}

/// How to reach a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Over a connection that ssh already shares, if there is one.
    Shared,
    /// By starting ssh, whatever there is.
    Ssh,
}

/// A program's pipes, and the program.
type Channel = (Connection, Outgoing, Incoming);

impl Connector {
    /// Wait for a free slot, start the program for `target`, and send our hello.
    ///
    /// A small request in `early` is also passed in the environment. It may then arrive before anything on stdin.
    pub fn start(
        &self,
        target: &Endpoint,
        present: Present,
        early: Option<&Early>,
        stage: &mut dyn FnMut(Stage),
    ) -> Result<Started, ConnectError> {
        self.start_by(Way::Shared, target, present, early, stage)
    }

    pub(super) fn start_by(
        &self,
        way: Way,
        target: &Endpoint,
        present: Present,
        early: Option<&Early>,
        stage: &mut dyn FnMut(Stage),
    ) -> Result<Started, ConnectError> {
        let pass = self.gate.enter(&self.interrupted).ok_or(ConnectError::Interrupted)?;
        stage(Stage::Connecting);
        let variable = early.and_then(Early::in_a_variable);
        let is_told = variable.is_some();
        let variable = variable.as_deref().map(|value| (env_request::VARIABLE, value));
        let shared = match way {
            Way::Shared => self.share(target, present, variable),
            Way::Ssh => None,
        };
        let is_shared = shared.is_some();
        let (connection, mut outgoing, incoming) = match shared {
            Some(shared) => shared,
            None => self.start_program(target, present, variable)?,
        };
        // The line fits into the pipe, so this does not block. If the program has exited, that shows on stdout.
        let _ = outgoing.write_all(install::hello().as_bytes());
        let link = Link { outgoing, connection, incoming, socket: None };
        let (target, since) = (target.clone(), Instant::now());
        Ok(Started { target, link, pass, present, is_shared, is_told, since, deadline: None })
    }

    /// Use a connection that ssh already shares, if there is one.
    fn share(&self, target: &Endpoint, present: Present, variable: Option<(&str, &str)>) -> Option<Channel> {
        let Endpoint::Ssh(ssh) = target else { return None };
        let socket = control::known(ssh, &self.ssh, &self.environment)?;
        let remote = script::remote_command(&self.places, &build::agent_file_name(), present);
        // If this fails, ssh is started, and reports what is wrong.
        process::share(&socket, &remote, variable, self.surroundings(target)).ok()
    }

    /// Start ssh, or the agent on this machine.
    fn start_program(
        &self,
        target: &Endpoint,
        present: Present,
        variable: Option<(&str, &str)>,
    ) -> Result<Channel, ConnectError> {
        let mut command = match target {
            Endpoint::Ssh(ssh) => {
                let remote = script::remote_command(&self.places, &build::agent_file_name(), present);
                ssh::command(ssh, &self.ssh, &self.environment, &remote)?
            }
            Endpoint::Local(path) => self.local(path)?,
        };
        command.envs(variable);
        let program = command.get_program().to_string_lossy().into_owned();
        process::start(command, self.surroundings(target)).map_err(|source| ConnectError::Start { program, source })
    }

    fn surroundings(&self, target: &Endpoint) -> Surroundings<'_> {
        let kind = match target {
            Endpoint::Ssh(_) => self.display.kind,
            Endpoint::Local(_) => Kind::Pipe,
        };
        let showing = match target.questions() {
            Questions::Allowed => Showing::Soon,
            Questions::Deferred => Showing::Connected,
        };
        let shown = (self.display.sink.clone(), showing);
        Surroundings { kind, shown, pumps: &self.pumps, interrupt: &self.interrupted }
    }

    /// Ask ssh about the socket of shared connections to `target`. `None` if that is known, or can't be known.
    pub(super) fn ask_for_socket(&self, target: &Endpoint) -> Option<ControlSocket> {
        match target {
            Endpoint::Ssh(ssh) => control::ask(ssh, &self.ssh, &self.environment),
            Endpoint::Local(_) => None,
        }
    }

    fn local(&self, path: &Path) -> Result<Command, ConnectError> {
        let agent = self.agents.for_local_root()?;
        let agent = std::path::absolute(&agent).map_err(|source| AgentError::Read { path: agent, source })?;
        Ok(local::command(&agent, &local::root(path)?, &self.environment))
    }
}
