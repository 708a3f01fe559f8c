//! Prepare: everything slow, nothing visible. The plan is checked against the machine, the generation is written, and
//! every action is decided.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    checkout::{self, Contents, Earlier},
    claims::{Before, Claims, Content, PathClaim, UnitClaim},
    home::{Home, HostError},
    outside::{Found, Place, Resolved, Sibling, digest_of},
    owners::{Database, is_declared, resolve},
};
use crate::{
    action::{Action, New, Old, Placement},
    manifest::Account,
    name::{AppName, UnitName},
    path::{OutsidePath, TreePath},
    plan::{Change, Class, Enablement, HostPlan, OutsideChange, UnitChange, UnitJob},
    system::{Active, JobKind, Load, Manager, System, UnitFile, UnitState},
    tree::{App, HostTree},
    wanted::{ClaimKind, Snippet, Wanted},
};

/// Both sides of a deployment, as trees and as what they ask for.
pub struct Sides<'a> {
    pub old: &'a HostTree,
    pub new: &'a HostTree,
    pub had: &'a Wanted,
    pub wants: &'a Wanted,
    pub plan: &'a HostPlan,
}

/// What *prepare* has found out.
pub struct Prepared {
    pub actions: Vec<Action>,
    /// The ledger as it is after the deployment.
    pub claims: Claims,
    pub running: Vec<UnitName>,
    /// How long each unit that is started must not fail, where the manifest says so.
    pub windows: BTreeMap<UnitName, Duration>,
    /// For the operator.
    pub notes: Vec<String>,
}

/// Each app's checkout by its name below `trees/`, and the apps whose checkouts were written now.
pub type Checkouts = (Vec<(AppName, String)>, BTreeSet<AppName>);

/// Check out all apps for `generation`.
pub fn check_out(
    home: &Home,
    generation: u32,
    new: &HostTree,
    contents: &Contents<'_>,
    tick: &mut dyn FnMut(),
) -> Result<Checkouts, HostError> {
    let (mut checkouts, mut fresh) = (Vec::new(), BTreeSet::new());
    for (name, app) in &new.apps {
        let (tree, written) = checkout::check_out(home, generation, app, contents, tick)?;
        // Two apps with the same tree: the second finds what the first has written.
        if written {
            fresh.insert(name.clone());
        }
        checkouts.push((name.clone(), tree));
    }
    Ok((checkouts, fresh))
}

/// The checkouts of the generation that runs, from which unchanged files keep their times.
pub fn earlier<'a>(home: &Home, current: Option<u32>, old: &'a HostTree) -> Vec<Earlier<'a>> {
    let Some(number) = current else { return Vec::new() };
    old.apps.iter().filter_map(|(name, app)| Earlier::verified(home, number, name, app)).collect()
}

/// Decide every action. Reads the machine, changes nothing.
pub fn decide(
    home: &Home,
    sides: &Sides<'_>,
    claims: &Claims,
    generations: (Option<u32>, u32),
    checkouts: &[(AppName, String)],
    fresh: &BTreeSet<AppName>,
    system: &mut dyn System,
) -> Result<Prepared, HostError> {
    let mut deciding = Deciding {
        home,
        sides,
        generation: generations.1,
        before: claims,
        claims: claims.clone(),
        notes: Vec::new(),
        problems: Vec::new(),
        made: BTreeSet::new(),
    };
    let units = deciding.units(system)?;
    let outside = deciding.outside()?;
    let own = deciding.own(checkouts, fresh)?;
    deciding.claim_the_rest();
    if !deciding.problems.is_empty() {
        return Err(HostError::Unfit(deciding.problems.join("; ")));
    }
    let Deciding { claims, notes, .. } = deciding;
    let windows = sides.wants.enabled.iter().chain(&sides.wants.watched);
    let windows = windows.filter_map(|(unit, wanted)| Some((unit.clone(), wanted.settle?.0))).collect();
    let running = units.running.clone();
    let actions = in_order(sides, generations, units, outside, own);
    Ok(Prepared { actions, claims, running, windows, notes })
}

/// What is to be done with units.
#[derive(Default)]
struct UnitWork {
    stop: Vec<UnitName>,
    disable: Vec<UnitName>,
    enable: Vec<UnitName>,
    jobs: Vec<(UnitName, JobKind)>,
    running: Vec<UnitName>,
    /// There is a systemd to tell.
    live: bool,
}

