//! Prepare: everything that is slow, while nothing is visible. It checks the plan against the machine, writes the
//! generation, and decides every action.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use crate::{
    host::{
        deploy::action::Action,
        state::{
            checkout::{self, Contents},
            error::HostError,
            failed_units::Down,
            layout::Home,
            ledger::{Claims, Enablement},
        },
    },
    shared::{
        desired::Desired,
        name::{Account, AppName},
        outcome::Drift,
        path::{ExternalPath, TreePath},
        plan::{Change, Class, HostPlan},
        text::in_one_line,
        tree::HostTree,
        wire::InTheWay,
    },
    system::{System, touched::States},
};

mod accounts;
pub mod checks;
mod external;
mod jobs;
mod refusals;
mod units;
mod users;
pub mod verify;

use external::ExternalWork;
use units::UnitWork;

/// Both sides of a deployment, as trees and as desired states.
pub struct Sides<'a> {
    pub old: &'a HostTree,
    pub new: &'a HostTree,
    pub had: &'a Desired,
    pub wants: &'a Desired,
    pub plan: &'a HostPlan,
}

/// A generation that was written but is not referred to yet.
pub struct Staged<'a> {
    pub home: &'a Home,
    pub sides: &'a Sides<'a>,
    /// The current generation, and the new one.
    pub generations: (Option<u32>, u32),
    /// The checkout of each app.
    pub checkouts: &'a [(AppName, String)],
    /// Units that failed to start after a rollback.
    pub down: &'a [Down],
    /// What happens to files that no deployment put there.
    pub in_the_way: InTheWay,
    /// Foreign files that change deployed units. They are removed.
    pub foreign: &'a [ExternalPath],
}

impl Staged<'_> {
    /// The path of an app's file.
    fn file(&self, app: &AppName, file: &TreePath) -> PathBuf {
        self.home.generation(self.generations.1).join(app.as_str()).join(file.as_path())
    }

    /// The apps without a stable path: new ones, and those whose symlink was deleted.
    fn unlinked(&self) -> Vec<AppName> {
        self.sides.new.apps.keys().filter(|app| !self.home.has_stable_path(app)).cloned().collect()
    }
}

/// The result of *prepare*.
pub struct Prepared {
    pub actions: Vec<Action>,
    /// The ledger after the deployment.
    pub claims: Claims,
    /// The states of all units before the deployment. Empty if it does not affect units.
    pub before: States,
    /// The enablement of the units that the deployment enables and disables.
    pub enablement: Enablement,
    /// Files in old trees that path units watch.
    pub watched: Vec<PathBuf>,
    /// Notes for the operator.
    pub notes: Vec<String>,
}

/// The checkout of each app by its name below `trees/`, and the apps whose checkouts were just written.
pub type Checkouts = (Vec<(AppName, String)>, BTreeSet<AppName>);

/// Check out all apps for `generation`.
pub fn check_out(
    home: &Home,
    generation: u32,
    new: &HostTree,
    contents: &Contents<'_>,
    (left, tick): (&BTreeMap<AppName, String>, &mut dyn FnMut()),
) -> Result<Checkouts, HostError> {
    let (mut checkouts, mut fresh): Checkouts = (Vec::new(), BTreeSet::new());
    for (name, app) in &new.apps {
        // The checkout was changed by hand, and this deployment does not touch the app.
        if let Some(tree) = left.get(name) {
            checkouts.push((name.clone(), tree.clone()));
            continue;
        }
        // If two apps have the same tree, the second one uses the checkout of the first.
        let is_same = |(other, _): &&(AppName, String)| !left.contains_key(other) && new.apps[other].tree == app.tree;
        let tree = match checkouts.iter().find(is_same) {
            Some((_, tree)) => tree.clone(),
            None => {
                let (tree, written) = checkout::check_out(home, generation, app, contents, tick)?;
                if written {
                    fresh.insert(name.clone());
                }
                tree
            }
        };
        checkouts.push((name.clone(), tree));
    }
    Ok((checkouts, fresh))
}

