//! External paths that trade places, and places where nothing can be written.

use crate::host::tests::{drift::drift, *};

/// An app whose health check fails: a deployment with it is rolled back.
const SICK: Files<'_> =
    &[("sick/manifest.json", r#"{"health": [{"tcp": "127.0.0.1:1", "within": "1ms"}]}"#), ("sick/file", "")];

/// What there is outside of the state directory.
fn external(world: &World) -> BTreeMap<String, String> {
    let mut seen = world.visible();
    seen.retain(|path, _| !path.starts_with("var"));
    seen
}

/// From `first` to `second` and back, by way of deployments that are rolled back.
fn there_and_back(first: Files<'_>, second: Files<'_>) {
    let mut world = World::new();
    let straight = |files| {
        let mut straight = World::new();
        straight.deploys(files);
        external(&straight)
    };
    world.deploys(first);
    for (from, to) in [(first, second), (second, first)] {
        let visible = world.visible();
        assert!(matches!(world.deploy(&[to, SICK].concat()).0, Outcome::RolledBack(_)), "{from:?} {to:?}");
        assert_eq!(world.visible(), visible);
        world.deploys(to);
        assert_eq!(drift(&mut world), [""; 0]);
        assert_eq!(external(&world), straight(to));
    }
    world.deploys(&[]);
    let links = external(&world).into_values().filter(|what| what.starts_with("->")).count();
    assert_eq!(links, 0);
}

fn borrowed(files: &[(String, String)]) -> Vec<(&str, &str)> {
    files.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect()
}

#[test]
fn apps_exchange_their_paths() {
    let app = |name: &str, links: &str| (format!("{name}/manifest.json"), format!(r#"{{"symlinks": {{{links}}}}}"#));
    let both = |a: &str, b: &str, snippets: [&str; 2]| -> Vec<(String, String)> {
        let [a, b] = [app("a", a), app("b", b)];
        let tmpfiles = |app: &str, name: &str| (format!("{app}/tmpfiles/{name}.conf"), format!("# of {app}"));
        let conf = |app: &str| (format!("{app}/conf/file"), format!("of {app}"));
        vec![a, b, tmpfiles("a", snippets[0]), tmpfiles("b", snippets[1]), conf("a"), conf("b")]
    };
    for (first, second) in [
        // Two links, and two copies.
        (
            [r#""/etc/x": "conf/file""#, r#""/etc/y": "conf/file""#],
            [r#""/etc/y": "conf/file""#, r#""/etc/x": "conf/file""#],
        ),
        // A link to a directory of one, and a link in it of the other.
        ([r#""/etc/d": "conf""#, r#""/etc/e/x": "conf/file""#], [r#""/etc/e": "conf""#, r#""/etc/d/x": "conf/file""#]),
        ([r#""/etc/d": "conf""#, ""], ["", r#""/etc/d/deep/x": "conf/file", "/etc/d/y": "conf""#]),
    ] {
        let (first, second) = (both(first[0], first[1], ["one", "two"]), both(second[0], second[1], ["two", "one"]));
        there_and_back(&borrowed(&first), &borrowed(&second));
    }
}

#[test]
fn a_file_that_was_taken_over_and_removed_by_hand_does_not_come_back_with_a_rollback() {
    let taken: Files<'_> = &[("a/manifest.json", r#"{"symlinks": {"/etc/taken": "file"}}"#), ("a/file", "theirs")];
    let given_up: Files<'_> = &[("a/file", "theirs")];
    for is_removed in [true, false] {
        let mut world = World::new();
        fs::write(world.path("/etc/taken"), "theirs").unwrap();
        let untouched = external(&world);
        world.deploys(taken);
        if is_removed {
            fs::remove_file(world.path("/etc/taken")).unwrap();
        }
        let visible = world.visible();
        assert!(matches!(world.deploy(&[given_up, SICK].concat()).0, Outcome::RolledBack(_)));
        assert_eq!(world.visible(), visible, "removed: {is_removed}");
        // Given up for good, it is what it was before.
        world.deploys(given_up);
        assert_eq!(external(&world), untouched, "removed: {is_removed}");
    }
}

#[test]
fn a_link_to_a_directory_becomes_links_in_it_and_back() {
    let one: Files<'_> =
        &[("a/manifest.json", r#"{"symlinks": {"/etc/site.d": "conf"}}"#), ("a/conf/x", "1"), ("a/conf/deep/y", "2")];
    let many: Files<'_> = &[
        ("a/manifest.json", r#"{"symlinks": {"/etc/site.d/x": "conf/x", "/etc/site.d/deep/y": "conf/deep/y"}}"#),
        ("a/conf/x", "1"),
        ("a/conf/deep/y", "2"),
    ];
    there_and_back(one, many);
    there_and_back(many, one);
    // What somebody put there is in the way.
    let mut world = World::new();
    world.deploys(many);
    fs::write(world.path("/etc/site.d/theirs"), "x").unwrap();
    let Outcome::Refused { why, .. } = world.deploy(one).0 else { panic!() };
    assert_eq!(
        why,
        "'/etc/site.d' is a directory with 'theirs' in it, which was not deployed: remove that on the host"
    );
}

#[test]
fn an_app_is_removed_even_if_there_is_a_foreign_file_beside_its_stable_path() {
    let mut world = World::new();
    world.deploys(&[("web/conf", "")]);
    let directory = world.path("/var/lib/deptool/apps/web");
    fs::write(directory.join(".conf.swp"), "").unwrap();
    world.deploys(&[]);
    assert!(!directory.join("current").is_symlink());
    // The same is removed when it is undone.
    let Outcome::RolledBack(failure) = world.deploy(&[SICK, &[("web/conf", "")]].concat()).0 else { panic!() };
    assert_eq!(failure.rollback_errors, [""; 0]);
    assert!(!directory.join("current").is_symlink());
    assert!(directory.join(".conf.swp").exists());
}