/// What is to be done with paths outside.
#[derive(Default)]
struct OutsideWork {
    /// sysusers snippets come before everything else.
    users: Vec<Placement>,
    removed: Vec<Placement>,
    placed: Vec<Placement>,
    directories: Vec<OutsidePath>,
}

/// The order in which a host changes. Every deployment follows it.
fn in_order(
    sides: &Sides<'_>,
    (from, to): (Option<u32>, u32),
    units: UnitWork,
    outside: OutsideWork,
    own: Vec<Action>,
) -> Vec<Action> {
    let changed = |class: Class| {
        let snippets = sides.plan.outside.iter().filter(|c| c.class == class && c.change != Change::Remove);
        snippets.map(|c| c.path.clone()).collect::<Vec<_>>()
    };
    let apps = |side: &HostTree, other: &HostTree| {
        side.apps.keys().filter(|app| !other.apps.contains_key(*app)).cloned().collect::<Vec<_>>()
    };
    let mut actions = vec![Action::Stop(units.stop), Action::Disable(units.disable)];
    actions.push(Action::MakeDirectories(outside.directories));
    actions.extend(outside.users.into_iter().map(Action::Place));
    actions.push(Action::CreateUsers(changed(Class::Sysusers)));
    actions.extend(own);
    actions.push(Action::LinkApps(apps(sides.new, sides.old)));
    actions.push(Action::Switch { from, to });
    actions.extend(outside.removed.into_iter().map(Action::Place));
    actions.extend(outside.placed.into_iter().map(Action::Place));
    actions.push(Action::CreateTmpfiles(changed(Class::Tmpfiles)));
    actions.push(Action::Enable(units.enable));
    if units.live && sides.plan.needs_daemon_reload() {
        actions.push(Action::DaemonReload);
    }
    actions.push(Action::UnlinkApps(apps(sides.old, sides.new)));
    let running = units.running.iter().collect::<BTreeSet<_>>();
    let ran = units.jobs.iter().map(|(unit, _)| unit).filter(|unit| running.contains(unit)).cloned().collect();
    actions.push(Action::Jobs { jobs: units.jobs, running: ran });
    actions.retain(|action| !is_idle(action));
    actions
}

fn is_idle(action: &Action) -> bool {
    match action {
        Action::Stop(units) | Action::Disable(units) | Action::Enable(units) => units.is_empty(),
        Action::MakeDirectories(paths) | Action::CreateUsers(paths) | Action::CreateTmpfiles(paths) => paths.is_empty(),
        Action::LinkApps(apps) | Action::UnlinkApps(apps) => apps.is_empty(),
        Action::Jobs { jobs, .. } => jobs.is_empty(),
        Action::Place(_) | Action::Own { .. } | Action::Switch { .. } | Action::DaemonReload => false,
    }
}

struct Deciding<'a> {
    home: &'a Home,
    sides: &'a Sides<'a>,
    generation: u32,
    before: &'a Claims,
    claims: Claims,
    notes: Vec<String>,
    /// Everything that speaks against the deployment: the operator sees all of it at once.
    problems: Vec<String>,
    made: BTreeSet<OutsidePath>,
}

