//! `cluster.json` at the top of a cluster's tree: what its operators share. See deptool-cluster(5).
//!
//! It comes with the tree, so it may say where hosts are and what is usual, and nothing that runs a program here.

use std::{collections::BTreeMap, fmt};

use deptool_agent::shared::{
    json::{self, JsonError, Object, Pairs, object},
    name::HostName,
};
use serde::{Deserialize, Deserializer, Serialize};

use super::url::{GroupName, SshAddress, SshHost, User};
use crate::{
    model::{
        options::{Atomicity, Options},
        push_option::{Confirm, PushOptions, Unreachable, Waves},
    },
    secrets::recipient::Recipient,
};

/// Where it is in a tree.
pub const NAME: &str = "cluster.json";
/// The most bytes that are read.
pub const MAX_SIZE: u64 = 1024 * 1024;

/// All of it. Without the file, all of it is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterFile {
    /// Where hosts are that ssh does not reach by the names of their directories, and what their secrets are encrypted to.
    #[serde(deserialize_with = "hosts", skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<HostName, SharedHost>,
    #[serde(deserialize_with = "groups", skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<GroupName, Vec<HostName>>,
    /// Who can open the secrets of all hosts.
    #[serde(deserialize_with = "operators", skip_serializing_if = "BTreeMap::is_empty")]
    pub operators: BTreeMap<OperatorName, Vec<Recipient>>,
    /// Directories at the top of the tree that are no hosts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
    #[serde(deserialize_with = "object", skip_serializing_if = "Defaults::is_empty")]
    pub defaults: Defaults,
}

/// What is shared about a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SharedHost {
    #[serde(deserialize_with = "object", skip_serializing_if = "Ssh::is_empty")]
    pub ssh: Ssh,
    /// The recipient of the host's secrets, which the host has told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<Recipient>,
}

/// The name of an operator: letters, digits, `._+@-`. It is for people, and for `secret list`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OperatorName(String);

/// What ssh connects to. What is missing is left to `ssh_config(5)`, the host to the name of the directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ssh {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<SshHost>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// How deployments are carried out unless the operator says otherwise. Texts as in `git push -o`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Defaults {
    #[serde(skip_serializing_if = "Option::is_none")]
    atomic: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waves: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confirm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lock_wait: Option<String>,
}

fn hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<HostName, SharedHost>, D::Error> {
    let Pairs(pairs) = Pairs::<HostName, Object<SharedHost>>::deserialize(deserializer)?;
    Ok(pairs.into_iter().map(|(name, Object(host))| (name, host)).collect())
}

fn groups<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<GroupName, Vec<HostName>>, D::Error> {
    Pairs::deserialize(deserializer).map(|Pairs(pairs)| pairs)
}

fn operators<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<OperatorName, Vec<Recipient>>, D::Error> {
    Pairs::deserialize(deserializer).map(|Pairs(pairs)| pairs)
}

impl TryFrom<String> for OperatorName {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._+@-".contains(&byte);
        match !text.is_empty() && text.len() <= 64 && text.bytes().all(is_fine) && !text.starts_with('-') {
            true => Ok(OperatorName(text)),
            false => Err("the name of an operator has from 1 to 64 letters, digits and '._+@-'".into()),
        }
    }
}

impl From<OperatorName> for String {
    fn from(name: OperatorName) -> String {
        name.0
    }
}

impl fmt::Display for OperatorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Ssh {
    fn is_empty(&self) -> bool {
        *self == Ssh::default()
    }
}

impl ClusterFile {
    /// Parse the bytes of a `cluster.json`.
    pub fn parse(bytes: &[u8]) -> Result<Self, JsonError> {
        let file: ClusterFile = json::parse(bytes)?;
        file.check()?;
        Ok(file)
    }

    /// The file's text, as we write it.
    pub fn to_text(&self) -> String {
        // Strings and numbers can always be written.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Where a host is, if the file says so.
    pub fn address(&self, host: &HostName) -> Option<SshAddress> {
        let Ssh { user, host: place, port } = self.hosts.get(host)?.ssh.clone();
        Some(SshAddress { user, host: place.unwrap_or_else(|| SshHost::Name(host.clone())), port })
    }

    /// What a host's secrets are encrypted to, if that is recorded.
    pub fn recipient(&self, host: &HostName) -> Option<&Recipient> {
        self.hosts.get(host)?.age.as_ref()
    }

    /// Whether the file says where a host is.
    pub fn has_address(&self, host: &HostName) -> bool {
        self.hosts.get(host).is_some_and(|host| host.age.is_none() || !host.ssh.is_empty())
    }

    /// Whether a directory at the top is no host's.
    pub fn ignores(&self, directory: &[u8]) -> bool {
        self.ignore.iter().any(|name| name.as_bytes() == directory)
    }

    fn check(&self) -> Result<(), JsonError> {
        let bad = |key: String, why: String| Err(JsonError { key: Some(key), why });
        for (host, SharedHost { ssh, age }) in &self.hosts {
            if host.as_str() == "all" {
                return bad("hosts.all".into(), "the name stands for all hosts".into());
            }
            if ssh.port == Some(0) {
                return bad(format!("hosts.{host}.ssh.port"), "the port is a number from 1 to 65535".into());
            }
            if age.as_ref().is_some_and(|age| !age.is_x25519()) {
                return bad(format!("hosts.{host}.age"), "the recipient of a host begins with 'age1'".into());
            }
        }
        for (at, name) in self.ignore.iter().enumerate() {
            let key = format!("ignore[{at}]");
            if name.is_empty() || name.contains('/') || name.chars().any(char::is_control) {
                return bad(key, "it is the name of a directory at the top of the tree, without a slash".into());
            }
            if let Some(host) = self.hosts.keys().find(|host| host.as_str() == name) {
                return bad(key, format!("'{host}' is one of 'hosts'"));
            }
            let mut groups = self.groups.iter();
            if let Some((group, _)) = groups.find(|(_, hosts)| hosts.iter().any(|host| host.as_str() == name)) {
                return bad(key, format!("'{name}' is a host of group '{group}'"));
            }
        }
        self.defaults.check()
    }
}

impl Defaults {
    fn is_empty(&self) -> bool {
        *self == Defaults::default()
    }

