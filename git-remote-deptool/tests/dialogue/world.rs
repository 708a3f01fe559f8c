//! A repository, a home and a helper of their own for each test and each Git.

use std::{
    ffi::OsString,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// Run `test` with each Git there is, in a world of three commits, `c0` to `c2`, on `prod`, and a remote `web1`.
pub fn each_git(test: impl Fn(World)) {
    for git in gits() {
        test(World::new(&git));
    }
}

/// One `git` of each version on PATH.
fn gits() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap();
    let mut versions = Vec::new();
    let mut gits = Vec::new();
    for git in std::env::split_paths(&path).map(|dir| dir.join("git")).filter(|git| git.is_file()) {
        let version = Command::new(&git).arg("version").output().unwrap().stdout;
        if !versions.contains(&version) {
            versions.push(version);
            gits.push(git);
        }
    }
    assert!(!gits.is_empty(), "there is no git on PATH");
    gits
}

/// Where the helper is. It is not written by the tests: a program that is open for writing can't be run, and the
/// processes that other tests start at that moment would have it open.
const HELPERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dialogue/bin");

/// For git fast-import.
const COMMITS: &str = "\
commit refs/heads/prod
committer O. Perator <o@example.org> 1700000000 +0000
data 2
c0
M 644 inline web1/app/file
data 2
c0
commit refs/heads/prod
committer O. Perator <o@example.org> 1700000001 +0000
data 2
c1
M 644 inline web1/app/file
data 2
c1
commit refs/heads/prod
committer O. Perator <o@example.org> 1700000002 +0000
data 2
c2
M 644 inline web1/app/file
data 2
c2
";

pub struct World {
    git: PathBuf,
    dir: TempDir,
    ids: Vec<String>,
}

/// How a program ended. Ids of commits are shown as `<c0>` …
#[derive(Debug)]
pub struct Ended {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn succeeded(&self) -> bool {
        self.status == 0
    }

    #[track_caller]
    pub fn succeeds(&self) {
        assert!(self.succeeded(), "{self:?}");
    }

    #[track_caller]
    pub fn shows(&self, text: &str) {
        assert!(self.stderr.contains(text), "no '{text}' in: {}\n{}", self.stderr, self.stdout);
    }

    #[track_caller]
    pub fn shows_not(&self, text: &str) {
        assert!(!self.stderr.contains(text), "'{text}' in: {}", self.stderr);
    }
}

impl World {
    fn new(git: &Path) -> Self {
        let mut world = World { git: git.to_owned(), dir: tempfile::tempdir().unwrap(), ids: Vec::new() };
        for dir in ["home", "repo"] {
            fs::create_dir_all(world.path(dir)).unwrap();
        }
        world.git(&["init", "-q", "-b", "prod", "--template="]).succeeds();
        world.git(&["remote", "add", "web1", "deptool::web1"]).succeeds();
        let import = world.run(world.command(git).args(["fast-import", "--quiet"]), COMMITS.as_bytes());
        import.succeeds();
        world.git(&["reset", "-q", "--hard"]).succeeds();
        let ids = world.git(&["rev-list", "--reverse", "prod"]).stdout;
        world.ids = ids.lines().map(str::to_owned).collect();
        world
    }

    /// A fresh world with the same Git.
    pub fn again(&self) -> Self {
        World::new(&self.git)
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn command(&self, program: &Path) -> Command {
        let mut path = OsString::from(HELPERS);
        path.push(":");
        path.push(self.git.parent().unwrap());
        path.push(":/usr/bin:/bin");
        let mut command = Command::new(program);
        command.current_dir(self.path("repo")).env_clear().env("PATH", path);
        command.env("HOME", self.path("home")).env("GIT_CONFIG_NOSYSTEM", "1").env("LC_ALL", "C");
        command.env("DEPTOOL_TEST_DIRECTORY", self.dir.path());
        command.env("DEPTOOL_TEST_PROGRAM", std::env::current_exe().unwrap());
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "O. Perator").env(format!("GIT_{who}_EMAIL"), "o@example.org");
            command.env(format!("GIT_{who}_DATE"), "@1700000000 +0000");
        }
        command
    }

    pub fn git(&self, args: &[&str]) -> Ended {
        let output = self.command(&self.git).args(args).stdin(Stdio::null()).output().unwrap();
        self.ended(&output)
    }

    /// Run Git while the hosts say what is in `script`.
    pub fn scripted(&self, script: &str, args: &[&str]) -> Ended {
        fs::write(self.path("script"), script).unwrap();
        let _ = fs::remove_file(self.path("asked"));
        self.git(args)
    }

    /// `git push`, with `-C <dir>` before it if that is how `args` begin.
    pub fn push(&self, script: &str, args: &[&str]) -> Ended {
        let before = if args[0] == "-C" { 2 } else { 0 };
        let all: Vec<&str> = args[..before].iter().chain(&["push"]).chain(&args[before..]).copied().collect();
        self.scripted(script, &all)
    }

    /// The helper alone, with `input` and then the end of it.
    pub fn helper(&self, args: &[&str], input: &[u8]) -> Ended {
        let mut command = self.command(&Path::new(HELPERS).join("git-remote-deptool"));
        self.run(command.args(args).env("GIT_DIR", ".git"), input)
    }

    fn run(&self, command: &mut Command, input: &[u8]) -> Ended {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        self.ended(&output)
    }

    /// Make it so that `revision` was deployed on web1.
    pub fn deployed(&self, revision: &str) {
        self.git(&["update-ref", "refs/remotes/web1/prod", revision]).succeeds();
    }

    /// What the helper was asked in the last run.
    pub fn asked(&self) -> Vec<String> {
        fs::read_to_string(self.path("asked")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    pub fn id(&self, revision: &str) -> String {
        let output = self.command(&self.git).args(["rev-parse", revision]).output().unwrap();
        assert!(output.status.success(), "{revision}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// `<c0>` … as full ids.
    pub fn expand(&self, text: &str) -> String {
        let named = |text: String, (n, id): (usize, &String)| text.replace(&format!("<c{n}>"), id);
        self.ids.iter().enumerate().fold(text.to_owned(), named)
    }

    fn ended(&self, output: &std::process::Output) -> Ended {
        let text = |bytes: &[u8]| {
            let shorten = |text: String, (n, id): (usize, &String)| text.replace(&id[..7], &format!("<c{n}>"));
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            // Full ids stay, to be compared with `expand`.
            if self.ids.iter().any(|id| text.contains(id)) {
                return text;
            }
            self.ids.iter().enumerate().fold(text, shorten)
        };
        Ended { status: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}
