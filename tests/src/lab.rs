//! Hosts with a real systemd and a real OpenSSH, in systemd-nspawn containers on this computer.
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
//! - ssh reaches a host by its name through [`Lab::ssh_command`], which is meant for `GIT_SSH_COMMAND`.
//! - Tests call [`start_or_skip`]. If the computer can't run a lab, it says why and returns None.
//! - Dropping the value removes everything: processes by their ids, mounts, network links, files. If a test is killed,
//!   the next lab that takes its slot cleans up.
//!
//! Several labs can run at the same time. Each holds a *slot* with a directory in [`CACHE`], a subnet 10.x.slot.0, and
//! its own machine names. Network traffic goes to these hosts only.

mod base;
mod disk;
mod host;
mod machine;
mod slot;
mod ssh;
pub mod vm;

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

/// The directory for base systems and running labs.
pub const CACHE: &str = "/var/cache/deptool-lab";

/// Programs that the lab needs, with their Debian packages.
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

/// The properties of a host to start.
#[derive(Debug, Clone, Default)]
pub struct HostSpec {
    pub name: String,
    pub base: Base,
    /// systemd mounts `/var` during boot.
    pub var_is_mount: bool,
    /// What `/var/lib/deptool` is.
    pub state: State,
}

impl HostSpec {
    /// An ordinary bookworm host.
    pub fn new(name: &str) -> HostSpec {
        HostSpec { name: name.to_owned(), ..HostSpec::default() }
    }
}

/// Running hosts.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    ssh: Ssh,
    slot: Slot,
    keep: bool,
}

/// The reason why this computer can't run a lab; None if it can.
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

/// Whether this process has CAP_SYS_ADMIN and CAP_NET_ADMIN, which root in a container often lacks. See
/// capabilities(7).
fn may_administer() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default().trim();
    let needed = 1 << 21 | 1 << 12;
    u64::from_str_radix(bits, 16).is_ok_and(|bits| bits & needed == needed)
}

/// Starts a lab for a test. If this computer can't run one, it prints `skipped: why` and returns None; with `CI=true`
/// that is a failure. A lab that fails to start is always a failure.
#[track_caller]
pub fn start_or_skip(specs: &[HostSpec]) -> Option<Lab> {
    if is_skipped(unavailable()) {
        return None;
    }
    Some(Lab::start(specs).unwrap_or_else(|error| panic!("{error:#}")))
}

/// Whether to skip a test that can't run here for the given reason. Prints the reason. In CI, this is a failure.
pub fn is_skipped(unavailable: Option<String>) -> bool {
    if crate::is_quick() {
        return true;
    }
    let Some(why) = unavailable else { return false };
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "skipped, which is a failure in CI: {why}");
    crate::skipped(&why);
    true
}

impl Lab {
    /// Creates and boots the hosts in parallel. They are up when this returns.
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
        // From here on, dropping the lab cleans up.
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

    /// The lab that was kept in a slot, with its hosts.
    pub fn attach(number: u8, specs: &[HostSpec]) -> Result<Lab> {
        let slot = Slot::take_over(number)?;
        let ssh = Ssh::open(&slot.dir);
        let mut lab = Lab { hosts: Vec::new(), ssh, slot, keep: true };
        for (index, spec) in specs.iter().enumerate() {
            lab.hosts.push(Host::attach(spec, lab.machine(index, spec), &lab.ssh));
        }
        Ok(lab)
    }

    /// Keeps the lab running when this value is dropped and this process exits. [`Lab::attach`] finds it again.
    pub fn keep(&mut self) -> Result<u8> {
        self.slot.keep()?;
        self.keep = true;
        Ok(self.slot.number)
    }

    /// Stops a lab that was kept.
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
        let peers: Vec<Peer<'_>> =
            self.hosts.iter().map(|host| Peer { name: &host.name, ip: &host.ip, port: 22 }).collect();
        self.ssh.write_config(link, &peers).context("cannot write the ssh configuration")
    }

    /// The value of `GIT_SSH_COMMAND` that reaches the hosts over that kind of link.
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
