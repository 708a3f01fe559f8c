//! One host of a lab.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use anyhow::{Context as _, Result};
use rustix::process::Pid;

use super::HostSpec;
use super::disk;
use super::machine::{Machine, Running, enter};
use super::ssh::{Link, Ssh};
use crate::process::{Cmd, Run};

/// A machine with systemd and sshd, without Git and Python.
#[derive(Debug)]
pub struct Host {
    /// As given: the name for ssh, and what is in `/etc/hostname`.
    pub name: String,
    pub ip: String,
    /// Its root directory, seen from here, also while it is off. See [`Host::path`].
    pub root: PathBuf,
    /// For `ssh -F`; the same file for all hosts of the lab.
    pub ssh_config: PathBuf,
    spec: HostSpec,
    ssh: Ssh,
    machine: Machine,
    running: Mutex<Option<Running>>,
}

impl Host {
    /// Makes the host's root directory. It is not booted yet.
    pub(super) fn create(spec: &HostSpec, machine: Machine, ssh: &Ssh) -> Result<Host> {
        let root = machine.root();
        disk::create(spec, &spec.base.ensure()?, &machine.dir)?;
        std::fs::write(root.join("etc/hostname"), format!("{}\n", spec.name))?;
        // Without one, the first boot would apply presets and enable nginx and nsd.
        std::fs::write(root.join("etc/machine-id"), format!("{}\n", machine_id()?))?;
        std::fs::write(root.join("etc/hosts"), format!("127.0.0.1 localhost\n127.0.1.1 {}\n", spec.name))?;
        ssh.admit(&root)?;
        ssh.know(&spec.name, &root)?;
        Ok(Host::new(spec, machine, ssh, None))
    }

    /// A host that another process made and booted.
    pub(super) fn attach(spec: &HostSpec, machine: Machine, ssh: &Ssh) -> Host {
        let running = machine.attach().ok();
        Host::new(spec, machine, ssh, running)
    }

    fn new(spec: &HostSpec, machine: Machine, ssh: &Ssh, running: Option<Running>) -> Host {
        Host {
            name: spec.name.clone(),
            ip: machine.ip.clone(),
            root: machine.root(),
            ssh_config: ssh.config(Link::Plain),
            spec: spec.clone(),
            ssh: ssh.clone(),
            machine,
            running: Mutex::new(running),
        }
    }

    /// Runs a command over ssh, as root. The words are joined by spaces for the remote shell, as ssh does.
    pub fn ssh(&self, argv: &[&str]) -> Result<Run> {
        self.ssh_as("root", argv)
    }

    /// The same as another user: `core` (sudo without a password), `asks` (sudo wants one), `plain` (no sudo).
    pub fn ssh_as(&self, user: &str, argv: &[&str]) -> Result<Run> {
        self.ssh_command(Link::Plain, user, argv).run()
    }

    /// The command that does this, to be given an input, a time limit or another link.
    pub fn ssh_command(&self, link: Link, user: &str, argv: &[&str]) -> Cmd {
        self.ssh.command(link, user, &self.name, argv)
    }

    /// Runs a program on the host as root, from outside, without ssh. For checks that must not disturb what is tested.
    pub fn run_in(&self, argv: &[&str]) -> Result<Run> {
        self.command_in(argv)?.run()
    }

    /// The command that does this, to be given an input or a time limit.
    pub fn command_in(&self, argv: &[&str]) -> Result<Cmd> {
        Ok(enter(self.init()?, argv))
    }

    /// `run_in` with a shell's script. Panics if it fails; returns what it printed, without white space around it.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let run = self.run_in(&["sh", "-ec", script]);
        run.unwrap_or_else(|error| panic!("on '{}': {error:#}", self.name)).ok().line()
    }

    /// What systemd says of a unit: `active`, `inactive`, `failed`, …
    #[track_caller]
    pub fn unit_state(&self, unit: &str) -> String {
        self.unit_property(unit, "ActiveState")
    }

    /// `enabled`, `disabled`, `static`, …; empty for a unit that does not exist.
    #[track_caller]
    pub fn unit_file_state(&self, unit: &str) -> String {
        self.unit_property(unit, "UnitFileState")
    }

    /// One property of a unit, as `systemctl show` gives it.
    #[track_caller]
    pub fn unit_property(&self, unit: &str, property: &str) -> String {
        let run = self.run_in(&["systemctl", "show", "--value", "--property", property, unit]);
        run.unwrap_or_else(|error| panic!("on '{}': {error:#}", self.name)).ok().line()
    }

    /// Where a path of the host is, seen from here; right for a `/var` that is a mount of its own, too. An absolute link
    /// on the way would lead out of the host: read such files with [`Host::sh`].
    pub fn path(&self, path: &str) -> PathBuf {
        disk::host_path(&self.spec, &self.root, path)
    }

    /// Boots it; returns when ssh answers and the boot is over. Nothing happens if it is on.
    pub fn boot(&self) -> Result<()> {
        let mut running = self.lock();
        if running.is_none() {
            *running = Some(self.machine.boot()?);
        }
        Ok(())
    }

    /// An orderly shutdown.
    pub fn power_off(&self) {
        self.ssh.end_shared(&self.name);
        if let Some(running) = self.lock().take() {
            running.power_off(&self.machine);
        }
    }

    /// Ends every process of the host at once, as a power cut would. Files keep what was written (the kernel lives on).
    pub fn kill(&self) {
        self.ssh.end_shared(&self.name);
        if let Some(running) = self.lock().take() {
            running.kill(&self.machine);
        }
    }

    /// An orderly shutdown and a boot.
    pub fn reboot(&self) -> Result<()> {
        self.power_off();
        self.boot()
    }

    /// The container's process 1, seen from here. Its processes can be found below it in /proc.
    pub fn init(&self) -> Result<Pid> {
        let running = self.lock();
        running.as_ref().map(|running| running.init).with_context(|| format!("'{}' is off", self.name))
    }

    /// The last that it said on its console.
    pub fn console(&self) -> String {
        self.machine.console()
    }

    /// The directory that has the host's root, its console log and its disks.
    pub fn dir(&self) -> &Path {
        &self.machine.dir
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// 32 random hex digits.
fn machine_id() -> Result<String> {
    // A UUID without its dashes.
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().replace('-', ""))
}
