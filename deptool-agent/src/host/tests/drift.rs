//! What was changed by hand: it is found, put right where that is asked for, and kept.

use crate::host::tests::*;

/// The drift of the host, one line for each path or unit.
pub fn drift(world: &mut World) -> Vec<String> {
    let found = crate::host::external::drift::verify(&Home::new(world.root.path()), &mut world.fake).unwrap();
    found.iter().map(|finding| finding.drift.to_string()).collect()
}

#[test]
fn a_host_that_nobody_touched_has_no_drift() {
    let mut world = World::new();
    assert_eq!(drift(&mut world), [""; 0]);
    let mut world = before();
    assert_eq!(drift(&mut world), [""; 0]);
    world.deploys(AFTER);
    assert_eq!(drift(&mut world), [""; 0]);
}

#[test]
fn a_change_by_hand_is_drift_and_is_kept_by_the_next_deployment() {
    let mut world = before();
    let web = world.path("/var/lib/deptool/apps/web/current");
    fs::write(web.join("conf"), "edited").unwrap();
    fs::remove_file(world.path("/etc/web/web.conf")).unwrap();
    fs::write(world.path("/etc/tmpfiles.d/web.conf"), "edited").unwrap();
    world.fake.disable(&[unit("web.service")]).unwrap();
    world.fake.behave("web.timer", Behaviour::Works).detail.active = Active::Failed;
    let web = "/var/lib/deptool/apps/web/current/conf";
    let expected = [
        &format!("'{web}' was edited"),
        "'/etc/tmpfiles.d/web.conf' was edited",
        "'/etc/web/web.conf' is missing",
        "web.service was disabled",
        "web.timer has failed",
    ];
    assert_eq!(drift(&mut world), expected);
    let notes = world.deploys(AFTER);
    let kept = world.path("/var/lib/deptool/state/kept/2");
    let note = |what: &str, at: &str| format!("{what}: what was there is kept as '{}'", kept.join(at).display());
    assert!(notes.contains(&note(&format!("'{web}' was edited"), "apps/web/conf")), "{notes:#?}");
    assert!(
        notes.contains(&note("'/etc/tmpfiles.d/web.conf' was edited", "root/etc/tmpfiles.d/web.conf")),
        "{notes:#?}"
    );
    assert!(notes.contains(&"'/etc/web/web.conf' is missing: put right".to_owned()), "{notes:#?}");
    assert_eq!(fs::read(kept.join("apps/web/conf")).unwrap(), b"edited");
    assert_eq!(fs::read(kept.join("root/etc/tmpfiles.d/web.conf")).unwrap(), b"edited");
    world.fake.behave("web.timer", Behaviour::Works);
    assert_eq!(drift(&mut world), [""; 0]);
}

#[test]
fn very_much_that_is_put_right_is_told_in_short() {
    let names: Vec<String> = (0..300).map(|number| format!("web/file{number}")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "same")).collect();
    let mut world = World::new();
    world.deploys(&files);
    let app = world.path("/var/lib/deptool/apps/web/current");
    names.iter().for_each(|name| fs::write(app.join(&name[4..]), "edited").unwrap());
    world.repair = Repair::All;
    let notes = world.deploys(&files);
    assert!(notes.len() < 250 && notes.last().unwrap() == "there were 100 more notes", "{notes:#?}");
    let attempt = crate::host::state::attempts::last_done(&Home::new(world.root.path())).unwrap().unwrap();
    assert!(attempt.mended.len() < 100 && attempt.mended.last().unwrap().what.ends_with(" more"), "{attempt:?}");
}

