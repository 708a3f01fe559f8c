//! The safeguards of a deployment to one host: checks before anything changes, health probes and confirmation
//! afterwards.

use deptool_agent::shared::{
    name::{AppName, UnitName},
    plan::HostPlan,
    tree::HostTree,
};

/// The safeguards of the apps that change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Safeguards {
    /// Units that run against the staged files.
    pub checks: Vec<UnitName>,
    /// Probes that must succeed after the units have settled.
    pub health: Vec<String>,
    /// Whether an app demands that the host can be reached again afterwards.
    pub confirm: bool,
}

impl Safeguards {
    pub fn of(plan: &HostPlan, old: &HostTree, new: &HostTree) -> Safeguards {
        let changed = || plan.apps.iter().filter_map(|change| new.apps.get(&change.app));
        let checks = changed().flat_map(|app| app.manifest.checks.iter().cloned());
        let probes = changed().flat_map(|app| &app.manifest.health);
        let health = probes.map(|probe| format!("{} within {} s", probe.target, probe.within.as_secs_f64()));
        // As on the host: removing a firewall is as risky as adding one.
        let asks = |tree: &HostTree, app: &AppName| tree.apps.get(app).is_some_and(|app| app.manifest.confirm);
        let confirm = plan.apps.iter().any(|change| asks(old, &change.app) || asks(new, &change.app));
        Safeguards { checks: checks.collect(), health: health.collect(), confirm }
    }

    /// One line each, safe to show.
    pub fn lines(&self) -> Vec<String> {
        let Safeguards { checks, health, confirm } = self;
        let checks = checks.iter().map(|unit| format!("check with {unit}"));
        let health = health.iter().map(|probe| format!("wait for {probe}"));
        let confirm = confirm.then(|| "roll back unless the host can be reached again".to_owned());
        checks.chain(health).chain(confirm).collect()
    }
}
