//! Stages a deployment: receives, checks and writes everything that it needs, and decides every action. Nothing becomes
//! visible.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::{
    host::{
        connection::peer::Peer,
        deploy::{
            prepare::{self, Prepared, Sides},
            receive::Receiving,
        },
        external::drift,
        state::{
            checkout::{self, Contents, Earlier},
            error::{HostError, Whose},
            failed_units,
            generations::{self, Note},
            identity::instance,
            journal::{AgentId, Record},
            layout::Home,
            ledger::Claims,
        },
    },
    shared::{
        desired::Wanted,
        manifest::probe::Probe,
        name::{AppName, UnitName},
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
}

/// What has to hold after the activation.
pub struct Expectations {
    /// How long a unit must run without failing, where the manifest sets that time.
    pub windows: BTreeMap<UnitName, Duration>,
    /// The limit for the whole activation.
    pub timeout: Duration,
    /// The health probes of the apps that change.
    pub probes: Vec<(AppName, Probe)>,
    /// The time to confirm in seconds, if confirmation is needed.
    pub confirm: Option<u16>,
}

impl Expectations {
    fn of(sides: &Sides<'_>, request: &Deploy) -> Expectations {
        let Sides { old, new, wants, plan, .. } = sides;
        let units = wants.enabled.iter().chain(&wants.watched);
        let windows =
            units.filter_map(|(unit, wanted)| Some((unit.clone(), wanted.settle?.0))).collect::<BTreeMap<_, _>>();
        let changed = plan.apps.iter().filter_map(|change| Some((&change.app, new.apps.get(&change.app)?)));
        let probes =
            changed.flat_map(|(name, app)| app.manifest.health.iter().map(|probe| (name.clone(), probe.clone())));
        // The old manifest counts, too: removing a firewall is as risky as installing one.
        let asks = |tree: &HostTree, app: &AppName| tree.apps.get(app).is_some_and(|app| app.manifest.confirm);
        let is_asked = plan.apps.iter().any(|change| asks(old, &change.app) || asks(new, &change.app));
        let confirm = request.confirm.or(is_asked.then_some(CONFIRM));
        Expectations { windows, timeout: wants.settle_timeout, probes: probes.collect(), confirm }
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
    let from = match request.lease {
        Lease::Absent => None,
        Lease::At(id) => Some(id),
    };
    let claims = Claims::load(home)?.unwrap_or_default();
    let current = home.generation_of(&home.current())?;
    let mut receiving = Receiving::new(home, request, store, peer);
    let Some(old) = receiving.load_deployed()? else { return Ok(Staged::Gone) };
    let earlier = prepare::earlier(home, current, &old);
    note_drift(home, current, &old, &earlier, receiving.peer);
    let Some(new) = receiving.receive_goal(&earlier)? else { return Ok(Staged::Gone) };
    let desired = |whose, tree| Wanted::of(tree).map_err(|error| HostError::tree(whose, error));
    let (had, wants) = (desired(Whose::Deployed, &old)?, desired(Whose::New, &new)?);
    let plan = HostPlan::of_wanted(&old, &new, &had, &wants);
    if plan.digest() != request.plan {
        return Err(HostError::refused("the host's plan is not the one that was shown"));
    }
    let generation = generations::next(home)?.max(current.unwrap_or(0) + 1);
    let contents = Contents { objects: store, incoming: home.incoming(), earlier: &earlier };
    let (checkouts, fresh) = prepare::check_out(home, generation, &new, &contents, &mut || peer.tick())?;
    let note = Note {
        commit: request.goal,
        host: request.host.clone(),
        cluster: request.cluster.clone(),
        instance: instance(home)?,
    };
    generations::write(home, generation, &note, &checkouts)?;
    let sides = Sides { old: &old, new: &new, had: &had, wants: &wants, plan: &plan };
    let down = failed_units::load(home)?;
    let generations = (current, generation);
    let staged = prepare::Staged { home, sides: &sides, generations, checkouts: &checkouts, down: &down };
    let prepared = prepare::decide(&staged, &claims, &fresh, system)?;
    let mut said = prepare::verify::run(&staged, system)?;
    match prepare::checks::run(&staged, system, &mut || peer.still_waits())? {
        Some(notes) => said.extend(notes),
        None => return Ok(Staged::Gone),
    }
    let Prepared { actions, claims, running, notes } = prepared;
    for note in notes.into_iter().chain(said) {
        peer.send(&Response::Note(note));
    }
    let record = Record {
        agent: AgentId::own(),
        id: request.id,
        host: request.host.clone(),
        cluster: request.cluster.clone(),
        from,
        to: request.goal,
        by: printable(request.operator.as_bytes()),
        when: now(),
        previous: current,
        generation,
        actions,
        running,
        claims,
    };
    let fresh = checkouts.iter().filter(|(app, _)| fresh.contains(app)).map(|(_, tree)| tree.as_str());
    let mut written: Vec<PathBuf> = fresh.flat_map(|tree| checkout::paths(home, tree)).collect();
    written.push(home.generation(generation));
    written.extend(store.written());
    Ok(Staged::Ready(Box::new(Ready { record, written, expectations: Expectations::of(&sides, request) })))
}

/// Tell the operator about deployed files that somebody edited. The new generation has them as deployed; the current
/// generation keeps the edited ones.
fn note_drift(home: &Home, current: Option<u32>, old: &HostTree, earlier: &[Earlier<'_>], peer: &mut Peer) {
    let Some(number) = current else { return };
    for (name, app) in &old.apps {
        if earlier.iter().any(|earlier| earlier.app.tree == app.tree) {
            continue;
        }
        let kept = home.generation(number).join(name.as_str());
        for drift in drift::of_checkout(home, number, name, app) {
            let said = match kept.exists() {
                true => {
                    let kept = printable(kept.as_os_str().as_encoded_bytes());
                    format!("{drift}: what was there is kept in '{kept}'")
                }
                false => drift.to_string(),
            };
            peer.send(&Response::Note(said));
        }
    }
}
