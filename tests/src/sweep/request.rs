//! Requests of a helper, recorded so that they can be repeated, and variations of them.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use deptool_agent::shared::{
    frame::{FrameBuffer, encode},
    wire::{self, Activation, DecidedBy, Deploy},
};

use super::state;
use super::world::{Knows, own_files};
use crate::{
    sandbox::{Repo, Sandbox},
    secrets::{RECIPIENT, encrypt},
    stand_in::with_agent_replaced,
};

/// The maximum number of packs on a host. With one more, the store is repacked.
const MOST_PACKS: usize = 50;

/// What a helper sends to deploy something.
#[derive(Debug, Clone)]
pub struct Request {
    line: Vec<u8>,
    deploy: Deploy,
    /// The frames that follow.
    rest: Vec<u8>,
}

impl Request {
    fn parse(bytes: &[u8]) -> Result<Request> {
        let end = bytes.iter().position(|byte| *byte == b'\n').context("there is no first line")? + 1;
        let mut buffer = FrameBuffer::default();
        buffer.push(&bytes[end..]);
        let Some(wire::Request::Deploy(deploy)) = buffer.take()? else {
            anyhow::bail!("the first message is no deployment");
        };
        Ok(Request { line: bytes[..end].to_vec(), deploy: *deploy, rest: buffer.take_rest() })
    }

    pub fn bytes(&self) -> Result<Vec<u8>> {
        let deploy = encode(&wire::Request::Deploy(Box::new(self.deploy.clone())))?;
        Ok([&self.line[..], &deploy, &self.rest].concat())
    }

    /// What a helper always sends first.
    pub fn line(&self) -> &[u8] {
        &self.line
    }

    /// What to send over another connection when the agent asks for a confirmation, if it does.
    pub fn over_another(&self) -> Result<Option<Vec<u8>>> {
        if self.deploy.confirm.is_none() {
            return Ok(None);
        }
        let [attach, confirm] = [wire::Request::Attach(self.deploy.id), wire::Request::Confirm];
        Ok(Some([&self.line[..], &encode(&attach)?, &encode(&confirm)?].concat()))
    }

    /// The same, but the agent waits for a verdict. The orders are sent in advance.
    pub fn held(&self, orders: &[wire::Request]) -> Result<Request> {
        let mut held = self.clone();
        (held.deploy.activation, held.deploy.decided_by) = (Activation::WhenTold, DecidedBy::Helper);
        for order in std::iter::once(&wire::Request::Activate).chain(orders) {
            held.rest.extend(encode(order)?);
        }
        Ok(held)
    }

    /// The same, to be confirmed within so many seconds.
    pub fn confirmed(&self, seconds: u16) -> Request {
        Request { deploy: Deploy { confirm: Some(seconds), ..self.deploy.clone() }, ..self.clone() }
    }
}

/// The requests of three pushes: of a commit, of another commit, and of a removal.
pub fn record(sandbox: &Sandbox, agent: &Path) -> Result<[Request; 3]> {
    let repo = sandbox.repo("operator");
    repo.add_root("web1");
    own_files(&sandbox.root("web1"))?;
    first_commit(&repo);
    let first = recorded(sandbox, &repo, agent, &["push", "-o", "take-over", "web1", "prod"])?;
    let keep = |knows: Knows| sandbox.command("cp").arg("-a").arg(&repo.dir).arg(knows.dir()).check();
    keep(Knows::TheFirstCommit)?;
    second_commit(&repo);
    keep(Knows::BothCommits)?;
    let update = recorded(sandbox, &repo, agent, &["push", "-o", "take-over", "web1", "prod"])?;
    repo.git(&["push", "-o", "take-over", "-f", "web1", "prod~1:prod"]).ok();
    let removal = recorded(sandbox, &repo, agent, &["push", "web1", ":prod"])?;
    Ok([first, update, removal])
}

/// Deploys until the host `web1` has the maximum number of packs. Returns the request that adds one more.
pub fn record_crowd(sandbox: &Sandbox, agent: &Path) -> Result<Request> {
    let repo = sandbox.repo("operator");
    repo.add_root("web1");
    let root = sandbox.root("web1");
    own_files(&root)?;
    first_commit(&repo);
    for n in 0.. {
        repo.git(&["push", "-o", "take-over", "web1", "prod"]).ok();
        if state::packs(&root) == MOST_PACKS {
            break;
        }
        ensure!(n < 2 * MOST_PACKS, "after {n} deployments there are {} packs", state::packs(&root));
        repo.write("web1/web/file", format!("{n}\n"));
        repo.commit("Another one");
    }
    second_commit(&repo);
    // The request is repeated on a copy of the host.
    let before = sandbox.dir().join("before");
    sandbox.command("cp").arg("-a").arg(&root).arg(&before).check()?;
    let request = recorded(sandbox, &repo, agent, &["push", "-o", "take-over", "web1", "prod"])?;
    fs::remove_dir_all(&root)?;
    fs::rename(&before, &root)?;
    Ok(request)
}

