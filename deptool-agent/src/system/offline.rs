//! [`System`] for a local root, `deptool::/path`: a directory with the root file system of a machine, or a part of one.
//!
//! No service manager runs in it. Units are enabled for the next boot by this machine's systemctl. Without systemctl, unit
//! files are only written, and [`System::manager`] is [`Manager::Absent`]. Calls that need a running manager do nothing and
//! succeed. Users and temporary files are only created if the agent runs as root and the programs for this exist; the first
//! boot creates them in any case.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Converted, JobKind, JobResult, Leave, Manager, System, SystemError, UnitDetail, UnitFile, UnitState, program,
    systemd,
};
use crate::shared::name::{Account, UnitName};

/// The time-out for each program. They take a few milliseconds.
const LIMIT: Duration = Duration::from_secs(60);

/// A local root.
#[derive(Debug, Clone)]
pub struct Offline {
    /// `--root=<absolute path>`
    root: OsString,
    has_systemctl: bool,
}

impl Offline {
    /// `root` is an absolute path.
    pub fn new(root: PathBuf) -> Self {
        let mut option = OsString::from("--root=");
        option.push(root);
        Offline { root: option, has_systemctl: program::exists("systemctl") }
    }

    fn systemctl(&self, verb: &str, unit: &UnitName) -> Result<program::Ended, SystemError> {
        let arguments = [&self.root, OsStr::new(verb), OsStr::new("--"), OsStr::new(unit.as_str())];
        program::run("systemctl", &arguments, LIMIT)
            .map_err(|error| SystemError(format!("can't {verb} '{unit}': can't run 'systemctl': {error}")))
    }

    /// Enable or disable one unit.
    fn change(&self, verb: &str, unit: &UnitName) -> Result<(), SystemError> {
        let ended = self.systemctl(verb, unit)?;
        match ended.status.success() {
            true => Ok(()),
            false => Err(SystemError(format!("can't {verb} '{unit}': {}", program::failure("systemctl", &ended)))),
        }
    }

    /// Run systemd-sysusers or systemd-tmpfiles. The paths of snippets are not relative to the root.
    fn create(&self, program: &str, options: &[&OsStr], snippets: &[&Path]) -> Result<String, SystemError> {
        if snippets.is_empty() || !program::exists(program) || !rustix::process::geteuid().is_root() {
            return Ok(String::new());
        }
        let mut arguments = vec![self.root.as_os_str()];
        arguments.extend(options);
        arguments.extend(snippets.iter().map(|path| path.as_os_str()));
        program::succeed(program, &arguments, LIMIT).map(|ended| program::complaints(&ended))
    }
}

impl System for Offline {
    fn manager(&self) -> Manager {
        if self.has_systemctl { Manager::Offline } else { Manager::Absent }
    }

    fn clock(&self) -> Duration {
        systemd::clock()
    }

    fn is_stopping(&mut self) -> bool {
        false
    }

    fn join(&mut self, _: &Account, _: u32) -> bool {
        false
    }

    fn snapshot(&mut self) -> Result<BTreeMap<UnitName, UnitState>, SystemError> {
        Ok(BTreeMap::new())
    }

    fn snapshot_of_runs(&mut self) -> Result<BTreeMap<UnitName, UnitState>, SystemError> {
        Ok(BTreeMap::new())
    }

    fn processes(&mut self, _unit: &UnitName) -> Result<Vec<u32>, SystemError> {
        Ok(Vec::new())
    }

    fn detail(&mut self, _unit: &UnitName) -> Result<UnitDetail, SystemError> {
        Ok(UnitDetail::inactive())
    }

    fn unit_file(&mut self, unit: &UnitName) -> Result<UnitFile, SystemError> {
        // Only a user's own manager knows what the user has enabled.
        if !self.has_systemctl || unit.user().is_some() {
            return Ok(UnitFile::Absent);
        }
        // The exit status adds nothing to the output. There may be no output for a unit that does not exist.
        let ended = self.systemctl("is-enabled", unit)?;
        if ended.status.success() && ended.stdout.is_empty() {
            return Err(SystemError(format!("'systemctl is-enabled {unit}' said nothing")));
        }
        Ok(systemd::unit_file(String::from_utf8_lossy(&ended.stdout).trim()))
    }

    fn enable(&mut self, units: &[UnitName]) -> Result<(), SystemError> {
        match self.has_systemctl {
            true => units.iter().try_for_each(|unit| self.change("enable", unit)),
            false => Ok(()),
        }
    }

    fn disable(&mut self, units: &[UnitName]) -> Result<(), SystemError> {
        if !self.has_systemctl {
            return Ok(());
        }
        for unit in units {
            if let Err(error) = self.change("disable", unit)
                && self.unit_file(unit)? != UnitFile::Absent
            {
                return Err(error);
            }
        }
        Ok(())
    }

