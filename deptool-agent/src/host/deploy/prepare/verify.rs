//! Checks changed unit files with `systemd-analyze verify` before systemd uses them.
//!
//! It gets copies of the tree's units in which the stable paths of apps are replaced by the paths of the staged files,
//! so that it finds deployed programs. Lines that can't be parsed and missing programs refuse the deployment. Other
//! messages about our files become notes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use crate::{
    host::{
        deploy::prepare::Staged,
        state::{
            error::{Context, HostError},
            layout::Home,
        },
    },
    shared::{
        desired::{Claim, ClaimKind, Snippet},
        manifest::Mode,
        name::{AppName, UnitName},
        ordered::Ordered as _,
        path::{ExternalPath, TreePath, is_within},
        text::{in_one_line, printable},
        tree::FileKind,
        unit_file::Facts,
    },
    system::System,
};

const OURS: &str = "/etc/systemd/system";
/// The directories with the host's units, in systemd's order.
const HOSTS: [&str; 4] = [OURS, "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"];

/// Messages about lines that do not have the intended effect. systemd ignores some of these lines, but an ignored value
/// was probably misspelt.
const WRONG: [&str; 9] = [
    "Failed to parse",
    "Missing '='",
    "Invalid section header",
    "Assignment outside of section",
    "Neither a valid executable name",
    "fatal error",
    "Refusing.",
    "bad unit file setting",
    "failed to load properly",
];

/// Verify the changed unit files. Returns notes for the operator.
pub fn run(staged: &Staged<'_>, system: &mut dyn System) -> Result<Vec<String>, HostError> {
    let scratch = Scratch { staged, directory: staged.home.generation(staged.generations.1).join(".verify") };
    let changed = scratch.changed();
    let units = scratch.affected(&changed);
    if units.is_empty() {
        return Ok(Vec::new());
    }
    let verified = scratch.verify(&changed, &units, system);
    let removed = fs::remove_dir_all(&scratch.directory).during("remove", &scratch.directory);
    let (wrong, notes) = verified?;
    removed?;
    if wrong.is_empty() { Ok(notes) } else { Err(HostError::refused(in_one_line(wrong))) }
}

/// `x.service: Command /x is not executable: No such file or directory`. The unit and the program.
fn missing_program(line: &str) -> Option<(&str, &str)> {
    let (unit, rest) = line.split_once(": Command ")?;
    rest.split_once(" is not executable").map(|(program, _)| (unit, program))
}

struct Scratch<'a> {
    staged: &'a Staged<'a>,
    directory: PathBuf,
}

