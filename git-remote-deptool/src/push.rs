//! A push, from Git's batch to its report.
//!
//! ```text
//! batch ▸ request (which branch, which commit) ▸ consider each host (lease, ancestry, plan)
//!       ▸ deploy to all that are affected ▸ conclude for each (tracking ref, mark) ▸ report
//! ```
//!
//! A ref is *ok* only when every host that the change affects has said that it is durable there.

pub mod account;
mod approach;
mod conclude;
mod consider;
mod deploy;
mod hosts;
mod progress;

use std::sync::Arc;

use account::{Fate, HostReport};
use consider::Considered;
use deptool_agent::shared::{
    id::CommitId,
    name::{ClusterName, HostName},
    outcome::Goal,
    plan::HostPlan,
    wire::Lease,
};
use gix::bstr::{BStr, ByteSlice};
pub use hosts::of_tree as hosts_of_tree;

use crate::{
    config::{HostRemote, Target},
    fleet::remote::{Remote, RemoteError},
    model::{
        batch::{Ancestry, Destination, PushBatch, PushCommand, Source, Tags},
        error::chain,
        options::{Options, Run},
        outcome::{Outcome, Report, Update},
    },
    plan,
    state::{HostLock, Tracked},
    ui::render,
};

/// What is asked for, once for all hosts.
pub(crate) struct Request<'a> {
    pub cluster: ClusterName,
    pub goal: Goal,
    pub ancestry: Ancestry,
    /// `--force-with-lease`.
    pub lease: Option<Lease>,
    pub options: &'a Options,
    /// Whether the push is to one host by name, not to a group.
    pub is_single: bool,
}

impl Request<'_> {
    /// A report on a host that nothing was done for yet.
    fn report(&self, host: &HostName, tracked: Option<Tracked>) -> HostReport {
        let to = match self.goal {
            Goal::Commit(id) => Some(id),
            Goal::Nothing => None,
        };
        HostReport {
            host: host.clone(),
            cluster: self.cluster.clone(),
            from: tracked.map(|tracked| tracked.real),
            to,
            outcome: Fate::NotAttempted,
            why: String::new(),
            details: String::new(),
            rollback_errors: Vec::new(),
            actual: None,
        }
    }
}

/// A host that the push affects.
pub(crate) struct Affected {
    pub remote: HostRemote,
    pub tracked: Option<Tracked>,
    pub expected: Lease,
    pub plan: Arc<HostPlan>,
    pub update: Update,
    /// Held from before the mark is set until the host's answer was noted. A dry run has none.
    pub _lock: Option<HostLock>,
}

/// Carry out `batch`, and say in `report` what became of each ref. Returns the hosts that were deployed to.
pub fn push(
    remote: &Remote,
    batch: &PushBatch,
    options: &Options,
    report: &mut Report,
) -> Result<Vec<HostName>, RemoteError> {
    let tags = batch.tags_are(remote.settings.follow_tags);
    let branches = batch.branches().count();
    let mut deployed = Vec::new();
    for command in batch.commands() {
        let outcome = match command.destination() {
            Destination::Tag(_) if tags == Tags::Followed => Outcome::Unaffected,
            Destination::Tag(_) => reject("a tag can't be deployed; push a branch"),
            Destination::Other => reject("only branches can be deployed"),
            Destination::Branch(_) if branches > 1 => {
                reject("a host belongs to one cluster: push one branch at a time")
            }
            Destination::Branch(name) => match push_branch(remote, command, name, options) {
                Ok((outcome, hosts)) => {
                    deployed.extend(hosts);
                    outcome
                }
                Err(error) => reject(&chain(&error)),
            },
        };
        set(report, command.dst.as_bstr(), outcome);
    }
    Ok(deployed)
}

fn reject(text: &str) -> Outcome {
    Outcome::Rejected(text.into())
}

fn set(report: &mut Report, dst: &BStr, outcome: Outcome) {
    // Every destination comes from the batch that the report was made from.
    let known = report.set(dst, outcome);
    debug_assert!(known.is_ok(), "{known:?}");
}

