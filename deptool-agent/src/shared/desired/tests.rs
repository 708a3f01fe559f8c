use super::*;
use crate::shared::tree::memory::Objects;

fn wanted(files: &[(&str, &str)]) -> Result<Desired, String> {
    let host = Objects::default().host(files).map_err(|e| e.to_string())?;
    Desired::of(&host).map_err(|e| e.to_string())
}

#[test]
fn special_directories_are_copied_to_where_the_system_looks() {
    let wanted = wanted(&[
        ("web/systemd/web.service", ""),
        ("web/systemd/nginx.service.d/x.conf", ""),
        ("web/sysusers/web.conf", ""),
        ("web/tmpfiles/web.conf", ""),
        ("web/quadlets/db.container", ""),
        ("web/other/web.service", ""),
    ])
    .unwrap();
    let paths: Vec<_> = wanted.external.keys().map(|p| p.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/etc/containers/systemd/db.container",
            "/etc/systemd/system/nginx.service.d/x.conf",
            "/etc/systemd/system/web.service",
            "/etc/sysusers.d/web.conf",
            "/etc/tmpfiles.d/web.conf",
        ]
    );
}

#[test]
fn what_is_for_a_user_is_copied_to_where_the_users_manager_looks() {
    let manifest = r#"{"users": {"alice": {"units_enabled": ["web.service", "db.service"]}}}"#;
    let wanted = wanted(&[
        ("web/manifest.json", manifest),
        ("web/user/alice/systemd/web.service", ""),
        ("web/user/alice/systemd/web.service.d/x.conf", ""),
        ("web/user/alice/quadlets/db.container", ""),
        ("web/user/README", ""),
        ("web/user/alice/other/web.service", ""),
        ("web/systemd/web.service", ""),
    ])
    .unwrap();
    let paths: Vec<_> = wanted.external.keys().map(|p| p.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/etc/containers/systemd/users/~alice/db.container",
            "/etc/systemd/system/web.service",
            "/etc/systemd/user/web.service",
            "/etc/systemd/user/web.service.d/x.conf",
        ]
    );
    let enabled: Vec<_> = wanted.enabled.keys().map(|unit| unit.as_str()).collect();
    assert_eq!(enabled, ["alice/db.service", "alice/web.service"]);
}

#[test]
fn users_share_a_unit_file_only_if_it_is_the_same() {
    let of_alice = ("a/user/alice/systemd/x.service", "[Service]\nNice=1");
    let shared = wanted(&[of_alice, ("b/user/bob/systemd/x.service", of_alice.1)]).unwrap();
    let users: Vec<_> = shared.external.values().flat_map(Claim::all).filter_map(Claim::user).collect();
    assert_eq!(users.iter().map(Account::as_str).collect::<Vec<_>>(), ["alice", "bob"]);
    for (file, text) in [
        ("b/user/bob/systemd/x.service", "[Service]\nNice=2"),
        ("b/user/alice/systemd/x.service", of_alice.1),
        ("b/user/a b/systemd/y.service", ""),
        ("b/user/bob/systemd/README", ""),
    ] {
        assert!(wanted(&[of_alice, (file, text)]).is_err(), "{file} {text}");
    }
    let both = [of_alice, ("b/user/alice/quadlets/x.container", "")];
    assert!(wanted(&both).unwrap_err().starts_with("unit 'alice/x.service' is made by"));
}

