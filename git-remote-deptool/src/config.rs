//! Git's configuration and the cluster's file: which hosts exist, how each is reached, and under which name its state is
//! tracked. The operator's own configuration wins.
//!
//! A host is a directory of the tree. Its tracking refs use the name of the remote whose url names the host, or else
//! the host's own name. No two hosts share a name: two remotes for one host are an error, and so is a host without a
//! remote whose name belongs to an unrelated remote.

pub mod cluster_file;
mod commandline;
mod settings;
pub mod url;

use std::{
    collections::BTreeSet,
    fmt,
    path::{Component, Path, PathBuf},
};

use deptool_agent::shared::{
    name::{HostName, NameError},
    text::printable,
};
use gix::bstr::{BStr, ByteSlice};
use settings::{Group, RemoteSection, RemoteUrls};
pub use settings::{Settings, SettingsError};

use crate::config::url::{Address, GroupName, SshAddress, SshHost};

/// A host, how it is reached, and the name under which it is tracked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRemote {
    /// The host's directory in the tree.
    pub host: HostName,
    /// The name in its tracking refs.
    pub tracking: TrackingName,
    /// How it is reached.
    pub via: Via,
}

/// How a host is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    /// Over OpenSSH.
    Ssh(SshAddress),
    /// A local root: an absolute path.
    Local(PathBuf),
}

/// The `<name>` of `refs/remotes/<name>/<cluster>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackingName(String);

/// What a push or a fetch is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One host.
    Host(HostRemote),
    /// The hosts of a group, in the configuration's order.
    Group(GroupName, Vec<HostRemote>),
    /// All hosts of the pushed tree. See [`Settings::host`].
    All,
}

/// Why a url does not name a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// Two remotes name the same host, which has only one tracking ref per cluster.
    #[error("remotes '{first}' and '{second}' are both for host '{host}'; remove one of them")]
    TwoRemotes {
        /// The host.
        host: HostName,
        /// A remote.
        first: TrackingName,
        /// Another one.
        second: TrackingName,
    },
    /// A remote with the host's name belongs to something else, so the tracking refs would get mixed up.
    #[error(
        "host '{host}' needs the name of remote '{host}', which belongs to something else; \
         add a remote of another name for deptool::{host}"
    )]
    NameTaken {
        /// The host.
        host: HostName,
    },
    /// The remote has another address than the one in the url, so the state of two machines would get mixed up.
    #[error(
        "remote '{remote}' is for host '{host}', but at another address; \
         give this one a remote with a deptoolHost of its own"
    )]
    OtherPlace {
        /// The host.
        host: HostName,
        /// The remote that names it.
        remote: TrackingName,
    },
    /// The address is not a valid name for a directory.
    #[error("'{0}' can't be the name of a directory; set remote.<name>.deptoolHost to the host's directory")]
    NoHostName(String),
    /// An invalid name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// `all` means every host.
    #[error("a host can't be named 'all'")]
    Reserved,
    /// An invalid duration.
    #[error("remote.{remote}.deptoolConfirm is a duration in seconds or minutes, such as '30s'")]
    Confirm {
        /// The remote.
        remote: TrackingName,
    },
    /// A group that is not configured, or has no hosts.
    #[error(
        "there is no group '{group}'; set deptool.group.{group} to the names of its hosts, or add it to 'groups' in \
         cluster.json"
    )]
    NoGroup {
        /// Its name.
        group: GroupName,
    },
}

impl TrackingName {
    /// Parse the name of a remote.
    pub fn parse(name: &BStr) -> Option<Self> {
        let full = format!("refs/remotes/{}/x", name.to_str().ok()?);
        gix::validate::reference::name(full.as_str().into()).ok()?;
        Some(TrackingName(name.to_str().ok()?.to_owned()))
    }

    /// The name as text. It may contain slashes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A host without a remote of its own.
impl From<&HostName> for TrackingName {
    fn from(host: &HostName) -> Self {
        TrackingName(host.to_string())
    }
}

impl fmt::Display for TrackingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Via {
    /// How the host at `address` is reached, or `None` for a group. Relative paths are relative to `directory`.
    fn of(address: &Address, directory: &Path) -> Option<Self> {
        match address {
            Address::Ssh(ssh) => Some(Via::Ssh(ssh.clone())),
            Address::Local(path) => Some(Via::Local(normalised(&directory.join(path)))),
            Address::All | Address::Group(_) => None,
        }
    }

