//! The files of secrets in the work tree.

use std::{
    fmt, fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use clap_complete::CompletionCandidate;
use deptool_agent::shared::{
    name::{AppName, HostName},
    secrets::is_in_names,
    text::printable,
};

pub(super) use super::super::work_tree::WorkTree;
use super::super::{CliError, candidates};
use crate::{
    config::Settings,
    secrets::{DIRECTORY, SUFFIX},
};

/// Secrets in the work tree, for completion. Errors result in no candidates.
pub(super) fn candidates() -> Vec<CompletionCandidate> {
    let tree = candidates::open().and_then(|(repo, _)| WorkTree::of(&repo).ok());
    let hosts = tree.iter().flat_map(|tree| tree.hosts().unwrap_or_default());
    let secrets = hosts.flat_map(|host| tree.iter().flat_map(move |tree| tree.secrets_of(&host).unwrap_or_default()));
    secrets.map(|secret| CompletionCandidate::new(secret.to_string())).collect()
}

/// The largest secret, encrypted or not.
pub(super) const MAX_SIZE: u64 = 1024 * 1024;

/// There is room for the header and the tags in a file that a host accepts.
pub(super) fn check_size(plain: &[u8]) -> Result<(), CliError> {
    match plain.len() as u64 > MAX_SIZE - 64 * 1024 {
        true => Err(CliError::Text("a secret has at most 960 KiB".into())),
        false => Ok(()),
    }
}

/// A secret of an app: `web1/app/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub host: HostName,
    pub app: AppName,
    name: String,
}

impl Place {
    /// The secrets that `<host|@group>/<app>/<name>` stands for: one for each host.
    pub fn parse(settings: &Settings, text: &str) -> Result<Vec<Place>, CliError> {
        let shown = printable(text.as_bytes());
        let bad = || CliError::Usage(format!("a secret is written as '<host|@group>/<app>/<name>', not '{shown}'"));
        let mut parts = text.split('/');
        let (Some(hosts), Some(app), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        let app = AppName::parse(app.as_bytes())?;
        check(name)?;
        if hosts == "@all" {
            return Err(CliError::Usage("name the host, or a group of hosts".into()));
        }
        let hosts = super::super::aim::hosts_named(settings, &[hosts.to_owned()])?;
        let place = |host| Place { host, app: app.clone(), name: name.to_owned() };
        Ok(hosts.into_iter().map(|host| place(host.host)).collect())
    }

    /// The path in the tree.
    pub fn path(&self) -> String {
        format!("{}/{}/{DIRECTORY}/{}{SUFFIX}", self.host, self.app, self.name)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.host, self.app, printable(self.name.as_bytes()))
    }
}

fn check(name: &str) -> Result<(), CliError> {
    let bad =
        |why: &str| Err(CliError::Usage(format!("invalid name of a secret '{}': {why}", printable(name.as_bytes()))));
    // As the host takes them, and systemd for the names of credentials.
    if name.is_empty() || !name.bytes().all(is_in_names) {
        return bad("it is written with letters, digits and '._-@'");
    }
    if name.starts_with(['.', '-']) {
        return bad("it may not begin with '.' or '-'");
    }
    if name.ends_with(SUFFIX) {
        return bad("it is written without '.age'");
    }
    if name.len() > 200 {
        return bad("it has more than 200 bytes");
    }
    Ok(())
}

impl WorkTree {
    /// Whether there is a directory for the host.
    pub(super) fn has_host(&self, host: &HostName) -> bool {
        self.0.join(host.as_str()).is_dir()
    }

    /// The encrypted content of a secret.
    pub(super) fn read(&self, place: &Place) -> Result<Vec<u8>, CliError> {
        let path = self.below(&place.path())?;
        match fs::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(CliError::Text(format!("there is no secret '{place}'")))
            }
            file => {
                let mut bytes = Vec::new();
                file?.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
                match bytes.len() as u64 > MAX_SIZE {
                    true => Err(CliError::Text(format!("'{place}' is larger than 1 MiB"))),
                    false => Ok(bytes),
                }
            }
        }
    }

    /// Write the encrypted content of a secret.
    pub(super) fn write(&self, place: &Place, content: &[u8]) -> Result<(), CliError> {
        let path = self.below(&place.path())?;
        let failed = |error: io::Error| {
            CliError::Text(format!("could not write '{}': {error}", printable(place.path().as_bytes())))
        };
        let directory = path.parent().unwrap_or(&self.0);
        fs::create_dir_all(directory).map_err(failed)?;
        let mut new = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
        new.write_all(content).map_err(failed)?;
        new.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed)?;
        new.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// All secrets of a host, in order.
    pub(super) fn secrets_of(&self, host: &HostName) -> Result<Vec<Place>, CliError> {
        let mut places = Vec::new();
        for app in names_in(&self.below(host.as_str())?)? {
            let Ok(app) = AppName::parse(&app) else { continue };
            let directory = format!("{host}/{app}/{DIRECTORY}");
            if !self.0.join(format!("{host}/{app}")).is_dir() {
                continue;
            }
            for name in names_in(&self.below(&directory)?)? {
                let Ok(name) = String::from_utf8(name) else { continue };
                let Some(name) = name.strip_suffix(SUFFIX).filter(|name| check(name).is_ok()) else { continue };
                places.push(Place { host: host.clone(), app: app.clone(), name: name.to_owned() });
            }
        }
        places.sort();
        Ok(places)
    }

    /// The hosts that have a directory with secrets, in order.
    pub(super) fn hosts(&self) -> Result<Vec<HostName>, CliError> {
        let mut hosts = Vec::new();
        for name in names_in(&self.0)? {
            let Ok(host) = HostName::parse(&name) else { continue };
            let is_directory = self.0.join(host.as_str()).symlink_metadata().is_ok_and(|found| found.is_dir());
            if is_directory && !self.secrets_of(&host)?.is_empty() {
                hosts.push(host);
            }
        }
        hosts.sort();
        Ok(hosts)
    }
}

/// The names in a directory; none if it does not exist.
fn names_in(directory: &Path) -> Result<Vec<Vec<u8>>, CliError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.file_name().into_encoded_bytes())).collect()
}
