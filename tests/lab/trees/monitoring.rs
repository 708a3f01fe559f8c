//! Prometheus and node_exporter, which watch hosts and what is deployed to them.

use std::time::Duration;

use deptool_tests::lab::{Base, Host, HostSpec};
use deptool_tests::process::poll;

use super::{Example, run_of};

/// More than two scrapes.
const PATIENCE: Duration = Duration::from_secs(45);

/// What Prometheus says to a request of its API.
fn api(host: &Host, path: &str) -> String {
    // bash is what the host has that can connect.
    let ask = r#"exec 3<>/dev/tcp/127.0.0.1/9090; printf '%s\r\n\r\n' "$1" >&3; cat <&3"#;
    let path = path.replace('"', "%22").replace('{', "%7B").replace('}', "%7D");
    let run = host.run_in(&["bash", "-ec", ask, "bash", &format!("GET /api/v1/{path} HTTP/1.0")]);
    run.unwrap_or_else(|error| panic!("{error:#}")).ok().stdout()
}

/// The value of the only time series of that name.
fn value(host: &Host, query: &str) -> Option<String> {
    let answer = api(host, &format!("query?query={query}"));
    let (_, json) = answer.split_once("\r\n\r\n")?;
    let json: serde_json::Value = serde_json::from_str(json).ok()?;
    Some(json["data"]["result"][0]["value"][1].as_str()?.to_owned())
}

#[test]
fn a_monitoring_host_does_what_its_readme_says() {
    let mon1 = HostSpec { base: Base::Servers, ..HostSpec::new("mon1") };
    let Some(example) = Example::new("monitoring", &[mon1]) else { return };
    let host = example.host("mon1");
    let before = example.before();
    example.try_it();
    let ran = run_of(host, "prometheus.service");
    let is = |query: &str, wanted: &str| {
        let what = format!("{query} = {wanted}");
        poll(&what, PATIENCE, || (value(host, query)? == wanted).then_some(())).unwrap();
    };
    is("node_textfile_scrape_error", "0");
    is("up{job=\"node\",node=\"mon1\"}", "1");
    is("up{job=\"prometheus\",instance=\"127.0.0.1:9090\"}", "1");

    let verify = || {
        let script = example.commands("What is deployed");
        let shell = example
            .sandbox
            .command("sh")
            .args(["-ec", &format!("ssh() {{ command $GIT_SSH_COMMAND \"$@\"; }}\n{script}")]);
        shell.dir(example.dir()).run().unwrap().ok();
    };
    verify();
    is("deptool_drift{host=\"mon1\"}", "0");
    is("deptool_reachable", "1");
    host.sh("systemctl stop prometheus-node-exporter.service");
    verify();
    host.sh("systemctl start prometheus-node-exporter.service");
    is("deptool_drift", "1");
    let alerts = || api(host, "alerts").contains(r#""alertname":"HostDiffers""#).then_some(());
    poll("an alert", PATIENCE, alerts).unwrap();

    // Reloaded, and asked.
    example.edit("mon1/prometheus/rules/hosts.yml", "TargetDown", "NoAnswer");
    example.push("Another name").ok();
    assert!(api(host, "rules").contains("NoAnswer"));
    assert_eq!(run_of(host, "prometheus.service"), ran);
    example.edit("mon1/prometheus/rules/hosts.yml", "up == 0", "up = 0");
    example.push_fails("A typing error").says("check 'prometheus-check.service' of 'prometheus' failed");
    example.edit("mon1/prometheus/systemd/prometheus.service.d/deptool.conf", "--web.listen", "--web.lisen");
    example.push_fails("An option that there is not").says("rolled back: prometheus.service");
    assert!(api(host, "rules").contains("NoAnswer"));
    example.give_back(before, "");
}
