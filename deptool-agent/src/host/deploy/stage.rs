//! Stages a deployment: receives, checks and writes everything that it needs, and decides every action. Nothing becomes
//! visible.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use crate::{
    host::{
        connection::peer::Peer,
        deploy::{
            mend::{self, Meant, Mending},
            prepare::{self, Prepared, Sides},
            receive::Receiving,
        },
        external::{
            drift::{self, Compared, Depth, Finding, FirstLook, Item, Loaded, Seen},
            rebuild::{Rebuilt, rebuild},
        },
        secrets,
        state::{
            agents::AgentId,
            checkout::{self, Contents, Earlier},
            error::{Damage, HostError, Whose},
            failed_units::{self, Down},
            generations::{self, Note},
            heal,
            identity::instance,
            journal::Record,
            layout::Home,
            ledger::Claims,
        },
    },
    shared::{
        desired::{Claim, ClaimKind, Desired, Snippet},
        manifest::probe::Probe,
        name::{AppName, UnitName},
        ordered::Ordered as _,
        outcome::{Drift, Goal},
        path::ExternalPath,
        plan::HostPlan,
        store::Store,
        text::printable,
        time::now,
        tree::HostTree,
        wire::{Deploy, Lease, Response},
    },
    system::System,
};

/// The time to confirm when an app asks for confirmation, in seconds. A new connection takes less through any network.
const CONFIRM: u16 = 30;

/// A staged deployment: all that is left is to activate it.
pub struct Ready {
    pub record: Record,
    /// The files and directories that were written. They are not synced yet.
    pub written: Vec<PathBuf>,
    pub expectations: Expectations,
    /// What is not as it was deployed, and is left so.
    pub left: Vec<Drift>,
}

/// What has to hold after the activation.
pub struct Expectations {
    /// How long a unit must run without failing, where the manifest sets that time.
    pub windows: BTreeMap<UnitName, Duration>,
    /// The limit for the whole activation.
    pub timeout: Duration,
    /// The health probes of the apps that change.
    pub probes: Vec<(AppName, Probe)>,
    /// Units and templates that files of the tree make.
    pub made: BTreeSet<UnitName>,
    /// Files in trees that go, which path units watch.
    pub watched: Vec<PathBuf>,
    /// The time to confirm in seconds, if confirmation is needed.
    pub confirm: Option<u16>,
}

impl Expectations {
    fn of(sides: &Sides<'_>, request: &Deploy) -> Expectations {
        let Sides { old, new, wants, plan, .. } = sides;
        let units = wants.enabled.iter().chain(&wants.watched);
        let windows = units.filter_map(|(unit, wanted)| Some((unit.clone(), wanted.settle?.0))).into_map();
        let changed = plan.apps.iter().filter_map(|change| Some((&change.app, new.apps.get(&change.app)?)));
        let probes =
            changed.flat_map(|(name, app)| app.manifest.health.iter().map(|probe| (name.clone(), probe.clone())));
        // The old manifest counts, too: removing a firewall is as risky as installing one.
        let asks = |tree: &HostTree, app: &AppName| tree.apps.get(app).is_some_and(|app| app.manifest.confirm);
        let is_asked = plan.apps.iter().any(|change| asks(old, &change.app) || asks(new, &change.app));
        let confirm = request.confirm.or(is_asked.then_some(CONFIRM));
        let made = wants
            .external
            .values()
            .flat_map(Claim::all)
            .filter_map(|claim| match &claim.kind {
                ClaimKind::Copy(Snippet::Unit(unit), _) => Some(unit.clone()),
                ClaimKind::Copy(..) | ClaimKind::Link => None,
            })
            .into_set();
        Expectations {
            windows,
            timeout: wants.settle_timeout,
            probes: probes.collect(),
            made,
            watched: Vec::new(),
            confirm,
        }
    }
}

/// The result of staging.
pub enum Staged {
    Ready(Box<Ready>),
    /// The helper cancelled or is gone.
    Gone,
}

