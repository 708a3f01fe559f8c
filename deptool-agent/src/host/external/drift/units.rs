//! Finds drift in units.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use super::{Depth, Finding, Item, Looking, Remedy, names};
use crate::{
    host::{external::users, state::error::HostError},
    shared::{
        desired::{Claim, ClaimKind, DesiredUnit, Snippet},
        name::{AppName, UnitName},
        outcome::{Drift, Subject},
        path::ExternalPath,
        text::printable,
    },
    system::{Active, Load, Manager, System, UnitDetail, UnitFile, UnitState},
};

/// Directories that systemd searches before `/etc/systemd/system`, for example with the files of `systemctl
/// set-property`.
const ABOVE: [&str; 3] = ["/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient"];
/// The directories of deployed and of temporary unit files, of the system and of users.
const OF_SYSTEM: [&str; 2] = ["/etc/systemd/system", "/run/systemd/system"];
const OF_USERS: [&str; 2] = ["/etc/systemd/user", "/run/systemd/user"];
/// A unit that restarted itself within this time is not considered well.
const RECENTLY: Duration = Duration::from_secs(60);

impl Looking<'_> {
    pub(super) fn units(&mut self, system: &mut dyn System) -> Result<(), HostError> {
        let (wants, manager) = (self.compared.wants, system.manager());
        if manager == Manager::Running {
            users::join(self.compared.home, system, users::of(wants))?;
        }
        if manager != Manager::Absent && !wants.enabled.is_empty() {
            let loaded = if manager == Manager::Running { system.snapshot()? } else { BTreeMap::new() };
            for (unit, wanted) in &wants.enabled {
                // Only a running manager knows what its user has enabled.
                if unit.user().is_some() && manager == Manager::Offline {
                    continue;
                }
                match self.unit_state(unit, wanted, loaded.get(unit), system) {
                    // A user can hinder the user's own manager. That must not keep the host from being deployed to.
                    Err(error) if unit.user().is_some() => {
                        self.unit(unit, &wanted.apps, format!("is unknown: {error}"), remedy(unit, true, true));
                    }
                    looked => looked?,
                }
            }
        }
        self.foreign_files();
        Ok(())
    }

    fn unit_state(
        &mut self,
        unit: &UnitName,
        wanted: &DesiredUnit,
        state: Option<&UnitState>,
        system: &mut dyn System,
    ) -> Result<(), HostError> {
        if let Some(what) = enablement(unit, system)? {
            self.unit(unit, &wanted.apps, what.into(), remedy(unit, true, false));
        }
        if system.manager() == Manager::Running
            && let Some(what) = self.activity(unit, wanted, state, system)?
        {
            self.unit(unit, &wanted.apps, what, remedy(unit, false, true));
        }
        Ok(())
    }

    fn unit(&mut self, unit: &UnitName, apps: &BTreeSet<AppName>, what: String, item: Item) {
        let drift = Drift { subject: Subject::Unit(unit.clone()), what, edit: None };
        self.found.push(Finding { drift, item, apps: apps.clone(), stands: false });
    }

    /// How the activity of a unit differs, if its type should stay active.
    fn activity(
        &self,
        unit: &UnitName,
        wanted: &DesiredUnit,
        state: Option<&UnitState>,
        system: &mut dyn System,
    ) -> Result<Option<String>, HostError> {
        let is_well = |state: &UnitState| state.active == Active::Active && state.sub != "auto-restart";
        if self.depth == Depth::Deployment && state.is_some_and(is_well) && unit.user().is_none() {
            return Ok(None);
        }
        let now = system.detail(unit)?;
        if let Some(other) = self.overridden(unit, &now.file) {
            return Ok(Some(format!("is overridden by '{}'", printable(other.as_bytes()))));
        }
        let may_end = (now.service_type == "oneshot" && !now.remains)
            || now.condition_failed
            || now.is_triggered
            || wanted.settle.is_some_and(|window| window.0.is_zero());
        Ok(match now.active {
            Active::Failed => {
                let why = now.exit.map_or_else(String::new, |exit| format!(" ({})", printable(exit.as_bytes())));
                Some(format!("has failed{why}"))
            }
            _ if is_looping(&now, system.clock()) => {
                Some(format!("starts over and over: {} times so far", now.restarts))
            }
            Active::Inactive | Active::Deactivating if !may_end => Some("was stopped".into()),
            _ if now.load == Load::Loaded && now.needs_reload && self.depth == Depth::Verify => {
                Some("runs with another configuration than the one on disk".into())
            }
            _ => None,
        })
    }

    /// The user's own unit file that systemd has loaded instead of the deployed one.
    fn overridden<'a>(&self, unit: &UnitName, loaded: &'a str) -> Option<&'a str> {
        unit.user()?;
        let ours = format!("/etc/systemd/user/{}", unit.name());
        let is_ours = self.compared.wants.external.keys().any(|path| path.as_str() == ours);
        if is_ours { users::other_file(self.compared.home, loaded, &ours) } else { None }
    }

    /// Find foreign unit files that take precedence over deployed ones, and foreign drop-ins. Those that were there
    /// before the first deployment do not count.
    fn foreign_files(&mut self) {
        let wants = self.compared.wants;
        let mut ours: BTreeMap<UnitName, BTreeSet<AppName>> = BTreeMap::new();
        for claim in wants.external.values().flat_map(Claim::all) {
            if let ClaimKind::Copy(Snippet::Unit(unit), _) = &claim.kind {
                ours.entry(unit.clone()).or_default().insert(claim.app.clone());
            }
        }
        for (unit, wanted) in &wants.enabled {
            ours.entry(unit.clone()).or_default().extend(wanted.apps.iter().cloned());
        }
        for (unit, apps) in ours {
            let known = self.compared.claims.units.get(&unit).map(|claim| &claim.beside);
            for (path, what) in foreign(self.compared.home, &unit) {
                let is_ours = self.compared.claims.paths.contains_key(&path);
                if is_ours || known.is_some_and(|known| known.contains(&path)) {
                    continue;
                }
                let shown = printable(path.as_str().as_bytes());
                let what = match what {
                    Foreign::File => format!("is overridden by '{shown}'"),
                    Foreign::DropIn => format!("has the drop-in '{shown}', which was not deployed"),
                };
                self.unit(&unit, &apps, what, Item::Foreign { unit: unit.clone(), path });
            }
        }
    }
}

