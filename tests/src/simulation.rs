//! Many hosts on one machine: local roots behind a fake ssh that only takes time to log in.
//!
//! Connections are counted as a jump host in front of all hosts would count them.

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
    /// Replaces ssh in that sandbox with the fake one, which takes this long to log in.
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

    /// The name of the host with that number.
    pub fn host(at: usize) -> String {
        format!("web{at:03}")
    }

    /// Writes this file in the only app of each of `count` hosts.
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

    /// Makes that host unreachable.
    pub fn take_down(&self, host: &str) -> Result<()> {
        Ok(std::fs::write(self.dir.join("down").join(host), "")?)
    }

    /// Whether a process with this environment, as in `/proc/<pid>/environ`, belongs to it.
    pub fn is_in(&self, environment: &[u8]) -> bool {
        let prefix = b"DEPTOOL_SIMULATION=";
        let value = environment.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(prefix));
        value == Some(self.dir.as_os_str().as_encoded_bytes())
    }

    /// The number of connections since the last call, and the maximum that were logging in at the same time.
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
