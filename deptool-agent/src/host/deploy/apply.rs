//! Carries out actions. *Prepare* has decided everything, so there is one way to do each action.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    host::{
        deploy::action::{Action, New, Old, Placement, UnitJobs},
        external::backup,
        external::place::{Over, Place, Sibling, set_owner_and_mode},
        owners, secrets,
        state::{
            checkout, durable,
            error::{Context, HostError},
            kind::Kind,
            labels,
            layout::Home,
        },
    },
    shared::{
        manifest::FileAttributes,
        name::{AppName, UnitName},
        ordered::Ordered as _,
        path::{ExternalPath, TreePath},
        text::printable,
    },
    system::{
        JobKind, JobResult, System, UnitDetail,
        settle::Deadline,
        touched::{self, Ours, Relation, States, Touched},
        verdict::Started,
    },
};

/// What an action needs of the host.
pub struct Applying<'a> {
    pub home: &'a Home,
    /// The generation that is being activated.
    pub generation: u32,
    pub system: &'a mut dyn System,
    pub deadline: Deadline,
    /// How long a unit must run without failing, where the manifest sets that time.
    pub windows: &'a BTreeMap<UnitName, Duration>,
    /// The states of all units before the deployment.
    pub before: &'a States,
    /// Problems that are not failures, for the operator.
    pub complaints: &'a mut Vec<String>,
    pub tick: &'a mut dyn FnMut(&str),
}

impl Applying<'_> {
    /// Carry out one action. Returns the units that it started, for settling.
    pub fn apply(&mut self, action: &Action) -> Result<Vec<(UnitName, Started)>, HostError> {
        match action {
            Action::Stop(units) => self.stop(units)?,
            Action::Disable(units) => self.home.wait_for(|| self.system.disable(units))?,
            Action::MakeDirectories(paths) => self.make_directories(paths)?,
            Action::Place(placement) => self.place(placement)?,
            Action::CreateUsers(snippets) => {
                let paths = self.real_paths(snippets);
                let paths: Vec<_> = paths.iter().map(PathBuf::as_path).collect();
                let output = self.home.wait_for(|| self.system.create_users(&paths))?;
                self.complaints.extend(output.lines().map(|line| printable(line.as_bytes())));
            }
            Action::Own { tree, files } => self.own(tree, files)?,
            // *Prepare* has refused unknown owners that are new.
            Action::OwnSecrets { generation, files } => {
                self.complaints.extend(secrets::own(self.home, *generation, files)?)
            }
            Action::LinkApps(apps) => link_apps(self.home, self.generation, apps)?,
            Action::Switch { from: _, to } => point(self.home, self.generation, &self.home.current(), Some(*to))?,
            Action::CreateTmpfiles(snippets) => {
                let paths = self.real_paths(snippets);
                let paths: Vec<_> = paths.iter().map(PathBuf::as_path).collect();
                let output = self.home.wait_for(|| self.system.create_tmpfiles(&paths))?;
                self.complaints.extend(output.lines().map(|line| printable(line.as_bytes())));
            }
            Action::Enable(units) => self.home.wait_for(|| self.system.enable(units))?,
            Action::DaemonReload(of) => {
                self.home.wait_for(|| of.iter().try_for_each(|user| self.system.daemon_reload(user.as_ref())))?
            }
            Action::UnlinkApps(apps) => unlink_apps(self.home, self.generation, apps)?,
            Action::RestoreLinks(links) => {
                links.add_missing(self.home)?;
                links.enable_of_users(self.system)?;
            }
            Action::Jobs(jobs) => return self.jobs(jobs),
        }
        Ok(Vec::new())
    }

    fn stop(&mut self, units: &[UnitName]) -> Result<(), HostError> {
        self.end(units)?;
        // A unit that had to be killed would stay in the list of failed units after its file is gone.
        Ok(self.system.reset_failed(units)?)
    }

    /// Run jobs: first stop the units that need it, then reload units, then start units.
    fn jobs(&mut self, jobs: &UnitJobs) -> Result<Vec<(UnitName, Started)>, HostError> {
        let units: Vec<UnitName> = jobs.jobs.iter().map(|(unit, _)| unit.clone()).collect();
        // Otherwise the sixth deployment within ten seconds would hit the start limit.
        self.system.reset_failed(&units)?;
        let mut all = jobs.jobs.clone();
        let mut before = units.iter().map(|unit| self.system.detail(unit)).collect::<Result<Vec<_>, _>>()?;
        if !jobs.stop.is_empty() {
            self.end(&jobs.stop)?;
            for unit in self.stopped_along(&jobs.stop)? {
                if !units.contains(&unit) {
                    let invocation = self.before.invocation(&unit).to_owned();
                    before.push(UnitDetail { invocation, ..self.system.detail(&unit)? });
                    all.push((unit, JobKind::Start));
                }
            }
        }
        let (reloads, starts): (Vec<_>, Vec<_>) = all.iter().cloned().partition(|(_, kind)| *kind == JobKind::Reload);
        let mut results = BTreeMap::new();
        for batch in [reloads, starts].into_iter().filter(|batch| !batch.is_empty()) {
            let ended = self.system.run_jobs(&batch, self.deadline.left(self.system), self.tick)?;
            results.extend(batch.into_iter().map(|(unit, _)| unit).zip(ended));
        }
        let ended = self.system.clock();
        let started = all.into_iter().zip(before).map(|((unit, kind), before)| {
            let (window, job) = (self.windows.get(&unit).copied(), results.remove(&unit).unwrap_or(JobResult::Done));
            (unit, Started { kind, job, ended, before, window })
        });
        Ok(started.collect())
    }

    /// Stop units, and wait until their processes have ended.
    fn end(&mut self, units: &[UnitName]) -> Result<(), HostError> {
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
        Ok(())
    }

    /// The units that ran and that systemd stopped together with these. A restart would have started them again.
    fn stopped_along(&mut self, stopped: &[UnitName]) -> Result<Vec<UnitName>, HostError> {
        let ours = Ours { jobs: stopped.iter().cloned().into_set(), stops: BTreeSet::new() };
        let now = self.system.snapshot_of_runs()?;
        let touched = touched::find(self.system, &ours, self.before, &now)?;
        let is_down = |one: &Touched| one.change == touched::Change::Stopped && one.relation == Relation::Along;
        Ok(touched.into_iter().filter(is_down).map(|one| one.unit).collect())
    }

    fn make_directories(&mut self, paths: &[ExternalPath]) -> Result<(), HostError> {
        paths.iter().try_for_each(|path| existing(self.home, path)?.make_directory())
    }

    fn place(&mut self, placement: &Placement) -> Result<(), HostError> {
        let place = existing(self.home, &placement.path)?;
        match placement.old {
            Old::Nothing => {}
            Old::Ours | Old::Drifted | Old::Foreign => place.keep_as(Sibling::Undo)?,
            Old::DriftedDirectory | Old::OurDirectory => place.move_to(Sibling::Undo)?,
        }
        let label = placement.label.as_deref();
        let over = if placement.old == Old::Nothing { Over::Nothing } else { Over::Anything };
        match &placement.new {
            New::Link(target) => place.write_link(target, label, over),
            New::Copy { app, file, sha256: _ } => {
                let source = self.home.generation(self.generation).join(app.as_str()).join(file.as_path());
                place.write_copy(&source, label, over)
            }
            New::Before(_) => place.put_copy_of(&backup::of(self.home, &placement.path), label, over),
            New::Nothing => place.remove(),
        }
    }

    fn own(&mut self, tree: &str, files: &[(TreePath, FileAttributes)]) -> Result<(), HostError> {
        for (file, attributes) in files {
            let path = self.home.trees().join(tree).join(file.as_path());
            let (owner, group) = owners::ids(self.home, attributes)?;
            let mode = attributes.mode.map_or(0o644, |mode| mode.0);
            set_owner_and_mode(&path, owner, group, mode)?;
        }
        // A mode can make a program of it.
        labels::label_checkout(self.home, &self.home.trees().join(tree))?;
        checkout::record(self.home, tree)
    }

    fn real_paths(&self, snippets: &[ExternalPath]) -> Vec<PathBuf> {
        snippets.iter().map(|path| self.home.root().join(path.relative())).collect()
    }
}

