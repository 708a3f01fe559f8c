//! Repositories for tests, made with stock Git and nothing of the user's configuration.

use std::{ffi::OsString, path::Path, process::Command};

use deptool_agent::shared::id::CommitId;
use tempfile::TempDir;

use super::{Environment, OpenError, Repo};

/// A repository that goes away with it.
pub struct Scratch {
    pub dir: TempDir,
}

impl Scratch {
    /// An empty repository, made with `git init <args>`.
    pub fn init(args: &[&str]) -> Self {
        let scratch = Scratch { dir: tempfile::tempdir().unwrap() };
        let args: Vec<&str> = ["init", "-q", "-b", "prod"].iter().chain(args).copied().collect();
        scratch.git(&args);
        scratch
    }

    /// A repository with `count` commits on `prod`, each of which changes `web1/app/file`.
    pub fn with_commits(count: usize) -> Self {
        let scratch = Scratch::init(&[]);
        for n in 0..count {
            scratch.commit(&format!("c{n}"));
        }
        scratch
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What Git answers, without the final line feed.
    pub fn git(&self, args: &[&str]) -> String {
        let output = self.command().args(args).output().unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn command(&self) -> Command {
        let mut command = Command::new("git");
        command.current_dir(self.path()).env_clear().envs(self.variables());
        command
    }

    /// The variables that Git runs with here.
    pub fn variables(&self) -> Vec<(OsString, OsString)> {
        let mut variables: Vec<(OsString, OsString)> = ["AUTHOR", "COMMITTER"]
            .iter()
            .flat_map(|who| {
                [("NAME", "O. Perator"), ("EMAIL", "o@example.org"), ("DATE", "@1700000000 +0000")]
                    .map(|(what, value)| (format!("GIT_{who}_{what}").into(), value.into()))
            })
            .collect();
        variables.push(("GIT_CONFIG_GLOBAL".into(), "/dev/null".into()));
        variables.push(("GIT_CONFIG_NOSYSTEM".into(), "1".into()));
        variables.push(("HOME".into(), self.path().into()));
        variables.extend(std::env::vars_os().filter(|(name, _)| name == "PATH"));
        variables
    }

    /// Commit a change of `web1/app/file` to `content`.
    pub fn commit(&self, content: &str) -> CommitId {
        let app = self.path().join("web1/app");
        std::fs::create_dir_all(&app).unwrap();
        std::fs::write(app.join("file"), content).unwrap();
        self.git(&["add", "."]);
        self.git(&["commit", "-q", "-m", content]);
        self.id("HEAD")
    }

    pub fn id(&self, revision: &str) -> CommitId {
        self.git(&["rev-parse", revision]).parse().unwrap()
    }

    /// The repository, as the helper opens it.
    pub fn open(&self) -> Repo {
        self.try_open().unwrap()
    }

    pub fn try_open(&self) -> Result<Repo, OpenError> {
        let git_dir = (OsString::from("GIT_DIR"), OsString::from(".git"));
        Repo::open(Environment::new(self.path().into(), self.variables().into_iter().chain([git_dir])))
    }
}
