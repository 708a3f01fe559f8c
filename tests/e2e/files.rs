//! Files arrive byte for byte, whatever their names; files that did not change are not touched.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use deptool_tests::is_quick;
use deptool_tests::sandbox::{Repo, Sandbox, gits};

use crate::seen::at_rest;

fn operator(sandbox: &Sandbox) -> Repo<'_> {
    let operator = sandbox.repo("operator");
    operator.write("web1/web/file", "1\n");
    operator.add_root("web1");
    operator
}

fn deployed(sandbox: &Sandbox, path: impl AsRef<std::path::Path>) -> PathBuf {
    sandbox.root("web1").join("var/lib/deptool/current").join(path)
}

#[test]
fn names_of_all_kinds_arrive_unharmed() {
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let operator = operator(&sandbox);
        let names: Vec<&[u8]> = vec![
            b"with space",
            b" leading",
            b"trailing ",
            b"it's \"quoted\"",
            b"back\\slash",
            b"-rf",
            b"--help",
            b"$HOME `id` ;&|<>*?[]{}()!#~",
            "gr\u{fc}\u{df}e \u{1f980}".as_bytes(),
            b"not utf-8 \xff\xfe\xe9",
            b"...",
            b"..x",
            b".hidden",
            b"%s %n",
            b"\xe2\x80\xae bidi",
        ];
        for name in &names {
            let name = OsStr::from_bytes(name);
            operator.write(PathBuf::from("web1/web").join(name), name.as_bytes());
            operator.write(PathBuf::from("web1/web/dir").join(name).join(name), name.as_bytes());
        }
        operator.write("web1/my app \u{fc}/file", "in an app with a space\n");
        let one = operator.commit("One");
        operator.git(&["push", "--dry-run", "web1", "prod"]).ok();
        operator.git(&["push", "web1", "prod"]).ok();
        for name in &names {
            let name = OsStr::from_bytes(name);
            for path in [PathBuf::from("web").join(name), PathBuf::from("web/dir").join(name).join(name)] {
                assert_eq!(std::fs::read(deployed(&sandbox, &path)).unwrap(), name.as_bytes(), "{path:?}");
            }
        }
        at_rest(&sandbox, "web1", Some(&one));
        // They are changed and removed, too.
        operator.remove("web1/web/dir");
        operator.write(PathBuf::from("web1/web").join(OsStr::from_bytes(names[9])), "changed");
        let two = operator.commit("Two");
        operator.git(&["push", "web1", "prod"]).ok();
        at_rest(&sandbox, "web1", Some(&two));
    }
}

#[test]
fn a_link_from_the_system_to_a_file_with_a_strange_name_works() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    operator.write("web1/web/a \"file\" \u{fc}", "content");
    let manifest = r#"{"symlinks": {"/etc/a \"link\" ü": "a \"file\" ü"}}"#;
    operator.write("web1/web/manifest.json", manifest);
    operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!(sandbox.read("web1", "/etc/a \"link\" \u{fc}"), b"content");
}

#[test]
fn contents_and_modes_are_those_of_the_tree() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    let binary: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    operator.write("web1/web/empty", "");
    operator.write("web1/web/binary", &binary);
    operator.write("web1/web/crlf", "a\r\nb\r\n");
    operator.write("web1/web/run", "#!/bin/sh\n");
    operator.write("web1/web/deep/er/file", "deep");
    let run = operator.dir.join("web1/web/run");
    std::fs::set_permissions(run, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink("deep/er/file", operator.dir.join("web1/web/link")).unwrap();
    std::os::unix::fs::symlink("../../file", operator.dir.join("web1/web/deep/er/up")).unwrap();
    std::os::unix::fs::symlink("nowhere", operator.dir.join("web1/web/dangling")).unwrap();
    // None of these attributes applies to deployed files.
    operator.write("web1/web/.gitattributes", "* text eol=crlf\n*.x export-ignore ident\n");
    operator.write("web1/web/id.x", "$Id$\n");
    operator.git(&["config", "core.autocrlf", "false"]).ok();
    let one = operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    let mode = |path: &str| deployed(&sandbox, path).symlink_metadata().unwrap().mode() & 0o7777;
    assert_eq!(std::fs::read(deployed(&sandbox, "web/empty")).unwrap(), b"");
    assert_eq!(std::fs::read(deployed(&sandbox, "web/binary")).unwrap(), binary);
    assert_eq!(std::fs::read(deployed(&sandbox, "web/id.x")).unwrap(), b"$Id$\n");
    for (path, expected) in
        [("web/empty", 0o644), ("web/run", 0o755), ("web/", 0o755), ("web/deep", 0o755), ("web/file", 0o644)]
    {
        assert_eq!(mode(path), expected, "{path}");
    }
    for (link, target) in [("web/link", "deep/er/file"), ("web/deep/er/up", "../../file"), ("web/dangling", "nowhere")]
    {
        assert_eq!(std::fs::read_link(deployed(&sandbox, link)).unwrap(), PathBuf::from(target));
    }
    let id = operator.git(&["hash-object", "--no-filters", deployed(&sandbox, "web/crlf").to_str().unwrap()]).ok();
    assert_eq!(id.line(), operator.id("prod:web1/web/crlf"));
    let _ = one;
}