    /// Whether both are the same machine and root, ignoring the login user.
    fn same_place(&self, other: &Via) -> bool {
        match (self, other) {
            (Via::Ssh(a), Via::Ssh(b)) => a.host == b.host && a.port == b.port,
            (Via::Local(a), Via::Local(b)) => a == b,
            (Via::Ssh(_), Via::Local(_)) | (Via::Local(_), Via::Ssh(_)) => false,
        }
    }

    /// Whether it is nothing but a host's name.
    fn is_name_of(&self, name: &HostName) -> bool {
        matches!(self, Via::Ssh(SshAddress { user: None, host: SshHost::Name(host), port: None }) if host == name)
    }

    /// Whether the two can't be the same host. Over ssh, a host may have several addresses, and it is checked by its
    /// own name.
    fn is_elsewhere(&self, other: &Via) -> bool {
        match (self, other) {
            (Via::Ssh(_), Via::Ssh(_)) => false,
            (Via::Local(_), _) | (_, Via::Local(_)) => !self.same_place(other),
        }
    }

    /// The host's name according to its address.
    fn host_name(&self) -> Result<HostName, ClusterError> {
        let host = match self {
            Via::Ssh(SshAddress { host: SshHost::Name(name), user: _, port: _ }) => name.clone(),
            Via::Ssh(ssh @ SshAddress { host: SshHost::Ipv6(_), user: _, port: _ }) => {
                return Err(ClusterError::NoHostName(ssh.host.to_string()));
            }
            Via::Local(path) => {
                let shown = || ClusterError::NoHostName(printable(path.as_os_str().as_encoded_bytes()));
                HostName::parse(path.file_name().ok_or_else(shown)?.as_encoded_bytes()).map_err(|_| shown())?
            }
        };
        not_reserved(host)
    }
}

impl Settings {
    /// The target of a push or fetch from `address`. `remote` is the name of the remote, or else the url that was
    /// given.
    pub fn target(&self, remote: &BStr, address: &Address) -> Result<Target, ClusterError> {
        match (address, Via::of(address, &self.directory)) {
            (_, Some(via)) => self.one_host(remote, via).map(Target::Host),
            (Address::Group(group), None) => Ok(Target::Group(group.clone(), self.hosts_of_group(group)?)),
            (_, None) => Ok(Target::All),
        }
    }

    /// A host of a group or of the tree. It is reached through the remote that names it, or else as `deptool::<host>`.
    pub fn host(&self, host: &HostName) -> Result<HostRemote, ClusterError> {
        let host = not_reserved(host.clone())?;
        match self.remote_for(&host)? {
            Some((tracking, via)) => Ok(HostRemote { host, tracking, via: via.clone() }),
            None => {
                let by_name = || SshAddress { user: None, host: SshHost::Name(host.clone()), port: None };
                let via = Via::Ssh(self.shared.address(&host).unwrap_or_else(by_name));
                Ok(HostRemote { tracking: self.own_tracking_name(&host)?, host, via })
            }
        }
    }

    /// The same host, as it is reached by these settings and not by those from `before`. An address that was typed stays.
    pub fn again(&self, host: &HostRemote, before: &Settings) -> Result<HostRemote, ClusterError> {
        let was_shared = before.shared.address(&host.host).map(Via::Ssh).as_ref() == Some(&host.via);
        match self.has_remote(&host.tracking) || !(was_shared || host.via.is_name_of(&host.host)) {
            true => Ok(host.clone()),
            false => self.host(&host.host),
        }
    }

    /// Whether there is a remote with that name.
    pub fn has_remote(&self, name: &TrackingName) -> bool {
        self.remotes.iter().any(|remote| remote.name == *name)
    }

    /// All hosts that have a remote, by the remotes' names.
    pub fn known_hosts(&self) -> Result<Vec<HostRemote>, ClusterError> {
        self.hosts_with_remotes().map(|(_, host, _)| self.host(host)).collect()
    }

