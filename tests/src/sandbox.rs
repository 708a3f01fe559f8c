//! An isolated environment for one test: a home, repositories, local roots. The user's files are neither read nor
//! written.
//!
//! ```no_run
//! use deptool_tests::sandbox::Sandbox;
//! let sandbox = Sandbox::new();
//! let operator = sandbox.repo("operator");
//! operator.write("web1/app/file", "content");
//! operator.commit("Add the app");
//! operator.add_root("web1");
//! operator.git(&["push", "web1", "prod"]).ok();
//! assert_eq!(sandbox.read("web1", "/var/lib/deptool/apps/app/current/file"), b"content");
//! ```
//!
//! Git is the first one on PATH, unless `DEPTOOL_TEST_GIT=/usr/bin/git` or [`Sandbox::with_git`] selects another.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::{
    build,
    lab::{Lab, Link, vm::Vm},
    process::{Cmd, Run, find_program},
};

/// The branch that the tests deploy.
pub const BRANCH: &str = "prod";

/// The environment variable that names the Git to test with.
pub const GIT: &str = "DEPTOOL_TEST_GIT";

const GIT_CONFIG: &str = "[init]\n\tdefaultBranch = prod\n[user]\n\tname = Ada Operator\n\temail = ada@example.org\n";
/// Where the programs of this machine are.
pub const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A temporary directory and the environment of every program in it. Removed when dropped.
#[derive(Debug)]
pub struct Sandbox {
    dir: PathBuf,
    _temporary: Option<TempDir>,
    env: Vec<(String, String)>,
    /// Commits are made one minute apart, starting at a fixed time, so their ids are reproducible.
    commits: AtomicU32,
}

/// A Git repository in a sandbox.
#[derive(Debug)]
pub struct Repo<'a> {
    sandbox: &'a Sandbox,
    pub dir: PathBuf,
}

/// The Git that `DEPTOOL_TEST_GIT` names, or the first one on PATH.
pub fn default_git() -> PathBuf {
    let git = std::env::var_os(GIT).map(PathBuf::from).or_else(|| find_program("git"));
    git.expect("git is installed")
}

/// A directory for temporary files, in memory if possible. Tests sync a lot.
pub fn memory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

/// All Gits of this machine with different versions.
pub fn gits() -> Vec<PathBuf> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    let usual = ["/usr/local/bin/git", "/usr/bin/git"].map(PathBuf::from);
    for git in find_program("git").into_iter().chain(usual).filter(|git| git.is_file()) {
        let Ok(run) = Cmd::new(&git).arg("--version").run() else { continue };
        if !found.iter().any(|(version, _)| *version == run.line()) {
            found.push((run.line(), git));
        }
    }
    found.into_iter().map(|(_, git)| git).collect()
}

impl Sandbox {
    /// With [`default_git`].
    pub fn new() -> Sandbox {
        Sandbox::with_git(&default_git())
    }

    /// With that Git.
    pub fn with_git(git: &Path) -> Sandbox {
        Sandbox::make(git, build::local())
    }

    /// A sandbox whose Git reaches the hosts of a lab, with agents for them.
    pub fn for_lab(lab: &Lab) -> Sandbox {
        let mut sandbox = Sandbox::make(&default_git(), build::lab());
        sandbox.set_link(lab, Link::Plain);
        sandbox
    }

    /// A sandbox whose Git reaches a virtual machine, with agents for it.
    pub fn for_vm(vm: &Vm) -> Sandbox {
        let mut sandbox = Sandbox::make(&default_git(), build::lab());
        sandbox.set_env("GIT_SSH_COMMAND", &vm.ssh_command());
        sandbox
    }

    /// With binaries from another prefix than that of the tests, such as that of `cargo xtask dist`.
    pub fn make(git: &Path, prefix: &Path) -> Sandbox {
        let temporary = tempfile::Builder::new().prefix("deptool-").tempdir().expect("a temporary directory");
        let sandbox = Sandbox::at(temporary.path(), git, prefix);
        Sandbox { _temporary: Some(temporary), ..sandbox }
    }

