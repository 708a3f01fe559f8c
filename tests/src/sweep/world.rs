//! A root directory, what is asked of its agent, and what it should look like before and after.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use deptool_agent::frame::FrameBuffer;
use deptool_agent::outcome::Outcome;
use deptool_agent::wire::Response;

use tempfile::TempDir;

use super::state::{self, Exact, Lines};
use crate::build;
use crate::sandbox::{Repo, Sandbox, default_git};
use crate::stand_in::{agent, with_stand_in};
use crate::trace::{self, Call, Deed, Watched};

/// The longest request that fits into a pipe at once.
const PIPE: usize = 60_000;
/// A host's own id, below its root.
const INSTANCE: &str = "var/lib/deptool/instance";

/// What a helper once asked, to be asked again.
#[derive(Debug, Clone)]
pub struct Request(Vec<u8>);

/// One run of an agent.
#[derive(Debug)]
pub struct Said {
    pub responses: Vec<Response>,
    pub stderr: String,
}

/// Which of two states a root is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    Old,
    New,
}

/// What a repository has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knows {
    TheFirstCommit,
    BothCommits,
}

impl Knows {
    fn dir(self) -> &'static str {
        match self {
            Knows::TheFirstCommit => "knows-one",
            Knows::BothCommits => "knows-both",
        }
    }
}

/// A root that goes from nothing to one commit, to another, to nothing: every kind of change that it knows is in it.
pub struct World {
    pub sandbox: Sandbox,
    _temporary: TempDir,
    root: PathBuf,
    agent: PathBuf,
    pub first: Request,
    pub update: Request,
    pub removal: Request,
    instance: String,
}

/// A deployment, and what is there before and after it.
#[derive(Clone)]
pub struct Scenario {
    pub name: &'static str,
    pub request: Request,
    /// What was deployed before.
    before: Vec<Request>,
    pub old: Exact,
    pub new: Lines,
}

impl World {
    /// Makes the commits and records what a helper asks to deploy them.
    pub fn new() -> Result<World> {
        let temporary = in_memory()?;
        let sandbox = Sandbox::at(temporary.path(), &default_git(), build::local());
        let root = sandbox.root("web1");
        let [first, update, removal] = record(&sandbox)?;
        let instance = fs::read_to_string(root.join(INSTANCE))?;
        // A copy, so that a long sweep does not mind what is built meanwhile.
        let its_agent = sandbox.dir().join("deptool-agent");
        fs::copy(agent(), &its_agent)?;
        Ok(World { root, agent: its_agent, first, update, removal, instance, sandbox, _temporary: temporary })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A deployment of `request` after those `before`.
    pub fn scenario(&self, name: &'static str, before: &[&Request], request: &Request) -> Result<Scenario> {
        let before: Vec<Request> = before.iter().map(|request| (*request).clone()).collect();
        self.set_up(&before)?;
        let old = Exact::of(&self.root);
        let said = self.deploy(request, &mut |_| Deed::Go)?;
        ensure!(said.is_done(), "without a fault: {said:?}");
        let new = state::view(&self.root);
        let left = state::left_over(&self.root);
        ensure!(left.is_empty(), "without a fault there is left: {}", left.join("; "));
        Ok(Scenario { name, request: request.clone(), before, old, new })
    }

    /// The three deployments that there are.
    pub fn scenarios(&self) -> Result<[Scenario; 3]> {
        Ok([
            self.scenario("update", &[&self.first], &self.update)?,
            self.scenario("first deployment", &[], &self.first)?,
            self.scenario("removal", &[&self.first], &self.removal)?,
        ])
    }

    /// Makes the root anew as it is before the deployment: the same, but for its times.
    pub fn reset(&self, scenario: &mut Scenario) -> Result<()> {
        self.set_up(&scenario.before)?;
        let now = Exact::of(&self.root);
        ensure!(without_times(&now.files) == without_times(&scenario.old.files), "the root is not as it was before");
        scenario.old = now;
        Ok(())
    }

    /// Makes the root the one that the operators of [`World::operator`] know.
    pub fn give_instance(&self) -> Result<()> {
        Ok(fs::write(self.root.join(INSTANCE), &self.instance)?)
    }

    /// A new repository that has deployed the first commit, and that has the second one, or has it not.
    pub fn operator(&self, name: &str, knows: Knows) -> Result<Repo<'_>> {
        let dir = self.sandbox.dir().join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        self.sandbox.command("cp").arg("-a").arg(knows.dir()).arg(&dir).check()?;
        Ok(self.sandbox.repo_at(dir))
    }

