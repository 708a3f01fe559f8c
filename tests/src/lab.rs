//! Hosts with a real systemd and a real OpenSSH, in systemd-nspawn containers, on one computer.
//!
//! ```no_run
//! use deptool_tests::lab::{HostSpec, Lab};
//! let lab = Lab::start(&[HostSpec::new("web1"), HostSpec::new("web2")]).unwrap();
//! let web1 = lab.host("web1");
//! assert_eq!(web1.ssh(&["cat", "/etc/hostname"]).unwrap().ok().line(), "web1");
//! web1.reboot().unwrap();
//! ```
//!
//! - A host has systemd as process 1, sshd, sudo, nft, nginx and nsd (installed, not enabled), and neither Git nor
//!   Python. Users: `root`, `core` (sudo without a password), `asks` (sudo wants a password), `plain` (no sudo). One key opens
//!   them all. A login's processes are killed when it ends (KillUserProcesses=yes).
//! - ssh reaches a host by its name through [`Lab::ssh_command`]: put it into `GIT_SSH_COMMAND`.
//! - [`start_or_skip`] is what a test calls: it returns None, and says why, where the computer can't do it.
//! - When the value is dropped everything ends: processes by their ids, mounts, network links, files. What a killed test
//!   leaves behind is ended by the next lab that takes its slot.
//!
//! Labs don't meet: each holds a *slot* with a directory below [`CACHE`], a subnet 10.x.slot.0 and machine names of its
//! own. Traffic goes to these hosts only.

mod base;
mod disk;
mod host;
mod machine;
mod slot;
mod ssh;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

pub use base::Base;
pub use disk::State;
pub use host::Host;
pub use ssh::Link;

use crate::process::find_program;
use machine::Machine;
use slot::{MAX_HOSTS, Slot};
use ssh::{Peer, Ssh};

/// Where the bases are kept and the labs run.
pub const CACHE: &str = "/var/cache/deptool-lab";

/// The environment variable that makes tests go without a lab (`cargo xtask test --quick`).
pub const QUICK: &str = "DEPTOOL_TEST_QUICK";

/// Programs that the lab runs, and the Debian package that has each.
pub const NEEDS: &[(&str, &str)] = &[
    ("systemd-nspawn", "systemd-container"),
    ("debootstrap", "debootstrap"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("mkfs.ext4", "e2fsprogs"),
    ("wrk", "wrk"),
];

/// What a host is to be like.
#[derive(Debug, Clone, Default)]
pub struct HostSpec {
    pub name: String,
    pub base: Base,
    /// `/var` is mounted by systemd during boot, not there from the beginning.
    pub var_is_mount: bool,
    /// What `/var/lib/deptool` is.
    pub state: State,
}

impl HostSpec {
    /// A bookworm host with nothing special about it.
    pub fn new(name: &str) -> HostSpec {
        HostSpec { name: name.to_owned(), ..HostSpec::default() }
    }
}

/// Some hosts that run.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    ssh: Ssh,
    slot: Slot,
    keep: bool,
}

/// Why there can be no lab here; None if there can.
pub fn unavailable() -> Option<String> {
    if !cfg!(target_os = "linux") {
        return Some("the lab needs Linux".to_owned());
    }
    if !rustix::process::geteuid().is_root() {
        return Some("the lab needs root".to_owned());
    }
    if !may_administer() {
        return Some("the lab needs the capabilities to mount and to make network links".to_owned());
    }
    let missing: Vec<&str> = NEEDS.iter().filter(|(name, _)| find_program(name).is_none()).map(|need| need.1).collect();
    if !missing.is_empty() {
        return Some(format!("the lab needs programs: apt-get install {}", missing.join(" ")));
    }
    None
}

/// Root in a container often may not: CAP_SYS_ADMIN and CAP_NET_ADMIN of capabilities(7).
fn may_administer() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default().trim();
    let needed = 1 << 21 | 1 << 12;
    u64::from_str_radix(bits, 16).is_ok_and(|bits| bits & needed == needed)
}

/// A lab for a test. None, after saying `skipped: why`, where this computer can't have one; with `CI=true` that is a
/// failure. So is a lab that could be started but was not.
#[track_caller]
pub fn start_or_skip(specs: &[HostSpec]) -> Option<Lab> {
    if is_skipped(unavailable()) {
        return None;
    }
    Some(Lab::start(specs).unwrap_or_else(|error| panic!("{error:#}")))
}

