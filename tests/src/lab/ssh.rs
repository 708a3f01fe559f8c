//! Keys and configuration of ssh for one lab. The user's own are neither read nor written.

use std::fmt::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::process::Cmd;

/// The files of one lab.
#[derive(Debug, Clone)]
pub struct Ssh {
    dir: PathBuf,
}

/// The kind of connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// A new connection each time.
    Plain,
    /// ControlMaster: the first connection is shared and kept for a minute.
    Shared,
    /// Every chunk is delayed by this much, in each direction.
    Delayed(Duration),
    /// Both: a distant host with an open connection.
    SharedDelayed(Duration),
}

/// What ssh's configuration needs to know about a host.
pub struct Peer<'a> {
    pub name: &'a str,
    pub ip: &'a str,
    pub port: u16,
}

impl Ssh {
    /// Creates the key that every host of the lab accepts.
    pub fn create(lab_dir: &Path) -> Result<Ssh> {
        let dir = lab_dir.join("ssh");
        std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        let ssh = Ssh { dir };
        keygen(&ssh.key())?;
        Ok(ssh)
    }

    pub fn open(lab_dir: &Path) -> Ssh {
        Ssh { dir: lab_dir.join("ssh") }
    }

    fn key(&self) -> PathBuf {
        self.dir.join("key")
    }

    /// Gives a host a key of its own, and authorises ours for every user.
    pub fn admit(&self, root: &Path) -> Result<()> {
        keygen(&root.join("etc/ssh/ssh_host_ed25519_key"))?;
        let public = std::fs::read(self.dir.join("key.pub"))?;
        for home in ["root", "home/core", "home/asks", "home/plain"] {
            let home = root.join(home);
            let dir = home.join(".ssh");
            std::fs::DirBuilder::new().mode(0o700).recursive(true).create(&dir)?;
            let file = dir.join("authorized_keys");
            std::fs::write(&file, &public)?;
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
            let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&home)?);
            for path in [&dir, &file] {
                std::os::unix::fs::chown(path, Some(owner), Some(owner))?;
            }
        }
        Ok(())
    }

    /// Adds the host's key to known_hosts, as if it had been accepted before.
    pub fn know(&self, name: &str, root: &Path) -> Result<()> {
        let public = std::fs::read_to_string(root.join("etc/ssh/ssh_host_ed25519_key.pub"))?;
        let mut words = public.split_whitespace();
        let (kind, key) = (words.next().context("empty host key")?, words.next().context("empty host key")?);
        let file = self.dir.join("known_hosts");
        let mut known = std::fs::read_to_string(&file).unwrap_or_default();
        writeln!(known, "{name} {kind} {key}")?;
        Ok(std::fs::write(file, known)?)
    }

    /// The configuration file for a kind of link.
    pub fn config(&self, link: Link) -> PathBuf {
        self.dir.join(match link {
            Link::Plain => "config".to_owned(),
            Link::Shared => "config.shared".to_owned(),
            Link::Delayed(delay) => format!("config.delayed-{}", delay.as_millis()),
            Link::SharedDelayed(delay) => format!("config.shared-delayed-{}", delay.as_millis()),
        })
    }

    /// Writes the configuration file for a kind of link and returns its path.
    pub fn write_config(&self, link: Link, peers: &[Peer<'_>]) -> Result<PathBuf> {
        let mut text = String::new();
        for peer in peers {
            writeln!(
                text,
                "Host {}\n    HostName {}\n    Port {}\n    HostKeyAlias {}\n    User root",
                peer.name, peer.ip, peer.port, peer.name
            )?;
        }
        writeln!(text, "Host *\n    IdentityFile {}\n    IdentitiesOnly yes", self.key().display())?;
        writeln!(text, "    UserKnownHostsFile {}", self.dir.join("known_hosts").display())?;
        text.push_str("    GlobalKnownHostsFile none\n    StrictHostKeyChecking yes\n    BatchMode yes\n");
        // Most systems have the last line in their ssh_config.
        text.push_str("    ConnectTimeout 10\n    LogLevel ERROR\n    SendEnv LANG LC_*\n");
        // Connections over different links must not share a socket.
        let (socket, delay) = match link {
            Link::Plain => (None, None),
            Link::Shared => (Some(self.dir.join("%C")), None),
            Link::Delayed(delay) => (None, Some(delay)),
            Link::SharedDelayed(delay) => (Some(self.dir.join("far-%C")), Some(delay)),
        };
        if let Some(socket) = socket {
            writeln!(text, "    ControlMaster auto\n    ControlPersist 60\n    ControlPath {}", socket.display())?;
        }
        if let Some(delay) = delay {
            let relay = crate::build::xtask()?;
            writeln!(text, "    ProxyCommand {} relay --delay-ms {} %h %p", relay.display(), delay.as_millis())?;
        }
        let file = self.config(link);
        std::fs::write(&file, text)?;
        Ok(file)
    }

    /// A command over ssh.
    pub fn command(&self, link: Link, user: &str, host: &str, argv: &[&str]) -> Cmd {
        Cmd::new("ssh").arg("-F").arg(self.config(link)).args(["-l", user, host, "--"]).args(argv)
    }

    /// Closes the shared connection to a host, if there is one.
    pub fn end_shared(&self, host: &str) {
        let config = self.config(Link::Shared);
        if config.exists() {
            let _ = Cmd::new("ssh").arg("-F").arg(config).args(["-O", "exit", host]).run();
        }
    }
}

fn keygen(file: &Path) -> Result<()> {
    Cmd::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f"]).arg(file).check()?;
    Ok(())
}
