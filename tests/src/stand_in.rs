//! A script that runs instead of an agent, for tests that record, cut off or forge its output.

use std::path::{Path, PathBuf};

use crate::{
    build,
    process::Cmd,
    sandbox::{Repo, Sandbox},
};

/// The program that runs instead of an agent. It runs the script in `$DEPTOOL_STAND_IN`.
pub const STAND_IN: &str = "tests/e2e/stand-in";

/// The agent itself.
pub fn agent() -> PathBuf {
    let agents = std::fs::read_dir(build::local().join("lib/deptool/agents")).unwrap();
    let agents: Vec<PathBuf> = agents.map(|entry| entry.unwrap().path()).collect();
    let [agent] = &agents[..] else { panic!("{agents:?}") };
    agent.clone()
}

/// `git` with these arguments, and with this script instead of every agent. The script finds the real agent as
/// `$DEPTOOL_AGENT`.
///
/// The script is passed in the environment, not written to an executable file: a program that is open for writing can't
/// be run, and a process that another test starts at that moment would inherit the open file.
pub fn with_stand_in(sandbox: &Sandbox, repo: &Repo<'_>, args: &[&str], script: &str) -> Cmd {
    with_agent_replaced(sandbox, repo, &agent(), args, script)
}

/// The same with another agent than that of the tests.
pub fn with_agent_replaced(sandbox: &Sandbox, repo: &Repo<'_>, agent: &Path, args: &[&str], script: &str) -> Cmd {
    let dir = sandbox.dir().join("agents");
    let link = dir.join(agent.file_name().unwrap());
    if !link.exists() {
        std::fs::create_dir_all(&dir).unwrap();
        std::os::unix::fs::symlink(build::workspace().join(STAND_IN), link).unwrap();
    }
    let git = repo.command(args).env("DEPTOOL_AGENTS", dir);
    git.env("DEPTOOL_AGENT", agent).env("DEPTOOL_STAND_IN", script)
}
