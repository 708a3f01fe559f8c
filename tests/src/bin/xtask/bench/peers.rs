//! Ansible and pyinfra, which copy one changed file to a host as our deployment does.
//!
//! Ansible runs Python on the host, so they get a separate host with Python, which ours do not have.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use deptool_tests::build;
use deptool_tests::lab::{Host, Lab, Link};
use deptool_tests::process::Cmd;

use super::report::{Row, Table};

/// The host with Python.
pub const HOST: &str = "peer";

const SHARED: Row = Row::floor("`ssh host true`, shared connection");
const OWN: Row = Row::floor("`ssh host true`, own connection");
const ANSIBLE: Row = Row::peer("Ansible: copy, shared connection", &SHARED);
const PYINFRA: Row = Row::peer("pyinfra: files.put, own connection", &OWN);

const INSTALLING: Duration = Duration::from_secs(600);

/// Their installation directory.
pub struct Peers {
    bin: PathBuf,
}

impl Peers {
    /// Installs them from PyPI into the target directory, once. If that is not possible, prints the reason and returns
    /// `None`.
    pub fn install() -> Option<Peers> {
        let install = || -> Result<Peers> {
            let dir = build::target_dir()?.join("peers");
            let peers = Peers { bin: dir.join("bin") };
            if !peers.bin.join("ansible").exists() || !peers.bin.join("pyinfra").exists() {
                eprintln!("installing Ansible and pyinfra, once");
                Cmd::new("python3").args(["-m", "venv"]).arg(&dir).check()?;
                let pip = Cmd::new(peers.bin.join("pip")).args(["install", "-q", "ansible-core", "pyinfra"]);
                pip.timeout(INSTALLING).check().context("cannot install Ansible and pyinfra")?;
            }
            Ok(peers)
        };
        install().map_err(|error| eprintln!("without the peers: {error:#}")).ok()
    }

    /// Their versions.
    pub fn tell(&self, table: &mut Table) -> Result<()> {
        let first = |program: &str| -> Result<String> {
            let line = Cmd::new(self.bin.join(program)).arg("--version").check()?.stdout();
            Ok(line.lines().next().unwrap_or_default().to_owned())
        };
        let (ansible, pyinfra) = (first("ansible")?, first("pyinfra")?);
        table.note(format!(
            "The peers: {ansible} (pipelining, one module, no facts gathered) and {pyinfra}, on a host that has Python. \
             They put a file in place; nothing is switched at once, and nothing can be rolled back."
        ));
        Ok(())
    }

    /// Has each of them copy a file with this content to `host`.
    pub fn deploy(&self, lab: &Lab, host: &Host, content: &str) -> Result<[(Row, Duration); 2]> {
        let file = lab.dir().join("peer-file");
        std::fs::write(&file, content)?;
        let ansible = self.ansible(lab, host, &file)?.check()?.took;
        let pyinfra = self.pyinfra(lab, host, &file)?.check()?.took;
        for name in ["ansible", "pyinfra"] {
            let there = std::fs::read_to_string(host.path(&format!("/srv/{name}")))?;
            anyhow::ensure!(there == content, "{name} has not put the file there");
        }
        Ok([(ANSIBLE, ansible), (PYINFRA, pyinfra)])
    }

    fn ansible(&self, lab: &Lab, host: &Host, file: &Path) -> Result<Cmd> {
        let copy = format!("src={} dest=/srv/ansible", file.display());
        let command = Cmd::new(self.bin.join("ansible")).arg("all").args(["-i", &format!("{},", host.name)]);
        let ssh = format!("-F {}", lab.ssh_config(Link::Shared)?.display());
        Ok(command
            .args(["-u", "root", "-m", "ansible.builtin.copy", "-a", &copy])
            .env("ANSIBLE_SSH_ARGS", ssh)
            .env("ANSIBLE_PIPELINING", "1")
            .env("ANSIBLE_PYTHON_INTERPRETER", "/usr/bin/python3")
            .env("ANSIBLE_HOME", lab.dir().join("ansible")))
    }

    fn pyinfra(&self, lab: &Lab, host: &Host, file: &Path) -> Result<Cmd> {
        let config = lab.ssh_config(Link::Plain)?;
        let command = Cmd::new(self.bin.join("pyinfra")).args(["-y", &format!("@ssh/{}", host.name), "--user", "root"]);
        let data = [
            format!("ssh_config_file={}", config.display()),
            format!("ssh_known_hosts_file={}", lab.dir().join("ssh/known_hosts").display()),
        ];
        let command = data.iter().fold(command, |command, data| command.args(["--data", data]));
        let source = format!("src={}", file.display());
        Ok(command.args(["files.put", &source, "dest=/srv/pyinfra"]))
    }
}