    /// Each as `git push -o` takes it.
    fn texts(&self) -> [(&'static str, Option<&String>); 3] {
        [("waves", self.waves.as_ref()), ("confirm", self.confirm.as_ref()), ("lock-wait", self.lock_wait.as_ref())]
    }

    fn check(&self) -> Result<(), JsonError> {
        let mut options = PushOptions::default();
        for (name, text) in self.texts().into_iter().filter_map(|(name, text)| Some((name, text?))) {
            options
                .set(format!("{name}={text}").as_bytes())
                .map_err(|error| JsonError { key: Some(format!("defaults.{name}")), why: error.to_string() })?;
        }
        Ok(())
    }

    /// What they come to as push options.
    fn parsed(&self) -> PushOptions {
        let mut options = PushOptions::default();
        for (name, text) in self.texts().into_iter().filter_map(|(name, text)| Some((name, text?))) {
            // They were checked when the file was read.
            let _ = options.set(format!("{name}={text}").as_bytes());
        }
        options
    }

    /// Fill in what an operator left open. How soon a host has to confirm depends on the host, too: see [`Self::confirm`].
    pub fn fill(&self, options: &Options) -> Options {
        let mut filled = options.clone();
        self.fill_push_options(&mut filled.push_options);
        let given = &options.push_options;
        if self.atomic == Some(true) && given.unreachable == Unreachable::Fails && !given.no_atomic {
            filled.atomicity = Atomicity::AllOrNothing;
        }
        filled
    }

    /// The same, of what `-o` can say.
    pub fn fill_push_options(&self, options: &mut PushOptions) {
        let PushOptions { waves, lock_wait, .. } = self.parsed();
        if options.waves == Waves::default() {
            options.waves = waves;
        }
        options.lock_wait = options.lock_wait.or(lock_wait);
    }

    /// How soon a host has to confirm.
    pub fn confirm(&self) -> Option<Confirm> {
        self.parsed().confirm
    }

    /// Whether one failure undoes the others.
    pub fn is_atomic(&self) -> bool {
        self.atomic == Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ClusterFile, String> {
        ClusterFile::parse(text.as_bytes()).map_err(|error| error.to_string())
    }

    fn name(text: &str) -> HostName {
        HostName::parse(text.as_bytes()).unwrap()
    }

    const ALL: &str = r#"{
        "hosts": {"web1": {"ssh": {"user": "root", "host": "192.0.2.1", "port": 2222}, "age": "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"}, "web2": {"ssh": {"host": "::1"}}, "web3": {}},
        "groups": {"Web": ["web1", "web2"]},
        "operators": {"anna": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN anna@laptop"]},
        "ignore": ["docs", "a b"],
        "defaults": {"atomic": true, "waves": "1,100%", "confirm": "45s", "lock-wait": "10s"}
    }"#;

    #[test]
    fn what_the_manual_shows_is_understood_and_written_again() {
        let file = parse(ALL).unwrap();
        assert_eq!(file.address(&name("web1")).unwrap().to_string(), "root@192.0.2.1:2222");
        assert_eq!(file.address(&name("web2")).unwrap().to_string(), "[::1]");
        assert_eq!(file.address(&name("web3")).unwrap().to_string(), "web3");
        assert_eq!(file.address(&name("web4")), None);
        assert!(file.ignores(b"docs") && !file.ignores(b"web1"));
        assert_eq!(parse(&file.to_text()), Ok(file));
        assert_eq!(parse("{}").unwrap().to_text(), "{}\n");
    }

    #[test]
    fn an_error_names_the_key() {
        for (text, expected) in [
            ("", "EOF while parsing"),
            ("[]", "invalid type: sequence, expected an object"),
            (r#"{"host": {}}"#, "host: unknown field `host`"),
            (r#"{"hosts": []}"#, "hosts: invalid type: sequence, expected an object"),
            (r#"{"hosts": {"web1": {}, "web1": {}}}"#, "hosts: 'web1' is named twice"),
            (r#"{"hosts": {"-x": {}}}"#, "hosts.-x: invalid host name '-x'"),
            (r#"{"hosts": {"all": {}}}"#, "hosts.all: the name stands for all hosts"),
            (r#"{"hosts": {"a": {"ssh": {"options": "-oProxyCommand=x"}}}}"#, "hosts.a.ssh.options: unknown field"),
            (r#"{"hosts": {"a": {"ssh": {"host": "-oProxyCommand=x"}}}}"#, "hosts.a.ssh.host: invalid host name"),
            (r#"{"hosts": {"a": {"ssh": {"user": "-l"}}}}"#, "hosts.a.ssh.user: the user may only have"),
            (r#"{"hosts": {"a": {"ssh": {"port": 0}}}}"#, "hosts.a.ssh.port: the port is a number"),
            (r#"{"hosts": {"a": {"ssh": {"port": "22"}}}}"#, "hosts.a.ssh.port: invalid type: string"),
            (r#"{"groups": {"a b": []}}"#, "groups.a b: a group has only letters"),
            (r#"{"groups": {"all": []}}"#, "groups.all: a group has only letters"),
            (r#"{"groups": {"Web": [], "web": []}}"#, "groups: 'web' is named twice"),
            (r#"{"groups": {"web": ["a/b"]}}"#, "groups.web[0]: invalid host name 'a/b'"),
            (r#"{"ignore": ["docs/x"]}"#, "ignore[0]: it is the name of a directory"),
            (r#"{"hosts": {"a": {}}, "ignore": ["b", "a"]}"#, "ignore[1]: 'a' is one of 'hosts'"),
            (r#"{"groups": {"g": ["a"]}, "ignore": ["a"]}"#, "ignore[0]: 'a' is a host of group 'g'"),
            (r#"{"defaults": {"waves": "x"}}"#, "defaults.waves: push option 'waves' is written as 'waves=1,25%,100%'"),
            (r#"{"defaults": {"confirm": "2h"}}"#, "defaults.confirm: push option 'confirm' is written as"),
            (r#"{"defaults": {"atomic": "yes"}}"#, "defaults.atomic: invalid type: string"),
            (r#"{"defaults": {"force": true}}"#, "defaults.force: unknown field"),
            (r#"{"hosts": {"a": {"age": "age1x"}}}"#, "hosts.a.age: the age recipient has a mistake in it"),
            (
                r#"{"hosts": {"a": {"age": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN"}}}"#,
                "hosts.a.age: the recipient of a host begins with 'age1'",
            ),
            (r#"{"operators": {"a b": []}}"#, "operators.a b: the name of an operator has"),
            (r#"{"operators": {"anna": "age1x"}}"#, "operators.anna: invalid type: string"),
            (r#"{"operators": {"anna": ["anna"]}}"#, "operators.anna[0]: a recipient is written as"),
            (r#"{"operators": {"anna": [], "anna": []}}"#, "operators: 'anna' is named twice"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn what_an_operator_says_wins() {
        let defaults = parse(ALL).unwrap().defaults;
        let with = |options: &[&str]| {
            let mut given = Options::default();
            options.iter().for_each(|option| given.push_options.set(option.as_bytes()).unwrap());
            defaults.fill(&given)
        };
        assert_eq!(with(&[]).atomicity, Atomicity::AllOrNothing);
        assert_eq!(with(&[]).push_options.waves.ends(9), [1, 9]);
        assert_eq!(with(&[]).push_options.lock_wait.unwrap().as_secs(), 10);
        assert_eq!(with(&["no-atomic"]).atomicity, Atomicity::PerHost);
        assert_eq!(with(&["skip-unreachable"]).atomicity, Atomicity::PerHost);
        assert_eq!(with(&["waves=100%"]).push_options.waves.ends(9), [9]);
        assert_eq!(with(&["lock-wait=0s"]).push_options.lock_wait.unwrap().as_secs(), 0);
        assert_eq!(defaults.confirm().unwrap().seconds(), Some(45));
    }

    #[test]
    fn the_schema_has_the_same_keys() {
        let schema: serde_json::Value =
            serde_json::from_str(include_str!("../../../man/deptool-cluster.schema.json")).unwrap();
        let keys = |value: &serde_json::Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
        let ours: serde_json::Value = serde_json::from_str(&parse(ALL).unwrap().to_text()).unwrap();
        assert_eq!(keys(&schema["properties"]), keys(&ours));
        let host = &schema["properties"]["hosts"]["additionalProperties"]["properties"];
        assert_eq!(keys(host), keys(&ours["hosts"]["web1"]));
        assert_eq!(keys(&host["ssh"]["properties"]), keys(&ours["hosts"]["web1"]["ssh"]));
        assert_eq!(keys(&schema["properties"]["defaults"]["properties"]), keys(&ours["defaults"]));
    }
}