    /// In an empty directory, which is kept when the sandbox is dropped.
    pub fn at(dir: &Path, git: &Path, prefix: &Path) -> Sandbox {
        let at = |path: &str| dir.join(path);
        for made in ["home", "tmp", "git", "roots"] {
            std::fs::create_dir(at(made)).expect("a directory in the sandbox");
        }
        std::os::unix::fs::symlink(git, at("git/git")).expect("a link to git");
        std::fs::write(at("home/.gitconfig"), GIT_CONFIG).expect("a Git configuration");
        let text = |path: PathBuf| path.into_os_string().into_string().expect("a path in UTF-8");
        let path = format!("{}:{}:{USUAL_PATH}", text(prefix.join("bin")), text(at("git")));
        let env = [
            ("PATH", path),
            ("HOME", text(at("home"))),
            ("TMPDIR", text(at("tmp"))),
            ("GIT_CONFIG_NOSYSTEM", "1".to_owned()),
            ("GIT_CONFIG_GLOBAL", text(at("home/.gitconfig"))),
            ("GIT_TERMINAL_PROMPT", "0".to_owned()),
            ("LC_ALL", "C.UTF-8".to_owned()),
            ("TZ", "UTC".to_owned()),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Sandbox { dir: dir.to_owned(), _temporary: None, env, commits: AtomicU32::new(0) }
    }

    /// Makes ssh reach the lab's hosts over that kind of link.
    pub fn set_link(&mut self, lab: &Lab, link: Link) {
        self.set_env("GIT_SSH_COMMAND", &lab.ssh_command(link).expect("an ssh configuration"));
    }

    /// Sets a variable for every program that is started afterwards.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn home(&self) -> PathBuf {
        self.dir().join("home")
    }

    /// Any program, in the environment of this sandbox.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Cmd {
        Cmd::new(program).dir(self.dir()).env_clear().envs(&self.env)
    }

    /// A new repository, on an unborn branch `prod`.
    #[track_caller]
    pub fn repo(&self, name: &str) -> Repo<'_> {
        let repo = Repo { sandbox: self, dir: self.dir().join(name) };
        self.command("git").args(["init", "--quiet", "--initial-branch", BRANCH, name]).run().expect("git runs").ok();
        repo
    }

    /// A clone of a repository, as for a second operator. Its `origin` is the first one's repository.
    #[track_caller]
    pub fn clone_of(&self, repo: &Repo<'_>, name: &str) -> Repo<'_> {
        self.command("git").args(["clone", "--quiet"]).arg(&repo.dir).arg(name).run().expect("git runs").ok();
        Repo { sandbox: self, dir: self.dir().join(name) }
    }

    /// An existing directory as a repository.
    pub fn repo_at(&self, dir: impl Into<PathBuf>) -> Repo<'_> {
        Repo { sandbox: self, dir: dir.into() }
    }

    /// The local root with that name, for `deptool::/path`. The first call creates it as an empty directory. The host
    /// has the same name.
    pub fn root(&self, name: &str) -> PathBuf {
        let root = self.dir().join("roots").join(name);
        std::fs::create_dir_all(&root).expect("a directory in the sandbox");
        root
    }

    /// The content of a file at an absolute path in a local root. Absolute symlinks are followed *inside* the root.
    #[track_caller]
    pub fn read(&self, root: &str, path: &str) -> Vec<u8> {
        let file = resolve(&self.root(root), Path::new(path));
        std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}\n{}", file.display(), self.tree(root)))
    }

    /// Whether an absolute path exists in a local root. Symlinks are followed as by [`Sandbox::read`].
    pub fn exists(&self, root: &str, path: &str) -> bool {
        resolve(&self.root(root), Path::new(path)).symlink_metadata().is_ok()
    }

    /// All paths in a local root, one per line, with the targets of symlinks.
    pub fn tree(&self, root: &str) -> String {
        let mut lines = Vec::new();
        list(&self.root(root), Path::new(""), &mut lines);
        lines.join("\n")
    }
}