    fn one_host(&self, remote: &BStr, via: Via) -> Result<HostRemote, ClusterError> {
        let named = self.remotes.iter().find(|known| known.name.as_str() == remote);
        let host = match named {
            Some(RemoteSection { directory: Some(host), .. }) => host.clone()?,
            Some(RemoteSection { directory: None, .. }) => via.host_name()?,
            None => match self.hosts_with_remotes().find(|(_, _, known)| known.same_place(&via)) {
                Some((_, host, _)) => host.clone(),
                None => match self.shared_host_at(&via) {
                    Some(host) => host.clone(),
                    None => via.host_name()?,
                },
            },
        };
        let host = not_reserved(host)?;
        // Without a remote, a host's name alone stands for where the cluster's file says that it is.
        let via = match (named, self.remote_for(&host)?, self.shared.address(&host)) {
            (None, None, Some(address)) if via.is_name_of(&host) => Via::Ssh(address),
            _ => via,
        };
        let tracking = match self.remote_for(&host)? {
            // The known state of one must not be taken for that of the other.
            Some((remote, known)) if known.is_elsewhere(&via) => {
                return Err(ClusterError::OtherPlace { host, remote });
            }
            Some((tracking, _)) => tracking,
            None => self.own_tracking_name(&host)?,
        };
        Ok(HostRemote { host, tracking, via })
    }

    /// The host that the cluster's file has at that place.
    fn shared_host_at(&self, via: &Via) -> Option<&HostName> {
        let is_there = |host: &&HostName| {
            let address = self.shared.address(host).map(Via::Ssh);
            address.is_some_and(|address| address.same_place(via))
        };
        let mut hosts = self.shared.hosts.keys();
        // A host's own name is the host, even if another one is reached by it.
        hosts.clone().find(|host| via.is_name_of(host)).or_else(|| hosts.find(is_there))
    }

    /// Whether nothing but its directory says where a host is.
    pub fn is_reached_by_name(&self, host: &HostRemote) -> bool {
        host.via.is_name_of(&host.host) && !self.has_remote(&host.tracking) && !self.shared.has_address(&host.host)
    }

    /// The groups that are configured, or in the cluster's file.
    pub fn group_names(&self) -> Vec<GroupName> {
        let shared = self.shared.groups.keys();
        let names: BTreeSet<_> = self.groups.iter().map(|group| &group.name).chain(shared).collect();
        names.into_iter().cloned().collect()
    }

    /// The hosts of a group, in its order. A host that it names twice is there once.
    pub fn hosts_of_group(&self, group: &GroupName) -> Result<Vec<HostRemote>, ClusterError> {
        let names = match self.groups.iter().find(|known| known.name == *group) {
            Some(Group { members, .. }) => {
                members.iter().map(|name| HostName::parse(name)).collect::<Result<_, _>>()?
            }
            None => {
                let shared = self.shared.groups.get(group);
                shared.ok_or_else(|| ClusterError::NoGroup { group: group.clone() })?.clone()
            }
        };
        let mut seen = BTreeSet::new();
        names.iter().filter(|host| seen.insert(*host)).map(|host| self.host(host)).collect()
    }

    /// Remotes that name exactly one host and nothing else.
    fn hosts_with_remotes(&self) -> impl Iterator<Item = (&TrackingName, &HostName, &Via)> {
        self.remotes.iter().filter_map(|remote| match &remote.urls {
            RemoteUrls::OneHost { host, via } => Some((&remote.name, host, via)),
            RemoteUrls::Other => None,
        })
    }

    fn remote_for(&self, host: &HostName) -> Result<Option<(TrackingName, &Via)>, ClusterError> {
        let mut remotes = self.hosts_with_remotes().filter(|(_, known, _)| *known == host);
        match (remotes.next(), remotes.next()) {
            (None, _) => Ok(None),
            (Some((name, _, via)), None) => Ok(Some((name.clone(), via))),
            (Some((first, ..)), Some((second, ..))) => {
                Err(ClusterError::TwoRemotes { host: host.clone(), first: first.clone(), second: second.clone() })
            }
        }
    }

    /// The tracking name of a host without a remote. It is an error if an unrelated remote has that name, because their
    /// refs would get mixed up.
    fn own_tracking_name(&self, host: &HostName) -> Result<TrackingName, ClusterError> {
        match self.remotes.iter().any(|remote| remote.name.as_str() == host.as_str()) {
            true => Err(ClusterError::NameTaken { host: host.clone() }),
            false => Ok(TrackingName::from(host)),
        }
    }
}

fn not_reserved(host: HostName) -> Result<HostName, ClusterError> {
    match host.as_str() {
        "all" => Err(ClusterError::Reserved),
        _ => Ok(host),
    }
}

/// `path` without `.`, `..` and redundant slashes, without looking at the file system.
fn normalised(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => (),
            Component::ParentDir => {
                out.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => out.push(component),
        }
    }
    out
}

#[cfg(test)]
mod tests;
