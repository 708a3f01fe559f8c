//! The Git configuration that `init` and `add-host` write, so that plain `git push`, `git fetch`, `git log` and
//! `@{push}` work as expected. Settings that already have another value are not changed.

use deptool_agent::shared::name::{ClusterName, HostName};
use gix::{bstr::ByteSlice, config::File};

use crate::{
    config::url::Address,
    repo::{Others, Setting},
};

/// Settings to be written, on top of the existing ones.
pub(super) struct Draft<'a> {
    config: &'a File,
    settings: Vec<Setting>,
}

/// An existing remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    pub name: String,
    /// `None` if the remote is not one of ours, or has an invalid url.
    pub address: Option<Address>,
}

/// A host that will get a remote of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewHost {
    pub host: HostName,
    /// The address of the host.
    pub address: Address,
}

/// Where plain `git push` and `git fetch` on the cluster's branch go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    /// One of our remotes.
    Ours(String),
    /// Another remote.
    Others(String),
}

impl<'a> Draft<'a> {
    pub fn new(config: &'a File) -> Self {
        Draft { config, settings: Vec::new() }
    }

    /// The settings to be written.
    pub fn into_settings(self) -> Vec<Setting> {
        self.settings
    }

    /// Draft the settings of a cluster whose hosts are reached through the remote `name`.
    pub fn cluster(&mut self, cluster: &ClusterName, name: &str) {
        self.unless_set("deptool.cluster", cluster.as_str());
        self.unless_set(&format!("remote.{name}.url"), "deptool::@all");
        self.unless_set(&format!("remote.{name}.push"), &refspec(cluster));
        // The helper itself updates the hosts' tracking refs; to Git they are always up to date.
        self.unless_set(&format!("remote.{name}.fetch"), &format!("+refs/heads/*/{cluster}:refs/remotes/*/{cluster}"));
        // Pruning would delete all other refs that match the refspec.
        self.unless_set(&format!("remote.{name}.prune"), "false");
        self.unless_set(&format!("remote.{name}.pruneTags"), "false");
        self.spare_others(name);
        // Otherwise `git fetch --all` would fetch from each host twice at the same time.
        self.unless_set(&format!("remote.{name}.skipFetchAll"), "true");
        self.default_of(cluster, name);
    }

    /// Draft the settings of a host.
    pub fn host(&mut self, cluster: &ClusterName, new: &NewHost) {
        let name = new.host.as_str();
        self.unless_set(&format!("remote.{name}.url"), &format!("deptool::{}", new.address));
        self.unless_set(&format!("remote.{name}.fetch"), &format!("+refs/heads/*:refs/remotes/{name}/*"));
        self.unless_set(&format!("remote.{name}.push"), &refspec(cluster));
        // A host has no tags. With fetch.pruneTags, Git would delete those of the repository.
        self.unless_set(&format!("remote.{name}.pruneTags"), "false");
        if new.address.directory_name().as_ref() != Some(&new.host) {
            self.unless_set(&format!("remote.{name}.deptoolHost"), name);
        }
    }

    /// If there is one host, plain commands go to that host, and `@{push}` is the commit that it runs. Otherwise they
    /// go to the cluster.
    pub fn default_of(&mut self, cluster: &ClusterName, group: &str) {
        if let Some(Destination::Others(_)) = self.plain(cluster) {
            return;
        }
        let hosts: Vec<String> = self.remotes().into_iter().filter(Remote::is_host).map(|remote| remote.name).collect();
        let (remote, merge) = (format!("branch.{cluster}.remote"), format!("branch.{cluster}.merge"));
        match hosts.as_slice() {
            [] => {}
            [only] => {
                self.unless_set(&remote, only);
                self.unless_set(&merge, &format!("refs/heads/{cluster}"));
            }
            // Until now there was only one host.
            [..] if self.get(&remote).is_none_or(|one| hosts.contains(&one)) => self.set(&remote, group),
            [..] => {}
        }
    }

    /// Where plain `git push` on the cluster's branch goes to, if it goes anywhere.
    pub fn plain(&self, cluster: &ClusterName) -> Option<Destination> {
        let keys =
            [format!("branch.{cluster}.pushRemote"), "remote.pushDefault".into(), format!("branch.{cluster}.remote")];
        let remotes = self.remotes();
        let is_ours = |name: &str| remotes.iter().any(|remote| remote.name == name && remote.address.is_some());
        let configured = keys.iter().find_map(|key| self.get(key));
        let chosen = configured.or_else(|| {
            let origin = remotes.iter().find(|remote| remote.name == "origin" && remote.address.is_none());
            origin.map(|origin| origin.name.clone())
        })?;
        Some(if is_ours(&chosen) { Destination::Ours(chosen) } else { Destination::Others(chosen) })
    }

    /// All remotes that have a url, in the order of the configuration.
    pub fn remotes(&self) -> Vec<Remote> {
        let sections = self.config.sections_by_name("remote").into_iter().flatten();
        let configured = sections.filter_map(|section| {
            let name = section.header().subsection_name()?.to_str().ok()?.to_owned();
            Some((name, section.value("url")?.to_vec()))
        });
        let drafted = self.settings.iter().filter_map(|setting| {
            let name = setting.key.strip_prefix("remote.")?.strip_suffix(".url")?;
            Some((name.to_owned(), setting.value.clone().into_bytes()))
        });
        let mut remotes: Vec<Remote> = Vec::new();
        for (name, url) in configured.chain(drafted) {
            if remotes.iter().all(|known| known.name != name) {
                remotes.push(Remote { name, address: Address::parse_url(&url).and_then(Result::ok) });
            }
        }
        remotes
    }