impl Scratch<'_> {
    /// What is wrong with these units, and notes about them.
    fn verify(
        &self,
        changed: &BTreeSet<&str>,
        units: &BTreeSet<UnitName>,
        system: &mut dyn System,
    ) -> Result<(Vec<String>, Vec<String>), HostError> {
        let files = self.write(units)?;
        let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        let output = if files.is_empty() { None } else { self.staged.home.wait_for(|| system.verify(&files))? };
        let (mut wrong, mut notes) = (Vec::new(), Vec::new());
        for line in output.unwrap_or_default().lines() {
            let line = printable(line.trim().as_bytes());
            let Some(line) = self.ours(&line, changed, units) else { continue };
            let into = match missing_program(&line) {
                Some((unit, program)) if self.comes_along(program) || self.may_hide(unit, program) => continue,
                Some(_) => &mut wrong,
                None if self.misses_a_quadlets_unit(&line) => continue,
                None if WRONG.iter().any(|text| line.contains(text)) => &mut wrong,
                None => &mut notes,
            };
            if !into.contains(&line) {
                into.push(line);
            }
        }
        Ok((wrong, notes))
    }

    /// Whether a unit may have another file at `program` than the host, in an image for example.
    fn may_hide(&self, unit: &str, program: &str) -> bool {
        let Ok(name) = UnitName::parse(unit.as_bytes()) else { return false };
        let snippets = Self::units_of(&self.staged.sides.wants.external);
        let of_unit = snippets.filter(|(.., snippet)| snippet.affects(&name)).map(|(path, ..)| path);
        let mut files = of_unit.chain([unit]).map(|path| fs::read(self.directory.join(path)).unwrap_or_default());
        files.any(|text| Facts::of(&String::from_utf8_lossy(&text)).may_hide(program))
    }

    /// The unit files and drop-ins of the tree: the path below the directory of units, and the claim.
    fn units_of(external: &BTreeMap<ExternalPath, Claim>) -> impl Iterator<Item = (&str, &Claim, &Snippet)> {
        external.iter().filter_map(|(path, claim)| match &claim.kind {
            ClaimKind::Copy(snippet @ (Snippet::Unit(_) | Snippet::DropIn(_)), _) => {
                Some((path.as_str().strip_prefix(OURS)?.strip_prefix('/')?, claim, snippet))
            }
            _ => None,
        })
    }

    /// The changed files, as paths below the directory of units.
    fn changed(&self) -> BTreeSet<&str> {
        let changes = self.staged.sides.plan.external.iter();
        changes.filter_map(|change| change.path.as_str().strip_prefix(OURS)?.strip_prefix('/')).into_set()
    }

    /// The units that these files define or affect, as far as they exist after the deployment.
    fn affected(&self, changed: &BTreeSet<&str>) -> BTreeSet<UnitName> {
        let sides = self.staged.sides;
        let made = Self::units_of(&sides.wants.external).filter_map(|(_, _, snippet)| match snippet {
            Snippet::Unit(unit) => Some(unit),
            _ => None,
        });
        let known = made.chain(sides.wants.enabled.keys()).chain(sides.wants.watched.keys()).into_set();
        let mut units = BTreeSet::new();
        for (path, _, snippet) in Self::units_of(&sides.had.external).chain(Self::units_of(&sides.wants.external)) {
            if !changed.contains(path) {
                continue;
            }
            units.extend(known.iter().filter(|unit| snippet.affects(unit)).map(|unit| (*unit).clone()));
            if let Snippet::DropIn(stem) = snippet {
                units.extend(UnitName::parse(stem.as_bytes()));
            }
        }
        units
    }

    /// Write the copies. Returns the files of `units`. Units without a file, such as those of quadlets, are left out.
    fn write(&self, units: &BTreeSet<UnitName>) -> Result<Vec<PathBuf>, HostError> {
        let Staged { sides, .. } = self.staged;
        fs::create_dir_all(&self.directory).during("create", &self.directory)?;
        // A removed file is still on the host. An empty file hides it.
        let gone = Self::units_of(&sides.had.external).map(|(path, ..)| (path, None));
        let there = Self::units_of(&sides.wants.external).map(|(path, claim, _)| (path, Some(claim)));
        for (path, claim) in gone.chain(there) {
            let text = match claim {
                Some(claim) if self.is_check(claim, path) => {
                    // A check runs as a oneshot, whatever its unit file says. See [`super::checks`].
                    [self.mapped(&claim.app, &claim.file)?.as_slice(), b"\n[Service]\nType=oneshot\n"].concat()
                }
                Some(claim) => self.mapped(&claim.app, &claim.file)?,
                None if path.contains('/') => Vec::new(),
                None => continue,
            };
            self.put(path, &text)?;
        }
        let mut files = Vec::new();
        for unit in units {
            let file = self.directory.join(unit.as_str());
            if !file.exists() {
                let mut places = HOSTS.iter().map(|directory| self.staged.home.root().join(&directory[1..]));
                let text = places.find_map(|place| fs::read(place.join(unit.as_str())).ok());
                // The file of a masked unit is empty.
                let Some(text) = text.filter(|text| !text.is_empty()) else { continue };
                self.put(unit.as_str(), &text)?;
            }
            files.push(file);
        }
        Ok(files)
    }

    fn is_check(&self, claim: &Claim, path: &str) -> bool {
        let app = self.staged.sides.new.apps.get(&claim.app);
        app.is_some_and(|app| app.manifest.checks.iter().any(|unit| unit.as_str() == path))
    }

    /// Whether the line reports a missing unit that Podman's generator makes of a quadlet in the tree.
    fn misses_a_quadlets_unit(&self, line: &str) -> bool {
        let external = &self.staged.sides.wants.external;
        let mut quadlets = external.iter().filter(|(path, _)| path.as_str().starts_with("/etc/containers/"));
        line.contains("not found")
            && quadlets.any(|(_, claim)| {
                matches!(&claim.kind, ClaimKind::Copy(Snippet::Unit(unit), _) if line.contains(unit.as_str()))
            })
    }

    fn put(&self, path: &str, text: &[u8]) -> Result<(), HostError> {
        let file = self.directory.join(path);
        if let Some(above) = file.parent() {
            fs::create_dir_all(above).during("create", above)?;
        }
        fs::write(&file, text).during("write", &file)
    }

    /// An app's file with the stable paths of apps replaced by the paths of the staged files.
    fn mapped(&self, app: &AppName, file: &TreePath) -> Result<Vec<u8>, HostError> {
        let path = self.staged.file(app, file);
        let bytes = fs::read(&path).during("read", &path)?;
        // Bytes that are not UTF-8 are invalid in any case.
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        for (app, tree) in self.staged.checkouts {
            let staged = self.staged.home.trees().join(tree);
            text = text.replace(&format!("{}/", Home::stable_path(app)), &format!("{}/", staged.display()));
        }
        Ok(text.into_bytes())
    }

    /// The line with paths as the operator knows them, if it is about a changed file or an affected unit.
    fn ours(&self, line: &str, changed: &BTreeSet<&str>, units: &BTreeSet<UnitName>) -> Option<String> {
        let mut line = line.to_owned();
        for (app, tree) in self.staged.checkouts {
            let staged = self.staged.home.trees().join(tree);
            line = line.replace(&staged.display().to_string(), &Home::stable_path(app));
        }
        if let Some(rest) = line.strip_prefix(&format!("{}/", self.directory.display())) {
            let (path, output) = rest.split_once(':')?;
            let (_, claim, _) = Self::units_of(&self.staged.sides.wants.external).find(|(other, ..)| *other == path)?;
            return changed.contains(path).then(|| format!("'{}/{}': line {output}", claim.app, claim.file));
        }
        let of_unit = line.strip_prefix("Unit ").unwrap_or(&line);
        let name = of_unit.split([':', ' ']).next()?;
        units.iter().any(|unit| unit.as_str() == name).then_some(line)
    }

    /// Whether the deployment contains the program at `path`, possibly behind a symlink that does not exist yet, or
    /// with a mode that is not set yet.
    fn comes_along(&self, path: &str) -> bool {
        let sides = self.staged.sides;
        let stable = self.staged.checkouts.iter().find_map(|(app, _)| {
            Some((app, path.strip_prefix(&Home::stable_path(app))?.strip_prefix('/')?.to_owned()))
        });
        let linked = || {
            let mut links = sides.wants.external.iter().filter(|(_, claim)| claim.kind == ClaimKind::Link);
            let (link, claim) = links.find(|(link, _)| is_within(path, link.as_str()))?;
            Some((&claim.app, format!("{}{}", claim.file, &path[link.as_str().len()..])))
        };
        let Some((app, file)) = stable.or_else(linked) else { return false };
        let Some(app) = sides.new.apps.get(app) else { return false };
        let Ok(file) = TreePath::parse(file.as_bytes()) else { return false };
        match app.files.get(&file).map(|entry| entry.kind) {
            Some(FileKind::Executable | FileKind::Symlink) => true,
            Some(FileKind::Regular) => {
                let mode = app.manifest.files.get(&file).and_then(|attributes| attributes.mode);
                mode.is_some_and(|Mode(bits)| bits & 0o111 != 0)
            }
            None => false,
        }
    }
}
