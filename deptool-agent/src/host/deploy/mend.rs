//! Decides which drift a deployment puts right, and how.
//!
//! What is really on the host is one more state to compare with the new one. So everything that has drifted is removed
//! from the old state. The plan from there restores it, with all consequences for units.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use gix_hash::{Kind as HashKind, ObjectId};

use crate::{
    host::{
        external::{
            backup,
            drift::{Finding, Item, Remedy},
        },
        state::{journal::KeptFile, layout::Home},
    },
    shared::{
        desired::Desired,
        id::{BlobId, TreeId},
        name::{AppName, HostName, UnitName},
        ordered::Ordered as _,
        outcome::{Drift, Mended, Subject},
        path::{ExternalPath, TreePath},
        plan::{Enablement, HostPlan, UnitChange, UnitJob},
        text::{LISTED, printable, shorten},
        tree::HostTree,
        wire::Repair,
    },
};

/// Name at most this many differences that are left.
const NAMED: usize = 3;

/// List at most this many for the helper. It counts them, so it gets more of them than are shown.
const LEFT: usize = 200;

/// The drift that is put right, and the drift that is left.
pub struct Mending {
    /// The plan from the real state to the new one.
    pub plan: HostPlan,
    pub mended: Vec<Mended>,
    pub kept_files: Vec<KeptFile>,
    /// Foreign files that change deployed units. They are removed.
    pub foreign: Vec<ExternalPath>,
    /// Checkouts that were changed and are left so.
    pub left_trees: BTreeMap<AppName, String>,
    pub left: Vec<Drift>,
}

impl Mending {
    /// Shorten what is told and logged, so that it fits into a message and a line of the log.
    pub fn shorten(&mut self) {
        shorten(&mut self.mended, LISTED, |mended| &mut mended.what);
        shorten(&mut self.left, LEFT, |drift| &mut drift.what);
    }
}

/// Both sides of a deployment, without drift.
pub struct Meant<'a> {
    pub old: &'a HostTree,
    pub new: &'a HostTree,
    pub had: &'a Desired,
    pub wants: &'a Desired,
    pub plan: HostPlan,
}

/// Decide what to put right as part of generation `number`.
pub fn decide(home: &Home, meant: Meant<'_>, found: Vec<Finding>, repair: Repair, number: u32) -> Mending {
    let changed: BTreeSet<AppName> = meant.plan.apps.iter().map(|change| change.app.clone()).into_set();
    let (mine, left): (Vec<_>, Vec<_>) = found.into_iter().partition(|finding| is_mine(finding, repair, &changed));
    let mut left_trees = BTreeMap::new();
    for finding in &left {
        if let (Item::File { tree: Some(tree), .. }, Some(app)) = (&finding.item, finding.apps.first()) {
            left_trees.insert(app.clone(), tree.clone());
        }
    }
    let (mut mended, mut kept_files, mut foreign) = (Vec::new(), Vec::new(), Vec::new());
    for finding in &mine {
        let kept = match (&finding.item, finding.apps.first()) {
            (Item::Links, _) if finding.stands => match &finding.drift.subject {
                Subject::Path(path) => path.get(1..).map(|path| backup::kept_path(home, number, Path::new(path))),
                Subject::Unit(_) => None,
            },
            (Item::Path(path), _) if finding.stands => Some(backup::kept_path(home, number, path.relative())),
            (Item::Foreign { path, .. }, _) => {
                foreign.push(path.clone());
                Some(backup::kept_path(home, number, path.relative()))
            }
            (Item::File { tree: Some(tree), file: Some(file) }, Some(app)) if finding.stands => {
                kept_files.push(KeptFile { tree: tree.clone(), app: app.clone(), file: file.clone() });
                Some(backup::kept_file(home, number, app, file))
            }
            (Item::Path(_) | Item::File { .. } | Item::Secret(_) | Item::Unit { .. } | Item::Links | Item::Host, _) => {
                None
            }
        };
        let is_given_up = !finding.apps.is_empty() && !finding.apps.iter().any(|app| meant.new.apps.contains_key(app));
        if kept.is_some() || !is_given_up {
            let kept = kept.map(|path| printable(path.as_os_str().as_encoded_bytes()));
            mended.push(Mended { what: finding.drift.to_string(), kept });
        }
    }
    let left = left.into_iter().map(|finding| finding.drift).collect();
    Mending { plan: plan(meant, &mine), mended, kept_files, foreign, left_trees, left }
}