    fn set_up(&self, before: &[Request]) -> Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
        own_files(&self.root)?;
        for request in before {
            let said = self.deploy(request, &mut |_| Deed::Go)?;
            ensure!(said.is_done(), "{said:?}");
        }
        Ok(())
    }

    /// Runs the agent and asks it for `request`. Its input stays open: the end of it would be a helper that is gone.
    pub fn deploy(&self, request: &Request, lead: &mut dyn FnMut(&Call) -> Deed) -> Result<Said> {
        ensure!(request.0.len() < PIPE, "{} bytes do not fit into a pipe", request.0.len());
        let (stdin, mut writer) = std::io::pipe()?;
        writer.write_all(&request.0)?;
        let said = self.follow(stdin.into(), lead);
        drop(writer);
        said
    }

    /// Runs the agent and asks it for nothing: it looks whether there is anything to mend, and ends.
    pub fn recover(&self, lead: &mut dyn FnMut(&Call) -> Deed) -> Result<Said> {
        let (stdin, mut writer) = std::io::pipe()?;
        let line = self.first.0.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        writer.write_all(&self.first.0[..line])?;
        drop(writer);
        self.follow(stdin.into(), lead)
    }

    fn follow(&self, stdin: Stdio, lead: &mut dyn FnMut(&Call) -> Deed) -> Result<Said> {
        let (mut stdout, its_stdout) = std::io::pipe()?;
        let (mut stderr, its_stderr) = std::io::pipe()?;
        let mut command = Command::new(&self.agent);
        command.env_clear().env("DEPTOOL_ROOT", &self.root).env("LC_ALL", "C").current_dir("/");
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("TMPDIR", self.sandbox.dir().join("tmp"));
        command.stdin(stdin).stdout(its_stdout).stderr(its_stderr);
        let (out, err, traced) = std::thread::scope(|scope| {
            let out = scope.spawn(move || read_all(&mut stdout));
            let err = scope.spawn(move || read_all(&mut stderr));
            let traced = trace::run(command, Watched::Everybody, lead);
            (out.join().unwrap_or_default(), err.join().unwrap_or_default(), traced)
        });
        traced?;
        Ok(Said { responses: responses(&out), stderr: String::from_utf8_lossy(&err).into_owned() })
    }

    /// Which state the root is in, after a fault and the next contact; what is wrong with it if it is in neither.
    pub fn judge(&self, scenario: &Scenario) -> Result<Runs, String> {
        let exact = Exact::of(&self.root);
        let runs = match state::difference(&state::view(&self.root), &scenario.new) {
            None => Runs::New,
            Some(from_new) => match state::difference(&settled(&exact.files), &settled(&scenario.old.files)) {
                None => Runs::Old,
                Some(from_old) => {
                    return Err(format!(
                        "neither old nor new; old would be without: {from_old}; new without: {from_new}"
                    ));
                }
            },
        };
        let left = state::left_over(&self.root);
        if !left.is_empty() {
            return Err(format!("left over: {}", left.join("; ")));
        }
        let store = self.root.join("var/lib/deptool/store");
        match state::fsck(self.sandbox.command("git"), &store) {
            Some(wrong) if store.join("HEAD").exists() => Err(wrong),
            Some(_) | None => Ok(runs),
        }
    }

    /// Whether nothing at all has changed, so that the next fault can be tried on the same root.
    pub fn is_untouched(&self, scenario: &Scenario) -> bool {
        Exact::of(&self.root) == scenario.old
    }
}

impl Said {
    /// How the deployment ended, if the agent has said so.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.responses.iter().find_map(|response| match response {
            Response::Ended(outcome) => Some(&**outcome),
            _ => None,
        })
    }

    pub fn is_done(&self) -> bool {
        matches!(self.outcome(), Some(Outcome::Done { .. }))
    }

    /// What the agent could not do, if it said that.
    pub fn error(&self) -> Option<&str> {
        self.responses.iter().find_map(|response| match response {
            Response::Error(why) => Some(why.as_str()),
            _ => None,
        })
    }
}

