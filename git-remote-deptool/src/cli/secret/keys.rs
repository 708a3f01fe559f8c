//! Who a secret is encrypted to, and the operator's own keys.

use std::{
    fs::File,
    io::{self, Read as _},
    path::PathBuf,
};

use age::secrecy::SecretString;
use deptool_agent::shared::{name::HostName, text::printable};
use gix::bstr::ByteSlice as _;
use zeroize::Zeroizing;

use super::{
    super::{CliError, cluster_json, prompt::Terminal},
    place::{Place, WorkTree},
};
use crate::{
    config::{Settings, cluster_file::ClusterFile},
    fleet::remote::Remote,
    repo::Repo,
    secrets::{
        age_file,
        identity::{self, Identity},
        recipient::Recipient,
    },
};

/// The setting for files with private keys.
const SETTING: &str = "deptool.identity";
/// Without it, these are used if they are there.
const DEFAULTS: [&str; 2] = [".ssh/id_ed25519", ".ssh/id_rsa"];

/// The recipients in `cluster.json` of the work tree.
pub(super) struct Recipients {
    file: ClusterFile,
    /// The settings, with that file.
    pub settings: Settings,
}

/// A recipient, and whose it is.
pub(super) struct Named {
    pub name: String,
    pub recipient: Recipient,
}

impl Recipients {
    pub fn read(remote: &Remote) -> Result<Recipients, CliError> {
        let file = cluster_json::read(&remote.repo)?;
        let settings = remote.settings.with(Some(file.clone()));
        Ok(Recipients { file, settings })
    }

    /// The recipients of all operators. Without any, nobody could ever open a secret again.
    pub fn operators(&self, identities: &[Identity]) -> Result<Vec<Named>, CliError> {
        let named = self.file.operators.iter().flat_map(|(name, recipients)| {
            recipients.iter().map(|recipient| Named { name: name.to_string(), recipient: recipient.clone() })
        });
        let operators: Vec<Named> = named.collect();
        if operators.is_empty() {
            let own = identities.iter().find_map(Identity::recipient);
            let own = own.map_or("ssh-ed25519 AAAA...".into(), |own| own.to_string());
            return Err(CliError::Text(format!(
                "cluster.json has no operators, so nobody could open the secret again; add yourself: \
                 \"operators\": {{\"<name>\": [\"{own}\"]}}"
            )));
        }
        Ok(operators)
    }

    /// What the host's secrets are encrypted to, if that is recorded.
    pub fn host(&self, host: &HostName) -> Option<&Recipient> {
        self.file.recipient(host)
    }
}

/// Encrypt a secret to its host and to all operators.
pub(super) fn encrypt(plain: &[u8], host: &Recipient, operators: &[Named]) -> Result<Vec<u8>, CliError> {
    let all = std::iter::once(host).chain(operators.iter().map(|named| &named.recipient));
    age_file::encrypt(plain, unique(all).into_iter().map(Recipient::key))
        .map_err(|error| CliError::Text(format!("could not encrypt: {error}")))
}

/// Each recipient once.
pub(super) fn unique<'a>(all: impl Iterator<Item = &'a Recipient>) -> Vec<&'a Recipient> {
    let mut unique: Vec<&Recipient> = Vec::new();
    for recipient in all {
        if !unique.contains(&recipient) {
            unique.push(recipient);
        }
    }
    unique
}

/// Each name once, in order.
pub(super) fn names(host: &HostName, operators: &[Named]) -> Vec<String> {
    let mut names = vec![host.to_string()];
    for named in operators {
        if !names.contains(&named.name) {
            names.push(named.name.clone());
        }
    }
    names
}

/// The operator's own keys.
pub(super) struct Keys {
    pub identities: Vec<Identity>,
}

impl Keys {
    /// The keys in the files of `deptool.identity`, else in the usual files of ssh.
    pub fn load(repo: &Repo) -> Result<Keys, CliError> {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let configured = repo.gix().config_snapshot().plumbing().strings(SETTING).unwrap_or_default();
        let mut identities = Vec::new();
        for path in &configured {
            let expanded = match (path.strip_prefix(b"~/"), &home) {
                (Some(rest), Some(home)) => home.join(rest.as_bstr().to_path_lossy()),
                (Some(_) | None, _) => repo.top().join(path.to_path_lossy()),
            };
            let shown = printable(path);
            let bytes = read(&expanded).map_err(|error| CliError::Text(format!("{SETTING}: '{shown}': {error}")))?;
            identities.extend(Identity::parse(&shown, &bytes).map_err(|error| CliError::Text(error.to_string()))?);
        }
        if configured.is_empty() {
            for file in DEFAULTS {
                let Some(Ok(bytes)) = home.as_ref().map(|home| read(&home.join(file))) else { continue };
                // A key of another kind was not meant for this.
                identities.extend(Identity::parse(&format!("~/{file}"), &bytes).unwrap_or_default());
            }
        }
        Ok(Keys { identities })
    }

    /// The plain text of a secret.
    pub fn open(&self, remote: &Remote, tree: &WorkTree, place: &Place) -> Result<Zeroizing<Vec<u8>>, CliError> {
        if self.identities.is_empty() {
            return Err(CliError::Text(format!(
                "there is no key to open secrets with: neither ~/{} nor ~/{}; set {SETTING} to a file with one",
                DEFAULTS[0], DEFAULTS[1]
            )));
        }
        let file = tree.read(place)?;
        if file.starts_with(age_file::ARMOR) {
            return Err(CliError::Text(format!("'{place}' is ASCII-armored: only binary age files are supported")));
        }
        let ask = |name: &str| {
            let mut terminal = Terminal::open()?;
            let question = format!("passphrase of '{name}': ");
            let answer = terminal.ask_hidden(&question, &remote.connector.interrupted).ok().flatten();
            answer.map(SecretString::from)
        };
        identity::decrypt(&self.identities, &file, &ask)
            .map_err(|error| CliError::Text(format!("could not open '{place}': {error}")))
    }
}

fn read(path: &std::path::Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(path)?.take(identity::MAX_SIZE).read_to_end(&mut bytes)?;
    Ok(bytes)
}
