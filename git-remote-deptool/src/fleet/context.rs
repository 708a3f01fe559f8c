//! The start of both programs: the repository, its settings, and the connector.

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use super::remote::{Reach, Remote, Results};
use crate::{
    agent::transport::{
        self, Connector,
        messages::{Display, Kind, Sink},
        ssh::SshSettings,
    },
    config::{Settings, SettingsError, Target},
    model::interrupt::Interrupt,
    repo::{Environment, OpenError, Repo},
    ui::{
        locale::{Charset, Shown},
        progress::Screen,
    },
};

/// A repository, its settings, and the connector. It is made once, at the start of a program.
pub struct Context {
    pub repo: Repo,
    pub settings: Settings,
    pub connector: Arc<Connector>,
    /// Where messages for the terminal are written: stderr.
    pub sink: Sink,
    /// The same, if it is a terminal that supports lines drawn in place.
    pub screen: Option<Arc<Mutex<Screen>>>,
    /// `GIT_DEPTOOL_SHOW`: which program shows the outcome of pushes.
    pub results: Results,
    /// `GIT_DEPTOOL_REPORT`: the file to which pushes append the outcome of each host.
    pub report: Option<PathBuf>,
}

/// Why a program can't start.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The working directory does not exist.
    #[error("can't determine the current directory")]
    Directory(#[source] io::Error),
    /// There is no repository, or it can't be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An invalid setting.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The signal handlers could not be installed. Without them, Ctrl-C would abandon hosts.
    #[error("can't install signal handlers")]
    Signals(#[source] io::Error),
}

impl Context {
    /// Use the repository that the environment names, or else the one around the working directory.
    ///
    /// From here on, SIGINT, SIGTERM and SIGHUP no longer end the process. See [`Connector::interrupted`].
    pub fn from_process() -> Result<Self, ContextError> {
        let interrupt = Interrupt::of_process().map_err(ContextError::Signals)?;
        let environment = Environment::from_process().map_err(ContextError::Directory)?;
        let repo = Repo::open(environment.interrupted_by(interrupt.clone()))?;
        let config = repo.gix().config_snapshot();
        let settings = settings_of(&repo)?;
        let text = |key: &str| config.string(key).map(|value| OsString::from_vec(value.into()));
        let variables = transport::Environment::from_iter(env::vars_os());
        let ssh = SshSettings::new(&variables, text("core.sshCommand"), text("ssh.variant"));
        let kind = if io::stderr().is_terminal() { Kind::Terminal } else { Kind::Pipe };
        let is_dumb = variables.get("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let stderr = Shown::new(io::stderr(), Charset::of_process());
        let (screen, sink): (_, Sink) = if kind == Kind::Terminal && !is_dumb {
            let screen = Arc::new(Mutex::new(Screen::new(stderr)));
            (Some(screen.clone()), screen)
        } else {
            (None, Arc::new(Mutex::new(stderr)))
        };
        let display = Display { sink: sink.clone(), kind };
        let mut connector = Connector::new(variables, ssh, env::current_exe().ok().as_deref(), display);
        connector.interrupted = interrupt;
        let report = env::var_os("GIT_DEPTOOL_REPORT").filter(|path| !path.is_empty());
        let report = report.map(|path| repo.top().join(path));
        let results = match env::var("GIT_DEPTOOL_SHOW").as_deref() {
            Ok("progress") => Results::LeftToReader,
            Ok("progress,no-failures") => Results::OnlyReported,
            Ok(_) | Err(_) => Results::Shown,
        };
        Ok(Context { repo, settings, connector: Arc::new(connector), sink, screen, results, report })
    }

    /// The hosts of `target`, and how they are reached. `name` is the name of the remote, if it has one.
    pub fn remote(self, target: Target, name: String) -> Remote {
        let Context { repo, settings, connector, sink, screen, results, report } = self;
        Remote::new(
            repo,
            Reach { settings, target, name, connector, sink, is_muted: Arc::default(), screen, results, report },
        )
    }

    /// The top of the work tree, or the directory of a bare repository.
    pub fn top(&self) -> &Path {
        self.repo.top()
    }
}

/// What is configured here, and what the cluster's branch says, else the commit that is checked out. A push and a plan go
/// by the commit that they are about instead: see [`Remote::at`].
pub(crate) fn settings_of(repo: &Repo) -> Result<Settings, SettingsError> {
    let settings = Settings::read(repo.gix().config_snapshot().plumbing(), repo.top())?;
    let branch = settings.cluster.as_ref().map(|cluster| format!("refs/heads/{cluster}"));
    let tip = branch.and_then(|branch| repo.resolve(branch.as_str().into()).ok());
    let Some(tip) = tip.or_else(|| repo.resolve("HEAD".into()).ok()) else { return Ok(settings) };
    // A file that can't be used is an error for whoever deploys that commit. Other commits can still be deployed.
    Ok(settings.with(repo.cluster_file(tip).ok().flatten()))
}