fn recorded(sandbox: &Sandbox, repo: &Repo<'_>, agent: &Path, push: &[&str]) -> Result<Request> {
    let file = sandbox.dir().join("tmp/recorded");
    let script = format!("tee '{}' | \"$DEPTOOL_AGENT\"", file.display());
    with_agent_replaced(sandbox, repo, agent, push, &script).run()?.ok();
    Request::parse(&fs::read(&file)?)
}

const UNIT: &str =
    "[Unit]\nDescription=A unit\n[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";

/// The plain text of secrets in the first and in the second commit.
pub const SECRETS: [&str; 2] = ["plain text of the first commit", "plain text of the second commit"];

fn first_commit(repo: &Repo<'_>) {
    repo.write("web1/web/same", "same\n");
    repo.write("web1/web/file", "1\n");
    repo.write("web1/web/key", "secret\n");
    repo.write("web1/web/secrets/key.age", encrypt(RECIPIENT, SECRETS[0]));
    repo.write("web1/gone/secrets/key.age", encrypt(RECIPIENT, SECRETS[0]));
    repo.write("web1/same/file", "stays\n");
    repo.write("web1/same/dir/file", "stays\n");
    repo.write("web1/same/manifest.json", r#"{"symlinks": {"/etc/opens": "dir", "/etc/shuts/x/y": "file"}}"#);
    repo.write("web1/gone/file", "x");
    repo.write("web1/gone/dir/file", "x");
    repo.write("web1/web/tmpfiles/a.conf", "d /run/sweep 0755\n");
    repo.write("web1/web/sysusers/gone.conf", "u sweep-one -\n");
    repo.write("web1/web/quadlets/gone.network", "[Network]\n");
    repo.write("web1/web/systemd/gone.service", UNIT);
    repo.write("web1/web/systemd/stays.service", UNIT);
    repo.write("web1/web/systemd/own.service.d/ours.conf", "[Service]\nNice=1\n");
    repo.write(
        "web1/web/manifest.json",
        r#"{"symlinks": {"/etc/stays": "file", "/etc/goes/x": "file", "/etc/moves": "file", "/etc/taken": "same",
                         "/etc/differs": "same"},
            "files": {"key": {"mode": "0600"}},
            "systemd": {"units_enabled": ["gone.service", "stays.service"]}}"#,
    );
    repo.commit("One");
}

fn second_commit(repo: &Repo<'_>) {
    repo.write("web1/web/file", "2\n");
    // A link to a directory becomes links in one, and the other way round.
    repo.write("web1/same/manifest.json", r#"{"symlinks": {"/etc/opens/x/y": "file", "/etc/shuts": "dir"}}"#);
    repo.remove("web1/gone");
    repo.write("web1/web/secrets/key.age", encrypt(RECIPIENT, SECRETS[1]));
    repo.write("web1/new/secrets/key.age", encrypt(RECIPIENT, SECRETS[1]));
    repo.write("web1/new/file", "y");
    repo.write("web1/new/dir/dir/file", "y");
    repo.write("web1/web/tmpfiles/a.conf", "d /run/sweep 0750\n");
    repo.remove("web1/web/sysusers");
    repo.write("web1/web/sysusers/new.conf", "u sweep-two -\n");
    repo.remove("web1/web/quadlets");
    repo.remove("web1/web/systemd/gone.service");
    repo.write(
        "web1/web/systemd/new.timer",
        UNIT.replace("Service", "Timer").replace("ExecStart=/bin/true", "OnBootSec=9"),
    );
    repo.write("web1/web/systemd/new.service", UNIT);
    repo.write("web1/web/systemd/stays.service", UNIT.replace("A unit", "Another unit"));
    repo.write("web1/web/systemd/own.service.d/ours.conf", "[Service]\nNice=2\n");
    repo.write(
        "web1/web/manifest.json",
        r#"{"symlinks": {"/etc/stays": "file", "/etc/comes/y/z": "file", "/etc/moves": "same", "/etc/taken too": "same",
                         "/etc/differs too": "same"},
            "files": {"key": {"mode": "0640"}},
            "systemd": {"units_enabled": ["new.service", "stays.service"]}}"#,
    );
    repo.commit("Two");
}
