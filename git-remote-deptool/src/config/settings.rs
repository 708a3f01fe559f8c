//! The parts of Git's configuration that concern hosts.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use deptool_agent::shared::name::{ClusterName, HostName, NameError};
use gix::{
    bstr::{BStr, BString, ByteSlice},
    config::File,
};

use super::cluster_file::{ClusterFile, Defaults};
use super::commandline;
use super::url::{Address, GroupName};
use super::{ClusterError, TrackingName, Via};
use crate::model::{batch::FollowTags, offer::HostCheck, push_option::Confirm};

/// The configured remotes, groups and cluster.
///
/// A remote that can't be parsed is not one of ours. A push to it fails with an error about its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub(super) remotes: Vec<RemoteSection>,
    pub(super) groups: Vec<Group>,
    pub(super) directory: PathBuf,
    /// `cluster.json` of the tree that this is about: see [`Self::with`].
    pub shared: ClusterFile,
    /// `deptool.cluster`.
    pub cluster: Option<ClusterName>,
    /// `deptool.shareConnections`: ssh is told to share its connections.
    pub share_connections: bool,
    /// `push.followTags`.
    pub follow_tags: FollowTags,
    /// Whether `push.pushOption` contains `check`. An option given with `-o` would arrive too late: Git asks for the
    /// list of refs first, and skips refs that are listed as up to date. `git -c push.pushOption=check push` asks the
    /// hosts even then.
    pub host_check: HostCheck,
}

/// A setting with an invalid value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad value of '{key}'")]
pub struct SettingsError {
    key: &'static str,
    #[source]
    source: NameError,
}

/// A remote of any transport. Other transports matter because their names are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteSection {
    pub name: TrackingName,
    /// `remote.<name>.deptoolHost`. An invalid value is an error only for pushes to this remote.
    pub directory: Option<Result<HostName, NameError>>,
    /// `remote.<name>.deptoolConfirm`, not parsed.
    pub confirm: Option<BString>,
    pub urls: RemoteUrls,
}

/// What the urls of a remote name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RemoteUrls {
    /// One host: this is its remote.
    OneHost { host: HostName, via: Via },
    /// A group, several hosts, or another transport.
    Other,
}

/// `deptool.group.<name>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub name: GroupName,
    /// Not parsed: an invalid name is an error only for pushes to this group.
    pub members: Vec<BString>,
}

impl Settings {
    /// Read `config`. Relative paths in urls are relative to `directory`.
    pub fn read(config: &File, directory: &Path) -> Result<Self, SettingsError> {
        let rewrites = rewrites(config);
        let mut remotes: BTreeMap<BString, RawRemote> = BTreeMap::new();
        for section in config.sections_by_name("remote").into_iter().flatten() {
            let Some(name) = section.header().subsection_name() else { continue };
            let remote = remotes.entry(name.to_owned()).or_default();
            for (key, urls) in [("url", &mut remote.urls), ("pushurl", &mut remote.push_urls)] {
                for url in section.values(key) {
                    match url.is_empty() {
                        // As in Git, an empty value clears the ones before it.
                        true => urls.clear(),
                        false => urls.push(rewritten(url, &rewrites)),
                    }
                }
            }
            if let Some(host) = section.values("deptoolHost").pop() {
                remote.directory = Some(HostName::parse(&host));
            }
            remote.confirm = section.values("deptoolConfirm").pop().or(remote.confirm.take());
        }
        let cluster = config.string("deptool.cluster").map(|name| ClusterName::parse(&name)).transpose();
        Ok(Settings {
            remotes: remotes.iter().filter_map(|(name, raw)| raw.parse(name.as_ref(), directory)).collect(),
            groups: groups(config),
            directory: directory.to_owned(),
            shared: ClusterFile::default(),
            cluster: cluster.map_err(|source| SettingsError { key: "deptool.cluster", source })?,
            share_connections: config.boolean("deptool.shareConnections").ok().flatten() == Some(true),
            follow_tags: follow_tags(config),
            host_check: host_check(config),
        })
    }
}

impl Settings {
    /// The same, with what the operators of a cluster share in its tree. A tree that has no such file, such as one from
    /// before there was one or a projection, leaves hosts where they are.
    pub fn with(&self, shared: Option<ClusterFile>) -> Settings {
        let mut settings = self.clone();
        if let Some(shared) = shared {
            settings.shared = shared;
        }
        settings
    }

