//! Ansible, with and without Mitogen, and pyinfra, which copy one changed file to a host as our deployment does.
//!
//! Ansible runs Python on the host, so they get a separate host with Python, which ours do not have.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use deptool_tests::build;
use deptool_tests::lab::{Host, Lab, Link};
use deptool_tests::process::Cmd;

use super::measure;
use super::report::{Row, Sample, Table};

/// The host with Python.
pub const HOST: &str = "peer";

const SHARED: Row = Row::floor("`ssh host true`, shared connection");
const OWN: Row = Row::floor("`ssh host true`, own connection");
const ANSIBLE: Row = Row::peer("Ansible: copy, shared connection", &SHARED);
const MITOGEN: Row = Row::peer("Ansible with Mitogen: the same", &SHARED);
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
            if peers.mitogen().is_err() || !peers.bin.join("pyinfra").exists() {
                eprintln!("installing Ansible, Mitogen and pyinfra, once");
                Cmd::new("python3").args(["-m", "venv"]).arg(&dir).check()?;
                let pip = Cmd::new(peers.bin.join("pip")).args(["install", "-q", "ansible-core", "mitogen", "pyinfra"]);
                pip.timeout(INSTALLING).check().context("cannot install Ansible, Mitogen and pyinfra")?;
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
            "The peers: {ansible} (pipelining, one module, no facts gathered), the same with \
             Mitogen, and {pyinfra}, on a host that has Python. \
             They put a file in place; nothing is switched at once, and nothing can be rolled back."
        ));
        Ok(())
    }

    /// Has each of them copy a file with this content to `host`.
    pub fn deploy(&self, lab: &Lab, host: &Host, content: &str) -> Result<Vec<(Row, Sample)>> {
        let file = lab.dir().join("peer-file");
        std::fs::write(&file, content)?;
        let all = [
            ("ansible", ANSIBLE, self.ansible(lab, host, &file, "ansible")?),
            ("mitogen", MITOGEN, self.with_mitogen(self.ansible(lab, host, &file, "mitogen")?)?),
            ("pyinfra", PYINFRA, self.pyinfra(lab, host, &file)?),
        ];
        let mut samples = Vec::new();
        for (name, row, command) in all {
            // A version of Ansible may be too new for Mitogen. The other rows count without it.
            let sample = match measure(command) {
                Err(error) if name == "mitogen" => {
                    eprintln!("without Mitogen: {error:#}");
                    continue;
                }
                sample => sample?,
            };
            samples.push((row, sample));
            let there = std::fs::read_to_string(host.path(&format!("/srv/{name}")))?;
            anyhow::ensure!(there == content, "{name} has not put the file there");
        }
        Ok(samples)
    }

    fn ansible(&self, lab: &Lab, host: &Host, file: &Path, name: &str) -> Result<Cmd> {
        let copy = format!("src={} dest=/srv/{name}", file.display());
        let command = Cmd::new(self.bin.join("ansible")).arg("all").args(["-i", &format!("{},", host.name)]);
        let ssh = format!("-F {}", lab.ssh_config(Link::Shared)?.display());
        Ok(command
            .args(["-u", "root", "-m", "ansible.builtin.copy", "-a", &copy])
            .env("ANSIBLE_SSH_ARGS", ssh)
            .env("ANSIBLE_PIPELINING", "1")
            .env("ANSIBLE_PYTHON_INTERPRETER", "/usr/bin/python3")
            .env("ANSIBLE_HOME", lab.dir().join("ansible")))
    }

    fn with_mitogen(&self, ansible: Cmd) -> Result<Cmd> {
        Ok(ansible.env("ANSIBLE_STRATEGY", "mitogen_linear").env("ANSIBLE_STRATEGY_PLUGINS", self.mitogen()?))
    }

    /// The directory of Mitogen's plugins for Ansible.
    fn mitogen(&self) -> Result<PathBuf> {
        let lib = self.bin.with_file_name("lib");
        let versions = std::fs::read_dir(&lib).with_context(|| format!("cannot read {}", lib.display()))?;
        let plugins =
            versions.flatten().map(|python| python.path().join("site-packages/ansible_mitogen/plugins/strategy"));
        plugins.into_iter().find(|dir| dir.exists()).context("Mitogen is not installed")
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
