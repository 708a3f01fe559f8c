//! Symlinks on the way to an external path: where they lead, and which are not followed.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use deptool_tests::sandbox::Sandbox;

use crate::outside::{OURS, World};

#[test]
fn links_on_the_way_are_followed_inside_of_the_root() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    std::fs::create_dir_all(world.at("usr/lib/x")).unwrap();
    symlink("usr/lib", world.at("lib")).unwrap();
    symlink("/usr/lib/x", world.at("absolute")).unwrap();
    symlink("../../../../usr/lib", world.at("etc/upwards")).unwrap();
    world.links(&["/lib/a.conf", "/absolute/b.conf", "/etc/upwards/c.conf"]).push();
    for path in ["usr/lib/a.conf", "usr/lib/x/b.conf", "usr/lib/c.conf"] {
        assert_eq!(world.link_of(path).unwrap(), OURS, "{path}");
    }
    world.remove_everything();
    assert!(!Path::new("/usr/lib/c.conf").exists());
    assert_eq!(std::fs::read_dir(world.at("usr/lib")).unwrap().count(), 1);
}

#[test]
fn one_place_can_not_be_claimed_by_two_paths() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    std::fs::create_dir(world.at("etc/real")).unwrap();
    symlink("real", world.at("etc/alias")).unwrap();
    world.repo.write("web1/web/other", "other\n");
    let manifest = r#"{"symlinks": {"/etc/real/a": "file", "/etc/alias/a": "other"}}"#;
    world.repo.write("web1/web/manifest.json", manifest);
    let said = world.refused();
    assert!(said.contains("('/etc/alias/a' and '/etc/real/a' are the same place on the host)"), "{said}");
    // It makes no difference if one of them exists already, or if the directory does not exist.
    world.links(&["/etc/real/a", "/etc/real/new/b"]).push();
    let said = world.links(&["/etc/real/a", "/etc/alias/a", "/etc/real/new/b"]).refused();
    assert!(said.contains("('/etc/alias/a' and '/etc/real/a' are the same place on the host)"), "{said}");
    let said = world.links(&["/etc/real/a", "/etc/real/new/b", "/etc/real/x/y", "/etc/alias/x/y"]).refused();
    assert!(said.contains("('/etc/alias/x/y' and '/etc/real/x/y' are the same place on the host)"), "{said}");
}

#[test]
fn another_name_of_a_deployed_place_is_refused_before_anything_changes() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    std::fs::create_dir_all(world.at("usr/lib/real")).unwrap();
    symlink("usr/lib", world.at("lib")).unwrap();
    symlink("real", world.at("usr/lib/alias")).unwrap();
    world.links(&["/lib/x", "/usr/lib/real/y"]).push();
    let same =
        |old: &str, new: &str| format!("'{old}' and '{new}' are the same place on the host: keep the first name");
    let said = world.links(&["/usr/lib/x", "/usr/lib/alias/y"]).refused();
    assert!(said.contains(&same("/lib/x", "/usr/lib/x")), "{said}");
    assert!(said.contains(&same("/usr/lib/real/y", "/usr/lib/alias/y")), "{said}");
    world.links(&[]).push();
    world.links(&["/usr/lib/x", "/usr/lib/alias/y"]).push();
    assert_eq!(world.link_of("lib/x").unwrap(), OURS);
    world.remove_everything();
    assert!(!world.at("lib/x").is_symlink() && !world.at("usr/lib/real/y").is_symlink());
}

#[test]
fn a_path_that_another_user_can_change_is_not_followed() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: needs root");
    }
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    std::fs::create_dir_all(world.at("srv/user")).unwrap();
    symlink("/etc", world.at("srv/user/theirs")).unwrap();
    symlink("/etc", world.at("srv/open")).unwrap();
    std::os::unix::fs::lchown(world.at("srv/user/theirs"), Some(1234), None).unwrap();
    std::fs::create_dir(world.at("tmp")).unwrap();
    std::fs::set_permissions(world.at("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    symlink("/etc", world.at("tmp/link")).unwrap();
    for path in ["/srv/user/theirs/a.conf", "/tmp/link/a.conf"] {
        let said = world.links(&[path]).refused();
        let link = path.strip_suffix("/a.conf").unwrap();
        let expected =
            format!("'{path}' can't be reached safely: '{link}' is a symlink that another user than root could change");
        assert!(said.contains(&expected), "{said}");
    }
    world.links(&["/srv/open/a.conf"]).push();
}

#[test]
fn no_symlink_leads_into_the_state_directory() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    world.links(&[]).push();
    symlink("/var/lib/deptool", world.at("etc/detour")).unwrap();
    symlink("lib/deptool/store", world.at("var/detour")).unwrap();
    for path in ["/etc/detour/current", "/etc/detour/x", "/var/detour/HEAD", "/etc/detour/apps/new/x"] {
        let said = world.links(&[path]).refused();
        assert!(said.contains(&format!("'{path}' leads into /var/lib/deptool")), "{said}");
    }
}

#[test]
fn a_loop_of_links_is_refused() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox);
    symlink("loop", world.at("etc/loop")).unwrap();
    let said = world.links(&["/etc/loop/a.conf"]).refused();
    assert!(said.contains("'/etc/loop/a.conf' can't be reached: too many symlinks"), "{said}");
}
