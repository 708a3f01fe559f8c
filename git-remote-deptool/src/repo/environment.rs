//! The environment variables and the working directory that Git gave the helper, read once.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

use gix::bstr::BString;

use super::parameters;
use crate::model::interrupt::Interrupt;

/// The environment of the process.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    directory: PathBuf,
    git_dir: Option<PathBuf>,
    work_tree: Option<PathBuf>,
    parameters: Vec<BString>,
    scrub: Vec<OsString>,
    configuration: Configuration,
    interrupt: Interrupt,
}

/// Which configuration files are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Configuration {
    /// The repository's own.
    #[default]
    Repository,
    /// In addition those of the system and of the user, found as Git finds them.
    User,
}

/// Variables that a `git` subprocess inherits. They describe the user's surroundings, not the repository.
const KEPT: [&str; 14] = [
    "GIT_CONFIG_PARAMETERS",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_EXEC_PATH",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSH_VARIANT",
    "GIT_ASKPASS",
    "GIT_TERMINAL_PROMPT",
    "GIT_ALLOW_PROTOCOL",
    "GIT_PROXY_COMMAND",
    "GIT_CEILING_DIRECTORIES",
];
const KEPT_PREFIXES: [&str; 8] = [
    "GIT_CONFIG_KEY_",
    "GIT_CONFIG_VALUE_",
    "GIT_COMMITTER_",
    "GIT_AUTHOR_",
    "GIT_TRACE",
    "GIT_HTTP",
    "GIT_SSL_",
    "GIT_PROXY_",
];

impl Environment {
    /// Read the environment and the working directory of this process. With this environment, gix also reads the user's
    /// configuration and identity from the process's environment.
    pub fn from_process() -> std::io::Result<Self> {
        let mut environment = Self::new(std::env::current_dir()?, std::env::vars_os());
        environment.configuration = Configuration::User;
        Ok(environment)
    }

    /// The same environment, in which fetches from a promisor end when `interrupt` is set.
    pub fn interrupted_by(self, interrupt: Interrupt) -> Self {
        Environment { interrupt, ..self }
    }

    /// An environment with `variables`, in `directory`, without the user's configuration.
    pub fn new(directory: PathBuf, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut environment = Environment { directory, ..Environment::default() };
        for (name, value) in variables {
            if name == "GIT_DIR" && !value.is_empty() {
                environment.git_dir = Some(environment.directory.join(&value));
            }
            if name == "GIT_WORK_TREE" && !value.is_empty() {
                environment.work_tree = Some(environment.directory.join(&value));
            }
            if name == "GIT_CONFIG_PARAMETERS" {
                environment.parameters = parameters::parse(value.as_encoded_bytes());
            }
            if !is_kept(&name) {
                environment.scrub.push(name);
            }
        }
        environment
    }

    /// The directory that relative paths are relative to. When Git starts the helper, this is the top of the work tree.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The same environment for programs that are started in `directory`.
    pub(super) fn at(self, directory: PathBuf) -> Self {
        Environment { directory, ..self }
    }

    pub(super) fn work_tree(&self) -> Option<&Path> {
        self.work_tree.as_deref()
    }

    pub(super) fn git_dir(&self) -> Option<&Path> {
        self.git_dir.as_deref()
    }

    pub(super) fn configuration(&self) -> Configuration {
        self.configuration
    }

    pub(super) fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// The values of `-c`, as `key=value`.
    pub(super) fn parameters(&self) -> &[BString] {
        &self.parameters
    }

    /// The `git` program for the repository `git_dir`.
    pub(super) fn git(&self, git_dir: &Path) -> Command {
        // Git puts its own directory first on PATH, so this is the Git that started us.
        let mut command = Command::new("git");
        for name in &self.scrub {
            command.env_remove(name);
        }
        command.env("GIT_DIR", git_dir).env("GIT_NO_REPLACE_OBJECTS", "1").env("GIT_GRAFT_FILE", "/dev/null");
        command.current_dir(&self.directory);
        command
    }
}

/// Whether a `git` subprocess inherits a variable.
fn is_kept(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    !bytes.starts_with(b"GIT_")
        || KEPT.iter().any(|kept| bytes == kept.as_bytes())
        || KEPT_PREFIXES.iter().any(|prefix| bytes.starts_with(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_git_that_we_start_knows_only_its_repository() {
        let variables = ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_SSH_COMMAND", "HOME"];
        let variables = variables.map(|name| (name.into(), "x".into()));
        let environment = Environment::new("/top".into(), variables);
        assert_eq!(environment.git_dir(), Some(Path::new("/top/x")));
        let command = environment.git(Path::new("/top/.git"));
        let changed: Vec<_> = command.get_envs().map(|(k, v)| (k.to_str().unwrap(), v.is_some())).collect();
        assert!(changed.contains(&("GIT_DIR", true)) && changed.contains(&("GIT_NO_REPLACE_OBJECTS", true)));
        assert!(changed.contains(&("GIT_WORK_TREE", false)) && changed.contains(&("GIT_INDEX_FILE", false)));
        assert!(!changed.iter().any(|(name, _)| *name == "GIT_SSH_COMMAND" || *name == "HOME"));
    }
}