/// Decide every action. This reads the machine and changes nothing.
pub fn decide(
    staged: &Staged<'_>,
    claims: &Claims,
    fresh: &BTreeSet<AppName>,
    system: &mut dyn System,
) -> Result<Prepared, HostError> {
    let Staged { home, sides, generations, .. } = *staged;
    let mut deciding = Deciding {
        staged,
        home,
        sides,
        before: claims,
        claims: claims.clone(),
        notes: Vec::new(),
        problems: Vec::new(),
        obstacles: Vec::new(),
        taken_over: BTreeSet::new(),
        made: BTreeSet::new(),
        watched: Vec::new(),
        absent: BTreeSet::new(),
    };
    let units = deciding.units(system)?;
    let external = deciding.external()?;
    let own = deciding.own(fresh)?;
    deciding.refuse(system)?;
    deciding.claim_the_rest();
    if !deciding.problems.is_empty() {
        let why = in_one_line(deciding.problems);
        return Err(HostError::InTheWay { why, files: deciding.obstacles });
    }
    let Deciding { claims, notes, watched, .. } = deciding;
    let before = units.before.clone();
    let enablement = Enablement::read(home, units.names_touched.clone(), system)?;
    let unlinked = staged.unlinked();
    let actions = in_order(sides, generations, units, external, (unlinked, own));
    Ok(Prepared { actions, claims, before, enablement, watched, notes })
}

/// The order of the actions, which is the same for every deployment.
fn in_order(
    sides: &Sides<'_>,
    (from, to): (Option<u32>, u32),
    units: UnitWork,
    external: ExternalWork,
    (unlinked, own): (Vec<AppName>, Vec<Action>),
) -> Vec<Action> {
    let changed = |class: Class| {
        let snippets = sides.plan.external.iter().filter(|c| c.class == class && c.change != Change::Remove);
        snippets.map(|c| c.path.clone()).collect::<Vec<_>>()
    };
    let mut actions = vec![Action::Stop(units.stop), Action::Disable(units.disable)];
    actions.push(Action::MakeDirectories(external.early_directories));
    actions.extend(external.users.into_iter().map(Action::Place));
    actions.push(Action::CreateUsers(changed(Class::Sysusers)));
    actions.extend(own);
    actions.push(Action::LinkApps(unlinked));
    actions.push(Action::Switch { from, to });
    actions.extend(external.removed.into_iter().map(Action::Place));
    actions.push(Action::MakeDirectories(external.directories));
    let mut reload = sides.plan.reloads.clone();
    for placement in &external.foreign {
        // All users share these directories.
        match placement.path.as_str().contains("/systemd/user/") {
            true => reload.extend(units.users.iter().cloned().map(Some)),
            false => drop(reload.insert(None)),
        }
    }
    reload.retain(|user| user.as_ref().is_none_or(|user| units.users.contains(user)));
    actions.extend(external.placed.into_iter().chain(external.foreign).map(Action::Place));
    actions.push(Action::CreateTmpfiles(changed(Class::Tmpfiles)));
    actions.push(Action::Enable(units.enable));
    actions.push(Action::RestoreLinks(units.links));
    if units.live {
        actions.push(Action::DaemonReload(reload));
    }
    let gone = sides.old.apps.keys().filter(|app| !sides.new.apps.contains_key(*app));
    actions.push(Action::UnlinkApps(gone.cloned().collect()));
    actions.push(Action::Jobs(units.jobs));
    actions.retain(|action| !is_idle(action));
    actions
}

fn is_idle(action: &Action) -> bool {
    match action {
        Action::Stop(units) | Action::Disable(units) | Action::Enable(units) => units.is_empty(),
        Action::MakeDirectories(paths) | Action::CreateUsers(paths) | Action::CreateTmpfiles(paths) => paths.is_empty(),
        Action::LinkApps(apps) | Action::UnlinkApps(apps) => apps.is_empty(),
        Action::RestoreLinks(links) => links.is_empty(),
        Action::Jobs(jobs) => jobs.is_empty(),
        Action::OwnSecrets { files, .. } => files.is_empty(),
        Action::DaemonReload(of) => of.is_empty(),
        Action::Place(_) | Action::Own { .. } | Action::Switch { .. } => false,
    }
}

struct Deciding<'a> {
    staged: &'a Staged<'a>,
    home: &'a Home,
    sides: &'a Sides<'a>,
    before: &'a Claims,
    claims: Claims,
    notes: Vec<String>,
    /// All reasons to refuse the deployment. The operator sees all of them at once.
    problems: Vec<String>,
    /// Files that are in the way, in the order of `problems`.
    obstacles: Vec<Drift>,
    /// New apps all of whose files are on the host already, where they are to be.
    taken_over: BTreeSet<AppName>,
    made: BTreeSet<ExternalPath>,
    /// Files in old trees that path units watch.
    watched: Vec<PathBuf>,
    /// Users whose service managers can't be reached.
    absent: BTreeSet<Account>,
}
