//! The units that run at boot: one recovers, and exists only while a deployment is under way; one makes secrets, and exists
//! while the host has any; one labels files, and exists on hosts with SELinux.
//!
//! A machine that goes down during a deployment must recover even if no operator connects. The unit runs as early as files
//! can be restored, so that services start with the right configuration.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::{Path, PathBuf},
};

use crate::{
    host::state::{
        durable,
        error::{Context, HostError},
        layout::Home,
    },
    shared::path::STATE_DIR,
};

const RECOVERY: &str = "deptool-recover.service";
const SECRETS: &str = "deptool-secrets.service";
const LABELS: &str = "deptool-labels.service";
/// The argument with which all units run the agent. It does all that is to be done at boot.
pub const RECOVER: &str = "recover";

/// Install the unit that recovers. Returns the paths to sync.
pub fn install(home: &Home) -> Result<Vec<PathBuf>, HostError> {
    install_unit(home, RECOVERY, recovery)
}

/// Install the unit that makes secrets. Returns the paths to sync: none if it was there.
pub fn install_for_secrets(home: &Home) -> Result<Vec<PathBuf>, HostError> {
    install_once(home, SECRETS, secrets)
}

/// Install the unit that labels. Returns the paths to sync: none if it was there.
pub fn install_for_labels(home: &Home) -> Result<Vec<PathBuf>, HostError> {
    install_once(home, LABELS, labels)
}

fn install_once(home: &Home, unit: &'static str, text: fn(&Path) -> String) -> Result<Vec<PathBuf>, HostError> {
    let Some(places) = Places::of(home, unit) else { return Ok(Vec::new()) };
    let is_there = fs::read(&places.unit).is_ok_and(|bytes| own_path().is_ok_and(|own| bytes == text(&own).as_bytes()));
    if is_there && places.link.is_symlink() { Ok(Vec::new()) } else { install_unit(home, unit, text) }
}

fn own_path() -> Result<PathBuf, HostError> {
    fs::read_link("/proc/self/exe").during("read", Path::new("/proc/self/exe"))
}

fn install_unit(home: &Home, unit: &'static str, text: fn(&Path) -> String) -> Result<Vec<PathBuf>, HostError> {
    let Some(places) = Places::of(home, unit) else { return Ok(Vec::new()) };
    let agent = own_path()?;
    fs::create_dir_all(&places.wants).during("create", &places.wants)?;
    durable::remove(&places.link)?;
    let mut file = File::create(&places.unit).during("create", &places.unit)?;
    file.write_all(text(&agent).as_bytes()).during("write", &places.unit)?;
    symlink(format!("../{unit}"), &places.link).during("make", &places.link)?;
    Ok(vec![places.unit, places.link])
}

/// Remove the unit that recovers. If a power cut undoes the removal, the unit runs at boot, finds nothing to recover and
/// removes itself.
pub fn remove(home: &Home) -> Result<(), HostError> {
    remove_unit(home, RECOVERY)
}

/// Remove the unit that makes secrets. If a power cut undoes the removal, the unit finds nothing to make.
pub fn remove_for_secrets(home: &Home) -> Result<(), HostError> {
    remove_unit(home, SECRETS)
}

/// Remove the unit that labels.
pub fn remove_for_labels(home: &Home) -> Result<(), HostError> {
    remove_unit(home, LABELS)
}

fn remove_unit(home: &Home, unit: &'static str) -> Result<(), HostError> {
    let Some(places) = Places::of(home, unit) else { return Ok(()) };
    durable::remove(&places.link)?;
    durable::remove(&places.unit)?;
    // systemd ignores an empty directory, so failing to remove it does not matter.
    let _ = fs::remove_dir(&places.wants);
    Ok(())
}

struct Places {
    unit: PathBuf,
    wants: PathBuf,
    link: PathBuf,
}

impl Places {
    /// `None` if this host does not boot with systemd.
    fn of(home: &Home, unit: &str) -> Option<Places> {
        if !home.is_live() || !Path::new("/run/systemd/system").is_dir() {
            return None;
        }
        let directory = PathBuf::from("/etc/systemd/system");
        let wants = directory.join("sysinit.target.wants");
        Some(Places { unit: directory.join(unit), link: wants.join(unit), wants })
    }
}

/// The text of the unit that recovers. It runs before sysinit.target, and before sysctl and tmpfiles, because all of them may
/// read restored files.
fn recovery(agent: &Path) -> String {
    let agent = quoted(agent);
    format!(
        "[Unit]\n\
         Description=Recover an interrupted deployment\n\
         DefaultDependencies=no\n\
         RequiresMountsFor={STATE_DIR} {agent}\n\
         After=local-fs.target\n\
         Before=sysinit.target systemd-sysctl.service systemd-tmpfiles-setup.service shutdown.target\n\
         Conflicts=shutdown.target\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         ExecStart={agent} {RECOVER}\n\
         TimeoutStartSec=90s\n"
    )
}

/// The text of the unit that makes secrets: before all ordinary services, which start after sysinit.target, and without the
/// network. What an interrupted deployment changed is undone first.
fn secrets(agent: &Path) -> String {
    let agent = quoted(agent);
    format!(
        "[Unit]\n\
         Description=Decrypt the secrets that are deployed\n\
         Documentation=man:deptool-secrets(7)\n\
         DefaultDependencies=no\n\
         RequiresMountsFor={STATE_DIR} /run {agent}\n\
         After=local-fs.target {RECOVERY}\n\
         Before=sysinit.target shutdown.target\n\
         Conflicts=shutdown.target\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         ExecStart={agent} {RECOVER}\n\
         TimeoutStartSec=90s\n"
    )
}

/// The text of the unit that labels, before the other two. After a relabelling of the host, some policies do not let systemd run
/// the agent, so a program of the host labels it first.
fn labels(agent: &Path) -> String {
    let agent = quoted(agent);
    format!(
        "[Unit]\n\
         Description=Label what is deployed for SELinux\n\
         DefaultDependencies=no\n\
         RequiresMountsFor={STATE_DIR} /run {agent}\n\
         ConditionSecurity=selinux\n\
         After=local-fs.target\n\
         Before={RECOVERY} {SECRETS} sysinit.target systemd-sysctl.service systemd-tmpfiles-setup.service shutdown.target\n\
         Conflicts=shutdown.target\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         ExecStart=-/usr/bin/chcon --type=bin_t {agent}\n\
         ExecStart={agent} {RECOVER}\n\
         TimeoutStartSec=90s\n"
    )
}

/// Quote a path that may have any characters, see systemd.syntax(7).
fn quoted(path: &Path) -> String {
    let mut out = String::from("\"");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'%' => out.push_str("%%"),
            b'"' | b'\\' => out.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_of_any_name_is_named_as_systemd_reads_it() {
        assert_eq!(quoted(Path::new("/a b/c%d\"e\\f$\n")), r#""/a b/c%%d\"e\\f$\x0a""#);
    }
}