/// Receive everything, check it against the plan, write the new generation, and decide the actions.
pub fn stage(
    home: &Home,
    request: &Deploy,
    store: &mut Store,
    peer: &mut Peer,
    system: &mut dyn System,
) -> Result<Staged, HostError> {
    let current = generations::current(home)?;
    let claims = drift::load(home);
    let first = FirstLook::begin(home, current, &claims);
    let mut receiving = Receiving::new(home, request, store, peer);
    let Some(old) = receiving.load_deployed()? else { return Ok(Staged::Gone) };
    let Some(new) = receiving.receive_goal()? else { return Ok(Staged::Gone) };
    let desired = |whose, tree| Desired::of(tree).map_err(|error| HostError::tree(whose, error));
    let (had, wants) = (desired(Whose::Deployed, &old)?, desired(Whose::New, &new)?);
    let plan = HostPlan::of_desired(&old, &new, &had, &wants);
    if plan.digest() != request.plan {
        return Err(HostError::refused("the host's plan differs from the one that was shown"));
    }
    let Seen { unchanged, mut suspects } = first.end();
    let earlier = current.map(|number| Earlier::all_renewed(home, number, unchanged, &old)).unwrap_or_default();
    if !receiving.receive_contents(&new, &earlier)? {
        return Ok(Staged::Gone);
    }
    let claims = ledger(home, store, &had, peer, (claims, &mut suspects))?;
    let down = failed_units::load(home)?;
    let generation = generations::next(home)?.max(current.unwrap_or(0) + 1);
    let found = match request.lease {
        Lease::At(commit) => {
            let (commit, suspects) = (Goal::Commit(commit), &suspects);
            let compared = Compared { home, commit, tree: &old, wants: &had, claims: &claims, suspects };
            drift_of(compared, &earlier, &down, system)?
        }
        Lease::Absent => Vec::new(),
    };
    let meant = Meant { old: &old, new: &new, had: &had, wants: &wants, plan };
    let mut mending = mend::decide(home, meant, found, request.repair, generation);
    let contents = Contents::new(home, store, &earlier);
    let (checkouts, fresh) =
        prepare::check_out(home, generation, &new, &contents, (&mending.left_trees, &mut || peer.tick()))?;
    let secrets = secrets::has_any(&new).then(|| secrets::target(home, generation));
    generations::write(home, generation, &note(home, request)?, &checkouts, secrets.as_deref())?;
    if secrets.is_some() {
        stage_secrets(home, generation, &new, store)?;
    }
    let sides = Sides { old: &old, new: &new, had: &had, wants: &wants, plan: &mending.plan };
    let generations = (current, generation);
    let staged = prepare::Staged {
        in_the_way: request.in_the_way,
        home,
        sides: &sides,
        generations,
        checkouts: &checkouts,
        down: &down,
        foreign: &mending.foreign,
    };
    let Some(mut prepared) = decide(&staged, &claims, &fresh, peer, system)? else { return Ok(Staged::Gone) };
    for note in mend::notes(&mending, &request.host).into_iter().chain(mem::take(&mut prepared.notes)) {
        peer.send(&Response::Note(note));
    }
    let watched = mem::take(&mut prepared.watched);
    let expectations = Expectations { watched, ..Expectations::of(&sides, request) };
    mending.shorten();
    let record = record(request, generations, prepared, &mending);
    let written = written(home, generation, (&checkouts, &fresh), store);
    Ok(Staged::Ready(Box::new(Ready { record, written, expectations, left: mending.left })))
}

/// Decrypt the secrets of `new`, or refuse the deployment.
fn stage_secrets(home: &Home, generation: u32, new: &HostTree, store: &Store) -> Result<(), HostError> {
    secrets::write(home, generation, secrets::open_all(home, new, store)?)?;
    secrets::install_unit(home)
}

