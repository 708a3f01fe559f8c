//! `cargo xtask lab`: hosts that stay up, to play with.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use deptool_tests::build;
use deptool_tests::lab::vm::{Kind, NAME, Vm};
use deptool_tests::lab::{Base, HostSpec, Lab, Link};

use crate::needs;

/// The file `target/lab` contains the lab's slot, then a line for each host.
struct Kept {
    slot: u8,
    specs: Vec<HostSpec>,
}

pub fn up(args: &[&str]) -> Result<()> {
    if state_file()?.exists() {
        bail!("the lab is up already; 'cargo xtask lab down' ends it");
    }
    let base = if args.contains(&"--trixie") { Base::Trixie } else { Base::Bookworm };
    let names: Vec<&str> = args.iter().copied().filter(|arg| *arg != "--trixie").collect();
    if let Some(name) = names.iter().find(|name| name.starts_with('-')) {
        bail!("no such option: '{name}'");
    }
    needs::to_test()?;
    let names = if names.is_empty() { vec!["web1", "web2"] } else { names };
    let specs: Vec<HostSpec> = names.iter().map(|name| HostSpec { base, ..HostSpec::new(name) }).collect();
    let mut lab = Lab::start(&specs)?;
    lab.ssh_config(Link::Shared)?;
    let kept = Kept { slot: lab.keep()?, specs };
    kept.save()?;
    println!("export GIT_SSH_COMMAND='{}'", lab.ssh_command(Link::Plain)?);
    println!("# shared connections: {}", lab.ssh_command(Link::Shared)?);
    for host in lab.hosts() {
        println!("# {} is {}: cargo xtask lab ssh {0}", host.name, host.ip);
    }
    Ok(())
}

pub fn down() -> Result<()> {
    let kept = Kept::load()?;
    Lab::attach(kept.slot, &kept.specs)?.end();
    Ok(std::fs::remove_file(state_file()?)?)
}

/// Replaces this process with ssh.
pub fn ssh(host: &str, command: &[&str]) -> Result<()> {
    let kept = Kept::load()?;
    let config = Lab::attach(kept.slot, &kept.specs)?.ssh_config(Link::Plain)?;
    let error = Command::new("ssh").arg("-F").arg(config).arg(host).args(command).exec();
    Err(error).context("cannot start ssh")
}

/// A shell on a virtual machine.
pub fn vm(kind: Kind) -> Result<()> {
    needs::to_emulate()?;
    let vm = Vm::start(kind)?;
    println!("export GIT_SSH_COMMAND='{}'; git remote add {NAME} deptool::{NAME}", vm.ssh_command());
    // The status of the shell is that of its last command.
    let _ = Command::new("ssh").arg("-F").arg(vm.ssh_config()).arg(NAME).status().context("cannot start ssh")?;
    Ok(())
}

impl Kept {
    fn save(&self) -> Result<()> {
        let mut text = format!("{}\n", self.slot);
        for spec in &self.specs {
            text += &format!("{} {}\n", spec.base.suite(), spec.name);
        }
        let file = state_file()?;
        std::fs::create_dir_all(file.parent().context("no directory")?)?;
        Ok(std::fs::write(file, text)?)
    }

    fn load() -> Result<Kept> {
        let text =
            std::fs::read_to_string(state_file()?).context("there is no lab; 'cargo xtask lab up' starts one")?;
        let mut lines = text.lines();
        let slot = lines.next().unwrap_or_default().parse().context("not a lab's state")?;
        let mut specs = Vec::new();
        for line in lines {
            let (suite, name) = line.split_once(' ').context("not a lab's state")?;
            let base = if suite == Base::Trixie.suite() { Base::Trixie } else { Base::Bookworm };
            specs.push(HostSpec { base, ..HostSpec::new(name) });
        }
        Ok(Kept { slot, specs })
    }
}

fn state_file() -> Result<PathBuf> {
    Ok(build::target_dir()?.join("lab/hosts"))
}
