//! Decides what happens at external paths.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    host::{
        deploy::{
            action::{New, Old, Placement},
            prepare::Deciding,
        },
        external::{
            backup,
            content::digest_of,
            drift::small_text,
            place::{Found, Place, Resolved, Sibling},
        },
        state::{
            error::{Context, HostError},
            labels::{self, Put},
            layout::Home,
            ledger::{Before, Claims, Content, PathClaim},
        },
    },
    shared::{
        desired::ClaimKind,
        name::AppName,
        ordered::Ordered as _,
        outcome::{Drift, Edit, Subject},
        path::{ExternalPath, STATE_DIR, TreePath, is_within},
        plan::{Change, Class, ExternalChange},
        text::printable,
        wire::InTheWay,
    },
};

/// About so many bytes of files that are in the way are sent to the operator.
const SENT: usize = 128 * 1024;

/// Describe at most this many of them.
const OBSTACLES: usize = 200;

/// The decisions about external paths.
#[derive(Default)]
pub(super) struct ExternalWork {
    /// The placements of sysusers snippets, which come before everything else.
    pub(super) users: Vec<Placement>,
    pub(super) removed: Vec<Placement>,
    pub(super) placed: Vec<Placement>,
    /// The removal of foreign files next to deployed unit files, or before them in systemd's order.
    pub(super) foreign: Vec<Placement>,
    /// The directories to create for sysusers snippets, and for everything else.
    pub(super) early_directories: Vec<ExternalPath>,
    pub(super) directories: Vec<ExternalPath>,
}

