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
    /// The name for ssh, which is also in `/etc/hostname`.
    pub name: String,
    pub ip: String,
    /// Its root directory on this computer, even while it is off. See [`Host::path`].
    pub root: PathBuf,
    /// For `ssh -F`; the same file for all hosts of the lab.
    pub ssh_config: PathBuf,
    spec: HostSpec,
    ssh: Ssh,
    machine: Machine,
    running: Mutex<Option<Running>>,
}

impl Host {
    /// Creates the host's root directory, but does not boot it.
    pub(super) fn create(spec: &HostSpec, machine: Machine, ssh: &Ssh) -> Result<Host> {
        let root = machine.root();
        disk::create(spec, &spec.base.ensure()?, &machine.dir)?;
        name(&root, &spec.name)?;
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

    /// The same as another user: `core` (sudo without a password), `asks` (sudo with a password), `plain` (no sudo).
    pub fn ssh_as(&self, user: &str, argv: &[&str]) -> Result<Run> {
        self.ssh_command(Link::Plain, user, argv).run()
    }

    /// The command for that, so that the caller can add an input, a time limit or another link.
    pub fn ssh_command(&self, link: Link, user: &str, argv: &[&str]) -> Cmd {
        self.ssh.command(link, user, &self.name, argv)
    }

    /// Runs a program on the host as root, without ssh. This is for checks that must not interfere with the test.
    pub fn run_in(&self, argv: &[&str]) -> Result<Run> {
        self.command_in(argv)?.run()
    }

    /// The command for that, so that the caller can add an input or a time limit.
    pub fn command_in(&self, argv: &[&str]) -> Result<Cmd> {
        Ok(enter(self.init()?, argv))
    }

    /// Runs a shell script like `run_in`. Panics if it fails; returns its trimmed output.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let run = self.run_in(&["sh", "-ec", script]);
        run.unwrap_or_else(|error| panic!("on '{}': {error:#}", self.name)).ok().line()
    }

    /// The active state of a unit: `active`, `inactive`, `failed`, …
    #[track_caller]
    pub fn unit_state(&self, unit: &str) -> String {
        self.unit_property(unit, "ActiveState")
    }

    /// The enablement of a unit: `enabled`, `disabled`, `static`, …; empty if it does not exist.
    #[track_caller]
    pub fn unit_file_state(&self, unit: &str) -> String {
        self.unit_property(unit, "UnitFileState")
    }

    /// A property of a unit, as `systemctl show` prints it.
    #[track_caller]
    pub fn unit_property(&self, unit: &str, property: &str) -> String {
        let run = self.run_in(&["systemctl", "show", "--value", "--property", property, unit]);
        run.unwrap_or_else(|error| panic!("on '{}': {error:#}", self.name)).ok().line()
    }

    /// The path on this computer of a path on the host, even if `/var` is a separate mount. An absolute symlink on the
    /// way would lead out of the host; use [`Host::sh`] to read such files.
    pub fn path(&self, path: &str) -> PathBuf {
        disk::host_path(&self.spec, &self.root, path)
    }

    /// Boots it, and returns when ssh answers and the boot is complete. Does nothing if it is on.
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

    /// Kills every process of the host at once, as a power failure would. Unlike then, written data is not lost, since
    /// the kernel keeps running.
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

    /// The process id of the container's process 1 on this computer. The host's processes are its descendants in /proc.
    pub fn init(&self) -> Result<Pid> {
        let running = self.lock();
        running.as_ref().map(|running| running.init).with_context(|| format!("'{}' is off", self.name))
    }

    /// The last lines of its console.
    pub fn console(&self) -> String {
        self.machine.console()
    }

    /// The directory with the host's root, its console log and its disks.
    pub fn dir(&self) -> &Path {
        &self.machine.dir
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Gives a host that was not booted yet its name and its identity.
pub fn name(root: &Path, name: &str) -> Result<()> {
    std::fs::write(root.join("etc/hostname"), format!("{name}\n"))?;
    // Without a machine id, the first boot would apply presets and enable nginx and nsd.
    std::fs::write(root.join("etc/machine-id"), format!("{}\n", machine_id()?))?;
    Ok(std::fs::write(root.join("etc/hosts"), format!("127.0.0.1 localhost\n127.0.1.1 {name}\n"))?)
}

/// 32 random hex digits.
fn machine_id() -> Result<String> {
    // A UUID without its dashes.
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().replace('-', ""))
}
