//! A first look at everything that was deployed: it sorts out what is as it was. That is mostly all of it.
//!
//! Looking at ten thousand files takes as long as reading their trees from the store, so another thread begins with it.

use std::{
    ffi::OsStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::is_as_made;
use crate::{
    host::{
        external::{place::Place, stamps},
        state::{
            checkout::{self, Unchanged},
            error::HostError,
            layout::Home,
            ledger::Claims,
        },
    },
    shared::{beside::Beside, name::AppName, path::ExternalPath},
};

/// What the first look has found.
#[derive(Default)]
pub struct Seen {
    pub unchanged: Unchanged,
    /// The claimed paths that may have changed.
    pub suspects: Vec<ExternalPath>,
}

/// The ledger, if there is one. The caller loads it: if the other thread did, both would wait for each other's memory.
pub type Loaded = Result<Option<Arc<Claims>>, HostError>;

pub fn load(home: &Home) -> Loaded {
    Ok(Claims::load(home)?.map(Arc::new))
}

/// A first look that is under way.
pub struct FirstLook {
    work: Arc<Work>,
    other: Option<Beside<Seen>>,
}

impl FirstLook {
    /// Begin to look at the claimed paths, and at the checkouts of a generation.
    pub fn begin(home: &Home, generation: Option<u32>, claims: &Loaded) -> FirstLook {
        let work = Arc::new(Work {
            home: home.clone(),
            generation: generation.unwrap_or_default(),
            apps: generation.map(|number| checkout::apps(home, number)).unwrap_or_default(),
            claims: claims.as_ref().ok().cloned().flatten(),
            next: AtomicUsize::new(0),
        });
        let its = work.clone();
        FirstLook { work, other: Beside::begin(move || its.share()) }
    }

    /// The result. This looks at what the other thread has not begun with: at everything, if there is no other thread.
    pub fn end(self) -> Seen {
        let FirstLook { work, other } = self;
        let mut seen = work.share();
        if let Some(others) = other.and_then(Beside::end) {
            seen.unchanged.extend(others.unchanged);
            seen.suspects.extend(others.suspects);
        }
        seen
    }
}

/// What there is to look at. Each thread takes one item after another: the claimed paths, and then the checkout of each app.
struct Work {
    home: Home,
    generation: u32,
    apps: Vec<AppName>,
    claims: Option<Arc<Claims>>,
    next: AtomicUsize,
}

impl Work {
    /// Look at the items that no other thread takes.
    fn share(&self) -> Seen {
        let (mut seen, mut buffer) = (Seen::default(), Vec::new());
        loop {
            let next = self.next.fetch_add(1, Ordering::Relaxed);
            if next == 0 {
                seen.suspects =
                    self.claims.as_ref().map(|claims| find_suspects(&self.home, claims)).unwrap_or_default();
                continue;
            }
            let Some(app) = self.apps.get(next - 1) else { return seen };
            seen.unchanged.extend(checkout::unchanged(&self.home, self.generation, app, &mut buffer));
        }
    }
}

/// The claimed paths that may have changed: all that are not clearly what was put there.
pub fn find_suspects(home: &Home, claims: &Claims) -> Vec<ExternalPath> {
    let (stamps, mut suspects) = (stamps::load(home), Vec::new());
    let mut directory: Option<(&str, Place)> = None;
    for (path, claim) in &claims.paths {
        let mut is_well = || {
            let (parent, name) = path.as_str().rsplit_once('/')?;
            // Paths are sorted, so the next one is mostly in the same directory.
            if directory.as_ref().is_none_or(|(known, _)| *known != parent) {
                directory = Some((parent, Place::existing(home, path).ok()??));
            }
            let ((_, place), name, known) = (directory.as_ref()?, OsStr::new(name), stamps.get(path));
            let is_usual = known.is_none_or(|stamp| is_as_made(home, stamp));
            let is_well = is_usual && place.has_beside(name, &claim.ours, known).ok()?;
            Some(is_well && place.has_label_beside(name, claims.labels.get(path)))
        };
        if is_well() != Some(true) {
            suspects.push(path.clone());
        }
    }
    suspects
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::host::state::ledger::{Before, Content, PathClaim};

    #[test]
    fn whichever_thread_looks_what_was_changed_by_hand_is_found() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(root.path());
        home.create().unwrap();
        fs::create_dir_all(home.generation(1)).unwrap();
        for app in ["a", "edited", "z"] {
            let tree = home.trees().join(app);
            fs::create_dir_all(tree.join("below")).unwrap();
            fs::write(tree.join("below/file"), app).unwrap();
            checkout::record(&home, app).unwrap();
            symlink(&tree, home.generation(1).join(app)).unwrap();
        }
        fs::write(home.trees().join("edited/below/file"), "by hand").unwrap();
        let mut claims = Claims::default();
        for name in ["a", "changed", "gone/x", "z"] {
            let app = AppName::parse(b"a").unwrap();
            let claim = PathClaim { app, before: Before::Absent, ours: Content::Link("as deployed".into()) };
            claims.paths.insert(ExternalPath::parse(&format!("/etc/{name}")).unwrap(), claim);
        }
        claims.save(&home).unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        for (name, target) in [("a", "as deployed"), ("changed", "by hand"), ("z", "as deployed")] {
            symlink(target, root.path().join("etc").join(name)).unwrap();
        }
        for is_alone in [true, false] {
            let FirstLook { work, other } = FirstLook::begin(&home, Some(1), &load(&home));
            let others = other.unwrap().end().unwrap();
            if is_alone {
                work.next.store(0, Ordering::Relaxed);
            }
            let other = if is_alone { None } else { Beside::begin(|| others) };
            let mut seen = FirstLook { work, other }.end();
            seen.unchanged.sort();
            let same: Vec<&str> = seen.unchanged.iter().map(|(_, tree)| tree.as_str()).collect();
            let suspects: Vec<&str> = seen.suspects.iter().map(ExternalPath::as_str).collect();
            assert_eq!((&same[..], &suspects[..]), (&["a", "z"][..], &["/etc/changed", "/etc/gone/x"][..]));
        }
    }
}