impl Default for Sandbox {
    fn default() -> Sandbox {
        Sandbox::new()
    }
}

impl Repo<'_> {
    /// Runs `git` with these arguments.
    #[track_caller]
    pub fn git(&self, args: &[&str]) -> Run {
        self.command(args).run().unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// `git` with these arguments, so that the caller can add an environment, an input or a time limit.
    pub fn command(&self, args: &[&str]) -> Cmd {
        self.sandbox.command("git").dir(&self.dir).args(args)
    }

    /// Writes a file in the work tree, and creates its directories.
    #[track_caller]
    pub fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let file = self.dir.join(path);
        std::fs::create_dir_all(file.parent().expect("a file has a directory")).expect("directories can be made");
        std::fs::write(&file, content).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }

    /// Removes a file or a directory from the work tree.
    #[track_caller]
    pub fn remove(&self, path: impl AsRef<Path>) {
        let path = self.dir.join(path);
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Commits the whole work tree, even if nothing has changed. Returns the commit id.
    #[track_caller]
    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all", "--force"]).ok();
        let minute = self.sandbox.commits.fetch_add(1, Ordering::Relaxed);
        let date = format!("{} +0000", 1_700_000_000 + 60 * u64::from(minute));
        let commit = self.command(&["commit", "--quiet", "--allow-empty", "-m", message]);
        let commit = commit.env("GIT_AUTHOR_DATE", &date).env("GIT_COMMITTER_DATE", &date);
        commit.run().unwrap_or_else(|error| panic!("{error:#}")).ok();
        self.id("HEAD")
    }

    /// The full id of a revision. Panics if there is none.
    #[track_caller]
    pub fn id(&self, revision: &str) -> String {
        self.git(&["rev-parse", "--verify", revision]).ok().line()
    }

    /// The full id of a revision, if there is one: `refs/remotes/web1/prod`, say.
    #[track_caller]
    pub fn id_if_any(&self, revision: &str) -> Option<String> {
        let run = self.git(&["rev-parse", "--verify", "--quiet", revision]);
        run.success().then(|| run.line())
    }

    /// Adds a remote for a host of the lab, or for any address.
    #[track_caller]
    pub fn add_remote(&self, name: &str, url: &str) {
        self.git(&["remote", "add", name, url]).ok();
    }

    /// Adds a remote for the local root with that name.
    #[track_caller]
    pub fn add_root(&self, name: &str) {
        self.add_remote(name, &format!("deptool::{}", self.sandbox.root(name).display()));
    }
}

/// Follows symlinks as if `root` were `/`, including the last component.
fn resolve(root: &Path, path: &Path) -> PathBuf {
    let mut left: Vec<std::ffi::OsString> = path.components().rev().map(|part| part.as_os_str().to_owned()).collect();
    let mut at = root.to_owned();
    let mut links = 0;
    while let Some(part) = left.pop() {
        match part.to_str() {
            Some("/" | ".") => continue,
            Some("..") if at == root => continue,
            Some("..") => drop(at.pop()),
            _ => at.push(&part),
        }
        let Ok(target) = std::fs::read_link(&at) else { continue };
        links += 1;
        assert!(links < 40, "too many links at {}", at.display());
        at = if target.is_absolute() { root.to_owned() } else { at.parent().unwrap_or(root).to_owned() };
        left.extend(target.components().rev().map(|part| part.as_os_str().to_owned()));
    }
    at
}

fn list(root: &Path, below: &Path, lines: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(root.join(below)) else { return };
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    for name in names {
        let path = below.join(name);
        let full = root.join(&path);
        if let Ok(target) = std::fs::read_link(&full) {
            lines.push(format!("{} -> {}", path.display(), target.display()));
        } else if full.is_dir() {
            lines.push(format!("{}/", path.display()));
            list(root, &path, lines);
        } else {
            lines.push(path.display().to_string());
        }
    }
}
