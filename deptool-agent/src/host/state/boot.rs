//! The units that run at boot. All of them run the agent in the same way, but exist at different times.
//!
//! A machine that goes down during a deployment must recover even if no operator connects. The unit runs as early as files
//! can be restored, so that services start with the right configuration.

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crate::{
    host::state::{
        agents::AgentId,
        durable,
        error::{Context, HostError},
        layout::Home,
    },
    shared::path::STATE_DIR,
};

/// The argument with which all units run the agent. It does all that is to be done at boot.
pub const RECOVER: &str = "recover";

/// A unit that runs the agent at boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootUnit {
    /// Recovers. It exists only while a deployment is under way. If a power cut undoes its removal, it runs at boot, finds nothing
    /// to recover and removes itself.
    Recovery,
    /// Makes secrets. It exists while the host has any.
    Secrets,
    /// Labels files. It exists on hosts with SELinux while something is deployed.
    Labels,
}

impl BootUnit {
    /// Install the unit, so that it runs the agent of this build. Returns the paths to sync: none if it was there.
    pub fn install(self, home: &Home) -> Result<Vec<PathBuf>, HostError> {
        let Some(places) = Places::of(home, self.name()) else { return Ok(Vec::new()) };
        self.write(&places, &agent(home))
    }

    /// Write the unit in place of the old one, or of a link that masks it. A kill leaves the old unit or the new one.
    fn write(self, places: &Places, agent: &Path) -> Result<Vec<PathBuf>, HostError> {
        let text = self.text(agent);
        let is_there = places.link.is_symlink() && fs::read(&places.unit).is_ok_and(|old| old == text.as_bytes());
        // An agent that was killed may not have synced it. The one that recovers must be durable before the journal.
        if is_there && self != BootUnit::Recovery {
            return Ok(Vec::new());
        }
        fs::create_dir_all(&places.wants).during("create", &places.wants)?;
        durable::replace_with_mode(&places.unit, text.as_bytes(), 0o644)?;
        if !places.link.is_symlink() {
            durable::replace_link(&places.link, &format!("../{}", self.name()))?;
        }
        Ok(vec![places.unit.clone(), places.link.clone()])
    }

    /// Remove the unit.
    pub fn remove(self, home: &Home) -> Result<(), HostError> {
        let Some(places) = Places::of(home, self.name()) else { return Ok(()) };
        for path in [&places.link, &places.unit] {
            durable::remove(path)?;
            durable::remove(&durable::temporary_of(path))?;
        }
        // systemd ignores an empty directory, so failing to remove it does not matter.
        let _ = fs::remove_dir(&places.wants);
        Ok(())
    }

    fn name(self) -> &'static str {
        match self {
            BootUnit::Recovery => "deptool-recover.service",
            BootUnit::Secrets => "deptool-secrets.service",
            BootUnit::Labels => "deptool-labels.service",
        }
    }

    fn text(self, agent: &Path) -> String {
        let agent = quoted(agent);
        let (unit, service) = match self {
            // sysctl and tmpfiles may read restored files.
            BootUnit::Recovery => (
                "Description=Recover an interrupted deployment\n\
                 Before=systemd-sysctl.service systemd-tmpfiles-setup.service\n",
                String::new(),
            ),
            // What an interrupted deployment changed is undone first.
            BootUnit::Secrets => (
                "Description=Decrypt the secrets that are deployed\n\
                 Documentation=man:deptool-secrets(7)\n\
                 After=deptool-recover.service\n",
                "RemainAfterExit=yes\n".into(),
            ),
            // After a relabelling of the host, some policies do not let systemd run the agent, so a program of the host labels it
            // first.
            BootUnit::Labels => (
                "Description=Label what is deployed for SELinux\n\
                 ConditionSecurity=selinux\n\
                 Before=deptool-recover.service deptool-secrets.service\n\
                 Before=systemd-sysctl.service systemd-tmpfiles-setup.service\n",
                format!("RemainAfterExit=yes\nExecStart=-/usr/bin/chcon --type=bin_t {agent}\n"),
            ),
        };
        // All ordinary services start after sysinit.target.
        format!(
            "[Unit]\n\
             {unit}\
             DefaultDependencies=no\n\
             RequiresMountsFor={STATE_DIR} /run {agent}\n\
             After=local-fs.target\n\
             Before=sysinit.target shutdown.target\n\
             Conflicts=shutdown.target\n\
             \n\
             [Service]\n\
             Type=oneshot\n\
             {service}\
             ExecStart={agent} {RECOVER}\n\
             TimeoutStartSec=90s\n"
        )
    }
}

/// The agent of this build in `bin/`. What `/proc/self/exe` names may have been replaced meanwhile.
fn agent(home: &Home) -> PathBuf {
    // The state directory may be a link to another file system.
    fs::canonicalize(home.bin()).unwrap_or_else(|_| home.bin()).join(AgentId::own().as_str())
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
        Some(Places::in_directory(Path::new("/etc/systemd/system"), unit))
    }

    fn in_directory(directory: &Path, unit: &str) -> Places {
        let wants = directory.join("sysinit.target.wants");
        Places { unit: directory.join(unit), link: wants.join(unit), wants }
    }
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
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn places() -> (tempfile::TempDir, Places) {
        let directory = tempfile::tempdir().unwrap();
        let places = Places::in_directory(directory.path(), BootUnit::Labels.name());
        (directory, places)
    }

    #[test]
    fn an_upgrade_replaces_a_unit_as_a_whole() {
        let (_directory, places) = places();
        let agent = |name: &str| Path::new("/var/lib/deptool/bin").join(name);
        assert_eq!(BootUnit::Labels.write(&places, &agent("1")).unwrap().len(), 2);
        assert_eq!(BootUnit::Labels.write(&places, &agent("1")).unwrap().len(), 0);
        let old = fs::File::open(&places.unit).unwrap();
        assert_eq!(BootUnit::Labels.write(&places, &agent("2")).unwrap().len(), 2);
        // Whoever has it open still reads the old one.
        assert_eq!(std::io::read_to_string(old).unwrap(), BootUnit::Labels.text(&agent("1")));
        assert_eq!(fs::read_to_string(&places.link).unwrap(), BootUnit::Labels.text(&agent("2")));
        assert_eq!(fs::metadata(&places.unit).unwrap().permissions().mode() & 0o777, 0o644);
    }

    #[test]
    fn a_unit_that_was_masked_is_installed() {
        let (_directory, places) = places();
        symlink("/dev/null", &places.unit).unwrap();
        let agent = Path::new("/var/lib/deptool/bin/1");
        BootUnit::Labels.write(&places, agent).unwrap();
        assert!(places.unit.symlink_metadata().unwrap().is_file());
        assert_eq!(fs::read_to_string(&places.link).unwrap(), BootUnit::Labels.text(agent));
    }

    #[test]
    fn the_agent_is_named_as_it_is_kept_whatever_became_of_the_running_one() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(root.path());
        assert_eq!(agent(&home), home.bin().join(AgentId::own().as_str()));
    }

    #[test]
    fn an_agent_of_any_name_is_named_as_systemd_reads_it() {
        assert_eq!(quoted(Path::new("/a b/c%d\"e\\f$\n")), r#""/a b/c%%d\"e\\f$\x0a""#);
    }
}
