//! Finds drift: whatever on this host is not as it was deployed. This only reads.

use std::{collections::BTreeSet, fs};

use crate::{
    host::{
        external::place::{Found, Place},
        state::{
            checkout,
            error::{HostError, Whose},
            generations::Note,
            identity::{deployed, load_tree},
            layout::Home,
            ledger::{Claims, Content, PathClaim},
        },
    },
    shared::{
        desired::{ClaimKind, Snippet, Wanted, WantedUnit},
        name::{AppName, UnitName},
        outcome::{Deployed, Goal},
        path::{ExternalPath, STATE_DIR},
        store::Store,
        text::printable,
        tree::HostTree,
        wire::{Drift, Subject},
    },
    system::{Active, Manager, System, UnitFile},
};

/// The directories that take precedence over `/etc/systemd/system`. `systemctl set-property` and the like write to them.
const ABOVE: [&str; 3] = ["/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient"];
const ETC: &str = "/etc/systemd/system";
const RUN: &str = "/run/systemd/system";
/// The directories for the units of packages.
const BELOW: [&str; 3] = ["/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// Compare the host with what is deployed. Empty if they agree, or if nothing is deployed.
pub fn look(home: &Home, system: &mut dyn System) -> Result<Vec<Drift>, HostError> {
    let Some(store) = Store::open_to_read(&home.store())? else { return Ok(Vec::new()) };
    let Some(deployed) = deployed(home)? else { return Ok(Vec::new()) };
    let tree = load_tree(&store, &deployed.host, deployed.commit);
    let tree = tree.map_err(|error| HostError::tree(Whose::Deployed, error))?;
    let wants = Wanted::of(&tree).map_err(|error| HostError::tree(Whose::Deployed, error))?;
    let mut looking = Looking {
        home,
        tree: &tree,
        wants: &wants,
        claims: Claims::load(home)?.unwrap_or_default(),
        found: Vec::new(),
    };
    looking.generation(&deployed);
    looking.outside()?;
    looking.units(system)?;
    Ok(looking.found)
}

/// The changes by hand in the checkout of an app in a generation.
pub fn of_checkout(home: &Home, generation: u32, name: &AppName, app: &crate::shared::tree::App) -> Vec<Drift> {
    let stable = Home::stable_path(name);
    let link = home.generation(generation).join(name.as_str());
    let tree = fs::read_link(&link).ok().and_then(|target| Some(target.file_name()?.to_str()?.to_owned()));
    let Some(tree) = tree else { return vec![of_path(stable, "is missing")] };
    let differences = checkout::differences(home, &tree, app);
    differences.into_iter().map(|(file, what)| of_path(format!("{stable}{file}"), what)).collect()
}

fn of_path(path: impl Into<String>, what: impl Into<String>) -> Drift {
    Drift { subject: Subject::Path(path.into()), what: what.into() }
}

struct Looking<'a> {
    home: &'a Home,
    tree: &'a HostTree,
    wants: &'a Wanted,
    claims: Claims,
    found: Vec<Drift>,
}

