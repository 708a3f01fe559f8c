//! Deployments to the lab's hosts, against `ssh host true`.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use deptool_tests::lab::{Base, HostSpec, Lab, Link};
use deptool_tests::sandbox::{Repo, Sandbox, default_git};

use super::original::{self, Original};
use super::peers::{self, Peers};
use super::report::{Aim, Row, Sample, Table};
use super::{Effort, measure};

const COLD: Row = Row::floor("`ssh host true`, the first time");
const FIRST: Row = Row::ours("first contact, agent uploaded", &COLD, Aim::Times(2.0));
const OWN: Row = Row::floor("`ssh host true`, own connection");
const OWN_FILE: Row = Row::ours("one file, own connection", &OWN, Aim::Times(1.1));
const SHARED: Row = Row::floor("`ssh host true`, shared connection");
const SHARED_FILE: Row = Row::ours("one file, shared connection", &SHARED, Aim::Above(Duration::from_millis(10)));
const RESTART: Row = Row::floor("`systemctl restart` of a unit, on the host");
const SHARED_UNIT: Row = Row::ours("one file, and that unit restarted", &SHARED_FILE, Aim::None);
const THREE: Row = Row::ours("one file on each of 3 hosts", &SHARED_FILE, Aim::Times(1.3));
const FAR: Row = Row::floor("`ssh host true`, shared, 100 ms away");
const FAR_FILE: Row = Row::ours("one file, shared, 100 ms away", &FAR, Aim::Times(1.2));
const GIT: Row = Row::floor("`git rev-parse HEAD`");
const UP_TO_DATE: Row = Row::ours("a push that is up to date", &GIT, Aim::Within(Duration::from_millis(10)));

/// Half of the round-trip time.
const FAR_DELAY: Duration = Duration::from_millis(50);

/// It announces its readiness, so the agent waits for nothing else.
const UNIT: &str = "[Service]\nType=notify\nNotifyAccess=all\n\
                    ExecStart=/bin/sh -c 'systemd-notify --ready; exec sleep infinity'\n\
                    [Install]\nWantedBy=multi-user.target\n";
const MANIFEST: &str = r#"{"systemd": {"units_enabled": ["bench.service"]}}"#;

struct Bench<'a> {
    lab: &'a Lab,
    sandbox: &'a mut Sandbox,
    peers: Option<&'a Peers>,
    original: Option<&'a Original>,
    /// `None` in the first round, which is not counted, because the first time is always different.
    table: Option<&'a mut Table>,
    round: usize,
}

pub fn run(table: &mut Table, prefix: &Path, effort: Effort, peers: Option<&Peers>) -> Result<()> {
    let mut specs: Vec<HostSpec> = ["web1", "web2", "web3"].map(HostSpec::new).into();
    if peers.is_some() {
        specs.push(HostSpec { base: Base::Python, ..HostSpec::new(peers::HOST) });
    }
    let program = Original::program();
    specs.extend(program.iter().map(|_| HostSpec::new(original::HOST)));
    let lab = Lab::start(&specs)?;
    let original = program.map(|program| Original::new(lab.dir().join("original"), program)).transpose()?;
    let mut sandbox = Sandbox::make(&default_git(), prefix);
    sandbox.set_link(&lab, Link::Plain);
    make_tree(&sandbox.repo("operator"));
    first_contact(table, &lab, &sandbox)?;
    let original = original.as_ref();
    let mut bench = Bench { lab: &lab, sandbox: &mut sandbox, peers, original, table: None, round: 0 };
    bench.all()?;
    bench.table = Some(&mut *table);
    let rounds = effort.choose(20, 8);
    for round in 1..=rounds {
        eprint!("\rround {round} of {rounds}");
        bench.round = round;
        bench.all()?;
    }
    eprintln!();
    peers.map_or(Ok(()), |peers| peers.tell(table))
}