    /// How soon a host has to confirm, in seconds: as asked for, else as its remote has it, else the remote that is pushed
    /// to, else cluster.json.
    pub fn confirm(
        &self,
        asked: Option<Confirm>,
        host: &TrackingName,
        pushed_to: &str,
        defaults: &Defaults,
    ) -> Result<Option<u16>, ClusterError> {
        let confirm = match asked {
            Some(confirm) => Some(confirm),
            None => match self.confirm_of(host.as_str())? {
                Some(confirm) => Some(confirm),
                None => self.confirm_of(pushed_to)?.or_else(|| defaults.confirm()),
            },
        };
        Ok(confirm.and_then(Confirm::seconds))
    }

    /// `remote.<name>.deptoolConfirm`.
    fn confirm_of(&self, name: &str) -> Result<Option<Confirm>, ClusterError> {
        let remote = self.remotes.iter().find(|remote| remote.name.as_str() == name);
        let Some((remote, text)) = remote.and_then(|remote| Some((remote, remote.confirm.as_ref()?))) else {
            return Ok(None);
        };
        let confirm = text.to_str().ok().and_then(Confirm::parse);
        confirm.map(Some).ok_or_else(|| ClusterError::Confirm { remote: remote.name.clone() })
    }
}

fn follow_tags(config: &File) -> FollowTags {
    match config.boolean("push.followTags") {
        Ok(Some(true)) => FollowTags::Configured,
        Ok(Some(false) | None) | Err(_) => FollowTags::NotConfigured,
    }
}

fn host_check(config: &File) -> HostCheck {
    let options = config.strings("push.pushOption").unwrap_or_default();
    // An empty value clears the ones before it.
    let last = options.rsplit(|option| option.is_empty()).next().unwrap_or_default();
    match last.iter().any(|option| option == "check" || option == "repair") || commandline::asks_hosts() {
        true => HostCheck::Always,
        false => HostCheck::WhenInDoubt,
    }
}

#[derive(Default)]
struct RawRemote {
    urls: Vec<BString>,
    push_urls: Vec<BString>,
    directory: Option<Result<HostName, NameError>>,
    confirm: Option<BString>,
}

impl RawRemote {
    /// `None` if the section has no url.
    fn parse(&self, name: &BStr, directory: &Path) -> Option<RemoteSection> {
        if self.urls.is_empty() && self.push_urls.is_empty() {
            return None;
        }
        Some(RemoteSection {
            name: TrackingName::parse(name)?,
            directory: self.directory.clone(),
            confirm: self.confirm.clone(),
            urls: self.one_host(directory).map_or(RemoteUrls::Other, |(host, via)| RemoteUrls::OneHost { host, via }),
        })
    }

    /// The host that all urls name, with the url to push to.
    fn one_host(&self, directory: &Path) -> Option<(HostName, Via)> {
        let mut found: Option<(HostName, Via)> = None;
        for url in self.urls.iter().chain(&self.push_urls) {
            let via = Via::of(&Address::parse_url(url)?.ok()?, directory)?;
            let host = match &self.directory {
                Some(host) => host.clone().ok()?,
                None => via.host_name().ok()?,
            };
            match found {
                Some((known, _)) if known != host => return None,
                // A pushurl comes after the urls and takes precedence.
                Some(_) | None => found = Some((host, via)),
            }
        }
        found
    }
}

/// `url.<base>.insteadOf`: prefixes, and their replacements.
fn rewrites(config: &File) -> Vec<(BString, BString)> {
    let mut rewrites = Vec::new();
    for section in config.sections_by_name("url").into_iter().flatten() {
        let Some(base) = section.header().subsection_name() else { continue };
        rewrites.extend(section.values("insteadOf").into_iter().map(|prefix| (prefix, base.to_owned())));
    }
    rewrites
}

/// The longest prefix wins.
fn rewritten(url: BString, rewrites: &[(BString, BString)]) -> BString {
    let fitting = rewrites.iter().filter(|(prefix, _)| !prefix.is_empty() && url.starts_with(prefix));
    match fitting.max_by_key(|(prefix, _)| prefix.len()) {
        Some((prefix, base)) => {
            let mut out = base.clone();
            out.extend_from_slice(&url[prefix.len()..]);
            out
        }
        None => url,
    }
}

fn groups(config: &File) -> Vec<Group> {
    let mut members: BTreeMap<GroupName, Vec<BString>> = BTreeMap::new();
    for section in config.sections_by_name("deptool").into_iter().flatten() {
        if section.header().subsection_name().is_none_or(|name| name != "group") {
            continue;
        }
        for key in section.value_names() {
            let Some(group) = GroupName::parse(key.as_ref()) else { continue };
            let hosts = members.entry(group).or_default();
            for value in section.values(key.as_ref()) {
                hosts.extend(value.split_str(b" ").filter(|host| !host.is_empty()).map(BString::from));
            }
        }
    }
    members.into_iter().map(|(name, members)| Group { name, members }).collect()
}
