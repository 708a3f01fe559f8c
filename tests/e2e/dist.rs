//! The files that `cargo xtask dist` and `cargo xtask deb` install, with the binaries of the tests, since release
//! builds take minutes.

use std::fs;
use std::path::Path;

use deptool_tests::build::{self, System};
use deptool_tests::deb::{self, Compression};
use deptool_tests::dist::{self, Built};
use deptool_tests::process::{Cmd, find_program};
use deptool_tests::sandbox::{Sandbox, default_git};
use deptool_tests::{is_quick, release, rpm};

/// The binaries of the tests.
fn built() -> Built {
    let agents = build::local().join("lib/deptool/agents");
    let agents = fs::read_dir(agents).unwrap().map(|entry| (entry.unwrap().path(), "linux-x86_64".to_owned()));
    Built { binaries: build::local().join("bin"), agents: agents.collect() }
}

/// The main workflow and the manual, with only the files below `prefix`.
#[track_caller]
fn works(prefix: &Path) {
    release::deploy(prefix);
    if find_program("man").is_some() {
        let sandbox = Sandbox::make(&default_git(), prefix);
        let repo = sandbox.repo("operator");
        let help = repo.command(&["help", "deptool"]).env("MANPATH", prefix.join("share/man")).run().unwrap();
        help.ok().prints("GIT-DEPTOOL(1)");
        repo.command(&["deptool", "init", "--help"]).env("MANPATH", prefix.join("share/man")).run().unwrap().ok();
    }
}

#[test]
fn nothing_but_the_prefix_is_needed() {
    let sandbox = Sandbox::new();
    let prefix = sandbox.dir().join("prefix");
    dist::install(&built(), &prefix, &dist::USUAL).unwrap();
    works(&prefix);
    let files = dist::files(&prefix).unwrap();
    for file in [
        "share/bash-completion/completions/git-deptool",
        "share/fish/vendor_conf.d/git-deptool.fish",
        "share/man/man7/deptool.7",
        "share/zsh/site-functions/_git-deptool",
    ] {
        assert!(files.iter().any(|known| known == Path::new(file)), "{file} is missing: {files:?}");
    }
}

#[test]
fn a_package_is_the_same_each_time_and_runs_from_where_it_is_unpacked() {
    if is_quick() {
        return;
    }
    if find_program("dpkg-deb").is_none() {
        eprintln!("skipped: dpkg-deb is not installed");
        return;
    }
    let sandbox = Sandbox::new();
    let make = |name: &str| {
        let dir = sandbox.dir().join(name);
        deb::package(&built(), &deb::architecture().unwrap(), &dir, &dir.join("out"), Compression::Fast).unwrap()
    };
    let package = make("first");
    assert_eq!(fs::read(&package).unwrap(), fs::read(make("second")).unwrap(), "the same each time");

    let field = |name: &str| Cmd::new("dpkg-deb").arg("-f").arg(&package).arg(name).check().unwrap().line();
    assert_eq!(field("Package"), "git-deptool");
    assert!(field("Depends").starts_with("git (>= 1:2.30), openssh-client, libc6 (>= 2."), "{}", field("Depends"));
    let listed = Cmd::new("dpkg-deb").arg("-c").arg(&package).check().unwrap().stdout();
    for line in listed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[1], "root/root", "{line}");
        assert!(["drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x"].contains(&words[0]), "{line}");
        assert!(words[5].starts_with("./usr") || words[5] == "./", "{line}");
    }

    let root = sandbox.dir().join("root");
    Cmd::new("dpkg-deb").arg("-x").arg(&package).arg(&root).check().unwrap();
    Cmd::new("dpkg-deb").arg("-e").arg(&package).arg(root.join("DEBIAN")).check().unwrap();
    Cmd::new("md5sum").dir(&root).args(["--check", "--quiet", "DEBIAN/md5sums"]).check().unwrap();
    let documents = root.join("usr/share/doc/git-deptool");
    assert!(documents.join("copyright").exists() && documents.join("changelog.gz").exists());
    works(&root.join("usr"));
}

#[test]
fn a_release_is_the_same_each_time_and_each_of_its_packages_deploys_once_it_is_installed() {
    if is_quick() {
        return;
    }
    if !["dpkg-deb", "rpmbuild"].iter().all(|program| find_program(program).is_some()) {
        eprintln!("skipped: dpkg-deb or rpmbuild is not installed");
        return;
    }
    let sandbox = Sandbox::new();
    let make = |name: &str| {
        let out = sandbox.dir().join(name);
        fs::create_dir(&out).unwrap();
        release::package(&built(), System::LinuxX86_64, &out, Compression::Fast).unwrap();
        out
    };
    let (first, second) = (make("first"), make("second"));
    let files = dist::files(&first).unwrap();
    assert_eq!(files.len(), 3, "{files:?}");
    // The content is of this computer, but the packages are made like those for another one.
    release::package(&built(), System::LinuxAarch64, &second, Compression::Fast).unwrap();
    for name in [deb::file_name("arm64"), rpm::file_name("aarch64")] {
        assert!(second.join(&name).exists(), "{name}");
    }
    for file in &files {
        assert!(
            fs::read(first.join(file)).unwrap() == fs::read(second.join(file)).unwrap(),
            "{} differs",
            file.display()
        );
    }
    if rustix::process::geteuid().is_root() {
        release::try_out(&first, System::LinuxX86_64).unwrap();
    } else {
        eprintln!("skipped: only root can install packages into an empty root");
    }
}