    /// The drafted value, else the configured one.
    pub fn get(&self, key: &str) -> Option<String> {
        let drafted =
            self.settings.iter().rev().find(|setting| setting.key == key).map(|setting| setting.value.clone());
        drafted.or_else(|| self.config.string(key).map(|value| value.to_str_lossy().into_owned()))
    }

    pub fn set(&mut self, key: &str, value: &str) {
        if self.get(key).as_deref() != Some(value) {
            self.settings.push(Setting { key: key.into(), value: value.into(), others: Others::Replaced });
        }
    }

    fn unless_set(&mut self, key: &str, value: &str) {
        if self.get(key).is_none() {
            self.set(key, value);
        }
    }

    /// Exclude the tracking refs of remotes that are not hosts from `git fetch --prune` of the cluster.
    fn spare_others(&mut self, name: &str) {
        let key = format!("remote.{name}.fetch");
        for other in self.remotes().into_iter().filter(|remote| remote.address.is_none()) {
            let value = format!("^refs/heads/{}/*", other.name);
            let known = self.config.strings(&*key).unwrap_or_default();
            if known.iter().all(|known| *known != value) {
                self.settings.push(Setting { key: key.clone(), value, others: Others::Kept });
            }
        }
    }
}

impl Remote {
    fn is_host(&self) -> bool {
        matches!(self.address, Some(Address::Ssh(_) | Address::Local(_)))
    }
}

fn refspec(cluster: &ClusterName) -> String {
    format!("refs/heads/{cluster}:refs/heads/{cluster}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> ClusterName {
        ClusterName::parse(b"prod").unwrap()
    }

    fn host(name: &str, address: &str) -> NewHost {
        let address = Address::parse(address.as_bytes()).unwrap();
        NewHost { host: HostName::parse(name.as_bytes()).unwrap(), address }
    }

    /// What is written, as `key=value`, by `init`, if `config` lacks it, and `add-host` for `hosts`.
    fn written(config: &str, hosts: &[NewHost]) -> Vec<String> {
        let config = File::try_from(config).unwrap();
        let mut draft = Draft::new(&config);
        draft.cluster(&cluster(), "cluster");
        for new in hosts {
            draft.host(&cluster(), new);
        }
        draft.default_of(&cluster(), "cluster");
        let settings = draft.into_settings();
        settings.into_iter().map(|setting| format!("{}={}", setting.key, setting.value)).collect()
    }

    /// A configuration in which all of these are set.
    fn config(settings: &[String]) -> String {
        let mut text = String::new();
        for (key, value) in settings.iter().map(|setting| setting.split_once('=').unwrap()) {
            let (section, rest) = key.split_once('.').unwrap();
            let header = match rest.rsplit_once('.') {
                Some((subsection, _)) => format!("[{section} \"{subsection}\"]"),
                None => format!("[{section}]"),
            };
            text += &format!("{header}\n\t{} = {value}\n", rest.rsplit('.').next().unwrap());
        }
        text
    }

    #[test]
    fn one_host_is_the_upstream_of_the_branch_and_the_cluster_is_when_there_are_more() {
        let one = written("", &[host("web1", "web1")]);
        assert!(one.contains(&"branch.prod.remote=web1".into()), "{one:?}");
        assert!(one.contains(&"remote.web1.fetch=+refs/heads/*:refs/remotes/web1/*".into()), "{one:?}");
        let two = written(&config(&one), &[host("web2", "root@web2:2222")]);
        assert!(two.contains(&"branch.prod.remote=cluster".into()), "{two:?}");
        assert!(two.contains(&"remote.web2.url=deptool::root@web2:2222".into()), "{two:?}");
    }

    #[test]
    fn what_is_written_is_not_written_again() {
        let hosts = [host("web1", "web1"), host("web2", "/srv/roots/other")];
        let first = written("[remote \"origin\"]\n\turl = git@example.org:config\n", &hosts);
        assert!(first.contains(&"remote.web2.deptoolHost=web2".into()), "{first:?}");
        assert!(!first.iter().any(|setting| setting.starts_with("remote.web1.deptoolHost")), "{first:?}");
        let again = config(&first) + "[remote \"origin\"]\n\turl = git@example.org:config\n";
        assert_eq!(written(&again, &hosts), Vec::<String>::new());
    }

    #[test]
    fn a_destination_that_somebody_chose_stays() {
        let origin = "[remote \"origin\"]\n\turl = git@example.org:config\n";
        for config in [origin, "[branch \"prod\"]\n\tpushRemote = mine\n", "[remote]\n\tpushDefault = mine\n"] {
            let settings = written(config, &[host("web1", "web1")]);
            assert!(!settings.iter().any(|setting| setting.starts_with("branch.")), "{settings:?}");
        }
    }

    #[test]
    fn a_fetch_of_the_cluster_does_not_prune_other_remotes() {
        let settings = written("[remote \"origin\"]\n\turl = git@example.org:config\n", &[]);
        assert!(settings.contains(&"remote.cluster.fetch=^refs/heads/origin/*".into()), "{settings:?}");
    }
}
