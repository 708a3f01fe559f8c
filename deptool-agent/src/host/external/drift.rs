//! Finds drift: differences between this host and what was deployed. This changes nothing.
//!
//! A deployment looks for drift before it decides anything, and puts right what it is responsible for: see
//! [`crate::host::deploy::mend`]. `git deptool verify` does the same, and examines units more closely.

mod first;
mod units;

pub use first::{FirstLook, Loaded, Seen, find_suspects, load};
pub use units::foreign;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read,
    path::PathBuf,
    sync::Arc,
};

use crate::{
    host::{
        external::{
            place::{Found, Place, Resolved},
            rebuild::rebuild,
            stamps::{self, Stamps},
        },
        secrets::{self, drift::Difference},
        state::{
            checkout,
            error::{HostError, Whose},
            generations::{self, Note},
            identity::{deployed, hostname_differs, load_tree},
            kind::Kind,
            layout::{Home, MOVED_AWAY},
            ledger::{Claims, Content, PathClaim},
            stamp::Stamp,
        },
    },
    shared::{
        desired::Desired,
        name::{AppName, UnitName},
        ordered::Ordered as _,
        outcome::{Deployed, Drift, Edit, Goal, Subject},
        path::{ExternalPath, STATE_DIR, TreePath},
        store::Store,
        text::printable,
        tree::{Apps, HostTree},
    },
    system::System,
};

/// The message for a file with another content.
const EDITED: &str = "was edited";
/// The most bytes of a content that is sent, because a message may contain many.
const SMALL: u64 = 8 << 10;

/// How closely to examine units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Without a call for each unit that is well.
    Deployment,
    /// As closely as possible.
    Verify,
}

/// One difference.
#[derive(Debug, Clone)]
pub struct Finding {
    pub drift: Drift,
    pub item: Item,
    /// The apps that are affected. None for something of the host as a whole.
    pub apps: BTreeSet<AppName>,
    /// Whether something else is in its place, which must be kept.
    pub stands: bool,
}

/// The thing that has drifted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Something that every deployment writes again.
    Links,
    /// Something that no deployment can put right.
    Host,
    /// Something in an app's checkout. `Some` place if a file is there.
    File {
        tree: Option<String>,
        file: Option<TreePath>,
    },
    Path(ExternalPath),
    /// A decrypted secret, with its encrypted file. Every deployment writes it again, and nothing is kept of what stands there.
    Secret(TreePath),
    Unit {
        unit: UnitName,
        remedy: Remedy,
    },
    /// A foreign file that takes precedence over a deployed unit file, or changes it.
    Foreign {
        unit: UnitName,
        path: ExternalPath,
    },
}

/// How to put a unit right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Remedy {
    pub enable: bool,
    /// Whether to start it, because it does not run, or not properly.
    pub start: bool,
}

/// What was deployed, for the comparison.
#[derive(Clone, Copy)]
pub struct Compared<'a> {
    pub home: &'a Home,
    pub commit: Goal,
    pub tree: &'a HostTree,
    pub wants: &'a Desired,
    pub claims: &'a Claims,
    /// The claimed paths to look at.
    pub suspects: &'a [ExternalPath],
}

/// Compare the host with what was deployed, as closely as possible. Empty if there is no difference, or if nothing is
/// deployed.
pub fn verify(home: &Home, system: &mut dyn System) -> Result<Vec<Finding>, HostError> {
    let Some(store) = Store::open_to_read(&home.store())? else { return Ok(Vec::new()) };
    let Some(deployed) = deployed(home)? else { return Ok(Vec::new()) };
    let claims = load(home);
    let first = FirstLook::begin(home, generations::current(home)?, &claims);
    let tree = load_tree(&store, &deployed.host, deployed.commit, &mut Apps::new());
    let tree = tree.map_err(|error| HostError::tree(Whose::Deployed, error))?;
    let wants = Desired::of(&tree).map_err(|error| HostError::tree(Whose::Deployed, error))?;
    let mut found = Vec::new();
    let Seen { unchanged, suspects } = first.end();
    let (claims, suspects) = match claims {
        Ok(Some(claims)) => (claims, suspects),
        damaged => {
            let what = match damaged {
                Err(HostError::Damaged(damage)) => damage.what,
                Err(error) => return Err(error),
                Ok(_) => "is missing".into(),
            };
            found.push(host(format!("{STATE_DIR}/state/claims"), what, Item::Links));
            // The next deployment will do the same.
            let claims = rebuild(home, &store, &wants)?.claims;
            let suspects = find_suspects(home, &claims);
            (Arc::new(claims), suspects)
        }
    };
    found.extend(hostname(home, &deployed)?);
    let commit = Goal::Commit(deployed.commit);
    let compared = Compared { home, commit, tree: &tree, wants: &wants, claims: &claims, suspects: &suspects };
    found.extend(look(compared, &unchanged.iter().map(|(app, ..)| app).into_set(), system, Depth::Verify)?);
    Ok(found)
}

