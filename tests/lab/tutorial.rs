//! The tutorial, deptool(7), from its beginning to a real host, which has an nginx that is adopted.

use std::time::Duration;

use deptool_tests::lab::{HostSpec, start_or_skip};
use deptool_tests::process::{poll, write_program};
use deptool_tests::sandbox::Sandbox;
use deptool_tests::tutorial::Reader;

use crate::net::http_get;
use crate::state::State;

/// What somebody did by hand.
const BY_HAND: &str = r"
mkdir -p /etc/systemd/system/nginx.service.d /srv/www/pub
printf '[Service]\nLimitNOFILE=4096\n' >/etc/systemd/system/nginx.service.d/limits.conf
sed -i 's,root /var/www/html;,root /srv/www;,' /etc/nginx/sites-available/default
systemctl daemon-reload
systemctl --quiet enable --now nginx.service
";
/// What the reader types into the editor: see `git diff` in the tutorial.
const EDITOR: &str = r#"#!/bin/sh
sed -i 's/^  "systemd": {/&\n    "on_change": {"nginx.service": "reload"},/' "$1"
sed -i 's/^\troot .*/&\n\tautoindex on;/' "$2"
"#;

#[test]
fn an_nginx_is_adopted_changed_and_given_back_as_the_tutorial_shows() {
    let Some(lab) = start_or_skip(&[HostSpec::new("web1")]) else { return };
    let (sandbox, host) = (Sandbox::for_lab(&lab), lab.host("web1"));
    host.sh(BY_HAND);
    let before = State::of(host);
    let editor = sandbox.dir().join("git/vi");
    write_program(&editor, EDITOR).unwrap();

    let mut reader = Reader::new(&sandbox);
    reader.follow_on_a_local_root();
    reader.follow("A REAL HOST");
    let nginx = host.unit_property("nginx.service", "InvocationID");
    // A process from before a reload may answer a moment longer.
    let serves = |text: &str| {
        let answer = || http_get(&host.ip, "/pub/").filter(|answer| answer.contains(text)).map(drop);
        poll(text, Duration::from_secs(10), answer).unwrap();
    };
    let mut removals = 0;
    reader.follow_watched("ADOPTING A HOST", &mut |command| {
        if command == "git push web1 :prod" {
            removals += 1;
            assert_eq!(host.unit_property("nginx.service", "InvocationID"), nginx, "it was only reloaded");
            serves("Index of /pub/");
        }
    });
    assert_eq!(removals, 1);
    let after = State::of(host);
    State { deptool: after.deptool, ..before }.assert_same(host, "given back");
    serves("403 Forbidden");
}
