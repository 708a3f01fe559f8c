//! The JSON that `--json` prints. It has types of its own, so that changes to internal types do not affect scripts.
//! Keys may be added, but are never renamed or removed. `man/git-deptool.1` describes the format.

use deptool_agent::shared::{
    manifest::OnChange,
    name::HostName,
    plan::{Change as Kind, Class, Enablement, HostPlan, PatternJob, UnitJob, When},
};
use serde::Serialize;

use super::exit::ExitStatus;
use crate::{
    fleet::remote::RemoteError,
    model::{outcome::RefUpdate, safeguards::Safeguards},
    plan::{ClusterPlan, HostForecast, Impact, Refusal},
    state::{Attempt, Known},
    ui::render,
};

/// The version of the format, part of every document.
pub(super) const VERSION: u32 = 1;

/// The document for an error before anything else could be printed.
#[derive(Debug, Serialize)]
pub(super) struct Failure {
    version: u32,
    error: String,
}

impl Failure {
    pub fn of(error: String) -> Self {
        Failure { version: VERSION, error }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Plan {
    version: u32,
    cluster: String,
    /// Null for a removal.
    commit: Option<String>,
    /// What `deploy --digest` takes.
    digest: String,
    hosts: Vec<HostView>,
    /// The hosts of each wave; empty if there is only one.
    waves: Vec<Vec<HostName>>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct HostView {
    host: String,
    /// `affected`, `up-to-date` or `refused`.
    state: &'static str,
    /// The commit that the host is known to run.
    from: Option<String>,
    /// Whether the outcome of an earlier deployment is unknown.
    in_doubt: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    update: Option<&'static str>,
    #[serde(flatten)]
    changes: Option<Changes>,
}

#[derive(Debug, Serialize)]
struct Changes {
    apps: Vec<App>,
    paths: Vec<Path>,
    units: Vec<Unit>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    patterns: Vec<Pattern>,
    /// Units that are run before anything changes.
    checks: Vec<String>,
    /// Probes that must succeed after the deployment.
    health: Vec<String>,
    /// Whether the tree demands that the host can be reached again after the deployment.
    confirm: bool,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct App {
    app: String,
    change: &'static str,
    files: Vec<File>,
}

#[derive(Debug, Serialize)]
struct File {
    path: String,
    change: &'static str,
}

/// A path outside of `/var/lib/deptool`.
#[derive(Debug, Serialize)]
struct Path {
    path: String,
    change: &'static str,
    kind: &'static str,
    app: String,
    file: String,
}

#[derive(Debug, Serialize)]
struct Unit {
    unit: String,
    /// The change of its enablement: `enable`, `disable`, or null.
    enablement: Option<&'static str>,
    job: Option<&'static str>,
    /// For a job `…-members-…`: the units that this unit starts or groups, according to the tree.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    members: Vec<String>,
    apps: Vec<String>,
}

/// All units of a template, a dashed prefix, or a type.
#[derive(Debug, Serialize)]
struct Pattern {
    pattern: String,
    job: Option<&'static str>,
    apps: Vec<String>,
}

impl Plan {
    pub fn of(plan: &ClusterPlan, waves: Vec<Vec<HostName>>, notes: Vec<String>) -> Self {
        let commit = plan.goal.commit().map(|commit| commit.to_string());
        let hosts = plan.hosts.iter().map(|host| HostView::of(plan, host)).collect();
        Plan {
            version: VERSION,
            cluster: plan.cluster.to_string(),
            commit,
            digest: plan.content_digest(),
            hosts,
            waves,
            notes,
        }
    }
}

impl HostView {
    fn of(plan: &ClusterPlan, host: &HostForecast) -> Self {
        let HostForecast { remote, known, impact } = host;
        let (state, why, update, changes) = match impact {
            Impact::Unaffected => ("up-to-date", None, None, None),
            Impact::Refused(refusal) => ("refused", Some(refusal.words()), None, None),
            Impact::Affected(change) => {
                let update = match (change.tracked, change.update) {
                    (None, _) => "first",
                    (Some(_), RefUpdate::FastForward) => "fast-forward",
                    (Some(_), RefUpdate::Forced) => "forced",
                };
                ("affected", None, Some(update), Some(Changes::of(&change.plan, &change.safeguards)))
            }
        };
        HostView {
            host: remote.host.to_string(),
            state,
            from: known.clusters.get(&plan.cluster).map(|tracked| tracked.real.to_string()),
            in_doubt: !known.unsettled.is_empty(),
            why,
            update,
            changes,
        }
    }
}

impl Changes {
    fn of(plan: &HostPlan, safeguards: &Safeguards) -> Self {
        let Safeguards { checks, health, confirm } = safeguards;
        let HostPlan { apps, external, units, patterns, unobserved: _, reloads: _ } = plan;
        Changes {
            apps: apps
                .iter()
                .map(|change| App {
                    app: change.app.to_string(),
                    change: change_word(change.change),
                    files: change
                        .files
                        .iter()
                        .map(|(path, change)| File { path: path.to_string(), change: change_word(*change) })
                        .collect(),
                })
                .collect(),
            paths: external
                .iter()
                .map(|change| Path {
                    path: change.path.to_string(),
                    change: change_word(change.change),
                    kind: kind_word(change.class),
                    app: change.app.to_string(),
                    file: change.file.to_string(),
                })
                .collect(),
            units: units
                .iter()
                .map(|change| Unit {
                    unit: change.unit.to_string(),
                    enablement: enablement_word(change.enablement),
                    job: job_word(&change.job),
                    members: members(&change.job),
                    apps: change.apps.iter().map(ToString::to_string).collect(),
                })
                .collect(),
            patterns: patterns
                .iter()
                .map(|change| Pattern {
                    pattern: change.pattern.clone(),
                    job: pattern_word(change.job),
                    apps: change.apps.iter().map(ToString::to_string).collect(),
                })
                .collect(),
            checks: checks.iter().map(ToString::to_string).collect(),
            health: health.clone(),
            confirm: *confirm,
            notes: render::notes(plan),
        }
    }
}

fn change_word(change: Kind) -> &'static str {
    match change {
        Kind::Add => "add",
        Kind::Update => "update",
        Kind::Remove => "remove",
    }
}

fn kind_word(class: Class) -> &'static str {
    match class {
        Class::Link => "link",
        Class::Unit => "unit",
        Class::Sysusers => "sysusers",
        Class::Tmpfiles => "tmpfiles",
    }
}

fn enablement_word(enablement: Enablement) -> Option<&'static str> {
    match enablement {
        Enablement::Keep => None,
        Enablement::Enable => Some("enable"),
        Enablement::Renew => Some("enable-anew"),
        Enablement::Release => Some("disable"),
    }
}

fn job_word(job: &UnitJob) -> Option<&'static str> {
    Some(match job {
        UnitJob::None => return None,
        UnitJob::DaemonReload => "daemon-reload",
        UnitJob::Reload(When::Always) => "reload",
        UnitJob::Reload(When::IfRunning) => "reload-if-running",
        UnitJob::ReloadOrRestart(When::Always) => "reload-or-restart",
        UnitJob::ReloadOrRestart(When::IfRunning) => "reload-or-restart-if-running",
        UnitJob::Restart(When::Always) => "restart",
        UnitJob::Restart(When::IfRunning) => "restart-if-running",
        UnitJob::PullIn(When::Always) => "start-members",
        UnitJob::PullIn(When::IfRunning) => "start-members-if-running",
        UnitJob::Start => "start",
        UnitJob::Stop => "stop",
        UnitJob::Members(OnChange::None, _) => return None,
        UnitJob::Members(OnChange::Reload, _) => "reload-members-if-running",
        UnitJob::Members(OnChange::ReloadOrRestart, _) => "reload-or-restart-members-if-running",
        UnitJob::Members(OnChange::Restart, _) => "restart-members-if-running",
    })
}