/// Compare the host with what was deployed. The checkouts of the apps in `same` are known to be unchanged.
pub fn look(
    compared: Compared<'_>,
    same: &BTreeSet<&AppName>,
    system: &mut dyn System,
    depth: Depth,
) -> Result<Vec<Finding>, HostError> {
    let mut looking = Looking { compared, depth, found: Vec::new() };
    looking.generation(same)?;
    looking.secrets()?;
    looking.external(&stamps::load(compared.home))?;
    looking.units(system)?;
    Ok(looking.found)
}

/// Check whether the host was renamed since the deployment.
fn hostname(home: &Home, deployed: &Deployed) -> Result<Option<Finding>, HostError> {
    if !home.is_live() {
        return Ok(None);
    }
    match hostname_differs(home, &deployed.host)? {
        Some(name) => {
            Ok(Some(host("/etc/hostname".into(), format!("has '{name}', not '{}'", deployed.host), Item::Host)))
        }
        None => Ok(None),
    }
}

fn host(path: String, what: impl Into<String>, item: Item) -> Finding {
    Finding {
        drift: Drift { subject: Subject::Path(path), what: what.into(), edit: None },
        item,
        apps: BTreeSet::new(),
        stands: false,
    }
}

struct Looking<'a> {
    compared: Compared<'a>,
    depth: Depth,
    found: Vec<Finding>,
}

impl Looking<'_> {
    /// Check the symlinks to the generation, and its checkouts.
    fn generation(&mut self, same: &BTreeSet<&AppName>) -> Result<(), HostError> {
        let Compared { home, commit, tree, .. } = self.compared;
        for path in home.moved_away() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            self.found.push(host(format!("{STATE_DIR}/{name}"), MOVED_AWAY, Item::Host));
        }
        let current = home.generation_of(&home.current())?;
        let link = |link: PathBuf, path: String, what: &str| {
            let stands = !matches!(Kind::of(&link), Kind::Nothing | Kind::Symlink);
            Finding { stands, ..host(path, what, Item::Links) }
        };
        let is_deployed = |number: &u32| Note::read(home, *number).is_some_and(|note| note.commit == commit);
        match current.filter(is_deployed) {
            None => {
                let what = "does not lead to what is deployed";
                self.found.push(link(home.current(), format!("{STATE_DIR}/current"), what));
            }
            Some(number) => {
                for (name, app) in tree.apps.iter().filter(|(name, _)| !same.contains(name)) {
                    self.checkout(number, name, app);
                }
            }
        }
        for name in tree.apps.keys().filter(|name| !home.has_stable_path(name)) {
            let path = home.apps().join(name.as_str()).join("current");
            self.found.push(link(path, Home::stable_path(name), "is not the link that was made"));
        }
        Ok(())
    }

    /// Check the decrypted secrets.
    fn secrets(&mut self) -> Result<(), HostError> {
        let Compared { home, tree, .. } = self.compared;
        for Difference { app, name, file, what, can_be_mended } in secrets::drift::differences(home, tree)? {
            let item = match file {
                _ if !can_be_mended => Item::Host,
                Some(file) => Item::Secret(file),
                None => Item::Links,
            };
            let path = secrets::stable_path(&app, name.as_deref().unwrap_or_default());
            let found = host(path.trim_end_matches('/').to_owned(), what, item);
            self.found.push(Finding { apps: [app].into_iter().into_set(), ..found });
        }
        Ok(())
    }

    fn checkout(&mut self, number: u32, name: &AppName, app: &crate::shared::tree::App) {
        let stable = Home::stable_path(name);
        let (Compared { home, .. }, depth) = (self.compared, self.depth);
        let mut add = |path: String, what: &str, tree: Option<String>, file: Option<TreePath>| {
            let edit = edit(depth, what, || {
                let (tree, file) = (tree.as_ref()?, file.as_ref()?);
                let now = File::open(home.trees().join(tree).join(file.as_path())).ok()?;
                Some((format!("{name}/{file}"), now))
            });
            let stands = matches!(what, EDITED | "was added" | "was replaced");
            self.found.push(Finding {
                drift: Drift { subject: Subject::Path(path), what: what.into(), edit },
                item: Item::File { tree, file },
                apps: [name.clone()].into_iter().into_set(),
                stands,
            });
        };
        let Some(tree) = home.tree_of(number, name) else {
            return add(stable, "is missing", None, None);
        };
        for difference in checkout::differences(home, &tree, app) {
            match difference.file {
                Some(file) => add(format!("{stable}/{file}"), difference.what, Some(tree.clone()), Some(file)),
                None => add(stable.clone(), difference.what, None, None),
            }
        }
    }

    /// Check the external paths that may have changed.
    fn external(&mut self, stamps: &Stamps) -> Result<(), HostError> {
        let (Compared { home, claims, wants, suspects, .. }, depth) = (self.compared, self.depth);
        for path in suspects {
            let Some(claim) = claims.paths.get(path) else { continue };
            let name = path.relative().file_name().unwrap_or_default();
            let known = stamps.get(path);
            let place = match Place::resolve(home, path) {
                Ok(Resolved::Place(place)) => Ok(Some(place)),
                Ok(Resolved::Missing(_)) => Ok(None),
                Ok(Resolved::Inside) => Err(HostError::External(format!("leads into {STATE_DIR}"))),
                Err(error) => Err(error),
            };
            let what = match &place {
                Ok(None) => Some(("is missing".to_owned(), false)),
                Ok(Some(place)) => difference(home, place, claim, known)?.or_else(|| {
                    let is_labelled = place.has_label_beside(name, claims.labels.get(path));
                    (!is_labelled).then(|| ("has another SELinux label".into(), false))
                }),
                // Most of these begin with the path, which is named anyway.
                Err(HostError::External(why)) => {
                    Some((why.strip_prefix(&format!("'{path}' ")).unwrap_or(why).to_owned(), false))
                }
                Err(_) => return place.map(drop),
            };
            if let Some((what, stands)) = what {
                let edit = edit(depth, &what, || {
                    let source = wants.external.get(path)?;
                    Some((format!("{}/{}", source.app, source.file), place.ok()??.file().ok()?))
                });
                self.found.push(Finding {
                    drift: Drift { subject: Subject::Path(path.as_str().into()), what, edit },
                    item: Item::Path(path.clone()),
                    apps: [claim.app.clone()].into_iter().into_set(),
                    stands,
                });
            }
        }
        Ok(())
    }
}