/// Resolve `path`. Its parent directory existed in *prepare*.
fn existing(home: &Home, path: &ExternalPath) -> Result<Place, HostError> {
    Place::existing(home, path)?.ok_or_else(|| HostError::refused(format!("the directory of '{path}' is gone")))
}

/// Point `link`, which is `current` or `previous`, to a generation. Generation `number` keeps what is there instead.
pub fn point(home: &Home, number: u32, link: &Path, to: Option<u32>) -> Result<(), HostError> {
    backup::keep_own(home, number, link, Kind::Symlink)?;
    match to {
        Some(to) => durable::replace_link(link, &format!("generations/{to}")),
        None => durable::remove(link),
    }
}

/// Make the stable paths of `apps`. Generation `number` keeps what is there instead.
pub fn link_apps(home: &Home, number: u32, apps: &[AppName]) -> Result<(), HostError> {
    for app in apps {
        let (directory, link) = clear_stable_path(home, number, app)?;
        fs::create_dir_all(&directory).during("create", &directory)?;
        durable::replace_link(&link, &format!("../../current/{app}"))?;
    }
    Ok(())
}

/// Remove the stable paths of `apps`. Generation `number` keeps what is there instead. A directory stays in which somebody has put
/// another file.
pub fn unlink_apps(home: &Home, number: u32, apps: &[AppName]) -> Result<(), HostError> {
    for app in apps {
        let (directory, link) = clear_stable_path(home, number, app)?;
        durable::remove_all(&durable::temporary_of(&link))?;
        durable::remove(&link)?;
        durable::remove_if_empty(&directory)?;
    }
    Ok(())
}

/// Move away what somebody put in the place of an app's directory and its symlink. Returns both paths.
fn clear_stable_path(home: &Home, number: u32, app: &AppName) -> Result<(PathBuf, PathBuf), HostError> {
    let directory = home.apps().join(app.as_str());
    backup::keep_own(home, number, &directory, Kind::Directory)?;
    let link = directory.join("current");
    backup::keep_own(home, number, &link, Kind::Symlink)?;
    Ok((directory, link))
}
