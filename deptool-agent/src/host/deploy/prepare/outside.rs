//! Deciding what happens at paths outside of `/var/lib/deptool`.

use std::collections::BTreeMap;

use crate::{
    host::{
        deploy::{
            action::{New, Old, Placement},
            prepare::Deciding,
        },
        external::place::{Found, Place, Resolved, Sibling, digest_of},
        state::{
            error::HostError,
            layout::Home,
            ledger::{Before, Content, PathClaim},
        },
    },
    shared::{
        desired::ClaimKind,
        path::{ExternalPath, TreePath},
        plan::{Change, Class, OutsideChange},
    },
};

/// What is to be done with paths outside.
#[derive(Default)]
pub(super) struct OutsideWork {
    /// sysusers snippets come before everything else.
    pub(super) users: Vec<Placement>,
    pub(super) removed: Vec<Placement>,
    pub(super) placed: Vec<Placement>,
    pub(super) directories: Vec<ExternalPath>,
}

impl Deciding<'_> {
    pub(super) fn outside(&mut self) -> Result<OutsideWork, HostError> {
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
                Err(HostError::External(problem)) => self.problems.push(problem),
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
                Err(HostError::External(_)) => continue,
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
            return Err(HostError::External(format!(
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

    fn release(
        &mut self,
        path: &ExternalPath,
        found: &Found,
        has_backup: bool,
    ) -> Result<Option<Placement>, HostError> {
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
                return Err(HostError::External(format!(
                    "'{path}' exists and differs from '{}/{}': remove it on the host, or make the two equal",
                    change.app, change.file
                )));
            }
            (None, Found::Other(what)) => {
                return Err(HostError::External(format!("'{path}' is {what} on the host: remove it there")));
            }
        };
        self.claims.paths.insert(path.clone(), PathClaim { app: change.app.clone(), before, ours });
        Ok(Some(Placement { path: path.clone(), new, old: old.unwrap_or(Old::Nothing) }))
    }

    /// What a path of ours holds now. `None` if it is gone.
    fn old_of_claim(
        &mut self,
        path: &ExternalPath,
        claim: &PathClaim,
        found: &Found,
    ) -> Result<Option<Old>, HostError> {
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
                Err(HostError::External(format!("'{path}' was replaced by {what} on the host: remove it there")))
            }
        }
    }

    /// What the new tree wants at `path`.
    fn wanted_at(&self, path: &ExternalPath) -> Result<(New, Content), HostError> {
        let claim = self.sides.wants.outside.get(path);
        let claim = claim.ok_or_else(|| HostError::External(format!("the plan has '{path}', the tree has not")))?;
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

    /// Whether what is at an unclaimed path is what we would put there.
    fn is_equal(&self, change: &OutsideChange, found: &Content, ours: &Content) -> Result<bool, HostError> {
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

    /// Paths whose content stays but whose app may be another now.
    pub(super) fn claim_the_rest(&mut self) {
        for (path, claim) in &self.sides.wants.outside {
            if let Some(held) = self.claims.paths.get_mut(path) {
                held.app = claim.app.clone();
            }
        }
    }
}

fn path_text(path: &TreePath) -> Result<&str, HostError> {
    std::str::from_utf8(path.as_bytes()).map_err(|_| HostError::External(format!("'{path}' is not UTF-8")))
}