#[test]
fn a_path_or_unit_can_be_claimed_only_once() {
    for (files, expected) in [
        (
            &[
                ("a/manifest.json", r#"{"symlinks": {"/etc/x": "f"}}"#),
                ("a/f", ""),
                ("b/manifest.json", r#"{"symlinks": {"/etc/x": "f"}}"#),
                ("b/f", ""),
            ][..],
            "'/etc/x' is claimed by 'a/f' and by 'b/f'",
        ),
        (
            &[("a/manifest.json", r#"{"symlinks": {"/lib/x": "f", "/usr/lib/x": "f"}}"#), ("a/f", "")],
            "'/usr/lib/x' is claimed by",
        ),
        (
            &[("a/manifest.json", r#"{"symlinks": {"/etc/x": "d", "/etc/x-y": "d", "/etc/x/y": "d"}}"#), ("a/d/f", "")],
            "'/etc/x' and '/etc/x/y' are both claimed",
        ),
        (&[("a/systemd/x.service", ""), ("b/systemd/x.service", "")], "'/etc/systemd/system/x.service' is claimed"),
        (&[("a/systemd/x.service", ""), ("b/quadlets/x.container", "")], "unit 'x.service' is made by"),
        (
            &[
                ("a/manifest.json", r#"{"symlinks": {"/etc/tmpfiles.d/x.conf": "f"}}"#),
                ("a/f", ""),
                ("b/tmpfiles/x.conf", ""),
            ],
            "'/etc/tmpfiles.d/x.conf' is claimed",
        ),
    ] {
        let error = wanted(files).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn what_systemd_would_ignore_or_is_our_own_is_refused() {
    for files in [
        &[("a/systemd/README", "")][..],
        &[("a/systemd/x.service.d/override", "")],
        &[("a/systemd/x.wants/y.service", "")],
        &[("a/systemd/x.service.d/d/y.conf", "")],
        &[("a/systemd/x.service@", "y")],
        &[("a/sysusers/x", "")],
        &[("a/systemd/.x.service", "")],
        &[("a/systemd/deptool-recover.service", "")],
        &[("a/systemd/deptool-secrets.service", "")],
        &[("a/systemd/deptool-labels.service", "")],
        &[("a/systemd/deptool-recover.service.d/x.conf", "")],
        &[("a/systemd/deptool-.service.d/x.conf", "")],
        &[("a/quadlets/deptool-check-1.container", "")],
        &[("a/manifest.json", r#"{"symlinks": {"/etc/x": "missing"}}"#)],
        &[("a/manifest.json", r#"{"files": {"missing": {"mode": "0600"}}}"#)],
        &[("a/manifest.json", r#"{"settle": {"x.service": "1s"}}"#)],
        &[(
            "a/manifest.json",
            r#"{"systemd": {"on_change": {"x.service": "reload"}}, "settle": {"x.service": "2min"}}"#,
        )],
        &[("a/manifest.json", r#"{"checks": ["x.service"]}"#)],
        &[("a/manifest.json", r#"{"checks": ["x.service", "x.service"]}"#), ("a/systemd/x.service", "")],
        &[("a/manifest.json", r#"{"checks": ["x@.service"]}"#), ("a/systemd/x@.service", "")],
        &[("a/manifest.json", r#"{"checks": ["x.timer"]}"#), ("a/systemd/x.timer", "")],
        &[("a/manifest.json", r#"{"health": [{"unit": "x.service"}]}"#)],
        &[
            ("a/manifest.json", r#"{"health": [{"unit": "x.service"}]}"#),
            ("a/systemd/x.service", "[Service]\nExecStart=/x"),
        ],
    ] {
        assert!(wanted(files).is_err(), "{files:?}");
    }
}

#[test]
fn one_unit_may_be_enabled_by_two_apps() {
    let manifest = r#"{"systemd": {"units_enabled": ["x.service"], "on_change": {"x.service": "reload"}}}"#;
    let wanted = wanted(&[
        ("a/manifest.json", manifest),
        ("b/manifest.json", r#"{"systemd": {"units_enabled": ["x.service"]}}"#),
    ])
    .unwrap();
    let unit = &wanted.enabled["x.service"];
    assert_eq!((unit.apps.len(), unit.on_change), (2, Some(OnChange::Restart)));
}

#[test]
fn a_unit_that_binds_what_is_ours_is_not_reloaded() {
    let manifest = r#"{"systemd": {"on_change": {"x@1.service": "reload", "y.service": "reload"}}}"#;
    let bind = "[Service]\nBindPaths=/var/lib/deptool/apps/a/current:/srv\n";
    let wanted = wanted(&[
        ("a/manifest.json", manifest),
        ("a/systemd/x@.service.d/bind.conf", bind),
        ("b/systemd/y.service", "[Service]\nType=notify-reload\n"),
    ])
    .unwrap();
    assert_eq!(wanted.watched["x@1.service"].on_change, Some(OnChange::Restart));
    let y = &wanted.watched["y.service"];
    assert_eq!((y.on_change, y.tells_of_reload), (Some(OnChange::Reload), true));
}

#[test]
fn the_longest_settle_timeout_counts() {
    let longest = |files: &[(&str, &str)]| wanted(files).unwrap().settle_timeout.as_secs();
    assert_eq!(longest(&[("a/f", "")]), 90);
    let (short, long) = (r#"{"settle_timeout": "10s"}"#, r#"{"settle_timeout": "2min"}"#);
    assert_eq!(longest(&[("a/manifest.json", short), ("b/f", "")]), 10);
    assert_eq!(longest(&[("a/manifest.json", short), ("b/manifest.json", long)]), 120);
}