#[test]
fn a_file_becomes_a_directory_a_link_or_executable_and_back() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    let mut tips = Vec::new();
    operator.write("web1/web/x", "a file");
    tips.push(operator.commit("A file"));
    operator.remove("web1/web/x");
    operator.write("web1/web/x/inner", "a directory");
    tips.push(operator.commit("A directory"));
    operator.remove("web1/web/x");
    std::os::unix::fs::symlink("file", operator.dir.join("web1/web/x")).unwrap();
    tips.push(operator.commit("A link"));
    operator.remove("web1/web/x");
    operator.write("web1/web/x", "a file");
    std::fs::set_permissions(operator.dir.join("web1/web/x"), std::fs::Permissions::from_mode(0o755)).unwrap();
    tips.push(operator.commit("Executable"));
    for tip in tips.iter().chain(tips.iter().rev().skip(1)) {
        operator.git(&["push", "-f", "web1", &format!("{tip}:prod")]).ok();
        at_rest(&sandbox, "web1", Some(tip));
    }
}

#[test]
fn a_file_whose_content_did_not_change_keeps_its_time() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    operator.write("web1/web/same", "same");
    operator.write("web1/other/file", "same");
    operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let meta = |path: &str| deployed(&sandbox, path).metadata().unwrap();
    let (same, inode) = (meta("web/same").modified().unwrap(), meta("other/file").ino());
    operator.write("web1/web/file", "2\n");
    operator.commit("Two");
    operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!(meta("web/same").modified().unwrap(), same);
    assert_eq!(meta("other/file").ino(), inode, "an app that did not change is not written again");
    assert_ne!(meta("web/file").modified().unwrap(), old);
}

#[test]
fn generations_share_nothing() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    operator.write("web1/web/same", "same");
    operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    let first = deployed(&sandbox, "web").canonicalize().unwrap();
    operator.write("web1/web/file", "2\n");
    operator.commit("Two");
    operator.git(&["push", "web1", "prod"]).ok();
    // Editing a file in place affects only that file.
    std::fs::write(deployed(&sandbox, "web/same"), "spoilt").unwrap();
    assert_eq!(std::fs::read(first.join("same")).unwrap(), b"same");
}

/// Damages the checkout of `web` in some way and deploys something else, which says `told`. After a repair all is right.
fn spoil(told: &str, how: &dyn Fn(&std::path::Path)) {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    operator.write("web1/web/dir/inner", "inner");
    operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    how(&deployed(&sandbox, "web").canonicalize().unwrap());
    operator.write("web1/other/file", "something else");
    let two = operator.commit("Two");
    operator.git(&["push", "web1", "prod"]).ok().says(told);
    operator.git(&["push", "-o", "repair", "web1", "prod"]).ok();
    at_rest(&sandbox, "web1", Some(&two));
}

#[test]
fn a_tampered_checkout_is_not_used_again() {
    const REPAIR: &str = "git deptool repair";
    spoil(REPAIR, &|web| std::fs::write(web.join("file"), "x\n").unwrap());
    spoil(REPAIR, &|web| std::fs::remove_file(web.join("file")).unwrap());
    spoil(REPAIR, &|web| std::fs::write(web.join("extra"), "x\n").unwrap());
    spoil(REPAIR, &|web| std::fs::write(web.join("dir/extra"), "x\n").unwrap());
    spoil(REPAIR, &|web| std::fs::set_permissions(web.join("file"), std::fs::Permissions::from_mode(0o600)).unwrap());
    spoil(REPAIR, &|web| {
        // The same size and time.
        let file = web.join("file");
        let time = file.metadata().unwrap().modified().unwrap();
        std::fs::write(&file, "x\n").unwrap();
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    });
    // A new generation can't hold what is not there.
    spoil("is missing: put right", &|web| std::fs::remove_dir_all(web).unwrap());
}

