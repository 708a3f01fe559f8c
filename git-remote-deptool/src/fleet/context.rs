//! What both programs begin with: the repository around us, its settings, and how hosts are reached.

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

/// A repository, its settings, and connections. Made once, at the start of a program.
pub struct Context {
    pub repo: Repo,
    pub settings: Settings,
    pub connector: Arc<Connector>,
    /// For what is to be read on the terminal: stderr.
    pub sink: Sink,
    /// The same, if it is a terminal that lines can be drawn on in place.
    pub screen: Option<Arc<Mutex<Screen>>>,
    /// `GIT_DEPTOOL_SHOW`: which program shows how pushes end.
    pub results: Results,
    /// `GIT_DEPTOOL_REPORT`: where pushes write what became of each host.
    pub report: Option<PathBuf>,
}

/// Why a program can't begin.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// There is no working directory.
    #[error("cannot find out where we are")]
    Directory(#[source] io::Error),
    /// No repository, or none that can be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A setting that means nothing.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Without handlers Ctrl-C would leave hosts alone.
    #[error("cannot handle signals")]
    Signals(#[source] io::Error),
}

impl Context {
    /// The repository that the process's environment names, or else the one around its working directory.
    ///
    /// From here on the process outlives SIGINT, SIGTERM and SIGHUP: see [`Connector::interrupted`].
    pub fn from_process() -> Result<Self, ContextError> {
        let environment = Environment::from_process().map_err(ContextError::Directory)?;
        let repo = Repo::open(environment)?;
        let config = repo.gix().config_snapshot();
        let settings = Settings::read(config.plumbing(), repo.top())?;
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
        connector.interrupted = Interrupt::of_process().map_err(ContextError::Signals)?;
        let report = env::var_os("GIT_DEPTOOL_REPORT").filter(|path| !path.is_empty());
        let report = report.map(|path| repo.top().join(path));
        let results = match env::var("GIT_DEPTOOL_SHOW").as_deref() {
            Ok("progress") => Results::LeftToReader,
            Ok("progress,no-failures") => Results::OnlyReported,
            Ok(_) | Err(_) => Results::Shown,
        };
        Ok(Context { repo, settings, connector: Arc::new(connector), sink, screen, results, report })
    }

    /// The hosts of `target`, with all that it takes to talk to them. `name` is the name of the remote, if it has one.
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