impl Looking<'_> {
    fn path(&mut self, path: impl Into<String>, what: impl Into<String>) {
        self.found.push(of_path(path, what));
    }

    fn unit(&mut self, unit: &UnitName, what: impl Into<String>) {
        self.found.push(Drift { subject: Subject::Unit(unit.clone()), what: what.into() });
    }

    /// Compare the links to the current generation, and the checkouts in it.
    fn generation(&mut self, deployed: &Deployed) {
        let current = self.home.linked_generation(&self.home.current()).ok().flatten();
        let is_deployed = |number: &u32| {
            Note::read(self.home, *number).is_some_and(|note| note.commit == Goal::Commit(deployed.commit))
        };
        match current.filter(is_deployed) {
            None => self.path(format!("{STATE_DIR}/current"), "does not lead to what is deployed"),
            Some(number) => {
                for (name, app) in &self.tree.apps {
                    self.found.extend(of_checkout(self.home, number, name, app));
                }
            }
        }
        for name in self.tree.apps.keys() {
            if !self.home.has_stable_path(name) {
                self.path(Home::stable_path(name), "is not the link that was made");
            }
        }
    }

    /// Compare the external paths in the ledger.
    fn outside(&mut self) -> Result<(), HostError> {
        let held: Vec<(ExternalPath, PathClaim)> = self.claims.paths.clone().into_iter().collect();
        for (path, claim) in held {
            let (found, attributes) = match Place::existing(self.home, &path) {
                Ok(Some(place)) => (place.found()?, place.attributes()?),
                Ok(None) => (Found::Nothing, None),
                Err(HostError::External(why)) => {
                    self.path(path.as_str(), why);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let is_root = self.home.is_live();
            let is_as_made = |(mode, uid, gid): (u32, u32, u32)| mode == 0o644 && (!is_root || (uid, gid) == (0, 0));
            match (&claim.ours, found) {
                (_, Found::Nothing) => self.path(path.as_str(), "is missing"),
                (ours, Found::Content(now)) if *ours == now => {
                    if matches!(ours, Content::File(_)) && !attributes.is_some_and(is_as_made) {
                        self.path(path.as_str(), "has another mode or owner");
                    }
                }
                (Content::File(_), Found::Content(Content::File(_))) => self.path(path.as_str(), "was edited"),
                (Content::Link(_), Found::Content(Content::Link(target))) => {
                    self.path(path.as_str(), format!("leads to '{}'", printable(target.as_bytes())));
                }
                (Content::Link(_), Found::Content(Content::File(_))) => {
                    self.path(path.as_str(), "was replaced by a file");
                }
                (Content::File(_), Found::Content(Content::Link(_))) => {
                    self.path(path.as_str(), "was replaced by a symlink");
                }
                (_, Found::Other(what)) => self.path(path.as_str(), format!("was replaced by {what}")),
            }
        }
        Ok(())
    }

    fn units(&mut self, system: &mut dyn System) -> Result<(), HostError> {
        let (wants, manager) = (self.wants, system.manager());
        if manager != Manager::Absent {
            for (unit, wanted) in &wants.enabled {
                self.enablement(unit, system)?;
                if manager == Manager::Running {
                    self.activity(unit, wanted, system)?;
                }
            }
        }
        let made = wants.outside.values().filter_map(|claim| match &claim.kind {
            ClaimKind::Copy(Snippet::Unit(unit), _) => Some(unit),
            _ => None,
        });
        for unit in made.chain(wants.enabled.keys()).chain(wants.watched.keys()).collect::<BTreeSet<_>>() {
            self.overrides(unit);
        }
        Ok(())
    }

    fn enablement(&mut self, unit: &UnitName, system: &mut dyn System) -> Result<(), HostError> {
        match system.unit_file(unit)? {
            UnitFile::Enabled | UnitFile::Static => {}
            UnitFile::EnabledRuntime => self.unit(unit, "is enabled until the next boot only"),
            UnitFile::Disabled => self.unit(unit, "was disabled"),
            UnitFile::Masked => self.unit(unit, "was masked"),
            UnitFile::Absent => self.unit(unit, "is gone"),
        }
        Ok(())
    }

    /// Check that the unit runs, unless it may end by itself.
    fn activity(&mut self, unit: &UnitName, wanted: &WantedUnit, system: &mut dyn System) -> Result<(), HostError> {
        let now = system.detail(unit)?;
        let may_end = now.service_type == "oneshot"
            || now.condition_failed
            || now.is_triggered
            || wanted.settle.is_some_and(|window| window.0.is_zero());
        match now.active {
            Active::Failed => {
                let why = now.exit.map_or_else(String::new, |exit| format!(" ({})", printable(exit.as_bytes())));
                self.unit(unit, format!("has failed{why}"));
            }
            Active::Inactive | Active::Deactivating if !may_end => self.unit(unit, "was stopped"),
            _ => {}
        }
        Ok(())
    }

    /// Find unit files and drop-ins that were not deployed and that override the deployed ones.
    fn overrides(&mut self, unit: &UnitName) {
        let exists = |directory: &str| {
            let path = self.home.root().join(&directory[1..]).join(unit.as_str());
            // A symlink is only an alias.
            fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file())
        };
        let mut over: Vec<String> =
            ABOVE.iter().filter(|directory| exists(directory)).map(|d| format!("{d}/{unit}")).collect();
        let etc = format!("{ETC}/{unit}");
        if !self.is_ours(&etc) && exists(ETC) && BELOW.iter().any(|directory| exists(directory)) {
            over.push(etc);
        }
        let mut drop_ins = Vec::new();
        for directory in [ETC, RUN].iter().chain(&ABOVE) {
            let directory = format!("{directory}/{unit}.d");
            let names = fs::read_dir(self.home.root().join(&directory[1..])).into_iter().flatten().flatten();
            let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
            let ours = names.filter(|name| name.ends_with(".conf") && !name.starts_with('.'));
            drop_ins.extend(ours.map(|name| format!("{directory}/{name}")).filter(|path| !self.is_ours(path)));
        }
        drop_ins.sort();
        for path in over {
            self.unit(unit, format!("is overridden by '{}'", printable(path.as_bytes())));
        }
        for path in drop_ins {
            self.unit(unit, format!("has the drop-in '{}', which was not deployed", printable(path.as_bytes())));
        }
    }

    fn is_ours(&self, path: &str) -> bool {
        ExternalPath::parse(path).is_ok_and(|path| self.claims.paths.contains_key(&path))
    }
}