/// Whether a test that can't be run here, and why, is to be skipped: says so. In CI that is a failure.
pub fn is_skipped(unavailable: Option<String>) -> bool {
    if std::env::var_os(QUICK).is_some() {
        skipped("only the quick tests were asked for");
        return true;
    }
    let Some(why) = unavailable else { return false };
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "skipped, which is a failure in CI: {why}");
    skipped(&why);
    true
}

/// Not with eprintln: what a test that passes prints is not shown.
fn skipped(why: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("skipped: {why}\n").as_bytes());
}

impl Lab {
    /// Makes the hosts and boots them, all at once. They are up when this returns.
    pub fn start(specs: &[HostSpec]) -> Result<Lab> {
        if let Some(why) = unavailable() {
            bail!(why);
        }
        ensure!(specs.len() <= MAX_HOSTS, "a lab has at most {MAX_HOSTS} hosts");
        for spec in specs {
            spec.base.ensure()?;
        }
        let slot = Slot::take()?;
        let ssh = Ssh::create(&slot.dir)?;
        // From here on, dropping it cleans up.
        let mut lab = Lab { hosts: Vec::new(), ssh, slot, keep: false };
        for (index, spec) in specs.iter().enumerate() {
            let machine = lab.machine(index, spec);
            std::fs::create_dir(&machine.dir)?;
            let host = Host::create(spec, machine, &lab.ssh);
            lab.hosts.push(host.with_context(|| format!("cannot make the host '{}'", spec.name))?);
        }
        lab.ssh_config(Link::Plain)?;
        lab.boot_all()?;
        Ok(lab)
    }

    /// The kept lab in a slot, with the hosts that it was started with.
    pub fn attach(number: u8, specs: &[HostSpec]) -> Result<Lab> {
        let slot = Slot::take_over(number)?;
        let ssh = Ssh::open(&slot.dir);
        let mut lab = Lab { hosts: Vec::new(), ssh, slot, keep: true };
        for (index, spec) in specs.iter().enumerate() {
            lab.hosts.push(Host::attach(spec, lab.machine(index, spec), &lab.ssh));
        }
        Ok(lab)
    }

    /// From here on the lab outlives this value and this process; [`Lab::attach`] finds it again.
    pub fn keep(&mut self) -> Result<u8> {
        self.slot.keep()?;
        self.keep = true;
        Ok(self.slot.number)
    }

    /// Ends a lab that was kept.
    pub fn end(mut self) {
        self.keep = false;
    }

    fn machine(&self, index: usize, spec: &HostSpec) -> Machine {
        let (our_ip, ip) = self.slot.addresses(index);
        Machine {
            name: self.slot.machine_name(index),
            hostname: spec.name.clone(),
            base: spec.base,
            dir: self.slot.dir.join(&spec.name),
            our_ip,
            ip,
        }
    }

    fn boot_all(&self) -> Result<()> {
        let booted: Vec<Result<()>> = std::thread::scope(|scope| {
            let boots: Vec<_> = self.hosts.iter().map(|host| scope.spawn(|| host.boot())).collect();
            let join =
                |boot: std::thread::ScopedJoinHandle<'_, Result<()>>| boot.join().expect("a boot does not panic");
            boots.into_iter().map(join).collect()
        });
        booted.into_iter().collect()
    }

    /// The host of that name. Panics if there is none.
    #[track_caller]
    pub fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).unwrap_or_else(|| panic!("the lab has no host '{name}'"))
    }

    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// A directory for a test's own files, removed with the lab.
    pub fn dir(&self) -> &Path {
        &self.slot.dir
    }

    /// An ssh configuration file in which the hosts have their names, to be used as `ssh -F FILE web1`.
    pub fn ssh_config(&self, link: Link) -> Result<PathBuf> {
        let peers: Vec<Peer<'_>> = self.hosts.iter().map(|host| Peer { name: &host.name, ip: &host.ip }).collect();
        self.ssh.write_config(link, &peers).context("cannot write the ssh configuration")
    }

    /// What to put into `GIT_SSH_COMMAND` so that the hosts are reached over that kind of link.
    pub fn ssh_command(&self, link: Link) -> Result<String> {
        Ok(format!("ssh -F {}", self.ssh_config(link)?.display()))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        std::thread::scope(|scope| {
            for host in &self.hosts {
                scope.spawn(|| host.kill());
            }
        });
        if let Err(error) = self.slot.clear() {
            eprintln!("lab: {error:#}");
        }
    }
}