fn make_tree(repo: &Repo<'_>) {
    for host in ["web1", "web2", "web3"] {
        repo.write(format!("{host}/files/file"), "0");
    }
    repo.write("web2/unit/file", "0");
    repo.write("web2/unit/systemd/bench.service", UNIT);
    repo.write("web2/unit/manifest.json", MANIFEST);
    repo.commit("Begin");
    for host in ["web1", "web2", "web3"] {
        repo.add_remote(host, &format!("deptool::{host}"));
    }
    repo.add_remote("cluster", "deptool::@all");
}

fn first_contact(table: &mut Table, lab: &Lab, sandbox: &Sandbox) -> Result<()> {
    let repo = sandbox.repo_at(sandbox.dir().join("operator"));
    for host in ["web1", "web2", "web3"] {
        table.add(COLD, measure(lab.host(host).ssh_command(Link::Plain, "root", &["true"]))?);
        table.add(FIRST, measure(repo.command(&["push", "-q", host, "prod"]))?);
    }
    Ok(())
}

impl Bench<'_> {
    fn all(&mut self) -> Result<()> {
        self.link(Link::Plain)?;
        self.ssh(OWN, Link::Plain)?;
        self.push(OWN_FILE, "web1", &["web1/files/file"])?;
        self.link(Link::Shared)?;
        self.ssh(SHARED, Link::Shared)?;
        self.push(SHARED_FILE, "web1", &["web1/files/file"])?;
        let restart = self.lab.host("web2").run_in(&["systemctl", "restart", "bench.service"])?.took;
        self.add(RESTART, restart);
        self.push(SHARED_UNIT, "web2", &["web2/unit/file"])?;
        self.push(THREE, "cluster", &["web1/files/file", "web2/files/file", "web3/files/file"])?;
        let far = Link::SharedDelayed(FAR_DELAY);
        self.link(far)?;
        self.ssh(FAR, far)?;
        self.push(FAR_FILE, "web1", &["web1/files/file"])?;
        self.up_to_date()?;
        if let Some(original) = self.original {
            for (row, took) in original.deploy(self.lab, &self.round.to_string())? {
                self.add(row, took);
            }
        }
        if let Some(peers) = self.peers {
            let (host, content) = (self.lab.host(peers::HOST), self.round.to_string());
            for (row, took) in peers.deploy(self.lab, host, &content)? {
                self.add(row, took);
            }
        }
        Ok(())
    }

    /// Makes ssh use that link. The helper forgets what it has measured over the previous one, and asks ssh where its sockets are.
    fn link(&mut self, link: Link) -> Result<()> {
        self.sandbox.set_link(self.lab, link);
        for round in ["once", "twice"] {
            let repo = self.sandbox.repo_at(self.sandbox.dir().join("operator"));
            for host in ["web1", "web2", "web3"] {
                repo.write(format!("{host}/files/file"), format!("{} {link:?} {round}", self.round));
            }
            repo.commit("Another way");
            repo.command(&["push", "-q", "cluster", "prod"]).check()?;
        }
        Ok(())
    }

    fn add(&mut self, row: Row, sample: impl Into<Sample>) {
        if let Some(table) = &mut self.table {
            table.add(row, sample);
        }
    }

    fn ssh(&mut self, row: Row, link: Link) -> Result<()> {
        let sample = measure(self.lab.host("web1").ssh_command(link, "root", &["true"]))?;
        self.add(row, sample);
        Ok(())
    }

    /// Changes these files, commits, and pushes.
    fn push(&mut self, row: Row, remote: &str, files: &[&str]) -> Result<()> {
        let repo = self.sandbox.repo_at(self.sandbox.dir().join("operator"));
        for file in files {
            repo.write(file, format!("{} {}", self.round, row.name));
        }
        repo.commit(row.name);
        let sample = measure(repo.command(&["push", "-q", remote, "prod"]))?;
        self.add(row, sample);
        Ok(())
    }

    fn up_to_date(&mut self) -> Result<()> {
        let repo = self.sandbox.repo_at(self.sandbox.dir().join("operator"));
        let git = measure(repo.command(&["rev-parse", "-q", "--verify", "HEAD"]))?;
        let push = measure(repo.command(&["push", "-q", "web1", "prod"]))?;
        self.add(GIT, git);
        self.add(UP_TO_DATE, push);
        Ok(())
    }
}