/// Whether this deployment puts the finding right.
fn is_mine(finding: &Finding, repair: Repair, changed: &BTreeSet<AppName>) -> bool {
    match &finding.item {
        Item::Links | Item::Secret(_) | Item::File { tree: None, .. } => true,
        Item::Host => false,
        Item::File { .. } | Item::Path(_) | Item::Unit { .. } | Item::Foreign { .. } => {
            repair == Repair::All || finding.apps.iter().any(|app| changed.contains(app))
        }
    }
}

/// The plan from the real state.
fn plan(meant: Meant<'_>, mine: &[Finding]) -> HostPlan {
    if mine.iter().all(|finding| matches!(finding.item, Item::Links | Item::Host)) {
        return meant.plan;
    }
    let (mut old, mut had) = (meant.old.clone(), meant.had.clone());
    let mut remedies: BTreeMap<UnitName, (Remedy, BTreeSet<AppName>)> = BTreeMap::new();
    let mut add = |unit: &UnitName, remedy: Remedy, apps: &BTreeSet<AppName>| {
        let (known, of) = remedies.entry(unit.clone()).or_default();
        known.enable |= remedy.enable;
        known.start |= remedy.start;
        of.extend(apps.iter().cloned());
    };
    for finding in mine {
        match &finding.item {
            Item::Path(path) => {
                // A path that the new tree claims is missing.
                if meant.wants.external.contains_key(path) {
                    had.external.remove(path);
                }
                touch(&mut old, &finding.apps, meant.had.external.get(path).map(|claim| &claim.file));
            }
            Item::File { file, .. } => touch(&mut old, &finding.apps, file.as_ref()),
            Item::Secret(file) => touch(&mut old, &finding.apps, Some(file)),
            Item::Unit { unit, remedy } => add(unit, *remedy, &finding.apps),
            Item::Foreign { unit, .. } => add(unit, Remedy { enable: false, start: true }, &finding.apps),
            Item::Links | Item::Host => {}
        }
    }
    let mut plan = HostPlan::of_desired(&old, meant.new, &had, meant.wants);
    for (unit, (remedy, apps)) in remedies {
        if meant.wants.enabled.contains_key(&unit) {
            add_unit(&mut plan, unit, remedy, apps);
        }
    }
    plan
}

/// Treat a file of these apps, or all of their files, as changed, so that units notice what is put right.
fn touch(old: &mut HostTree, apps: &BTreeSet<AppName>, file: Option<&TreePath>) {
    let unknown = ObjectId::null(HashKind::Sha1);
    for name in apps {
        if let Some(app) = old.apps.get_mut(name) {
            let app = Arc::make_mut(app);
            app.tree = TreeId(unknown);
            for (path, entry) in &mut app.files {
                if file.is_none_or(|file| path.is_within(file)) {
                    entry.id = BlobId(unknown);
                }
            }
        }
    }
}

fn add_unit(plan: &mut HostPlan, unit: UnitName, remedy: Remedy, apps: BTreeSet<AppName>) {
    let at = plan.units.iter().position(|change| change.unit == unit).unwrap_or_else(|| {
        let change = UnitChange { unit, enablement: Enablement::Keep, job: UnitJob::None, apps };
        plan.units.push(change);
        plan.units.len() - 1
    });
    let change = &mut plan.units[at];
    if remedy.enable && change.enablement == Enablement::Keep {
        change.enablement = Enablement::Enable;
    }
    if remedy.start && change.job != UnitJob::Stop {
        change.job = UnitJob::Start;
    }
}

/// Notes for the operator about the drift that was put right and the drift that was left.
pub fn notes(mending: &Mending, host: &HostName) -> Vec<String> {
    let of_mended = |mended: &Mended| match &mended.kept {
        Some(kept) => format!("{}: what was there is kept as '{kept}'", mended.what),
        None => format!("{}: put right", mended.what),
    };
    let mut notes: Vec<String> = mending.mended.iter().map(of_mended).collect();
    if !mending.left.is_empty() {
        let named: Vec<String> = mending.left.iter().take(NAMED).map(Drift::to_string).collect();
        let more = match mending.left.len() - named.len() {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        notes.push(format!(
            "not as deployed, and left so: {}{more}; 'git deptool repair {host}' puts that right",
            named.join(", ")
        ));
    }
    notes
}
