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
    assert_eq!(units(&plan), ["web.service Keep Restart(Always)"]);
    assert!(plan.reloads.is_empty());
    assert_eq!(plan.apps[0].files, [(TreePath::parse(b"x").unwrap(), Change::Update)]);
}

#[test]
fn on_change_asks_for_a_reload_but_a_changed_unit_file_restarts() {
    let manifest = (
        "web/manifest.json",
        r#"{"systemd": {"units_enabled": ["web.service"], "on_change": {"web.service": "reload"}}}"#,
    );
    let old: Files = &[manifest, UNIT, ("web/x", "1")];
    assert_eq!(units(&plan(old, &[manifest, UNIT, ("web/x", "2")])), ["web.service Keep Reload(Always)"]);
    let other = ("web/systemd/web.service", "[Service]\nExecStart=/y");
    assert_eq!(units(&plan(old, &[manifest, other, ("web/x", "1")])), ["web.service Keep Restart(Always)"]);
    let drop_in = ("web/systemd/web.service.d/x.conf", "[Service]\nNice=1");
    assert_eq!(units(&plan(old, &[manifest, UNIT, drop_in, ("web/x", "1")])), ["web.service Keep Restart(Always)"]);
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
    assert_eq!(units(&plan), ["web.service Keep Restart(Always)"]);
    assert!(plan.external.is_empty(), "the unit file is the same file: {:?}", plan.external);
}

#[test]
fn a_unit_of_two_apps_is_released_with_the_last() {
    let two: Files = &[ENABLED, UNIT, ("b/manifest.json", ENABLED.1)];
    assert!(units(&plan(two, &[UNIT, ("b/manifest.json", ENABLED.1)])).is_empty(), "no file of it has changed");
    assert_eq!(units(&plan(two, &[UNIT])), ["web.service Release Stop"]);
}

#[test]
fn a_drop_in_for_a_unit_of_the_host_restarts_it_if_it_runs() {
    let drop_in = ("web/systemd/sshd.service.d/x.conf", "[Service]\nNice=1");
    assert_eq!(units(&plan(&[], &[drop_in])), ["sshd.service Keep Restart(IfRunning)"]);
    assert_eq!(units(&plan(&[drop_in], &[])), ["sshd.service Keep Restart(IfRunning)"]);
}

