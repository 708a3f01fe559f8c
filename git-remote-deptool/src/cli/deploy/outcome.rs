//! The outcome on all hosts, as text.

use std::{fmt::Write as _, time::Duration};

use crate::{
    push::host_report::{HostOutcome, HostReport},
    ui::render::plural,
};

/// One line per host, and a summary:
///
/// ```text
///
///   web1: done
///   web2: rolled back: nginx.service failed
///
/// Deployed to 1 of 2 hosts in 0.41 s.
/// ```
pub(super) fn text(reports: &[HostReport], took: Duration) -> String {
    let mut out = String::new();
    let concerned: Vec<_> = reports.iter().filter(|report| report.outcome != HostOutcome::Unaffected).collect();
    if concerned.is_empty() {
        return out;
    }
    out.push('\n');
    for report in &concerned {
        // Writing to a String can't fail.
        let _ = writeln!(out, "  {}: {}", report.host, report.text());
    }
    let count = |is: fn(&HostReport) -> bool| concerned.iter().filter(|report| is(report)).count();
    let done = count(|report| matches!(report.outcome, HostOutcome::Done | HostOutcome::NotNoted));
    let unknown = count(|report| report.outcome == HostOutcome::Unknown);
    let half = count(|report| !report.rollback_errors.is_empty());
    let (all, seconds) = (concerned.len(), took.as_secs_f64());
    let mut sentences = Vec::new();
    match done {
        // If the outcome on a host is unknown, something may have been deployed.
        0 if unknown + half == 0 => sentences.push("Nothing was deployed.".to_owned()),
        0 => {}
        _ if done == all => sentences.push(format!("Deployed to {} in {seconds:.2} s.", plural(done, "host"))),
        _ => sentences.push(format!("Deployed to {done} of {} in {seconds:.2} s.", plural(all, "host"))),
    }
    if half > 0 {
        sentences.push(format!("{} could not be rolled back completely.", plural(half, "host")));
    }
    if unknown > 0 {
        sentences.push(format!("The outcome on {} is unknown; run 'git fetch'.", plural(unknown, "host")));
    }
    let _ = writeln!(out, "\n{}", sentences.join(" "));
    out
}

#[cfg(test)]
mod tests {
    use deptool_agent::shared::name::{ClusterName, HostName};

    use super::*;

    fn report(host: &str, outcome: HostOutcome) -> HostReport {
        HostReport {
            host: HostName::parse(host.as_bytes()).unwrap(),
            cluster: ClusterName::parse(b"prod").unwrap(),
            from: None,
            to: None,
            outcome,
            why: "x".into(),
            details: String::new(),
            rollback_errors: Vec::new(),
            drift: Vec::new(),
            actual: None,
        }
    }

    /// The last line.
    fn counted(reports: &[HostReport]) -> String {
        text(reports, Duration::from_millis(410)).lines().last().unwrap_or_default().to_owned()
    }

    #[test]
    fn nothing_was_deployed_is_said_only_where_that_is_certain() {
        use HostOutcome::*;
        let of = |fates: &[HostOutcome]| counted(&fates.iter().map(|fate| report("web1", *fate)).collect::<Vec<_>>());
        assert_eq!(of(&[Done, Done]), "Deployed to 2 hosts in 0.41 s.");
        assert_eq!(of(&[Done, RolledBack]), "Deployed to 1 of 2 hosts in 0.41 s.");
        assert_eq!(of(&[RolledBack, Unreachable, NotAttempted]), "Nothing was deployed.");
        assert_eq!(of(&[NotNoted]), "Deployed to 1 host in 0.41 s.");
        assert_eq!(of(&[Unknown, Refused]), "The outcome on 1 host is unknown; run 'git fetch'.");
        let half = HostReport { rollback_errors: vec!["x".into()], ..report("web1", RolledBack) };
        assert_eq!(counted(&[half]), "1 host could not be rolled back completely.");
        assert_eq!(text(&[report("web1", Unaffected)], Duration::ZERO), "");
    }
}