/// The effect of a foreign file on a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    File,
    DropIn,
}

/// The unit files of `unit` that take precedence, and its drop-ins, wherever they come from.
pub fn foreign(home: &crate::host::state::layout::Home, unit: &UnitName) -> Vec<(ExternalPath, Foreign)> {
    let mut found = Vec::new();
    let mut add = |path: String, kind| found.extend(ExternalPath::parse(&path).ok().map(|path| (path, kind)));
    // Those of a user's own are looked for by what systemd has loaded.
    let (above, own) = if unit.user().is_some() { (&[][..], OF_USERS) } else { (&ABOVE[..], OF_SYSTEM) };
    let unit = unit.name();
    for directory in above.iter().chain(&own) {
        let path = format!("{directory}/{unit}");
        // A symlink is an alias, or masks the unit if it points to /dev/null.
        let at = home.root().join(&path[1..]);
        let is_file = fs::symlink_metadata(&at).is_ok_and(|meta| meta.is_file());
        let is_mask = fs::read_link(&at).is_ok_and(|target| target.as_os_str() == "/dev/null");
        if is_file || is_mask {
            add(path, Foreign::File);
        }
    }
    for directory in own.iter().chain(above) {
        let directory = format!("{directory}/{unit}.d");
        for name in names(home, &directory) {
            if name.ends_with(".conf") && !name.starts_with('.') {
                add(format!("{directory}/{name}"), Foreign::DropIn);
            }
        }
    }
    found
}

fn remedy(unit: &UnitName, enable: bool, start: bool) -> Item {
    Item::Unit { unit: unit.clone(), remedy: Remedy { enable, start } }
}

fn enablement(unit: &UnitName, system: &mut dyn System) -> Result<Option<&'static str>, HostError> {
    Ok(match system.unit_file(unit)? {
        UnitFile::Enabled | UnitFile::Static => None,
        UnitFile::EnabledRuntime => Some("is enabled until the next boot only"),
        UnitFile::Disabled | UnitFile::Linked | UnitFile::Indirect => Some("was disabled"),
        UnitFile::Masked => Some("was masked"),
        UnitFile::Absent => Some("is gone"),
    })
}

/// Whether it fails and is started again over and over.
fn is_looping(now: &UnitDetail, clock: Duration) -> bool {
    let is_recent = clock.saturating_sub(now.changed_at) < RECENTLY;
    now.sub == "auto-restart" || (now.restarts > 1 && is_recent)
}