/// A temporary directory, in memory if possible: nothing here depends on what a disk does, and thousands of syncs take
/// their time.
pub(super) fn in_memory() -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    Ok(tempfile::Builder::new().prefix("deptool-").tempdir_in(parent)?)
}

/// A host that was never deployed to may have our empty directories, and its own id.
fn settled(files: &Lines) -> Lines {
    let mut files = files.clone();
    let was_deployed = files.contains_key("var/lib/deptool/current");
    if !was_deployed {
        files.retain(|path, _| !path.starts_with("var"));
    }
    files
}

fn without_times(files: &Lines) -> Lines {
    let time = |what: &String| match (what.find('('), what.find(") ")) {
        (Some(from), Some(to)) => format!("{}{}", &what[..from], &what[to..]),
        _ => what.clone(),
    };
    files.iter().map(|(path, what)| (path.clone(), time(what))).collect()
}

/// What the host has of its own.
fn own_files(root: &Path) -> Result<()> {
    let etc = root.join("etc");
    fs::create_dir_all(etc.join("systemd/system/own.service.d"))?;
    for name in ["taken", "taken too", "own", "systemd/system/own.service.d/own.conf"] {
        fs::write(etc.join(name), "same\n")?;
    }
    Ok(())
}

/// The requests of three pushes: of a commit, of another one, of nothing.
fn record(sandbox: &Sandbox) -> Result<[Request; 3]> {
    let repo = sandbox.repo("operator");
    repo.add_root("web1");
    own_files(&sandbox.root("web1"))?;
    first_commit(&repo);
    let first = recorded(sandbox, &repo, &["push", "web1", "prod"])?;
    let keep = |knows: Knows| sandbox.command("cp").arg("-a").arg(&repo.dir).arg(knows.dir()).check();
    keep(Knows::TheFirstCommit)?;
    second_commit(&repo);
    keep(Knows::BothCommits)?;
    let update = recorded(sandbox, &repo, &["push", "web1", "prod"])?;
    repo.git(&["push", "-f", "web1", "prod~1:prod"]).ok();
    let removal = recorded(sandbox, &repo, &["push", "web1", ":prod"])?;
    Ok([first, update, removal])
}

fn recorded(sandbox: &Sandbox, repo: &Repo<'_>, push: &[&str]) -> Result<Request> {
    let file = sandbox.dir().join("tmp/recorded");
    let script = format!("tee '{}' | \"$DEPTOOL_AGENT\"", file.display());
    with_stand_in(sandbox, repo, push, &script).run()?.ok();
    Ok(Request(fs::read(&file)?))
}

const UNIT: &str =
    "[Unit]\nDescription=A unit\n[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";

fn first_commit(repo: &Repo<'_>) {
    repo.write("web1/web/same", "same\n");
    repo.write("web1/web/file", "1\n");
    repo.write("web1/web/key", "secret\n");
    repo.write("web1/same/file", "stays\n");
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
        r#"{"symlinks": {"/etc/stays": "file", "/etc/goes/x": "file", "/etc/moves": "file", "/etc/taken": "same"},
            "files": {"key": {"mode": "0600"}},
            "systemd": {"units_enabled": ["gone.service", "stays.service"]}}"#,
    );
    repo.commit("One");
}

fn second_commit(repo: &Repo<'_>) {
    repo.write("web1/web/file", "2\n");
    repo.remove("web1/gone");
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
        r#"{"symlinks": {"/etc/stays": "file", "/etc/comes/y/z": "file", "/etc/moves": "same", "/etc/taken too": "same"},
            "files": {"key": {"mode": "0640"}},
            "systemd": {"units_enabled": ["new.service", "stays.service"]}}"#,
    );
    repo.commit("Two");
}

fn read_all(from: &mut impl std::io::Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    bytes
}

/// The frames after the agent's first line, as far as they came.
fn responses(out: &[u8]) -> Vec<Response> {
    let frames = out.iter().position(|byte| *byte == b'\n').map_or(&[][..], |at| &out[at + 1..]);
    let mut buffer = FrameBuffer::default();
    buffer.push(frames);
    std::iter::from_fn(|| buffer.take().ok().flatten()).collect()
}