#[test]
fn a_watched_unit_of_the_host_follows_the_app() {
    let manifest = ("web/manifest.json", r#"{"systemd": {"on_change": {"nginx.service": "reload"}}}"#);
    let new = plan(&[manifest, ("web/x", "1")], &[manifest, ("web/x", "2")]);
    assert_eq!(units(&new), ["nginx.service Keep Reload(IfRunning)"]);
}

#[test]
fn instances_follow_their_template() {
    let manifest = ("web/manifest.json", r#"{"systemd": {"units_enabled": ["w@a.service"]}}"#);
    let old: Files = &[manifest, ("web/systemd/w@.service", "[Service]\nExecStart=/1")];
    let new: Files = &[manifest, ("web/systemd/w@.service", "[Service]\nExecStart=/2")];
    assert_eq!(units(&plan(old, new)), ["w@a.service Keep Restart(Always)"]);
}

/// A tree with a file of its own, and with a unit that is enabled; the same with another file, and with another unit file.
fn of_type(unit: &str, old: &str, new: &str) -> (Vec<String>, Vec<String>) {
    let manifest = format!(r#"{{"systemd": {{"units_enabled": ["{unit}"]}}}}"#);
    let (manifest, file) = (("app/manifest.json", manifest.as_str()), format!("app/systemd/{unit}"));
    let before: Files = &[manifest, (&file, old), ("app/x", "1")];
    let other = plan(before, &[manifest, (&file, old), ("app/x", "2")]);
    let own = plan(before, &[manifest, (&file, new), ("app/x", "1")]);
    (units(&other), units(&own))
}

#[test]
fn what_a_change_does_depends_on_the_type_of_the_unit() {
    for (unit, old, new, other_file, own_file) in [
        ("a.service", "[Service]\nNice=1", "[Service]\nNice=2", "Restart(Always)", "Restart(Always)"),
        ("a.service", "[Service]\nNice=1", "[Service]\n# note\nNice=1", "Restart(Always)", "DaemonReload"),
        ("a.service", "[Service]\nMemoryMax=1G", "[Service]\nMemoryMax=2G", "Restart(Always)", "DaemonReload"),
        (
            "a.socket",
            "[Socket]\nListenStream=1",
            "[Socket]\nListenStream=2",
            r#"Members(Restart, {UnitName("a.service")})"#,
            "Restart(Always)",
        ),
        (
            "a.socket",
            "[Socket]\nService=b.service",
            "[Unit]\nDescription=x\n[Socket]\nService=b.service",
            r#"Members(Restart, {UnitName("b.service")})"#,
            "DaemonReload",
        ),
        (
            "a.timer",
            "[Timer]\nOnCalendar=daily",
            "[Timer]\nOnCalendar=weekly",
            r#"Members(Restart, {UnitName("a.service")})"#,
            "DaemonReload",
        ),
        (
            "a.path",
            "[Path]\nPathExists=/a\nUnit=c.service",
            "[Path]\nPathExists=/b\nUnit=c.service",
            r#"Members(Restart, {UnitName("c.service")})"#,
            "Restart(Always)",
        ),
        ("a.mount", "[Mount]\nWhat=/x\nOptions=ro", "[Mount]\nWhat=/x\nOptions=rw", "", "Reload(Always)"),
        ("a.mount", "[Mount]\nWhat=/x", "[Mount]\nWhat=/y", "", "Restart(Always)"),
        ("a.mount", "[Mount]\nWhat=/x", "[Unit]\nAfter=b.service\n[Mount]\nWhat=/x", "", "DaemonReload"),
        ("a.automount", "[Automount]\nWhere=/a", "[Automount]\nWhere=/a\nTimeoutIdleSec=1", "", "Restart(Always)"),
        ("a.swap", "[Swap]\nWhat=/x", "[Swap]\nWhat=/y", "", "Restart(Always)"),
        ("a.slice", "[Slice]\nMemoryMax=1G", "[Slice]\nMemoryMax=2G", "", "DaemonReload"),
        ("a.target", "[Unit]\nWants=b.service", "[Unit]\nWants=c.service", "Members(Restart, {})", "PullIn(Always)"),
    ] {
        let (other, own) = of_type(unit, old, new);
        let line = |job: &str| if job.is_empty() { vec![] } else { vec![format!("{unit} Keep {job}")] };
        assert_eq!((other, own), (line(other_file), line(own_file)), "{unit}: {old:?} {new:?}");
    }
}

#[test]
fn on_change_overrides_what_the_type_says() {
    let change = |unit: &str, on_change: &str| {
        let manifest =
            format!(r#"{{"systemd": {{"units_enabled": ["{unit}"], "on_change": {{"{unit}": "{on_change}"}}}}}}"#);
        let manifest = ("app/manifest.json", manifest.as_str());
        units(&plan(&[manifest, ("app/x", "1")], &[manifest, ("app/x", "2")]))
    };
    assert!(change("a.socket", "none").is_empty());
    assert_eq!(change("a.socket", "restart"), ["a.socket Keep Restart(Always)"]);
    assert_eq!(change("a.socket", "reload"), [r#"a.socket Keep Members(Reload, {UnitName("a.service")})"#]);
    assert_eq!(change("a.slice", "restart"), ["a.slice Keep Restart(Always)"]);
    assert_eq!(change("a.service", "reload-or-restart"), ["a.service Keep ReloadOrRestart(Always)"]);
    let manifest =
        ("app/manifest.json", r#"{"systemd": {"units_enabled": ["a.service"], "on_change": {"a.service": "none"}}}"#);
    let unit = |text| ("app/systemd/a.service", text);
    let plan = plan(&[manifest, unit("[Service]\nNice=1")], &[manifest, unit("[Service]\nNice=2")]);
    assert_eq!(units(&plan), ["a.service Keep DaemonReload"], "not even its own unit file");
}

#[test]
fn the_members_of_a_target_are_handled_in_its_place() {
    let manifest = ("app/manifest.json", r#"{"systemd": {"units_enabled": ["app.target"]}}"#);
    let files = |x| {
        [
            manifest,
            ("app/systemd/app.target", "[Unit]\nWants=web.service worker@1.service sshd.service"),
            ("app/systemd/web.service", "[Service]\nExecStart=/web"),
            ("app/systemd/worker@.service", "[Service]\nExecStart=/worker"),
            ("app/systemd/part.service", "[Unit]\nPartOf=app.target"),
            ("app/systemd/else.service", "[Service]\nExecStart=/else"),
            ("app/x", x),
        ]
    };
    let plan = plan(&files("1"), &files("2"));
    let members = r#"{UnitName("part.service"), UnitName("web.service"), UnitName("worker@1.service")}"#;
    assert_eq!(units(&plan), [format!("app.target Keep Members(Restart, {members})")]);
}

#[test]
fn a_unit_file_concerns_the_units_that_are_made_of_it_and_no_others() {
    let manifest = ("app/manifest.json", r#"{"systemd": {"units_enabled": ["a.service", "b.service"]}}"#);
    let files = |b| [manifest, ("app/systemd/a.service", "[Service]\nNice=1"), ("app/systemd/b.service", b)];
    let change = plan(&files("[Service]\nNice=1"), &files("[Service]\nNice=2"));
    assert_eq!(units(&change), ["b.service Keep Restart(Always)"]);
    // So does a manifest that only names another unit.
    let more = ("app/manifest.json", r#"{"systemd": {"units_enabled": ["a.service"]}}"#);
    let change = plan(&[more, files("")[1]], &[manifest, files("")[1]]);
    assert_eq!(units(&change), ["b.service Enable Start"]);
}

#[test]
fn what_is_for_many_units_is_for_those_that_run() {
    let patterns = |path: &str, text: &str| {
        let plan = plan(&[], &[(path, text)]);
        assert!(plan.units.is_empty(), "{plan:?}");
        plan.patterns.iter().map(|change| format!("{} {:?}", change.pattern, change.job)).collect::<Vec<_>>()
    };
    assert_eq!(patterns("a/systemd/tun@.service.d/x.conf", "[Service]\nNice=1"), ["tun@.service Restart"]);
    assert_eq!(patterns("a/systemd/app-.service.d/x.conf", "[Service]\nNice=1"), ["app-.service Restart"]);
    assert_eq!(patterns("a/systemd/service.d/x.conf", "[Service]\nNice=1"), ["service Leave"]);
    assert_eq!(patterns("a/systemd/user@.service.d/x.conf", "[Service]\nNice=1"), ["user@.service Leave"]);
    assert_eq!(patterns("a/systemd/user-.slice.d/x.conf", "[Slice]\nTasksMax=1"), [] as [&str; 0]);
    let template: Files = &[("a/systemd/w@.service", "[Service]\nExecStart=/x")];
    let plan = plan(template, &[]);
    assert_eq!((plan.patterns[0].pattern.as_str(), plan.patterns[0].job), ("w@.service", PatternJob::Stop));
}

#[test]
fn a_changed_install_section_enables_anew() {
    let manifest = ("app/manifest.json", r#"{"systemd": {"units_enabled": ["a.service"]}}"#);
    let unit = |text| ("app/systemd/a.service", text);
    let plan = plan(
        &[manifest, unit("[Install]\nWantedBy=multi-user.target")],
        &[manifest, unit("[Install]\nWantedBy=graphical.target")],
    );
    assert_eq!(units(&plan), ["a.service Renew DaemonReload"]);
}

#[test]
fn a_quadlet_that_goes_away_stops_the_unit_made_of_it() {
    let quadlet = ("db/quadlets/db.container", "[Container]");
    assert_eq!(units(&plan(&[quadlet], &[])), ["db.service Release Stop"]);
    assert!(!plan(&[quadlet], &[]).reloads.is_empty());
}

#[test]
fn a_link_is_made_moved_and_removed() {
    let link = |target: &str| format!(r#"{{"symlinks": {{"/etc/x": "{target}"}}}}"#);
    let (to_a, to_b) = (link("a"), link("b"));
    let a: Files = &[("web/manifest.json", &to_a), ("web/a", ""), ("web/b", "")];
    let b: Files = &[("web/manifest.json", &to_b), ("web/a", ""), ("web/b", "")];
    let changes = |plan: HostPlan| plan.external.iter().map(|c| c.change).collect::<Vec<_>>();
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
            p.external.iter().map(|c| (c.path.clone(), format!("{:?}", f(c.change)))).collect::<Vec<_>>()
        };
        prop_assert_eq!(paths(&there, &|c| c), paths(&back, &mirror));
        prop_assert_eq!(there.apps.len(), back.apps.len());
        prop_assert_eq!(there.is_empty(), old.apps == new.apps);
        prop_assert!(HostPlan::between(&new, &new).unwrap().is_empty());
        prop_assert_eq!(HostPlan::between(&old, &new).unwrap().digest(), there.digest());
    }
}

#[test]
fn units_of_a_user_follow_the_same_rules_in_the_users_own_manager() {
    let manifest = ("web/manifest.json", r#"{"users": {"alice": {"units_enabled": ["web.socket"]}}}"#);
    let socket = ("web/user/alice/systemd/web.socket", "[Socket]\nListenStream=7\n");
    let service = |text| ("web/user/alice/systemd/web.service", text);
    let of_system = ("web/systemd/web.service", "[Service]\nExecStart=/x");
    let old: Files = &[manifest, socket, service("[Service]\nExecStart=/x"), of_system, ("web/x", "1")];
    let new = plan(&[], old);
    let of_alice = ["alice/web.service Keep Restart(IfRunning)", "alice/web.socket Enable Start"];
    assert_eq!(units(&new)[..2], of_alice);
    assert_eq!(
        new.reloads.iter().map(|user| user.as_ref().map(Account::as_str)).collect::<Vec<_>>(),
        [None, Some("alice")]
    );
    assert_eq!(new.users().len(), 1);
    // The service of the socket is the user's, not the system's of the same name.
    let other = plan(old, &[manifest, socket, old[2], of_system, ("web/x", "2")]);
    let members = r#"alice/web.socket Keep Members(Restart, {UnitName("alice/web.service")})"#;
    assert_eq!(units(&other), [members]);
    assert!(other.reloads.is_empty());
    // Its own file, and a drop-in for all of the user's services.
    let changed = plan(old, &[manifest, socket, service("[Service]\nExecStart=/y"), of_system, ("web/x", "1")]);
    assert_eq!(units(&changed), ["alice/web.service Keep Restart(IfRunning)"]);
    let all = ("web/user/alice/systemd/service.d/x.conf", "[Service]\nNice=1");
    let patterns = plan(old, &[old, &[all]].concat()).patterns;
    let patterns: Vec<_> = patterns.iter().map(|one| (one.pattern.as_str(), one.job)).collect();
    assert_eq!(patterns, [("alice/service", PatternJob::Leave)]);
    let removed = plan(old, &[old[3]]);
    assert_eq!(units(&removed), ["alice/web.service Release Stop", "alice/web.socket Release Stop"]);
}