/// The units that a socket, timer or path starts, or that a target groups, according to the tree.
fn members(job: &UnitJob) -> Vec<String> {
    match job {
        UnitJob::Members(_, members) => members.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    }
}

fn pattern_word(job: PatternJob) -> Option<&'static str> {
    match job {
        PatternJob::None => None,
        PatternJob::Reload => Some("reload-if-running"),
        PatternJob::ReloadOrRestart => Some("reload-or-restart-if-running"),
        PatternJob::Restart => Some("restart-if-running"),
        PatternJob::Leave => Some("leave"),
        PatternJob::Stop => Some("stop"),
    }
}

/// Why a host is in doubt, or `None` if it is not.
pub(super) fn doubt(known: &Known) -> Option<String> {
    let attempt = known.unsettled.values().next()?;
    Some(match attempt {
        Attempt::Deploy(commit) => format!("it is not known how the deployment of {} ended", commit.short()),
        Attempt::Remove => "it is not known how the removal ended".into(),
        Attempt::Unreadable => "it is not known how the last deployment ended".into(),
    })
}

/// The exit status for a host that could not be asked.
pub(super) fn status_of_error(error: &RemoteError) -> ExitStatus {
    match error {
        RemoteError::Session { source, .. } if source.is_unreachable() => ExitStatus::Unreachable,
        _ => ExitStatus::Failed,
    }
}

/// The exit status for hosts that refuse a push.
pub(super) fn status_of(refusals: &[&Refusal]) -> ExitStatus {
    let is_stale = |refusal: &&&Refusal| matches!(refusal, Refusal::Stale | Refusal::NonFastForward { .. });
    match refusals.iter().find(is_stale) {
        Some(_) => ExitStatus::Stale,
        None => ExitStatus::Failed,
    }
}
