//! A root directory, the request to its agent, and the expected states before and after.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;

use anyhow::{Context as _, Result, ensure};
use deptool_agent::shared::{
    build::agent_file_name,
    frame::FrameBuffer,
    outcome::Outcome,
    wire::{self, Response},
};
use tempfile::TempDir;

use super::request::{self, Request};
use super::state::{self, AGENTS, Exact, Lines};
use crate::{
    build,
    process::Cmd,
    sandbox::{self, Repo, Sandbox, default_git},
    secrets,
    trace::{self, Call, Deed, Watched},
};

/// The longest request that a pipe holds.
const PIPE: usize = 60_000;
/// How long a deployment waits for its confirmation, in seconds. A fault may prevent the confirmation.
const CONFIRM: u16 = 3;
/// A host's own id, below its root.
const INSTANCE: &str = "var/lib/deptool/state/instance";

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

/// What a repository contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knows {
    TheFirstCommit,
    BothCommits,
}

impl Knows {
    pub(super) fn dir(self) -> &'static str {
        match self {
            Knows::TheFirstCommit => "knows-one",
            Knows::BothCommits => "knows-both",
        }
    }
}

/// A root that goes from nothing to a first commit, a second one, and back to nothing. These contain every kind of
/// change.
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

/// A deployment, and the states before and after it.
#[derive(Clone)]
pub struct Scenario {
    pub name: &'static str,
    pub request: Request,
    /// The request that completes it if it was not done.
    pub again: Request,
    /// Whether the deployment is permanent once the agent has acknowledged *keep*.
    pub kept_is_new: bool,
    before: Before,
    pub old: Exact,
    pub new: Lines,
}

/// What was deployed before.
#[derive(Debug, Clone)]
enum Before {
    Requests(Vec<Request>),
    /// A root to copy, because it takes many deployments to create.
    Copy(PathBuf),
}

impl World {
    /// Makes the commits, and records the requests of a helper that deploys them.
    pub fn new() -> Result<World> {
        let temporary = in_memory()?;
        let sandbox = sandbox_at(temporary.path())?;
        let root = sandbox.root("web1");
        let agent = agent_in(&sandbox)?;
        let [first, update, removal] = request::record(&sandbox, &agent)?;
        let instance = fs::read_to_string(root.join(INSTANCE))?;
        Ok(World { root, agent, first, update, removal, instance, sandbox, _temporary: temporary })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A deployment of `request` after those `before`.
    pub fn scenario(&self, name: &'static str, before: &[&Request], request: &Request) -> Result<Scenario> {
        let before: Vec<Request> = before.iter().map(|request| (*request).clone()).collect();
        self.scenario_after(name, Before::Requests(before), request)
    }

    fn scenario_after(&self, name: &'static str, before: Before, request: &Request) -> Result<Scenario> {
        self.set_up(&before)?;
        let old = Exact::of(&self.root);
        let said = self.deploy(request, &mut |_| Deed::Go)?;
        ensure!(said.is_done(), "without a fault: {said:?}");
        let new = state::view(&self.root);
        let left = state::left_over(&self.root);
        ensure!(left.is_empty(), "without a fault there is left: {}", left.join("; "));
        Ok(Scenario { name, request: request.clone(), again: request.clone(), kept_is_new: false, before, old, new })
    }

    pub fn an_update(&self) -> Result<Scenario> {
        self.scenario("update", &[&self.first], &self.update)
    }

    /// The three deployments that need nothing except a host.
    pub fn scenarios(&self) -> Result<[Scenario; 3]> {
        Ok([
            self.an_update()?,
            self.scenario("first deployment", &[], &self.first)?,
            self.scenario("removal", &[&self.first], &self.removal)?,
        ])
    }

    /// An update that waits for the helper's verdict. The helper keeps and releases it.
    pub fn held(&self) -> Result<Scenario> {
        let held = self.update.held(&[wire::Request::Keep, wire::Request::Release])?;
        Ok(Scenario { kept_is_new: true, ..self.scenario("held update", &[&self.first], &held)? })
    }

    /// The same, but the helper reverts it after it was kept.
    pub fn revoked(&self) -> Result<Scenario> {
        let request = self.update.held(&[wire::Request::Keep, wire::Request::Revert])?;
        Ok(Scenario { name: "revoked update", request, ..self.an_update()? })
    }

    /// An update that is confirmed over a second connection.
    pub fn confirmed(&self) -> Result<Scenario> {
        self.scenario("confirmed update", &[&self.first], &self.update.confirmed(CONFIRM))
    }

    /// An update of a host that has the maximum number of packs and generations, so that some are removed.
    pub fn crowded(&self) -> Result<Scenario> {
        let dir = self.sandbox.dir().join("crowd");
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir(&dir)?;
        let crowd = Sandbox::at(&dir, &default_git(), &self.sandbox.dir().join("prefix"));
        let request = request::record_crowd(&crowd, &self.agent)?;
        let scenario = self.scenario_after("update that tidies up", Before::Copy(crowd.root("web1")), &request)?;
        let packs = state::packs(&self.root);
        ensure!(packs == 1, "the store has not been packed anew: {packs} packs");
        Ok(scenario)
    }

    /// Recreates the root as it is before the deployment, with other times.
    pub fn reset(&self, scenario: &mut Scenario) -> Result<()> {
        self.set_up(&scenario.before)?;
        let now = Exact::of(&self.root);
        ensure!(without_times(&now.files) == without_times(&scenario.old.files), "the root is not as it was before");
        scenario.old = now;
        Ok(())
    }

    /// Recreates the root that the operators of [`World::operator`] know.
    pub fn give_instance(&self) -> Result<()> {
        Ok(fs::write(self.root.join(INSTANCE), &self.instance)?)
    }

    /// Puts the agent where the first deployment would put it.
    pub fn give_agent(&self) -> Result<()> {
        let dir = self.root.join(AGENTS);
        fs::create_dir_all(&dir)?;
        fs::copy(&self.agent, dir.join(agent_file_name())).map(drop).context("cannot copy the agent")
    }

    /// A new repository that has deployed the first commit, with or without the second commit.
    pub fn operator(&self, name: &str, knows: Knows) -> Result<Repo<'_>> {
        let dir = self.sandbox.dir().join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        self.sandbox.command("cp").arg("-a").arg(knows.dir()).arg(&dir).check()?;
        Ok(self.sandbox.repo_at(dir))
    }

