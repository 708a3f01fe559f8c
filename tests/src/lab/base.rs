//! The root file systems that hosts start with. They are built once, kept in the cache, and never modified.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::CACHE;
use super::slot::Lock;
use crate::process::{Cmd, find_program};

const RECIPE: &str = include_str!("base.sh");
/// Copies the first directory to the second, and adds packages.
const ADD: &str = "set -e; cp -a \"$1\" \"$2\"; dir=$2; shift 2; export DEBIAN_FRONTEND=noninteractive; \
    chroot \"$dir\" apt-get -q update; chroot \"$dir\" apt-get -q -y --no-install-recommends install \"$@\"; \
    rm -rf \"$dir\"/var/lib/apt/lists/*";
const PACKAGES: &str = "systemd,systemd-sysv,dbus,libpam-systemd,openssh-server,sudo,iproute2,nftables,nginx-light,nsd";
/// Besides PostgreSQL: an ACME client with a server to try it with, and what monitors.
const SERVERS: &str = "bind9-dnsutils,postgresql-15,lego,pebble,prometheus,prometheus-node-exporter";

/// The distribution of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Base {
    /// Debian 12: systemd 252, no quadlets, no Type=notify-reload. Both bases have libpam-systemd and
    /// KillUserProcesses=yes.
    #[default]
    Bookworm,
    /// Debian 13: systemd 257, with podman (quadlets) and its name server.
    Trixie,
    /// Bookworm with the servers of the examples, and their clients.
    Servers,
    /// Bookworm with Python, only for a comparison with tools that need it on hosts.
    Python,
    /// Bookworm with more servers that people set up by hand: postfix, which runs, and WireGuard's tools.
    ByHand,
}

impl Base {
    pub fn suite(self) -> &'static str {
        match self {
            Base::Bookworm | Base::Servers | Base::Python | Base::ByHand => "bookworm",
            Base::Trixie => "trixie",
        }
    }

    fn packages(self) -> String {
        match self {
            Base::Bookworm => PACKAGES.to_owned(),
            Base::Trixie => format!("{PACKAGES},podman,aardvark-dns"),
            Base::Servers => format!("{PACKAGES},{SERVERS}"),
            Base::Python | Base::ByHand => format!("{PACKAGES},{}", self.added().join(",")),
        }
    }

    /// What it has on top of [`Base::Bookworm`], if it is made from that.
    fn added(self) -> &'static [&'static str] {
        match self {
            Base::Python => &["python3"],
            Base::ByHand => &["postfix", "wireguard-tools"],
            Base::Bookworm | Base::Trixie | Base::Servers => &[],
        }
    }

    /// The path of its cached root file system, which may not exist yet.
    pub fn dir(self) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        (RECIPE, self.packages()).hash(&mut hasher);
        Path::new(CACHE).join(format!("{}-{:08x}", self.suite(), hasher.finish() >> 32))
    }

    /// The cached root file system. It is built if it does not exist (one or two minutes, about 250 MB).
    pub fn ensure(self) -> Result<PathBuf> {
        let dir = self.dir();
        if dir.exists() {
            return Ok(dir);
        }
        if !self.added().is_empty() {
            Base::Bookworm.ensure()?;
        }
        std::fs::create_dir_all(CACHE).with_context(|| format!("cannot create {CACHE}"))?;
        let _lock = Lock::wait_for(&Path::new(CACHE).join(format!("{}.lock", self.suite())))?;
        // Another process may have built it while we waited.
        if !dir.exists() {
            self.build(&dir)?;
        }
        Ok(dir)
    }

    fn build(self, dir: &Path) -> Result<()> {
        if find_program("debootstrap").is_none() {
            bail!("debootstrap is missing (apt-get install debootstrap)");
        }
        eprintln!("lab: building the {} base in {}, once", self.suite(), dir.display());
        let temporary = dir.with_extension("tmp");
        if temporary.exists() {
            std::fs::remove_dir_all(&temporary)?;
        }
        let shell = Cmd::new("sh").timeout(Duration::from_secs(1200));
        let build = match self {
            Base::Python | Base::ByHand => {
                let add = shell.args(["-c", ADD, "add"]).arg(Base::Bookworm.dir()).arg(&temporary);
                add.args(self.added().iter().copied())
            }
            Base::Bookworm | Base::Trixie | Base::Servers => {
                let recipe = shell.args(["-c", RECIPE, "base.sh", self.suite(), &mirror()?]);
                recipe.arg(&temporary).arg(self.packages())
            }
        };
        through_proxy(build).check().with_context(|| format!("cannot build the {} base", self.suite()))?;
        std::fs::rename(&temporary, dir)?;
        Ok(())
    }
}

/// The Debian mirror that this machine's own apt uses.
fn mirror() -> Result<String> {
    let format = "$(REPO_URI) $(LABEL)";
    let sources = Cmd::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]).check()?;
    let debian = |line: &str| {
        let (uri, label) = line.split_once(' ')?;
        // Ubuntu and others have labels of their own; a private mirror may have any label.
        (label == "Debian" || uri.trim_end_matches('/').ends_with("/debian")).then(|| uri.to_owned())
    };
    let found = sources.stdout().lines().find_map(debian);
    found.context("apt knows no Debian mirror to make a base from (apt-get update fetches its lists)")
}

/// Makes a command that downloads packages use the proxy of this machine's own apt, if that has one.
pub fn through_proxy(command: Cmd) -> Cmd {
    match apt_proxy() {
        Some(proxy) => command.env("http_proxy", proxy),
        None => command,
    }
}

fn apt_proxy() -> Option<String> {
    let run = Cmd::new("apt-config").args(["shell", "P", "Acquire::http::Proxy"]).run().ok()?;
    let value = run.stdout().trim().strip_prefix("P=")?.trim_matches('\'').to_owned();
    (!value.is_empty() && value != "DIRECT").then_some(value)
}
