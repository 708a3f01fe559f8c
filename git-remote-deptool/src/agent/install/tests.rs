//! The promises of installing, each tried with real shells and a stand-in for ssh that runs the command right here.

use std::{
    fs, io,
    io::{Read, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use deptool_agent::shared::{build, name::HostName};
use tempfile::TempDir;

use super::{
    agents::Platform,
    hello,
    script::{self, Places, Present},
};
use crate::agent::transport::{
    ConnectError, Connector, Early, Endpoint, Environment, Link, Stage,
    messages::{Display, Kind},
    process::Connection,
    ssh::{Questions, Sharing, SshEndpoint, SshSettings},
};

mod failures;
mod shells;
mod uploads;

/// A directory that plays a host, and a Connector whose ssh leads there.
struct Host {
    dir: TempDir,
    connector: Connector,
    questions: Questions,
}

impl Host {
    /// A host with dash or bash as everything, whose login is root.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let places = Places { bin: at("var/deptool/bin"), hostname: at("hostname"), root: at("") };
        for name in ["agents", "log", "overlay"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let environment = Environment::from_iter([
            ("PATH", std::env::var("PATH").unwrap()),
            ("DEPTOOL_AGENTS", at("agents")),
            ("GIT_DIR", "/nowhere".into()),
            ("GIT_SSH", at("ssh")),
        ]);
        let ssh = SshSettings::new(&environment, None, None);
        let display = Display { sink: Arc::new(Mutex::new(io::sink())), kind: Kind::Pipe };
        let mut connector = Connector::new(environment, ssh, None, display);
        connector.places = places;
        let host = Host { dir, connector, questions: Questions::Allowed };
        host.path(&format!("{}:/usr/bin:/bin", host.at("overlay").display()));
        host.write("login", "exec sh -c \"$1\"");
        host.bring_agent(AGENT);
        host
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A shell script.
    fn write(&self, name: &str, script: &str) {
        write_program(&self.at(name), &format!("#!/bin/sh\n{script}\n"));
    }

    /// Have the host use this PATH. The stand-in for ssh counts how often it is called.
    fn path(&self, path: &str) {
        let dir = self.dir.path().display();
        let script = format!(
            "for command; do :; done\necho >>{dir}/log/calls\nexec env -i PATH={path} {dir}/login \"$command\""
        );
        self.write("ssh", &script);
    }

    /// Restrict the host to these programs.
    fn only(&self, programs: &[&str]) {
        let tools = self.at("tools");
        fs::create_dir(&tools).unwrap();
        for program in programs {
            symlink(which::which(program).unwrap(), tools.join(program)).unwrap();
        }
        self.path(&format!("{}:{}", self.at("overlay").display(), tools.display()));
    }

    /// Have the login be somebody else than root.
    fn as_user(&mut self) {
        self.connector.places.root = self.at("not-there").to_str().unwrap().to_owned();
        self.write("overlay/id", "echo 1000");
    }

    /// The agents that the helper has.
    fn bring_agent(&self, content: &str) {
        for platform in Platform::ALL {
            let name = format!("agents/{}-{platform}", build::agent_file_name());
            write_program(
                &self.at(&name),
                &content.replace("BUILD", build::BUILD_ID).replace("VERSION", build::VERSION),
            );
        }
    }

    fn agent(&self) -> PathBuf {
        Path::new(&self.connector.places.bin).join(build::agent_file_name())
    }

    fn calls(&self) -> usize {
        fs::read(self.at("log/calls")).map_or(0, |log| log.len())
    }

    /// All that is in the directory of agents.
    fn installed(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.connector.places.bin) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn nothing_was_written(&self) -> bool {
        !self.at("var").exists()
    }

    fn connect_with(&self, early: Option<&Early>) -> (Result<Link, ConnectError>, Vec<Stage>) {
        self.connect_to(Present::Started, early)
    }

    fn connect_to(&self, present: Present, early: Option<&Early>) -> (Result<Link, ConnectError>, Vec<Stage>) {
        let host = HostName::parse(b"web1").unwrap();
        let target = Endpoint::Ssh(SshEndpoint {
            user: None,
            host: host.to_string(),
            port: None,
            name: host,
            sharing: Sharing::AsConfigured,
            socket: None,
            questions: self.questions,
        });
        let mut stages = Vec::new();
        let stage = &mut |stage| stages.push(stage);
        let started = self.connector.start(&target, present, None, stage);
        (started.and_then(|started| self.connector.connect(started, early, stage)), stages)
    }

    fn connect(&self) -> Result<Link, ConnectError> {
        self.connect_with(None).0
    }

    fn refusal(&self) -> String {
        self.connect().expect_err("it can't be reached").to_string()
    }

    /// Run the command as ssh would, with `input` for stdin: what it printed.
    fn run_raw(&self, input: &[u8]) -> String {
        let command = script::remote_command(&self.connector.places, &build::agent_file_name(), Present::Started);
        let mut child = Command::new(self.at("ssh"))
            .args(["web1", &command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It need not read what it does not like.
        let _ = child.stdin.take().unwrap().write_all(input);
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    }
}

/// Put a program there. It is written by another process: a file that is open for writing can't be executed, and what
/// this process has open, any child that another test's thread is about to start has, too.
fn write_program(path: &Path, content: &str) {
    let mut install =
        Command::new("install").args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped()).spawn().unwrap();
    install.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
    assert!(install.wait().unwrap().success(), "{}", path.display());
}

/// An agent that sends back what it gets after the hello.
const AGENT: &str = "#!/bin/sh\nread -r word build\necho deptool-agent VERSION $build\nexec cat\n";

fn succeeds(connection: &Connection) -> bool {
    connection.wait_for(Duration::from_secs(60)).unwrap().unwrap().success()
}

/// Say something to the agent that only echoes, and end the session.
fn echo(link: Link, text: &[u8]) -> Vec<u8> {
    let Link { connection, mut outgoing, mut incoming, socket: _ } = link;
    outgoing.write_all(text).unwrap();
    drop(outgoing);
    let mut answer = Vec::new();
    incoming.read_to_end(&mut answer).unwrap();
    assert!(succeeds(&connection));
    answer
}