    fn set_up(&self, before: &Before) -> Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
        match before {
            Before::Requests(requests) => {
                own_files(&self.root)?;
                for request in requests {
                    let said = self.deploy(request, &mut |_| Deed::Go)?;
                    ensure!(said.is_done(), "{said:?}");
                }
            }
            Before::Copy(of) => {
                self.sandbox.command("cp").arg("-a").arg(of.join(".")).arg(&self.root).check().map(drop)?
            }
        }
        Ok(())
    }

    /// Runs the agent with `request`. Its input stays open, because a closed one means that the helper is gone.
    pub fn deploy(&self, request: &Request, lead: &mut dyn FnMut(&Call) -> Deed) -> Result<Said> {
        let bytes = request.bytes()?;
        ensure!(bytes.len() < PIPE, "{} bytes do not fit into a pipe", bytes.len());
        let (stdin, mut writer) = std::io::pipe()?;
        writer.write_all(&bytes)?;
        let said = match request.over_another()? {
            None => self.follow(stdin.into(), lead),
            Some(then) => self.follow_and_attach(stdin.into(), &then, lead),
        };
        drop(writer);
        said
    }

    /// Runs the agent, and another one when it asks for a confirmation. Another thread starts that one, so it is not
    /// traced.
    fn follow_and_attach(&self, stdin: Stdio, then: &[u8], lead: &mut dyn FnMut(&Call) -> Deed) -> Result<Said> {
        std::thread::scope(|scope| {
            let (ask, asked) = channel();
            let other = scope.spawn(move || asked.recv().map_or_else(|_| Ok(Vec::new()), |()| self.attach(then)));
            let said = self.follow(stdin, &mut |call| {
                if call.sends::<Response>(&["AwaitsConfirmation"]) {
                    let _ = ask.send(());
                }
                lead(call)
            });
            drop(ask);
            let others = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let mut said = said?;
            said.responses.extend(responses(&others?));
            Ok(said)
        })
    }

    /// What an agent answers to these bytes, until it exits.
    fn attach(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut command = self.agent_command();
        let mut agent = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut input = agent.stdin.take().context("no input")?;
        input.write_all(bytes)?;
        let answers = agent.stdout.take().as_mut().map(read_all).unwrap_or_default();
        drop(input);
        agent.wait()?;
        Ok(answers)
    }

    /// Runs the agent without a request: it recovers if necessary, and exits.
    pub fn recover(&self, lead: &mut dyn FnMut(&Call) -> Deed) -> Result<Said> {
        let (stdin, mut writer) = std::io::pipe()?;
        writer.write_all(self.first.line())?;
        drop(writer);
        self.follow(stdin.into(), lead)
    }

    fn agent_command(&self) -> Command {
        let mut command = Command::new(&self.agent);
        command.env_clear().env("DEPTOOL_ROOT", &self.root).env("LC_ALL", "C").current_dir("/");
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("TMPDIR", self.sandbox.dir().join("tmp"));
        command
    }

    fn follow(&self, stdin: Stdio, lead: &mut dyn FnMut(&Call) -> Deed) -> Result<Said> {
        let (mut stdout, its_stdout) = std::io::pipe()?;
        let (mut stderr, its_stderr) = std::io::pipe()?;
        let mut command = self.agent_command();
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
        judge(&self.sandbox, &self.root, &scenario.old, &scenario.new)
    }

    /// Whether nothing has changed at all, so that the next fault can use the same root.
    pub fn is_untouched(&self, scenario: &Scenario) -> bool {
        Exact::of(&self.root) == scenario.old
    }
}

