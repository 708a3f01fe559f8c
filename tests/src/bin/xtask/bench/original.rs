//! The original Deptool, which deploys one changed file to a host as we do.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use deptool_tests::lab::{Lab, Link};
use deptool_tests::process::{Cmd, write_program};

use super::measure;
use super::report::{Row, Sample};

/// The environment variable with the path of its program. It can't be installed from a registry.
const PROGRAM: &str = "DEPTOOL_ORIGINAL";

const SHARED: Row = Row::floor("`ssh host true`, shared connection");
const OWN: Row = Row::floor("`ssh host true`, own connection");
const OVER_SHARED: Row = Row::peer("Deptool: the same, shared connection", &SHARED);
const OVER_OWN: Row = Row::peer("Deptool: the commit and one file, own connection", &OWN);

/// Its host.
pub const HOST: &str = "original";

/// A cluster of one host.
pub struct Original {
    program: PathBuf,
    /// The operator's directory.
    dir: PathBuf,
}

impl Original {
    /// The program, if the environment names it.
    pub fn program() -> Option<PathBuf> {
        std::env::var_os(PROGRAM).map(PathBuf::from)
    }

    /// Makes a cluster.
    pub fn new(dir: PathBuf, program: PathBuf) -> Result<Original> {
        let original = Original { program, dir };
        std::fs::create_dir_all(original.dir.join("bin"))?;
        std::fs::write(original.dir.join(".gitconfig"), "[user]\nname = Op\nemail = op@example.org\n")?;
        original.command(&["init", "prod"]).check()?;
        Ok(original)
    }

    /// Has it put a file with this content on its host, over each kind of connection.
    pub fn deploy(&self, lab: &Lab, content: &str) -> Result<Vec<(Row, Sample)>> {
        let host = lab.host(HOST);
        let mut samples = Vec::new();
        for (row, link, word) in [(OVER_OWN, Link::Plain, "own"), (OVER_SHARED, Link::Shared, "shared")] {
            let config = lab.ssh_config(link)?;
            self.script("ssh", &format!("exec /usr/bin/ssh -F '{}' -l root \"$@\"", config.display()))?;
            let content = format!("{content} {word}");
            samples.push((row, measure(self.change(&host.name, &content)?)?));
            let there = host.sh("cat /var/lib/deptool/apps/files/current/file");
            ensure!(there == content, "Deptool has not put the file there");
        }
        Ok(samples)
    }

    /// Has it put a file with this content on this computer. In place of ssh is a script that runs commands here, with a directory of
    /// the cluster as `/var/lib/deptool`.
    pub fn deploy_here(&self, content: &str) -> Result<Cmd> {
        let root = self.dir.join("root");
        std::fs::create_dir_all(&root)?;
        let mounts = "mount -t tmpfs none /var/lib && mkdir /var/lib/deptool && mount --bind \"$0\" /var/lib/deptool";
        // Before the command, there are three options with values and the host.
        let ssh = format!("shift 7\nexec unshare -m sh -c '{mounts} && exec sh -c \"$1\"' '{}' \"$*\"", root.display());
        self.script("ssh", &ssh)?;
        self.script("sudo", "exec \"$@\"")?;
        self.change(std::fs::read_to_string("/etc/hostname")?.trim_end(), content)
    }

    /// The file's content on this computer.
    pub fn deployed_here(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.dir.join("root/apps/files/current/file"))?)
    }

    /// A deployment of a file with this content.
    fn change(&self, host: &str, content: &str) -> Result<Cmd> {
        let app = self.dir.join(format!("prod/{host}/files"));
        std::fs::create_dir_all(&app)?;
        std::fs::write(app.join("file"), content)?;
        Ok(self.command(&["deploy", "--no-confirm"]))
    }

    fn script(&self, name: &str, text: &str) -> Result<()> {
        let file = self.dir.join("bin").join(name);
        Ok(write_program(&file, format!("#!/bin/sh\n{text}\n"))?)
    }

    fn command(&self, arguments: &[&str]) -> Cmd {
        let path = format!("{}:{}", self.dir.join("bin").display(), std::env::var("PATH").unwrap_or_default());
        Cmd::new(&self.program).args(arguments).dir(&self.dir).env("PATH", path).env("HOME", &self.dir)
    }
}
