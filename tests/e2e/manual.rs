//! The manual, as `man` shows it, and the website that is made of it.

use deptool_tests::build::workspace;
use deptool_tests::process::find_program;
use deptool_tests::sandbox::Sandbox;
use deptool_tests::site;

#[test]
fn man_shows_the_pages_without_warnings() {
    let sandbox = Sandbox::new();
    if find_program("man").is_none() {
        eprintln!("skipped: man is not installed");
        return;
    }
    let pages = std::fs::read_dir(workspace().join("man")).unwrap().map(|entry| entry.unwrap().path());
    let pages = pages.filter(|page| page.extension().is_some_and(|extension| extension != "json"));
    let mut count = 0;
    for page in pages {
        let man = sandbox.command("man").args(["--warnings", "-E", "UTF-8", "-l"]).arg(&page);
        let shown = man.env("MANWIDTH", "80").run().unwrap().ok();
        assert_eq!(shown.stderr(), "", "{}", page.display());
        assert!(shown.stdout().contains("DESCRIPTION"), "{}", page.display());
        if site::can_build() {
            let lint = sandbox.command("mandoc").args(["-T", "lint", "-W", "warning"]).arg(&page).run().unwrap();
            assert_eq!(lint.stdout() + &lint.stderr(), "", "{}", page.display());
        }
        count += 1;
    }
    assert_eq!(count, 7);
}

#[test]
fn every_link_of_the_site_leads_somewhere() {
    if !site::can_build() {
        eprintln!("skipped: mandoc is not installed");
        return;
    }
    let sandbox = Sandbox::new();
    let dir = sandbox.dir().join("site");
    // This checks the links.
    site::build(&dir).unwrap();
    let index = std::fs::read_to_string(dir.join("index.html")).unwrap();
    for page in ["deptool.7.html", "git-deptool.1.html", "measurements.html", "session.svg"] {
        assert!(index.contains(page) && dir.join(page).is_file(), "{page}\n{index}");
    }
}

#[test]
fn the_files_that_contributing_names_exist() {
    let page = std::fs::read_to_string(workspace().join("CONTRIBUTING.md")).unwrap();
    let roots = ["deptool-agent/", "git-remote-deptool/", "tests/", "fuzz/", "man/", "doc/", ".ci/"];
    let quoted = page.split('`').skip(1).step_by(2);
    let paths: Vec<&str> = quoted.filter(|text| roots.iter().any(|root| text.starts_with(root))).collect();
    assert!(paths.len() > 20, "{paths:?}");
    for path in paths {
        assert!(workspace().join(path).exists(), "CONTRIBUTING.md names '{path}'");
    }
}
