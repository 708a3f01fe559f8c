//! Many hosts on one machine: root directories, behind an ssh that only takes its time.
//!
//! All connections are counted as the jump host would do it that they all go through.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{
    build,
    sandbox::{Repo, Sandbox},
};

/// Hosts behind a fake ssh.
#[derive(Debug)]
pub struct Simulation {
    dir: PathBuf,
}

impl Simulation {
    /// From here on ssh is the fake one in that sandbox, and takes so long to log in.
    pub fn new(sandbox: &mut Sandbox, agent: &std::path::Path, login: Duration) -> Result<Simulation> {
        let dir = sandbox.dir().join("simulation");
        std::fs::create_dir_all(dir.join("down")).context("cannot make the simulation's directory")?;
        let ssh = build::workspace().join("tests/src/fake-ssh");
        let text = |path: &std::path::Path| path.to_str().map(str::to_owned).context("a path that is not UTF-8");
        sandbox.set_env("GIT_SSH", &text(&ssh)?);
        sandbox.set_env("GIT_SSH_VARIANT", "simple");
        sandbox.set_env("DEPTOOL_SIMULATION", &text(&dir)?);
        sandbox.set_env("DEPTOOL_SIMULATION_DELAY", &format!("{}", login.as_secs_f64()));
        sandbox.set_env("DEPTOOL_SIMULATION_AGENT", &text(agent)?);
        Ok(Simulation { dir })
    }

    /// The name of the host of that number.
    pub fn host(at: usize) -> String {
        format!("web{at:03}")
    }

    /// Write this file of the one app that each of `count` hosts has.
    pub fn write(repo: &Repo<'_>, count: usize, content: &str) {
        for at in 0..count {
            let host = Simulation::host(at);
            repo.write(format!("{host}/app/file"), format!("{host} {content}\n"));
        }
    }

    /// The host's root directory.
    pub fn root(&self, host: &str) -> PathBuf {
        self.dir.join("roots").join(host)
    }

    /// From here on nobody reaches that host.
    pub fn take_down(&self, host: &str) -> Result<()> {
        Ok(std::fs::write(self.dir.join("down").join(host), "")?)
    }

    /// Whether a process with this environment, as in `/proc/<pid>/environ`, belongs to it.
    pub fn is_in(&self, environment: &[u8]) -> bool {
        let prefix = b"DEPTOOL_SIMULATION=";
        let value = environment.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(prefix));
        value == Some(self.dir.as_os_str().as_encoded_bytes())
    }

    /// How many connections there were since the last call, and how many at once that had not logged in.
    pub fn connections(&self) -> Result<(usize, usize)> {
        let log = self.dir.join("log");
        let events = std::fs::read(&log).context("nothing was connected to")?;
        std::fs::remove_file(&log)?;
        let (mut all, mut now, mut most) = (0, 0usize, 0);
        for event in events {
            match event {
                b'+' => (all, now) = (all + 1, now + 1),
                _ => now = now.saturating_sub(1),
            }
            most = most.max(now);
        }
        Ok((all, most))
    }
}
