use proptest::prelude::*;

use super::*;
use crate::shared::tree::memory::Objects;

type Files<'a> = &'a [(&'a str, &'a str)];

fn plan(old: Files, new: Files) -> HostPlan {
    let objects = Objects::default();
    HostPlan::between(&objects.host(old).unwrap(), &objects.host(new).unwrap()).unwrap()
}

/// Units as `name enablement job`.
fn units(plan: &HostPlan) -> Vec<String> {
    plan.units.iter().map(|u| format!("{} {:?} {:?}", u.unit, u.enablement, u.job)).collect()
}

const ENABLED: (&str, &str) = ("web/manifest.json", r#"{"systemd": {"units_enabled": ["web.service"]}}"#);
const UNIT: (&str, &str) = ("web/systemd/web.service", "[Service]\nExecStart=/x");

#[test]
fn equal_trees_plan_nothing() {
    let files: Files = &[ENABLED, UNIT, ("web/x", "1")];
    assert!(plan(files, files).is_empty());
    assert!(plan(&[], &[]).is_empty());
}

#[test]
fn a_changed_file_restarts_the_apps_units_and_reloads_nothing() {
    let plan = plan(&[ENABLED, UNIT, ("web/x", "1")], &[ENABLED, UNIT, ("web/x", "2")]);
    assert_eq!(units(&plan), ["web.service Keep Restart"]);
    assert!(!plan.needs_daemon_reload());
    assert_eq!(plan.apps[0].files, [(TreePath::parse(b"x").unwrap(), Change::Update)]);
}

#[test]
fn on_change_asks_for_a_reload_but_a_changed_unit_file_restarts() {
    let manifest = (
        "web/manifest.json",
        r#"{"systemd": {"units_enabled": ["web.service"], "on_change": {"web.service": "reload"}}}"#,
    );
    let old: Files = &[manifest, UNIT, ("web/x", "1")];
    assert_eq!(units(&plan(old, &[manifest, UNIT, ("web/x", "2")])), ["web.service Keep Reload"]);
    let other = ("web/systemd/web.service", "[Service]\nExecStart=/y");
    assert_eq!(units(&plan(old, &[manifest, other, ("web/x", "1")])), ["web.service Keep Restart"]);
    let drop_in = ("web/systemd/web.service.d/x.conf", "");
    assert_eq!(units(&plan(old, &[manifest, UNIT, drop_in, ("web/x", "1")])), ["web.service Keep Restart"]);
}

#[test]
fn a_reload_that_nothing_observes_is_told() {
    let old: Files = &[("web/x", "1")];
    for (manifest, unit, expected) in [
        (r#""on_change": {"web.service": "reload"}}"#, "", true),
        (r#""on_change": {"web.service": "reload"}}"#, "Type=notify-reload", false),
        (r#""on_change": {"web.service": "reload"}}, "health": [{"tcp": "127.0.0.1:1"}]"#, "", false),
        (r#""on_change": {"web.service": "restart"}}"#, "", false),
    ] {
        let manifest = format!(r#"{{"systemd": {{{manifest}}}"#);
        let unit = format!("[Service]\n{unit}");
        let files = [("web/manifest.json", manifest.as_str()), ("web/systemd/web.service", &unit)];
        let plan = plan(&[old, &files].concat(), &[&[("web/x", "2")], &files[..]].concat());
        assert_eq!(plan.unobserved.iter().any(|unit| unit.as_str() == "web.service"), expected, "{manifest} {unit}");
    }
}

#[test]
fn a_new_app_is_enabled_and_started_and_a_removed_one_stopped_and_released() {
    let files: Files = &[ENABLED, UNIT];
    assert_eq!(units(&plan(&[], files)), ["web.service Enable Start"]);
    assert_eq!(units(&plan(files, &[])), ["web.service Release Stop"]);
}

#[test]
fn a_unit_that_moves_between_apps_is_never_stopped() {
    let moved: Files = &[
        ("new/manifest.json", r#"{"systemd": {"units_enabled": ["web.service"]}}"#),
        ("new/systemd/web.service", "[Service]\nExecStart=/x"),
    ];
    let plan = plan(&[ENABLED, UNIT], moved);
    assert_eq!(units(&plan), ["web.service Keep Restart"]);
    assert!(plan.outside.is_empty(), "the unit file is the same file: {:?}", plan.outside);
}

#[test]
fn a_unit_of_two_apps_is_released_with_the_last() {
    let two: Files = &[ENABLED, UNIT, ("b/manifest.json", ENABLED.1)];
    assert_eq!(units(&plan(two, &[UNIT, ("b/manifest.json", ENABLED.1)])), ["web.service Keep Restart"]);
    assert_eq!(units(&plan(two, &[UNIT])), ["web.service Release Stop"]);
}

#[test]
fn a_drop_in_for_a_unit_of_the_host_restarts_it_if_it_runs() {
    let drop_in = ("web/systemd/sshd.service.d/x.conf", "");
    assert_eq!(units(&plan(&[], &[drop_in])), ["sshd.service Keep RestartIfRunning"]);
    assert_eq!(units(&plan(&[drop_in], &[])), ["sshd.service Keep RestartIfRunning"]);
}

#[test]
fn a_watched_unit_of_the_host_follows_the_app() {
    let manifest = ("web/manifest.json", r#"{"systemd": {"on_change": {"nginx.service": "reload"}}}"#);
    let new = plan(&[manifest, ("web/x", "1")], &[manifest, ("web/x", "2")]);
    assert_eq!(units(&new), ["nginx.service Keep ReloadIfRunning"]);
}

#[test]
fn instances_follow_their_template() {
    let manifest = ("web/manifest.json", r#"{"systemd": {"units_enabled": ["w@a.service"]}}"#);
    let old: Files = &[manifest, ("web/systemd/w@.service", "1")];
    let new: Files = &[manifest, ("web/systemd/w@.service", "2")];
    assert_eq!(units(&plan(old, new)), ["w@a.service Keep Restart"]);
}

#[test]
fn a_quadlet_that_goes_away_stops_the_unit_made_of_it() {
    let quadlet = ("db/quadlets/db.container", "[Container]");
    assert_eq!(units(&plan(&[quadlet], &[])), ["db.service Release Stop"]);
    assert!(plan(&[quadlet], &[]).needs_daemon_reload());
}

#[test]
fn a_link_is_made_moved_and_removed() {
    let link = |target: &str| format!(r#"{{"symlinks": {{"/etc/x": "{target}"}}}}"#);
    let (to_a, to_b) = (link("a"), link("b"));
    let a: Files = &[("web/manifest.json", &to_a), ("web/a", ""), ("web/b", "")];
    let b: Files = &[("web/manifest.json", &to_b), ("web/a", ""), ("web/b", "")];
    let changes = |plan: HostPlan| plan.outside.iter().map(|c| c.change).collect::<Vec<_>>();
    assert_eq!(changes(plan(&[], a)), [Change::Add]);
    assert_eq!(changes(plan(a, b)), [Change::Update]);
    assert_eq!(changes(plan(b, &[])), [Change::Remove]);
}

#[test]
fn the_digest_tells_plans_apart_and_ignores_what_did_not_change() {
    let base: Files = &[("a/x", "1"), ("b/x", "1")];
    let one = plan(base, &[("a/x", "2"), ("b/x", "1")]);
    let two = plan(base, &[("a/x", "1"), ("b/x", "2")]);
    let elsewhere = plan(&[("a/x", "1"), ("c/y", "")], &[("a/x", "2"), ("c/y", "")]);
    assert_ne!(one.digest(), two.digest());
    assert_eq!(one.digest(), elsewhere.digest());
}

/// A random host: a few apps with a few files of a few contents, some with units and links.
fn host() -> impl Strategy<Value = Vec<(String, String)>> {
    let app = prop::sample::select(vec!["a", "b", "c"]);
    let file = prop::sample::select(vec!["x", "d/y", "systemd/u.service", "systemd/v.service.d/z.conf", "m", "n"]);
    let content = prop::sample::select(vec!["1", "2"]);
    prop::collection::btree_map((app, file), content, 0..8).prop_map(|files| {
        let mut out = Vec::new();
        for ((app, file), content) in files {
            let (path, content) = match file {
                "m" => ("manifest.json", r#"{"systemd": {"units_enabled": ["u.service", "v.service"]}}"#.to_owned()),
                "n" => ("tmpfiles/n.conf", content.to_owned()),
                file => (file, content.to_owned()),
            };
            // The same path in two apps would be refused: the app is part of the name.
            let path = path
                .replace("/u.", &format!("/u{app}."))
                .replace("/z.", &format!("/z{app}."))
                .replace("/n.", &format!("/n{app}."));
            out.push((format!("{app}/{path}"), content));
        }
        out
    })
}

proptest! {
    #[test]
    fn going_there_and_back_mirrors_every_path(old in host(), new in host()) {
        let objects = Objects::default();
        let load = |files: &[(String, String)]| {
            let files: Vec<_> = files.iter().map(|(p, c)| (p.as_str(), c.as_str())).collect();
            objects.host(&files).unwrap()
        };
        let (old, new) = (load(&old), load(&new));
        let there = HostPlan::between(&old, &new).unwrap();
        let back = HostPlan::between(&new, &old).unwrap();
        let mirror = |c: Change| match c { Change::Add => Change::Remove, Change::Remove => Change::Add, Change::Update => Change::Update };
        let paths = |p: &HostPlan, f: &dyn Fn(Change) -> Change| {
            p.outside.iter().map(|c| (c.path.clone(), format!("{:?}", f(c.change)))).collect::<Vec<_>>()
        };
        prop_assert_eq!(paths(&there, &|c| c), paths(&back, &mirror));
        prop_assert_eq!(there.apps.len(), back.apps.len());
        prop_assert_eq!(there.is_empty(), old.apps == new.apps);
        prop_assert!(HostPlan::between(&new, &new).unwrap().is_empty());
        prop_assert_eq!(HostPlan::between(&old, &new).unwrap().digest(), there.digest());
    }
}
