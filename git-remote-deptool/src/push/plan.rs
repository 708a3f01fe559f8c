//! Plans the push for each host before anything is sent.

use deptool_agent::shared::plan::Change;

use super::{
    Affected, Request,
    host_report::{HostOutcome, HostReport},
    resolve::Locked,
};
use crate::{
    config::HostRemote,
    fleet::remote::{Remote, RemoteError},
    plan::{HostChange, Impact, Intent, Planner, Refusal, Scope},
    secrets::plain_text,
    state::{HostLock, Known},
};

/// Returns the affected hosts, and the reports on all others.
pub(super) fn plan(
    remote: &Remote,
    request: &Request<'_>,
    hosts: Vec<Locked>,
) -> Result<(Vec<Affected>, Vec<HostReport>), RemoteError> {
    let intent = Intent {
        cluster: request.cluster.clone(),
        goal: request.goal,
        ancestry: request.ancestry,
        lease: request.lease,
        repair: request.options.push_options.repair,
        scope: if request.is_single { Scope::OneHost } else { Scope::Group },
        plain: request.options.push_options.plain,
    };
    let named: Vec<_> = hosts.iter().map(|(host, _)| host).collect();
    let known = remote.tracking().known(&named)?;
    let pairs: Vec<(&HostRemote, &Known)> = named.into_iter().zip(&known).collect();
    let impacts = Planner::new(&remote.repo, intent)?.impacts(&pairs);
    let (mut all_affected, mut others) = (Vec::new(), Vec::new());
    for ((host, lock), impact) in hosts.into_iter().zip(impacts) {
        let (outcome, why) = match impact {
            Impact::Affected(change) => {
                all_affected.push(affected(remote, host, *change, lock));
                continue;
            }
            Impact::Unaffected => (HostOutcome::Unaffected, String::new()),
            Impact::Refused(refusal) => refused(remote, request, &host, refusal),
        };
        others.push(HostReport { outcome, why, ..request.report(&host.host, None) });
    }
    Ok((all_affected, others))
}

fn affected(remote: &Remote, host: HostRemote, change: HostChange, lock: Option<HostLock>) -> Affected {
    for ignored in change.ignored.iter() {
        remote.say(&format!("note: '{}/{ignored}' is not part of an app and is not deployed", host.host));
    }
    if has_secrets(&change) && remote.settings.shared.recipient(&host.host).is_none() {
        remote.say(&format!(
            "note: cluster.json records no key of '{0}' for its secrets, so it is not noticed if that changes; \
             'git deptool secret rekey {0}' records it",
            host.host
        ));
    }
    let HostChange { renamed_from, tracked, expected, update, plan, safeguards, trees: _, ignored: _ } = change;
    if let Some(before) = &renamed_from {
        remote.say(&format!("{}: its directory was '{before}' until now", host.host));
    }
    Affected { remote: host, renamed_from, tracked, expected, plan, safeguards, update, _lock: lock }
}

/// Whether secrets are added or changed.
fn has_secrets(change: &HostChange) -> bool {
    let mut files = change.plan.apps.iter().flat_map(|app| &app.files);
    files.any(|(path, change)| *change != Change::Remove && plain_text::is_secret(path.as_bytes()))
}

/// The report on a host that the push can't go to.
fn refused(remote: &Remote, request: &Request<'_>, host: &HostRemote, refusal: Refusal) -> (HostOutcome, String) {
    match refusal {
        Refusal::Stale => (HostOutcome::Stale, String::new()),
        Refusal::NonFastForward { missing } => {
            if let Some(missing) = missing {
                remote.say(&format!(
                    "{}: runs {}, which is not in this repository; get it from the operator who deployed it, then merge it",
                    host.host,
                    missing.short()
                ));
            }
            (HostOutcome::NonFastForward, String::new())
        }
        // In a group, the report names the host anyway.
        Refusal::Unfit(why) if request.is_single => (HostOutcome::Refused, format!("{}: {why}", host.host)),
        Refusal::Unfit(why) | Refusal::Other(why) => (HostOutcome::Refused, why),
    }
}
