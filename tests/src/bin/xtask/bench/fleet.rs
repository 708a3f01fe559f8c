//! A push to 50 hosts, 20 ms away, over connections that are shared.
//!
//! All of them are one host of the lab: each name has a connection and a root directory of its own. So what is measured is this
//! side, ssh and the network, and 50 agents on two processors, but no systemd.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use deptool_tests::lab::{HostSpec, Lab, Link};
use deptool_tests::sandbox::{Repo, Sandbox, default_git};

use super::report::{Aim, Row, Table};
use super::{Effort, measure};

const HOSTS: usize = 50;
/// Half of the round-trip time.
const DELAY: Duration = Duration::from_millis(10);
const HOST: &str = "fleet";

const ONE: Row = Row::floor("one file on 1 host, shared, 20 ms away");
const ALL: Row = Row::ours("one file on each of 50 hosts, shared, 20 ms away", &ONE, Aim::None);

pub fn run(table: &mut Table, prefix: &Path, effort: Effort) -> Result<()> {
    eprintln!("50 hosts");
    let lab = Lab::start(&[HostSpec::new(HOST)])?;
    // The host answers to every name.
    let setup = "echo localhost >/etc/hostname && echo 'AcceptEnv DEPTOOL_ROOT' >/etc/ssh/sshd_config.d/fleet.conf && \
                 systemctl reload ssh";
    ensure!(lab.host(HOST).run_in(&["sh", "-c", setup])?.success(), "the host can't be set up");
    let mut sandbox = Sandbox::make(&default_git(), prefix);
    let config = ssh_config(&lab)?;
    sandbox.set_env("GIT_SSH_COMMAND", &format!("ssh -F {}", config.display()));
    let repo = sandbox.repo("operator");
    repo.add_remote("all", "deptool::@all");
    repo.add_remote("h00", "deptool::h00");
    // The first push to a host opens its connection, the second measures how far away it is.
    let result = (0..=effort.choose(15, 3) + 1).try_for_each(|round| {
        for (row, count, remote) in [(ONE, 1, "h00"), (ALL, HOSTS, "all")] {
            change(&repo, count, &format!("{round} {remote}"));
            // The one host has to have an agent before the others come.
            let sample = measure(repo.command(&["push", "-q", remote, "prod"]))?;
            if round > 1 {
                table.add(row, sample);
            }
        }
        anyhow::Ok(())
    });
    for host in (0..HOSTS).map(name) {
        // A connection that is gone needs no end.
        let _ = sandbox.command("ssh").args(["-F"]).arg(&config).args(["-O", "exit", &host]).run();
    }
    result
}

fn name(at: usize) -> String {
    format!("h{at:02}")
}

fn change(repo: &Repo<'_>, count: usize, content: &str) {
    (0..count).for_each(|at| repo.write(format!("{}/app/file", name(at)), content));
    repo.commit("Another content");
}

fn ssh_config(lab: &Lab) -> Result<PathBuf> {
    let mut text = String::new();
    for host in (0..HOSTS).map(name) {
        writeln!(text, "Host {host}\n    HostName {}\n    HostKeyAlias {HOST}\n    User root", lab.host(HOST).ip)?;
        writeln!(text, "    SetEnv DEPTOOL_ROOT=/srv/{host}\n    ControlPath {}/%n", lab.dir().join("ssh").display())?;
    }
    writeln!(text, "Host *\n    Include {}", lab.ssh_config(Link::SharedDelayed(DELAY))?.display())?;
    let file = lab.dir().join("ssh/config.fleet");
    std::fs::write(&file, text)?;
    Ok(file)
}
