//! The remote helper: Git starts it for urls that begin with `deptool::`. See gitremote-helpers(7).

use std::{
    env,
    ffi::OsString,
    io::{self, BufReader, IsTerminal},
    os::unix::ffi::OsStringExt,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, atomic::AtomicBool},
};

use anyhow::{Context, bail};
use deptool_agent::build::{BUILD_ID, VERSION};
use git_remote_deptool::{
    backend::Dialogue,
    cluster::Settings,
    git::{Environment, Repo},
    helper::{
        End,
        serve::{chain, serve},
    },
    remote::Remote,
    transport::{
        self, Connector,
        messages::{Display, Kind, Sink},
        ssh::SshSettings,
    },
    url::Address,
};
use gix::bstr::BString;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    if let [only] = arguments.as_slice()
        && only == "--version"
    {
        println!("git-remote-deptool {VERSION} (build {BUILD_ID})");
        return ExitCode::SUCCESS;
    }
    match run(arguments) {
        Ok(End::Finished) => ExitCode::SUCCESS,
        Ok(End::HungUp) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fatal: {}", chain(error.as_ref()));
            ExitCode::from(128)
        }
    }
}

fn run(arguments: Vec<OsString>) -> anyhow::Result<End> {
    let [name, address] = arguments.as_slice() else {
        bail!("usage: git-remote-deptool <remote> <address>; it is started by git, for urls that begin with deptool::")
    };
    let name = BString::from(name.as_encoded_bytes());
    let address = Address::parse(address.as_encoded_bytes())?;
    let environment = Environment::from_process().context("cannot find out where we are")?;
    let directory = environment.directory().to_owned();
    let repo = Repo::open(environment)?;
    let config = repo.gix().config_snapshot();
    let settings = Settings::read(config.plumbing(), &directory)?;
    let target = settings.target(name.as_ref(), &address)?;
    let text = |key: &str| config.string(key).map(|value| OsString::from_vec(value.into()));
    let variables = transport::Environment::from_iter(env::vars_os());
    let ssh = SshSettings::new(&variables, text("core.sshCommand"), text("ssh.variant"));

    let sink: Sink = Arc::new(Mutex::new(io::stderr()));
    let kind = if io::stderr().is_terminal() { Kind::Terminal } else { Kind::Pipe };
    let exe: Option<PathBuf> = env::current_exe().ok();
    let mut connector = Connector::new(variables, ssh, exe.as_deref(), Display { sink: sink.clone(), kind });
    connector.interrupted = interrupted().context("cannot handle signals")?;

    let connector = Arc::new(connector);
    let mut dialogue = Dialogue::new(Remote { repo, settings, target, connector, sink });
    let mut output = io::stdout().lock();
    Ok(serve(&mut BufReader::new(io::stdin()), &mut output, &mut dialogue)?)
}

/// Set once Ctrl-C was pressed. Git dies of it at once; we tell the hosts first, and get the signal twice.
fn interrupted() -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, flag.clone())?;
    }
    Ok(flag)
}
