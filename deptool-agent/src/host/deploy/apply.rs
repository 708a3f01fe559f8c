//! Carrying out actions. Everything was decided in *prepare*: one match, one way to do each.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use crate::{
    host::{
        deploy::{
            action::{Action, New, Old, Placement},
            owners::{Database, resolve},
        },
        external::place::{Over, Place, Sibling, set_owner_and_mode},
        state::{
            checkout, durable,
            error::{Context, HostError},
            layout::Home,
        },
    },
    shared::{
        manifest::{Account, FileAttributes},
        name::{AppName, UnitName},
        path::{ExternalPath, TreePath},
    },
    system::{JobKind, JobResult, System, settle::Deadline, verdict::Started},
};

/// What an action needs of the host.
pub struct Applying<'a> {
    pub home: &'a Home,
    /// The generation that is being activated.
    pub generation: u32,
    pub system: &'a mut dyn System,
    /// When starting and settling must be over.
    pub deadline: Deadline,
    /// How long units must not fail after their start, where the manifest says so.
    pub windows: &'a BTreeMap<UnitName, Duration>,
    pub tick: &'a mut dyn FnMut(),
}

impl Applying<'_> {
    /// Carry out one action. Returns the units that it started, for settling to judge.
    pub fn apply(&mut self, action: &Action) -> Result<Vec<(UnitName, Started)>, HostError> {
        match action {
            Action::Stop(units) => self.stop(units)?,
            Action::Disable(units) => self.system.disable(units)?,
            Action::MakeDirectories(paths) => self.make_directories(paths)?,
            Action::Place(placement) => self.place(placement)?,
            Action::CreateUsers(snippets) => {
                let paths = self.real_paths(snippets);
                self.system.create_users(&paths.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
            }
            Action::Own { tree, files } => self.own(tree, files)?,
            Action::LinkApps(apps) => link_apps(self.home, apps)?,
            Action::Switch { from: _, to } => {
                durable::replace_link(&self.home.current(), &format!("generations/{to}"))?
            }
            Action::CreateTmpfiles(snippets) => {
                let paths = self.real_paths(snippets);
                self.system.create_tmpfiles(&paths.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
            }
            Action::Enable(units) => self.system.enable(units)?,
            Action::DaemonReload => self.system.daemon_reload()?,
            Action::UnlinkApps(apps) => unlink_apps(self.home, apps)?,
            Action::Jobs { jobs, running: _ } => return self.start(jobs),
        }
        Ok(Vec::new())
    }

    fn stop(&mut self, units: &[UnitName]) -> Result<(), HostError> {
        let jobs: Vec<_> = units.iter().map(|unit| (unit.clone(), JobKind::Stop)).collect();
        let limit = self.deadline.left(self.system);
        let results = self.system.run_jobs(&jobs, limit, self.tick)?;
        for (unit, result) in units.iter().zip(results) {
            match result {
                JobResult::Done => {}
                JobResult::Failed(why) => return Err(HostError::refused(format!("cannot stop '{unit}': {why}"))),
                JobResult::TimedOut => return Err(HostError::refused(format!("'{unit}' does not stop"))),
            }
        }
        // One that was killed in the end would be listed as failed, long after its file is gone.
        Ok(self.system.reset_failed(units)?)
    }

    fn start(&mut self, jobs: &[(UnitName, JobKind)]) -> Result<Vec<(UnitName, Started)>, HostError> {
        let units: Vec<UnitName> = jobs.iter().map(|(unit, _)| unit.clone()).collect();
        // Or the start limit fails the sixth deployment within ten seconds.
        self.system.reset_failed(&units)?;
        let before = units.iter().map(|unit| self.system.detail(unit)).collect::<Result<Vec<_>, _>>()?;
        let results = self.system.run_jobs(jobs, self.deadline.left(self.system), self.tick)?;
        let ended = self.system.clock();
        let started = jobs.iter().zip(results).zip(before).map(|(((unit, kind), job), before)| {
            let window = self.windows.get(unit).copied();
            (unit.clone(), Started { kind: *kind, job, ended, before, window })
        });
        Ok(started.collect())
    }

    fn make_directories(&mut self, paths: &[ExternalPath]) -> Result<(), HostError> {
        paths.iter().try_for_each(|path| existing(self.home, path)?.make_directory())
    }

    fn place(&mut self, placement: &Placement) -> Result<(), HostError> {
        let place = existing(self.home, &placement.path)?;
        match placement.old {
            Old::Nothing => {}
            Old::Ours | Old::Drifted => place.keep_as(Sibling::Undo)?,
            Old::Foreign => place.keep_as(Sibling::Before)?,
        }
        let over = if placement.old == Old::Nothing { Over::Nothing } else { Over::Anything };
        match &placement.new {
            New::Link(target) => place.write_link(target, over),
            New::Copy { app, file, sha256: _ } => {
                let source = self.home.generation(self.generation).join(app.as_str()).join(file.as_path());
                place.write_copy(&source, over)
            }
            New::Before => place.copy_back(Sibling::Before),
            New::Nothing => place.remove(),
        }
    }

    fn own(&mut self, tree: &str, files: &[(TreePath, FileAttributes)]) -> Result<(), HostError> {
        for (file, attributes) in files {
            let path = self.home.trees().join(tree).join(file.as_path());
            let owner = attributes.owner.as_ref().map(|name| self.id_of(Database::Passwd, name)).transpose()?;
            let group = attributes.group.as_ref().map(|name| self.id_of(Database::Group, name)).transpose()?;
            let mode = attributes.mode.map_or(0o644, |mode| mode.0);
            set_owner_and_mode(&path, owner, group, mode)?;
        }
        checkout::record(self.home, tree)
    }

    fn id_of(&self, database: Database, account: &Account) -> Result<u32, HostError> {
        resolve(self.home, database, account)?
            .ok_or_else(|| HostError::refused(format!("there is no '{}' on the host", account.as_str())))
    }

    fn real_paths(&self, snippets: &[ExternalPath]) -> Vec<PathBuf> {
        snippets.iter().map(|path| self.home.root().join(path.relative())).collect()
    }
}

/// The place of `path`, whose directory was there in *prepare*.
fn existing(home: &Home, path: &ExternalPath) -> Result<Place, HostError> {
    Place::existing(home, path)?.ok_or_else(|| HostError::refused(format!("the directory of '{path}' is gone")))
}

/// Make the stable paths of `apps`.
pub fn link_apps(home: &Home, apps: &[AppName]) -> Result<(), HostError> {
    for app in apps {
        let directory = home.apps().join(app.as_str());
        fs::create_dir_all(&directory).during("create", &directory)?;
        durable::replace_link(&directory.join("current"), &format!("../../current/{app}"))?;
    }
    Ok(())
}

/// Remove the stable paths of `apps`.
pub fn unlink_apps(home: &Home, apps: &[AppName]) -> Result<(), HostError> {
    for app in apps {
        let directory = home.apps().join(app.as_str());
        for name in ["current", "current.new"] {
            durable::remove(&directory.join(name))?;
        }
        match fs::remove_dir(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).during("remove", &directory);
            }
            _ => {}
        }
    }
    Ok(())
}