impl Deciding<'_> {
    pub(super) fn external(&mut self) -> Result<ExternalWork, HostError> {
        let mut work = ExternalWork::default();
        if !self.sides.plan.external.is_empty() {
            self.check_places()?;
        }
        for change in &self.sides.plan.external {
            let result = self.place(change, &mut work);
            match result {
                Ok(None) => {}
                Ok(Some(placement)) if change.change == Change::Remove => work.removed.push(placement),
                Ok(Some(placement)) if change.class == Class::Sysusers => work.users.push(placement),
                Ok(Some(placement)) => work.placed.push(placement),
                Err(HostError::External(problem)) => self.problems.push(problem),
                Err(error) => return Err(error),
            }
        }
        for path in self.staged.foreign {
            let Some(place) = Place::existing(self.home, path)? else { continue };
            if let Found::Content(_) | Found::Special = place.found()? {
                let placement = Placement { path: path.clone(), new: New::Nothing, old: Old::Drifted, label: None };
                work.foreign.push(placement);
            }
        }
        self.label(&mut work)?;
        Ok(work)
    }

    /// Give everything that is put somewhere the label that the host's SELinux policy has for its path.
    fn label(&mut self, work: &mut ExternalWork) -> Result<(), HostError> {
        let all = || work.users.iter().chain(&work.removed).chain(&work.placed);
        let kind = |new: &New| match new {
            New::Link(_) | New::Before(Content::Link(_)) => Some(Put::Link),
            New::Copy { .. } | New::Before(Content::File(_)) => Some(Put::File),
            New::Nothing => None,
        };
        let paths: Vec<_> = all().filter_map(|placement| Some((&placement.path, kind(&placement.new)?))).collect();
        let mut labels = labels::of_paths(self.home, &paths)?;
        let Claims { paths: claimed, labels: known, .. } = &mut self.claims;
        known.retain(|path, _| claimed.contains_key(path));
        for placement in [&mut work.users, &mut work.removed, &mut work.placed].into_iter().flatten() {
            placement.label = labels.remove(&placement.path);
            match &placement.label {
                Some(label) if claimed.contains_key(&placement.path) => {
                    known.insert(placement.path.clone(), label.clone());
                }
                _ => drop(known.remove(&placement.path)),
            }
        }
        Ok(())
    }

    /// Refuse two paths that lead to the same place on this host through a symlink that is not in the tree. One of them may be
    /// released by this deployment: releasing it would remove what is put there.
    fn check_places(&mut self) -> Result<(), HostError> {
        let (mut places, mut released) = (BTreeMap::new(), BTreeMap::new());
        for path in self.before.paths.keys().filter(|path| !self.sides.wants.external.contains_key(*path)) {
            // What can't be reached safely is left alone.
            if let Ok(Resolved::Place(place)) = Place::resolve(self.home, path) {
                released.insert(Resolved::Place(place).real(path), path);
            }
        }
        for path in self.sides.wants.external.keys() {
            let real = match Place::resolve(self.home, path) {
                Ok(resolved) => resolved.real(path),
                // This is reported where the path is changed.
                Err(HostError::External(_)) => continue,
                Err(error) => return Err(error),
            };
            if let Some(old) = released.get(&real).filter(|_| !self.before.paths.contains_key(path)) {
                self.problems.push(format!(
                    "'{old}' and '{path}' are the same place on the host: keep the first name, or deploy without either of \
                     them before"
                ));
            }
            if let Some(first) = places.insert(real, path) {
                self.problems.push(format!("'{first}' and '{path}' are the same place on the host"));
            }
        }
        Ok(())
    }

    /// The change at one path, if there is one.
    fn place(&mut self, change: &ExternalChange, work: &mut ExternalWork) -> Result<Option<Placement>, HostError> {
        let path = &change.path;
        let is_removed = change.change == Change::Remove;
        let place = match self.resolve(path) {
            Ok(Resolved::Place(place)) => Some(place),
            Ok(Resolved::Missing(_) | Resolved::Inside) if is_removed => None,
            Err(HostError::External(why)) if is_removed => {
                self.notes.push(format!("{why}: what is there now is left as it is"));
                None
            }
            Err(error) => return Err(error),
            Ok(Resolved::Missing(directories)) => {
                self.make(directories, change.class, work)?;
                None
            }
            Ok(Resolved::Inside) => return Err(HostError::External(format!("'{path}' leads into {STATE_DIR}"))),
        };
        if is_removed && place.is_none() {
            self.release_unreachable(path);
            return Ok(None);
        }
        let mut found = Found::Nothing;
        if let Some(place) = &place {
            found = place.found()?;
            if place.has(Sibling::Undo)? {
                return Err(HostError::External(format!(
                    "there is an unknown backup next to '{path}': inspect it, then remove it"
                )));
            }
            if !is_removed || found != Found::Nothing {
                place.check_writable(change.class == Class::Link, self.own_device()?)?;
            }
        }
        if let (Found::Directory, Some(place)) = (&found, &place) {
            return self.replace_directory(change, place);
        }
        match &place {
            _ if is_removed => self.release(path, &found),
            Some(place) if self.is_in_the_way(change, &found)? => self.obstacle(change, &found, place),
            _ => self.take(change, &found),
        }
    }

    /// Where `path` will lead once the symlinks that this deployment releases are gone.
    fn resolve(&self, path: &ExternalPath) -> Result<Resolved, HostError> {
        let given_up = self.sides.plan.external.iter().filter(|change| change.change == Change::Remove);
        let mut above = given_up.filter(|change| is_below(path, &change.path)).map(|change| &change.path);
        let Some(link) = above.find(|link| self.before.paths.contains_key(*link)) else {
            return Place::resolve(self.home, path);
        };
        let mut missing = vec![link.clone()];
        let rest = &path.as_str()[link.as_str().len() + 1..];
        let mut directories: Vec<&str> = rest.split('/').collect();
        directories.pop();
        for name in directories {
            let last = missing.last().unwrap_or(link);
            let next = ExternalPath::parse(&format!("{last}/{name}"));
            missing.push(next.map_err(|error| HostError::External(error.to_string()))?);
        }
        Ok(Resolved::Missing(missing))
    }

    /// Plan to create the missing directories.
    fn make(&mut self, directories: Vec<ExternalPath>, class: Class, work: &mut ExternalWork) -> Result<(), HostError> {
        if let Some(Resolved::Place(place)) =
            directories.first().map(|first| Place::resolve(self.home, first)).transpose()?
        {
            place.check_writable(class == Class::Link, self.own_device()?)?;
        }
        let early = class == Class::Sysusers;
        for directory in directories {
            let is_new = self.made.insert(directory.clone());
            self.claims.directories.insert(directory.clone());
            if early && !work.early_directories.contains(&directory) {
                work.directories.retain(|later| *later != directory);
                work.early_directories.push(directory);
            } else if is_new {
                work.directories.push(directory);
            }
        }
        Ok(())
    }

    /// Handle a directory at `path`: either a deployment created it and its content is released, or it replaced a
    /// deployed file. In both cases it is moved out of the way as a whole.
    fn replace_directory(&mut self, change: &ExternalChange, place: &Place) -> Result<Option<Placement>, HostError> {
        let path = &change.path;
        if let Some(claim) = self.before.paths.get(path).cloned() {
            if place.device()? != self.own_device()? {
                let why = "was replaced by a directory, on another file system than ours: move it away";
                return Err(HostError::External(format!("'{path}' {why}")));
            }
            if change.change == Change::Remove {
                let placement = self.release(path, &Found::Directory)?;
                return Ok(placement.map(|placement| Placement { old: Old::DriftedDirectory, ..placement }));
            }
            let (new, ours) = self.wanted_at(path)?;
            self.claims.paths.insert(path.clone(), PathClaim { app: change.app.clone(), before: claim.before, ours });
            return Ok(Some(Placement { path: path.clone(), new, old: Old::DriftedDirectory, label: None }));
        }
        if !self.before.directories.contains(path) {
            return Err(HostError::External(format!("'{path}' is a directory on the host: remove it there")));
        }
        self.check_given_up(path, place)?;
        self.claims.directories.retain(|directory| directory != path && !is_below(directory, path));
        let (new, ours) = self.wanted_at(path)?;
        let claim = PathClaim { app: change.app.clone(), before: Before::Absent, ours };
        self.claims.paths.insert(path.clone(), claim);
        Ok(Some(Placement { path: path.clone(), new, old: Old::OurDirectory, label: None }))
    }

    /// Refuse a directory in which something is not released by this deployment.
    fn check_given_up(&self, path: &ExternalPath, place: &Place) -> Result<(), HostError> {
        let given_up = |inner: &ExternalPath| {
            let mut changes = self.sides.plan.external.iter();
            let is_removed = changes.any(|change| change.path == *inner && change.change == Change::Remove);
            is_removed && self.before.paths.contains_key(inner)
        };
        for name in place.names()? {
            let inner = ExternalPath::parse(&format!("{path}/{}", name.to_string_lossy()));
            let known = inner.as_ref().ok().filter(|inner| given_up(inner) || self.before.directories.contains(*inner));
            match (known, inner.as_ref().map(|inner| Place::existing(self.home, inner))) {
                (Some(inner), Ok(Ok(Some(below)))) if self.before.directories.contains(inner) => {
                    self.check_given_up(inner, &below)?;
                }
                (Some(_), _) => {}
                (None, _) => {
                    let name = printable(name.as_encoded_bytes());
                    return Err(HostError::External(format!(
                        "'{path}' is a directory with '{name}' in it, which was not deployed: remove that on the host"
                    )));
                }
            }
        }
        Ok(())
    }

    fn own_device(&self) -> Result<u64, HostError> {
        let own = std::fs::metadata(self.home.directory()).during("look at", self.home.directory())?;
        Ok(std::os::unix::fs::MetadataExt::dev(&own))
    }

    /// Release a path whose directory no longer exists.
    fn release_unreachable(&mut self, path: &ExternalPath) {
        if self.claims.paths.remove(path).is_some_and(|claim| claim.before == Before::Kept) {
            let backup = printable(backup::of(self.home, path).as_os_str().as_encoded_bytes());
            self.notes.push(format!(
                "what was at '{path}' before can't be put back, because its directory is gone: it stays in '{backup}'"
            ));
        }
    }

    fn release(&mut self, path: &ExternalPath, found: &Found) -> Result<Option<Placement>, HostError> {
        let Some(claim) = self.claims.paths.remove(path) else { return Ok(None) };
        let new = match (claim.before, backup::content(self.home, path)?) {
            (Before::Absent, _) => New::Nothing,
            (Before::Kept, Some(content)) => New::Before(content),
            (Before::Kept, None) => {
                self.notes.push(format!("what was at '{path}' before can't be put back: its backup is gone"));
                New::Nothing
            }
        };
        let old = old_of_claim(&claim, found);
        if old == Old::Nothing && new == New::Nothing {
            return Ok(None);
        }
        Ok(Some(Placement { path: path.clone(), new, old, label: None }))
    }

    fn take(&mut self, change: &ExternalChange, found: &Found) -> Result<Option<Placement>, HostError> {
        let path = &change.path;
        let (new, ours) = self.wanted_at(path)?;
        let (old, before) = match (self.before.paths.get(path), found) {
            (Some(claim), found) => (old_of_claim(claim, found), claim.before),
            (None, Found::Nothing) => (Old::Nothing, Before::Absent),
            (None, Found::Content(content)) if self.is_equal(change, content, &ours)? => {
                self.notes.push(format!("'{path}' exists with the same content and is taken over"));
                (Old::Foreign, Before::Kept)
            }
            (None, Found::Content(_)) => {
                let note = format!("'{path}' was there and differs from '{}/{}'", change.app, change.file);
                self.notes.push(format!("{note}: it is taken over, and put back when the path is given up"));
                (Old::Foreign, Before::Kept)
            }
            (None, Found::Directory | Found::Special) => {
                return Err(HostError::External(format!("'{path}' is a special file on the host: remove it there")));
            }
        };
        self.claims.paths.insert(path.clone(), PathClaim { app: change.app.clone(), before, ours });
        Ok(Some(Placement { path: path.clone(), new, old, label: None }))
    }

    /// The new apps all of whose files are on the host already, where links and copies are to be.
    pub(super) fn taken_over_as_they_are(&self) -> Result<BTreeSet<AppName>, HostError> {
        let new = self.sides.plan.apps.iter().filter(|app| app.change == Change::Add);
        let mut apps: BTreeMap<&AppName, BTreeSet<&TreePath>> = new.map(|app| (&app.app, BTreeSet::new())).into_map();
        let mut differs = BTreeSet::new();
        for change in self.sides.plan.external.iter() {
            let Some(there) = apps.get_mut(&change.app) else { continue };
            let found = match Place::existing(self.home, &change.path) {
                Ok(Some(place)) => place.found()?,
                Ok(None) | Err(HostError::External(_)) => Found::Nothing,
                Err(error) => return Err(error),
            };
            let is_there = match &found {
                Found::Content(content) => self.is_equal(change, content, &self.wanted_at(&change.path)?.1)?,
                Found::Nothing | Found::Directory | Found::Special => false,
            };
            match is_there {
                true => drop(there.insert(&change.file)),
                false => drop(differs.insert(&change.app)),
            }
        }
        let is_all = |app: &AppName, there: &BTreeSet<&TreePath>| {
            let files = self.sides.new.apps.get(app).into_iter().flat_map(|app| app.files.keys());
            !there.is_empty()
                && files.into_iter().all(|file| there.contains(file) || file.as_bytes() == b"manifest.json")
        };
        let whole = apps.iter().filter(|(app, there)| !differs.contains(**app) && is_all(app, there));
        Ok(whole.map(|(app, _)| (*app).clone()).collect())
    }

    /// Whether a file that no deployment put there keeps ours from its place.
    fn is_in_the_way(&self, change: &ExternalChange, found: &Found) -> Result<bool, HostError> {
        let (false, Found::Content(content)) = (self.before.paths.contains_key(&change.path), found) else {
            return Ok(false);
        };
        if self.staged.in_the_way == InTheWay::TakenOver {
            return Ok(false);
        }
        Ok(!self.is_equal(change, content, &self.wanted_at(&change.path)?.1)?)
    }

    /// Refuse to replace a file that no deployment put there. The operator gets its content, if it is small.
    fn obstacle<T>(&mut self, change: &ExternalChange, found: &Found, place: &Place) -> Result<T, HostError> {
        let deployed = format!("{}/{}", change.app, change.file);
        let what = format!("exists and differs from '{deployed}'");
        let sent: usize = self.obstacles.iter().filter_map(|one| one.edit.as_ref()).map(|edit| edit.now.len()).sum();
        let is_file = matches!(found, Found::Content(Content::File(_)));
        let now =
            if is_file && sent < SENT { place.file().ok().and_then(|mut file| small_text(&mut file)) } else { None };
        let edit = now.map(|now| Edit { deployed, now });
        let problem = format!("'{}' {what}: make the two equal, or take it over with '-o take-over'", change.path);
        if self.obstacles.len() < OBSTACLES {
            self.obstacles.push(Drift { subject: Subject::Path(change.path.as_str().into()), what, edit });
        }
        Err(HostError::External(problem))
    }

    /// The new content of `path`.
    fn wanted_at(&self, path: &ExternalPath) -> Result<(New, Content), HostError> {
        let claim = self.sides.wants.external.get(path);
        let claim =
            claim.ok_or_else(|| HostError::External(format!("the plan contains '{path}', but the tree does not")))?;
        match &claim.kind {
            ClaimKind::Link => {
                let target = format!("{}/{}", Home::stable_path(&claim.app), path_text(&claim.file)?);
                Ok((New::Link(target.clone()), Content::Link(target)))
            }
            ClaimKind::Copy(..) => {
                let sha256 = digest_of(&self.staged.file(&claim.app, &claim.file))?;
                let new = New::Copy { app: claim.app.clone(), file: claim.file.clone(), sha256: sha256.clone() };
                Ok((new, Content::File(sha256)))
            }
        }
    }

    /// Whether an unclaimed path already has the content that would be deployed.
    fn is_equal(&self, change: &ExternalChange, found: &Content, ours: &Content) -> Result<bool, HostError> {
        if found == ours {
            return Ok(true);
        }
        let staged = self.staged.file(&change.app, &change.file);
        match found {
            Content::File(digest) if change.class == Class::Link && staged.is_file() => {
                Ok(*digest == digest_of(&staged)?)
            }
            Content::File(_) | Content::Link(_) => Ok(false),
        }
    }

    /// Claim the paths whose content stays the same, but whose app may have changed.
    pub(super) fn claim_the_rest(&mut self) {
        for (path, claim) in &self.sides.wants.external {
            if let Some(held) = self.claims.paths.get_mut(path) {
                held.app = claim.app.clone();
            }
        }
    }
}

/// What is at a claimed path now.
fn old_of_claim(claim: &PathClaim, found: &Found) -> Old {
    match found {
        Found::Nothing => Old::Nothing,
        Found::Content(content) if *content == claim.ours => Old::Ours,
        Found::Content(_) | Found::Special => Old::Drifted,
        Found::Directory => Old::DriftedDirectory,
    }
}

fn is_below(path: &ExternalPath, directory: &ExternalPath) -> bool {
    path != directory && is_within(path.as_str(), directory.as_str())
}

fn path_text(path: &TreePath) -> Result<&str, HostError> {
    std::str::from_utf8(path.as_bytes()).map_err(|_| HostError::External(format!("'{path}' is not UTF-8")))
}