/// Whether a file has the mode and owner of our copies.
fn is_as_made(home: &Home, stamp: &Stamp) -> bool {
    stamp.mode & 0o7777 == 0o644 && (!home.is_live() || stamp.owner == (0, 0))
}

/// How a claimed path differs, and whether something else is there.
fn difference(
    home: &Home,
    place: &Place,
    claim: &PathClaim,
    known: Option<&Stamp>,
) -> Result<Option<(String, bool)>, HostError> {
    let Some(stamp) = place.stamp()? else { return Ok(Some(("is missing".into(), false))) };
    let is_as_made = is_as_made(home, &stamp);
    let is_file = matches!(claim.ours, Content::File(_));
    if is_file && known == Some(&stamp) && is_as_made {
        return Ok(None);
    }
    let other = |what: &str| Some((what.to_owned(), true));
    Ok(match (&claim.ours, place.found()?) {
        (_, Found::Nothing) => Some(("is missing".into(), false)),
        (ours, Found::Content(now)) if *ours == now => {
            (is_file && !is_as_made).then(|| ("has another mode or owner".into(), false))
        }
        (Content::File(_), Found::Content(Content::File(_))) => other(EDITED),
        (Content::Link(_), Found::Content(Content::Link(target))) => {
            other(&format!("leads to '{}'", printable(target.as_bytes())))
        }
        (Content::Link(_), Found::Content(Content::File(_))) => other("was replaced by a file"),
        (Content::File(_), Found::Content(Content::Link(_))) => other("was replaced by a symlink"),
        (_, Found::Directory) => other("was replaced by a directory"),
        (_, Found::Special) => other("was replaced by a special file"),
    })
}

/// The edit of a file, if the operator asks for it. `find` returns the name of the deployed file, and the current file.
fn edit(depth: Depth, what: &str, find: impl FnOnce() -> Option<(String, File)>) -> Option<Edit> {
    if depth != Depth::Verify || what != EDITED {
        return None;
    }
    let (deployed, mut now) = find()?;
    small_text(&mut now).map(|now| Edit { deployed, now })
}

/// The content of a small file, if it is text.
pub fn small_text(file: &mut File) -> Option<String> {
    let mut bytes = Vec::new();
    file.take(SMALL + 1).read_to_end(&mut bytes).ok()?;
    String::from_utf8(bytes).ok().filter(|text| text.len() as u64 <= SMALL && !text.contains('\0'))
}

/// The names in a directory of the host. None if it can't be read.
fn names(home: &Home, directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(home.root().join(&directory[1..])).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).into_set()
}