#[test]
fn drift_elsewhere_is_left_and_said_until_it_is_repaired() {
    let mut world = before();
    let conf = world.path("/var/lib/deptool/apps/web/current/conf");
    fs::write(&conf, "edited").unwrap();
    fs::remove_file(world.path("/etc/web/web.conf")).unwrap();
    world.fake.behave("web.service", Behaviour::Works);
    world.fake.disable(&[unit("web.service")]).unwrap();
    let more = [BEFORE, &[("other/file", "1")]].concat();
    let notes = world.deploys(&more);
    assert_eq!(
        notes,
        ["not as deployed, and left so: '/var/lib/deptool/apps/web/current/conf' was edited, \
          '/etc/web/web.conf' is missing, web.service was disabled; 'git deptool repair web1' puts that right"]
    );
    assert_eq!(fs::read(&conf).unwrap(), b"edited");
    assert_eq!(drift(&mut world).len(), 3);
    world.repair = Repair::All;
    // As it was, if that fails.
    let visible = world.visible();
    world.fake.behave("web.service", Behaviour::FailsAtStart);
    world.fake.disable(&[unit("web.service")]).unwrap();
    assert!(matches!(world.deploy(&more).0, Outcome::RolledBack(_)));
    world.fake.behave("web.service", Behaviour::Works);
    world.fake.disable(&[unit("web.service")]).unwrap();
    let now = world.visible();
    let files = |seen: &BTreeMap<String, String>| {
        seen.iter().filter(|(path, _)| !path.starts_with("unit")).map(|(p, c)| format!("{p} {c}")).collect::<Vec<_>>()
    };
    assert_eq!(files(&now), files(&visible));
    let notes = world.deploys(&more);
    assert!(
        notes[0].starts_with("'/var/lib/deptool/apps/web/current/conf' was edited: what was there is kept"),
        "{notes:?}"
    );
    assert_eq!(fs::read(&conf).unwrap(), b"1");
    assert_eq!(drift(&mut world), [""; 0]);
    let log = attempts::latest(&Home::new(world.root.path()), 1).unwrap();
    assert_eq!(log[0].mended.len(), 3);
}

#[test]
fn whatever_stands_in_the_place_of_ours_is_kept_and_replaced() {
    type Stand = fn(&Path);
    let stands: [Stand; 4] = [
        |path| fs::write(path, "file").unwrap(),
        |path| std::os::unix::fs::symlink("/etc/passwd", path).unwrap(),
        |path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("inner"), "x").unwrap();
        },
        |path| {
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap()
        },
    ];
    for stand in stands {
        for path in ["/etc/web/web.conf", "/etc/tmpfiles.d/web.conf"] {
            let mut world = before();
            let at = world.path(path);
            fs::remove_file(&at).unwrap();
            stand(&at);
            assert_eq!(drift(&mut world).len(), 1, "{path}");
            world.repair = Repair::All;
            // Undone, the host has what stood there.
            let visible = world.visible();
            world.fake.behave("web.service", Behaviour::FailsAtStart);
            assert!(matches!(world.deploy(BEFORE).0, Outcome::RolledBack(_)));
            let files = |seen: BTreeMap<String, String>| {
                seen.into_iter().filter(|(path, _)| !path.starts_with("unit")).collect::<Vec<_>>()
            };
            assert_eq!(files(world.visible()), files(visible));
            world.fake.behave("web.service", Behaviour::Works);
            world.deploys(BEFORE);
            assert_eq!(drift(&mut world), [""; 0]);
            let kept = fs::read_dir(world.path("/var/lib/deptool/state/kept")).unwrap().next().unwrap().unwrap().path();
            assert!(fs::symlink_metadata(kept.join("root").join(&path[1..])).is_ok());
        }
    }
}

#[test]
fn a_lost_ledger_is_rebuilt_and_nothing_lingers() {
    type Damage = fn(&Path);
    let damages: [Damage; 4] = [
        |path| fs::write(path, "").unwrap(),
        |path| fs::remove_file(path).unwrap(),
        |path| fs::write(path, "garbage").unwrap(),
        |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        },
    ];
    for damage in damages {
        let mut world = World::new();
        fs::create_dir_all(world.path("/etc/web")).unwrap();
        fs::write(world.path("/etc/web/web.conf"), "1").unwrap();
        let untouched = world.visible();
        world.deploys(BEFORE);
        damage(&world.path("/var/lib/deptool/state/claims"));
        let (found, before) = (drift(&mut world), world.visible());
        assert!(found[0].starts_with("'/var/lib/deptool/state/claims' "), "{found:?}");
        assert_eq!(world.visible(), before);
        let notes = world.deploys(AFTER);
        assert!(notes.iter().any(|note| note.ends_with("rebuilt from what is deployed")), "{notes:?}");
        assert_eq!(drift(&mut world), [""; 0]);
        // What was there before us comes back.
        world.deploys(&[]);
        let mut now = world.visible();
        now.retain(|path, _| {
            !path.starts_with("var")
                && !path.ends_with("tmpfiles.d")
                && path != "etc/systemd"
                && path != "etc/systemd/system"
                && !path.ends_with(".d")
        });
        for (path, what) in &untouched {
            assert_eq!(now.get(path), Some(what), "{path}");
        }
        assert!(!now.keys().any(|path| path.contains("deptool")), "{now:?}");
    }
}