/// What we hold. A ledger that is lost is rebuilt from what is deployed, and its paths are looked at now.
fn ledger(
    home: &Home,
    store: &Store,
    had: &Desired,
    peer: &mut Peer,
    (claims, suspects): (Loaded, &mut Vec<ExternalPath>),
) -> Result<Arc<Claims>, HostError> {
    let damage = match claims {
        Ok(Some(claims)) => return Ok(claims),
        Ok(None) if had.external.is_empty() && had.enabled.is_empty() => return Ok(Default::default()),
        Ok(None) => Damage::of(&home.claims(), "is empty or missing"),
        Err(HostError::Damaged(damage)) => {
            heal::set_aside(home, &home.claims())?;
            damage
        }
        Err(error) => return Err(error),
    };
    let Rebuilt { claims, unknown } = rebuild(home, store, had)?;
    for note in [format!("{damage}: rebuilt from what is deployed")].into_iter().chain(unknown) {
        peer.send(&Response::Note(note));
    }
    *suspects = drift::find_suspects(home, &claims);
    Ok(Arc::new(claims))
}

/// What is not as it was deployed, without the units that are started in any case.
fn drift_of(
    compared: Compared<'_>,
    earlier: &[Earlier<'_>],
    down: &[Down],
    system: &mut dyn System,
) -> Result<Vec<Finding>, HostError> {
    let same = earlier.iter().map(|earlier| earlier.name).into_set();
    let mut found = drift::look(compared, &same, system, Depth::Deployment)?;
    let is_down = |unit: &UnitName| down.iter().any(|down| down.unit == *unit);
    found.retain(|finding| !matches!(&finding.item, Item::Unit { unit, remedy } if remedy.start && is_down(unit)));
    Ok(found)
}

/// The note in the new generation.
fn note(home: &Home, request: &Deploy) -> Result<Note, HostError> {
    Ok(Note {
        commit: request.goal,
        host: request.host.clone(),
        cluster: request.cluster.clone(),
        instance: instance(home)?,
    })
}

/// Decide every action, and have systemd and the apps check their files. Returns `None` if the helper cancelled or is gone.
fn decide(
    staged: &prepare::Staged<'_>,
    claims: &Claims,
    fresh: &BTreeSet<AppName>,
    peer: &mut Peer,
    system: &mut dyn System,
) -> Result<Option<Prepared>, HostError> {
    let mut prepared = prepare::decide(staged, claims, fresh, system)?;
    prepared.notes.extend(prepare::verify::run(staged, system)?);
    let Some(notes) = prepare::checks::run(staged, system, &mut || peer.still_waits())? else { return Ok(None) };
    prepared.notes.extend(notes);
    Ok(Some(prepared))
}

/// The record for the journal.
fn record(
    request: &Deploy,
    (previous, generation): (Option<u32>, u32),
    prepared: Prepared,
    mending: &Mending,
) -> Record {
    let Prepared { actions, claims, before, enablement, watched: _, notes: _ } = prepared;
    let from = match request.lease {
        Lease::Absent => None,
        Lease::At(id) => Some(id),
    };
    Record {
        agent: AgentId::own(),
        id: request.id,
        host: request.host.clone(),
        deployed_from: request.deployed_from().clone(),
        cluster: request.cluster.clone(),
        from,
        to: request.goal,
        by: printable(request.operator.as_bytes()),
        when: now(),
        previous,
        generation,
        actions,
        before,
        enablement,
        claims,
        mended: mending.mended.clone(),
        kept_files: mending.kept_files.clone(),
    }
}

/// The files and directories that staging has written.
fn written(
    home: &Home,
    generation: u32,
    (checkouts, fresh): (&[(AppName, String)], &BTreeSet<AppName>),
    store: &Store,
) -> Vec<PathBuf> {
    let fresh = checkouts.iter().filter(|(app, _)| fresh.contains(app)).map(|(_, tree)| tree.as_str());
    let mut written: Vec<PathBuf> = fresh.flat_map(|tree| checkout::paths(home, tree)).collect();
    written.push(home.generation(generation));
    written.extend(store.written());
    written
}
