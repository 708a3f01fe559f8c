//! `git deptool add-host`: a remote for a host.

use clap_complete::ArgValueCandidates;
use deptool_agent::shared::{
    name::{ClusterName, HostName},
    text::printable,
};

use super::{
    CliError, candidates, cluster_json, cluster_of,
    exit::ExitStatus,
    init,
    output::Output,
    view,
    wiring::{Draft, NewHost},
};
use crate::{config::url::Address, fleet::context::Context, repo::Setting};

/// Add a remote for each host, so that 'git push <host>' deploys to it
///
/// A host that ssh reaches by the name of its directory does not need a remote to be deployed to as part of the cluster.
/// With a remote, 'git push', 'git fetch' and 'git log' work for the single host.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The host's directory in the tree, and the remote's name
    #[arg(
        value_name = "host",
        required = true,
        add = ArgValueCandidates::new(candidates::hosts_without_remote)
    )]
    hosts: Vec<String>,
    /// The user to log in as, if ssh_config(5) does not set it
    #[arg(long, value_name = "name")]
    user: Option<String>,
    /// The port, if ssh_config(5) does not set it
    #[arg(long, value_name = "number")]
    port: Option<u16>,
    /// The host's address, if it is not deptool::<host>; for one host only
    #[arg(long, value_name = "url", conflicts_with_all = ["user", "port"])]
    url: Option<String>,
    /// What ssh connects to, if it is not <host>; for one host only
    #[arg(long, value_name = "[user@]host[:port]", conflicts_with_all = ["user", "port", "url"])]
    ssh: Option<String>,
    /// Also write the address to cluster.json, for all operators
    #[arg(long)]
    shared: bool,
    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

/// `--json`
#[derive(serde::Serialize)]
struct Report<'a> {
    version: u32,
    written: &'a [Setting],
}

pub(super) fn run(context: &Context, output: &Output, args: Args) -> Result<ExitStatus, CliError> {
    let cluster = cluster_of(context)?;
    let new: Vec<NewHost> = args.hosts.iter().map(|name| new_host(context, name, &args)).collect::<Result<_, _>>()?;
    let config = context.repo.gix().config_snapshot();
    let mut draft = Draft::new(config.plumbing());
    for new in &new {
        check(context, &draft, new)?;
        draft.host(cluster, new);
    }
    let group = init::group_remote(&draft)?;
    draft.default_of(cluster, &group);
    let written = draft.into_settings();
    let is_shared_now = args.shared && cluster_json::add(context, &new)?;
    context.repo.configure(&written)?;
    if args.json {
        output.json(&Report { version: view::VERSION, written: &written })?;
        return Ok(ExitStatus::Done);
    }
    init::show(output, &written)?;
    if is_shared_now {
        output.note("changed cluster.json: commit it to share it with other operators")?;
    } else if written.is_empty() {
        output.note("everything is set up already")?;
    }
    note_missing(context, output, cluster, &new)?;
    Ok(ExitStatus::Done)
}

fn new_host(context: &Context, name: &str, args: &Args) -> Result<NewHost, CliError> {
    let host = HostName::parse(name.as_bytes())?;
    if name == "all" {
        return Err(CliError::Usage("a host can't be named 'all'".into()));
    }
    let is_given = args.user.is_some() || args.port.is_some();
    let address = match (&args.url, &args.ssh, context.settings.shared.address(&host)) {
        (Some(_), ..) | (_, Some(_), _) if args.hosts.len() > 1 => {
            let option = if args.url.is_some() { "--url" } else { "--ssh" };
            return Err(CliError::Usage(format!("{option} is for one host")));
        }
        (None, Some(ssh), _) => match Address::parse(ssh.as_bytes())? {
            Address::Ssh(address) => Address::Ssh(address),
            other => return Err(CliError::Usage(format!("--ssh is written as '[user@]host[:port]', not '{other}'"))),
        },
        (None, None, Some(shared)) if !is_given => Address::Ssh(shared),
        (Some(url), ..) => Address::parse_url(url.as_bytes()).unwrap_or_else(|| Address::parse(url.as_bytes()))?,
        (None, None, _) => {
            let user = args.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
            let port = args.port.map(|port| format!(":{port}")).unwrap_or_default();
            Address::parse(format!("{user}{host}{port}").as_bytes())?
        }
    };
    match address {
        Address::Ssh(_) | Address::Local(_) => Ok(NewHost { host, address }),
        Address::All | Address::Group(_) => Err(CliError::Usage(format!("'{address}' is not a single host"))),
    }
}

/// Refuse a second remote for a host, and a second address for a remote.
fn check(context: &Context, draft: &Draft<'_>, new: &NewHost) -> Result<(), CliError> {
    let host = &new.host;
    if let Some(same) = draft.remotes().iter().find(|remote| remote.name == host.as_str()) {
        return match &same.address {
            Some(address) if *address == new.address => Ok(()),
            Some(_) => Err(CliError::Text(format!(
                "remote '{host}' has another url; 'git remote set-url {host} deptool::{}' changes it",
                new.address
            ))),
            None => Err(CliError::Text(format!(
                "remote '{host}' belongs to something else; add one with another name: git remote add <name> deptool::{}",
                new.address
            ))),
        };
    }
    match context.settings.host(host) {
        Ok(known) if known.tracking.as_str() != host.as_str() => Err(CliError::Text(format!(
            "host '{host}' has a remote already: '{}'",
            printable(known.tracking.as_str().as_bytes())
        ))),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Print the hosts that have no directory in the branch yet, because their names may be mistyped.
fn note_missing(context: &Context, output: &Output, cluster: &ClusterName, new: &[NewHost]) -> Result<(), CliError> {
    let branch = format!("refs/heads/{cluster}");
    let Ok(tip) = context.repo.resolve(branch.as_str().into()) else { return Ok(()) };
    let known = context.repo.hosts(tip).unwrap_or_default();
    for NewHost { host, .. } in new.iter().filter(|new| !known.contains(&new.host)) {
        output.note(format_args!("note: branch '{cluster}' has no directory '{host}' yet"))?;
    }
    Ok(())
}
