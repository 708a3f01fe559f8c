//! The original Deptool, which deploys one changed file to a host as we do.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use deptool_tests::lab::{Lab, Link};
use deptool_tests::process::Cmd;

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
    pub fn new(lab: &Lab, program: PathBuf) -> Result<Original> {
        let original = Original { program, dir: lab.dir().join("original") };
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
            let ssh = self.dir.join("bin/ssh");
            let config = lab.ssh_config(link)?;
            std::fs::write(&ssh, format!("#!/bin/sh\nexec /usr/bin/ssh -F '{}' -l root \"$@\"\n", config.display()))?;
            std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755))?;
            let (app, content) = (self.dir.join(format!("prod/{}/files", host.name)), format!("{content} {word}"));
            std::fs::create_dir_all(&app)?;
            std::fs::write(app.join("file"), &content)?;
            samples.push((row, measure(self.command(&["deploy", "--no-confirm"]))?));
            let there = host.sh("cat /var/lib/deptool/apps/files/current/file");
            ensure!(there == content, "Deptool has not put the file there");
        }
        Ok(samples)
    }

    fn command(&self, arguments: &[&str]) -> Cmd {
        let path = format!("{}:{}", self.dir.join("bin").display(), std::env::var("PATH").unwrap_or_default());
        Cmd::new(&self.program).args(arguments).dir(&self.dir).env("PATH", path).env("HOME", &self.dir)
    }
}
