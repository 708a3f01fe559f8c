//! `cluster.json` in the work tree, as `init`, `add-host` and `secret` write it. It is for the operator to commit.

use std::{fs, io, io::Write as _, path::PathBuf};

use deptool_agent::shared::{name::HostName, text::printable};

use super::{CliError, wiring::NewHost};
use crate::{
    config::{
        HostRemote, Via,
        cluster_file::{ClusterFile, NAME, Ssh},
        url::{Address, SshAddress},
    },
    fleet::context::Context,
    repo::Repo,
    secrets::recipient::Recipient,
};

/// Write a first file with what this repository's configuration has of hosts and groups.
pub(super) fn create(context: &Context) -> Result<(), CliError> {
    let path = path(&context.repo)?;
    if path.symlink_metadata().is_ok() {
        return Err(CliError::Text(format!("there is a {NAME} already")));
    }
    let mut file = ClusterFile::default();
    for HostRemote { host, via, .. } in context.settings.known_hosts()? {
        if let Via::Ssh(address) = via {
            file.hosts.entry(host.clone()).or_default().ssh = shared(&host, &address);
        }
    }
    for group in context.settings.group_names() {
        let hosts = context.settings.hosts_of_group(&group)?;
        file.groups.insert(group, hosts.into_iter().map(|host| host.host).collect());
    }
    write(&path, &file)
}

/// The file in the work tree; an empty one if there is none.
pub(super) fn read(repo: &Repo) -> Result<ClusterFile, CliError> {
    let bytes = match fs::read(path(repo)?) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => b"{}".to_vec(),
        bytes => bytes?,
    };
    ClusterFile::parse(&bytes).map_err(|error| CliError::Text(format!("{NAME}: {error}")))
}

/// Record what the secrets of hosts are encrypted to. Returns whether that changes anything.
pub(super) fn record(repo: &Repo, recipients: &[(HostName, Recipient)]) -> Result<bool, CliError> {
    let before = read(repo)?;
    let mut file = before.clone();
    for (host, recipient) in recipients {
        file.hosts.entry(host.clone()).or_default().age = Some(recipient.clone());
        file.ignore.retain(|name| name != host.as_str());
    }
    if file == before {
        return Ok(false);
    }
    write(&path(repo)?, &file)?;
    Ok(true)
}

/// Add the addresses of hosts. Returns whether that changes anything.
pub(super) fn add(context: &Context, new: &[NewHost]) -> Result<bool, CliError> {
    let before = read(&context.repo)?;
    let mut file = before.clone();
    for NewHost { host, address } in new {
        let Address::Ssh(address) = address else {
            return Err(CliError::Usage(format!("--shared is for hosts that ssh reaches, not for '{address}'")));
        };
        file.hosts.entry(host.clone()).or_default().ssh = shared(host, address);
        file.ignore.retain(|name| name != host.as_str());
    }
    if file == before {
        return Ok(false);
    }
    write(&path(&context.repo)?, &file)?;
    Ok(true)
}

/// Give a host another name. Its address stays. Returns whether that changes anything.
pub(super) fn rename(repo: &Repo, old: &HostName, new: &HostName) -> Result<bool, CliError> {
    let Some(path) = repo.gix().workdir().map(|top| top.join(NAME)) else { return Ok(false) };
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        bytes => bytes?,
    };
    let before = ClusterFile::parse(&bytes).map_err(|error| CliError::Text(format!("{NAME}: {error}")))?;
    let mut file = before.clone();
    if let Some(mut host) = file.hosts.remove(old) {
        if let Some(address) = before.address(old) {
            host.ssh = shared(new, &address);
        }
        file.hosts.entry(new.clone()).or_insert(host);
    }
    for member in file.groups.values_mut().flatten().filter(|member| **member == *old) {
        *member = new.clone();
    }
    if file == before {
        return Ok(false);
    }
    write(&path, &file)?;
    Ok(true)
}

fn shared(host: &HostName, address: &SshAddress) -> Ssh {
    let SshAddress { user, host: place, port } = address.clone();
    Ssh { user, host: Some(place).filter(|place| place.as_host_name() != Some(host)), port }
}

fn path(repo: &Repo) -> Result<PathBuf, CliError> {
    match repo.gix().workdir() {
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
