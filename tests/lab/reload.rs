//! What clients notice of a deployment: nothing if the unit reloads; its stop and start if it restarts.
//!
//! Figures are printed (`cargo test … -- --nocapture`). The assertions leave room for a busy computer.

use std::time::Duration;

use deptool_tests::lab::HostSpec;
use deptool_tests::process::Cmd;

use crate::{
    net::{Poll, http_get},
    stage::Stage,
};

const NGINX_CONF: &str = "\
user www-data;
pid /run/nginx.pid;
events {}
http { access_log off; server { listen 80; location / { return 200 'PAGE'; } } }
";
const DROP_IN: &str = "\
[Service]
ExecStartPre=
ExecStart=
ExecStart=/usr/sbin/nginx -c /var/lib/deptool/apps/nginx/current/nginx.conf
ExecReload=
ExecReload=/usr/sbin/nginx -c /var/lib/deptool/apps/nginx/current/nginx.conf -s reload
";

/// nginx runs, with this `on_change`.
fn serving(on_change: &str) -> Option<Stage> {
    let stage = Stage::with(&[HostSpec::new("web1")])?;
    let operator = stage.operator();
    operator.add_remote("web1", "deptool::web1");
    let manifest = r#"{"systemd": {"units_enabled": ["nginx.service"], "on_change": {"nginx.service": "HOW"}}}"#;
    operator.write("web1/nginx/manifest.json", manifest.replace("HOW", on_change));
    operator.write("web1/nginx/systemd/nginx.service.d/deptool.conf", DROP_IN);
    stage.page("first");
    operator.git(&["push", "web1", "prod"]).ok();
    Some(stage)
}

impl Stage {
    fn page(&self, page: &str) {
        self.operator().write("web1/nginx/nginx.conf", NGINX_CONF.replace("PAGE", page));
        self.operator().commit(page);
    }

    fn serves(&self, page: &str) -> bool {
        http_get(&self.host().ip, "/").unwrap_or_default().ends_with(page)
    }
}

#[test]
fn a_reload_loses_no_request() {
    let Some(stage) = serving("reload") else { return };
    let (host, operator) = (stage.host(), stage.operator());
    let invocation = host.unit_property("nginx.service", "InvocationID");
    let url = format!("http://{}/", host.ip);
    let said = std::thread::scope(|scope| {
        // Each request uses a new connection, because a persistent one may close between two requests.
        let load = ["-t", "1", "-c", "8", "-d", "8s", "-H", "Connection: close", &url];
        let wrk = scope.spawn(move || Cmd::new("wrk").args(load).run().expect("wrk runs").ok().stdout());
        for page in ["second", "third", "fourth"] {
            stage.page(page);
            operator.git(&["push", "web1", "prod"]).ok();
            assert!(!wrk.is_finished(), "the load was over before the deployments");
        }
        wrk.join().expect("wrk does not panic")
    });
    println!("three reloads under load:\n{said}");
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    assert!(said.contains("requests in"), "{said}");
    assert!(stage.serves("fourth"));
    assert_eq!(host.unit_property("nginx.service", "InvocationID"), invocation, "it was not restarted");

    // A reload that fails: nginx reports that, and keeps the old configuration.
    operator.write("web1/nginx/nginx.conf", "this is no configuration\n");
    operator.commit("Broken");
    let poll = Poll::start(&host.ip);
    operator.git(&["push", "web1", "prod"]).fails().says("rolled back: nginx.service could not be reloaded");
    let polled = poll.end();
    println!("a reload that failed: {polled}");
    assert_eq!(polled.failed, 0);
    assert!(stage.serves("fourth"));
    assert_eq!(host.unit_property("nginx.service", "InvocationID"), invocation);
}

#[test]
fn a_bad_configuration_costs_the_units_own_stop_and_start_and_little_of_ours() {
    let Some(stage) = serving("restart") else { return };
    let (host, operator) = (stage.host(), stage.operator());
    let outage_of = |what: &str, act: &dyn Fn()| {
        let poll = Poll::start(&host.ip);
        act();
        let polled = poll.end();
        println!("{what}: {polled}");
        polled.longest
    };
    // What the unit itself needs: to stop, to fail to start, and to start. Each takes a systemctl, which is not part of
    // our time.
    let conf = "/var/lib/deptool/apps/nginx/current/nginx.conf";
    let by_hand = format!(
        "cp {conf} /run/good; echo no configuration >/run/bad; cat /run/bad >{conf}; \
         systemctl restart nginx.service || true; cat /run/good >{conf}; \
         systemctl reset-failed nginx.service; systemctl start nginx.service"
    );
    let (mut restarts, mut hands, mut ours, mut good) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..5 {
        restarts.push(outage_of("systemctl restart", &|| drop(host.sh("systemctl restart nginx.service"))));
        hands.push(outage_of("a bad configuration and back, by hand", &|| drop(host.sh(&by_hand))));
        operator.write("web1/nginx/nginx.conf", format!("no configuration {round}\n"));
        operator.commit("Broken");
        ours.push(outage_of("a bad configuration, deployed", &|| {
            drop(operator.git(&["push", "web1", "prod"]).fails().says("rolled back"));
        }));
        operator.git(&["reset", "--quiet", "--hard", "HEAD^"]).ok();
        stage.page(&format!("good {round}"));
        good.push(outage_of("a good configuration, deployed", &|| drop(operator.git(&["push", "web1", "prod"]).ok())));
        assert!(stage.serves(&format!("good {round}")));
    }
    let median = |figures: &mut Vec<Duration>| {
        figures.sort();
        figures[figures.len() / 2]
    };
    let (restart, hand, ours, good) = (median(&mut restarts), median(&mut hands), median(&mut ours), median(&mut good));
    println!("medians: restart {restart:?}, by hand {hand:?}, bad one deployed {ours:?}, good one deployed {good:?}");
    assert!(ours < hand + restart + Duration::from_millis(300), "{ours:?}");
    assert!(good < restart * 2 + Duration::from_millis(300), "{good:?}");
}
