//! The result of `verify` in Prometheus's text format, for a scrape or for node_exporter's textfile collector.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::Write as _;

use deptool_agent::shared::{name::HostName, outcome::AttemptResult};

use super::HostDrift;

/// All metrics. For a host that could not be asked, only the one that says so.
pub(super) fn text(hosts: &[HostDrift]) -> String {
    let mut out = String::new();
    let mut metric = |name: &str, help: &str, samples: &mut dyn Iterator<Item = (String, i64)>| {
        // Writing to a String can't fail.
        let _ = write!(out, "# HELP deptool_{name} {help}\n# TYPE deptool_{name} gauge\n");
        for (labels, value) in samples {
            let _ = writeln!(out, "deptool_{name}{{{labels}}} {value}");
        }
    };
    let asked = || hosts.iter().filter_map(|host| Some((&host.host, host, host.hello.as_ref()?)));
    let deployed = || asked().filter_map(|(name, _, hello)| Some((name, hello.deployed.as_ref()?)));
    let attempts = || asked().filter_map(|(name, _, hello)| Some((name, hello.last_attempt.as_ref()?)));
    metric(
        "reachable",
        "Whether the host's agent answered.",
        &mut hosts.iter().map(|host| (label(&host.host), i64::from(host.hello.is_some()))),
    );
    metric(
        "drift",
        "The number of paths and units that differ from what was deployed.",
        &mut asked().map(|(name, host, _)| (label(name), i64::try_from(host.drift.len()).unwrap_or(i64::MAX))),
    );
    metric(
        "deployed_info",
        "The deployed commit and its cluster.",
        &mut deployed().map(|(name, deployed)| {
            let labels = format!("{},cluster=\"{}\",commit=\"{}\"", label(name), deployed.cluster, deployed.commit);
            (labels, 1)
        }),
    );
    metric(
        "deployed_timestamp_seconds",
        "The time of its deployment.",
        &mut deployed().map(|(name, deployed)| (label(name), deployed.when)),
    );
    metric(
        "last_attempt_success",
        "Whether the last attempt to deploy was kept.",
        &mut attempts().map(|(name, attempt)| (label(name), i64::from(attempt.result == AttemptResult::Done))),
    );
    metric(
        "last_attempt_timestamp_seconds",
        "The time at which that attempt began.",
        &mut attempts().map(|(name, attempt)| (label(name), attempt.when)),
    );
    out
}

/// Names of hosts and clusters contain no characters that need escaping.
fn label(host: &HostName) -> String {
    format!("host=\"{host}\"")
}