#[test]
fn a_file_of_five_mebibytes_travels_outside_of_the_pack_and_comes_home() {
    if is_quick() {
        return;
    }
    for git in gits() {
        let sandbox = Sandbox::with_git(&git);
        let operator = operator(&sandbox);
        // Data that can't be compressed.
        let mut state = 1_u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let large: Vec<u8> = (0..5 << 20).map(|_| noise()).collect();
        operator.write("web1/web/large", &large);
        operator.write("web1/web/copy", &large);
        let one = operator.commit("One");
        operator.git(&["push", "web1", "prod"]).ok();
        assert!(std::fs::read(deployed(&sandbox, "web/large")).unwrap() == large);
        assert!(std::fs::read(deployed(&sandbox, "web/copy")).unwrap() == large);
        at_rest(&sandbox, "web1", Some(&one));
        let packs = sandbox.root("web1").join("var/lib/deptool/store/objects/pack");
        let size = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().metadata().unwrap().len();
        assert!(std::fs::read_dir(&packs).unwrap().map(size).sum::<u64>() < 100_000);

        // It is not sent again, but reused in each generation.
        operator.write("web1/web/file", "2\n");
        let two = operator.commit("Two");
        operator.git(&["push", "web1", "prod"]).ok();
        at_rest(&sandbox, "web1", Some(&two));
        assert!(std::fs::read(deployed(&sandbox, "web/large")).unwrap() == large);

        // Another operator fetches it.
        let url = format!("deptool::{}", sandbox.root("web1").display());
        sandbox.command("git").args(["clone", "--quiet", &url, "back"]).run().unwrap().ok();
        assert!(std::fs::read(sandbox.dir().join("back/web1/web/large")).unwrap() == large);

        // If the host has damaged it, it is sent again.
        std::fs::write(deployed(&sandbox, "web/large"), "spoilt").unwrap();
        std::fs::write(deployed(&sandbox, "web/copy"), "spoilt").unwrap();
        operator.write("web1/web/file", "3\n");
        let three = operator.commit("Three");
        operator.git(&["push", "web1", "prod"]).ok();
        at_rest(&sandbox, "web1", Some(&three));
        assert!(std::fs::read(deployed(&sandbox, "web/large")).unwrap() == large);
    }
}

#[test]
fn equal_apps_with_a_large_file_both_have_it() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    let large = vec![b'x'; 5 << 20];
    for app in ["one", "two"] {
        operator.write(format!("web1/{app}/large"), &large);
        operator.write(format!("web1/{app}/manifest.json"), r#"{"files": {"large": {"mode": "0600"}}}"#);
    }
    let commit = operator.commit("Equal");
    operator.git(&["push", "web1", "prod"]).ok();
    at_rest(&sandbox, "web1", Some(&commit));
    for app in ["one", "two"] {
        let file = deployed(&sandbox, format!("{app}/large"));
        assert!(std::fs::read(&file).unwrap() == large, "{app}");
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o600);
    }
}

#[test]
fn a_removed_large_file_can_be_gone_back_to() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    let large = vec![b'x'; 5 << 20];
    operator.write("web1/web/large", &large);
    let one = operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    operator.remove("web1/web/large");
    operator.commit("Two");
    operator.git(&["push", "web1", "prod"]).ok();
    operator.git(&["push", "-f", "web1", "prod~1:prod"]).ok();
    at_rest(&sandbox, "web1", Some(&one));
    assert!(std::fs::read(deployed(&sandbox, "web/large")).unwrap() == large);
}

#[test]
fn modes_of_the_manifest_are_set_and_restored() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    operator.write("web1/web/key", "secret");
    operator.write("web1/web/manifest.json", r#"{"files": {"key": {"mode": "0600"}}}"#);
    operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    let mode = || deployed(&sandbox, "web/key").metadata().unwrap().mode() & 0o7777;
    assert_eq!(mode(), 0o600);
    operator.write("web1/web/manifest.json", r#"{"files": {"key": {"mode": "0640"}}}"#);
    operator.commit("Two");
    operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!(mode(), 0o640);
    operator.remove("web1/web/manifest.json");
    operator.commit("Three");
    operator.git(&["push", "web1", "prod"]).ok();
    assert_eq!(mode(), 0o644);
    operator.git(&["push", "-f", "web1", "prod~2:prod"]).ok();
    assert_eq!(mode(), 0o600);
}

#[test]
fn the_same_tree_in_two_apps_is_two_apps() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    operator.write("web1/a/file", "same");
    operator.write("web1/b/file", "same");
    let one = operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    at_rest(&sandbox, "web1", Some(&one));
    operator.remove("web1/a");
    let two = operator.commit("Two");
    operator.git(&["push", "web1", "prod"]).ok();
    at_rest(&sandbox, "web1", Some(&two));
    assert_eq!(sandbox.read("web1", "/var/lib/deptool/apps/b/current/file"), b"same");
    operator.git(&["push", "-f", "web1", "prod~1:prod"]).ok();
    at_rest(&sandbox, "web1", Some(&one));
}

#[test]
fn old_generations_and_checkouts_go() {
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    for n in 0..8 {
        operator.write("web1/web/file", format!("{n}\n"));
        operator.commit("Next");
        operator.git(&["push", "web1", "prod"]).ok();
    }
    let own = sandbox.root("web1").join("var/lib/deptool");
    let count = |dir: &str| std::fs::read_dir(own.join(dir)).unwrap().count();
    assert_eq!((count("generations"), count("trees")), (5, 10));
}

#[test]
fn many_files_and_an_empty_app_directory_are_fine() {
    if is_quick() {
        return;
    }
    let sandbox = Sandbox::new();
    let operator = operator(&sandbox);
    for n in 0..1500 {
        operator.write(format!("web1/many/d{}/f{n}", n % 30), n.to_string());
    }
    let one = operator.commit("One");
    operator.git(&["push", "web1", "prod"]).ok();
    at_rest(&sandbox, "web1", Some(&one));
}
