//! What people put in the place of the host's own links and directories: it is kept and replaced, or named with what to do.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::{damaged::World, seen::at_rest};

#[test]
fn what_runs_is_kept_although_somebody_changed_the_link_to_it() {
    type Damage = fn(&World);
    let damages: [Damage; 3] = [
        |world| {
            let (link, state) = (world.state().join("current"), world.state());
            let target = fs::read_link(&link).unwrap();
            fs::remove_file(&link).unwrap();
            symlink(state.join(target), link).unwrap();
        },
        |world| fs::remove_file(world.state().join("current")).unwrap(),
        |world| {
            fs::remove_file(world.state().join("current")).unwrap();
            symlink("/somewhere/else", world.state().join("current")).unwrap();
        },
    ];
    for inflict in damages {
        let world = World::new();
        inflict(&world);
        let trees = || world.files("trees", "files").into_iter().collect::<BTreeSet<_>>();
        let (ada, before) = (world.ada(), trees());
        ada.write("web1/web/manifest.json", r#"{"symlinks": {"/etc/web": "file", "/etc/foreign": "file"}}"#);
        let three = world.three();
        let foreign = world.sandbox.root("web1").join("etc/foreign");
        fs::write(&foreign, "foreign").unwrap();
        ada.git(&["push", "web1", "prod"]).code(1).says("/etc/foreign");
        assert_eq!(trees(), before);
        fs::remove_file(foreign).unwrap();
        let run = ada.git(&["push", "web1", "prod"]).ok();
        world.has(&three, &run);
    }
}

/// What was there is a directory or a file, which no rename of a link replaces, or which is lost if one does.
#[test]
fn what_stands_in_the_place_of_our_own_links_is_kept_and_replaced() {
    let directory = |path: PathBuf| {
        let _ = fs::remove_file(&path);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("foreign"), "foreign").unwrap();
    };
    let damages: [(&str, bool); 6] = [
        ("apps/web/current", true),
        ("apps/web/current.new", false),
        ("apps/old/current", true),
        ("current", true),
        ("current.new", false),
        ("previous", false),
    ];
    for (place, is_drift) in damages {
        let world = World::new();
        directory(world.state().join(place));
        let ada = world.ada();
        if is_drift {
            let kept = world.state().join("state/kept/3/root/var/lib/deptool").join(place);
            ada.git(&["deptool", "verify"]).code(2).prints(&format!("'/var/lib/deptool/{place}'"));
            let told = format!("what was there is kept as '{}'", kept.display());
            ada.git(&["deptool", "repair", "-y"]).ok().says(&told);
            ada.git(&["deptool", "log"]).ok().prints(&format!("kept as '{}'", kept.display()));
            assert_eq!(fs::read(kept.join("foreign")).unwrap(), b"foreign", "{place}");
            ada.git(&["deptool", "verify"]).ok().prints("as deployed");
            // The next deployment meets it.
            fs::remove_file(world.state().join(place)).unwrap();
            directory(world.state().join(place));
        }
        let three = world.three();
        let run = ada.git(&["push", "web1", "prod"]).ok();
        world.has(&three, &run);
        ada.git(&["push", "web1", ":prod"]).ok();
        at_rest(&world.sandbox, "web1", None);
    }
    let world = World::new();
    fs::remove_dir_all(world.state().join("apps/web")).unwrap();
    fs::write(world.state().join("apps/web"), "foreign").unwrap();
    let three = world.three();
    let run = world.ada().git(&["push", "web1", "prod"]).ok();
    world.has(&three, &run);
    assert_eq!(fs::read(world.state().join("state/kept/3/root/var/lib/deptool/apps/web")).unwrap(), b"foreign");
}

#[test]
fn a_directory_of_ours_that_was_moved_away_is_put_back_before_anything_is_deployed() {
    for name in ["apps", "generations"] {
        let world = World::new();
        let (ada, ours) = (world.ada(), world.state().join(name));
        let elsewhere = world.sandbox.root("web1").join("srv").join(name);
        fs::create_dir(world.sandbox.root("web1").join("srv")).unwrap();
        fs::rename(&ours, &elsewhere).unwrap();
        symlink(&elsewhere, &ours).unwrap();
        let what = "is a symlink, and the links in it lead nowhere: remove it, and move back what it leads to";
        ada.git(&["deptool", "verify"]).code(2).prints(&format!("'/var/lib/deptool/{name}' {what}"));
        ada.git(&["deptool", "repair", "-y"]).code(1).prints(&format!("'{}' {what}", ours.display()));
        let three = world.three();
        ada.git(&["push", "web1", "prod"]).code(1).says(&format!("'{}' {what}", ours.display()));
        fs::remove_file(&ours).unwrap();
        fs::rename(&elsewhere, &ours).unwrap();
        let run = ada.git(&["push", "web1", "prod"]).ok();
        world.has(&three, &run);
    }
}

#[test]
fn what_is_in_the_place_of_a_directory_of_ours_is_named_with_what_to_do() {
    const REPAIR: &str = "put back what was there, or remove it and run 'git deptool repair'";
    const PUSH: &str = "put back what was there, or remove it and push another commit";
    for (name, advice) in
        [("state", REPAIR), ("store", PUSH), ("trees", REPAIR), ("generations", REPAIR), ("apps", REPAIR)]
    {
        let world = World::new();
        let (ada, ours, moved) = (world.ada(), world.state().join(name), world.state().join("moved"));
        fs::rename(&ours, &moved).unwrap();
        let put: [fn(&Path); 2] =
            [|path| fs::write(path, "foreign").unwrap(), |path| symlink("nowhere", path).unwrap()];
        for (put, what) in put.into_iter().zip(["is a file, not a directory", "is a symlink that leads nowhere"]) {
            put(&ours);
            let what = format!("'{}' {what}: {advice}", ours.display());
            ada.git(&["deptool", "verify"]).fails().says(&what);
            ada.git(&["fetch", "web1"]).fails().says(&what);
            ada.git(&["push", "-f", "web1", "prod~1:prod"]).code(1).says(&what);
            fs::remove_file(&ours).unwrap();
        }
        fs::rename(&moved, &ours).unwrap();
        ada.git(&["deptool", "verify"]).ok().prints("as deployed");

        fs::remove_dir_all(&ours).unwrap();
        if advice == REPAIR {
            ada.git(&["deptool", "repair", "-y"]).ok();
            ada.git(&["deptool", "verify"]).ok().prints("as deployed");
        }
        let three = world.three();
        let run = ada.git(&["push", "web1", "prod"]).ok();
        world.has(&three, &run);
    }
}

#[test]
fn a_symlink_in_whose_place_the_links_lead_where_they_should_is_fine() {
    let world = World::new();
    fs::rename(world.state().join("apps"), world.state().join("apps.moved")).unwrap();
    symlink("apps.moved", world.state().join("apps")).unwrap();
    world.ada().git(&["deptool", "verify"]).ok().prints("as deployed");
    world.three();
    world.ada().git(&["push", "web1", "prod"]).ok();
    world.ada().git(&["deptool", "verify"]).ok().prints("as deployed");
}
