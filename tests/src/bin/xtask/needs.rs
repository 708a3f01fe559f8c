//! The programs that a task needs. They are installed if possible; otherwise the error names them.

use anyhow::{Result, bail};
use deptool_tests::lab::{self, vm};
use deptool_tests::process::{Cmd, find_program};
use deptool_tests::site;
use deptool_tests::sweep::disk;

/// A program and the Debian package that has it.
type Need = (&'static str, &'static str);

/// A C compiler is not in the list: without one, this program could not have been linked.
const TO_BUILD: &[Need] = &[("git", "git")];
const TO_RELEASE: &[Need] = &[("dpkg-deb", "dpkg"), ("rpmbuild", "rpm"), ("qemu-aarch64-static", "qemu-user-static")];
const TO_TEST: &[Need] = &[
    ("ssh", "openssh-client"),
    ("busybox", "busybox"),
    ("dash", "dash"),
    ("jq", "jq"),
    ("man", "man-db"),
    ("rpmbuild", "rpm"),
    ("script", "bsdutils"),
    ("qemu-aarch64-static", "qemu-user-static"),
];

/// Login shells that a host may have.
const SHELLS: &[Need] = &[("fish", "fish"), ("tcsh", "tcsh"), ("zsh", "zsh"), ("mksh", "mksh")];

/// What a build needs. The error names what is missing.
pub fn to_build() -> Result<()> {
    require(TO_BUILD)
}

/// What a release needs.
pub fn to_release() -> Result<()> {
    to_build()?;
    require(TO_RELEASE)?;
    if find_program("cargo-zigbuild").is_none() {
        bail!("missing: cargo-zigbuild and zig (pip install cargo-zigbuild ziglang)");
    }
    Ok(())
}

/// What the tests need. If the lab's programs can't be installed, its tests are skipped with a message.
pub fn to_test() -> Result<()> {
    to_build()?;
    require(TO_TEST)?;
    require(site::NEEDS)?;
    provide(disk::NEEDS)?;
    provide(lab::NEEDS)?;
    if let Err(error) = provide(SHELLS) {
        eprintln!("warning: only some login shells are tested: {error:#}");
    }
    if let Err(error) = provide(vm::NEEDS) {
        eprintln!("warning: the tests on a virtual machine are skipped: {error:#}");
    }
    Ok(())
}

/// What tests need with the agent for another processor.
pub fn to_emulate_agents() -> Result<()> {
    to_build()?;
    require(TO_TEST)
}

/// What a virtual machine of the lab needs.
pub fn to_emulate() -> Result<()> {
    to_build()?;
    require(lab::NEEDS)?;
    require(vm::NEEDS)
}

/// What the website needs.
pub fn to_make_site() -> Result<()> {
    require(site::NEEDS)
}

/// What a sweep needs, including tools to make and mount file systems.
pub fn to_sweep() -> Result<()> {
    to_build()?;
    provide(disk::NEEDS)?;
    disk::unable().map_or(Ok(()), |why| bail!(why))
}

/// As [`provide`], but what is still missing is an error.
fn require(needs: &[Need]) -> Result<()> {
    let missing = provide(needs)?;
    if !missing.is_empty() {
        bail!("missing: {0} (on Debian: apt-get install {0})", missing.join(" "));
    }
    Ok(())
}

/// Installs what is missing, if we are root on Debian. Returns the packages that are still missing.
fn provide(needs: &[Need]) -> Result<Vec<&'static str>> {
    let packages = missing(needs);
    let can_install = rustix::process::geteuid().is_root() && find_program("apt-get").is_some();
    if packages.is_empty() || !can_install {
        return Ok(packages);
    }
    eprintln!("apt-get install {}", packages.join(" "));
    apt(&["update", "-q"])?;
    apt(&[["install", "-q", "-y", "--no-install-recommends"].as_slice(), &packages].concat())?;
    Ok(missing(needs))
}

fn apt(args: &[&str]) -> Result<()> {
    Cmd::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive").inherit()
}

fn missing(needs: &[Need]) -> Vec<&'static str> {
    let mut packages: Vec<_> =
        needs.iter().filter(|(name, _)| find_program(name).is_none()).map(|need| need.1).collect();
    packages.dedup();
    packages
}