    fn daemon_reload(&mut self, _: Option<&Account>) -> Result<(), SystemError> {
        Ok(())
    }

    fn reset_failed(&mut self, _units: &[UnitName]) -> Result<(), SystemError> {
        Ok(())
    }

    fn run_jobs_while(
        &mut self,
        jobs: &[(UnitName, JobKind)],
        _limit: Duration,
        _go_on: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Vec<JobResult>, SystemError> {
        Ok(vec![JobResult::Done; jobs.len()])
    }

    /// The programs that it would look for are those of this machine.
    fn verify(&mut self, _files: &[&Path]) -> Result<Option<String>, SystemError> {
        Ok(None)
    }

    fn convert_quadlets(&mut self, _: Option<&Account>, _directory: &Path) -> Result<Option<Converted>, SystemError> {
        Ok(None)
    }

    fn add_transient(&mut self, _files: &[&str]) -> Result<Vec<UnitName>, SystemError> {
        Err(SystemError("systemd is not running here".into()))
    }

    fn remove_transient(&mut self, _units: &[UnitName]) -> Result<(), SystemError> {
        Ok(())
    }

    fn take_other_jobs(&mut self) -> Vec<UnitName> {
        Vec::new()
    }

    fn wait_for_change(&mut self, _limit: Duration) -> Result<(), SystemError> {
        Ok(())
    }

    fn create_users(&mut self, snippets: &[&Path]) -> Result<String, SystemError> {
        self.create("systemd-sysusers", &[], snippets)
    }

    fn create_tmpfiles(&mut self, snippets: &[&Path]) -> Result<String, SystemError> {
        self.create("systemd-tmpfiles", &[OsStr::new("--create")], snippets)
    }

    fn journal_tail(&mut self, _unit: &UnitName, _invocations: &[String], _lines: usize) -> String {
        String::new()
    }

    fn leave_session(&mut self, _: Leave) -> Result<(), SystemError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn unit(name: &str) -> UnitName {
        UnitName::parse(name.as_bytes()).unwrap()
    }

    #[test]
    fn units_are_enabled_in_the_root_and_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        let mut offline = Offline::new(root.path().to_owned());
        if offline.manager() == Manager::Absent {
            return eprintln!("skipped: no systemctl here");
        }
        let units = root.path().join("etc/systemd/system");
        fs::create_dir_all(&units).unwrap();
        fs::write(units.join("a.service"), "[Service]\nExecStart=true\n[Install]\nWantedBy=multi-user.target\n")
            .unwrap();
        fs::write(units.join("static.service"), "[Service]\nExecStart=true\n").unwrap();
        let (a, fixed, none) = (unit("a.service"), unit("static.service"), unit("none.service"));
        assert_eq!(offline.unit_file(&a).unwrap(), UnitFile::Disabled);
        assert_eq!(offline.unit_file(&fixed).unwrap(), UnitFile::Static);
        assert_eq!(offline.unit_file(&none).unwrap(), UnitFile::Absent);
        offline.enable(&[a.clone(), fixed]).unwrap();
        assert_eq!(offline.unit_file(&a).unwrap(), UnitFile::Enabled);
        let link = fs::read_link(units.join("multi-user.target.wants/a.service")).unwrap();
        assert_eq!(link, Path::new("/etc/systemd/system/a.service"));
        offline.disable(&[none.clone(), a.clone()]).unwrap();
        assert_eq!(offline.unit_file(&a).unwrap(), UnitFile::Disabled);
        let error = offline.enable(&[none]).unwrap_err().0;
        assert!(error.starts_with("can't enable 'none.service': 'systemctl' failed (exit status: 1): "), "{error}");
    }

    #[test]
    fn without_systemctl_units_are_only_put_in_place() {
        let mut offline = Offline { has_systemctl: false, ..Offline::new("/nowhere".into()) };
        assert_eq!(offline.manager(), Manager::Absent);
        offline.enable(&[unit("a.service")]).unwrap();
        offline.disable(&[unit("a.service")]).unwrap();
        assert_eq!(offline.unit_file(&unit("a.service")).unwrap(), UnitFile::Absent);
    }

    #[test]
    fn users_and_files_are_created_in_the_root() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        fs::create_dir(&etc).unwrap();
        let (users, files) = (etc.join("users.conf"), etc.join("files.conf"));
        fs::write(&users, "u deptool-test - \"Test\" /\n").unwrap();
        fs::write(&files, "d /run/deptool-test 0750 root root\n").unwrap();
        let mut offline = Offline::new(root.path().to_owned());
        offline.create_users(&[&users]).unwrap();
        offline.create_tmpfiles(&[&files]).unwrap();
        let can = |program| program::exists(program) && rustix::process::geteuid().is_root();
        assert_eq!(etc.join("passwd").exists(), can("systemd-sysusers"));
        assert_eq!(root.path().join("run/deptool-test").is_dir(), can("systemd-tmpfiles"));
    }
}
