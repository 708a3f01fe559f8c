//! `cluster.json` in the work tree, as `init` and `add-host` write it. It is for the operator to commit.

use std::{fs, io, io::Write as _, path::PathBuf};

use deptool_agent::shared::text::printable;

use super::{CliError, wiring::NewHost};
use crate::{
    config::{
        HostRemote, Via,
        cluster_file::{ClusterFile, NAME, SharedHost, Ssh},
        url::{Address, SshAddress},
    },
    fleet::context::Context,
};

/// Write a first file with what this repository's configuration has of hosts and groups.
pub(super) fn create(context: &Context) -> Result<(), CliError> {
    let path = path(context)?;
    if path.symlink_metadata().is_ok() {
        return Err(CliError::Text(format!("there is a {NAME} already")));
    }
    let mut file = ClusterFile::default();
    for HostRemote { host, via, .. } in context.settings.known_hosts()? {
        if let Via::Ssh(address) = via {
            file.hosts.insert(host.clone(), shared(&host, &address));
        }
    }
    for group in context.settings.group_names() {
        let hosts = context.settings.hosts_of_group(&group)?;
        file.groups.insert(group, hosts.into_iter().map(|host| host.host).collect());
    }
    write(&path, &file)
}

/// Add the addresses of hosts. Returns whether that changes anything.
pub(super) fn add(context: &Context, new: &[NewHost]) -> Result<bool, CliError> {
    let path = path(context)?;
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => b"{}".to_vec(),
        bytes => bytes?,
    };
    let before = ClusterFile::parse(&bytes).map_err(|error| CliError::Text(format!("{NAME}: {error}")))?;
    let mut file = before.clone();
    for NewHost { host, address } in new {
        let Address::Ssh(address) = address else {
            return Err(CliError::Usage(format!("--shared is for hosts that ssh reaches, not for '{address}'")));
        };
        file.hosts.insert(host.clone(), shared(host, address));
        file.ignore.retain(|name| name != host.as_str());
    }
    if file == before {
        return Ok(false);
    }
    write(&path, &file)?;
    Ok(true)
}

fn shared(host: &deptool_agent::shared::name::HostName, address: &SshAddress) -> SharedHost {
    let SshAddress { user, host: place, port } = address.clone();
    SharedHost { ssh: Ssh { user, host: Some(place).filter(|place| place.as_host_name() != Some(host)), port } }
}

fn path(context: &Context) -> Result<PathBuf, CliError> {
    match context.repo.gix().workdir() {
        Some(top) => Ok(top.join(NAME)),
        None => Err(CliError::Text(format!("a bare repository has no work tree to write {NAME} to"))),
    }
}

fn write(path: &std::path::Path, file: &ClusterFile) -> Result<(), CliError> {
    let failed = |error: io::Error| {
        CliError::Text(format!("could not write '{}': {error}", printable(path.as_os_str().as_encoded_bytes())))
    };
    let directory = path.parent().unwrap_or(path);
    let mut new = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    new.write_all(file.to_text().as_bytes()).map_err(failed)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    new.as_file().set_permissions(mode).map_err(failed)?;
    new.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}