fn push_branch(
    remote: &Remote,
    command: &PushCommand,
    name: &BStr,
    options: &Options,
) -> Result<(Outcome, Vec<HostName>), RemoteError> {
    let (only, cluster) = match (&remote.target, name.rsplit_once_str("/")) {
        (Target::Group(..) | Target::All, Some((host, cluster))) => (Some(host.as_bstr()), cluster.as_bstr()),
        (Target::Host(_), _) | (Target::Group(..) | Target::All, None) => (None, name),
    };
    let cluster = ClusterName::parse(cluster).map_err(|error| RemoteError::Text(error.to_string()))?;
    let goal = match &command.src {
        Source::Delete => Goal::Nothing,
        Source::Revision(text) => Goal::Commit(remote.repo.resolve(text.as_bstr())?),
    };
    let request = Request {
        cluster,
        goal,
        ancestry: command.ancestry,
        lease: options.leases.get(&command.dst).copied(),
        options,
        is_single: only.is_some() || matches!(remote.target, Target::Host(_)),
    };
    let hosts = hosts::of(remote, &request, only)?;
    consider::note_ignored(remote, &request)?;
    hosts::note_absent(remote, &request, &hosts)?;
    let considered = consider::consider(remote, &request, hosts)?;
    let is_refused = considered.is_refused();
    let Considered { affected, mut reports } = considered;
    let is_other_plan = !is_refused && is_other_plan(&request, &affected);
    if is_refused {
        reports.extend(affected.iter().map(|one| request.report(&one.remote.host, one.tracked)));
    } else if is_other_plan {
        let why = "what is known of the hosts has changed since the plan was made; nothing was changed";
        let stale = |one: &Affected| HostReport {
            outcome: Fate::Stale,
            why: why.into(),
            ..request.report(&one.remote.host, one.tracked)
        };
        reports.extend(affected.iter().map(stale));
        remote.say(why);
    } else {
        show_plans(remote, options, &affected);
        if options.run == Run::Real && !affected.is_empty() {
            reports.extend(deploy::deploy(remote, &request, &affected)?);
        }
    }
    let deployed = reports.iter().filter(|report| report.outcome == Fate::Done).map(|report| report.host.clone());
    let deployed = deployed.collect();
    let outcome = conclude::tell(remote, &request, &affected, &reports);
    Ok((if is_other_plan { Outcome::StaleInfo } else { outcome }, deployed))
}

/// Whether somebody has agreed to another plan: `-o plan`.
fn is_other_plan(request: &Request<'_>, affected: &[Affected]) -> bool {
    let Some(agreed) = &request.options.push_options.plan else { return false };
    let affected = affected.iter().map(|one| (&one.remote.host, one.expected, &*one.plan));
    *agreed != plan::digest(&request.cluster, request.goal, affected)
}

fn show_plans(remote: &Remote, options: &Options, affected: &[Affected]) {
    if options.run == Run::Real && options.verbosity < 2 {
        return;
    }
    let mut text = String::new();
    for one in affected {
        text += &render::plan(&one.remote.host, &one.plan);
        text.extend(render::notes(&one.plan).iter().map(|note| format!("    ({note})\n")));
    }
    if !text.is_empty() {
        remote.say(&text);
    }
}

/// What Git is told of a push that has worked, or would.
fn done(request: &Request<'_>, affected: &[Affected]) -> Outcome {
    let new = match request.goal {
        Goal::Commit(id) => Some(id),
        Goal::Nothing => None,
    };
    match affected {
        [one] if request.is_single => {
            Outcome::Done { old: one.tracked.map(|tracked| tracked.commit), new, update: one.update }
        }
        _ => Outcome::Done { old: None, new, update: Update::FastForward },
    }
}

/// The commit of a goal, for messages.
pub(crate) fn goal_text(goal: Goal) -> String {
    match goal {
        Goal::Commit(CommitId(id)) => id.to_hex_with_len(10).to_string(),
        Goal::Nothing => "nothing".into(),
    }
}