impl Deciding<'_> {
    fn outside(&mut self) -> Result<OutsideWork, HostError> {
        let mut work = OutsideWork::default();
        if !self.sides.plan.outside.is_empty() {
            self.check_places()?;
        }
        for change in &self.sides.plan.outside {
            let result = self.place(change, &mut work);
            match result {
                Ok(None) => {}
                Ok(Some(placement)) if change.change == Change::Remove => work.removed.push(placement),
                Ok(Some(placement)) if change.class == Class::Sysusers => work.users.push(placement),
                Ok(Some(placement)) => work.placed.push(placement),
                Err(HostError::Unfit(problem)) => self.problems.push(problem),
                Err(error) => return Err(error),
            }
        }
        Ok(work)
    }

    /// No two paths may be one place on this host, by way of a symlink that the tree does not know of.
    fn check_places(&mut self) -> Result<(), HostError> {
        let mut places = BTreeMap::new();
        for path in self.sides.wants.outside.keys() {
            let real = match Place::resolve(self.home, path) {
                Ok(resolved) => resolved.real(path),
                // Said where the path is changed.
                Err(HostError::Unfit(_)) => continue,
                Err(error) => return Err(error),
            };
            if let Some(first) = places.insert(real, path) {
                self.problems.push(format!("'{first}' and '{path}' are the same place on the host"));
            }
        }
        Ok(())
    }

    /// What happens at one path, if anything.
    fn place(&mut self, change: &OutsideChange, work: &mut OutsideWork) -> Result<Option<Placement>, HostError> {
        let path = &change.path;
        let place = match Place::resolve(self.home, path)? {
            Resolved::Place(place) => Some(place),
            Resolved::Missing(_) if change.change == Change::Remove => None,
            Resolved::Missing(directories) => {
                for directory in directories {
                    if self.made.insert(directory.clone()) {
                        self.claims.directories.insert(directory.clone());
                        work.directories.push(directory);
                    }
                }
                None
            }
        };
        if let Some(place) = &place
            && (place.has(Sibling::Undo)? || (!self.before.paths.contains_key(path) && place.has(Sibling::Before)?))
        {
            return Err(HostError::Unfit(format!(
                "beside '{path}' there is a backup that is not known: look at it, then remove it"
            )));
        }
        let found = place.as_ref().map_or(Ok(Found::Nothing), Place::found)?;
        if change.change == Change::Remove {
            let has_backup = place.as_ref().map_or(Ok(false), |place| place.has(Sibling::Before))?;
            self.release(path, &found, has_backup)
        } else {
            self.take(change, &found)
        }
    }

    fn release(&mut self, path: &OutsidePath, found: &Found, has_backup: bool) -> Result<Option<Placement>, HostError> {
        let Some(claim) = self.claims.paths.remove(path) else { return Ok(None) };
        let new = match claim.before {
            Before::Absent => New::Nothing,
            Before::Kept if has_backup => New::Before,
            Before::Kept => {
                self.notes.push(format!("what was at '{path}' before can't be put back: its backup is gone"));
                New::Nothing
            }
        };
        let Some(old) = self.old_of_claim(path, &claim, found)? else {
            return Ok((new == New::Before).then(|| Placement { path: path.clone(), new, old: Old::Nothing }));
        };
        Ok(Some(Placement { path: path.clone(), new, old }))
    }

    fn take(&mut self, change: &OutsideChange, found: &Found) -> Result<Option<Placement>, HostError> {
        let path = &change.path;
        let (new, ours) = self.wanted_at(path)?;
        let (old, before) = match (self.before.paths.get(path), found) {
            (Some(claim), found) => (self.old_of_claim(path, &claim.clone(), found)?, claim.before),
            (None, Found::Nothing) => (None, Before::Absent),
            (None, Found::Content(content)) if self.is_equal(change, content, &ours)? => {
                self.notes.push(format!("'{path}' was there with the same content: it is taken over"));
                (Some(Old::Foreign), Before::Kept)
            }
            (None, Found::Content(_)) => {
                return Err(HostError::Unfit(format!(
                    "'{path}' exists and differs from '{}/{}': remove it on the host, or make the two equal",
                    change.app, change.file
                )));
            }
            (None, Found::Other(what)) => {
                return Err(HostError::Unfit(format!("'{path}' is {what} on the host: remove it there")));
            }
        };
        self.claims.paths.insert(path.clone(), PathClaim { app: change.app.clone(), before, ours });
        Ok(Some(Placement { path: path.clone(), new, old: old.unwrap_or(Old::Nothing) }))
    }

    /// What a path of ours holds now. `None` if it is gone.
    fn old_of_claim(&mut self, path: &OutsidePath, claim: &PathClaim, found: &Found) -> Result<Option<Old>, HostError> {
        match found {
            Found::Content(content) if *content == claim.ours => Ok(Some(Old::Ours)),
            Found::Content(_) => {
                self.notes.push(format!("'{path}' was changed by hand: what was there is kept beside it"));
                Ok(Some(Old::Drifted))
            }
            Found::Nothing => {
                self.notes.push(format!("'{path}' was removed by hand"));
                Ok(None)
            }
            Found::Other(what) => {
                Err(HostError::Unfit(format!("'{path}' was replaced by {what} on the host: remove it there")))
            }
        }
    }

    /// What the new tree wants at `path`.
    fn wanted_at(&self, path: &OutsidePath) -> Result<(New, Content), HostError> {
        let claim = self.sides.wants.outside.get(path);
        let claim = claim.ok_or_else(|| HostError::Unfit(format!("the plan has '{path}', the tree has not")))?;
        match &claim.kind {
            ClaimKind::Link => {
                let target = format!("{}/{}", Home::stable_path(&claim.app), path_text(&claim.file)?);
                Ok((New::Link(target.clone()), Content::Link(target)))
            }
            ClaimKind::Copy(..) => {
                let sha256 = digest_of(&self.staged(&claim.app, &claim.file))?;
                let new = New::Copy { app: claim.app.clone(), file: claim.file.clone(), sha256: sha256.clone() };
                Ok((new, Content::File(sha256)))
            }
        }
    }

    fn staged(&self, app: &AppName, file: &TreePath) -> std::path::PathBuf {
        self.home.generation(self.generation).join(app.as_str()).join(file.as_path())
    }

    /// Whether what is at an unclaimed path is what we would put there.
    fn is_equal(&self, change: &OutsideChange, found: &Content, ours: &Content) -> Result<bool, HostError> {
        if found == ours {
            return Ok(true);
        }
        let staged = self.staged(&change.app, &change.file);
        match found {
            Content::File(digest) if change.class == Class::Link && staged.is_file() => {
                Ok(*digest == digest_of(&staged)?)
            }
            Content::File(_) | Content::Link(_) => Ok(false),
        }
    }

    /// Paths whose content stays but whose app may be another now.
    fn claim_the_rest(&mut self) {
        for (path, claim) in &self.sides.wants.outside {
            if let Some(held) = self.claims.paths.get_mut(path) {
                held.app = claim.app.clone();
            }
        }
    }

    fn units(&mut self, system: &mut dyn System) -> Result<UnitWork, HostError> {
        let mut work = UnitWork { live: system.manager() == Manager::Running, ..UnitWork::default() };
        if !self.sides.plan.has_units() {
            return Ok(work);
        }
        match system.manager() {
            Manager::Running => {}
            Manager::Offline => {}
            Manager::Absent if self.home.is_live() => {
                self.problems.push("the host has no systemd, and the tree has units".into());
                return Ok(work);
            }
            Manager::Absent => {
                self.notes.push("there is no 'systemctl' here: unit files are put in place, not enabled".into());
            }
        }
        let loaded = system.snapshot()?;
        let runs = |state: &UnitState| matches!(state.active, Active::Active | Active::Reloading | Active::Activating);
        work.running = loaded.iter().filter(|(_, state)| runs(state)).map(|(unit, _)| unit.clone()).collect();
        for change in &self.sides.plan.units {
            self.unit(change, loaded.get(&change.unit), system, &mut work)?;
        }
        if !work.live {
            work.stop.clear();
            work.jobs.clear();
        }
        Ok(work)
    }

    fn unit(
        &mut self,
        change: &UnitChange,
        state: Option<&UnitState>,
        system: &mut dyn System,
        work: &mut UnitWork,
    ) -> Result<(), HostError> {
        let unit = &change.unit;
        let is_running = work.running.contains(unit);
        let file = match change.enablement {
            Enablement::Keep => UnitFile::Static,
            Enablement::Enable | Enablement::Release => system.unit_file(unit)?,
        };
        match change.enablement {
            Enablement::Keep => {}
            Enablement::Enable => {
                let can_tell = system.manager() != Manager::Absent;
                self.enable(unit, (file, state), is_running, can_tell, work);
            }
            Enablement::Release => {
                self.release_unit(unit, file, is_running, work);
                return Ok(());
            }
        }
        let job = match change.job {
            UnitJob::None | UnitJob::Stop => None,
            UnitJob::Restart | UnitJob::Start => Some(JobKind::Restart),
            // A unit that should run and does not is not helped by a reload.
            UnitJob::Reload => Some(if is_running { JobKind::Reload } else { JobKind::Restart }),
            UnitJob::ReloadIfRunning => is_running.then_some(JobKind::Reload),
            UnitJob::RestartIfRunning => is_running.then_some(JobKind::Restart),
        };
        work.jobs.extend(job.map(|job| (unit.clone(), job)));
        Ok(())
    }

    fn enable(
        &mut self,
        unit: &UnitName,
        (file, state): (UnitFile, Option<&UnitState>),
        runs: bool,
        can_tell: bool,
        work: &mut UnitWork,
    ) {
        let made_by = self.sides.wants.outside.iter().find_map(|(path, claim)| match &claim.kind {
            ClaimKind::Copy(snippet @ Snippet::Unit(_), _) if snippet.affects(unit) => Some(path.as_str()),
            _ => None,
        });
        let is_masked = file == UnitFile::Masked || state.is_some_and(|state| state.load == Load::Masked);
        let is_known = file != UnitFile::Absent || state.is_some_and(|state| state.load == Load::Loaded);
        if is_masked {
            self.problems.push(format!("unit '{unit}' is masked on the host: 'systemctl unmask' it there"));
        } else if made_by.is_none() && !is_known && can_tell {
            self.problems.push(format!("unit '{unit}' is neither in the tree nor on the host"));
        }
        let before = UnitClaim { file, active: runs };
        self.claims.units.entry(unit.clone()).or_insert(before);
        // What Podman's generator makes is started, not enabled: its own [Install] section does the rest.
        let is_generated = made_by.is_some_and(|path| path.starts_with("/etc/containers/"));
        match file {
            UnitFile::Absent | UnitFile::Disabled | UnitFile::EnabledRuntime if !is_generated => {
                work.enable.push(unit.clone());
            }
            _ => {}
        }
    }

    /// Give a unit back: what was enabled and ran before us stays so, the rest is stopped and disabled.
    fn release_unit(&mut self, unit: &UnitName, file: UnitFile, runs: bool, work: &mut UnitWork) {
        let before = self.claims.units.remove(unit).unwrap_or(UnitClaim { file: UnitFile::Absent, active: false });
        if matches!(file, UnitFile::Enabled | UnitFile::EnabledRuntime) && before.file != UnitFile::Enabled {
            work.disable.push(unit.clone());
        }
        let stays = before.file != UnitFile::Absent;
        match (before.active && stays, runs) {
            // Its drop-ins and files are gone: it has to come back without them.
            (true, _) => work.jobs.push((unit.clone(), JobKind::Restart)),
            (false, true) => work.stop.push(unit.clone()),
            (false, false) => {}
        }
    }

    /// Owners and modes of the checkouts that were written now.
    fn own(&mut self, checkouts: &[(AppName, String)], fresh: &BTreeSet<AppName>) -> Result<Vec<Action>, HostError> {
        let mut actions = Vec::new();
        for (name, tree) in checkouts.iter().filter(|(name, _)| fresh.contains(name)) {
            let Some(app) = self.sides.new.apps.get(name) else { continue };
            if app.manifest.files.is_empty() {
                continue;
            }
            for attributes in app.manifest.files.values() {
                self.check_account(name, Database::Passwd, attributes.owner.as_ref())?;
                self.check_account(name, Database::Group, attributes.group.as_ref())?;
            }
            let files =
                app.manifest.files.clone().into_iter().map(|(path, attributes)| with_mode(app, path, attributes));
            actions.push(Action::Own { tree: tree.clone(), files: files.collect() });
        }
        Ok(actions)
    }

    fn check_account(&mut self, app: &AppName, database: Database, account: Option<&Account>) -> Result<(), HostError> {
        let Some(account) = account else { return Ok(()) };
        if let Some(id) = resolve(self.home, database, account)? {
            let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
            let own = if database == Database::Passwd { uid.as_raw() } else { gid.as_raw() };
            if !uid.is_root() && id != own {
                let name = account.as_str();
                self.problems.push(format!("{app}/manifest.json: only root can give a file to '{name}'"));
            }
            return Ok(());
        }
        let snippets = self
            .sides
            .wants
            .outside
            .values()
            .filter(|claim| matches!(claim.kind, ClaimKind::Copy(Snippet::Sysusers, _)));
        for claim in snippets {
            let path = self.staged(&claim.app, &claim.file);
            let text = std::fs::read(&path).unwrap_or_default();
            if is_declared(&String::from_utf8_lossy(&text), database, account) {
                return Ok(());
            }
        }
        let kind = if database == Database::Passwd { "user" } else { "group" };
        self.problems.push(format!("{app}/manifest.json: there is no {kind} '{}' on the host", account.as_str()));
        Ok(())
    }
}

/// A file's attributes with its mode spelled out: what the tree says where the manifest says nothing.
fn with_mode(
    app: &App,
    path: TreePath,
    mut attributes: crate::manifest::FileAttributes,
) -> (TreePath, crate::manifest::FileAttributes) {
    let executable = app.files.get(&path).is_some_and(|entry| entry.kind == crate::tree::FileKind::Executable);
    let default = crate::manifest::Mode(if executable { 0o755 } else { 0o644 });
    attributes.mode.get_or_insert(default);
    (path, attributes)
}

fn path_text(path: &TreePath) -> Result<&str, HostError> {
    std::str::from_utf8(path.as_bytes()).map_err(|_| HostError::Unfit(format!("'{path}' is not UTF-8")))
}