impl Said {
    /// The outcome of the deployment, if the agent has reported it.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.responses.iter().find_map(|response| match response {
            Response::Ended(outcome) => Some(&**outcome),
            _ => None,
        })
    }

    pub fn is_done(&self) -> bool {
        matches!(self.outcome(), Some(Outcome::Done { .. }))
    }

    /// Whether the agent has acknowledged that it keeps the deployment.
    pub fn has_kept(&self) -> bool {
        self.responses.contains(&Response::Kept)
    }

    /// The error that the agent reported, if any.
    pub fn error(&self) -> Option<&str> {
        self.responses.iter().find_map(|response| match response {
            Response::Error(why) => Some(why.as_str()),
            _ => None,
        })
    }
}

/// Which of two states a root is in, after a fault and the next contact; what is wrong with it if it is in neither.
pub(super) fn judge(sandbox: &Sandbox, root: &Path, old: &Exact, new: &Lines) -> Result<Runs, String> {
    let exact = Exact::of(root);
    let runs = match state::difference(&state::view(root), new) {
        None => Runs::New,
        Some(from_new) => match state::difference(&settled(&exact.files), &settled(&old.files)) {
            None => Runs::Old,
            Some(from_old) => {
                return Err(format!("neither old nor new; old would be without: {from_old}; new without: {from_new}"));
            }
        },
    };
    let left = state::left_over(root);
    if !left.is_empty() {
        return Err(format!("left over: {}", left.join("; ")));
    }
    let store = root.join("var/lib/deptool/store");
    match state::fsck(sandbox.command("git"), &store) {
        Some(wrong) if store.join("HEAD").exists() => Err(wrong),
        Some(_) | None => Ok(runs),
    }
}

/// A sandbox with copies of the binaries, so that builds do not disturb a long sweep.
pub(super) fn sandbox_at(dir: &Path) -> Result<Sandbox> {
    let prefix = dir.join("prefix");
    Cmd::new("cp").arg("-a").arg(build::local()).arg(&prefix).check()?;
    Ok(Sandbox::at(dir, &default_git(), &prefix))
}

/// The agent of such a sandbox.
pub(super) fn agent_in(sandbox: &Sandbox) -> Result<PathBuf> {
    let mut agents = fs::read_dir(sandbox.dir().join("prefix/lib/deptool/agents"))?;
    Ok(agents.next().context("there is no agent")??.path())
}

/// A temporary directory, in memory if possible: nothing here depends on a disk, and thousands of syncs take time.
pub(super) fn in_memory() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("deptool-").tempdir_in(sandbox::memory())?)
}

/// A host without any deployment may have our empty directories, and its id.
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

/// The host's own files.
pub(super) fn own_files(root: &Path) -> Result<()> {
    let etc = root.join("etc");
    fs::create_dir_all(etc.join("systemd/system/own.service.d"))?;
    for name in ["taken", "taken too", "own", "systemd/system/own.service.d/own.conf"] {
        fs::write(etc.join(name), "same\n")?;
    }
    for name in ["differs", "differs too"] {
        fs::write(etc.join(name), "theirs\n")?;
    }
    // The secrets of the recorded commits are encrypted to it.
    let state = root.join("var/lib/deptool/state");
    fs::create_dir_all(&state)?;
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700))?;
    fs::write(state.join("identity"), secrets::IDENTITY)?;
    fs::set_permissions(state.join("identity"), fs::Permissions::from_mode(0o600))?;
    Ok(())
}

fn read_all(from: &mut impl std::io::Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    bytes
}

/// The messages in the output of an agent, after its first line, as far as they have arrived.
pub fn responses(out: &[u8]) -> Vec<Response> {
    let frames = out.iter().position(|byte| *byte == b'\n').map_or(&[][..], |at| &out[at + 1..]);
    let mut buffer = FrameBuffer::default();
    buffer.push(frames);
    std::iter::from_fn(|| buffer.take().ok().flatten()).collect()
}
